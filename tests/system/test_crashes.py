"""What lives on when silicad or the spawner dies, and what a stop leaves."""
import os
import pathlib
import signal
import subprocess
import time

import grpc
import pytest
from support import host as H
from support.client import Client, pb
from support.daemon import Daemon

COUNTER = "i=0; while [ $i -lt {n} ]; do echo line $i; i=$((i+1)); [ $((i % 50)) != 0 ] || sleep 0.01; done; exit 42"


@pytest.fixture
def daemon(give_images):
    with Daemon("--default-disk", "64M") as d:
        yield give_images(d)


def until(what, timeout=10):
    deadline = time.monotonic() + timeout
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_server(daemon):
    """SIGKILL; returns the seconds until the next silicad answers."""
    old = daemon.server_pid()
    os.kill(old, signal.SIGKILL)
    started = time.monotonic()

    def answers():
        try:
            if daemon.server_pid() == old:
                return False
            with Client(daemon.url) as c:
                c.list()
            return True
        except (grpc.RpcError, RuntimeError, FileNotFoundError):
            return False

    until(answers)
    return time.monotonic() - started


def inits(tag):
    """Pids of silica-init in the cgroups of TAG."""
    pids = [int(p) for path in H.cgroups(tag) for p in (H.read(os.path.join(path, "cgroup.procs")) or "").split()]
    return sorted({p for p in pids if H.comm(p) == "silica-init"})


def expected(n):
    return b"".join(b"line %d\n" % i for i in range(n))


def test_the_main_process_does_not_notice_and_its_log_is_exact(daemon):
    n = 15000
    with Client(daemon.url) as c:
        box = c.create(command="sh", args=["-c", COUNTER.format(n=n)])
        other = c.create(command="sh", args=["-c", "trap 'echo term' TERM; trap 'echo hup' HUP; trap 'echo pipe' PIPE; while :; do sleep 0.1; done"])
    for _ in range(3):
        time.sleep(0.4)
        assert kill_server(daemon) < 1.0
    with Client(daemon.url) as c:
        status = c.wait(box, timeout=60)
        assert (status.state, status.exit_code) == (pb.STATE_COMPLETED, 42)
        assert c.logs(box) == expected(n)
        assert c.logs(other) == b""
        c.end(other)


def test_everything_works_again_within_a_second(daemon):
    with Client(daemon.url) as c:
        box = c.create(command="sh", args=["-c", "echo hello; sleep infinity"])
        c.write(box, "/root/file", b"kept")
        until(lambda: c.logs(box) == b"hello\n")
    started = time.monotonic()
    kill_server(daemon)
    with Client(daemon.url) as c:
        assert c.get(box).state == pb.STATE_RUNNING
        assert c.exec(box, "echo", "again").out == b"again\n"
        assert c.read(box, "/root/file") == b"kept"
        assert c.logs(box) == b"hello\n"
        assert c.list().sandboxes[0].sandbox_id == box
        assert time.monotonic() - started < 1.0
        assert c.create() != box
        c.end(box)
        assert c.get(box).state == pb.STATE_TERMINATED


def test_a_foreground_command_of_the_dead_daemon_ends_as_a_tree(daemon):
    tag = H.tag_of(daemon.base / "run")
    with Client(daemon.url) as c:
        box = c.create()
        quiet = len(H.cgroup_procs(tag, box))
        streams = [c.stream(box, "sh", "-c", "sleep 4711 & (setsid sleep 4712 &); echo up; sleep 4713", tty=tty) for tty in (False, True)]
        for s in streams:
            s.until(b"up")
        assert len(H.cgroup_procs(tag, box)) >= quiet + 6
        kill_server(daemon)
        for s in streams:
            with pytest.raises(grpc.RpcError) as e:  # never an exit code that nobody knows
                s.result()
            assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    until(lambda: len(H.cgroup_procs(tag, box)) == quiet)
    with Client(daemon.url) as c:
        assert c.get(box).state == pb.STATE_RUNNING


