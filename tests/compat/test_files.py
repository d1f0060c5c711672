"""Files through the unary calls and through the clients' streaming scripts."""
import hashlib
import os

import cwsandbox
import pytest


def test_round_trip_of_any_bytes(box):
    data = bytes(range(256)) * 100
    box.write_file("/tmp/deep/er/file.bin", data).result()
    assert box.read_file("/tmp/deep/er/file.bin").result() == data


def test_empty_file(box):
    box.write_file("/tmp/empty", b"").result()
    assert box.read_file("/tmp/empty").result() == b""


def test_overwrite_shortens(box):
    box.write_file("/tmp/f", b"long content").result()
    box.write_file("/tmp/f", b"x").result()
    assert box.read_file("/tmp/f").result() == b"x"


@pytest.mark.parametrize("size", [5 << 20, 31 << 20, 64 << 20])
def test_large_files(box, size):
    data = os.urandom(1 << 20) * (size >> 20)
    box.write_file("/tmp/large", data).result()
    assert box.exec(["sha256sum", "/tmp/large"]).result().stdout.split()[0] == hashlib.sha256(data).hexdigest()
    got = box.read_file("/tmp/large").result()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    box.exec(["rm", "/tmp/large"]).result()


def test_streaming_both_ways(box):
    if not hasattr(box, "write_file_streaming"):
        return
    pieces = [os.urandom(300_000) for _ in range(40)]
    box.write_file_streaming("/tmp/streamed", pieces).result()
    assert b"".join(box.read_file_streaming("/tmp/streamed")) == b"".join(pieces)


@pytest.mark.parametrize(
    "path, reason",
    [("/no/such/file", "FILE_NOT_FOUND"), ("/etc", "FILE_IS_DIRECTORY")],
)
def test_errors_name_file_and_reason(box, path, reason):
    with pytest.raises(cwsandbox.CWSandboxError) as e:
        box.read_file(path).result()
    assert path in str(e.value)
    assert reason in str(getattr(e.value, "reason", ""))


def test_proc_files_have_content_though_their_size_is_zero(box):
    assert b"processor" in box.read_file("/proc/cpuinfo").result()


def test_symlinks_stay_inside(box):
    box.exec(["ln", "-sf", "/../../../../etc/hostname", "/tmp/link"]).result()
    assert box.read_file("/tmp/link").result() == box.exec(["cat", "/etc/hostname"]).result().stdout_bytes
