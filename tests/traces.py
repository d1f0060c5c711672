"""What a run could leave behind on the machine, before and after."""
import os
import pathlib
import re
import subprocess
import time


def _processes():
    found = {}
    for p in pathlib.Path("/proc").iterdir():
        if not p.name.isdigit():
            continue
        try:
            name = (p / "comm").read_text().strip()
        except OSError:
            continue
        if name.startswith("silica"):
            found[f"process {p.name} ({name})"] = True
    return set(found)


def _mounts():
    text = pathlib.Path("/proc/self/mountinfo").read_text()
    return {f"mount {line.split()[4]}" for line in text.splitlines() if "silica" in line}


def _cgroups():
    found = set()
    for root, dirs, _ in os.walk("/sys/fs/cgroup"):
        for d in list(dirs):
            if d.startswith("silica"):
                found.add(f"cgroup {os.path.join(root, d)}")
                dirs.remove(d)
    return found


def _loops():
    found = set()
    for p in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.add(f"loop device {p.parent.parent.name} ({p.read_text().strip()})")
        except OSError:
            pass
    return found


def _links():
    text = pathlib.Path("/proc/net/dev").read_text()
    return {f"network device {n}" for n in re.findall(r"^\s*([^:\s]+):", text, re.M) if n.startswith(("sil", "veth"))}


def _names():
    try:
        return {f"network namespace {n}" for n in os.listdir("/run/netns") if n.startswith("silica")}
    except OSError:
        return set()


def _tables():
    p = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    return {f"firewall {line.strip()}" for line in p.stdout.splitlines() if "silica_" in line}


def _files():
    locks = ("silica-slots", "silica-nat")  # of all daemons of the host; they stay
    return {f"file {p}" for base in ("/tmp", "/var/tmp", "/run", "/dev/shm") for p in pathlib.Path(base).glob("silica-*") if p.name not in locks}


def take():
    """A set of sentences, one for each thing of ours (or of any kind we make) that exists now."""
    return _processes() | _mounts() | _cgroups() | _loops() | _links() | _names() | _tables() | _files()


def left(before, patience=5.0):
    """What is there now and was not BEFORE. The kernel dismantles namespaces and loop devices a little later: wait for the end of
    that, at most PATIENCE seconds."""
    deadline = time.monotonic() + patience
    while True:
        now = sorted(take() - before)
        if not now or time.monotonic() > deadline:
            return now
        time.sleep(0.1)
