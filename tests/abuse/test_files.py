"""E: the file calls against names, links and kinds of files that were made to hurt."""
import os
import time

import grpc
import pytest
from support.client import Background, reason_of

FAILED = {"CWSANDBOX_FILE_NOT_FOUND", "CWSANDBOX_FILE_PERMISSION_DENIED", "CWSANDBOX_FILE_IO_FAILED", "CWSANDBOX_FILE_IS_DIRECTORY",
          "CWSANDBOX_FILE_TOO_LARGE"}


def field(number, data):
    out, n = bytearray([number << 3 | 2]), len(data)
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out) + bytes([n]) + data


def raw(client, method, box, path, content=None):
    """A call with a path of any bytes, which the message classes would not send."""
    call = client.channel.unary_unary(f"/coreweave.sandbox.v1.SandboxService/{method}")
    message = field(1, box.encode()) + field(2, path) + (field(3, content) if content is not None else b"")
    return call(message, timeout=20)


def refused(call, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as e:
        call(*args, **kwargs)
    return reason_of(e.value)


NAMES = [b"/tmp/../tmp/./a", b"//tmp///b", b"/tmp/\xff\xfe\x80", b"/tmp/new\nline", b"/tmp/ ", b"/tmp/-rf", b"/tmp/" + b"n" * 255, b"/../../../../../tmp/c",
         b"/tmp/" + "é😀".encode(), b"/tmp/\x01\x7f\x1b[31m", b"/tmp/.../x", b"/tmp/a b\\c\"d'e$f`g"]


@pytest.mark.parametrize("path", NAMES, ids=range(len(NAMES)))
def test_e1_names_are_taken_as_they_are_or_refused(client, box, path):
    content = os.urandom(100)
    try:
        raw(client, "WriteFile", box, path, content)
    except grpc.RpcError as e:
        code, reason, _, message = reason_of(e)
        assert code == grpc.StatusCode.INVALID_ARGUMENT and message and b"\xff" in path, (path, code, message)
        return
    assert raw(client, "ReadFile", box, path) == field(1, content)
    # The same file is seen from inside, under the very name.
    name = path.replace(b"/../../../../..", b"")
    script = b"cat '" + name.replace(b"'", b"'\\''") + b"'"
    if b"\xff" not in path:
        assert client.exec(box, "sh", "-c", script.decode()).out == content


@pytest.mark.parametrize("path", [b"", b"/tmp/a\0b", b"\0", b"/tmp/" + b"n" * 256, b"/" + b"d/" * 2100, b"/tmp/" + b"x" * 100_000, b"/tmp/dir/", b"/", b"/tmp", b"/tmp/.", b"/tmp/.."],
                         ids=range(11))
def test_e1_names_that_name_no_file_are_refused(client, box, path):
    client.sh(box, "mkdir /tmp/dir")
    for method in ("ReadFile", "WriteFile"):
        code, reason, _, message = refused(raw, client, method, box, path, b"x" if method == "WriteFile" else None)
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED), (code, message)
        assert message
    assert client.sh(box, "ls -A /tmp") == "dir\n"


@pytest.mark.timeout(120)
def test_e2_links_swapped_under_a_call_never_lead_out(client, daemon, box, work):
    """What is swapped are links to the host's own path of a file; the calls land inside the sandbox or fail."""
    canary = str(daemon.base / "canary")
    client.sh(box, f"""mkdir -p /race/dir /race/in{daemon.base}; echo inside > /race/dir/canary; ln -s {daemon.base} /race/link
        ln -s /proc/1/root{daemon.base} /race/magic; ln -s {canary} /race/file-link; echo inside > /race/file""")
    swappers = [client.stream(box, "/probe", "swap", a, b, "12", half_close=True) for a, b in (("/race/dir", "/race/link"), ("/race/file", "/race/file-link"), ("/race/dir", "/race/magic"))]
    for s in swappers:
        s.ready()
    end, reads, failures = time.monotonic() + 10, 0, 0
    while time.monotonic() < end:
        for path in ("/race/dir/canary", "/race/link/canary", "/race/file", "/race/file-link", "/race/magic/canary"):
            try:
                content = client.read(box, path)
                assert content in (b"inside\n", b"written\n", b""), content
                reads += 1
            except grpc.RpcError as e:
                assert reason_of(e)[1] in FAILED, e
                failures += 1
            try:
                client.write(box, path, b"written\n")
            except grpc.RpcError as e:
                assert reason_of(e)[1] in FAILED, e
    assert reads > 200 and failures > 0
    for s in swappers:
        assert int(s.result().text.split(": ")[1]) > 1000


