"""Peers that break rules, flood, stall or vanish, and ordinary HTTP/1.1 beside them.

Usage: ECHO_SERVER=... hostile.py [PART-OF-A-TEST-NAME]. Needs nothing but Python."""
import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rpc'))
from harness import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, PING, PREFACE, PRIORITY, RST,  # noqa: E402
                     SANITIZED, SETTINGS, WINDOW, Server, fields, frame, grpc_head, head, literal, message, read_all, request,
                     run, wait_for)

CALM, PROTOCOL, FLOW, FRAME_SIZE, REFUSED = 11, 1, 3, 6, 7
GET = b'GET /hello HTTP/1.1\r\nHost: a\r\n\r\n'
CLOSE = b'GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'


def alive(server):
    assert b'hello world' in server.talk(CLOSE)


# ---------------------------------------------------------------- HTTP/1.1

def test_h1_malformed_heads_are_refused_and_the_connection_ends():
    cases = {
        b'GET /hello HTTP/1.1\nHost: a\n\n': 400, b'GET /hello HTTP/1.1\r\nHost : a\r\n\r\n': 400,
        b'GET /hello HTTP/1.1\r\n\r\n': 400, b'GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n': 400,
        b'GET /hello HTTP/1.1\r\nHost: a\r\n fold\r\n\r\n': 400, b'GET /hello\r\n\r\n': 400, b'\0\0\0\0': 400,
        b'PRI * HTTP/2.0\r\n\r\nSM\r\n\rX': 505, b'PRINT /hello HTTP/1.1\r\nHost: a\r\n\r\n': 405,
        b'\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03': 400, b'GET /hello HTTP/3.0\r\nHost: a\r\n\r\n': 505,
        b'POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n': 400,
        b'POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n': 501,
        b'POST /echo HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 1\r\n\r\n': 417,
    }
    with Server('sniff_ms=1500', 'head_ms=1500') as s:
        for data, status in cases.items():
            out = s.talk(data + (CLOSE if status == 405 else GET))
            assert out.startswith(b'HTTP/1.1 %d ' % status), (data, out)
            assert out.count(b'\r\ndate: ') == (2 if status == 405 else 1), (data, out)  # what follows is not served
        alive(s)


def test_h1_large_heads_are_refused():
    with Server() as s:
        assert b' 431 ' in s.talk(b'GET /' + b'a' * 40000 + b' HTTP/1.1\r\nHost: a\r\n\r\n')
        assert b' 431 ' in s.talk(b'GET /hello HTTP/1.1\r\nHost: a\r\n' + b'X: y\r\n' * 200 + b'\r\n')
        with s.connect() as c:  # without an end
            c.sendall(b'GET /hello HTTP/1.1\r\nHost: a\r\n')
            try:
                for _ in range(100):
                    c.sendall(b'X: ' + b'y' * 1000 + b'\r\n')
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert b' 431 ' in read_all(c)
        alive(s)


def test_h1_a_body_that_breaks_off_or_lies_ends_the_connection():
    with Server() as s:
        post = b'POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n'
        out = s.talk(post + b'3\r\nabcX\r\n')
        assert b'abc' in out and b'0\r\n\r\n' not in out
        out = s.talk(post + b'g\r\n' + GET)
        assert b'hello' not in out
        alive(s)


def test_h1_early_replies_survive_an_upload_that_goes_on():
    with Server() as s:
        for _ in range(5):
            with s.connect() as c:
                c.sendall(b'POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n')
                try:
                    for _ in range(20):
                        c.sendall(b'x' * 65536)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                out = read_all(c)
                assert out.startswith(b'HTTP/1.1 409 ') and b'connection: close' in out and b'not \\"now\\"' in out


def test_h1_requests_byte_by_byte_and_pipelined():
    with Server() as s:
        with s.connect() as c:
            for b in CLOSE:
                c.sendall(bytes([b]))
            assert b'hello world' in read_all(c)
        out = s.talk(GET * 999 + CLOSE)
        assert out.count(b'HTTP/1.1 200 OK') == 1000 and out.count(b'hello world\n') == 1000
        body = b'POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345'
        chunked = b'POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n67890\r\n0\r\n\r\n'
        out = s.talk((body + chunked) * 50 + CLOSE)
        assert out.count(b'12345') == 50 and out.count(b'67890') == 50 and b'hello world' in out
        with s.connect() as c:  # a client that says it is done, with requests still on the way
            c.sendall(GET * 20)
            c.shutdown(socket.SHUT_WR)
            assert read_all(c).count(b'hello world') == 20


