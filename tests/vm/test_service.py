"""Silica as Debian's systemd runs it: installed, from its units, on a state directory with project quotas. Only in the virtual machine.

The cases build on each other: one service, one sandbox that lives through all that happens to the service."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "tests"))
import traces  # noqa: E402

CGROUPS = pathlib.Path("/sys/fs/cgroup")
SANDBOXES = CGROUPS / "silica.slice/silica-sandboxes.service"
STATE = pathlib.Path("/var/lib/silica")
IMAGE = "busybox"
PATIENCE_S = 60  # emulation: what takes 20 ms elsewhere may take half a second here

if not os.environ.get("SILICA_VM"):
    pytest.skip("starts and stops system services: only in the machine of tests/vm/run", allow_module_level=True)


def sh(*argv, check=True, timeout=120):
    p = subprocess.run([str(a) for a in argv], text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if check and p.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))}: exit {p.returncode}\n{p.stdout}{p.stderr}\n{journal()}")
    return p.stdout.strip() if check else p


def journal():
    return subprocess.run(["journalctl", "--no-pager", "-n", "40", "-u", "silica", "-u", "silica-sandboxes"], text=True,
                          capture_output=True).stdout


def systemctl(verb, *more):
    return sh("systemctl", verb, "silica.service", *more)


def prop(name, unit="silica.service"):
    return sh("systemctl", "show", "-P", name, unit)


def silica(*argv, **kwargs):
    return sh("/usr/local/bin/silica", *argv, **kwargs)


def eventually(what):
    end = time.monotonic() + PATIENCE_S
    while True:
        value = what()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.1)


def cgroup_of(box):
    return next(SANDBOXES.glob(f"silica-*/{box}"))


def words(path):
    return path.read_text().strip()


@pytest.fixture(scope="module")
def before():
    return traces.take()


@pytest.fixture(scope="module")
def service(before):
    """Installed and started; removed again at the end."""
    installed = TOP / "installed/usr/local"
    files = [p.relative_to(installed) for p in installed.rglob("*") if not p.is_dir()]
    for f in files:
        (pathlib.Path("/usr/local") / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(installed / f, pathlib.Path("/usr/local") / f)
    sh("systemctl", "daemon-reload")
    systemctl("start")
    tar = TOP / "images/busybox.tar"
    silica("image", "import", IMAGE, tar, "--config", tar.with_suffix(".json"))
    yield
    sh("systemctl", "stop", "silica.service", "silica.slice", check=False)
    for f in files:
        (pathlib.Path("/usr/local") / f).unlink()
    sh("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def box(service):
    """A sandbox that counts."""
    return silica("run", "-d", "--memory", "64M", "--cpu", "0.5", IMAGE, "sh", "-c",
                  "n=0; while :; do n=$((n+1)); echo $n >/count; sleep 0.2; done")


@pytest.fixture(scope="module")
def counter(box):
    """counter(): asserts that the sandbox's main process is the one it was and still at work."""
    def pid():
        return silica("exec", box, "sh", "-c", "cat /proc/[0-9]*/stat | grep '(sh)' | sort -n -k22 | head -1 | cut -d' ' -f1,22")

    def count():
        return int(silica("exec", box, "cat", "/count") or 0)

    eventually(lambda: silica("exec", box, "sh", "-c", "test -s /count && echo yes || true"))
    first, last = pid(), [0]

    def look():
        assert pid() == first
        assert eventually(lambda: count() > last[0])
        last[0] = count()

    return look


def test_it_is_ready_when_systemctl_returns(service):
    assert prop("ActiveState") == "active" and prop("SubState") == "running"
    assert prop("ActiveState", "silica-sandboxes.service") == "active"
    assert words(pathlib.Path(f"/proc/{prop('MainPID')}/comm")) == "silica-spawner"
    assert re.search(r"READY http://127\.0\.0\.1:7878", journal())


