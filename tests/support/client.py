"""A small synchronous gRPC client for tests of the daemon: the published message classes, no behaviour of the published client.

Every reply is what the server sent; nothing is retried, hidden or polled, so that a test can assert the very words.
"""
import dataclasses
import http.client
import json
import queue
import threading
import time

import grpc
from cwsandbox._proto import discovery_pb2 as discovery
from cwsandbox._proto import sandbox_pb2 as pb
from cwsandbox._proto import sandbox_pb2_grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

ENDED = (pb.STATE_COMPLETED, pb.STATE_FAILED, pb.STATE_TERMINATED)
MESSAGE_MAX = 64 << 20
OPTIONS = [("grpc.max_receive_message_length", MESSAGE_MAX), ("grpc.max_send_message_length", MESSAGE_MAX), ("grpc.enable_retries", 0),
           ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


@dataclasses.dataclass
class Result:
    code: int
    out: bytes
    err: bytes

    @property
    def text(self):
        return self.out.decode(errors="replace")


def reason_of(error):
    """The ErrorInfo of a failed call: (code, reason, metadata, message), reason None when the server sent no details."""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        status = status_pb2.Status.FromString(value)
        assert status.code == error.code().value[0]
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
                assert info.domain == "cwsandbox.com"
                return error.code(), info.reason, dict(info.metadata), status.message
    return error.code(), None, {}, error.details()


class Stream:
    """One StreamExec call, its messages read one by one."""

    def __init__(self, client, box, argv, tty=False, env=None, timeout=None, size=(0, 0), half_close=False):
        self._out = queue.Queue()
        self.call = client.stub.StreamExec(iter(self._out.get, None), timeout=timeout)
        self.send(init=pb.ExecStreamInit(sandbox_id=box, command=argv, tty=tty, env=env or {}, tty_width=size[0], tty_height=size[1]))
        if half_close:
            self.half_close()

    def send(self, **message):
        self._out.put(pb.ExecStreamRequest(**message))

    def stdin(self, data):
        for i in range(0, len(data), 65536):
            self.send(stdin=data[i : i + 65536])

    def half_close(self):
        self._out.put(None)

    def message(self):
        return next(self.call)

    def ready(self):
        m = self.message()
        assert m.WhichOneof("message") == "ready", m
        return self

    def until(self, needle):
        """Output up to and with NEEDLE."""
        seen = b""
        while needle not in seen:
            m = self.message()
            kind = m.WhichOneof("message")
            assert kind in ("ready", "output"), (m, seen)
            if kind == "output":
                seen += m.output.data
        return seen

    def result(self):
        out, err, code = [], [], None
        for m in self.call:
            kind = m.WhichOneof("message")
            assert code is None, "a message after the exit"
            if kind == "output":
                (err if m.output.stream == pb.ExecStreamOutput.STREAM_STDERR else out).append(m.output.data)
            elif kind == "exit":
                code = m.exit.exit_code
            elif kind == "error":
                raise AssertionError(f"{m.error.code}: {m.error.message}")
        assert code is not None, "the stream ended without an exit"
        return Result(code, b"".join(out), b"".join(err))

    def cancel(self):
        self.call.cancel()
        self._out.put(None)


class Client:
    def __init__(self, url):
        self.address = url.removeprefix("http://").rstrip("/")
        self.channel = grpc.insecure_channel(self.address, options=OPTIONS)
        self.stub = sandbox_pb2_grpc.SandboxServiceStub(self.channel)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # ---- sandboxes

    @staticmethod
    def spec(image="busybox", command="sleep", args=("infinity",), env=None, tags=(), memory=None, cpu=None, deny_egress=None, lifetime=0,
             security=None, cwd="", **extra):
        main = pb.Container(name="main", image=image, command=command, args=list(args), environment_variables=env or {}, working_dir=cwd)
        if memory or cpu:
            main.resource_requirements.limits.memory = memory or ""
            main.resource_requirements.limits.cpu = cpu or ""
        if security is not None:
            main.security_context.CopyFrom(pb.SecurityContext(**security))
        spec = pb.SandboxSpec(containers=[main], tags=list(tags), max_lifetime_seconds=lifetime, **extra)
        if deny_egress is not None:
            spec.network.deny_egress = deny_egress
        return spec

    def create(self, *, wait=True, request_id="", timeout=30, **kwargs):
        """Creates a sandbox (see `spec`); returns its id once it runs, or has ended."""
        box = self.stub.CreateSandbox(pb.CreateSandboxRequest(sandbox=pb.Sandbox(spec=self.spec(**kwargs)), request_id=request_id),
                                      timeout=timeout)
        if wait:
            self.wait(box.sandbox_id, (pb.STATE_RUNNING, *ENDED), timeout)
        return box.sandbox_id

    def get(self, box, timeout=10):
        return self.stub.GetSandbox(pb.GetSandboxRequest(sandbox_id=box), timeout=timeout).status

    def wait(self, box, states=ENDED, timeout=30):
        deadline = time.monotonic() + timeout
        while True:
            status = self.get(box)
            if status.state in states:
                return status
            assert time.monotonic() < deadline, f"{box} is still {pb.State.Name(status.state)}: {status.state_reason}"
            time.sleep(0.01)

    def delete(self, box, grace=0, missing_ok=False, timeout=30):
        return self.stub.DeleteSandbox(pb.DeleteSandboxRequest(sandbox_id=box, grace_period_seconds=grace, allow_missing=missing_ok),
                                       timeout=timeout)

    def list(self, **kwargs):
        return self.stub.ListSandboxes(pb.ListSandboxesRequest(**kwargs), timeout=10)

    def end(self, box):
        """Delete, and back only when it has ended."""
        self.delete(box, missing_ok=True)
        return self.wait(box)

    # ---- processes, files, logs

    def stream(self, box, *argv, **kwargs):
        return Stream(self, box, list(argv), **kwargs)

    def exec(self, box, *argv, stdin=None, timeout=60, check=None, **kwargs):
        """Runs ARGV to its end. CHECK: the exit code it must have."""
        s = Stream(self, box, list(argv), timeout=timeout, **kwargs)
        if stdin is not None:
            s.stdin(stdin)
        s.half_close()
        r = s.result()
        assert check is None or r.code == check, f"{argv}: exit {r.code}\n{r.text}\n{r.err.decode(errors='replace')}"
        return r

    def sh(self, box, script, **kwargs):
        kwargs.setdefault("check", 0)
        return self.exec(box, "sh", "-c", script, **kwargs).text

    def write(self, box, path, data, timeout=30):
        self.stub.WriteFile(pb.WriteFileRequest(sandbox_id=box, path=path, content=data), timeout=timeout)

    def read(self, box, path, timeout=30):
        return self.stub.ReadFile(pb.ReadFileRequest(sandbox_id=box, path=path), timeout=timeout).content

    def logs(self, box, follow=False, timeout=30, **kwargs):
        out = []
        for entry in self.stub.StreamLogs(pb.StreamLogsRequest(sandbox_id=box, follow=follow, **kwargs), timeout=timeout):
            assert not entry.error.code, entry.error
            out.append(entry.data)
        return b"".join(out)


class Admin:
    """The admin API over one kept connection."""

    def __init__(self, url):
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)

    def call(self, method, path):
        self.connection.request(method, path)
        reply = self.connection.getresponse()
        body = reply.read()
        return reply.status, json.loads(body) if body[:1] in (b"{", b"[") else body

    def get(self, box):
        status, body = self.call("GET", f"/admin/v1/sandboxes/{box}")
        assert status == 200, body
        return body

    def remove(self, box):
        status, body = self.call("DELETE", f"/admin/v1/sandboxes/{box}?force=1")
        assert status == 200, body

    def close(self):
        self.connection.close()


class Background(threading.Thread):
    """Runs FN; join() gives its result or raises what it raised."""

    def __init__(self, fn, *args):
        super().__init__(daemon=True)
        self._fn, self._args, self._value, self._error = fn, args, None, None
        self.start()

    def run(self):
        try:
            self._value = self._fn(*self._args)
        except BaseException as e:
            self._error = e

    def join(self, timeout=60):
        super().join(timeout)
        assert not self.is_alive(), "still running"
        if self._error is not None:
            raise self._error
        return self._value


__all__ = ["Admin", "Background", "Client", "ENDED", "Result", "Stream", "any_pb2", "discovery", "pb", "reason_of"]
