"""The CWSandbox dialect as a careful client sees it: codes, details, limits, flow control. The wire's own abuse is tested with src/net."""
import gzip
import http.client
import socket
import time

import grpc
import pytest
from support.client import OPTIONS, Background, Client, Stream, discovery, pb, reason_of
from support.daemon import Daemon

SERVICE = "/coreweave.sandbox.v1.SandboxService/"
UNKNOWN = "sb-00000000000000000000000000"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def daemon(give_images):
    with Daemon("--default-disk", "128M") as d:
        yield give_images(d)


@pytest.fixture(scope="module")
def client(daemon):
    with Client(daemon.url) as c:
        yield c


@pytest.fixture(scope="module")
def box(client):
    return client.create(image="probe")


def refused(call, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as e:
        r = call(*args, **kwargs)
        list(r) if hasattr(r, "__next__") else None
    return reason_of(e.value)


def raw(client, path, *messages):
    """Unary call with bytes as they are."""
    return client.channel.unary_unary(path)(b"".join(messages), timeout=20)


# ---- what is not there

@pytest.mark.parametrize("path", [SERVICE + "NoSuchMethod", "/no.such.Service/Get", SERVICE + "PurgeSandboxes", SERVICE + "CreateSandboxFromTemplate",
                                  SERVICE + "ConnectSandbox", "/coreweave.sandbox.v1.SettingsService/ListSecretStores", "/coreweave.sandbox.v1beta2.SandboxService/Get", "/", "/x"])
def test_unknown_and_unbuilt_methods_are_unimplemented(client, path):
    assert refused(raw, client, path)[0] == Code.UNIMPLEMENTED


@pytest.mark.parametrize("call", ["get", "delete", "exec", "stream", "read", "write", "logs"])
def test_an_unknown_sandbox_is_named_in_the_details(client, call):
    calls = {
        "get": lambda i: client.get(i),
        "delete": lambda i: client.delete(i),
        "exec": lambda i: client.stub.Exec(pb.ExecRequest(sandbox_id=i, command=["true"]), timeout=10),
        "stream": lambda i: client.exec(i, "true"),
        "read": lambda i: client.read(i, "/x"),
        "write": lambda i: client.write(i, "/x", b""),
        "logs": lambda i: client.logs(i),
    }
    for name in (UNKNOWN, "sb-x", "x" * 300, "../../etc/passwd", "sb-\n\x1b[31m"):
        code, reason, meta, message = refused(calls[call], name)
        assert (code, reason) == (Code.NOT_FOUND, "CWSANDBOX_SANDBOX_NOT_FOUND"), name
        assert "\n" not in message and "\x1b" not in message
    code, reason, meta, message = refused(calls[call], UNKNOWN)
    assert UNKNOWN in message
    assert refused(calls[call], "")[0] in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)


def test_an_unknown_sandbox_may_be_missing_when_the_caller_says_so(client):
    client.delete(UNKNOWN, missing_ok=True)


def test_an_ended_sandbox_takes_no_commands_and_says_why(client):
    box = client.create(command="sh", args=["-c", "exit 3"])
    client.wait(box)
    code, reason, _, message = refused(client.exec, box, "true")
    assert reason == "CWSANDBOX_SANDBOX_NOT_RUNNING" and "3" in message, (code, reason, message)
    assert refused(client.read, box, "/etc/passwd")[1] == "CWSANDBOX_SANDBOX_NOT_RUNNING"
    assert client.delete(box).sandbox.status.exit_code == 3


# ---- what is refused by name

