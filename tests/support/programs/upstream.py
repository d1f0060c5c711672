"""The other side of tests/system/test_network.py, run in a network namespace of its own. Ends at SIGTERM.

TCP 7001 counts what it gets until end of input, then answers; UDP 7002 answers each datagram; TCP 7005 sends 20 MiB; TCP 80 says "meta";
UDP 7053 is a name server that knows known.test. Nothing listens on 7003 and 7004."""
import selectors
import socket
import threading

selector = selectors.DefaultSelector()


def answer(connection, peer):
    with connection:
        n = 0
        while data := connection.recv(65536):
            n += len(data)
        connection.sendall(f"{n} bytes from {peer[0]}\n".encode())


def pour(connection, peer):
    with connection:
        for i in range(20):
            connection.sendall(bytes([i]) * (1 << 20))


def meta(connection, peer):
    with connection:
        connection.sendall(b"meta")


def datagram(s):
    data, peer = s.recvfrom(65536)
    s.sendto(f"{len(data)} bytes from {peer[0]}\n".encode(), peer)


def name_server(s):
    data, peer = s.recvfrom(512)
    end = data.index(b"\0", 12) + 5
    question = data[12:end]
    known = question.startswith(b"\x05known\x04test\0\0\x01")
    head = data[:2] + (b"\x81\x80" if known else b"\x81\x83") + b"\0\1" + (b"\0\1" if known else b"\0\0") + b"\0\0\0\0"
    s.sendto(head + question + (b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton("198.18.77.99") if known else b""), peer)


def accept(handler):
    def run(s):
        connection, peer = s.accept()
        threading.Thread(target=handler, args=(connection, peer), daemon=True).start()

    return run


for kind, port, handler in [(socket.SOCK_STREAM, 7001, accept(answer)), (socket.SOCK_STREAM, 7005, accept(pour)), (socket.SOCK_STREAM, 80, accept(meta)),
                            (socket.SOCK_DGRAM, 7002, datagram), (socket.SOCK_DGRAM, 7053, name_server)]:
    s = socket.socket(socket.AF_INET, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        s.listen(64)
    selector.register(s, selectors.EVENT_READ, handler)
print("up", flush=True)
while True:
    for key, _ in selector.select():
        key.data(key.fileobj)
