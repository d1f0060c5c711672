"""One daemon for the suite; a fresh default sandbox for each case; a canary that compares the host before and after."""
import json
import os
import pathlib
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "tests"))
from support import hostile  # noqa: E402
from support.client import Client  # noqa: E402
from support.daemon import Daemon  # noqa: E402
from support.host import Host  # noqa: E402


def pytest_configure(config):
    assert os.geteuid() == 0, "these tests need root: sandboxes are real"
    config.addinivalue_line("markers", "timeout: limit of one case")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(60))


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("abuse")


@pytest.fixture(scope="session")
def daemon(work):
    with Daemon("--default-memory", "512M", "--default-disk", "256M") as d:
        d.cli("image", "import", "busybox", hostile.busybox_tar(work), "--config", str(hostile.busybox_tar(work))[:-3] + "json")
        probe = hostile.Entry.file("probe", hostile.compile_c(work, "probe"))
        load = hostile.Entry.file("load", hostile.compile_c(work, "load"))
        setuid = hostile.Entry.file("setuid-probe", probe.data, mode=0o4755)
        tar = hostile.make_image(work, "hostile", probe, load, setuid)
        config = work / "hostile.json"
        config.write_text(json.dumps({"env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "cmd": ["sh"]}))
        d.cli("image", "import", "hostile", tar, "--config", config)
        yield d


@pytest.fixture(scope="session")
def client(daemon):
    with Client(daemon.url) as c:
        yield c


@pytest.fixture(scope="session")
def neighbour(client):
    """A sandbox that minds its own business while others misbehave."""
    box = client.create(tags=["neighbour"])
    client.write(box, "/root/mine", b"the neighbour's own words")
    return box


@pytest.fixture(scope="session")
def host(daemon, neighbour):
    secret = daemon.base / "canary"
    secret.write_text("nobody in a sandbox may read or change this\n")
    secret.chmod(0o644)
    return Host(daemon, [secret, "/etc/passwd", "/etc/shadow", daemon.build / "silica-init", daemon.build / "silicad"])


@pytest.fixture(scope="session")
def at_rest(host, client):
    """The picture between cases: pools full, nobody but the neighbour. In a list, since a failed case may leave another one."""
    for _ in range(3):  # pools follow the demand: let them see some
        client.end(client.create(image="hostile"))
    return [host.settled(quiet=1.5)]


@pytest.fixture(autouse=True)
def canary(host, at_rest, client, neighbour):
    """Around every case: the host is as it was, the neighbour lives and has its file."""
    yield
    for status in client.list(page_size=1000).sandboxes:
        if status.sandbox_id != neighbour:
            client.end(status.sandbox_id)
    assert client.read(neighbour, "/root/mine") == b"the neighbour's own words"
    assert client.exec(neighbour, "echo", "well").out == b"well\n"
    try:
        host.assert_same(at_rest[0])
    except AssertionError:
        at_rest[0] = host.settled(quiet=1.5)
        raise


@pytest.fixture
def box(client):
    """A default sandbox with the hostile program at /probe."""
    return client.create(image="hostile")


@pytest.fixture
def probe(client, box):
    """probe(name, ...): runs a case of probe.c in the default sandbox; {what: outcome} of its lines."""

    def run(*args, in_box=None, user=None, check=0, timeout=30):
        r = client.exec(in_box or box, "/probe", *map(str, args), timeout=timeout)
        assert check is None or r.code == check, (r.code, r.text, r.err)
        return dict(line.rsplit(": ", 1) for line in r.text.splitlines() if ": " in line)

    return run
