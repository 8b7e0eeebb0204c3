"""Bodies that lie about their length, never end, or unpack to too much."""

import asyncio
import gzip
import random
import zlib
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from tests.gateway.attack import (
    BRIGHT,
    INFER,
    LIMIT,
    PNG_TYPE,
    PREDICT,
    Serve,
    ask_raw,
    check_refused,
    document,
    file_of,
    head,
    unharmed,
)
from tests.gateway.listening import listening, until

NOISE = random.Random(0).randbytes(2 * LIMIT)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(bytes(50_000_000)), 413),
        ("deflate", zlib.compress(bytes(18_000_000)), 413),
        ("gzip", gzip.compress(NOISE), 413),
        ("zstd", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("gzip", b"not gzip", 400),
    ],
)
async def test_bombs(serve: Serve, encoding: str, body: bytes, status: int) -> None:
    async with unharmed(serve, max_body_bytes=LIMIT) as gateway, listening(gateway) as port:
        headers = PNG_TYPE | {"content-encoding": encoding}
        check_refused(await gateway.client.post(PREDICT, content=body, headers=headers), status, "expected")
        answer = await ask_raw(
            port, head(f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}", "Connection: close"), body
        )
        assert not answer or answer.startswith(b"HTTP/1.1 %d" % status)


@pytest.mark.parametrize("declared", ["99999999", "9" * 30, "00000000000099999999", "0" * 25 + "9999999", "40000"])
async def test_a_declared_body_over_the_limit_is_not_read(serve: Serve, declared: str) -> None:
    async with unharmed(serve, max_body_bytes=LIMIT) as gateway, listening(gateway) as port:
        answer = await ask_raw(port, head(f"Content-Length: {declared}"), bytes(2 * LIMIT))
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
        assert b'{"error":' in answer


async def test_reading_an_undeclared_body_stops_at_the_limit(serve: Serve) -> None:
    async with unharmed(serve, max_body_bytes=LIMIT) as gateway, listening(gateway) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("Transfer-Encoding: chunked"))
        with pytest.raises(ConnectionError):
            await write_many(writer, b"10000\r\n%b\r\n" % bytes(65536))
        writer.close()
        check_refused(
            await gateway.client.post(PREDICT, content=pieces(bytes(2 * LIMIT), 1000), headers=PNG_TYPE), 413, "at most"
        )
        await until(lambda: gateway.metric("gateway_requests_total", model="tiny", code="413") == 2)


async def test_a_body_that_ends_before_its_length(serve: Serve) -> None:
    async with unharmed(serve) as gateway, listening(gateway) as port:
        for length in (1000, 1_000_000):  # whole small bodies are read in another place than large ones
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head(f"Content-Length: {length}") + b"short")
            await writer.drain()
            writer.close()
        answer = await ask_raw(port, head("Content-Length: 1"), BRIGHT)  # and one that goes on behind it
        assert answer.startswith(b"HTTP/1.1 400")


async def write_many(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    for _ in range(10_000):
        writer.write(chunk)
        await writer.drain()


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_one_byte_chunks_are_served(serve: Serve) -> None:
    body = document().ljust(20_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with unharmed(serve) as gateway, listening(gateway) as port:
        answer = await ask_raw(port, head("Transfer-Encoding: chunked", "Connection: close", path=INFER), chunks)
        assert answer.startswith(b"HTTP/1.1 200")


async def test_pictures_that_unpack_to_more_than_there_is_memory_for(serve: Serve) -> None:
    headers = {"content-type": "application/octet-stream"}
    async with unharmed(serve, decode_bytes=16 * 1024 * 1024) as gateway:
        for picture in (
            file_of(Image.new("RGB", (1100, 1100)), "WEBP", lossless=True),
            file_of(Image.new("RGBA", (2000, 2000))),
            file_of(Image.new("P", (4100, 4100)), "GIF"),
        ):
            answer = await gateway.client.post(PREDICT, content=picture, headers=headers)
            check_refused(answer, 400, "at most 16 MiB of memory")
        fits = file_of(Image.new("L", (4000, 4000)))  # one of them, and not two
        answers = await asyncio.gather(*(gateway.client.post(PREDICT, content=fits, headers=headers) for _ in range(6)))
        assert [answer.status_code for answer in answers] == [200] * 6
