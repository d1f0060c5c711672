"""Namespaces, a root file system and a cgroup around silica-init, and the silicad side of its protocol.

Needs root. Everything made here is removed by Box.close(): the cgroups by path, the processes by the cgroup's own
cgroup.kill, the files with the temporary directory."""

import array
import collections
import ctypes
import fcntl
import itertools
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("SILICA_BUILD", os.path.join(ROOT, "build"))
INIT = os.environ.get("SILICA_INIT", os.path.join(BUILD, "silica-init"))
UID_BASE = 1900000000  # far from the ranges real sandboxes get

IN_HELLO, IN_USER, IN_SPAWN, IN_KILL, IN_ACK, IN_OPEN, IN_CONNECT, IN_CLOSE_STDIN = range(1, 9)
(IN_TABLE, IN_ENTRY, IN_USER_IS, IN_SPAWNED, IN_EXITED, IN_OPENED, IN_CONNECTED, IN_OK, IN_FAILED) = range(64, 73)
MAIN, EXEC, SESSION, BACKGROUND, TERMINAL = range(1, 6)
STDIN, TTY, MERGE, NNP = 1, 2, 4, 8
READ, WRITE, PARENTS, APPEND, EXCL = 1, 2, 4, 8, 16
ST_OTHER, ST_FORK, ST_CWD, ST_USER, ST_EXEC, ST_OPEN, ST_LIMIT = range(7)
EXITED, SIGNALED = 1, 2

MAGIC, VERSION, INLINE = 0x51C1CA01, 1, 64 << 10
HEAD = struct.Struct("<IHHIIQ")
BODIES = {
    IN_TABLE: struct.Struct("<QII"), IN_ENTRY: struct.Struct("<IIiI"), IN_USER_IS: struct.Struct("<3I64II2I2I"),
    IN_SPAWNED: struct.Struct("<iI"), IN_EXITED: struct.Struct("<iIiIQQQQQ"), IN_OPENED: struct.Struct("<QIIIIQ"),
    IN_CONNECTED: struct.Struct("<II"), IN_OK: struct.Struct("<II"), IN_FAILED: struct.Struct("<iIII"),
}
Msg = collections.namedtuple("Msg", "type token body tail fds")

libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18


def check(result, what):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, "%s: %s" % (what, os.strerror(code)))
    return result


def write_file(path, text):
    with open(path, "w") as f:
        f.write(text)


def read_file(path, mode="r"):
    with open(path, mode) as f:
        return f.read()


def mount(source, target, kind, flags=0, data=None):
    enc = lambda s: None if s is None else s.encode()
    check(libc.mount(enc(source), enc(target), enc(kind), flags, enc(data)), "mount " + target)


class Tail:
    def __init__(self):
        self.data = b""

    def str(self, s):
        if s is None:
            return (0, 0)
        if isinstance(s, str):
            s = s.encode()
        if not self.data:
            self.data = b"\0"
        off = len(self.data)
        self.data += s + b"\0"
        return (off, len(s))

    def vec(self, items):
        off = len(self.data)
        joined = b"".join((i.encode() if isinstance(i, str) else i) + b"\0" for i in items)
        self.data += joined
        return (off, len(items), len(joined))


