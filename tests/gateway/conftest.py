"""A gateway over an upstream that runs the repository's ONNX files in this process: Triton's seam, a real model."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from contract import Repository
from gateway import Settings, create_app, create_plane, running
from gateway.dataplane import DataPlane
from gateway.error import UpstreamFailed, UpstreamUnavailable
from gateway.exposition import Registry
from gateway.upstream import Batch, IndexEntry
from tests.gateway.http2_peer import Served, serving
from tests.gateway.listening import grpc_address


class LocalUpstream:
    """Serves every version in a repository. `gate` holds calls back, `error` fails them, `down` is a dead server."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.sessions: dict[tuple[str, str], onnxruntime.InferenceSession] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = self.unlisted = False
        self.error: Exception | None = None
        self.failing: set[tuple[str, str]] | None = None  # which versions `error` is for; None for all
        self.refuse_value: int | None = None
        self.batches: list[int] = []
        self.calls: list[tuple[str, str, int, dict[str, Any]]] = []
        self.cancelled = 0

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        self._check_up()
        if self.unlisted:
            raise UpstreamFailed("the inference server can't list its repository")
        return [
            IndexEntry(name, str(version), True, "")
            for name in self.repository.models()
            for version in self.repository.versions(name)
        ]

    async def infer(self, batch: Batch, timeout_s: float) -> dict[str, NDArray[Any]]:
        self._check_up()
        self.calls.append((batch.name, batch.version, batch.priority, dict(batch.parameters or {})))
        tensors = batch.tensors()
        self.batches.append(len(next(iter(tensors.values()))))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        key = (batch.name, batch.version)
        if self.error is not None and (self.failing is None or key in self.failing):
            raise self.error
        if key not in self.sessions:
            path = self.repository.version_dir(*key) / "model.onnx"
            self.sessions[key] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        session = self.sessions[key]
        answers = session.run(None, {k: np.ascontiguousarray(v) for k, v in tensors.items()})
        return {output.name: array for output, array in zip(session.get_outputs(), answers, strict=True)}

    async def stream(self, requests: AsyncIterator[Any], timeout_s: float) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        raise NotImplementedError

    async def model_config(self, name: str, version: str, timeout_s: float) -> Any:
        return pb.ModelConfigResponse()

    async def model_statistics(self, name: str, version: str, timeout_s: float) -> Any:
        asked = [e for e in await self.index(timeout_s) if name in ("", e.name) and version in ("", e.version)]
        return pb.ModelStatisticsResponse(model_stats=[{"name": e.name, "version": e.version} for e in asked])

    async def close(self) -> None:
        pass

    def _check_up(self) -> None:
        if self.down:
            raise UpstreamUnavailable("the inference server is not available")


class Gateway:
    """A gateway in this process, and what a test needs to ask and to look at."""

    def __init__(self, plane: DataPlane, upstream: LocalUpstream, client: httpx.AsyncClient) -> None:
        self.plane = plane
        self.upstream = upstream
        self.client = client

    async def settle(self) -> None:
        """Let what was put off until after the answers happen: counting."""
        for _ in range(10):
            await asyncio.sleep(0)
        self.plane.count_now()

    def metric(self, name: str, **labels: str) -> float:
        """The value of one series, summed over the labels that aren't given; 0 when there is none."""
        return sum(
            sample.value
            for family in self.plane.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def num_series(self) -> int:
        """How many series are exported."""
        return sum(len(family.samples) for family in self.plane.metrics.registry.collect())


@asynccontextmanager
async def running_gateway(repository: Repository, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway over `repository`, its catalog fresh."""
    upstream = LocalUpstream(repository)
    defaults: dict[str, Any] = {"repository": repository.root, "poll_interval_s": 3600}
    plane = create_plane(Settings(**(defaults | settings)), upstream=upstream, registry=Registry())
    app = create_app(plane)
    async with running(plane):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield Gateway(plane, upstream, client)


@pytest.fixture
def serve(tiny_repository: Repository) -> Any:
    """`async with serve(**settings) as gateway`: the tiny model behind a gateway."""

    def start(repository: Repository = tiny_repository, **settings: Any) -> Any:
        return running_gateway(repository, **settings)

    return start


@pytest.fixture(name="grpc_client")
def _grpc_client() -> Any:
    """`async with grpc_client(gateway) as client`: Triton's own client of the gateway's gRPC side."""

    @asynccontextmanager
    async def connected(gateway: Gateway) -> AsyncIterator[Any]:
        async with grpc_address(gateway) as address, triton.InferenceServerClient(address) as client:
            yield client

    return connected


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A gRPC server for peers of raw frames; at the end it still serves others."""
    async with serving() as served:
        yield served


@pytest.fixture
def routed_repository(tiny_repository: Repository, make_version: Any) -> Repository:
    """`tiny` with two versions that answer alike, and `small`, which says dark of everything."""
    make_version(tiny_repository.root, "tiny", 2)
    make_version(tiny_repository.root, "small", 1)
    path = tiny_repository.version_dir("small", "1") / "model.onnx"
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([9, 0, 0], np.float32), "bias"))
    onnx.save(model, path)
    return tiny_repository


@pytest.fixture
def route(serve: Any, routed_repository: Repository, tmp_path: Path) -> Any:
    """`async with route(text, **settings) as gateway`: a gateway with these routes."""

    def start(text: str, **settings: Any) -> Any:
        path = tmp_path / "routes.yaml"
        path.write_text(text)
        return serve(routed_repository, routes=path, **settings)

    return start