def test_h1_old_clients_heads_and_expectations():
    with Server() as s:
        out = s.talk(b'GET /hello?name=a%20b HTTP/1.0\r\n\r\n')
        assert b'hello a b' in out and b'connection: close' in out
        out = s.talk(b'POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc')
        assert out.endswith(b'\r\n\r\nabc') and b'chunked' not in out
        out = s.talk(b'HEAD /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        assert b'content-length: 12' in out and out.endswith(b'\r\n\r\n')
        out = s.talk(b'GET http://b/hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        assert b'hello world' in out
        out = s.talk(b'GET /hello HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n'
                     b'Connection: Upgrade, HTTP2-Settings, close\r\n\r\n')
        assert out.startswith(b'HTTP/1.1 200 OK')
        with s.connect() as c:
            c.sendall(b'POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n'
                      b'Connection: close\r\n\r\n')
            time.sleep(0.1)
            c.sendall(b'abc')
            assert b'abc' in read_all(c)
        out = s.talk(b'POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n')
        assert out.startswith(b'HTTP/1.1 409 ')
        assert b'allow: POST' in s.talk(CLOSE.replace(b'/hello', b'/echo'))
        assert b' 404 ' in s.talk(CLOSE.replace(b'/hello', b'/nothing'))


def test_h1_a_slow_reader_stops_the_writer():
    with Server() as s, s.connect(rcvbuf=8192) as c:
        before = s.status_kib()
        c.sendall(b'POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n')
        c.settimeout(0.5)
        sent = 0
        try:
            while sent < 100 << 20:
                sent += c.send(b'x' * 65536)
        except socket.timeout:
            pass
        assert sent < 40 << 20, sent  # what the kernel's buffers take
        assert s.status_kib() < before + 3 * 1024 or SANITIZED


# ---------------------------------------------------------------- deadlines and counts

def test_slow_starters_are_dropped():
    with Server('sniff_ms=300', 'head_ms=300') as s:
        for start in (b'', b'PRI * HT', b'GET / HTTP/1.1\r\nHos', PREFACE, PREFACE + frame(SETTINGS)[:5],
                      PREFACE + frame(SETTINGS) + frame(HEADERS, 0, 1, head()),
                      PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, head())[:-3]):
            with s.connect() as c:
                began = time.monotonic()
                c.sendall(start)
                out = read_all(c)
                assert 0.2 < time.monotonic() - began < 3, (start, time.monotonic() - began)
                assert start[:3] != b'GET' or b' 408 ' in out
        with s.connect(0.05) as c:  # a byte now and then does not help
            began = time.monotonic()
            for b in b'GET /hello HTTP/1.1\r\nHost: a\r\nX: ' + b'y' * 200:
                try:
                    c.sendall(bytes([b]))
                    c.recv(1000)
                    break
                except socket.timeout:
                    continue
            assert 0.2 < time.monotonic() - began < 3
        alive(s)


def test_idle_connections_are_closed_and_busy_ones_are_not():
    with Server('idle_ms=400') as s:
        with s.connect() as c, H2(s) as h, H2(s) as busy:
            c.sendall(GET)
            busy.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Hang')) + frame(DATA, END_STREAM, 1, message(b'')))
            began = time.monotonic()
            assert b'hello world' in read_all(c)
            assert h.goaway() == 0
            assert 0.3 < time.monotonic() - began < 3
            time.sleep(0.6)
            busy.send(frame(PING, 0, 0, b'12345678'))
            while busy.until(PING)[3] != b'12345678':
                pass


def test_an_idle_server_sleeps():
    with Server() as s:
        conns = [s.connect() for _ in range(10)]
        for c in conns:
            c.sendall(GET)
            c.recv(1000)
        time.sleep(0.2)
        before = s.wakeups()
        time.sleep(1.5)
        assert s.wakeups() - before <= 1
        for c in conns:
            c.close()


def test_connections_above_the_limit_wait_and_idle_ones_make_room():
    with Server('conns_max=10') as s:
        conns = [s.connect() for _ in range(10)]
        for c in conns:
            c.sendall(GET[:10])  # in the middle of a head: not idle
        time.sleep(0.1)
        with s.connect(0.3) as late:
            late.sendall(CLOSE)
            try:
                assert late.recv(100) == b'never'
            except socket.timeout:
                pass
            conns.pop().close()
            late.settimeout(5)
            assert b'hello world' in read_all(late)
        for c in conns:
            c.sendall(GET[10:])
            assert b'hello' in c.recv(1000)  # idle from here on
        more = s.connect()
        more.sendall(CLOSE)
        assert b'hello world' in read_all(more)
        more.close()
        alive(s)
        for c in conns:
            c.close()


def test_a_server_without_descriptors_recovers_and_does_not_spin():
    with Server(files=30) as s:
        conns = [s.connect() for _ in range(60)]
        cpu = s.cpu_us()
        time.sleep(1)
        assert s.cpu_us() - cpu < 200000
        for c in conns:
            c.close()
        alive(s)


def counters(server):
    with H2(server) as h:
        h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Counters')) + frame(DATA, END_STREAM, 1, message(b'')))
        f = fields(h.reply(1)[1][5:])
        return f.get(2, 0), f.get(4, 0)


def test_h1_a_client_that_leaves_is_noticed_while_it_waits():
    with Server() as s:
        for get_away in (lambda c: c.close(), lambda c: c.shutdown(socket.SHUT_WR)):
            before = counters(s)[0]
            c = s.connect()
            c.sendall(b'GET /stall HTTP/1.1\r\nHost: a\r\n\r\n')
            wait_for(lambda: counters(s)[1] == 1)
            get_away(c)
            wait_for(lambda: counters(s) == (before + 1, 0))
            c.close()
        with s.connect() as c:  # also behind a pipelined request
            c.sendall(b'GET /stall HTTP/1.1\r\nHost: a\r\n\r\n' + GET)
            wait_for(lambda: counters(s)[1] == 1)
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        wait_for(lambda: counters(s)[1] == 0)


def test_requests_above_the_limit_are_unavailable():
    with Server('requests_max=5') as s, H2(s) as h:
        for sid in range(1, 11, 2):
            h.send(frame(HEADERS, END_HEADERS, sid, grpc_head('Hang')) + frame(DATA, END_STREAM, sid, message(b'')))
        h.send(frame(HEADERS, END_HEADERS | END_STREAM, 11, head()))
        assert b'unavailable' in h.reply(11)[1]


def test_a_thousand_idle_connections_are_cheap():
    with Server() as s:
        alive(s)
        before = s.status_kib()
        conns = []
        for _ in range(1000):
            h = H2(s)
            h.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head()))
            conns.append(h)
        for h in conns:
            assert h.reply(1)[1] == b'hello world\n'
        each = (s.status_kib() - before) / 1000
        print(f'# {each:.1f} KiB for each idle HTTP/2 connection')
        assert each < 20 or SANITIZED
        for h in conns:
            h.sock.close()
        before = s.status_kib()
        conns = [s.connect() for _ in range(1000)]
        for c in conns:
            c.sendall(GET)
        for c in conns:
            c.recv(1000)
        each = (s.status_kib() - before) / 1000
        print(f'# {each:.1f} KiB for each idle HTTP/1.1 connection')
        assert each < 4 or SANITIZED
        for c in conns:
            c.close()