class Peer:
    """silicad's end of one control socket."""

    tokens = itertools.count(1000)  # unique also across connections

    def __init__(self, sock):
        self.sock = sock
        self.waiting = collections.deque()

    def send(self, kind, token, body, tail=b"", fds=()):
        fds = list(fds)
        flags = 0
        if len(tail) > INLINE:
            fd = os.memfd_create("tail", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.write(fd, tail)
            fcntl.fcntl(fd, 1033, 15)  # all four seals
            fds.append(fd)
            flags, tail = 1, b""
        data = HEAD.pack(MAGIC, VERSION, kind, HEAD.size + len(body) + len(tail), flags, token) + body + tail
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], anc)
        if flags:
            os.close(fds[-1])

    def recv(self, timeout=10):
        """The next message, or None at end of file."""
        if not select.select([self.sock], [], [], timeout)[0]:
            raise TimeoutError("init said nothing")
        data, anc, flags, _ = self.sock.recvmsg(INLINE + 4096, socket.CMSG_SPACE(8 * 4), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None
        assert flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) == 0
        fds = []
        for _, _, raw in anc:
            fds += array.array("i", raw[:len(raw) // 4 * 4]).tolist()
        magic, version, kind, size, _, token = HEAD.unpack_from(data)
        assert (magic, version, size) == (MAGIC, VERSION, len(data))
        body = BODIES[kind]
        return Msg(kind, token, body.unpack_from(data, HEAD.size), data[HEAD.size + body.size:], fds)

    def want(self, match, timeout=10):
        for m in self.waiting:
            if match(m):
                self.waiting.remove(m)
                return m
        deadline = time.monotonic() + timeout
        while True:
            m = self.recv(max(0.01, deadline - time.monotonic()))
            if m is None:
                raise EOFError("init closed the connection")
            if match(m):
                return m
            self.waiting.append(m)

    def answer(self, token, timeout=10):
        return self.want(lambda m: m.token == token and m.type != IN_EXITED, timeout)

    def exited(self, token, timeout=10):
        return self.want(lambda m: m.token == token and m.type == IN_EXITED, timeout).body

    def hello(self, epoch):
        self.send(IN_HELLO, 0, struct.pack("<Q", epoch))
        table = self.want(lambda m: m.type == IN_TABLE)
        entries = {}
        for _ in range(table.body[1]):
            m = self.recv()
            assert m.type == IN_ENTRY, m
            entries[m.token] = m
        return entries

    def next_token(self):
        self.token = next(Peer.tokens)
        return self.token

    def spawn_message(self, argv, kind=EXEC, flags=0, uid=0, gid=0, groups=(), env=("PATH=/bin",), cwd="/", cwd_create=0,
                      rows=24, cols=80, token=None):
        token = self.next_token() if token is None else token
        tail = Tail()
        body = struct.pack("<5I", kind, flags, uid, gid, len(groups))
        body += struct.pack("<64I", *(tuple(groups) + (0,) * 64)[:64])
        body += struct.pack("<2H", rows, cols)
        body += struct.pack("<2I", *tail.str(cwd)) + struct.pack("<I", cwd_create)
        body += struct.pack("<3I", *tail.vec(argv)) + struct.pack("<3I", *tail.vec(env))
        self.send(IN_SPAWN, token, body, tail.data)
        return token

    def spawn(self, argv, **kw):
        token = self.spawn_message(argv, **kw)
        return token, self.answer(token)

    def ack(self, token):
        self.send(IN_ACK, token, struct.pack("<Q", 0))

    def run(self, argv, **kw):
        """Runs to the end. Returns (cause, code, stdout, stderr)."""
        token, m = self.spawn(argv, **kw)
        assert m.type == IN_SPAWNED, (m, m.tail)
        out = [slurp(fd) for fd in m.fds]
        end = self.exited(token)
        self.ack(token)
        return (end[1], end[2]) + tuple(out)

    def kill(self, token, signal=15, tree=0):
        self.send(IN_KILL, token, struct.pack("<II", signal, tree))
        return self.answer(token).type

    def open(self, path, flags=READ, mode=0, uid=0, gid=0, groups=(), cwd=None, timeout_ms=0):
        token, tail = self.next_token(), Tail()
        body = struct.pack("<5I", flags, mode, uid, gid, len(groups))
        body += struct.pack("<64I", *(tuple(groups) + (0,) * 64)[:64]) + struct.pack("<I", timeout_ms)
        body += struct.pack("<2I", *tail.str(path)) + struct.pack("<2I", *tail.str(cwd))
        self.send(IN_OPEN, token, body, tail.data)
        return self.answer(token)

    def user(self, spec):
        token, tail = self.next_token(), Tail()
        body = struct.pack("<2I", *tail.str(spec))
        self.send(IN_USER, token, body, tail.data)
        return self.answer(token)

    def connect(self, port, timeout_ms=0):
        token = self.next_token()
        self.send(IN_CONNECT, token, struct.pack("<II", port, timeout_ms))
        return self.answer(token)


def slurp(fd, timeout=20, limit=1 << 30):
    """Reads a non-blocking fd to its end and closes it."""
    data = b""
    deadline = time.monotonic() + timeout
    while len(data) < limit:
        if not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
            os.close(fd)
            raise TimeoutError("no end of file after %r" % data[-200:])
        try:
            chunk = os.read(fd, 65536)
        except OSError:  # EIO: a pty whose other end is gone
            chunk = b""
        if not chunk:
            break
        data += chunk
    os.close(fd)
    return data


def cgroup2():
    for line in read_file("/proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        if right.split()[0] == "cgroup2":
            return left.split()[4]
    return None


def cgroup1(controller):
    for line in read_file("/proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        fields = right.split()
        if fields[0] == "cgroup" and controller in fields[2].split(","):
            return left.split()[4]
    return None


class Box:
    # A filter with something to find in it: mount(2) is EPERM.
    PROGRAM = b"".join(struct.pack("<HBBI", *i) for i in
                       ((0x20, 0, 0, 0), (0x15, 0, 1, 165), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))

    def __init__(self, pids_max=None):
        self.tmp = tempfile.mkdtemp(prefix="silica-init-test-")
        self.name = "silica-init-test-%d" % os.getpid()
        self.cg = os.path.join(cgroup2(), self.name)
        self.cg1 = None
        self.pids_max = pids_max
        self.pid = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def make_cgroups(self):
        box = os.path.join(self.cg, "box")
        os.mkdir(self.cg)
        if "pids" in read_file(os.path.join(self.cg, "cgroup.controllers")).split():
            write_file(os.path.join(self.cg, "cgroup.subtree_control"), "+pids")
        os.mkdir(box)
        for f in ("", "cgroup.procs", "cgroup.threads"):
            os.chown(os.path.join(box, f), UID_BASE, UID_BASE)
        if self.pids_max is not None:
            if os.path.exists(os.path.join(box, "pids.max")):
                write_file(os.path.join(box, "pids.max"), str(self.pids_max))
            else:
                self.cg1 = os.path.join(cgroup1("pids"), self.name)
                os.mkdir(self.cg1)
                write_file(os.path.join(self.cg1, "pids.max"), str(self.pids_max))
        self.box = box

    def make_files(self):
        self.root = os.path.join(self.tmp, "root")
        os.mkdir(self.root)
        os.chmod(self.tmp, 0o755)
        self.probe = os.path.join(self.tmp, "probe")
        subprocess.check_call(["musl-gcc", "-static", "-O1", "-s", os.path.join(HERE, "init_probe.c"), "-o", self.probe])
        self.seccomp = os.memfd_create("filter", os.MFD_CLOEXEC)
        program = os.environ.get("SILICA_INIT_FILTER")  # a file with another program, such as the spawner's
        os.write(self.seccomp, read_file(program, "rb") if program else self.PROGRAM)
        self.listen_path = os.path.join(self.tmp, "listen")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.listen_path)
        self.listener.listen(8)

    def start(self):
        self.make_files()
        self.make_cgroups()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ask_r, ask_w = os.pipe()   # child: "map me"
        go_r, go_w = os.pipe()     # parent: "mapped"
        pid_r, pid_w = os.pipe()   # child: errors; end of file means init was executed
        child = os.fork()
        if child == 0:
            try:
                self.child(theirs, ask_w, go_r, pid_w)
            except BaseException as e:
                os.write(pid_w, ("%s: %s" % (type(e).__name__, e)).encode())
            os._exit(1)
        for fd in (ask_w, go_r, pid_w):
            os.close(fd)
        self.waiter = child
        theirs.close()
        self.listener.close()
        if os.read(ask_r, 1):
            for f in ("uid_map", "gid_map"):
                write_file("/proc/%d/%s" % (child, f), "0 %d 65536" % UID_BASE)
            os.write(go_w, b"x")
        error = slurp(pid_r)
        for fd in (ask_r, go_w):
            os.close(fd)
        if error:
            raise RuntimeError("sandbox: " + error.decode())
        for pid in read_file(os.path.join(self.box, "cgroup.procs")).split():
            if read_file("/proc/%s/comm" % pid) == "silica-init\n":
                self.pid = int(pid)
        self.peer = Peer(ours)

    def child(self, control, ask_w, go_r, pid_w):
        init = os.open(INIT, os.O_RDONLY | os.O_CLOEXEC)
        busybox, probe = read_file("/bin/busybox", "rb"), read_file(self.probe, "rb")
        cg = os.open(self.box, os.O_RDONLY | os.O_DIRECTORY)
        if self.cg1:
            write_file(os.path.join(self.cg1, "cgroup.procs"), "0")
        # The sandbox's own directory is the root of its cgroup namespace: it holds both init and the processes' children.
        write_file(os.path.join(self.box, "cgroup.procs"), "0")
        check(libc.unshare(NEWCGROUP), "unshare")
        check(libc.unshare(NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS), "unshare")
        os.write(ask_w, b"x")
        os.read(go_r, 1)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        if os.fork() != 0:
            os.close(pid_w)
            os.closerange(3, 1000)
            os.wait()
            os._exit(0)
        self.rootfs(busybox, probe)
        subprocess_lo()
        files = [control.fileno(), cg, self.seccomp, self.listener.fileno(), init, pid_w]
        high = [fcntl_dup(fd, 100) for fd in files]
        for target, fd in zip((3, 4, 5, 6), high):
            os.dup2(fd, target, inheritable=True)
        null = os.open("/dev/null", os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(null, target, inheritable=True)
        os.execve(high[4], ["silica-init"], {})

    def rootfs(self, busybox, probe):
        r = self.root
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        mount("tmpfs", r, "tmpfs", 0, "mode=755")
        for d in ("bin", "proc", "dev", "dev/pts", "etc", "tmp", "old", "home", "root"):
            os.mkdir(os.path.join(r, d), 0o755)
        os.chmod(os.path.join(r, "tmp"), 0o1777)
        for name, data in (("busybox", busybox), ("probe", probe)):
            with open(os.path.join(r, "bin", name), "wb") as f:
                f.write(data)
            os.chmod(os.path.join(r, "bin", name), 0o755)
        for name in ("sh", "sleep", "cat", "ls", "id", "grep", "readlink", "setsid", "kill", "mkfifo", "stty", "echo",
                     "pwd", "wc", "nc", "ps", "true", "chmod", "ln", "dd", "mkdir", "mount", "tty"):
            os.symlink("busybox", os.path.join(r, "bin", name))
        write_file(os.path.join(r, "etc/passwd"), 
            "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n")
        write_file(os.path.join(r, "etc/group"), "root:x:0:\nada:x:1000:\nwheel:x:10:ada,bob\nlab:x:70:ada\n")
        for dev in ("null", "zero", "full"):
            p = os.path.join(r, "dev", dev)
            write_file(p, "")
            mount("/dev/" + dev, p, None, MS_BIND)
        mount("devpts", os.path.join(r, "dev/pts"), "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
        os.symlink("pts/ptmx", os.path.join(r, "dev/ptmx"))
        mount("proc", os.path.join(r, "proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        os.chdir(r)
        check(libc.pivot_root(b".", b"old"), "pivot_root")
        os.chdir("/")
        check(libc.umount2(b"/old", 2), "umount old root")
        os.rmdir("/old")

    def adopt(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(self.listen_path)
        return Peer(s)

    def cgroups(self):
        return sorted(d for d in os.listdir(self.box) if os.path.isdir(os.path.join(self.box, d)))

    def processes(self):
        n = 0
        for d, _, files in os.walk(self.box):
            if "cgroup.procs" in files:
                try:
                    n += len(read_file(os.path.join(d, "cgroup.procs")).split())
                except OSError:
                    pass  # removed while we looked
        return n

    def close(self):
        if os.path.isdir(self.cg):
            try:
                write_file(os.path.join(self.cg, "cgroup.kill"), "1")
            except OSError:
                pass
        if hasattr(self, "peer"):
            self.peer.sock.close()
        if getattr(self, "waiter", None):
            os.waitpid(self.waiter, 0)
        for _ in range(200):
            if self.remove_cgroups():
                break
            time.sleep(0.02)
        shutil.rmtree(self.tmp, ignore_errors=True)
        for f in ("seccomp",):
            if hasattr(self, f):
                os.close(getattr(self, f))

    def remove_cgroups(self):
        try:
            for top in (self.cg, self.cg1):
                if top and os.path.isdir(top):
                    for d, _, _ in sorted(os.walk(top), reverse=True):
                        os.rmdir(d)
            return True
        except OSError:
            return False


def fcntl_dup(fd, lowest):
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def subprocess_lo():
    """lo up, as the spawner's pooled network namespaces have it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))
