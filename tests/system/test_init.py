"""silica-init in namespaces of its own, spoken to as silicad speaks to it. Needs root, cgroup v2, busybox, musl-gcc."""

import fcntl
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import init_box as b  # noqa: E402
from init_box import EXEC, MAIN, SESSION, BACKGROUND, TERMINAL, Box, slurp  # noqa: E402


def missing():
    if os.geteuid() != 0:
        return "needs root"
    if b.cgroup2() is None:
        return "needs a cgroup v2 mount"
    for f in ("/bin/busybox", b.INIT):
        if not os.path.exists(f):
            return "needs " + f
    if shutil.which("musl-gcc") is None:
        return "needs musl-gcc"
    return None


def setUpModule():
    why = missing()
    if why is not None:
        if os.environ.get("TESTS_MUST_RUN") == "1":
            raise RuntimeError(why)
        raise unittest.SkipTest(why)


def eventually(fn, timeout=10):
    deadline = time.monotonic() + timeout
    while not fn():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Case(unittest.TestCase):
    pids_max = None

    def setUp(self):
        self.box = Box(self.pids_max)
        self.addCleanup(self.box.close)
        self.p = self.box.peer
        self.assertEqual(self.p.hello(1), {})

    def refused(self, m, code, stage=None):
        self.assertEqual(m.type, b.IN_FAILED, m)
        self.assertEqual(-m.body[0], code, (os.strerror(-m.body[0]), m.tail))
        if stage is not None:
            self.assertEqual(m.body[1], stage, m.tail)
        self.assertGreater(len(m.tail), 5)

    def sh(self, script, **kw):
        cause, code, out, err = self.p.run(["sh", "-c", script], **kw)
        self.assertEqual((cause, code, err), (b.EXITED, 0, b""), out)
        return out.decode()