# ---------------------------------------------------------------- HTTP/2

def test_h2_preface_byte_by_byte():
    with Server() as s, s.connect() as c:
        for b in PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS | END_STREAM, 1, head()):
            c.sendall(bytes([b]))
        out = b''
        while b'hello world' not in out:
            out += c.recv(1000)


def test_h2_rule_breakers_get_goaway():
    start = frame(HEADERS, END_HEADERS, 1, head())
    cases = [
        (frame(PING, 0, 0, b'123'), FRAME_SIZE), (frame(PING, 0, 1, b'12345678'), PROTOCOL),
        (frame(SETTINGS, 0, 0, b'12345'), FRAME_SIZE), (frame(SETTINGS, 0, 0, struct.pack('>HI', 4, 1 << 31)), FLOW),
        (frame(SETTINGS, 0, 0, struct.pack('>HI', 5, 1)), PROTOCOL), (frame(DATA, 0, 0, b'x'), PROTOCOL),
        (frame(HEADERS, END_HEADERS, 2, head()), PROTOCOL), (frame(HEADERS, END_HEADERS, 1, b'\xff\xff\xff'), 9),
        (frame(CONTINUATION, END_HEADERS, 1, b''), PROTOCOL), (start[:-1] + start, None),
        (frame(WINDOW, 0, 0, b'\0\0\0\0'), PROTOCOL), (frame(WINDOW, 0, 0, b'\x7f\xff\xff\xff'), FLOW),
        (frame(RST, 0, 99, b'\0\0\0\0'), PROTOCOL), (frame(DATA, 0, 1, b'x' * 70000), FRAME_SIZE),
        (frame(HEADERS, 0, 1, head()) + frame(PING, 0, 0, b'12345678'), PROTOCOL),
        (frame(5, END_HEADERS, 1, b'\0\0\0\2'), PROTOCOL),
    ]
    with Server() as s:
        for data, code in cases:
            with H2(s) as h:
                try:
                    h.send(data)
                    got = h.goaway()
                except (BrokenPipeError, ConnectionResetError):
                    got = code
                assert code is None or got == code, (data[:20], got)
        assert s.talk(PREFACE + frame(PING, 0, 0, b'12345678'))  # SETTINGS must come first
        alive(s)


