"""Commands: results, streams, stdin, timeouts, terminals."""
import asyncio
import hashlib
import os
import time

import cwsandbox
import pytest
from cwsandbox import Sandbox

CLIENT = os.environ.get("SILICA_CLIENT", "cwsandbox-newest")

# Kills the processes whose command line has the argument.
KILL = """import os, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    args = open(f"/proc/{pid}/cmdline").read().split("\\0")
    if sys.argv[1] in args and int(pid) != os.getpid():
        os.kill(int(pid), 9)
"""


def command_lines(box):
    return run(box, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").stdout


def run(box, *argv, **kwargs):
    return box.exec(list(argv), **kwargs).result()


def test_stdout_stderr_and_code_are_separate(box):
    r = run(box, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (r.stdout, r.stderr, r.returncode) == ("out\n", "err\n", 7)


def test_check_raises_with_the_result(box):
    with pytest.raises(cwsandbox.SandboxExecutionError) as e:
        run(box, "sh", "-c", "echo why >&2; exit 3", check=True)
    assert e.value.exec_result.returncode == 3
    assert "why" in e.value.exec_result.stderr


def test_a_missing_program_is_127_with_words(box):
    r = run(box, "no-such-program")
    assert r.returncode == 127
    assert "no-such-program" in r.stderr


def test_a_file_that_is_not_executable_is_126(box):
    r = run(box, "/etc/passwd")
    assert r.returncode == 126
    assert "/etc/passwd" in r.stderr


def test_a_signal_is_128_plus_its_number(box):
    assert run(box, "sh", "-c", "kill -9 $$").returncode == 137
    assert run(box, "sh", "-c", "kill -15 $$").returncode == 143


def test_cwd(box):
    assert run(box, "pwd", cwd="/usr/lib").stdout == "/usr/lib\n"
    assert run(box, "pwd", cwd="/no/such").returncode != 0


def test_environment_of_the_sandbox_reaches_every_command(box):
    assert run(box, "printenv", "LEVEL").stdout == "sandbox\n"
    assert run(box, "sh", "-c", "echo $HOME $PATH").stdout.startswith("/root /usr/local")


def test_arguments_arrive_as_they_are(box):
    args = ["a b", "", "$HOME", "*", "\"'\\", "é€😀", "-n", "x" * 100_000]
    r = run(box, "python", "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *args)
    import json

    assert json.loads(r.stdout) == args


def test_stdin_is_fed_and_ended(box):
    p = box.exec(["sha256sum"], stdin=True)
    data = bytes(range(256)) * 4096
    for i in range(0, len(data), 100_000):
        p.stdin.write(data[i : i + 100_000]).result()
    p.stdin.close().result()
    assert p.result().stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_without_stdin_a_reader_sees_the_end_at_once(box):
    started = time.monotonic()
    assert run(box, "cat").returncode == 0
    assert time.monotonic() - started < 5


def test_a_program_may_end_before_its_input_does(box):
    p = box.exec(["head", "-c", "5"], stdin=True)
    p.stdin.write(b"0123456789").result()
    assert p.result().stdout == "01234"


def test_large_output_arrives_whole_and_in_order(box):
    r = run(box, "python", "-c", "import sys\nfor i in range(400000): sys.stdout.write(f'{i:07d} line of text\\n')")
    lines = r.stdout.splitlines()
    assert len(lines) == 400_000
    assert all(line == f"{i:07d} line of text" for i, line in enumerate(lines))


def test_binary_output_is_exact(box):
    r = run(box, "python", "-c", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)")
    assert r.stdout_bytes == bytes(range(256)) * 1000


def test_one_small_write_is_one_chunk_when_it_is_written(box):
    p = box.exec(["python", "-c", "import time\nfor i in range(4):\n  print(i, flush=True); time.sleep(0.4)"])
    times, chunks = [], []
    for chunk in p.stdout:
        times.append(time.monotonic())
        chunks.append(chunk)
    assert chunks == ["0\n", "1\n", "2\n", "3\n"]
    assert times[-1] - times[0] > 0.9


def test_a_background_child_does_not_hold_the_command(box):
    started = time.monotonic()
    r = run(box, "sh", "-c", "sleep 4700 & echo done")
    assert r.stdout == "done\n"
    assert time.monotonic() - started < 10
    assert "sleep 4700" in command_lines(box)  # and it lives on
    run(box, "python", "-c", KILL, "4700")
    assert "sleep 4700" not in command_lines(box)


def test_a_timeout_kills_the_whole_tree(box):
    with pytest.raises(cwsandbox.SandboxTimeoutError):
        run(box, "sh", "-c", "(setsid sleep 4711 &) ; setsid setsid sleep 4712 & sleep 4713", timeout_seconds=1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = command_lines(box)
        if "sleep 471" not in left:
            break
        time.sleep(0.1)
    assert "sleep 471" not in left


def test_many_commands_at_once(box):
    procs = [box.exec(["sh", "-c", f"echo {i}; exit {i % 7}"]) for i in range(60)]
    for i, p in enumerate(procs):
        r = p.result()
        assert (r.stdout, r.returncode) == (f"{i}\n", i % 7)


def test_async_use(daemon):
    async def program():
        async with Sandbox.run() as sb:
            r = await sb.exec(["echo", "hello"])
            out = []
            p = sb.exec(["sh", "-c", "echo a; echo b"])
            if CLIENT == "cwsandbox-1.6.0":
                # Its reader waits on a queue of another event loop: only what is there before the first await arrives.
                await p
            async for chunk in p.stdout:
                out.append(chunk)
            return r.stdout, "".join(out)

    assert asyncio.run(program()) == ("hello\n", "a\nb\n")


def test_a_terminal_has_a_size_echoes_and_ends(box):
    t = box.shell(["/bin/bash", "--norc"], width=101, height=31)
    t.stdin.write(b"stty size; echo code-$((40+2))\n").result()
    seen = b""
    for chunk in t.output:
        if b"code-42" in seen + chunk and b"code-42" not in seen:
            t.resize(77, 22)
            t.stdin.write(b"stty size; exit 5\n").result()
        seen += chunk
    assert t.wait() == 5
    assert b"31 101" in seen
    assert b"22 77" in seen


def test_unknown_and_ended_sandboxes_have_their_errors(daemon):
    with pytest.raises(cwsandbox.SandboxNotFoundError):
        Sandbox.from_id("sb-00000000000000000000000000").result()
    sb = Sandbox.run("true")
    sb.wait_until_complete(timeout=20).result()
    with pytest.raises(cwsandbox.SandboxError) as e:
        Sandbox.from_id(sb.sandbox_id).result().exec(["true"]).result()
    assert sb.sandbox_id in str(e.value)
    sb.stop(missing_ok=True).result()
