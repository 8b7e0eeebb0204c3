"""A balancer over two real gRPC servers, one of which dies and comes back while both are asked all the time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.balance import Balancer
from gateway.budget import RetryBudget
from gateway.error import UpstreamUnavailable
from gateway.upstream import Batch, TritonUpstream

HOSTS = ("127.0.0.1", "127.0.0.2")
TIMEOUT_S = 10
NUM_WORKERS = 8
ASKED = Batch("m", "1", [{"x": np.ones(1, np.float32)}])


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serves `m` version 1: doubles x. It can be killed and started again at its address."""

    def __init__(self, host: str) -> None:
        self.address = f"{host}:0"
        self.calls = 0

    async def start(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await self._server.start()

    async def kill(self) -> None:
        await self._server.stop(None)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol names the methods
        return pb.ServerReadyResponse(ready=True)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol names the methods
        answer = pb.RepositoryIndexResponse()
        answer.models.add(name="m", version="1", state="READY")
        return answer

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol names the methods
        self.calls += 1
        answer = pb.ModelInferResponse(model_name="m", model_version="1")
        answer.outputs.add(name="y", datatype="FP32", shape=(1,))
        answer.raw_output_contents.append((np.frombuffer(request.raw_input_contents[0], np.float32) * 2).tobytes())
        return answer


class Load:
    """Workers that ask without a pause, and what became of it."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.answered = 0
        self.failed = 0
        self._workers = [asyncio.create_task(self._work()) for _ in range(NUM_WORKERS)]

    async def _work(self) -> None:
        while True:
            try:
                answer = await self.balancer.infer(ASKED, TIMEOUT_S)
                assert answer["y"].tolist() == [2.0]
                self.answered += 1
            except UpstreamUnavailable:
                self.failed += 1
                await asyncio.sleep(0)

    async def until(self, condition: Any) -> None:
        """Go on, with the catalog's polls beside, until something is so."""
        async with asyncio.timeout(20):
            while not condition():
                await self.balancer.index(TIMEOUT_S)
                for worker in self._workers:
                    if worker.done():
                        worker.result()
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)


@pytest.fixture
async def tritons() -> AsyncIterator[list[Triton]]:
    servers = [Triton(host) for host in HOSTS]
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        await server.kill()


@pytest.mark.parametrize("burst", [NUM_WORKERS + 2, 0])
async def test_one_of_two_dies_under_load_and_comes_back(tritons: list[Triton], burst: int) -> None:
    """With a retry budget nobody notices; without one, those notice whose call the server had in hand, or was sent."""
    stays, dies = tritons
    budget = RetryBudget(calls_per_retry=10 if burst else 10**9, burst=max(burst, 1))
    balancer = Balancer([server.address for server in tritons], TritonUpstream, budget=budget)
    await balancer.index(TIMEOUT_S)
    load = Load(balancer)
    try:
        await load.until(lambda: load.answered > 20 * NUM_WORKERS and stays.calls and dies.calls)
        await dies.kill()
        answered, gone = load.answered, dies.calls
        await load.until(lambda: load.answered > answered + 20 * NUM_WORKERS)
        assert load.failed <= (0 if burst else NUM_WORKERS)
        assert [endpoint.up for endpoint in balancer.endpoints] == [True, False]
        await dies.start()
        await load.until(lambda: dies.calls > gone + 20)
        assert load.failed <= (0 if burst else NUM_WORKERS)
    finally:
        await load.stop()
        assert [endpoint.pending for endpoint in balancer.endpoints] == [0, 0]
        await balancer.close()


async def test_connections_to_the_only_one_are_cut_under_load_and_nobody_notices(tritons: list[Triton]) -> None:
    made: list[TritonUpstream] = []

    def connect(address: str) -> TritonUpstream:
        made.append(TritonUpstream(address))
        return made[-1]

    balancer = Balancer([tritons[0].address], connect, budget=RetryBudget(burst=NUM_WORKERS + 2))
    await balancer.index(TIMEOUT_S)
    load = Load(balancer)

    async def saved_up() -> None:  # as much as all calls in hand cost to be sent once more
        enough = load.answered + 10 * (NUM_WORKERS + 2)
        await load.until(lambda: load.answered > enough)

    try:
        for _ in range(10):
            await saved_up()
            for connection in [*made[0]._channel._connections]:
                connection._transport.abort()
        await saved_up()
        assert (load.failed, balancer.endpoints[0].ejections) == (0, 0)
        assert balancer.budget.spent >= 10
    finally:
        await load.stop()
        await balancer.close()


async def test_both_die_and_one_comes_back_at_another_address(tritons: list[Triton]) -> None:
    first, second = tritons
    found = [first.address]

    async def resolve(address: str) -> list[str]:
        return found

    balancer = Balancer(["triton:8001"], TritonUpstream, resolve=resolve, resolve_interval_s=0.01)
    await balancer.index(TIMEOUT_S)
    await balancer.infer(ASKED, TIMEOUT_S)
    await first.kill()
    with pytest.raises(UpstreamUnavailable):
        await balancer.index(TIMEOUT_S)
    with pytest.raises(UpstreamUnavailable):
        await balancer.infer(ASKED, TIMEOUT_S)
    found[:] = [second.address]
    async with asyncio.timeout(20):
        while not balancer.endpoints[0].up:
            try:
                await balancer.index(TIMEOUT_S)
            except UpstreamUnavailable:
                await asyncio.sleep(0.01)
    assert (await balancer.infer(ASKED, TIMEOUT_S))["y"].tolist() == [2.0]
    assert [endpoint.address for endpoint in balancer.endpoints] == [second.address]
    await balancer.close()
