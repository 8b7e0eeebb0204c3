"""Streams of requests over gRPC: one that can't be read ends its stream, as it would end a call of its own."""

import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from gateway.call import Ask
from gateway.http2 import frame as f
from gateway.http2.header import literal
from gateway.http2.message import PREFIX
from gateway.rpc import grpc_server
from gateway.stream import answer_stream
from tests.gateway.attack import message
from tests.gateway.http2_peer import HELLO, Behaviour, Peer, Served, data, head, path
from tests.gateway.listening import until

INFER, STREAM = (
    path(f"/inference.GRPCInferenceService/{name}") + literal(b"grpc-encoding", b"gzip")
    for name in ("ModelInfer", "ModelStreamInfer")
)


def framed(content: bytes, *, compressed: bool = False) -> bytes:
    return PREFIX.pack(compressed, len(content)) + content


@asynccontextmanager
async def peer_of(gateway: Any) -> AsyncIterator[Peer]:
    """A client of raw frames."""
    server, sock = grpc_server(gateway.plane), socket.create_server(("127.0.0.1", 0))
    await server.start(sock)
    async with Served(server, Behaviour(), sock.getsockname()[1]).peer(HELLO) as peer:
        yield peer
    await server.stop(0)


@pytest.mark.parametrize(
    ("unreadable", "status"),
    [
        (framed(b"\xff\xff"), grpc.StatusCode.INTERNAL),
        (framed(b"no gzip", compressed=True), grpc.StatusCode.INTERNAL),
        (framed(gzip.compress(bytes(100_000)), compressed=True), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (framed(bytes(20_001)), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_what_cannot_be_read_ends_a_stream_as_it_ends_a_call(
    serve: Any, unreadable: bytes, status: grpc.StatusCode
) -> None:
    async with serve(max_body_bytes=10_000) as gateway, peer_of(gateway) as peer:
        peer.send(head(1, INFER), data(1, unreadable[:16_384], 0), data(1, unreadable[16_384:]))
        of_call = await peer.headers()
        peer.send(head(3, STREAM), data(3, unreadable[:16_384], 0), data(3, unreadable[16_384:], 0))
        of_stream = await peer.headers()
        assert of_stream == of_call
        assert of_stream[b"grpc-status"] == b"%d" % status.value[0]


async def test_requests_before_it_are_answered(serve: Any) -> None:
    async with serve() as gateway, peer_of(gateway) as peer:
        gateway.upstream.gate.clear()
        peer.send(head(1, STREAM), data(1, framed(message().SerializeToString()) + framed(b"\xff\xff"), 0))
        await until(lambda: gateway.upstream.calls)
        gateway.upstream.gate.set()
        assert (await peer.headers())[b":status"] == b"200"
        answer = pb.ModelStreamInferResponse.FromString((await peer.frame(f.DATA))[3][PREFIX.size :])
        assert (answer.error_message, answer.infer_response.model_name) == ("", "tiny")
        assert (await peer.headers())[b"grpc-status"] == b"%d" % grpc.StatusCode.INTERNAL.value[0]


async def test_any_failure_to_read_is_raised(serve: Any) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield message()
        raise ZeroDivisionError

    async with serve() as gateway:
        answers = answer_stream(gateway.plane, requests(), lambda request: Ask("v2_grpc", request.model_name))
        assert (await anext(answers)).infer_response.model_name == "tiny"
        with pytest.raises(ZeroDivisionError):
            await anext(answers)
