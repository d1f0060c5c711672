"""What else starts a program in a box: each runs the same static /bin/true on the same root file system, with no network."""
import json
import os
import pathlib
import shutil
import subprocess
import time


class Peer:
    def __init__(self, name, argv, batch):
        self.name, self.argv, self.batch = name, [str(a) for a in argv], batch


def works(argv):
    try:
        return subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def bundle(base, root, runtime):
    """An OCI bundle as the runtime's own `spec` makes it, for /bin/true."""
    d = base / f"bundle-{runtime}"
    d.mkdir()
    subprocess.run([runtime, "spec"], cwd=d, check=True, capture_output=True)
    config = json.loads((d / "config.json").read_text())
    config["process"]["args"] = ["/bin/true"]
    config["process"]["terminal"] = False
    config["root"] = {"path": str(root), "readonly": True}
    (d / "config.json").write_text(json.dumps(config))
    return d


class Docker:
    """A dockerd of our own: nothing of the machine's is used or changed."""

    def __init__(self, base):
        self.base = base
        self.process = None

    def command(self, *args):
        return ["docker", "-H", f"unix://{self.base}/docker.sock", *args]

    def start(self, tar):
        if shutil.which("dockerd") is None or shutil.which("docker") is None:
            return None
        self.base.mkdir()
        log = open(self.base / "log", "wb")
        self.process = subprocess.Popen(
            ["dockerd", "--data-root", self.base / "data", "--exec-root", self.base / "exec", "-H", f"unix://{self.base}/docker.sock",
             "--pidfile", self.base / "pid", "--bridge=none", "--iptables=false", "--ip6tables=false"], stdin=subprocess.DEVNULL, stdout=log,
            stderr=log)
        log.close()
        until = time.monotonic() + 40
        while not works(self.command("version")):
            if self.process.poll() is not None or time.monotonic() > until:
                return None
            time.sleep(0.2)
        if not works(self.command("import", tar, "bench:latest")):
            return None
        argv = [shutil.which("docker"), *self.command("run", "--rm", "--network=none", "bench:latest", "/bin/true")[1:]]
        return Peer("docker run", argv, 1) if works(argv) else None

    def stop(self):
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


CGROUPS = ("docker", "libpod_parent", "machine.slice")  # what peers make beside their containers, and leave


def cgroups():
    tops = [pathlib.Path("/sys/fs/cgroup"), *(d for d in pathlib.Path("/sys/fs/cgroup").iterdir() if d.is_dir())]
    return {top / name for top in tops for name in CGROUPS if (top / name).is_dir()}


def clean(base, before):
    """Removes what the peers leave behind: a mount of podman's on its own directory, and empty control groups."""
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{base}/"):
            subprocess.run(["umount", "-l", place], check=False)
    for top in cgroups() - before:
        for d in sorted((pathlib.Path(p) for p, _, _ in os.walk(top)), reverse=True):
            try:
                d.rmdir()
            except OSError:
                pass  # in use: it is not ours


def find(base, root, tar, short):
    """The peers that work here, and a function that ends what was started."""
    base.mkdir()
    before = cgroups()
    peers, docker = [], Docker(base / "docker")
    bwrap = shutil.which("bwrap")
    if bwrap:
        peers.append(Peer("bwrap", [bwrap, "--unshare-all", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"], 5))
    if not short:
        for runtime in ("crun", "runc"):
            if shutil.which(runtime):
                peers.append(Peer(f"{runtime} run", [shutil.which(runtime), "--root", base / f"{runtime}-state", "run", "--bundle",
                                                     bundle(base, root, runtime), f"bench-{base.parent.name}"], 2))
        if shutil.which("podman"):
            peers.append(Peer("podman run", [shutil.which("podman"), "--root", base / "podman", "--runroot", base / "podman-run", "--cgroup-manager",
                                             "cgroupfs", "run", "--rm", "--network=none", "--rootfs", root, "/bin/true"], 1))
        peers = [p for p in peers if works(p.argv)]
        d = docker.start(tar)
        if d is not None:
            peers.append(d)

    def stop():
        docker.stop()
        clean(base, before)

    return peers, stop
