"""The spawner against a silica-server and an init of the tests' own: lives, deaths and re-adoption of sandboxes.

Needs root, a C compiler, musl-gcc and busybox-static. SILICA_BUILD names the build folder (default: build).
"""

import fcntl
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SILICA_BUILD", ROOT / "build")).resolve()
HERE = ROOT / "tests/system/spawner"
MUST = os.environ.get("TESTS_MUST_RUN") == "1"
PATIENCE = float(os.environ.get("SILICA_PATIENCE", "1"))  # more on machines that are emulated
STORE_BASE = 1000000000 - 65536
DAEMON_UID = STORE_BASE - 1
DIGEST = "a" * 64
NS_GET_OWNER_UID = 0xB704
OTHER_UID = 65534


def missing():
    if os.geteuid() != 0:
        return "needs root"
    if not (BUILD / "silicad").exists():
        return f"there is no {BUILD}/silicad"
    for program in ("cc", "musl-gcc", "busybox"):
        if shutil.which(program) is None:
            return f"needs {program}"
    return None


if missing() and not MUST:
    pytestmark = pytest.mark.skip(reason=missing())


def wait_for(what, seconds=8.0):
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="session")
def fakes(tmp_path_factory):
    out = tmp_path_factory.mktemp("fakes")
    server = [HERE / "fake-server.c", ROOT / "src/wire/wire.c", ROOT / "src/wire/sizes.c"]
    subprocess.run(["cc", "-D_GNU_SOURCE", "-O1", f"-I{ROOT}/src", "-o", out / "server", *server], check=True)
    subprocess.run(["musl-gcc", "-static", "-O1", "-o", out / "init", HERE / "fake-init.c"], check=True)
    subprocess.run(["musl-gcc", "-static", "-O1", "-x", "c", "-o", out / "dies", "-"], input=b"int main(void){return 3;}",
                   check=True)
    subprocess.run(["musl-gcc", "-static", "-O1", "-x", "c", "-o", out / "sleeps", "-"], check=True,
                   input=b"#include <unistd.h>\nint main(void){for(;;)pause();}")
    (out / "text").write_text("no program")
    (out / "text").chmod(0o755)
    return out


def make_layer(layers, digest):
    top = layers / digest
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "root"):
        (top / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), top / "bin/busybox")
    (top / "bin/sh").symlink_to("busybox")
    for path in [top, *top.rglob("*")]:
        os.lchown(path, STORE_BASE, STORE_BASE)
    os.chmod(top / "tmp", 0o1777)


class Daemon:
    def __init__(self, base, fakes):
        self.state, self.run = base / "state", base / "run"
        self.fakes = fakes
        self.port = None
        self.process = None
        self.log = base / "log"
        (self.state / "layers").mkdir(parents=True)
        os.chmod(self.state / "layers", 0o700)
        os.chown(self.state / "layers", STORE_BASE, STORE_BASE)
        make_layer(self.state / "layers", DIGEST)

    def command(self, *more, server="server", init="init", imager=None):
        port = self.port or 0
        return [BUILD / "silicad", "--state-dir", self.state, "--run-dir", self.run, "--server", self.fakes / server,
                "--init", self.fakes / init, "--imager", self.fakes / imager if imager else shutil.which("busybox"), "--log-level", "debug",
                f"--listen=127.0.0.1:{port}", *more]

    def start(self, *more, **kw):
        with open(self.log, "ab") as log:
            offset = log.tell()
            self.process = subprocess.Popen(self.command(*more, **kw), stderr=log, stdin=subprocess.DEVNULL)

        def ready():
            text = self.log.read_bytes()[offset:].decode()
            if self.process.poll() is not None:
                raise AssertionError(f"silicad ended: {text}")
            line = next((x for x in text.splitlines() if x.startswith("READY ")), None)
            return line

        self.port = int(wait_for(ready).split()[1].rsplit(":", 1)[1])
        return Server(self)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def tag(self):
        h = 2166136261
        for byte in os.path.realpath(self.run).encode():
            h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
        return f"{h:08x}"

    def cgroups(self):
        found = subprocess.run(["find", "/sys/fs/cgroup", "-type", "d", "-path", f"*silica-{self.tag()}*"],
                               capture_output=True, text=True, check=False)
        return found.stdout.split()

    def left_over(self):
        left = self.cgroups()
        left += [str(p) for p in self.run.rglob("*")] if self.run.exists() else []
        left += [x for x in subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout.splitlines()
                 if str(self.state) in x]
        left += [x for x in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
                 if self.tag() in x]
        left += [str(p) for p in (self.state / "layers").iterdir() if p.name.startswith((".tmp", ".del"))]
        left += [line for line in pathlib.Path("/proc/self/mounts").read_text().splitlines() if str(self.run) in line]
        return left


