"""The gRPC layer against the reference client, grpcio, by the echo server of tests/unit/rpc."""
import os
import queue
import socket
import struct
import sys
import time

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'unit', 'rpc'))
from harness import (ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, PING, RST, SANITIZED, SETTINGS, WINDOW,  # noqa: E402
                     Server, fields, frame, grpc_head, message, request, wait_for)

MIB = 1 << 20


def same(x):
    return x


class Client:
    def __init__(self, server, *options):
        self.channel = grpc.insecure_channel(f'127.0.0.1:{server.port}', options=[
            ('grpc.max_receive_message_length', -1), ('grpc.max_send_message_length', -1), *options])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def __getattr__(self, name):
        """unary_Big, client_Collect, server_Source, bidi_Bidi"""
        kind, method = name.split('_')
        maker = {'unary': 'unary_unary', 'client': 'stream_unary', 'server': 'unary_stream', 'bidi': 'stream_stream'}
        return getattr(self.channel, maker[kind])('/silica.test.Echo/' + method, same, same)

    def counters(self):
        f = fields(self.unary_Counters(b''))
        return {n: f.get(i + 1, 0) for i, n in enumerate(('reset', 'conn', 'deadline', 'open', 'rss_kib', 'cpu_us'))}


def refused(call, code, details=None):
    try:
        result = call()
        if not isinstance(result, bytes):
            list(result)
    except grpc.RpcError as e:
        assert e.code() == code, f'{e.code()} {e.details()}'
        if details is not None:
            assert e.details() == details, e.details()
        return e
    raise AssertionError('the call succeeded')


def test_errors_say_what_is_wrong():
    code = grpc.StatusCode
    with Server() as s, Client(s) as c:
        refused(lambda: c.unary_Nothing(b''), code.UNIMPLEMENTED, 'unknown method /silica.test.Echo/Nothing')
        refused(lambda: c.unary_Unbuilt(b''), code.UNIMPLEMENTED,
                'method /silica.test.Echo/Unbuilt is not implemented by this server')
        refused(lambda: c.unary_Unary(b'\xff\xff'), code.INVALID_ARGUMENT,
                'the request is not a valid silica.test.EchoRequest message')
        refused(lambda: c.unary_Unary(request(b'x' * (5 * MIB))), code.RESOURCE_EXHAUSTED)
        refused(lambda: c.unary_Unary(b'', metadata=[('authorization', 'Bearer wrong')]), code.UNAUTHENTICATED,
                'this key is not known')
        refused(lambda: c.client_Unary(iter([])), code.UNIMPLEMENTED,
                'method /silica.test.Echo/Unary takes one request message, the client sent none')
        refused(lambda: c.client_Unary(iter([b'', b''])), code.UNIMPLEMENTED,
                'method /silica.test.Echo/Unary takes one request message, the client sent more')
        refused(lambda: c.unary_Unary(request(b'x' * 1000), compression=grpc.Compression.Gzip), code.UNIMPLEMENTED,
                'compression is not supported: send messages uncompressed')
        refused(lambda: c.unary_Fail(request(count=2, text='b\u00e4d %\nthing')), code.INVALID_ARGUMENT,
                'b\u00e4d %\nthing')


def test_details_reach_the_client():
    with Server() as s, Client(s) as c:
        e = refused(lambda: c.unary_Fail(request(count=3, size=1, text='no such file')), grpc.StatusCode.NOT_FOUND,
                    'no such file')
        assert dict(e.trailing_metadata())['grpc-status-details-bin'] == bytes.fromhex(
            '0805120c6e6f20737563682066696c651a650a28747970652e676f6f676c65617069732e636f6d2f676f6f676c652e7270632e45'
            '72726f72496e666f12390a18435753414e44424f585f46494c455f4e4f545f464f554e44120d637773616e64626f782e636f6d1a'
            '0e0a0866696c657061746812022f78')


