"""Shared memory against a server that reads it as Triton does; tests/integration/ asks the real one."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from contract.tensor import to_raw
from gateway import Settings, create_plane
from gateway.error import DeadlineExceeded, UpstreamFailed, UpstreamRefused
from gateway.region import FOLDER, PREFIX, Region
from gateway.sharing import Sharing
from gateway.upstream import LARGE_BYTES, Batch, TritonUpstream

INTERNAL, INVALID_ARGUMENT = grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT
MIB = 1024 * 1024
LARGE = np.arange(LARGE_BYTES // 4, dtype=np.float32).reshape(4, -1)
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0))


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers with the sum of `x`, and remembers whether it read it from shared memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.regions: dict[str, int] = {}
        self.shared: list[bool] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Semaphore(0)
        self.error: grpc.StatusCode | None = None
        self.tells = self.loses_tells = 0

    async def start(self, port: int = 0) -> None:
        self.server = grpc.aio.server(options=OPTIONS)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=True)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = pb.RepositoryIndexResponse()
        answer.models.add(name="m", version="1", state="READY")
        return answer

    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.tells += 1
        if self.tells > self.loses_tells and request.name in self.regions:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"shared memory region '{request.name}' already in")
        path = self.folder / request.key.removeprefix("/")
        if not path.exists() or path.stat().st_size < request.byte_size:
            await context.abort(INTERNAL, f"Unable to open shared memory region: '{request.key}'")
        self.regions[request.name] = request.byte_size
        if self.tells <= self.loses_tells:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = pb.SystemSharedMemoryStatusResponse()
        for name in self.regions:
            answer.regions[name].name = name
        return answer

    async def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.regions.pop(request.name, None)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        named = request.inputs[0].parameters
        self.shared.append("shared_memory_region" in named)
        if self.shared[-1]:
            region = named["shared_memory_region"].string_param
            if region not in self.regions:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"Unable to find shared memory region: '{region}'")
            start, size = named["shared_memory_offset"].int64_param, named["shared_memory_byte_size"].int64_param
            raw = (self.folder / region).read_bytes()[start : start + size]
        else:
            raw = request.raw_input_contents[0]
        self.entered.release()
        await self.gate.wait()
        if self.error is not None:
            await context.abort(self.error, "no")
        answer = pb.ModelInferResponse()
        answer.outputs.add(name="y", datatype="FP32", shape=[1])
        answer.raw_output_contents.append(to_raw(np.frombuffer(raw, np.float32).sum(keepdims=True)))
        return answer


class Host:
    """A Triton, a gateway's upstream, and the shared memory between them."""

    def __init__(self, triton: Triton, folder: Path, **options: Any) -> None:
        self.triton = triton
        self.folder = folder
        share = partial(Sharing, folder=folder, **({"size_bytes": MIB} | options))
        self.upstream = TritonUpstream(f"127.0.0.1:{triton.port}", share)

    async def ask(self, *parts: Any, timeout_s: float = 10) -> bool:
        """Whether the tensors, whose sum comes back, went by shared memory."""
        parts = parts or (LARGE,)
        answer = await self.upstream.infer(Batch("m", "1", [{"x": part} for part in parts]), timeout_s)
        assert answer["y"].tolist() == [np.concatenate(parts).sum()]
        return self.triton.shared[-1]

    async def until_shared(self) -> None:
        async with asyncio.timeout(10):
            while not await self.ask():
                pass

    def regions(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Any]:
    """`await host(size_bytes=..., rest_s=..., blind=...)`: a blind Triton can't see the gateway's memory."""
    hosts: list[Host] = []

    async def start(*, blind: bool = False, **options: Any) -> Host:
        triton = Triton(tmp_path / "elsewhere" if blind else tmp_path)
        await triton.start()
        hosts.append(Host(triton, tmp_path, **options))
        return hosts[-1]

    yield start
    for one in hosts:
        await one.upstream.close()
        await one.triton.server.stop(0)


async def test_large_tensors_are_shared_once_triton_has_the_region_and_small_ones_never(host: Any) -> None:
    one = await host()
    assert not await one.ask()  # nobody waits for it
    await one.until_shared()
    assert await one.ask(*[LARGE + i for i in range(4)])
    assert not await one.ask(LARGE[:1, :100])
    assert one.regions() == set(one.triton.regions)
    await one.upstream.close()
    assert one.regions() == set(one.triton.regions) == set()


async def test_calls_at_once_have_memory_of_their_own_and_a_message_when_there_is_none_left(host: Any) -> None:
    one = await host(size_bytes=3 * LARGE.nbytes)
    await one.until_shared()
    told = len(one.triton.shared)
    one.triton.gate.clear()
    asks = [asyncio.create_task(one.ask(LARGE + i)) for i in range(5)]
    for _ in asks:
        await one.triton.entered.acquire()
    one.triton.gate.set()
    await asyncio.gather(*asks)
    assert sorted(one.triton.shared[told:]) == [False, False, True, True, True]
    assert await one.ask(*[LARGE] * 3)  # all of it is free again


