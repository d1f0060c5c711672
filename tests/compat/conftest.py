"""One daemon with a python:3.11 image for all programs of a run; the client under test is whatever this interpreter has installed."""
import os
import pathlib
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "tests"))
from support.daemon import Daemon  # noqa: E402


@pytest.fixture(scope="session")
def daemon():
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        os.environ.pop(name, None)
    with Daemon() as d:
        d.image("python:3.11")
        os.environ["CWSANDBOX_BASE_URL"] = d.url
        os.environ.pop("CWSANDBOX_API_KEY", None)
        yield d



@pytest.fixture(scope="module")
def box(daemon):
    """A sandbox that a module's tests share."""
    from cwsandbox import Sandbox

    with Sandbox.run(environment_variables={"LEVEL": "sandbox"}) as sb:
        yield sb


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(daemon):
    """A module ends with no live sandbox: what its programs closed is gone, what they forgot is a failure here."""
    yield
    live = [b["id"] for b in daemon.json("ps") if b["state"] in ("creating", "running", "paused")]
    for box_id in live:
        daemon.cli("rm", "-f", box_id, check=False)
    assert not live, f"sandboxes left running: {live}"
