"""What a daemon owns on this machine, and what of the host a sandbox must never change.

A Picture is taken before and after something hostile. Everything in it belongs to one daemon (found by its run directory's tag, its
process tree or its base directory) or to the host as a whole; other daemons on the machine do not disturb it.
"""
import collections
import os
import pathlib
import re
import time

PROC = pathlib.Path("/proc")
SYSCTLS = ["kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/hostname", "kernel/sysrq", "kernel/randomize_va_space",
           "kernel/panic", "kernel/perf_event_paranoid", "kernel/unprivileged_bpf_disabled", "fs/suid_dumpable", "vm/overcommit_memory",
           "vm/drop_caches", "net/ipv4/conf/all/route_localnet", "kernel/dmesg_restrict", "fs/binfmt_misc/status"]


def tag_of(run_dir):
    """The name silicad derives from its run directory: FNV-1a of the real path."""
    h = 2166136261
    for byte in os.path.realpath(run_dir).encode():
        h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
    return f"{h:08x}"


def read(path, default=None):
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return default


def stat_fields(pid):
    """The fields of /proc/PID/stat behind the name: [state, ppid, ...]; None when there is no such process."""
    text = read(f"/proc/{pid}/stat")
    return text[text.rindex(")") + 2 :].split() if text else None


def start_of(pid):
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def descendants(pid):
    """Every live process below PID, zombies aside."""
    children = {}
    for p in PROC.iterdir():
        if p.name.isdigit():
            fields = stat_fields(p.name)
            if fields and fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(p.name))
    found, queue = [], [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def comm(pid):
    return (read(f"/proc/{pid}/comm") or "").strip()


def fds(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return -1


def fd_targets(pid):
    out = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            out.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            pass
    return sorted(out)


POOLED = ("net", "path")


def kinds_of_fds(pid):
    """How many descriptors of each kind PID holds. Not counted: network namespaces and directories, of which the spawner's pools hold
    some, and take in the next ones when it suits them (see `pooled_fds`)."""
    kinds = collections.Counter("path" if t.startswith("/") and not t.startswith("/memfd") else t.split(":")[0] for t in fd_targets(pid))
    return {k: n for k, n in sorted(kinds.items()) if k not in POOLED}


def pooled_fds(pid):
    return len([t for t in fd_targets(pid) if t.startswith(("net:", "/")) and not t.startswith("/memfd")])


def memory_kib(pid, field="RssAnon"):
    m = re.search(rf"^{field}:\s+(\d+) kB", read(f"/proc/{pid}/status") or "", re.M)
    return int(m.group(1)) if m else 0


def cgroups(tag):
    """Every directory below silica-TAG in every hierarchy. Ours stand at the root of each or in a service's own place."""
    found = []
    for path, dirs, _ in os.walk("/sys/fs/cgroup"):  # what vanishes meanwhile is passed over
        if f"silica-{tag}" in path:
            found.append(path)
        elif pathlib.Path(path).name.startswith("silica-"):
            dirs.clear()
    return sorted(found)


def cgroup_procs(tag, box):
    """Pids in the v2 cgroup of BOX, its children included."""
    pids = set()
    for path in cgroups(tag):
        if box in path and os.path.exists(os.path.join(path, "cgroup.events")):
            pids |= {int(p) for p in (read(os.path.join(path, "cgroup.procs")) or "").split()}
    return sorted(pids)


def loops(base):
    found = []
    for p in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        text = read(p) or ""
        if str(base) in text:
            found.append(text.strip())
    return sorted(found)


def links(tag):
    text = read("/proc/net/dev") or ""
    return sorted(re.findall(rf"^\s*(sil{tag[:3]}[^:\s]*):", text, re.M))


def namespaces(pids, kind):
    found = set()
    for pid in pids:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:
            pass
    return found


class Picture(dict):
    """A dict of comparable facts; `differences` says in words what changed."""

    def differences(self, other):
        out = []
        for key in sorted(set(self) | set(other)):
            a, b = self.get(key), other.get(key)
            if a == b:
                continue
            if isinstance(a, list) and isinstance(b, list):
                out.append(f"{key}: gone {sorted(set(a) - set(b))[:8]}, new {sorted(set(b) - set(a))[:8]}")
            else:
                out.append(f"{key}: {a!r} -> {b!r}")
        return out


class Host:
    """The canary of one daemon. FILES: paths outside every sandbox whose content and metadata must not change."""

    def __init__(self, daemon, files=()):
        self.daemon = daemon
        self.tag = tag_of(daemon.base / "run")
        self.files = [pathlib.Path(f) for f in files]

    def take(self):
        spawner = self.daemon.process.pid
        server = self.daemon.server_pid()
        p = Picture()
        p["spawner"] = (spawner, start_of(spawner))
        p["silicad"] = (server, start_of(server))
        p["fds of the spawner"] = kinds_of_fds(spawner)
        p["fds of silicad"] = kinds_of_fds(server)
        p["processes"] = sorted(f"{pid} {comm(pid)}" for pid in descendants(spawner))
        mounts = read(f"/proc/{spawner}/mountinfo") or ""
        p["mounts of the spawner"] = len(mounts.splitlines())
        p["mounts of the host"] = sorted(line for line in read("/proc/self/mountinfo").splitlines() if str(self.daemon.base) in line)
        p["cgroups"] = cgroups(self.tag)
        p["loop devices"] = len(loops(self.daemon.base))
        p["network devices"] = len(links(self.tag))
        for name in SYSCTLS:
            p[f"sysctl {name}"] = read(f"/proc/sys/{name}")
        p["hostname"] = os.uname().nodename
        for f in self.files:
            st = f.lstat()
            p[f"file {f}"] = (f.read_bytes() if f.is_file() else None, st.st_mode, st.st_uid, st.st_gid, st.st_ino)
        return p

    def settled(self, patience=15.0, quiet=0.4):
        """A picture once nothing has changed for QUIET seconds: pools are full, the dead are buried."""
        deadline = time.monotonic() + patience
        picture, since = self.take(), time.monotonic()
        while time.monotonic() - since < quiet:
            if time.monotonic() > deadline:
                raise AssertionError(f"the daemon does not come to rest; last change: {last}")
            time.sleep(0.05)
            now = self.take()
            if now != picture:
                last = picture.differences(now)
                picture, since = now, time.monotonic()
        return picture

    def assert_same(self, before, patience=10.0):
        """What is there now is what was there BEFORE; the kernel is given PATIENCE to take namespaces and loop devices apart."""
        deadline = time.monotonic() + patience
        while True:
            differences = before.differences(self.take())
            if not differences:
                return
            if time.monotonic() > deadline:
                raise AssertionError("the host is not as it was:\n  " + "\n  ".join(differences))
            time.sleep(0.1)