class Server:
    """The line protocol of fake-server; every connection is told all events from the first one on."""

    def __init__(self, daemon):
        self.socket = socket.create_connection(("127.0.0.1", daemon.port), timeout=10)
        self.text = ""
        self.token = 100
        self.used = set()

    def send(self, line):
        self.socket.sendall(line.encode() + b"\n")

    def lines(self):
        self.socket.settimeout(0.05)
        try:
            while True:
                data = self.socket.recv(1 << 16).decode(errors="replace")
                if not data:
                    break
                self.text += data
        except (TimeoutError, ConnectionError):
            pass
        return self.text.split("\n")[:-1]

    def event(self, *starts, seconds=8.0):
        def look():
            for n, line in enumerate(self.lines()):
                if n not in self.used and all(s in f" {line} " for s in starts):
                    self.used.add(n)
                    return line
            return None

        try:
            line = wait_for(look, seconds)
        except AssertionError:
            raise AssertionError(f"no event {starts} in:\n{self.text}") from None
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        fields["line"] = line
        return fields

    def ask(self, line):
        """LINE has a {t} for the token; the answer of that token."""
        self.token += 1
        self.send(line.format(t=self.token))
        return self.event(f" token={self.token} ")

    def create(self, box, layers=DIGEST, **options):
        words = " ".join(f"{k}={v}" for k, v in options.items())
        return self.ask(f"create {{t}} {box} {layers} {words}")

    def say(self, box, word):
        self.send(f"say {box} {word}")
        return self.event(f"SAID id={box} ")["line"].split(" ", 2)[2]

    def end(self, box):
        assert self.ask(f"kill {{t}} {box}")["line"].startswith("DONE")
        gone = self.event(f"GONE id={box} ")
        assert self.ask(f"forget {{t}} {box}")["line"].startswith("DONE")
        return gone


@pytest.fixture
def daemon(fakes):
    base = pathlib.Path(tempfile.mkdtemp(prefix="silica-test-", dir="/tmp"))
    base.chmod(0o755)
    d = Daemon(base, fakes)
    yield d
    try:
        if d.process is not None and d.process.poll() is None:
            try:
                d.terminate()
            except subprocess.TimeoutExpired:
                d.kill()
        if d.cgroups():  # a test that killed the spawner: let the next one clean up
            d.start()
            d.terminate()
        left = d.left_over()
    finally:
        print(d.log.read_text() if d.log.exists() else "", file=sys.stderr)
        shutil.rmtree(base)
    assert left == []


def refusal(daemon, *more, **kw):
    p = subprocess.run(daemon.command(*more, **kw), capture_output=True, text=True, timeout=20, check=False)
    return p.returncode, p.stderr


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_user_other_than_root_is_told_why(daemon):
    p = subprocess.run(["setpriv", "--reuid", str(OTHER_UID), "--clear-groups", *daemon.command()], capture_output=True,
                       text=True, check=False)
    assert p.returncode == 1
    assert "must be started as root" in p.stderr


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_an_address_that_others_can_reach_is_refused(daemon, address):
    code, text = refusal(daemon, f"--listen={address}")
    assert code == 1
    assert "--insecure-listen" in text
    daemon.start(f"--listen={address}", "--insecure-listen")
    assert "whoever reaches the port can run programs here" in daemon.log.read_text()


def test_a_second_daemon_on_the_same_directories_is_refused(daemon, tmp_path):
    daemon.start()
    daemon.port = 0
    code, text = refusal(daemon)
    assert code == 1
    assert f"another silicad (process {daemon.process.pid}) uses the run directory" in text
    code, text = refusal(daemon, "--run-dir", tmp_path / "other")
    assert code == 1
    assert f"another silicad (process {daemon.process.pid}) uses the state directory" in text