def test_h2_malformed_requests_reset_their_stream_only():
    bad = [
        [(':method', 'GET'), (':scheme', 'http')], [(':path', '/'), (':scheme', 'http')],
        [(':method', 'GET'), (':scheme', 'http'), (':path', '/'), ('Upper', 'x')],
        [(':method', 'GET'), (':scheme', 'http'), (':path', '/'), ('connection', 'close')],
        [(':method', 'GET'), (':scheme', 'http'), (':path', '/'), ('te', 'gzip')],
        [(':method', 'GET'), (':scheme', 'http'), (':path', '/'), ('x', 'a\nb')],
        [(':method', 'GET'), (':scheme', 'http'), (':path', '/'), ('x', 'a\0b')],
        [(':method', 'GET'), (':method', 'GET'), (':scheme', 'http'), (':path', '/')],
        [(':method', 'GET'), (':scheme', 'http'), ('x', 'y'), (':path', '/')],
        [(':method', 'GET'), (':scheme', 'http'), (':path', '')],
    ]
    with Server() as s, H2(s) as h:
        sid = 1
        for request_fields in bad:
            h.send(frame(HEADERS, END_HEADERS | END_STREAM, sid, b''.join(literal(*f) for f in request_fields)))
            assert h.until(RST, stream=sid)[3] == struct.pack('>I', PROTOCOL), request_fields
            sid += 2
        h.send(frame(HEADERS, END_HEADERS, sid, head('/echo', 'POST', [('content-length', '3')])) +
               frame(DATA, END_STREAM, sid, b'toolong'))
        assert h.until(RST, stream=sid)
        h.send(frame(HEADERS, END_HEADERS | END_STREAM, sid + 2, head()))
        assert h.reply(sid + 2)[1] == b'hello world\n'


def test_h2_large_heads_are_refused_and_huge_ones_end_the_connection():
    with Server() as s:
        with H2(s) as h:
            h.until(SETTINGS)  # frames above 16 KiB only from here on
            h.send(frame(SETTINGS, ACK))
            h.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head(extra=[('x', 'y' * 40000)])))
            assert b'larger than this server takes' in h.reply(1)[1]
            h.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, head(extra=[('x', 'y')] * 150)))
            assert b'larger than this server takes' in h.reply(3)[1]
            h.send(frame(HEADERS, END_HEADERS | END_STREAM, 5, head()))
            assert h.reply(5)[1] == b'hello world\n'
        with H2(s) as h:  # a bomb: one entry of the table, named by one byte each time
            h.until(SETTINGS)
            h.send(frame(SETTINGS, ACK))
            bomb = b'\x40' + literal('x', 'y' * 3900)[1:] + b'\xbe' * 60000
            h.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head() + bomb))
            assert h.goaway() == CALM
        alive(s)


def test_h2_floods_are_answered_with_calm():
    def flood(server, data, codes, times=200):
        with H2(server) as h:
            h.sock.settimeout(10)
            try:
                for _ in range(times):
                    h.send(data)
                code = h.goaway()
            except (BrokenPipeError, ConnectionResetError):
                return
            assert code in codes, (data[:9], code)

    with Server('pings_per_min=500', 'resets_per_min=500') as s:
        before = s.status_kib()
        flood(s, frame(PING, 0, 0, b'12345678') * 10, (CALM, None))
        flood(s, frame(SETTINGS) * 10, (CALM, None))
        flood(s, frame(DATA, 0, 1) * 10, (CALM, PROTOCOL))
        flood(s, frame(PRIORITY, 0, 1, b'\0\0\0\0\0') * 10, (CALM,))
        flood(s, frame(SETTINGS, 0, 0, struct.pack('>HI', 1, 0) * 33), (CALM, PROTOCOL, None), 1)
        for how in ('reset', 'madeyoureset', 'refused'):
            with H2(s) as h:
                code = None
                try:
                    for sid in range(1, 4001, 2):
                        if how == 'reset':
                            h.send(frame(HEADERS, END_HEADERS, sid, grpc_head('Hang')) +
                                   frame(DATA, END_STREAM, sid, message(b'')) + frame(RST, 0, sid, b'\0\0\0\x08'))
                        elif how == 'madeyoureset':
                            h.send(frame(HEADERS, END_HEADERS, sid, head('/echo', 'POST')) +
                                   frame(WINDOW, 0, sid, b'\0\0\0\0'))
                        else:
                            h.send(frame(HEADERS, END_HEADERS, sid, head('/echo', 'POST')))
                    code = h.goaway()
                except (BrokenPipeError, ConnectionResetError):
                    code = CALM
                assert code in (CALM, PROTOCOL), (how, code)
        alive(s)
        assert s.status_kib() < before + 4096 or SANITIZED


