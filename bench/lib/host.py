"""The machine that measures."""
import os
import pathlib
import platform


def read(path, default=""):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return default


def load():
    return " ".join(read("/proc/loadavg").split()[:2])


def pressure():
    """Percent of the last ten seconds in which somebody waited for a CPU."""
    for word in read("/proc/pressure/cpu").split():
        if word.startswith("avg10="):
            return word[6:] + " %"
    return "unknown"


def about():
    model = [line.split(":", 1)[1].strip() for line in read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {"kernel": f"Linux {platform.release()}", "cpus": os.cpu_count(), "cpu": model[0] if model else platform.machine(), "load": load(),
            "pressure": pressure()}


def raise_priority():
    """Everything that is measured, peers included, goes before other work on the machine."""
    os.setpriority(os.PRIO_PROCESS, 0, -19)
    favour_session("self")  # a session would else be one among many, whatever its nice value


def favour_session(pid):
    try:
        pathlib.Path(f"/proc/{pid}/autogroup").write_text("-19")
    except OSError:
        pass


def favour_cgroups(name):
    """The same for processes in control groups named NAME: there a nice value counts only among neighbours."""
    for top, file, value in (("/sys/fs/cgroup/cpu", "cpu.shares", "262144"), ("/sys/fs/cgroup/cpu,cpuacct", "cpu.shares", "262144"),
                             ("/sys/fs/cgroup", "cpu.weight", "10000")):
        path = pathlib.Path(top) / name / file
        try:
            if path.exists():
                path.write_text(value)
        except OSError:
            pass


def meminfo():
    return {line.split(":")[0]: int(line.split()[1]) for line in read("/proc/meminfo").splitlines()}


def status(pid, field):
    for line in read(f"/proc/{pid}/status").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def pss(pid):
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def children(pid):
    return [int(c) for c in read(f"/proc/{pid}/task/{pid}/children").split()]


def tree(pid):
    found = [pid]
    for c in children(pid):
        found += tree(c)
    return found


def wakeups(pid):
    """How often PID's threads have gone to sleep: each wait that ended counts once."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for line in read(task / "status").splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total