def test_an_unknown_option_ends_with_2(daemon):
    code, text = refusal(daemon, "--tls-cert", "/x")
    assert code == 2
    assert "no support" in text


def test_a_port_in_use_is_named(daemon):
    with socket.create_server(("127.0.0.1", 0)) as s:
        daemon.port = s.getsockname()[1]
        code, text = refusal(daemon)
        assert code == 1
        assert f"bind 127.0.0.1:{daemon.port}: Address already in use" in text


def test_a_server_that_never_comes_up_ends_the_daemon(daemon):
    begin = time.monotonic()
    code, text = refusal(daemon, server="dies")
    assert code == 1
    assert "does not come up" in text
    assert time.monotonic() - begin < 10


# ---- silica-server --------------------------------------------------------------------------------------------------


def test_the_server_has_no_privileges(daemon):
    s = daemon.start()
    line = s.event("START")["line"]
    assert f"uid={DAEMON_UID} gid={DAEMON_UID} nnp=1 ngroups=0" in line
    pid = int((daemon.run / "server").read_text().split()[0])
    status = dict(x.split(":\t", 1) for x in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in x)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["Uid"].split() == [str(DAEMON_UID)] * 4
    assert not pathlib.Path(f"/proc/{pid}/fd/10").exists()  # SP_FD, the listener, the connection; nothing of ours
    soft = [x for x in pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines() if x.startswith("Max open files")][0].split()
    assert soft[3] == soft[4]


def test_directories_belong_to_whom_they_should(daemon):
    daemon.start()
    def facts(path):
        st = path.stat()
        return (st.st_uid, st.st_mode & 0o7777)
    assert facts(daemon.state) == (0, 0o711)
    assert facts(daemon.state / "db") == (DAEMON_UID, 0o700)
    assert facts(daemon.state / "logs") == (DAEMON_UID, 0o700)
    assert facts(daemon.state / "layers") == (STORE_BASE, 0o700)
    assert facts(daemon.run) == (0, 0o700)


def test_garbage_from_the_server_restarts_it_and_keeps_the_sandboxes(daemon):
    s = daemon.start()
    s.create("box-1")
    s.send("raw deadbeef")
    wait_for(lambda: "not to be trusted" in daemon.log.read_text())
    wait_for(lambda: "epoch 2" in daemon.log.read_text())
    s = Server(daemon)
    assert s.event("HELLO")["epoch"] == "2"
    assert s.event("ADOPT id=box-1 ")["fds"] == "1"
    assert s.say("box-1", "ping") == "pong"
    s.end("box-1")


def test_a_server_that_dies_again_and_again_is_started_with_pauses(daemon):
    s = daemon.start()
    s.create("box-1")
    for n in range(2, 8):
        s.send("exit 1")
        wait_for(lambda n=n: f"epoch {n}\"" in daemon.log.read_text())
        s = Server(daemon)
        s.event("HELLO")
    assert "after a pause" in daemon.log.read_text()
    assert s.say("box-1", "ping") == "pong"


# ---- sandboxes ------------------------------------------------------------------------------------------------------


def test_a_sandbox_is_made_and_leaves_nothing(daemon):
    s = daemon.start()
    made = s.create("box-1", memory=64 << 20, pids=20)
    assert made["line"].startswith("CREATED") and made["fds"] == "1"
    pid, base = int(made["pid"]), int(made["uid_base"])
    assert s.say("box-1", "ping") == "pong"
    ids = s.say("box-1", "ids")
    assert "uid=0 gid=0 pid=1 fds=7 " in ids
    assert "0::/|" in ids
    if os.path.isdir("/sys/fs/cgroup/memory"):  # a hierarchy of v1
        assert "memory:/|" in ids

    # Its own counters: the namespace belongs to its own uid, not to root's.
    with open(f"/proc/{pid}/ns/user", "rb") as ns:
        owner = struct.unpack("I", fcntl.ioctl(ns, NS_GET_OWNER_UID, b"\0" * 4))[0]
    assert owner == base
    assert pathlib.Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(base), "65536"]
    assert pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"
    for name in ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name

    stats = s.ask("stat {t} box-1")
    assert stats["max"] == str(64 << 20) and stats["pids"] == "1"
    assert int(stats["disk_max"]) > 1 << 30
    gone = s.end("box-1")
    assert gone["status"] == "9"
    assert not alive(pid)
    assert s.ask("stat {t} box-1")["kind"] == "3"
    assert daemon.terminate() == 0
    assert daemon.left_over() == []


