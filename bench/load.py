"""A closed-loop load generator: each connection asks again as soon as it was answered. Bounded in count and time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

Ask = Callable[[], Awaitable[None]]

WARM_UP_S = 1.0
MAX_REQUESTS = 200_000


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run of load showed; latencies in milliseconds, throughput in answers a second."""

    p50_ms: float
    p99_ms: float
    per_second: float
    num_requests: int


async def run_load(connect: Callable[[], Awaitable[Ask]], connections: int, duration_s: float) -> Figures:
    """Ask over that many connections for that long, after a warm-up that isn't counted."""
    asks = [await connect() for _ in range(connections)]
    start = time.perf_counter() + WARM_UP_S
    stop = start + duration_s
    latencies_s: list[float] = []

    async def ask_on(ask: Ask) -> None:
        while (sent := time.perf_counter()) < stop and len(latencies_s) < MAX_REQUESTS:
            await ask()
            if sent >= start:
                latencies_s.append(time.perf_counter() - sent)

    async with asyncio.timeout(WARM_UP_S + duration_s + 30):
        await asyncio.gather(*(ask_on(ask) for ask in asks))
    took = time.perf_counter() - start
    p50, p99 = np.percentile(latencies_s, (50, 99)) * 1000
    return Figures(float(p50), float(p99), len(latencies_s) / took, len(latencies_s))


async def http_connection(host: str, port: int, path: str, content_type: str, body: bytes) -> Ask:
    """One keep-alive HTTP/1.1 connection that sends the same request again and again; RuntimeError unless it's 200."""
    reader, writer = await asyncio.open_connection(host, port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body

    async def ask() -> None:
        writer.write(request)
        answer_head = await reader.readuntil(b"\r\n\r\n")
        length = int(answer_head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if not answer_head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {answer_head[:30]!r} {answer[:200]!r}")

    return ask