def test_h2_continuation_flood():
    with Server() as s:
        before, cpu = s.status_kib(), s.cpu_us()
        with H2(s) as h:
            h.send(frame(HEADERS, 0, 1, head()))
            try:
                for _ in range(5000):
                    h.send(frame(CONTINUATION, 0, 1, literal('x', 'y' * 100)))
                h.goaway()
            except (BrokenPipeError, ConnectionResetError):
                pass
        alive(s)
        assert s.status_kib() < before + 2048 or SANITIZED
        assert s.cpu_us() - cpu < 500000


def test_h2_windows_are_enforced():
    with Server() as s:
        with H2(s) as h:  # a reader that never takes: 1 MiB and no more
            h.until(SETTINGS)
            h.send(frame(SETTINGS, ACK))
            h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('SlowCollect')))
            h.send(frame(DATA, 0, 1, message(request(b'x'))))
            try:
                for _ in range(40):
                    h.send(frame(DATA, 0, 1, b'\0' * 60000))
                kind, _, stream, payload = h.until(RST, GOAWAY)
                code = payload if kind == RST else payload[4:8]
                assert code == struct.pack('>I', FLOW)
            except (BrokenPipeError, ConnectionResetError):
                pass
        with H2(s, struct.pack('>HI', 4, 0)) as h:  # a window that overflows
            h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Hang')))
            h.send(frame(WINDOW, 0, 1, b'\x7f\xff\xff\xff') * 2)
            kind, _, _, payload = h.until(RST, GOAWAY)
            assert payload[-4:] == struct.pack('>I', FLOW)
        alive(s)


def test_h2_paused_streams_together_hold_back_the_connection():
    with Server('conn_window=2097152') as s, H2(s) as h:
        before = s.status_kib()
        h.until(SETTINGS)
        h.send(frame(SETTINGS, ACK))
        h.sock.settimeout(0.5)
        sent = 0
        try:
            for sid in range(1, 101, 2):
                h.send(frame(HEADERS, END_HEADERS, sid, grpc_head('SlowCollect')) +
                       frame(DATA, 0, sid, message(request(b'x'))))
            credit = 65535
            while True:  # an honest sender: only what the connection's window allows
                f = h.recv()
                if f[0] == WINDOW and f[2] == 0:
                    credit += struct.unpack('>I', f[3])[0]
                while credit > 70000 and sent < 40 * 950000:
                    h.send(frame(DATA, 0, 1 + 2 * (sent // 950000), message(b'\0' * 59995)[:60000]))
                    credit -= 60000
                    sent += 60000
        except socket.timeout:
            pass
        assert 1 << 20 < sent < 4 << 20, sent
        assert s.status_kib() < before + 6 * 1024 or SANITIZED


def test_h2_a_peer_that_does_not_read_is_cut_off():
    with Server('conn_out_max=300000', 'pings_per_min=100000000', 'resets_per_min=100000000') as s:
        with H2(s, rcvbuf=4096) as h:
            h.sock.settimeout(10)
            before = s.status_kib()
            try:
                for sid in range(1, 1000001, 2):
                    h.send(frame(HEADERS, END_HEADERS | END_STREAM, sid, head('/' + 'n' * 60)) +
                           frame(PING, 0, 0, b'12345678'))
                raise AssertionError('nothing stopped the flood')
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert s.status_kib() < before + 4096 or SANITIZED
        alive(s)


def test_lost_peers_leave_nothing_behind():
    with Server() as s:
        fds = lambda: len(os.listdir(f'/proc/{s.proc.pid}/fd'))  # noqa: E731
        alive(s)
        time.sleep(0.2)  # that connection's end may not have been seen yet
        before = fds()
        for i in range(200):
            c = s.connect()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', i % 2, 0))
            c.sendall((b'POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc', PREFACE + frame(SETTINGS) +
                       frame(HEADERS, END_HEADERS, 1, grpc_head('Collect')), b'PRI', GET)[i // 2 % 4])
            c.close()
        wait_for(lambda: fds() <= before)


if __name__ == '__main__':
    run(globals())
