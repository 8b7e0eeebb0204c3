"""A balancer over servers that a test commands."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2 as pb

from contract.tensor import Tensors
from gateway.balance import BalanceMetrics, Balancer
from gateway.error import DeadlineExceeded, GatewayError, UpstreamFailed, UpstreamUnavailable
from gateway.upstream import Batch, IndexEntry

X: Tensors = {"x": np.ones((1, 2), np.float32)}
LOST = UpstreamUnavailable("lost", lost=True)
UNSENT = UpstreamUnavailable("refused", unsent=True)
FAILED = UpstreamFailed("the model failed")
LATE = DeadlineExceeded("late")


class Server:
    """Serves `models` (like m/1). `errors` fail one model's calls, `down` everything; calls wait at the gate."""

    def __init__(self, *models: str) -> None:
        self.models = set(models)
        self.errors: dict[str, GatewayError] = {}
        self.down: GatewayError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls = 0
        self.closed = False

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        return [
            IndexEntry(name, version, True, "") for name, _, version in (m.partition("/") for m in sorted(self.models))
        ]

    async def infer(self, batch: Batch, timeout_s: float) -> dict[str, NDArray[Any]]:
        await self._work(batch.name)
        return {"y": np.asarray(batch.tensors()["x"])}

    async def stream(self, requests: AsyncIterator[Any], timeout_s: float) -> AsyncIterator[Any]:
        async for request in requests:
            await self._work(request.model_name)
            yield pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id=request.id))

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        await self._work(name)
        return "metadata"

    async def model_config(self, name: str, version: str, timeout_s: float) -> Any:
        await self._work(name)
        return "config"

    async def model_statistics(self, name: str, version: str, timeout_s: float) -> Any:
        await self._work(name)
        return "statistics"

    async def close(self) -> None:
        self.closed = True

    async def _work(self, name: str) -> None:
        self.calls += 1
        assert not self.closed
        await self.gate.wait()
        if (error := self.down or self.errors.get(name)) is not None:
            raise error


class Cluster:
    """A balancer over servers a, b, c ... behind one name, with a clock that a test moves."""

    def __init__(self, *servers: Server, **options: Any) -> None:
        self.now = 100.0
        self.registry = CollectorRegistry()
        self.servers = {f"{letter}:1": server for letter, server in zip("abcdefgh", servers, strict=False)}
        self.names: list[str] = list(self.servers)
        defaults: dict[str, Any] = {"clock": lambda: self.now, "jitter": lambda: 0.0}
        self.balancer = Balancer(
            ["triton:1"],
            self.servers.__getitem__,
            resolve=self._resolve,
            metrics=BalanceMetrics(self.registry),
            **(defaults | options),
        )

    async def _resolve(self, address: str) -> Sequence[str]:
        return list(self.names)

    async def index(self) -> set[str]:
        """What is ready, as name/version."""
        return {f"{e.name}/{e.version}" for e in await self.balancer.index(5) if e.ready}

    async def resolve(self) -> None:
        """Let the next look-up be due, and take it in."""
        self.now += 5
        await self.index()
        await settle()
        await self.index()

    def ask(self, model: str = "m", **options: Any) -> "asyncio.Task[dict[str, NDArray[Any]]]":
        return asyncio.ensure_future(self.balancer.infer(Batch(model, "1", [X], **options), 5))

    async def fail(self, error: type[Exception], times: int = 1, model: str = "m") -> None:
        for _ in range(times):
            with pytest.raises(error):
                await self.ask(model)

    def rich(self, calls: int = 100) -> "Cluster":
        """As if that many calls had been made: the retry budget allows some."""
        for _ in range(calls):
            self.balancer.budget.earn()
        return self

    def metric(self, name: str, endpoint: str | None = None) -> float | None:
        return self.registry.get_sample_value(name, {} if endpoint is None else {"endpoint": endpoint})


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