class Spawning(Case):
    def test_a_missing_program_is_enoent_and_a_plain_file_eacces(self):
        self.refused(self.p.spawn(["no-such-program"])[1], 2, b.ST_EXEC)
        self.refused(self.p.spawn(["/etc/passwd"])[1], 13, b.ST_EXEC)
        self.refused(self.p.spawn(["passwd"], env=["PATH=/nowhere:/etc:/bin"])[1], 13, b.ST_EXEC)
        self.refused(self.p.spawn([""])[1], 2, b.ST_EXEC)
        self.assertTrue(eventually(lambda: self.box.cgroups() == []))

    def test_what_cannot_be_right_is_refused_before_anything_is_made(self):
        self.refused(self.p.spawn([])[1], 22)
        self.refused(self.p.spawn(["true"], kind=9)[1], 22)
        self.refused(self.p.spawn(["true"], flags=64)[1], 22)
        self.refused(self.p.spawn(["true"], flags=b.TTY | b.STDIN)[1], 22)
        self.refused(self.p.spawn(["true"], uid=65536)[1], 22, b.ST_USER)
        self.refused(self.p.spawn(["true"], cwd="tmp")[1], 22, b.ST_CWD)
        self.refused(self.p.spawn(["true"], cwd="/" + "x" * 4096)[1], 36, b.ST_CWD)
        self.refused(self.p.spawn(["true", "x" * (128 << 10)])[1], 7, b.ST_LIMIT)
        self.refused(self.p.spawn(["true"] + ["x" * 100000] * 21)[1], 7, b.ST_LIMIT)
        self.refused(self.p.spawn(["true"], token=0)[1], 22)
        self.assertEqual(self.box.cgroups(), [])

    def test_exit_codes_and_signals_come_back(self):
        self.assertEqual(self.p.run(["sh", "-c", "echo out; echo err >&2; exit 3"]), (b.EXITED, 3, b"out\n", b"err\n"))
        self.assertEqual(self.p.run(["sh", "-c", "kill -9 $$"])[:2], (b.SIGNALED, 9))
        self.assertEqual(self.p.run(["/bin/probe", "abort"])[:2], (b.SIGNALED, 6))
        self.assertTrue(eventually(lambda: self.box.cgroups() == []))

    def test_stdin_reaches_its_end_only_when_init_lets_go_too(self):
        token, m = self.p.spawn(["cat"], kind=SESSION, flags=b.STDIN)
        os.write(m.fds[0], b"hello")
        os.close(m.fds[0])
        self.assertEqual(select.select([m.fds[1]], [], [], 2)[0], [m.fds[1]])
        self.assertEqual(os.read(m.fds[1], 100), b"hello")
        self.assertEqual(select.select([m.fds[1]], [], [], 0.2)[0], [])
        self.p.send(b.IN_CLOSE_STDIN, token, struct.pack("<Q", 0))
        self.assertEqual(self.p.exited(token)[1:3], (b.EXITED, 0))

    def test_foreground_stdin_ends_with_silicads_end(self):
        token, m = self.p.spawn(["cat"], flags=b.STDIN)
        os.write(m.fds[0], b"hello")
        os.close(m.fds[0])
        self.assertEqual(slurp(m.fds[1]), b"hello")
        self.assertEqual(self.p.exited(token)[1:3], (b.EXITED, 0))

    def test_merged_output_keeps_its_order(self):
        token, m = self.p.spawn(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], flags=b.MERGE)
        self.assertEqual(len(m.fds), 1)
        self.assertEqual(slurp(m.fds[0]), b"1\n2\n3\n")

    def test_large_environments_travel_in_a_memfd(self):
        env = ["PATH=/bin"] + ["V%d=%s" % (i, "x" * 1000) for i in range(1500)]
        out = self.sh("echo ${#V1499}; cat /proc/self/environ | wc -c", env=env)
        self.assertEqual(out.split()[0], "1000")
        self.assertGreater(int(out.split()[1]), 1500000)

    def test_a_script_without_interpreter_line_runs_with_sh(self):
        self.sh("echo 'echo from $0 with $1' > /tmp/script; chmod 755 /tmp/script")
        self.assertEqual(self.p.run(["/tmp/script", "arg"])[2], b"from /tmp/script with arg\n")
        self.assertEqual(self.p.run(["script", "arg"], env=["PATH=/tmp:/bin"])[2], b"from /tmp/script with arg\n")

    def test_path_is_searched_in_the_given_environment_only(self):
        self.assertEqual(self.p.run(["true"], env=[])[:2], (b.EXITED, 0))  # the default PATH
        self.refused(self.p.spawn(["true"], env=["PATH="])[1], 2, b.ST_EXEC)
        self.assertEqual(self.p.run(["true"], env=["PATH="], cwd="/bin")[:2], (b.EXITED, 0))

    def test_the_working_directory_is_made_as_the_user_when_asked(self):
        self.refused(self.p.spawn(["pwd"], cwd="/tmp/a/b")[1], 2, b.ST_CWD)
        self.refused(self.p.spawn(["pwd"], cwd="/etc/passwd")[1], 20, b.ST_CWD)
        self.refused(self.p.spawn(["pwd"], cwd="/home/x", cwd_create=1, uid=1000, gid=1000)[1], 13, b.ST_CWD)
        out = self.p.run(["sh", "-c", "pwd; ls -nd ."], cwd="/tmp/a/b", cwd_create=1, uid=1000, gid=1000)[2].split()
        self.assertEqual((out[0], out[1], out[3:5]), (b"/tmp/a/b", b"drwxr-xr-x", [b"1000", b"1000"]))

    def test_the_working_directory_leads_to_no_fd_of_init(self):
        for fd in range(3, 30):
            m = self.p.spawn(["pwd"], cwd="/proc/self/fd/%d" % fd)[1]
            self.assertEqual(m.type, b.IN_FAILED)
        for cwd in ("/proc/1/cwd", "/proc/1/root", "/proc/self/cwd", "/proc/1/fd/4"):
            self.assertEqual(self.p.spawn(["pwd"], cwd=cwd)[1].type, b.IN_FAILED, cwd)

    def test_user_groups_and_umask(self):
        out = self.sh("id -u; id -g; id -G; umask", uid=1000, gid=1001, groups=(1001, 10, 70)).split()
        self.assertEqual(out, ["1000", "1001", "1001", "10", "70", "0022"])

    def test_a_token_names_one_process(self):
        token, m = self.p.spawn(["sleep", "100"])
        self.refused(self.p.spawn(["true"], token=token)[1], 17)

    def test_timestamps_and_usage_are_plausible(self):
        before = time.time_ns()
        token, m = self.p.spawn(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
        end = self.p.exited(token)
        self.assertTrue(before <= end[4] <= end[5] <= time.time_ns())
        self.assertGreater(end[6] + end[7], 1000)
        self.assertTrue(100 < end[8] < 100000)

    def test_4096_uncollected_processes_are_the_limit(self):
        tokens = []
        for _ in range(4096):
            token = self.p.spawn_message(["true"])
            m = self.p.answer(token)
            self.assertEqual(m.type, b.IN_SPAWNED, (len(tokens), m))
            for fd in m.fds:
                os.close(fd)
            tokens.append(token)
        self.refused(self.p.spawn(["true"])[1], 11, b.ST_LIMIT)
        for token in tokens:
            self.p.exited(token)
            self.p.ack(token)
        self.assertEqual(self.p.run(["true"])[:2], (b.EXITED, 0))


class Confinement(Case):
    def status(self, **kw):
        out = self.p.run(["cat", "/proc/self/status"], **kw)[2]
        return dict(line.split(":\t", 1) for line in out.decode().splitlines() if ":\t" in line)

    def test_capabilities_are_the_docker_set_and_nothing_is_inheritable(self):
        for kw in ({}, {"flags": b.NNP}, {"flags": b.MERGE, "kind": BACKGROUND}):
            s = self.status(**kw)
            self.assertEqual([s["Cap" + c] for c in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
                             ["0" * 16, "00000000a80425fb", "00000000a80425fb", "00000000a80425fb", "0" * 16])
        s = self.status(uid=1000, gid=1000)
        self.assertEqual([s["Cap" + c] for c in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
                         ["0" * 16, "0" * 16, "0" * 16, "00000000a80425fb", "0" * 16])

    def test_seccomp_and_no_new_privs(self):
        for kw, nnp in (({}, "0"), ({"flags": b.NNP}, "1"), ({"uid": 1000}, "0")):
            s = self.status(**kw)
            self.assertEqual((s["Seccomp"], s["Seccomp_filters"], s["NoNewPrivs"]), ("2", "2", nnp))
        token, m = self.p.spawn(["cat", "/proc/self/status"], flags=b.TTY)
        self.assertIn(b"Seccomp_filters:\t2", slurp(m.fds[0]))
        self.assertEqual(self.sh("/bin/probe clone3"), "38\n")
        self.assertEqual(self.p.run(["mount", "-t", "tmpfs", "x", "/tmp"])[1], 1)

    def test_no_fd_above_2_reaches_a_program(self):
        self.p.spawn(["sleep", "100"], kind=SESSION, flags=b.STDIN)
        self.p.spawn(["sleep", "100"], kind=TERMINAL, flags=b.TTY)
        for kw in ({}, {"flags": b.STDIN}, {"uid": 1000}, {"kind": SESSION, "flags": b.STDIN}, {"flags": b.TTY}):
            token, m = self.p.spawn(["ls", "-l", "/proc/self/fd"], **kw)
            out = slurp(m.fds[1 if kw.get("flags") == b.STDIN else 0]).decode()
            names = [line.split()[8] for line in out.splitlines()[1:] if not line.startswith("ls:")]
            self.assertEqual(names, ["0", "1", "2", "3"], out)
            self.assertNotIn("3 ->", out)  # ls reading the directory, closed when ls asks where it leads

    def test_init_cannot_be_read_or_traced_or_stopped(self):
        for f in ("environ", "maps", "mem", "stack", "syscall"):
            self.assertNotEqual(self.p.run(["cat", "/proc/1/" + f])[1], 0, f)
        for f in ("exe", "root", "cwd", "fd/3", "fd/4", "ns/user"):
            self.assertNotEqual(self.p.run(["readlink", "/proc/1/" + f])[1], 0, f)
        self.assertNotIn("->", self.p.run(["ls", "-l", "/proc/1/fd"])[2].decode())  # numbers, but not what they are
        self.assertNotEqual(self.p.run(["sh", "-c", "echo x > /proc/1/exe"])[1], 0)
        self.sh("for s in 1 2 3 9 10 12 13 14 15 17 18 19 20; do kill -$s 1; done; true")
        self.assertEqual(self.sh("cat /proc/1/comm"), "silica-init\n")
        self.assertIn(self.sh("grep State /proc/1/status").split()[1], "RS")

    def test_processes_die_before_init_when_memory_is_short(self):
        self.assertEqual(self.sh("cat /proc/self/oom_score_adj"), "200\n")
        self.assertEqual(self.sh("cat /proc/self/oom_score_adj", uid=1000), "200\n")
        self.assertEqual(self.sh("cat /proc/1/oom_score_adj"), "0\n")

    def test_session_and_signal_state_are_clean(self):
        s = self.status()
        self.assertEqual([int(s[k], 16) for k in ("SigBlk", "SigIgn", "SigCgt")], [0, 0, 0])
        out = self.p.run(["cat", "/proc/self/stat"])[2].split()
        self.assertEqual((out[4], out[5]), (out[0], out[0]))  # leader of its group and session


class Terminals(Case):
    def test_a_terminal_controls_its_session(self):
        token, m = self.p.spawn(["sh", "-c", "tty; stty size; echo $(id -u); ls -n $(tty); cat /proc/self/stat"],
                                kind=TERMINAL, flags=b.TTY, rows=40, cols=132, uid=1000, gid=1000)
        out = b""
        while b") R" not in out and select.select([m.fds[0]], [], [], 5)[0]:
            try:
                out += os.read(m.fds[0], 4096)
            except OSError:
                break
        lines = out.decode().split("\r\n")
        self.assertEqual(lines[0], "/dev/pts/0")
        self.assertEqual(lines[1], "40 132")
        self.assertEqual(lines[2], "1000")
        self.assertEqual(lines[3].split()[2], "1000")
        self.assertEqual(int(lines[4].split()[6]), 136 << 8)  # tty_nr of pts/0

    def test_resizing_tells_the_program(self):
        script = "trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.05; done"
        token, m = self.p.spawn(["sh", "-c", script], kind=TERMINAL, flags=b.TTY)
        out = b""
        while b"ready" not in out:
            select.select([m.fds[0]], [], [], 5)
            out += os.read(m.fds[0], 100)
        fcntl.ioctl(m.fds[0], termios.TIOCSWINSZ, struct.pack("HHHH", 50, 90, 0, 0))
        self.assertEqual(self.p.exited(token)[1:3], (b.EXITED, 7))
        self.assertIn(b"50 90", os.read(m.fds[0], 1000))

    def test_a_foreground_terminal_hangs_up_and_a_kept_one_does_not(self):
        t1, m1 = self.p.spawn(["sleep", "100"], flags=b.TTY)
        t2, m2 = self.p.spawn(["sleep", "100"], kind=TERMINAL, flags=b.TTY)
        os.close(m1.fds[0])
        os.close(m2.fds[0])
        self.assertEqual(self.p.exited(t1)[1:3], (b.SIGNALED, signal.SIGHUP))
        self.assertRaises(TimeoutError, self.p.exited, t2, 0.3)


class Killing(Case):
    def test_a_signal_goes_to_the_process_group(self):
        token, m = self.p.spawn(["sh", "-c", "sleep 100; echo no"])
        self.assertEqual(self.p.kill(token, 15), b.IN_OK)
        self.assertEqual(self.p.exited(token)[1:3], (b.SIGNALED, 15))
        self.assertEqual(slurp(m.fds[0]), b"")  # the sleep has gone with it
        self.assertEqual(self.p.kill(token, 15), b.IN_OK)
        self.assertEqual(self.p.kill(999999, 15), b.IN_OK)
        self.assertEqual(self.p.kill(token, 0), b.IN_FAILED)
        self.assertEqual(self.p.kill(token, 65), b.IN_FAILED)

    def test_a_tree_has_no_hiding_place(self):
        script = ("trap '' 1 2 15; setsid sh -c 'trap \"\" 1 2 15; sleep 1000' & "
                  "(setsid sh -c '(setsid sleep 1000 &)' &); sleep 0.2; echo up; sleep 1000")
        before = self.box.processes()
        token, m = self.p.spawn(["sh", "-c", script])
        select.select([m.fds[0]], [], [], 5)
        self.assertGreaterEqual(self.box.processes() - before, 3)
        self.p.kill(token, tree=1)
        self.assertEqual(self.p.exited(token)[1:3], (b.SIGNALED, 9))
        self.assertTrue(eventually(lambda: self.box.processes() == before))
        self.assertTrue(eventually(lambda: self.box.cgroups() == []))

    def test_descendants_of_an_ended_process_die_by_its_token(self):
        before = self.box.processes()
        cause, code, out, err = self.p.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo done"])
        token = self.p.token
        self.assertEqual((code, out), (0, b"done\n"))
        self.assertEqual(self.box.cgroups(), ["p%d" % token])
        self.p.kill(token, tree=1)
        self.assertTrue(eventually(lambda: self.box.processes() == before and self.box.cgroups() == []))

    def test_the_cgroup_goes_with_the_last_descendant(self):
        self.p.run(["sh", "-c", "setsid sleep 0.3 >/dev/null 2>&1 &"])
        self.assertEqual(len(self.box.cgroups()), 1)
        self.assertTrue(eventually(lambda: self.box.cgroups() == [], 3))

    def storm(self, sig):
        """A root of the sandbox that sends SIG to everything it can reach, as fast as it can."""
        token, m = self.p.spawn(["/bin/probe", "storm", str(int(sig))], kind=BACKGROUND)
        select.select([m.fds[0]], [], [], 5)
        return token

    def test_children_stopped_before_exec_stop_nobody_else(self):
        storm = self.storm(signal.SIGSTOP)
        stuck = None
        for _ in range(500):  # the storm has to hit the short time between clone and exec
            token = self.p.spawn_message(["true"])
            try:
                self.p.answer(token, 0.2)
            except TimeoutError:
                stuck, start = token, time.monotonic()
                break
        self.assertIsNotNone(stuck)
        for _ in range(500):
            m = self.p.open("/etc/passwd", timeout_ms=100)
            if m.type == b.IN_FAILED:
                break
            os.close(m.fds[0])
        self.refused(m, 110, b.ST_OPEN)
        self.assertEqual(self.p.user("ada").type, b.IN_USER_IS)
        self.refused(self.p.answer(stuck, 15), 110)
        self.assertLess(time.monotonic() - start, 12)
        tokens = [int(name[1:]) for name in self.box.cgroups()]
        for token in tokens + [storm]:
            self.p.kill(token, tree=1)
        self.assertTrue(eventually(lambda: self.box.cgroups() == []))
        self.assertEqual(self.sh("echo fine"), "fine\n")

    def test_children_killed_before_they_answer_are_errors(self):
        storm = self.storm(signal.SIGKILL)
        for _ in range(50):
            m = self.p.open("/etc/passwd")
            if m.type == b.IN_FAILED:
                self.refused(m, 5, b.ST_OPEN)
            token, m = self.p.spawn(["sleep", "100"])
            self.assertEqual(m.type, b.IN_SPAWNED)
            self.assertEqual(self.p.exited(token)[1:3], (b.SIGNALED, 9))
            self.p.ack(token)
        self.p.kill(storm, tree=1)
        self.assertEqual(self.sh("echo fine"), "fine\n")


class Bomb(Case):
    pids_max = 100

    def test_a_fork_bomb_ends_at_once_and_others_hear_of_the_limit(self):
        before = self.box.processes()
        token, m = self.p.spawn(["/bin/probe", "bomb"])
        self.assertTrue(eventually(lambda: self.box.processes() >= 90))
        refused = False
        for _ in range(50):
            m = self.p.spawn(["true"])[1]
            refused = refused or (m.type == b.IN_FAILED and m.body[:2] == (-11, b.ST_FORK))
        self.assertTrue(refused)
        start = time.monotonic()
        self.p.kill(token, tree=1)
        self.assertTrue(eventually(lambda: self.box.processes() == before))
        self.assertLess(time.monotonic() - start, 1.0)
        self.assertEqual(self.p.run(["true"])[:2], (b.EXITED, 0))


class Epochs(Case):
    def test_a_tree_is_killed_also_when_init_has_no_descriptor_left(self):
        token, m = self.p.spawn(["sh", "-c", "sleep 1000 & sleep 1000"])
        used = {int(fd) for fd in os.listdir("/proc/%d/fd" % self.box.pid)}
        full = next(n for n in range(1000) if n not in used)
        resource.prlimit(self.box.pid, resource.RLIMIT_NOFILE, (full, full))
        for _ in range(2):  # the descriptor that is kept for this comes back
            self.p.kill(token, tree=1)
        self.assertEqual(self.p.exited(token)[1:3], (b.SIGNALED, signal.SIGKILL))

    def test_a_new_epoch_ends_foreground_trees_and_nothing_else(self):
        t_exec, m = self.p.spawn(["sh", "-c", "setsid sleep 1000 & sleep 1000"])
        kept = {}
        for kind, flags in ((MAIN, 0), (SESSION, b.STDIN), (BACKGROUND, b.MERGE), (TERMINAL, b.TTY)):
            token, m = self.p.spawn(["sh", "-c", "echo first; read x; echo got $x; sleep 1000"], kind=kind, flags=flags)
            kept[token] = (kind, flags, m.fds)
        t_gone, m = self.p.spawn(["sh", "-c", "echo last words; exit 5"], kind=BACKGROUND)
        self.assertEqual(self.p.exited(t_gone)[2], 5)
        for fds in [m.fds] + [k[2] for k in kept.values()]:
            for fd in fds:
                os.close(fd)
        self.p.waiting.clear()

        entries = self.p.hello(2)
        self.assertEqual(set(entries), set(kept) | {t_gone})
        for token, (kind, flags, _) in kept.items():
            e = entries[token]
            self.assertEqual((e.body[0], e.body[1], e.body[3]), (kind, 1, flags))
            self.assertEqual(len(e.fds), {0: 2, b.STDIN: 3, b.MERGE: 1, b.TTY: 1}[flags])
        self.assertEqual(entries[t_gone].body[:2], (BACKGROUND, 2))
        self.assertEqual(slurp(entries[t_gone].fds[0]), b"last words\n")
        self.assertEqual(self.p.exited(t_gone)[2], 5)  # again
        self.assertTrue(eventually(lambda: "p%d" % t_exec not in self.box.cgroups()))
        self.assertRaises(TimeoutError, self.p.exited, t_exec, 0.2)

        session = next(t for t, k in kept.items() if k[0] == SESSION)
        os.write(entries[session].fds[0], b"word\n")
        time.sleep(0.1)
        self.assertEqual(os.read(entries[session].fds[1], 100), b"first\ngot word\n")

    def test_ends_repeat_until_acknowledged(self):
        token, m = self.p.spawn(["sh", "-c", "exit 9"], kind=BACKGROUND)
        for epoch in (2, 3, 3):
            self.assertEqual(self.p.exited(token)[2], 9)
            self.assertEqual(set(self.p.hello(epoch)), {token})
        self.p.exited(token)
        self.p.ack(token)
        self.assertEqual(self.p.hello(4), {})
        self.assertRaises(TimeoutError, self.p.exited, token, 0.2)

    def test_an_older_epoch_is_not_heard(self):
        self.p.hello(5)
        self.p.send(b.IN_HELLO, 0, struct.pack("<Q", 4))
        self.assertRaises(TimeoutError, self.p.recv, 0.2)
        self.assertEqual(self.p.run(["true"])[:2], (b.EXITED, 0))

    def test_everything_lives_on_when_the_connection_ends(self):
        token, m = self.p.spawn(["sh", "-c", "echo a; sleep 0.3; echo b; exit 4"], kind=MAIN)
        for fd in m.fds:
            os.close(fd)
        self.p.sock.close()
        time.sleep(0.5)
        p = self.box.adopt()
        entries = p.hello(2)
        self.assertEqual(set(entries), {token})
        self.assertEqual(slurp(entries[token].fds[0]), b"a\nb\n")
        self.assertEqual(p.exited(token)[2], 4)
        # A newer connection takes its place, also while it lives.
        q = self.box.adopt()
        self.assertEqual(set(q.hello(3)), {token})
        self.assertIsNone(p.recv())
        self.assertEqual(q.run(["true"])[:2], (b.EXITED, 0))

    def test_a_peer_that_is_no_silicad_is_cut_off(self):
        token, m = self.p.spawn(["sleep", "1000"], kind=BACKGROUND)
        garbage = [b"x", b"\0" * 24, os.urandom(3000), b.HEAD.pack(b.MAGIC, 1, 200, 24, 0, 0),
                   b.HEAD.pack(b.MAGIC, 1, b.IN_SPAWN, 24, 0, 7), b.HEAD.pack(b.MAGIC, 1, b.IN_HELLO, 32, 1, 0) + b"\1" * 8,
                   b.HEAD.pack(b.MAGIC, 1, b.IN_HELLO, 32, 0, 0) + b"\0" * 8,
                   b.HEAD.pack(b.MAGIC, 1, b.IN_OK, 32, 0, 0) + b"\0" * 8,
                   b.HEAD.pack(b.MAGIC, 1, b.IN_ACK, 32, 0, 5) + b"\0" * 8]
        for i, bytes_ in enumerate(garbage):
            p = self.box.adopt()
            if i % 2:
                p.hello(2)
                if bytes_[6:8] == struct.pack("<H", b.IN_ACK):
                    continue
                p.waiting.clear()
            p.sock.send(bytes_)
            while p.recv() is not None:
                pass
        p = self.box.adopt()
        self.assertEqual(set(p.hello(3)), {token})

    def test_a_full_socket_loses_no_event(self):
        p = self.p
        tokens = [p.spawn_message(["true"]) for _ in range(200)]
        time.sleep(1.0)  # nothing is read meanwhile: 400 messages do not fit
        for token in tokens:
            m = p.answer(token)
            self.assertEqual(m.type, b.IN_SPAWNED)
            for fd in m.fds:
                os.close(fd)
        for token in tokens:
            self.assertEqual(p.exited(token)[2], 0)


class Users(Case):
    def who(self, spec):
        m = self.p.user(spec)
        self.assertEqual(m.type, b.IN_USER_IS, m.tail)
        body, tail = m.body, m.tail
        text = lambda off, n: None if (off, n) == (0, 0) else tail[off:off + n].decode()
        return body[0], body[1], list(body[3:3 + body[2]]), text(*body[68:70]), text(*body[70:72])

    def test_users_are_looked_up_in_the_image(self):
        self.assertEqual(self.who(""), (0, 0, [0], "/root", "root"))
        self.assertEqual(self.who(None), (0, 0, [0], "/root", "root"))
        self.assertEqual(self.who("ada"), (1000, 1000, [1000, 10, 70], "/home/ada", "ada"))
        self.assertEqual(self.who("1001"), (1001, 1001, [1001, 10], "/", "bob"))
        self.assertEqual(self.who("ada:lab"), (1000, 70, [70], "/home/ada", "ada"))
        self.assertEqual(self.who("4242:4243"), (4242, 4243, [4243], "/", None))

    def test_odd_users_are_refused(self):
        for spec in ("0:0:0", "-1", "65536", "99999999999999999999", "ada:", "\u00e4da", "nobody-here", "ada:nogroup", "a b"):
            m = self.p.user(spec)
            self.assertEqual((m.type, m.body[1]), (b.IN_FAILED, b.ST_USER), spec)

    def test_a_passwd_that_is_no_file_is_refused(self):
        self.sh("rm=1; busybox mv /etc/passwd /etc/p; ln -s /proc/1/environ /etc/passwd")
        self.refused(self.p.user("ada"), 18)
        self.sh("busybox rm /etc/passwd; mkfifo /etc/passwd")
        self.refused(self.p.user("ada"), 22)
        self.sh("busybox rm /etc/passwd; ln -s p /etc/passwd")
        self.assertEqual(self.who("ada")[0], 1000)
        self.sh("busybox rm /etc/passwd; dd if=/dev/zero of=/etc/passwd bs=1M count=2 2>/dev/null")
        self.refused(self.p.user("ada"), 27)
        self.sh("busybox rm /etc/passwd")
        self.refused(self.p.user("ada"), 2)
        self.assertEqual(self.who("7:8")[:2], (7, 8))


class Files(Case):
    def opened(self, *args, **kw):
        m = self.p.open(*args, **kw)
        self.assertEqual(m.type, b.IN_OPENED, m)
        return m

    def test_errors_are_the_kernels(self):
        long = "/" + "/".join(["x" * 250] * 5)
        for path, flags, code in (("/none", b.READ, 2), ("/etc", b.READ, 21), ("/etc", b.WRITE, 21),
                                  ("/etc/passwd/x", b.READ, 20), ("/none/x", b.WRITE, 2), ("/" + "x" * 300, b.READ, 36),
                                  ("/" + "x/" * 2500, b.READ, 36), ("", b.READ, 2), ("/tmp/", b.WRITE, 21),
                                  ("/etc/passwd", b.WRITE | b.EXCL, 17), (long, b.READ, 2),
                                  ("/etc/passwd", b.READ | b.WRITE, 22), ("/etc/passwd", 0, 22)):
            self.refused(self.p.open(path, flags), code, b.ST_OPEN)
        self.sh("ln -s loop /tmp/loop")
        self.refused(self.p.open("/tmp/loop"), 40)
        self.sh("chmod 600 /etc/passwd")
        self.refused(self.p.open("/etc/passwd", uid=1000, gid=1000), 13)
        self.refused(self.p.open("/etc/new", b.WRITE, uid=1000, gid=1000), 13)
        self.sh("chmod 640 /etc/passwd; busybox chgrp 70 /etc/passwd")
        self.opened("/etc/passwd", uid=1000, gid=1000, groups=(70,))

    def test_a_file_of_somebody_else_in_tmp_can_be_written(self):
        # Not where O_CREAT is given too and fs.protected_regular is set, as Debian does.
        self.sh("busybox mkdir /tmp/s; echo old >/tmp/s/f; busybox chown 1000:1000 /tmp/s/f; busybox chmod 1777 /tmp/s")
        os.write(self.opened("/tmp/s/f", b.WRITE, 0o644).fds[0], b"new")
        self.assertEqual(self.sh("busybox stat -c %u:%s /tmp/s/f"), "1000:3\n")
        self.refused(self.p.open("/tmp/s/f", b.WRITE, uid=1001, gid=1001), 13)

    def test_paths_stay_inside_the_root(self):
        want = os.stat(os.path.join("/proc/%d/root" % self.box.pid, "etc/passwd")).st_ino
        for path in ("/etc/passwd", "//etc//passwd", "/../../etc/passwd", "../../../../etc/passwd", "/tmp/../etc/./passwd"):
            m = self.opened(path, cwd="/tmp")
            self.assertEqual(os.fstat(m.fds[0]).st_ino, want)
            os.close(m.fds[0])
        self.sh("ln -s /../../../etc/passwd /tmp/link; busybox touch /tmp/$(printf '\\377\\376')")
        self.assertEqual(os.fstat(self.opened("/tmp/link").fds[0]).st_ino, want)
        self.opened(b"/tmp/\xff\xfe")

    def test_magic_links_are_not_followed(self):
        self.sh("ln -s /proc/self/root/etc/passwd /tmp/m")
        for path in ("/proc/self/root/etc/passwd", "/proc/1/cwd/etc/passwd", "/proc/self/fd/3", "/proc/self/exe", "/tmp/m",
                     "/dev/fd/3", "/proc/self/cwd"):
            m = self.p.open(path)
            self.assertEqual(m.type, b.IN_FAILED, path)
            self.assertIn(-m.body[0], (40, 2, 13), path)

    def test_regular_files_come_as_themselves(self):
        m = self.opened("/tmp/a/b/file", b.WRITE | b.PARENTS, mode=0o640, uid=1000, gid=1001)
        self.assertEqual(m.body[2], 0)
        self.assertEqual(fcntl.fcntl(m.fds[0], fcntl.F_GETFL) & os.O_NONBLOCK, 0)
        os.write(m.fds[0], b"0123456789")
        os.close(m.fds[0])
        self.assertEqual(self.sh("ls -nd /tmp/a /tmp/a/b/file").split()[0:4:3] + self.sh("ls -n /tmp/a/b/file").split()[:5],
                         ["drwxr-xr-x", "1001", "-rw-r-----", "1", "1000", "1001", "10"])
        m = self.opened("b/file", cwd="/tmp/a")
        self.assertEqual((m.body[0], m.body[1] & 0o777, m.body[3], m.body[4]), (10, 0o640, 1000, 1001))
        self.assertLess(abs(m.body[5] - time.time_ns()), 60e9)
        self.assertEqual(os.read(m.fds[0], 100), b"0123456789")
        m = self.opened("/tmp/a/b/file", b.WRITE | b.APPEND)
        os.write(m.fds[0], b"x")
        self.assertEqual(self.sh("cat /tmp/a/b/file"), "0123456789x")
        m = self.opened("/tmp/a/b/file", b.WRITE)
        self.assertEqual(self.sh("cat /tmp/a/b/file"), "")
        m = self.opened("/tmp/sparse", b.WRITE)
        os.ftruncate(m.fds[0], 1 << 40)
        self.assertEqual(self.opened("/tmp/sparse").body[0], 1 << 40)

    def test_procfs_devices_and_fifos_are_pumped(self):
        m = self.opened("/proc/cpuinfo")
        self.assertEqual(m.body[2], 1)
        self.assertIn(b"processor", slurp(m.fds[0]))
        m = self.opened("/proc/self/status")  # as the sandbox's user, not as silicad
        self.assertIn(b"CapEff:\t00000000a80425fb", slurp(m.fds[0]))
        m = self.opened("/dev/zero", timeout_ms=1000)
        self.assertEqual(slurp(m.fds[0], limit=1 << 20)[:1 << 20], b"\0" * (1 << 20))
        self.sh("mkfifo /tmp/fifo")
        m = self.opened("/tmp/fifo")
        self.assertEqual(m.body[2], 1)
        self.sh("echo through > /tmp/fifo")
        self.assertEqual(slurp(m.fds[0]), b"through\n")
        m = self.opened("/tmp/fifo", b.WRITE)
        os.write(m.fds[0], b"back\n")
        os.close(m.fds[0])
        self.assertEqual(self.sh("cat /tmp/fifo"), "back\n")
        m = self.opened("/dev/null", b.WRITE)
        os.write(m.fds[0], b"x" * 60000)

    def test_a_fifo_nobody_opens_ends_with_its_deadline(self):
        self.sh("mkfifo /tmp/fifo")
        start = time.monotonic()
        m = self.opened("/tmp/fifo", timeout_ms=300)
        self.assertEqual(slurp(m.fds[0]), b"")
        self.assertLess(time.monotonic() - start, 3)
        m = self.opened("/tmp/fifo", b.WRITE, timeout_ms=300)
        self.assertEqual(select.select([], [], [m.fds[0]], 0.05)[2], [])
        poll = select.poll()
        poll.register(m.fds[0], 0)
        self.assertTrue(poll.poll(3000))  # POLLERR: nobody reads any more

    def test_a_pump_goes_with_its_reader(self):
        before = self.box.processes()
        fds = [self.opened("/dev/zero").fds[0] for _ in range(64)]
        self.refused(self.p.open("/etc/passwd"), 11, b.ST_LIMIT)
        for fd in fds:
            os.close(fd)
        self.assertTrue(eventually(lambda: self.box.processes() == before))
        self.opened("/etc/passwd")

    def test_sockets_and_running_programs_cannot_be_written(self):
        self.assertEqual(self.p.run(["/bin/probe", "socket", "/tmp/sock"])[1], 0)
        self.refused(self.p.open("/tmp/sock"), 6)
        self.refused(self.p.open("/tmp/sock", b.WRITE), 6)
        self.assertEqual(self.p.spawn(["sleep", "100"])[1].type, b.IN_SPAWNED)
        self.refused(self.p.open("/bin/busybox", b.WRITE), 26)

    def test_a_device_that_is_full_breaks_the_pipe(self):
        m = self.opened("/dev/full", b.WRITE)  # a device: the pipe takes it, then breaks
        os.write(m.fds[0], b"x")
        poll = select.poll()
        poll.register(m.fds[0], 0)
        self.assertTrue(poll.poll(3000))

    def test_a_swapped_link_never_leads_out(self):
        self.sh("mkdir -p /tmp/d1/etc; echo inside > /tmp/d1/etc/passwd; ln -s /tmp/d1 /tmp/x; chmod 711 /tmp/d1")
        token, m = self.p.spawn(["sh", "-c", "while :; do ln -sfn /tmp/d1 /tmp/x; ln -sfn / /tmp/x; ln -sfn ../.. /tmp/x; done"])
        allowed = {os.stat("/proc/%d/root/%s" % (self.box.pid, f)).st_ino for f in ("etc/passwd", "tmp/d1/etc/passwd")}
        for _ in range(300):
            m = self.p.open("/tmp/x/etc/passwd")
            if m.type == b.IN_OPENED:
                self.assertIn(os.fstat(m.fds[0]).st_ino, allowed)
                os.close(m.fds[0])
            else:
                self.assertIn(-m.body[0], (2, 11))
        self.p.kill(token, tree=1)


class Ports(Case):
    def test_a_closed_port_refuses_and_an_open_one_answers(self):
        self.refused(self.p.connect(0), 22)
        self.refused(self.p.connect(65536), 22)
        self.refused(self.p.connect(7777), 111)
        for family in ("greet4", "greet6"):
            token, m = self.p.spawn(["/bin/probe", family, "8000"])
            self.assertEqual(select.select([m.fds[0]], [], [], 5)[0], [m.fds[0]])
            m = self.p.connect(8000)
            self.assertEqual(m.type, b.IN_CONNECTED, m)
            self.assertEqual(slurp(m.fds[0]), b"hi\n")
            self.assertEqual(self.p.exited(token)[2], 0)


class Load(Case):
    def test_ten_thousand_orphans_are_reaped_while_init_answers(self):
        before = self.box.processes()
        token, m = self.p.spawn(["/bin/probe", "orphans", "10000"])
        worst = 0
        while True:
            start = time.monotonic()
            self.assertEqual(self.p.user("ada").type, b.IN_USER_IS)
            worst = max(worst, time.monotonic() - start)
            if any(m.type == b.IN_EXITED for m in self.p.waiting):
                break
        self.assertEqual(self.p.exited(token)[2], 0)
        self.assertTrue(eventually(lambda: self.box.processes() == before))
        self.assertLess(worst, 0.5)
        zombies = self.sh("cat /proc/[0-9]*/stat | grep -c ' Z ' || true")
        self.assertEqual(zombies, "0\n")

    def test_the_cost_of_an_exec(self):
        self.sh("/bin/probe bench 300")
        floor, floor99 = (float(x) for x in self.sh("/bin/probe bench 1000").split())
        bench = os.path.join(self.box.tmp, "bench")
        wire = [os.path.join(b.ROOT, "src", "wire", f) for f in ("wire.c", "sizes.c")]
        subprocess.check_call(["gcc", "-O2", "-D_GNU_SOURCE", "-I", os.path.join(b.ROOT, "src"), *wire,
                               os.path.join(b.HERE, "init_bench.c"), "-o", bench])
        sock = b.fcntl_dup(self.p.sock.fileno(), 20)
        out = subprocess.check_output([bench, "1000", "/bin/probe"], pass_fds=(3,), preexec_fn=lambda: os.dup2(sock, 3))
        os.close(sock)
        up, ended, ended99 = (float(x) for x in out.split())
        print("\nexec: floor p50 %.0f us, p99 %.0f us; through init: exec'd p50 %.0f us, ended p50 %.0f us, p99 %.0f us" % (
            floor, floor99, up, ended, ended99), file=sys.stderr)
        self.assertLess(ended - floor, 300)

    def test_nothing_is_left_after_many_processes(self):
        pid = self.box.pid

        def state():
            self.p.user("ada")  # what was sent before has been read
            lines = b.read_file("/proc/%d/status" % pid).splitlines()
            rss = [line for line in lines if line.startswith("VmRSS")][0].split()[1]
            return len(os.listdir("/proc/%d/fd" % pid)), int(rss)
        for _ in range(20):
            self.p.run(["true"])
        fds, rss = state()
        for i in range(300):
            self.p.run(["true"], kind=(EXEC, SESSION, BACKGROUND, MAIN)[i % 4])
            if i % 10 == 0:
                self.p.run(["true"], kind=BACKGROUND, flags=b.MERGE)
                m = self.p.open("/etc/passwd")
                os.close(m.fds[0])
        self.assertTrue(eventually(lambda: self.box.cgroups() == []))
        after = state()
        self.assertEqual(after[0], fds)
        self.assertLess(after[1] - rss, 64)
        print("\ninit: %d KiB resident, %d fds" % after[::-1], file=sys.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
