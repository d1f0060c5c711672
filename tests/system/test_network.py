"""The truth table of `nat`: what a sandbox sees of a network that the test owns.

An "upstream" network namespace holds every address that is dialled: 198.18.0.0/24 by a veth to the host, and the metadata addresses by a
rule for sandboxes alone, so that nothing leaves the machine whatever the product does."""
import os
import re
import signal
import subprocess
import time

import pytest
from support import host as H
from support.client import Client
from support.daemon import Daemon
from support.hostile import SOURCES

NAME = f"silica-up-{os.getpid()}"
OUTER, INNER = f"sup{os.getpid() % 100000}o", f"sup{os.getpid() % 100000}i"
HOST, UP, HOLE = "198.18.77.1", "198.18.77.2", "198.18.77.3"
METADATA = ["169.254.169.254", "100.100.100.200", "168.63.129.16"]
TABLE = "7717"
REFUSED = {"ECONNREFUSED", "EHOSTUNREACH", "EACCES", "ENETUNREACH"}


def sh(*argv, check=True, **kwargs):
    return subprocess.run(argv, check=check, capture_output=True, text=True, **kwargs).stdout


def inside(*argv):
    return sh("ip", "netns", "exec", NAME, *argv)


@pytest.fixture(scope="module")
def upstream():
    """The namespace, its addresses and its server; everything is taken away again."""
    sh("ip", "netns", "add", NAME)
    server = None
    try:
        sh("ip", "link", "add", OUTER, "type", "veth", "peer", "name", INNER, "netns", NAME)
        sh("ip", "addr", "add", f"{HOST}/24", "dev", OUTER)
        sh("ip", "link", "set", OUTER, "up")
        inside("ip", "link", "set", "lo", "up")
        inside("ip", "addr", "add", f"{UP}/24", "dev", INNER)
        inside("ip", "addr", "add", f"{HOLE}/24", "dev", INNER)
        inside("ip", "link", "set", INNER, "up")
        for a in METADATA:
            inside("ip", "addr", "add", f"{a}/32", "dev", "lo")
            sh("ip", "rule", "add", "from", "100.96.0.0/12", "to", a, "lookup", TABLE, "priority", "77")
            sh("ip", "route", "add", a, "via", UP, "table", TABLE)
        inside("nft", f"table ip t {{ chain input {{ type filter hook input priority 0; ip daddr {HOLE} drop; }}; }}")
        server = subprocess.Popen(["ip", "netns", "exec", NAME, "python3", SOURCES / "upstream.py"], stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "up\n"
        yield server
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.wait(10)
        for a in METADATA:
            sh("ip", "rule", "del", "from", "100.96.0.0/12", "to", a, "lookup", TABLE, check=False)
            sh("ip", "route", "del", a, "table", TABLE, check=False)
        sh("ip", "link", "del", OUTER, check=False)
        sh("ip", "netns", "del", NAME, check=False)


@pytest.fixture(scope="module")
def forward_drop():
    """Beside a firewall like Docker's: chain FORWARD of table ip filter with policy drop. Only where there is none."""
    had_table = subprocess.run(["nft", "list", "table", "ip", "filter"], capture_output=True).returncode == 0
    had_chain = subprocess.run(["nft", "list", "chain", "ip", "filter", "FORWARD"], capture_output=True).returncode == 0
    if not had_chain:
        sh("nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
    yield
    if not had_chain:
        sh("nft", "delete chain ip filter FORWARD")
    if not had_table:
        sh("nft", "delete table ip filter")


@pytest.fixture(scope="module", params=["plain", "beside a FORWARD policy of drop"])
def daemon(request, upstream, give_images):
    if request.param != "plain":
        request.getfixturevalue("forward_drop")
    d = Daemon("--default-disk", "64M").start()
    try:
        give_images(d)
        yield d
    finally:
        code = d.close()
    assert code == 0
    rules = sh("nft", "list", "ruleset")
    tag = H.tag_of(d.base / "run")
    assert tag not in rules and f'"sil{tag[:3]}' not in rules


@pytest.fixture(scope="module")
def client(daemon):
    with Client(daemon.url) as c:
        yield c


@pytest.fixture(scope="module")
def box(client):
    return client.create(image="probe")


@pytest.fixture(scope="module")
def dial(client, box):
    def run(addr, port, how="tcp", ms=3000, in_box=None):
        started = time.monotonic()
        text = client.sh(in_box or box, f"/probe dial {addr} {port} {how} {ms}")
        return dict(line.split(": ", 1) for line in text.splitlines()), time.monotonic() - started

    return run


def test_an_open_port_works_and_sees_the_hosts_address(dial):
    got, _ = dial(UP, 7001)
    assert got == {"connect": "ok", "send": "ok", "answer": f"5 bytes from {HOST}"}


def test_half_close_works(client, box):
    """The server answers only after our end of input; then the answer comes whole."""
    text = client.sh(box, f"(echo abc; sleep 0.3; echo def) | nc {UP} 7001")
    assert text == f"8 bytes from {HOST}\n"


def test_a_closed_port_is_refused_at_once(dial):
    for _ in range(20):
        got, took = dial(UP, 7003)
        assert got == {"connect": "ECONNREFUSED"} and took < 1.0


def test_a_black_hole_times_out(dial):
    got, took = dial(HOLE, 7001, ms=1500)
    assert got == {"connect": "timeout"} and took > 1.4


def test_udp_works_and_its_refusal_is_told(dial):
    assert dial(UP, 7002, "udp")[0] == {"connect": "ok", "send": "ok", "answer": f"5 bytes from {HOST}"}
    assert dial(UP, 7004, "udp")[0]["answer"] == "ECONNREFUSED"


def test_dns_over_udp_works(client, box):
    """A true question and a true answer; the server of the test knows one name."""
    text = client.sh(box, f"nslookup -type=a known.test {UP}:7053", check=None)
    assert "198.18.77.99" in text, text


def test_much_data_arrives_whole(client, box):
    text = client.sh(box, f"nc {UP} 7005 </dev/null | sha256sum")
    assert text.split()[0] == "5776cdc189449389e4eb74f5e5deb8d9c31981142a4887fe355df98d2eb63bde"


def test_there_is_no_ipv6_and_it_is_said_at_once(dial):
    for addr in ("2001:db8::1", "fd00:ec2::254", "::ffff:198.18.77.2"):
        got, took = dial(addr, 7001)
        assert took < 1.0
        if not addr.startswith("::ffff"):
            assert got == {"connect": "ENETUNREACH"}


def test_the_host_is_refused_at_once(dial, daemon):
    for addr in (HOST, *re.findall(r"inet (\d\S+?)/", sh("ip", "-4", "addr", "show", "scope", "global"))):
        for port in (daemon.port, 22, 7001):
            got, took = dial(addr, port)
            assert got.get("connect") in REFUSED and took < 1.0, (addr, got, took)


def test_metadata_services_are_refused_at_once(dial, upstream):
    for addr in METADATA:
        for _ in range(3):
            got, took = dial(addr, 80)
            assert got.get("connect") in REFUSED and took < 1.0, (addr, got, took)


def test_metadata_addresses_would_have_answered(upstream):
    """So that the refusal above is ours: from the host's namespace the same server is reached by the same rule's route."""
    assert inside("python3", "-c", "import socket; s = socket.create_connection(('169.254.169.254', 80), 2); print(s.recv(4).decode())") == "meta\n"


def test_sandboxes_do_not_reach_each_other(client, box, dial):
    other = client.create(image="probe")
    addr = client.sh(other, "ip -4 addr show dev eth0").split("inet ")[1].split("/")[0].split()[0]
    s = client.stream(other, "sh", "-c", "echo up; nc -l -p 7000")
    s.until(b"up")
    for _ in range(3):
        got, took = dial(addr, 7000)
        assert got.get("connect") in REFUSED and took < 1.0
    s.cancel()
    client.end(other)


def test_nobody_outside_reaches_a_sandbox(client, box):
    s = client.stream(box, "sh", "-c", "echo up; nc -l -p 7000")
    s.until(b"up")
    addr = client.sh(box, "ip -4 addr show dev eth0").split("inet ")[1].split("/")[0].split()[0]
    inside("ip", "route", "replace", f"{addr}/32", "via", HOST)
    code = f"import socket\ntry: socket.create_connection(('{addr}', 7000), 1.5); print('reached')\nexcept OSError as e: print('not')"
    assert inside("python3", "-c", code) == "not\n"
    s.cancel()


def test_none_has_nothing_but_lo(client, dial):
    box = client.create(image="probe", deny_egress=True)
    assert re.findall(r"^\d+: (\w+)", client.sh(box, "ip link"), re.M) == ["lo"]
    assert dial(UP, 7001, in_box=box)[0] == {"connect": "ENETUNREACH"}
    assert client.sh(box, "(echo lo works | nc -l -p 7000 >/dev/null) & sleep 0.2; nc 127.0.0.1 7000 </dev/null; true") == "lo works\n"
    client.end(box)


def test_a_network_of_one_before_is_not_seen_by_the_next(client, dial):
    """Leases are used again: whatever an ended sandbox had open is gone with it."""
    for _ in range(3):
        box = client.create(image="probe")
        assert dial(UP, 7001, in_box=box)[0]["connect"] == "ok"
        client.end(box)


def test_the_network_survives_a_crash_of_silicad_and_spawner(client, daemon, box, dial):
    with Client(daemon.url) as c:
        live = c.create(image="probe")
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    with Client(daemon.url) as c:
        assert "answer: 5 bytes" in c.sh(live, f"/probe dial {UP} 7001 tcp 3000")
        fresh = c.create(image="probe")
        assert "answer: 5 bytes" in c.sh(fresh, f"/probe dial {UP} 7001 tcp 3000")
        assert "connect: ok" not in c.sh(fresh, f"/probe dial {HOST} {daemon.port} tcp 1000")


