"""F9: silicad killed while sandboxes are made, used and taken away, again and again. Nothing leaks, nothing is made up."""
import os
import random
import signal
import threading
import time

import grpc
import pytest
from support import host as H
from support import hostile
from support.client import ENDED, Client, pb
from support.daemon import Daemon


@pytest.fixture
def daemon(work):
    with Daemon("--default-memory", "128M", "--default-disk", "64M") as d:
        d.cli("image", "import", "busybox", hostile.busybox_tar(work))
        yield d


@pytest.fixture
def canary():
    """Each case has a daemon of its own (one that crashed often is started again ever later) and compares for itself."""


def kill_server(daemon, after=0.0):
    """SIGKILL of silicad; back when the next one answers. Returns the seconds that took."""
    old = daemon.server_pid()
    time.sleep(after)
    os.kill(old, signal.SIGKILL)
    started = time.monotonic()
    while True:
        try:
            with Client(daemon.url) as c:
                if daemon.server_pid() != old:
                    c.list()
                    return time.monotonic() - started
        except (grpc.RpcError, RuntimeError, FileNotFoundError):
            pass
        assert time.monotonic() - started < 10, "silicad does not come back"
        time.sleep(0.005)


class Traffic(threading.Thread):
    """A client that creates, executes and deletes until told otherwise; errors are what a crash explains, never a wrong answer."""

    def __init__(self, daemon, what):
        super().__init__(daemon=True)
        self.daemon_url, self.what, self.stop, self.wrong, self.did = daemon.url, what, threading.Event(), [], 0
        self.start()

    def run(self):
        while not self.stop.is_set():
            try:
                with Client(self.daemon_url) as c:
                    while not self.stop.is_set():
                        self.once(c)
                        self.did += 1
            except grpc.RpcError as e:
                if e.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND,
                                    grpc.StatusCode.FAILED_PRECONDITION):
                    self.wrong.append(str(e))
                time.sleep(0.005)
            except AssertionError as e:
                if "ended without an exit" not in str(e):
                    self.wrong.append(str(e))

    def once(self, c):
        if self.what == "create":
            c.create(wait=False, command="sleep", args=["0.3"], timeout=5)
        elif self.what == "destroy":
            box = c.create(wait=False, timeout=5)
            c.delete(box, timeout=5)
        else:
            box = c.create(timeout=5)
            for i in range(20):
                r = c.exec(box, "sh", "-c", f"echo {i}; exit {i}", timeout=5)
                if (r.code, r.out) != (i, b"%d\n" % i):
                    self.wrong.append(f"exec {i}: {r}")
            c.delete(box, timeout=5)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["create", "exec", "destroy"])
def test_f9_silicad_killed_in_the_middle(daemon, what):
    with Client(daemon.url) as c:
        for _ in range(3):
            c.end(c.create())
    host = H.Host(daemon)
    before = host.settled(quiet=1.5)
    spawner_memory = H.memory_kib(daemon.process.pid)
    random.seed(what)
    traffic = [Traffic(daemon, what) for _ in range(3)]
    back = [kill_server(daemon, random.uniform(0.0, 0.25)) for _ in range(7)]
    for t in traffic:
        t.stop.set()
    for t in traffic:
        t.join(20)
        assert not t.is_alive()
    assert not [w for t in traffic for w in t.wrong]
    assert max(back) < 1.0, back
    # Every record that is there is usable and can be ended; nothing is there that has no record.
    with Client(daemon.url) as c:
        boxes = c.list(show_terminated=True, page_size=1000).sandboxes
        for b in boxes:
            if b.status.state in ENDED:
                assert b.status.state_reason or b.status.HasField("exit_code"), b
            elif b.status.state == pb.STATE_RUNNING and what != "create":
                assert c.exec(b.sandbox_id, "echo", "alive").out == b"alive\n"
        for b in boxes:
            c.delete(b.sandbox_id, missing_ok=True)
        for b in boxes:
            c.wait(b.sandbox_id)
    before["silicad"] = (daemon.server_pid(), H.start_of(daemon.server_pid()))
    before["processes"] = host.take()["processes"]  # compared by count below: silicad has another pid
    before["fds of silicad"] = None
    deadline = time.monotonic() + 20
    while True:
        now = host.take()
        now["fds of silicad"] = None
        differences = before.differences(now)
        if not differences or time.monotonic() > deadline:
            break
        before["processes"] = now["processes"]
        time.sleep(0.1)
    assert not differences, differences
    names = [p.split()[1] for p in host.take()["processes"]]
    assert "silica-init" not in names, names
    assert H.memory_kib(daemon.process.pid) - spawner_memory < 2048