def test_a_sandbox_has_its_limits_in_the_delegated_cgroup(box, counter):
    counter()
    cg = cgroup_of(box)
    assert words(cg / "memory.max") == "64000000"
    assert words(cg / "cpu.max") == "50000 100000"
    assert words(cg / "pids.max").isdigit()
    assert words(cg / "cgroup.events").splitlines()[0] == "populated 1"
    # Nothing of a sandbox is in the service's own group, which a restart empties.
    assert not [d for d in (CGROUPS / "silica.slice/silica.service").iterdir() if d.is_dir()]


def test_the_disk_is_a_project_quota(box):
    assert [p for p in (STATE / "boxes").iterdir() if p.name.startswith("q-")]
    assert silica("exec", box, "sh", "-c", "dd if=/dev/zero of=/file bs=1M count=8 2>/dev/null && wc -c </file && rm /file") == str(8 << 20)


def test_out_of_memory_is_one_sandboxs_affair(service, counter):
    other = silica("run", "-d", "--memory", "32M", IMAGE, "sleep", "1000")
    p = silica("exec", other, "sh", "-c", "x=x; while :; do x=$x$x; done", check=False)
    assert p.returncode == 137, (p.returncode, p.stdout, p.stderr)
    assert int(re.search(r"oom_kill (\d+)", words(cgroup_of(other) / "memory.events")).group(1)) > 0
    assert silica("exec", other, "echo", "well") == "well"
    silica("rm", "-f", other)
    assert prop("ActiveState", "silica-sandboxes.service") == "active"
    counter()


def test_a_fork_bomb_ends_at_its_limit(service, counter):
    other = silica("run", "-d", "--memory", "512M", IMAGE, "sh", "-c", "f() { f | f & f; }; f; sleep 1000")
    cg = cgroup_of(other)
    limit = int(words(cg / "pids.max"))
    time.sleep(3)  # of bombing
    assert int(words(cg / "pids.current")) <= limit
    silica("rm", "-f", other, timeout=300)
    assert eventually(lambda: not cg.exists())
    counter()


def test_a_restart_keeps_the_sandbox(box, counter):
    counter()
    pid, invocation = prop("MainPID"), prop("InvocationID", "silica-sandboxes.service")
    systemctl("restart")
    assert prop("MainPID") != pid
    assert prop("InvocationID", "silica-sandboxes.service") == invocation
    counter()


def test_a_reload_is_an_upgrade_in_place(box, counter):
    pid = prop("MainPID")
    server = words(pathlib.Path("/run/silica/server"))
    systemctl("reload")
    assert eventually(lambda: pathlib.Path("/run/silica/server").exists() and words(pathlib.Path("/run/silica/server")) != server)
    assert eventually(lambda: silica("version", check=False).returncode == 0)
    assert prop("MainPID") == pid and prop("ActiveState") == "active"
    assert eventually(lambda: silica("exec", box, "true", check=False).returncode == 0)
    counter()


def test_a_killed_service_comes_back_to_its_sandbox(box, counter):
    pid = prop("MainPID")
    sh("kill", "-KILL", pid)
    assert eventually(lambda: prop("ActiveState") == "active" and prop("MainPID") not in ("0", pid))
    assert prop("NRestarts") == "1"
    counter()


def test_a_stop_leaves_nothing(box, before):
    systemctl("stop")
    assert prop("ActiveState") == "inactive" and prop("Result") == "success"
    assert eventually(lambda: prop("ActiveState", "silica-sandboxes.service") == "inactive")
    assert not SANDBOXES.exists()
    sh("systemctl", "stop", "silica.slice")  # systemd keeps a slice that is empty
    assert traces.left(before, PATIENCE_S) == []
    assert eventually(lambda: not [p for p in (STATE / "boxes").iterdir() if p.name.startswith("q-")])


def test_the_records_say_how_it_ended(box):
    systemctl("start")
    states = [b for b in json.loads(silica("--json", "ps", "-a")) if b["id"] == box]
    assert states and states[0]["state"] == "terminated", states
    systemctl("stop")