async def give_up(one: Host, how: str) -> None:
    """Make a call that doesn't end well."""
    if how in ("refused", "failed"):
        one.triton.error = {"refused": INVALID_ARGUMENT, "failed": INTERNAL}[how]
        with pytest.raises(UpstreamRefused if how == "refused" else UpstreamFailed):
            await one.ask()
        one.triton.error = None
        return
    one.triton.gate.clear()
    one.triton.entered = asyncio.Semaphore(0)
    ask = asyncio.create_task(one.ask(timeout_s=0.05 if how == "too late" else 10))
    await one.triton.entered.acquire()
    if how == "cancelled":
        ask.cancel()
    with pytest.raises(asyncio.CancelledError if how == "cancelled" else DeadlineExceeded):
        await ask
    one.triton.gate.set()


@pytest.mark.parametrize("how", ["cancelled", "too late", "failed"])
async def test_what_triton_may_still_read_is_written_only_after_a_rest(host: Any, how: str) -> None:
    one = await host(size_bytes=LARGE.nbytes, rest_s=3600)
    await one.until_shared()
    await give_up(one, how)
    assert not await one.ask()
    short = await host(size_bytes=LARGE.nbytes, rest_s=0)
    await short.until_shared()
    await give_up(short, how)
    await short.until_shared()


async def test_after_a_refusal_triton_is_done_with_it(host: Any) -> None:
    one = await host(size_bytes=LARGE.nbytes, rest_s=3600)
    await one.until_shared()
    await give_up(one, "refused")
    assert await one.ask()


async def test_a_triton_that_was_started_anew_is_told_again_and_no_call_fails(host: Any) -> None:
    one = await host()
    await one.until_shared()
    one.triton.regions.clear()
    assert not await one.ask()
    assert one.triton.shared[-2:] == [True, False]
    await one.until_shared()
    assert one.regions() == set(one.triton.regions)


async def test_a_triton_that_cannot_see_the_memory_is_told_once(host: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    blind = await host(blind=True)
    full = await host(size_bytes=2**62)
    for one, why in ((blind, "Unable to open"), (full, "")):
        assert not any([await one.ask() for _ in range(20)])
        (line,) = [record for record in caplog.records if record.name == "gateway.sharing"]
        assert f"127.0.0.1:{one.triton.port} shares no memory, tensors go to it in messages: {why}" in line.getMessage()
        caplog.clear()
    assert (blind.triton.tells, full.triton.tells) == (1, 0)


async def test_a_triton_that_is_away_while_it_is_told_is_told_again(host: Any) -> None:
    one = await host()
    one.triton.loses_tells = 2  # it has taken the region in, but nobody hears that it has
    await one.until_shared()
    assert one.triton.tells == 3


async def test_regions_of_gateways_that_died_are_let_go_and_others_are_not(host: Any) -> None:
    one = await host()
    living = Region(MIB, one.folder)
    dead = f"{PREFIX}dead"
    one.triton.regions |= {living.name: MIB, dead: MIB, "theirs": MIB}
    async with asyncio.timeout(10):
        while dead in one.triton.regions:
            await one.ask()
    assert {living.name, "theirs"} < set(one.triton.regions)
    living.close()


@pytest.mark.parametrize("size_bytes", [None, 2 * LARGE.nbytes, 0])
async def test_a_gateway_shares_with_a_triton_on_its_host_unless_told_otherwise(
    tmp_path: Path, size_bytes: int | None
) -> None:
    triton = Triton(FOLDER)
    await triton.start()
    settings = Settings(repository=tmp_path, triton=f"127.0.0.1:{triton.port}", shared_memory_bytes=size_bytes)
    plane = create_plane(settings)
    try:
        await plane.upstream.index(10)
        async with asyncio.timeout(10):
            while not any(triton.shared) and (size_bytes != 0 or len(triton.shared) < 20):
                await plane.upstream.infer(Batch("m", "1", [{"x": LARGE}]), 10)
        assert list(triton.regions.values()) == ([] if size_bytes == 0 else [size_bytes or 32 * MIB])
    finally:
        await plane.close()
        await triton.server.stop(0)
    assert triton.regions == {}


async def test_two_gateways_have_regions_of_their_own(host: Any) -> None:
    one = await host()
    other = Host(one.triton, one.folder)
    for each in (one, other):
        await each.until_shared()
    assert len(one.triton.regions) == 2
    await other.upstream.close()
    assert len(one.triton.regions) == 1
    assert await one.ask()
