"""What a peer of the server may cost: it reads nothing, asks for too much, or never comes to the point."""

import asyncio
import socket
from typing import Any

import grpc
import pytest

from gateway.http2 import connection as connection_module
from gateway.http2 import frame as f
from gateway.http2 import server as server_module
from gateway.http2.frame import ErrorCode
from gateway.http2.message import PREFIX
from gateway.http2.server import WINDOW_BYTES, GrpcServer
from gateway.rpc import grpc_server
from tests.gateway.http2_peer import (
    HELLO,
    MAX_MESSAGE_BYTES,
    MESSAGE,
    Behaviour,
    Peer,
    Served,
    data,
    head,
    path,
    raw,
)
from tests.gateway.listening import until


async def test_a_reset_cancels_the_handler(served: Served) -> None:
    async with served.peer(HELLO, head(1, path("/test.Service/Wait")), data(1)) as peer:
        while not served.behaviour.num_entered:
            await asyncio.sleep(0)
        peer.send(f.rst_stream(1, ErrorCode.CANCEL))
        while not served.behaviour.num_cancelled:
            await asyncio.sleep(0)
        assert not served.server.tasks


async def test_a_client_that_reads_nothing_loses_its_stream(served: Served) -> None:
    async with served.peer(HELLO, head(1, path("/test.Service/Large")), data(1)) as peer:
        kinds = []
        while (frame := await peer.frame())[0] != f.RST_STREAM:
            kinds.append(frame[0])
        assert frame[3] == f.U32.pack(ErrorCode.CANCEL)  # its window was used up, and never widened
        assert set(kinds) == {f.HEADERS, f.DATA}


async def test_replies_that_nobody_reads_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_NUISANCES", 10**9)
    monkeypatch.setattr(connection_module, "MAX_UNSENT_BYTES", 2 * 1024 * 1024)
    async with served.peer(HELLO, limit=1) as peer:
        while not served.server.connections:
            await asyncio.sleep(0)
        (connection,) = served.server.connections
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while not connection.dead:
            peer.send(raw(f.PING, 0, 0, bytes(8)) * 1000)
            await asyncio.sleep(0)
        assert connection._transport.get_write_buffer_size() <= 3 * 1024 * 1024


async def test_messages_in_hand_are_bounded_by_windows_and_loans(served: Served) -> None:
    """Ten streams want the largest message at once: two loans are given, and the others when those are paid back."""
    served.server.write_timeout_s = 20  # the fixture's is short, and this client may be slow
    most, num = MAX_MESSAGE_BYTES, 10
    message = PREFIX.pack(0, most) + bytes(most)
    sent = {1 + 2 * i: 0 for i in range(num)}
    async with served.peer(HELLO, *[head(i) for i in sent]) as peer:
        windows = dict.fromkeys(sent, WINDOW_BYTES)

        def send_all() -> None:
            for i in sent:
                while (size := min(windows[i], len(message) - sent[i], 16_384)) > 0:
                    last = f.END_STREAM if sent[i] + size == len(message) else 0
                    peer.send(data(i, message[sent[i] : sent[i] + size], last))
                    sent[i] += size
                    windows[i] -= size

        send_all()
        most_lent, num_ended = 0, 0
        while num_ended < num:
            kind, flags, stream_id, payload = await peer.frame(f.WINDOW_UPDATE, f.DATA, f.HEADERS)
            if kind == f.WINDOW_UPDATE and stream_id:
                windows[stream_id] += int.from_bytes(payload, "big")
                send_all()
            elif kind == f.DATA:
                peer.send(f.window_update(0, len(payload)), f.window_update(stream_id, len(payload)))
            num_ended += flags & f.END_STREAM if kind == f.HEADERS else 0
            most_lent = max(most_lent, *(connection.credit._lent for connection in served.server.connections))
        assert 0 < most_lent <= 2 * most


LARGE = PREFIX.pack(0, MAX_MESSAGE_BYTES) + bytes(MAX_MESSAGE_BYTES)