def test_the_exit_of_init_is_the_end_with_its_status(daemon):
    s = daemon.start()
    pid = int(s.create("box-1")["pid"])
    s.say("box-1", "fork")
    s.send("say box-1 die:7")
    assert s.event("GONE id=box-1 ")["status"] == str(7 << 8)
    assert not alive(pid)


def test_processes_that_ignore_signals_die_too(daemon):
    s = daemon.start()
    s.create("box-1")
    for _ in range(20):
        assert s.say("box-1", "fork") == "forked"
    assert s.end("box-1")["status"] == "9"


def test_a_burst_is_served_and_torn_down(daemon):
    s = daemon.start()
    n = 40
    for i in range(n):
        s.send(f"create {1000 + i} burst-{i} {DIGEST} egress={i % 2}")
    for i in range(n):
        assert s.event(f" token={1000 + i} ")["line"].startswith("CREATED")
    assert s.say("burst-39", "ping") == "pong"
    for i in range(n):
        s.send(f"kill {2000 + i} burst-{i}")
    for i in range(n):
        s.event(f"GONE id=burst-{i} ", seconds=20)


def test_more_creations_than_may_be_under_way_at_once(daemon):
    s = daemon.start()
    n = 150  # CREATES_MAX is 128; the others stay in the socket meanwhile
    for i in range(n):
        s.send(f"create {1000 + i} burst-{i} {DIGEST} flags=1")
    for i in range(n):
        assert s.event(f" token={1000 + i} ", seconds=30)["line"].startswith("CREATED")


def test_hostile_requests_are_refused_one_by_one(daemon):
    s = daemon.start()
    hostile = [
        s.create("../../etc"), s.create("UPPER"), s.create("a/b"), s.create("box-1", layers="../../../../etc/passwd"),
        s.create("box-1", layers=",".join([DIGEST, DIGEST])), s.create("box-1", memory=1), s.create("box-1", writable=9),
        s.create("box-1", egress=9), s.create("box-1", flags=1 << 30), s.create("box-1", hostname="a_b;reboot"),
        s.ask("kill {t} ../x"), s.ask("layer-rm {t} .."), s.ask("imager {t} /dev/null 1000 10"),
        s.ask(f"imager {{t}} {daemon.log} 0 10"),
    ]
    for answer in hostile:
        assert answer["line"].startswith("FAILED") and answer["kind"] == "2" and answer["code"] == "-22", answer["line"]
    assert daemon.cgroups() == [] or all("box" not in c.rsplit("/", 1)[1] for c in daemon.cgroups())
    assert s.create("box-1")["line"].startswith("CREATED")


def test_what_cannot_be_made_is_undone_and_named(daemon):
    s = daemon.start()
    answer = s.create("box-1", layers="b" * 64)
    assert answer["line"].startswith("FAILED")
    assert "root file system" in answer["line"]
    assert not any(c.endswith("/box-1") for c in daemon.cgroups())
    assert list((daemon.run / "box").iterdir()) == []
    assert s.create("box-1")["line"].startswith("CREATED")
    answer = s.create("box-1")
    assert answer["kind"] == "4" and "already" in answer["line"]
    assert s.ask("kill {t} box-9")["code"] == "-2"
    assert s.ask("forget {t} box-1")["line"].startswith("FAILED")


def test_an_init_that_cannot_be_executed_is_named(daemon):
    s = daemon.start(init="text")
    answer = s.create("box-1")
    assert answer["line"].startswith("FAILED")
    assert "Exec format error" in answer["line"]
    assert not any(c.endswith("/box-1") for c in daemon.cgroups())