UNBUILT = {
    "services": lambda s: s.services.add(port=80),
    "volumes": lambda s: s.volumes.add(name="v"),
    "network_ids": lambda s: s.network_ids.append("n"),
    "files": lambda s: s.containers[0].files.add(path="/x", content=b"y"),
    "volume_mounts": lambda s: s.containers[0].volume_mounts.add(volume="v", mount_path="/m"),
    "image_pull_credentials": lambda s: s.containers[0].image_pull_credentials.SetInParent(),
    "containers": lambda s: s.containers.add(name="second", image="busybox"),
}
REFUSED = {
    "secret_stores": (lambda s: s.containers[0].secret_stores.add(store_name="vault"), Code.FAILED_PRECONDITION),
    "gpu": (lambda s: setattr(s.containers[0].resource_requirements.limits.gpu, "count", 1), Code.FAILED_PRECONDITION),
    "instance_type": (lambda s: setattr(s, "instance_type", "big"), Code.FAILED_PRECONDITION),
    "egress rule": (lambda s: s.network.egress.add(any=True), Code.FAILED_PRECONDITION),
    "runner_ids": (lambda s: s.runner_ids.append("run-other"), Code.FAILED_PRECONDITION),
    "privileged": (lambda s: setattr(s.containers[0].security_context, "privileged", True), Code.INVALID_ARGUMENT),
    "capabilities_add": (lambda s: s.containers[0].security_context.capabilities_add.append("SYS_ADMIN"), Code.INVALID_ARGUMENT),
    "seccomp_profile": (lambda s: setattr(s.containers[0].security_context, "seccomp_profile", "Unconfined"), Code.INVALID_ARGUMENT),
    "memory": (lambda s: setattr(s.containers[0].resource_requirements.limits, "memory", "lots"), Code.INVALID_ARGUMENT),
    "negative lifetime": (lambda s: setattr(s, "max_lifetime_seconds", -1), Code.INVALID_ARGUMENT),
    "long lifetime": (lambda s: setattr(s, "max_lifetime_seconds", 31 * 86400), Code.INVALID_ARGUMENT),
    "relative working_dir": (lambda s: setattr(s.containers[0], "working_dir", "tmp"), Code.INVALID_ARGUMENT),
    "no image": (lambda s: setattr(s.containers[0], "image", ""), Code.INVALID_ARGUMENT),
    "an image that is no name": (lambda s: setattr(s.containers[0], "image", "a b\n"), Code.INVALID_ARGUMENT),
    "environment name": (lambda s: s.containers[0].environment_variables.update({"A=B": "x"}), Code.INVALID_ARGUMENT),
    "environment NUL": (lambda s: s.containers[0].environment_variables.update({"A": "x\0y"}), Code.INVALID_ARGUMENT),
    "environment size": (lambda s: s.containers[0].environment_variables.update({"BIG": "x" * 200_000}), Code.INVALID_ARGUMENT),
    "no container": (lambda s: s.ClearField("containers"), Code.INVALID_ARGUMENT),
    "tags": (lambda s: s.tags.extend(str(i) for i in range(65)), Code.INVALID_ARGUMENT),
    "runtime_class": (lambda s: setattr(s, "runtime_class", "kata"), Code.INVALID_ARGUMENT),
}


def create_with(client, change):
    spec = client.spec()
    change(spec)
    return client.stub.CreateSandbox(pb.CreateSandboxRequest(sandbox=pb.Sandbox(spec=spec)), timeout=10)


@pytest.mark.parametrize("name", UNBUILT)
def test_what_is_not_built_is_unimplemented_with_a_reason(client, name):
    before = len(client.list(show_terminated=True, page_size=1000).sandboxes)
    code, reason, _, message = refused(create_with, client, UNBUILT[name])
    assert (code, reason) == (Code.UNIMPLEMENTED, "CWSANDBOX_NOT_IMPLEMENTED"), message
    assert name in message or name.rstrip("s") in message, message
    assert len(client.list(show_terminated=True, page_size=1000).sandboxes) == before


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_in_words(client, name):
    change, expected = REFUSED[name]
    code, reason, _, message = refused(create_with, client, change)
    assert code == expected and message, (code, reason, message)
    assert code != Code.FAILED_PRECONDITION or reason
    if name.startswith("environment"):
        assert ("A" if name != "environment size" else "BIG") in message


@pytest.mark.parametrize("name", ["../../etc", "busybox:", "BUSYBOX", "busybox@sha256:00", "röt", "/busybox", "-x", "no-such-image:1", "busybox:no-such-tag"])
def test_an_image_that_cannot_be_is_a_failed_sandbox_with_the_reason(client, name):
    box = client.create(image=name)
    status = client.wait(box)
    assert status.state == pb.STATE_FAILED and not status.HasField("exit_code")
    assert name.encode("ascii", "replace").decode().split("?")[0] in status.state_reason