async def begin_large(peer: Peer) -> None:
    """Send as much of the largest message as a client may without asking."""
    peer.send(head(1), *[data(1, LARGE[:16_384], 0)] * (WINDOW_BYTES // 16_384))
    await peer.writer.drain()


async def lent(peer: Peer) -> int:
    """What the server lends a peer, when it is its turn."""
    while (frame := await peer.frame(f.WINDOW_UPDATE))[2] != 1:
        pass
    return int.from_bytes(frame[3], "big")


async def test_all_connections_share_what_is_lent(served: Served) -> None:
    credit, rest = served.server.credit, len(LARGE) - WINDOW_BYTES
    async with served.peer(HELLO) as first, served.peer(HELLO) as second, served.peer(HELLO) as third:
        for peer in (first, second):
            await begin_large(peer)
            assert await lent(peer) == rest
        async with served.peer(HELLO) as impatient:
            await begin_large(impatient)
            await until(lambda: credit._waiting)
            await begin_large(third)
            await until(lambda: len(credit._waiting) == 2)
            impatient.send(f.rst_stream(1, ErrorCode.CANCEL))
            await until(lambda: len(credit._waiting) == 1)
        assert credit._lent == 2 * rest
        first.writer.close()
        assert await lent(third) == rest
        assert credit._lent == 2 * rest
        third.send(*[data(1, LARGE[i : i + 16_384], 0) for i in range(WINDOW_BYTES, len(LARGE), 16_384)])
        third.send(data(1, b""))
        assert (await third.headers())[b":status"] == b"200"
        assert credit._lent == rest
    await until(lambda: not credit._lent)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [data(1, b"", 0)],
        [data(1, MESSAGE[:4], 0)],
        [data(1, MESSAGE[:-1], 0)],
        [data(1, MESSAGE, 0)],
        [data(1, LARGE[:16_384], 0)] * (WINDOW_BYTES // 16_384),
    ],
)
async def test_a_request_that_does_not_come_whole_ends(served: Served, frames: list[bytes]) -> None:
    served.server.arrival_timeout_s = 0.05
    async with served.peer(HELLO, head(1), *frames) as peer:
        assert (await peer.headers())[b"grpc-status"] == b"%d" % grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert (await peer.frame(f.RST_STREAM))[3] == f.U32.pack(ErrorCode.NO_ERROR)
        peer.send(head(3), data(3))
        assert await peer.frame(f.DATA) == (f.DATA, 0, 3, MESSAGE)
    assert not served.server.credit._lent


async def test_a_message_of_a_stream_that_does_not_come_whole_ends_it(served: Served) -> None:
    served.server.arrival_timeout_s = 0.05
    served.behaviour.gate.set()
    stall = path("/test.Service/Stall")
    async with served.peer(HELLO, head(1, stall), data(1, MESSAGE, 0), head(3, stall)) as peer:
        peer.send(data(1, MESSAGE[:-1], 0))
        headers = await peer.headers()
        assert headers[b"grpc-status"] == b"%d" % grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert headers[b"grpc-message"] == b"expected the whole request within 0.05 s, got a part of it"
        (connection,) = served.server.connections
        assert [*connection.streams] == [3]  # one that has nothing to say yet may wait
        peer.send(data(3))
        assert await peer.frame(f.DATA) == (f.DATA, 0, 3, MESSAGE)


async def test_a_request_that_has_come_has_all_the_time(served: Served) -> None:
    wait, stall = path("/test.Service/Wait"), path("/test.Service/Stall")
    async with served.peer(HELLO, head(1, wait), head(3, stall)) as peer:
        await until(lambda: served.server.connections)
        (connection,) = served.server.connections
        await until(lambda: connection.streams)
        assert connection.streams[1]._arrival is not None
        peer.send(data(1), data(3, MESSAGE[:-1], 0), head(5, wait), data(5))
        await until(lambda: served.behaviour.num_entered == 2)
        assert connection.streams[1]._arrival is connection.streams[5]._arrival is None
        assert connection.streams[3]._arrival is None  # its handler doesn't read yet
        served.behaviour.gate.set()
        await until(lambda: connection.streams[3]._arrival is not None)
        peer.send(data(3, MESSAGE[-1:], 0))
        await until(lambda: connection.streams[3]._arrival is None)


async def test_the_settings_bound_connections_and_time(serve: Any) -> None:
    async with serve(max_connections=1, request_timeout_s=0.05) as gateway:
        server, sock = grpc_server(gateway.plane), socket.create_server(("127.0.0.1", 0))
        await server.start(sock)
        served = Served(server, Behaviour(), sock.getsockname()[1])
        infer = path("/inference.GRPCInferenceService/ModelInfer")
        async with served.peer(HELLO, head(1, infer)) as first, served.peer(HELLO) as second:
            assert await second.reader.read() == b""
            message = (await first.headers())[b"grpc-message"]
            assert message == b"expected the whole request within 0.05 s, got a part of it"
        await server.stop(0)


async def test_who_never_begins_to_speak_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PREFACE_TIMEOUT_S", 0.05)
    async with served.peer(f.PREFACE[:10]) as peer:
        assert await peer.ending() is ErrorCode.SETTINGS_TIMEOUT


async def test_a_silent_client_does_not_hold_up_the_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_LAST_WORDS_TIMEOUT_S", 0.05)
    behaviour, server = served.behaviour, GrpcServer(max_message_bytes=1000)
    server.add_registered_method_handlers("test.Service", {"Wait": grpc.unary_unary_rpc_method_handler(behaviour.wait)})
    sock = socket.create_server(("127.0.0.1", 0))
    await server.start(sock)
    other = Served(server, behaviour, sock.getsockname()[1])
    async with other.peer(HELLO, head(1, path("/test.Service/Wait")), data(1)) as peer:
        while not behaviour.num_entered:
            await asyncio.sleep(0)
        stopping = asyncio.create_task(server.stop(20))
        assert (await peer.frame(f.GOAWAY))[3][:4] == f.U32.pack(f.MAX_STREAM_ID)
        assert (await peer.frame(f.GOAWAY))[3][:4] == f.U32.pack(1)
        peer.send(head(3, path("/test.Service/Wait")), data(3))
        assert await peer.frame() == (f.RST_STREAM, 0, 3, f.U32.pack(ErrorCode.REFUSED_STREAM))
        behaviour.gate.set()
        assert (await peer.frame(f.DATA))[2] == 1
        await stopping