def test_a_kill_during_the_creation_gets_both_answers(daemon):
    s = daemon.start()
    s.send(f"create 7 box-1 {DIGEST}")
    s.send("kill 8 box-1")
    s.event(" token=8 ")
    s.event(" token=7 ")
    wait_for(lambda: not any(c.endswith("/box-1") for c in daemon.cgroups()))


def test_the_number_of_sandboxes_has_a_limit(daemon):
    s = daemon.start("--max-sandboxes", "2")
    assert s.event("HELLO")["slots"] == "2"
    s.create("box-1")
    s.create("box-2")
    answer = s.create("box-3")
    assert answer["kind"] == "8" and "2 sandboxes at most" in answer["line"]
    s.end("box-1")
    assert s.create("box-3")["line"].startswith("CREATED")


def test_a_read_only_root_takes_no_disk(daemon):
    s = daemon.start()
    assert s.create("box-1", flags=1)["writable"] == "0"
    assert s.say("box-1", "write:/x") == "errno=30"
    s.create("box-2")
    assert s.say("box-2", "write:/x") == "errno=0"


def test_the_spawner_is_quiet_and_small(daemon):
    s = daemon.start()
    s.create("box-1")
    time.sleep(1.0)  # pools are filled
    status = pathlib.Path(f"/proc/{daemon.process.pid}/status")
    def switches():
        return [x for x in status.read_text().splitlines() if "ctxt_switches" in x]
    before = switches()
    time.sleep(2.0)
    assert switches() == before
    assert len(pathlib.Path(f"/proc/{daemon.process.pid}/mounts").read_text().splitlines()) < 40
    assert "Threads:\t1\n" in status.read_text()
    assert status.read_text().startswith("Name:\tsilica-spawner\n")


# ---- layers ---------------------------------------------------------------------------------------------------------


def test_a_layer_in_use_is_not_removed(daemon):
    s = daemon.start()
    s.create("box-1")
    assert s.ask(f"layer-rm {{t}} {DIGEST}")["code"] == "-16"
    s.end("box-1")
    assert s.ask(f"layer-rm {{t}} {DIGEST}")["line"].startswith("DONE")
    wait_for(lambda: not any(p.name.startswith(".del") for p in (daemon.state / "layers").iterdir()))
    assert not (daemon.state / "layers" / DIGEST).exists()
    assert s.ask(f"layer-rm {{t}} {DIGEST}")["code"] == "-2"