def test_an_exit_while_silicad_is_away_is_reported_with_its_code(daemon):
    with Client(daemon.url) as c:
        box = c.create(command="sh", args=["-c", "echo before; sleep 1; echo while away; exit 7"])
        signalled = c.create(command="sh", args=["-c", "sleep 1; kill -9 $$"])
        until(lambda: c.logs(box) == b"before\n")
    os.kill(daemon.process.pid, signal.SIGSTOP)  # nobody starts it again meanwhile
    try:
        os.kill(daemon.server_pid(), signal.SIGKILL)
        time.sleep(1.6)
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)

    def ended():
        try:
            with Client(daemon.url) as c:
                return c.wait(box, timeout=5), c.wait(signalled, timeout=5), c.logs(box)
        except grpc.RpcError:
            return None

    first, second, text = until(ended)
    assert (first.state, first.exit_code) == (pb.STATE_COMPLETED, 7)
    assert second.exit_code == 137
    assert text == b"before\nwhile away\n"


def test_a_create_that_was_answered_is_there_after_a_crash(daemon):
    """Also when the crash comes at once after the answer."""
    for _ in range(4):
        with Client(daemon.url) as c:
            box = c.create(wait=False)
            kill_server(daemon)
        with Client(daemon.url) as c:
            assert c.wait(box, (pb.STATE_RUNNING,), timeout=5).state == pb.STATE_RUNNING
            c.end(box)


def test_request_ids_hold_across_crash_and_restart(daemon):
    with Client(daemon.url) as c:
        a = c.create(request_id="one")
        assert c.create(request_id="one") == a
        b = c.create(request_id="two")
        assert b != a
    kill_server(daemon)
    with Client(daemon.url) as c:
        assert c.create(request_id="one") == a
        assert c.create(request_id="two") == b
        assert c.create(request_id="three") not in (a, b)
        futures = [c.stub.CreateSandbox.future(pb.CreateSandboxRequest(sandbox=pb.Sandbox(spec=c.spec()), request_id="storm")) for _ in range(20)]
        assert len({f.result().sandbox_id for f in futures}) == 1
    assert daemon.stop() == 0
    daemon.start()
    with Client(daemon.url) as c:
        assert c.create(request_id="one") == a
        assert c.get(a).state == pb.STATE_TERMINATED and c.get(a).state_reason


# ---- the spawner

@pytest.mark.timeout(90)
def test_sandboxes_outlive_the_spawner_and_the_next_one_adopts_them(daemon):
    tag = H.tag_of(daemon.base / "run")
    n = 12000
    with Client(daemon.url) as c:
        counter = c.create(command="sh", args=["-c", COUNTER.format(n=n)])
        quiet = c.create()
        leaves = c.create(command="sh", args=["-c", "sleep 1; exit 9"])
        c.write(quiet, "/root/file", b"kept")
    time.sleep(0.5)
    before = inits(tag)
    server = daemon.server_pid()
    daemon.process.kill()
    daemon.process.wait()
    until(lambda: H.stat_fields(server) is None or H.stat_fields(server)[0] == "Z")  # silicad leaves by itself
    time.sleep(1.2)
    assert set(before) - set(inits(tag)) == set()
    daemon.start()
    with Client(daemon.url) as c:
        assert c.exec(quiet, "cat", "/root/file").out == b"kept"
        assert c.wait(leaves).exit_code == 9
        assert c.wait(counter, timeout=60).exit_code == 42
        assert c.logs(counter) == expected(n)
        c.end(quiet)
        box = c.create()
        c.end(box)
    until(lambda: not inits(tag))


def test_a_spawner_that_dies_again_and_again_loses_nothing(daemon):
    with Client(daemon.url) as c:
        box = c.create()
    for i in range(3):
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        with Client(daemon.url) as c:
            assert c.exec(box, "echo", str(i)).text == f"{i}\n"
            c.end(c.create())
    with Client(daemon.url) as c:
        c.end(box)


