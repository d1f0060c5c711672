"""C: what the network of a sandbox must not reach. Nothing here leaves the machine: every address is the host's own or a sandbox's."""
import re
import socket
import threading

import pytest
from support.client import pb

REFUSED = {"EHOSTUNREACH", "EACCES", "ECONNREFUSED", "ENETUNREACH", "EPERM"}


def outcome(client, box, addr, port, how="tcp", ms=1500):
    text = client.sh(box, f"/probe dial {addr} {port} {how} {ms}")
    return dict(line.split(": ", 1) for line in text.splitlines())


@pytest.fixture
def listeners():
    """TCP and UDP on one port of every address of the host; counts who came."""
    tcp, udp, came, stop = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM), [], threading.Event()
    tcp.bind(("0.0.0.0", 0))
    port = tcp.getsockname()[1]
    udp.bind(("0.0.0.0", port))
    tcp.listen(64)
    tcp.settimeout(0.1)
    udp.settimeout(0.1)

    def serve():
        while not stop.is_set():
            for receive in (lambda: tcp.accept()[1], lambda: udp.recvfrom(100)[1]):
                try:
                    came.append(receive())
                except TimeoutError:
                    pass

    t = threading.Thread(target=serve)
    t.start()
    yield port, came
    stop.set()
    t.join()
    tcp.close()
    udp.close()


def host_addresses():
    from support.host import read

    return sorted({m for m in re.findall(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL", read("/proc/net/fib_trie"))})


def my_address(client, box):
    return re.search(r"inet (100\.\d+\.\d+\.\d+)", client.sh(box, "ip addr show dev eth0")).group(1)


def test_c1_without_egress_there_is_nothing_but_loopback(client, daemon):
    box = client.create(image="hostile", deny_egress=True)
    assert re.findall(r"^\s*(\S+):", client.sh(box, "cat /proc/net/dev"), re.M) == ["lo"]
    assert client.sh(box, "cat /proc/net/route").count("\n") == 1
    assert set(re.findall(r"(\S+)$", client.sh(box, "cat /proc/net/ipv6_route", check=None), re.M)) <= {"lo"}
    for addr, how in [("127.0.0.1", "tcp"), ("::1", "tcp")]:
        assert outcome(client, box, addr, daemon.port, how)["connect"] in ("ECONNREFUSED", "EADDRNOTAVAIL", "ENETUNREACH"), addr
    for addr, how in [("198.18.0.1", "tcp"), ("198.18.0.1", "udp"), ("169.254.1.1", "tcp"), ("255.255.255.255", "udp"), ("224.0.0.1", "udp"), ("2001:db8::1", "tcp"),
                      ("fe80::1", "tcp"), ("ff02::1", "udp"), ("100.96.0.2", "tcp")]:
        assert outcome(client, box, addr, 9, how)["connect"] in ("ENETUNREACH", "EINVAL", "EADDRNOTAVAIL"), addr
    for name in client.sh(box, "cat /etc/resolv.conf").split("nameserver")[1:]:
        assert outcome(client, box, name.split()[0], 53, "udp")["connect"] == "ENETUNREACH"
    assert client.exec(box, "nslookup", "example.invalid", timeout=30).code != 0


def test_c3_the_host_is_out_of_reach(client, daemon, box, listeners):
    port, came = listeners
    me = my_address(client, box)
    gateway = re.search(r"default via (\S+)", client.sh(box, "ip route")).group(1)
    targets = [a for a in host_addresses() if not a.startswith("127.")]
    assert gateway in targets
    for addr in targets:
        for p in (port, daemon.port):
            assert outcome(client, box, addr, p)["connect"] in REFUSED, addr
        got = outcome(client, box, addr, port, "udp", 300)
        assert got["connect"] in REFUSED or got.get("answer", got.get("send")) in REFUSED | {"timeout"}, (addr, got)
    for addr in ("127.0.0.1", "127.0.0.53", "0.0.0.0"):
        assert outcome(client, box, addr, daemon.port)["connect"] == "ECONNREFUSED"
    assert not [peer for peer in came if peer[0] == me], came


def test_c3_route_localnet_is_off(client, box, listeners):
    """Packets for 127/8 that come in by the link are dropped by the host: the sandbox cannot even send them there."""
    assert client.sh(box, "cat /proc/sys/net/ipv4/conf/all/route_localnet") == "0\n"
    assert client.exec(box, "ip", "route", "add", "127.0.0.0/8", "dev", "eth0").code != 0
    assert client.exec(box, "ip", "addr", "add", "10.9.9.9/24", "dev", "eth0").code != 0
    assert client.exec(box, "ip", "link", "set", "eth0", "down").code != 0


def test_c3_sandboxes_do_not_reach_each_other(client, box):
    other = client.create(image="hostile")
    server = client.stream(other, "sh", "-c", "echo up; nc -l -p 7000 -e /bin/echo reached")
    server.until(b"up")
    addr = my_address(client, other)
    assert addr != my_address(client, box)
    assert outcome(client, box, addr, 7000)["connect"] in REFUSED
    assert outcome(client, other, addr, 7000)["connect"] == "ok"
    server.cancel()


def test_c3_a_forged_source_is_not_sent(client, box):
    """No raw sockets, no foreign addresses to bind to."""
    assert client.exec(box, "nc", "-s", "100.96.0.9", "-w", "1", "127.0.0.1", "1").code != 0
    assert client.exec(box, "arping", "-c", "1", "-I", "eth0", "100.96.0.1").code != 0


@pytest.mark.timeout(120)
def test_c12_there_is_no_window_before_the_policy_holds(client, listeners):
    """The first thing a main process does is to look and to knock; also when many are made at once."""
    port, came = listeners
    script = f"""/bin/busybox grep -c : /proc/net/dev; for i in 1 2 3; do /probe dial $(/bin/busybox ip route | /bin/busybox sed -n 's/default via \\([^ ]*\\) .*/\\1/p') {port} tcp 300; done; true"""
    boxes = [client.create(image="hostile", command="/bin/busybox", args=["sh", "-c", script], deny_egress=i % 3 == 0 or None, wait=False) for i in range(40)]
    for i, box in enumerate(boxes):
        assert client.wait(box).state == pb.STATE_COMPLETED
        text = client.logs(box).decode()
        if i % 3 == 0:
            assert text.startswith("1\n") and "connect" not in text, text
        else:
            assert text.startswith("2\n"), text
            results = re.findall(r"connect: (\S+)", text)
            assert len(results) == 3 and set(results) <= REFUSED, text
    assert not [peer for peer in came if peer[0].startswith("100.")], came