def test_hostile_trees_are_removed_whole(daemon):
    layers = daemon.state / "layers"
    deep = layers / ("d" * 64)
    deep.mkdir()
    (layers / ".tmp-of-a-dead-imager").mkdir()
    (deep / "out").symlink_to("/etc")
    here = os.open(deep, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("x", 0o000, dir_fd=here)
        os.chown("x", STORE_BASE, STORE_BASE, dir_fd=here)
        down = os.open("x", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = down
    os.close(here)
    os.lchown(deep, STORE_BASE, STORE_BASE)
    s = daemon.start()
    wait_for(lambda: not (layers / ".tmp-of-a-dead-imager").exists())
    assert s.ask(f"layer-rm {{t}} {'d' * 64}")["line"].startswith("DONE")
    wait_for(lambda: not any(p.name.startswith(".del") for p in layers.iterdir()), 20)
    assert pathlib.Path("/etc/passwd").exists()


def test_an_imager_that_dies_closes_its_socket(daemon):
    s = daemon.start()
    s.send(f"imager 7 {daemon.log} 1000000 10")  # busybox knows no applet of that name and ends
    assert int(s.event("IMAGER token=7 ")["pid"]) > 1
    assert s.event("RESULT token=7 ")["bytes"] == "0"


def test_imagers_have_a_limit_and_end_with_the_server(daemon):
    s = daemon.start(imager="sleeps")
    pids = []
    for i in range(16):
        s.send(f"imager {500 + i} {daemon.log} 1000000 10")
        pids.append(int(s.event(f"IMAGER token={500 + i} ")["pid"]))
    answer = s.ask(f"imager {{t}} {daemon.log} 1000000 10")
    assert answer["kind"] == "8" and "try again later" in answer["line"]

    # Root of the store's range only, with no network, and only the descriptors of the contract.
    proc = pathlib.Path(f"/proc/{pids[0]}")
    assert (proc / "uid_map").read_text().split() == ["0", str(STORE_BASE), "65536"]
    assert os.readlink(proc / "ns/net") != os.readlink("/proc/self/ns/net")
    assert sorted(int(fd.name) for fd in (proc / "fd").iterdir()) == [0, 1, 2, 3, 4, 5]
    assert "NoNewPrivs:\t1" in (proc / "status").read_text()

    os.kill(server_pid(daemon), signal.SIGKILL)
    wait_for(lambda: not any(alive(p) for p in pids))


def test_imagers_do_not_outlive_the_spawner(daemon):
    s = daemon.start(imager="sleeps")
    s.send(f"imager 7 {daemon.log} 1000000 10")
    pid = int(s.event("IMAGER token=7 ")["pid"])
    daemon.kill()
    wait_for(lambda: not alive(pid))


# ---- deaths ---------------------------------------------------------------------------------------------------------


def server_pid(daemon):
    return int((daemon.run / "server").read_text().split()[0])


def test_sandboxes_outlive_the_server(daemon):
    s = daemon.start()
    made = s.create("box-1")
    s.create("box-2")
    s.send("mute")
    os.kill(server_pid(daemon), signal.SIGKILL)
    wait_for(lambda: "epoch 2" in daemon.log.read_text())
    s = Server(daemon)
    assert s.event("HELLO")["adopt"] == "2"
    assert s.event("ADOPT id=box-1 ")["pid"] == made["pid"]
    assert s.say("box-1", "ping") == "pong"
    assert s.say("box-2", "ping") == "pong"


def test_an_end_is_told_until_it_is_acknowledged(daemon):
    s = daemon.start()
    s.create("box-1")
    s.send("say box-1 die:3")
    s.event("GONE id=box-1 ")
    for epoch in (2, 3):
        os.kill(server_pid(daemon), signal.SIGKILL)
        wait_for(lambda epoch=epoch: f"epoch {epoch}\"" in daemon.log.read_text())
        s = Server(daemon)
        assert s.event("GONE id=box-1 ")["status"] == str(3 << 8)
    s.ask("forget {t} box-1")
    os.kill(server_pid(daemon), signal.SIGKILL)
    wait_for(lambda: "epoch 4" in daemon.log.read_text())
    s = Server(daemon)
    s.event("HELLO")
    time.sleep(0.2)
    assert "GONE" not in "".join(s.lines())


def test_sandboxes_outlive_the_spawner(daemon):
    s = daemon.start()
    made = s.create("box-1", egress=1)
    pid, server = int(made["pid"]), server_pid(daemon)
    daemon.kill()
    wait_for(lambda: not alive(server))
    assert alive(pid)
    s = daemon.start()
    hello = s.event("HELLO")
    assert hello["epoch"] == "2" and hello["adopt"] == "1"
    adopted = s.event("ADOPT id=box-1 ")
    assert [adopted[k] for k in ("pid", "slot", "uid_base", "writable")] == [made[k] for k in ("pid", "slot", "uid_base", "writable")]
    assert s.say("box-1", "ping") == "pong"
    assert s.ask(f"layer-rm {{t}} {DIGEST}")["code"] == "-16"
    other = s.create("box-2", egress=1)
    assert other["slot"] != made["slot"]
    assert s.end("box-1")["status"] == "-1"
    assert not alive(pid)


def test_a_second_death_of_the_spawner_is_survived_too(daemon):
    s = daemon.start()
    pid = int(s.create("box-1")["pid"])
    for _ in range(3):
        daemon.kill()
        s = daemon.start()
        s.event("ADOPT id=box-1 ")
        assert s.say("box-1", "ping") == "pong"
        assert alive(pid)


def test_an_end_without_a_spawner_is_told_by_the_next_one(daemon):
    s = daemon.start()
    pid = int(s.create("box-1")["pid"])
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))
    s = daemon.start()
    assert s.event("HELLO")["adopt"] == "0"
    assert s.event("GONE id=box-1 ")["status"] == "-1"