def test_unary_of_all_sizes():
    with Server() as s, Client(s) as c:
        for n in (0, 1, 100, 16384, 65536, 3 * MIB):
            data = bytes(range(256)) * (n // 256) + b'x' * (n % 256)
            f = fields(c.unary_Unary(request(data)))
            assert f.get(1, b'') == data and f.get(2, 0) == n


def test_100_mib_each_way_and_the_memory_comes_back():
    with Server() as s, Client(s) as c:
        before = c.counters()['rss_kib']
        data = b'\xab' * (100 * MIB - 16)
        assert fields(c.unary_Big(request(data)))[2] == len(data)
        assert s.status_kib('VmHWM') < before + (2 * 100 + 24) * 1024 or SANITIZED  # one copy in, one copy out
        wait_for(lambda: c.counters()['rss_kib'] < before + 16 * 1024 or SANITIZED)
        refused(lambda: c.unary_Big(request(b'x' * (100 * MIB))), grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_streams():
    with Server() as s, Client(s) as c:
        sent = [request(b'%d' % i * 10) for i in range(2000)]
        got = [fields(m)[1] for m in c.bidi_Bidi(iter(sent))]
        assert got == [b'%d' % i * 10 for i in range(2000)]
        assert fields(c.client_Collect(iter([request(b'x' * 50000)] * 400)))[2] == 20000000
        assert fields(c.client_Collect(iter([]))) == {}
        assert sum(len(fields(m)[1]) for m in c.server_Source(request(count=500, size=200000))) == 100000000
        assert c.counters()['open'] == 0


def test_ping_pong():
    with Server() as s, Client(s) as c:
        todo = queue.Queue()
        replies = c.bidi_Bidi(iter(todo.get, None))
        for i in range(300):
            todo.put(request(b'ping %d' % i))
            assert fields(next(replies))[1] == b'ping %d' % i
        todo.put(None)
        assert list(replies) == []


def test_a_deadline_ends_the_call_on_both_sides():
    with Server() as s, Client(s) as c:
        began = time.monotonic()
        refused(lambda: c.unary_Hang(b'', timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
        assert 0.25 < time.monotonic() - began < 2
        wait_for(lambda: c.counters()['open'] == 0)
        n = c.counters()
        assert n['deadline'] + n['reset'] == 1  # whichever side was first


def test_the_server_keeps_the_deadline_alone():
    with Server() as s, H2(s) as h, Client(s) as c:
        h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Hang', [('grpc-timeout', '200m')])) +
               frame(DATA, END_STREAM, 1, message(b'')))
        head, body, _ = h.reply(1)
        assert b'deadline exceeded' in head and body == b''
        assert c.counters()['deadline'] == 1
        for sid, bad in ((3, '5'), (5, '123456789S'), (7, '5x'), (9, '-1S')):
            h.send(frame(HEADERS, END_HEADERS, sid, grpc_head('Unary', [('grpc-timeout', bad)])))
            head, _, _ = h.reply(sid)
            assert f"grpc-timeout '{bad}' is not".encode() in head.replace(b'%27', b"'"), head


def test_cancel_and_lost_connections_are_told_apart():
    with Server() as s, Client(s) as watch:
        with Client(s, ('grpc.use_local_subchannel_pool', 1)) as c:
            future = c.unary_Hang.future(b'')
            wait_for(lambda: watch.counters()['open'] == 1)
            future.cancel()
            wait_for(lambda: watch.counters()['reset'] == 1)
            assert watch.counters()['open'] == 0
        with H2(s) as h:
            h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Hang')) + frame(DATA, END_STREAM, 1, message(b'')))
            wait_for(lambda: watch.counters()['open'] == 1)
        wait_for(lambda: watch.counters()['conn'] == 1)
        assert watch.counters()['open'] == 0


def test_200_streams_on_one_connection():
    with Server() as s, Client(s) as c:
        futures = [c.unary_Hang.future(request(ms=500)) for _ in range(200)]
        wait_for(lambda: c.counters()['open'] == 200)
        began = time.monotonic()
        assert all(fields(f.result())[2] == 1 for f in futures)
        assert time.monotonic() - began < 5


def test_a_paused_reader_stops_its_client_and_nobody_else():
    with Server() as s, Client(s) as c:
        before = c.counters()['rss_kib']
        sent = 0

        def flood():
            nonlocal sent
            yield request(b'x', ms=0)
            for _ in range(20000):
                sent += 1
                yield request(b'x' * 50000)

        call = c.client_SlowCollect.future(flood())
        time.sleep(0.5)
        wait_for(lambda: c.counters()['open'] == 1)
        last = -1
        while last != sent:
            last = sent
            time.sleep(0.3)
        assert sent < 400, sent  # 1 MiB of window, and what grpcio buffers itself
        assert fields(c.unary_Unary(request(b'y' * MIB)))[2] == MIB
        assert sum(len(m) for m in c.server_Source(request(count=100, size=MIB))) > 100 * MIB
        assert s.status_kib() < before + 6 * 1024 or SANITIZED
        call.cancel()
        wait_for(lambda: c.counters()['open'] == 0)


def test_a_slow_reader_of_messages_gets_all_of_them():
    with Server() as s, Client(s) as c:
        n = 200
        assert fields(c.client_SlowCollect(iter([request(b'x' * 30000, ms=1)] * n)))[2] == n * 30000


def test_a_client_that_never_reads_costs_bounded_memory():
    with Server() as s, H2(s, rcvbuf=8192) as h, Client(s) as c:
        before = s.status_kib()
        for sid in range(1, 41, 2):
            h.send(frame(HEADERS, END_HEADERS, sid, grpc_head('Source')) +
                   frame(DATA, END_STREAM, sid, message(request(count=10000, size=65000))))
        wait_for(lambda: c.counters()['open'] == 20)
        time.sleep(0.3)
        assert s.status_kib() < before + 20 * 700 + 1024 or SANITIZED  # out_high and a message for each stream
        calls = [c.bidi_Bidi(iter([request(b'z' * 60000)] * 2000)) for _ in range(5)]
        time.sleep(1)  # nobody takes the replies
        assert s.status_kib() < before + 20 * 700 + 5 * 8 * 1024 or SANITIZED
        for call in calls:
            assert sum(1 for _ in call) == 2000


def test_early_errors_stop_an_upload():
    with Server() as s, Client(s) as c:
        sent = 0

        def upload():
            nonlocal sent
            for _ in range(100000):
                sent += 1
                yield request(b'x' * 50000)

        for _ in range(5):
            refused(lambda: c.client_EarlyError(upload()), grpc.StatusCode.FAILED_PRECONDITION, 'not now')
        assert sent < 5000
        assert fields(c.unary_Unary(request(b'y')))[2] == 1


def test_an_early_reply_ends_with_reset_no_error():
    with Server() as s, H2(s) as h:
        h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('EarlyError')) + frame(DATA, 0, 1, message(request(b'x'))))
        head, _, _ = h.reply(1)
        assert b'not now' in head
        kind, _, _, payload = h.until(RST, stream=1)
        assert payload == b'\0\0\0\0'


def test_pings_are_answered_while_data_flows():
    with Server() as s, H2(s, struct.pack('>HI', 4, 4 << 20), window=(1 << 31) - 65536 - 1) as h:
        h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Source')) +
               frame(DATA, END_STREAM, 1, message(request(count=1 << 20, size=65536))))
        h.until(DATA)
        for i in range(20):
            h.send(frame(PING, 0, 0, struct.pack('>Q', i)) + frame(WINDOW, 0, 1, struct.pack('>I', 1 << 20)))
            taken = 0
            while True:
                kind, flags, _, payload = h.until(DATA, PING)
                if kind == PING:
                    assert flags & ACK and struct.unpack('>Q', payload)[0] == i
                    break
                taken += len(payload)
            assert taken < 8 * MIB