def test_an_upgrade_in_place_keeps_pid_and_sandboxes(daemon):
    with Client(daemon.url) as c:
        box = c.create(command="sh", args=["-c", COUNTER.format(n=4000)])
        quiet = c.create()
    old = daemon.server_pid()
    os.kill(daemon.process.pid, signal.SIGUSR2)

    def new():
        try:
            with Client(daemon.url) as c:
                return daemon.server_pid() != old and c.list() is not None
        except (grpc.RpcError, RuntimeError, FileNotFoundError):
            return False

    until(new)
    assert daemon.process.poll() is None
    with Client(daemon.url) as c:
        assert c.exec(quiet, "echo", "here").out == b"here\n"
        assert c.wait(box, timeout=30).exit_code == 42
        assert c.logs(box) == expected(4000)


# ---- stopping

def traces_of(daemon, tag):
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    return {
        "cgroups": H.cgroups(tag),
        "loops": H.loops(daemon.base),
        "links": H.links(tag),
        "tables": [line for line in tables.splitlines() if tag in line],
        "mounts": [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(daemon.base) in line],
        "sockets": [p.name for p in (daemon.base / "run").rglob("*.sock")],
    }


@pytest.mark.timeout(60)
def test_sigterm_leaves_nothing(daemon):
    tag = H.tag_of(daemon.base / "run")
    with Client(daemon.url) as c:
        boxes = [c.create(command="sh", args=["-c", "trap '' TERM; while :; do sleep 0.1; done"] if i % 2 else ["-c", "sleep infinity"]) for i in range(6)]
        s = c.stream(boxes[0], "sleep", "1000").ready()
        pids = inits(tag)
        assert len(pids) == 6
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 15
        with pytest.raises(grpc.RpcError):
            s.result()
    assert not [p for p in pids if H.start_of(p)]
    until(lambda: not any(traces_of(daemon, tag).values()))
    daemon.start()
    with Client(daemon.url) as c:
        for b in boxes:
            status = c.get(b)
            assert status.state == pb.STATE_TERMINATED and status.state_reason, status


def test_sigterm_with_keep_leaves_them_running_for_the_next_one(give_images):
    n = 8000
    with Daemon("--keep", "--default-disk", "64M") as d:
        give_images(d)
        tag = H.tag_of(d.base / "run")
        with Client(d.url) as c:
            box = c.create(command="sh", args=["-c", COUNTER.format(n=n)])
            quiet = c.create()
        before = inits(tag)
        assert d.stop() == 0
        assert inits(tag) == before and len(before) == 2
        time.sleep(0.5)
        d.start()
        with Client(d.url) as c:
            assert c.exec(quiet, "echo", "here").out == b"here\n"
            assert c.wait(box, timeout=30).exit_code == 42
            assert c.logs(box) == expected(n)
            c.end(quiet)
        until(lambda: not inits(tag))


def test_two_daemons_side_by_side_do_not_touch_each_other(daemon, give_images):
    with Client(daemon.url) as a:
        mine = a.create()
        other = Daemon("--default-disk", "64M").start()
        with Client(give_images(other).url) as b:
            theirs = b.create()
            ranges = [int(c.sh(x, "cat /proc/self/uid_map").split()[1]) for c, x in ((a, mine), (b, theirs))]
            assert abs(ranges[0] - ranges[1]) >= 65536
            addresses = [c.sh(x, "ip -4 addr show dev eth0").split("inet ")[1].split()[0] for c, x in ((a, mine), (b, theirs))]
            assert addresses[0] != addresses[1]
            with pytest.raises(grpc.RpcError):
                b.get(mine)
        assert other.close() == 0
        assert a.exec(mine, "echo", "untouched").out == b"untouched\n"


def test_a_second_daemon_on_the_same_directories_is_refused(daemon):
    for args in (["--state-dir", daemon.base / "state", "--run-dir", daemon.base / "other-run"],
                 ["--state-dir", daemon.base / "other-state", "--run-dir", daemon.base / "run"]):
        p = subprocess.run([daemon.build / "silicad", "--listen", "127.0.0.1:0", *args], capture_output=True, text=True, timeout=20)
        assert p.returncode != 0 and "another silicad" in p.stderr, p.stderr
    with Client(daemon.url) as c:
        assert c.exec(c.create(), "true").code == 0