@pytest.mark.parametrize("path", ["/proc/self/root/etc/passwd", "/proc/1/root/etc/passwd", "/proc/1/cwd/etc/passwd", "/proc/self/cwd/etc/passwd", "/dev/fd/0", "/dev/fd/3",
                                  "/proc/self/fd/3", "/proc/1/fd/3", "/proc/self/exe", "/proc/1/exe", "/proc/1/mem", "/proc/self/mem", "/dev/stdin"])
def test_e3_magic_links_are_not_followed(client, box, path):
    for call, args in ((client.read, ()), (client.write, (b"x",))):
        code, reason, _, message = refused(call, box, path, *args)
        assert reason in FAILED, (path, reason, message)


@pytest.mark.timeout(90)
def test_e4_kinds_of_files_that_are_none(client, box):
    client.sh(box, "mkfifo /tmp/fifo /tmp/fifo2; /probe bind /tmp/socket; ln -s /dev/zero /tmp/zero; ln -s loop /tmp/loop; ln -s /dev/tty /tmp/tty; true")
    waiting = {}
    for path in ("/tmp/fifo", "/tmp/socket", "/tmp/zero", "/dev/zero", "/dev/random", "/tmp/loop", "/tmp/tty", "/dev/ptmx", "/dev/full"):
        waiting["read", path] = Background(refused, client.read, box, path)
        if path not in ("/tmp/fifo", "/tmp/zero", "/dev/zero", "/dev/random", "/dev/ptmx"):  # taking bytes is what these are for
            waiting["write", path] = Background(refused, client.write, box, path, b"x")
    waiting["write", "/tmp/fifo2"] = Background(refused, client.write, box, "/tmp/fifo2", b"x")  # not the one that somebody reads
    started = time.monotonic()
    for what, call in waiting.items():
        code, reason, _, message = call.join()
        assert reason in FAILED, (what, code, reason, message)  # ours: a deadline of the client's has no reason
    assert time.monotonic() - started < 15
    assert client.exec(box, "echo", "alive").out == b"alive\n"


def test_e4_a_file_of_proc_is_read_whole_although_its_size_is_zero(client, box):
    assert client.read(box, "/proc/version").startswith(b"Linux version")
    assert b"Name:" in client.read(box, "/proc/self/status")
    assert len(client.read(box, "/proc/kallsyms")) > 100_000


def test_e4_a_file_larger_than_the_world(client, box):
    client.sh(box, "dd if=/dev/null of=/tmp/sparse bs=1 seek=15T 2>/dev/null || dd if=/dev/null of=/tmp/sparse bs=1M seek=200 2>/dev/null")
    code, reason, meta, message = refused(client.read, box, "/tmp/sparse")
    assert reason == "CWSANDBOX_FILE_TOO_LARGE"
    assert int(meta["size_bytes"]) > 32 << 20 and int(meta["max_size_bytes"]) == 32 << 20


@pytest.mark.timeout(60)
def test_e4_files_that_grow_and_shrink_while_they_are_read(client, box):
    client.sh(box, "dd if=/dev/zero of=/tmp/f bs=1M count=20 2>/dev/null")
    s = client.stream(box, "sh", "-c", "echo on; while :; do : > /tmp/f; dd if=/dev/zero of=/tmp/f bs=1M count=25 2>/dev/null; done")
    s.until(b"on")
    end = time.monotonic() + 5
    n = 0
    while time.monotonic() < end:
        content = client.read(box, "/tmp/f")
        assert content.count(0) == len(content) <= 25 << 20
        n += 1
    assert n > 5
    s.cancel()


def test_e4_a_fifo_does_not_hold_up_other_calls(client, box):
    client.sh(box, "mkfifo /tmp/fifo")
    waiting = [Background(lambda: refused(client.read, box, "/tmp/fifo", timeout=20)) for _ in range(8)]
    started = time.monotonic()
    for i in range(20):
        client.write(box, "/tmp/x", b"%d" % i)
        assert client.read(box, "/tmp/x") == b"%d" % i
    assert time.monotonic() - started < 5
    for w in waiting:
        assert w.join()[1] in FAILED


def test_e8_setuid_and_owner_of_a_written_file(client, box):
    client.sh(box, "echo old > /tmp/s; chown 1000:1000 /tmp/s; chmod 4755 /tmp/s")
    client.write(box, "/tmp/s", b"new")
    mode, uid = client.sh(box, "stat -c '%a %u' /tmp/s").split()
    assert uid in ("1000", "0") and int(mode, 8) & 0o6000 == 0 or uid == "1000"
    client.write(box, "/tmp/fresh", b"x")
    assert client.sh(box, "stat -c '%a %u:%g' /tmp/fresh") == "644 0:0\n"