# ---- messages

@pytest.mark.parametrize("data", [b"\xff" * 10, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab", b"\x08" + b"\x80" * 11, b"\x0b" * 100, b"\x0a\x02\xff\xfe"])
@pytest.mark.parametrize("method", ["CreateSandbox", "GetSandbox", "ReadFile", "Exec"])
def test_malformed_messages_are_invalid(client, method, data):
    code, _, _, message = refused(raw, client, SERVICE + method, data)
    assert code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND) and message, (code, message)


def test_unknown_fields_are_skipped(client, box):
    message = pb.GetSandboxRequest(sandbox_id=box).SerializeToString() + b"\xfa\x3f\x03abc" + b"\xf8\x3f\x01"
    assert pb.Sandbox.FromString(raw(client, SERVICE + "GetSandbox", message)).sandbox_id == box


def test_a_message_beyond_the_limit_is_refused_and_the_connection_lives(client, box):
    code, reason, meta, message = refused(client.write, box, "/tmp/x", b"x" * (33 << 20))
    assert code == Code.RESOURCE_EXHAUSTED, (code, message)
    assert reason in ("CWSANDBOX_FILE_TOO_LARGE", None)
    client.write(box, "/tmp/x", b"y" * (32 << 20))
    assert client.read(box, "/tmp/x") == b"y" * (32 << 20)
    client.sh(box, "head -c 40000000 /dev/zero > /tmp/x")
    code, reason, meta, message = refused(client.read, box, "/tmp/x")
    assert (reason, meta["size_bytes"], meta["max_size_bytes"]) == ("CWSANDBOX_FILE_TOO_LARGE", "40000000", str(32 << 20))
    client.sh(box, "rm /tmp/x")


def test_a_compressed_message_is_refused_as_grpc_says(daemon, box):
    with grpc.insecure_channel(daemon.url.removeprefix("http://"), options=OPTIONS, compression=grpc.Compression.Gzip) as channel:
        call = channel.unary_unary(SERVICE + "GetSandbox")
        request = pb.GetSandboxRequest(sandbox_id=box + "x" * 5000).SerializeToString()
        assert len(gzip.compress(request)) < len(request)
        code = refused(call, request, timeout=10)[0]
        assert code in (Code.UNIMPLEMENTED, Code.NOT_FOUND)


# ---- streams

def test_the_first_message_must_be_init(client, box):
    for first in (pb.ExecStreamRequest(stdin=b"x"), pb.ExecStreamRequest(resize=pb.ExecStreamResize(width=1, height=1)), pb.ExecStreamRequest()):
        assert refused(client.stub.StreamExec, iter([first]), timeout=10)[0] == Code.INVALID_ARGUMENT
    assert refused(client.stub.StreamExec, iter([]), timeout=10)[0] == Code.INVALID_ARGUMENT
    init = pb.ExecStreamRequest(init=pb.ExecStreamInit(sandbox_id=box, command=["cat"]))
    assert refused(client.stub.StreamExec, iter([init, init]), timeout=10)[0] == Code.INVALID_ARGUMENT
    empty = pb.ExecStreamRequest(init=pb.ExecStreamInit(sandbox_id=box))
    assert refused(client.stub.StreamExec, iter([empty]), timeout=10)[0] == Code.INVALID_ARGUMENT


def test_ready_comes_first_and_exit_last(client, box):
    s = client.stream(box, "sh", "-c", "echo out; echo err >&2; exit 5", half_close=True)
    kinds = [m.WhichOneof("message") for m in s.call]
    assert kinds[0] == "ready" and kinds[-1] == "exit" and set(kinds[1:-1]) == {"output"}
    assert s.call.code() == Code.OK


def test_half_close_and_close_message_end_the_input_only(client, box):
    for end in ("half", "message"):
        s = client.stream(box, "sh", "-c", "cat; sleep 0.3; echo after").ready()
        s.stdin(b"before\n")
        s.half_close() if end == "half" else s.send(close=pb.ExecStreamClose())
        assert s.result().out == b"before\nafter\n"


def test_a_deadline_ends_the_call_and_the_tree(client, box):
    started = time.monotonic()
    code, _, _, _ = refused(client.exec, box, "sh", "-c", "sleep 4811 & sleep 4812", timeout=0.7)
    assert code == Code.DEADLINE_EXCEEDED and 0.6 < time.monotonic() - started < 2
    gone(client, box, "sleep\x00481")


def test_cancel_ends_the_tree(client, box):
    s = client.stream(box, "sh", "-c", "sleep 4911 & (setsid sleep 4912 &); echo up; sleep 4913")
    s.until(b"up")
    s.cancel()
    gone(client, box, "sleep\x00491")


def test_a_broken_connection_ends_the_trees_of_its_calls(daemon, client, box):
    with Client(daemon.url) as c:
        streams = [c.stream(box, "sleep", f"507{i}").ready() for i in range(10)]
        assert client.sh(box, "cat /proc/[0-9]*/cmdline", check=None).count("507") == 10
        c.channel.close()
    gone(client, box, "sleep\x00507")
    assert len(streams) == 10


def gone(client, box, needle):
    deadline = time.monotonic() + 5
    while needle in client.exec(box, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null; true").text:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_reader_that_waits_gets_every_byte(client, box):
    s = client.stream(box, "sh", "-c", "i=0; while [ $i -lt 60000 ]; do echo line-$i-of-some-length-to-fill-windows; i=$((i+1)); done", half_close=True)
    s.ready()
    time.sleep(2)
    out = s.result().out
    assert out == b"".join(b"line-%d-of-some-length-to-fill-windows\n" % i for i in range(60000))


def test_a_writer_is_slowed_to_the_pace_of_the_command(client, box):
    data = bytes(range(256)) * 40960
    s = client.stream(box, "sh", "-c", "sleep 1.5; sha256sum")
    writer = Background(s.stdin, data)
    writer.join(30)
    s.half_close()
    import hashlib

    assert s.result().text.split()[0] == hashlib.sha256(data).hexdigest()


def test_many_calls_at_once_on_one_connection(client, box):
    streams = [client.stream(box, "sh", "-c", f"read x; echo $x-{i}; exit {i % 200}") for i in range(90)]
    for i, s in enumerate(streams):
        s.stdin(b"in%d\n" % i)
        s.half_close()
    for i, s in enumerate(streams):
        r = s.result()
        assert (r.code, r.out) == (i % 200, b"in%d-%d\n" % (i, i))


def test_terminal_sizes_and_resize(client, box):
    s = Stream(client, box, ["sh", "-c", "stty size; trap 'stty size; exit 0' WINCH; echo waiting; while :; do sleep 0.05; done"], tty=True, size=(91, 37))
    assert b"37 91" in s.until(b"waiting")
    s.send(resize=pb.ExecStreamResize(width=120, height=50))
    assert b"50 120" in s.until(b"50 120")
    s.half_close()
    s.result()


def test_exec_with_bounded_output(client, box):
    r = client.stub.Exec(pb.ExecRequest(sandbox_id=box, command=["sh", "-c", "yes | head -c 100000; echo e >&2; exit 4"], max_output_bytes=1000), timeout=20)
    assert (r.exit_code, len(r.stdout), r.stdout_truncated, r.stdout_bytes_produced, r.stderr, r.stderr_truncated) == (4, 1000, True, 100000, b"e\n", False)


def test_environment_of_a_command(client, box):
    r = client.exec(box, "sh", "-c", 'echo "$A"', env={"A": "x=y\nz"})
    assert r.out == b"x=y\nz\n"
    assert refused(client.exec, box, "true", env={"": "x"})[0] == Code.INVALID_ARGUMENT
    assert refused(client.exec, box, "true", env={"HUGE": "x" * 131072})[0] == Code.INVALID_ARGUMENT
    assert client.exec(box, "sh", "-c", "echo ${#BIG}", env={"BIG": "x" * 130000}).out == b"130000\n"
    many = {f"V{i}": "x" * 1000 for i in range(1000)}
    assert client.exec(box, "sh", "-c", "env | grep -c ^V", env=many).out == b"1000\n"
    code, _, _, message = refused(client.exec, box, "true", env={f"V{i}": "x" * 1000 for i in range(1500)})
    assert code == Code.INVALID_ARGUMENT and "environment" in message


# ---- create, list, logs

def test_request_id_gives_the_first_sandbox_again(client):
    a = client.create(request_id="same")
    assert client.create(request_id="same", tags=["other"]) == a
    assert refused(client.create, request_id="x" * 129)[0] == Code.INVALID_ARGUMENT
    client.end(a)


def test_the_specification_comes_back_byte_for_byte(client):
    spec = client.spec(tags=["a", "ü"], env={"K": "v"}, lifetime=600)
    spec.annotations["note"] = "kept"
    sent = spec.SerializeToString(deterministic=True) + b"\xfa\x3f\x03abc"
    message = b"\x0a" + varint(2 + len(varint(len(sent))) - 1 + len(sent)) + b"\x12" + varint(len(sent)) + sent
    reply = raw(client, SERVICE + "CreateSandbox", message)
    assert sent in reply
    box = pb.Sandbox.FromString(reply).sandbox_id
    assert sent in raw(client, SERVICE + "GetSandbox", pb.GetSandboxRequest(sandbox_id=box).SerializeToString())
    client.end(box)


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def test_pages_of_a_list(client):
    boxes = {client.create(command="true", args=(), tags=["page"], wait=False) for _ in range(25)}
    for b in boxes:
        client.wait(b)
    seen, token, pages = [], "", 0
    while True:
        reply = client.list(tags=["page"], show_terminated=True, page_size=10, page_token=token)
        seen += [b.sandbox_id for b in reply.sandboxes]
        token, pages = reply.next_page_token, pages + 1
        if not token:
            break
    assert len(seen) == 25 and set(seen) == boxes and pages == 3
    assert not client.list(tags=["page"]).sandboxes
    assert refused(client.list, page_size=-1)[0] == Code.INVALID_ARGUMENT
    assert refused(client.list, page_token="no/token")[0] == Code.INVALID_ARGUMENT


def test_logs_follow_until_the_end(client):
    box = client.create(command="sh", args=["-c", "for i in 1 2 3; do echo $i; sleep 0.2; done; echo no newline at the end >&2; printf x"])
    assert client.logs(box, follow=True) == b"1\n2\n3\nno newline at the end\nx"
    assert client.logs(box, tail_lines=2) == b"no newline at the end\nx"


def test_a_log_resume_is_declined_in_words(client, box):
    call = client.stub.StreamLogs(pb.StreamLogsRequest(sandbox_id=box, resume_log_session_id="x", resume_log_offset=1), timeout=10)
    entries = list(call)
    assert entries and entries[-1].error.code == "SESSION_NOT_FOUND" or call.code() != Code.OK


def test_discovery_has_one_runner(client):
    list_runners = client.channel.unary_unary("/coreweave.sandbox.v1.DiscoveryService/ListAvailableRunners", response_deserializer=discovery.ListAvailableRunnersResponse.FromString)
    reply = list_runners(b"", timeout=10)
    assert len(reply.runners) == 1 and reply.runners[0].healthy
    get = client.channel.unary_unary("/coreweave.sandbox.v1.DiscoveryService/GetAvailableRunner")
    assert refused(get, b"\x0a\x03abc", timeout=10)[0] == Code.NOT_FOUND


# ---- the other protocols on the port

def test_http_1_on_the_same_port(daemon):
    c = http.client.HTTPConnection(daemon.url.removeprefix("http://"), timeout=10)
    c.request("GET", "/healthz")
    assert c.getresponse().read().strip() == b"ok"
    c.request("GET", "/no/such/thing")
    reply = c.getresponse()
    assert reply.status == 404 and reply.read() is not None
    for header in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        c.request("GET", "/admin/v1/sandboxes", headers=header)
        reply = c.getresponse()
        assert reply.status == 403, header
        reply.read()
    c.close()


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, b"SSH-2.0-x\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100000, b"\0" * 1000],
                         ids=["tls", "h2 garbage", "ssh", "header flood", "zeros"])
def test_what_is_no_protocol_of_ours_is_hung_up_on(daemon, client, box, data):
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as s:
        try:
            s.sendall(data)
            while s.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert client.get(box).state == pb.STATE_RUNNING