def test_data_frames_follow_the_peers_settings():
    for settings, biggest in ((b'', 16384), (struct.pack('>HIHI', 5, (1 << 24) - 1, 4, 4 << 20), 65536),
                              (struct.pack('>HI', 4, 100), 100)):
        with Server() as s, H2(s, settings, window=1 << 24) as h:
            h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Source')) +
                   frame(DATA, END_STREAM, 1, message(request(count=1, size=30000 if biggest < 65536 else 300000))))
            body, largest = b'', 0
            while True:
                kind, flags, _, payload = h.until(DATA, HEADERS)
                if kind == HEADERS and flags & END_STREAM:
                    break
                if kind == DATA:
                    body += payload
                    largest = max(largest, len(payload))
                    if payload:
                        h.send(frame(WINDOW, 0, 1, struct.pack('>I', len(payload))))
            assert largest == biggest, largest
            assert len(body) in (30000 + 5 + 4, 300000 + 5 + 4)


def test_a_drain_lets_calls_finish_and_refuses_new_connections():
    with Server() as s, Client(s, ('grpc.use_local_subchannel_pool', 1)) as c:
        call = c.unary_Hang.future(request(ms=600))
        wait_for(lambda: c.counters()['open'] == 1)
        with H2(s) as h:
            h.until(SETTINGS)
            s.proc.terminate()
            first = h.until(GOAWAY)
            assert struct.unpack('>II', first[3]) == (0x7fffffff, 0)  # notice first: requests under way still count
            ping = h.until(PING)
            # A request that crossed the notice is served.
            h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Unary')) + frame(DATA, END_STREAM, 1, message(b'')))
            assert b'grpc-status: 0' in h.reply(1)[2]
            h.send(frame(PING, ACK, 0, ping[3]))
            assert struct.unpack('>II', h.until(GOAWAY)[3]) == (1, 0)
            assert h.recv() is None
        try:
            socket.create_connection(('127.0.0.1', s.port), 1).close()
            raise AssertionError('a new connection was taken')
        except ConnectionRefusedError:
            pass
        assert fields(call.result())[2] == 1
        assert s.proc.wait(5) == 0


def test_half_close_may_come_late_or_early():
    with Server() as s, H2(s) as h:
        h.send(frame(HEADERS, END_HEADERS, 1, grpc_head('Bidi')) + frame(DATA, 0, 1, message(request(b'one'))))
        h.until(HEADERS, stream=1)
        assert b'one' in h.until(DATA, stream=1)[3]
        h.send(frame(DATA, END_STREAM, 1))
        assert h.until(HEADERS, stream=1)[1] & END_STREAM
        h.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, grpc_head('Bidi')))
        assert b'grpc-status' in h.reply(3)[0]
        h.send(frame(HEADERS, END_HEADERS, 5, grpc_head('Bidi')) + frame(DATA, END_STREAM, 5, message(b'xyz')[:6]))
        assert b'middle of a message' in h.reply(5)[0]


def test_hot_cancels_do_not_cost_the_connection():
    with Server() as s, Client(s) as c:
        for _ in range(30):
            futures = [c.unary_Hang.future(b'') for _ in range(100)]
            for f in futures:
                f.cancel()
        wait_for(lambda: c.counters()['open'] == 0)
        assert fields(c.unary_Unary(request(b'y')))[2] == 1

