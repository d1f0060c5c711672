"""Starts the echo server and speaks to it: raw sockets, HTTP/2 frames by hand, and the encoding of echo.proto.

The server is $ECHO_SERVER, else the one in the build folder $SILICA_BUILD."""
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback

try:
    import hpack
except ImportError:
    hpack = None

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
ECHO_SERVER = os.environ.get('ECHO_SERVER') or os.path.join(os.environ.get('SILICA_BUILD', 'build'),
                                                               'tests/unit/rpc/echo-server')
# Meson makes malloc fill what it gives: every page of a buffer would be touched, and memory is measured here.
ENV = {k: v for k, v in os.environ.items() if k != 'MALLOC_PERTURB_'}
# Memory is not measured under sanitizers.
SANITIZED = b'__asan_init' in open(ECHO_SERVER, 'rb').read()


class Server:
    def __init__(self, *limits, files=None):
        def few():
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        self.proc = subprocess.Popen([ECHO_SERVER, *limits], stdout=subprocess.PIPE, env=ENV,
                                     preexec_fn=few if files else None)
        line = self.proc.stdout.readline().split()
        if not line:
            raise RuntimeError('the echo server did not start')
        self.port = int(line[1])

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(20)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise
        finally:
            self.proc.stdout.close()
        if kind is None:
            assert code == 0, f'the server ended with {code}'

    def status_kib(self, name='VmRSS'):
        with open(f'/proc/{self.proc.pid}/status', encoding='ascii') as f:
            return int(re.search(name + r':\s+(\d+)', f.read())[1])

    def cpu_us(self):
        with open(f'/proc/{self.proc.pid}/stat', encoding='ascii') as f:
            fields = f.read().rsplit(') ', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1000000 // os.sysconf('SC_CLK_TCK')

    def wakeups(self):
        with open(f'/proc/{self.proc.pid}/status', encoding='ascii') as f:
            return int(re.search(r'\nvoluntary_ctxt_switches:\s+(\d+)', f.read())[1])

    def connect(self, timeout=10, rcvbuf=None):
        s = socket.socket()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.settimeout(timeout)
        s.connect(('127.0.0.1', self.port))
        return s

    def talk(self, data, timeout=10):
        """Sends DATA on a new connection and returns everything until the server closes."""
        with self.connect(timeout) as s:
            s.sendall(data)
            return read_all(s)


def read_all(s):
    out = b''
    try:
        while True:
            piece = s.recv(65536)
            if not piece:
                return out
            out += piece
    except ConnectionResetError:
        return out


def frame(kind, flags=0, stream=0, payload=b''):
    return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload


def literal(name, value):
    name, value = name.encode(), value if isinstance(value, bytes) else value.encode()
    return b'\0' + hp_int(len(name)) + name + hp_int(len(value)) + value


def hp_int(n):
    if n < 127:
        return bytes([n])
    out, n = b'\x7f', n - 127
    while n >= 128:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def head(path='/hello', method='GET', extra=()):
    fields = [(':method', method), (':scheme', 'http'), (':path', path), (':authority', 'a'), *extra]
    return b''.join(literal(n, v) for n, v in fields)


def grpc_head(method, extra=()):
    return head('/silica.test.Echo/' + method, 'POST',
                [('content-type', 'application/grpc'), ('te', 'trailers'), *extra])


class H2:
    """One HTTP/2 connection, frame by frame. With the module hpack, heads are decoded into lines "name: value"."""

    def __init__(self, server, settings=b'', window=None, rcvbuf=None, timeout=10):
        self.sock = server.connect(timeout, rcvbuf)
        self.buf = b''
        self.decoder = hpack.Decoder() if hpack else None
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))
        if window:
            self.send(frame(WINDOW, 0, 0, struct.pack('>I', window)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def recv(self):
        """(kind, flags, stream, payload) or None at the end."""
        while True:
            if len(self.buf) >= 9:
                n = int.from_bytes(self.buf[:3], 'big')
                if len(self.buf) >= 9 + n:
                    kind, flags = self.buf[3], self.buf[4]
                    stream = int.from_bytes(self.buf[5:9], 'big') & 0x7fffffff
                    payload, self.buf = self.buf[9:9 + n], self.buf[9 + n:]
                    if kind == HEADERS and self.decoder:
                        payload = b''.join(b'%s: %s\n' % f for f in self.decoder.decode(payload, raw=True))
                    return kind, flags, stream, payload
            try:
                piece = self.sock.recv(1 << 18)
            except ConnectionResetError:
                return None
            if not piece:
                return None
            self.buf += piece

    def until(self, *kinds, stream=None):
        while True:
            f = self.recv()
            if f is None:
                raise AssertionError(f'the connection ended before one of the frames {kinds}')
            if f[0] == GOAWAY and GOAWAY not in kinds:
                raise AssertionError(f'GOAWAY {struct.unpack(">II", f[3][:8])} {f[3][8:]}')
            if f[0] in kinds and (stream is None or f[2] == stream):
                return f

    def goaway(self):
        """The error code of the GOAWAY that ends the connection; None if it just closes."""
        code = None
        while True:
            f = self.recv()
            if f is None:
                return code
            if f[0] == GOAWAY:
                code = struct.unpack('>II', f[3][:8])[1]

    def reply(self, stream):
        """(head, body, trailers) of a whole reply; SETTINGS are acknowledged on the way."""
        first, body, last = None, b'', b''
        while True:
            kind, flags, sid, payload = self.until(HEADERS, DATA, SETTINGS, RST)
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK))
            if sid != stream:
                continue
            if kind == RST:
                raise AssertionError(f'stream {stream} reset: {int.from_bytes(payload, "big")}')
            if kind == DATA:
                body += payload
            elif kind == HEADERS and first is None:
                first = payload
            elif kind == HEADERS:
                last = payload
            if flags & END_STREAM:
                return first, body, last


def varint(n):
    out = b''
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def request(data=b'', count=0, size=0, text='', ms=0):
    out = b''
    if data:
        out += b'\x0a' + varint(len(data)) + data
    for number, value in ((2, count), (3, size), (5, ms)):
        if value:
            out += bytes([number << 3]) + varint(value)
    if text:
        out += b'\x22' + varint(len(text.encode())) + text.encode()
    return out


def message(body):
    return b'\0' + struct.pack('>I', len(body)) + body


def fields(body):
    """The top-level fields of a reply: {number: value}."""
    out, at = {}, 0

    def number():
        nonlocal at
        v = shift = 0
        while True:
            b = body[at]
            at += 1
            v |= (b & 127) << shift
            shift += 7
            if b < 128:
                return v

    while at < len(body):
        tag = number()
        value = number()
        if tag & 7 == 2:
            value, at = body[at:at + value], at + value
        out[tag >> 3] = value
    return out


def wait_for(what, seconds=10):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.02)


def run(names):
    """Runs all test_* functions of NAMES (those that contain sys.argv[1], if given)."""
    only = sys.argv[1] if len(sys.argv) > 1 else ''
    passed = failed = 0
    for name, test in sorted(names.items()):
        if not name.startswith('test_') or only not in name:
            continue
        began = time.monotonic()
        try:
            test()
            passed += 1
            print(f'ok {name} {time.monotonic() - began:.2f} s', flush=True)
        except Exception:
            failed += 1
            print(f'not ok {name}', flush=True)
            traceback.print_exc(file=sys.stdout)
    print(f'[  PASSED  ] {passed} test(s).')
    print(f'[  FAILED  ] {failed} test(s).' if failed else '')
    sys.exit(1 if failed else 0)