def test_a_spawner_killed_amid_creations_leaves_nothing_unknown(daemon):
    s = daemon.start()
    for i in range(20):
        s.send(f"create {1000 + i} burst-{i} {DIGEST}")
    s.event(" token=1003 ")
    daemon.kill()
    s = daemon.start()
    adopted = int(s.event("HELLO")["adopt"])
    boxes = [s.event("ADOPT ")["id"] for _ in range(adopted)]
    for box in boxes:
        assert s.say(box, "ping") == "pong"
    wait_for(lambda: {c.rsplit("/", 1)[1] for c in daemon.cgroups() if "burst" in c} <= set(boxes))


def test_a_table_of_another_boot_is_not_believed(daemon):
    s = daemon.start()
    pid = int(s.create("box-1")["pid"])
    daemon.kill()
    table = daemon.run / "table"
    data = bytearray(table.read_bytes())
    data[8] ^= 1
    table.write_bytes(data)
    s = daemon.start()
    assert s.event("HELLO")["adopt"] == "0"
    s.event("GONE id=box-1 ")  # found by its cgroup, and ended
    assert not alive(pid)


# ---- stopping and upgrading -----------------------------------------------------------------------------------------


def test_sigterm_ends_everything(daemon):
    s = daemon.start()
    pids = [int(s.create(f"box-{i}", egress=i % 2)["pid"]) for i in range(5)]
    assert daemon.terminate() == 0
    assert not any(alive(p) for p in pids)
    assert daemon.left_over() == []
    assert (daemon.state / "runner-id").read_text().startswith("run-")


def test_with_keep_the_next_daemon_takes_over(daemon):
    s = daemon.start("--keep")
    pid = int(s.create("box-1", egress=1)["pid"])
    assert daemon.terminate() == 0
    assert alive(pid)
    s = daemon.start()
    s.event("ADOPT id=box-1 ")
    assert s.say("box-1", "ping") == "pong"


def test_a_server_that_does_not_stop_is_killed(daemon):
    s = daemon.start()
    s.create("box-1")
    s.send("mute")
    time.sleep(0.1)
    begin = time.monotonic()
    assert daemon.terminate() == 0
    assert 9 < time.monotonic() - begin < 14


def test_an_upgrade_in_place_keeps_pid_and_sandboxes(daemon):
    s = daemon.start()
    made = s.create("box-1", egress=1)
    s.create("box-2")
    for epoch in (2, 3):
        daemon.process.send_signal(signal.SIGUSR2)
        wait_for(lambda epoch=epoch: f"epoch {epoch}\"" in daemon.log.read_text())
        s = Server(daemon)  # the listening socket was never closed
        assert s.event("HELLO")["adopt"] == "2"
        assert s.event("ADOPT id=box-1 ")["pid"] == made["pid"]
        assert s.say("box-1", "ping") == "pong"
    assert daemon.process.poll() is None
    s.send("say box-2 die:5")
    assert s.event("GONE id=box-2 ")["status"] == str(5 << 8)  # still a child of the same process
    code, text = refusal(daemon, "--listen=127.0.0.1:0")
    assert code == 1 and "another silicad" in text


def test_an_adopted_sandbox_survives_an_upgrade_and_its_end_is_seen(daemon):
    s = daemon.start()
    pid = int(s.create("box-1")["pid"])
    daemon.kill()
    s = daemon.start()
    daemon.process.send_signal(signal.SIGUSR2)
    wait_for(lambda: "epoch 3" in daemon.log.read_text())
    s = Server(daemon)
    s.event("ADOPT id=box-1 ")
    assert s.say("box-1", "ping") == "pong"
    assert s.end("box-1")["status"] == "-1"  # not a child of this process: its status went elsewhere
    assert not alive(pid)


def test_sd_notify_is_told(daemon, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = str(tmp_path / "notify")
        sock.bind(path)
        sock.settimeout(5)
        os.environ["NOTIFY_SOCKET"] = path
        try:
            daemon.start()
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert sock.recv(100) == b"READY=1"
        daemon.process.send_signal(signal.SIGTERM)
        assert sock.recv(100) == b"STOPPING=1"
        assert daemon.process.wait(20) == 0
