"""Creating, watching, listing and ending sandboxes."""
import time

import cwsandbox
import pytest
from cwsandbox import Sandbox, SandboxDefaults, SandboxStatus, Session


def reason_of(daemon, sb):
    """Older clients leave the reason out of their exceptions; the record has it."""
    return next(b["reason"] for b in daemon.json("ps", "-a") if b["id"] == sb.sandbox_id)


def test_run_is_ready_quickly(daemon):
    started = time.monotonic()
    with Sandbox.run() as sb:
        assert sb.exec(["echo", "hi"]).result().stdout == "hi\n"
        assert time.monotonic() - started < 3
        assert sb.status == SandboxStatus.RUNNING
        assert sb.started_at is not None
        assert sb.runner_id


def test_main_command_completes_with_its_code(daemon):
    sb = Sandbox.run("sh", "-c", "exit 7")
    sb.wait_until_complete(timeout=30).result()
    assert sb.returncode == 7
    assert sb.status == SandboxStatus.COMPLETED
    sb.stop(missing_ok=True).result()


def test_sleep_infinity_stops_at_once(daemon):
    sb = Sandbox.run("sleep", "infinity")
    sb.wait(timeout=30)
    started = time.monotonic()
    sb.stop().result()
    assert time.monotonic() - started < 2  # the client polls; the server's own 300 ms are asserted in tests/system
    assert Sandbox.from_id(sb.sandbox_id).result().status in (SandboxStatus.TERMINATED, SandboxStatus.COMPLETED)


def test_stop_twice_and_delete(daemon):
    sb = Sandbox.run()
    sb.wait(timeout=30)
    sb.stop().result()
    sb.stop(missing_ok=True).result()
    Sandbox.delete(sb.sandbox_id, missing_ok=True).result()
    Sandbox.delete("sb-00000000000000000000000000", missing_ok=True).result()
    with pytest.raises(cwsandbox.SandboxNotFoundError):
        Sandbox.delete("sb-00000000000000000000000000").result()


def test_an_image_that_is_not_here_fails_with_a_reason(daemon):
    sb = Sandbox.run("true", container_image="no-such-image:1")
    with pytest.raises(cwsandbox.SandboxFailedError) as e:
        sb.wait(timeout=20)
    assert sb.sandbox_id in str(e.value)
    assert "no-such-image" in reason_of(daemon, sb)
    sb.stop(missing_ok=True).result()


def test_a_main_program_that_does_not_exist_fails_with_a_reason(daemon):
    sb = Sandbox.run("no-such-program", "x")
    with pytest.raises(cwsandbox.SandboxFailedError) as e:
        sb.wait(timeout=20)
    assert sb.sandbox_id in str(e.value)
    assert "no-such-program" in reason_of(daemon, sb)
    sb.stop(missing_ok=True).result()


def test_list_by_tags_and_from_id(daemon):
    with Sandbox.run(tags=["red", "round"]) as a, Sandbox.run(tags=["red"]) as b:
        a.wait(timeout=30), b.wait(timeout=30)
        red = {s.sandbox_id for s in Sandbox.list(tags=["red"]).result()}
        both = {s.sandbox_id for s in Sandbox.list(tags=["red", "round"]).result()}
        assert red >= {a.sandbox_id, b.sandbox_id}
        assert both == {a.sandbox_id}
        again = Sandbox.from_id(a.sandbox_id).result()
        assert again.exec(["echo", "same"]).result().stdout == "same\n"


def test_ended_sandboxes_are_listed_when_asked(daemon):
    sb = Sandbox.run("true", tags=["past"])
    sb.wait_until_complete(timeout=30).result()
    assert sb.sandbox_id not in {s.sandbox_id for s in Sandbox.list(tags=["past"]).result()}
    assert sb.sandbox_id in {s.sandbox_id for s in Sandbox.list(tags=["past"], status="completed").result()}
    sb.stop(missing_ok=True).result()


def test_lifetime_ends_a_sandbox(daemon):
    sb = Sandbox.run("sleep", "infinity", max_lifetime_seconds=2)
    started = time.monotonic()
    sb.wait_until_complete(timeout=30, raise_on_termination=False).result()
    assert 1.5 < time.monotonic() - started < 12


def test_resources_are_echoed_and_enforced(daemon):
    with Sandbox.run(resources={"cpu": "500m", "memory": "128Mi"}) as sb:
        r = sb.exec(["python", "-c", "x = bytearray(400 << 20)"]).result()
        assert r.returncode == 137
        assert sb.exec(["echo", "alive"]).result().stdout == "alive\n"
        if hasattr(sb, "resource_limits"):
            assert sb.resource_limits["memory"] == "128Mi"
            assert sb.resource_limits["cpu"] == "500m"


def test_what_is_not_built_is_refused_not_ignored(daemon):
    from cwsandbox import Secret

    with pytest.raises(cwsandbox.CWSandboxError) as e:
        Sandbox.run(secrets=[Secret(store="vault", name="token")]).wait(timeout=20)
    assert "vault" in str(e.value)


def test_session_defaults_override_and_count(daemon):
    defaults = SandboxDefaults(environment_variables={"A": "1", "B": "1"}, tags=("nightly",))
    with Session(defaults) as session:
        with session.sandbox(environment_variables={"B": "2", "C": "2"}) as sb:
            r = sb.exec(["sh", "-c", "echo $A $B $C"]).result()
            assert r.stdout == "1 2 2\n"
            assert session.sandbox_count == 1
            assert [s.sandbox_id for s in session.list().result()] == [sb.sandbox_id]


def test_session_close_ends_what_it_began(daemon):
    session = Session(SandboxDefaults(tags=("closing",)))
    sb = session.sandbox()
    sb.wait(timeout=30)
    session.close().result()
    assert not Sandbox.list(tags=["closing"]).result()


def test_logs_of_the_main_process(daemon):
    sb = Sandbox.run("sh", "-c", "for i in 1 2 3; do echo line $i; done; echo oops >&2; sleep 1")
    sb.wait(timeout=30)
    assert "".join(sb.stream_logs(follow=True)) == "line 1\nline 2\nline 3\noops\n"
    sb.wait_until_complete(timeout=30).result()
    assert "".join(sb.stream_logs(tail_lines=2)) == "line 3\noops\n"
    stamped = "".join(sb.stream_logs(timestamps=True)).splitlines()
    assert stamped[0].endswith(" line 1") and stamped[0][:2] == "20"
    sb.stop(missing_ok=True).result()


def test_runners(daemon):
    runners = cwsandbox.list_runners() if not hasattr(cwsandbox.list_runners(), "result") else cwsandbox.list_runners().result()
    assert len(runners) == 1
    assert runners[0].healthy
