"""The composition root: everything a gateway is made of, put together in one place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from contract import ContractError, Repository
from gateway.dataplane import DataPlane
from gateway.metric import Metrics
from gateway.rest import HotPath, add_error_handlers, health_routes, predict_routes, v2_routes
from gateway.setting import Settings
from gateway.upstream import TritonUpstream, Upstream
from gateway.v2 import server_version


def create_plane(
    settings: Settings, *, upstream: Upstream | None = None, registry: CollectorRegistry | None = None
) -> DataPlane:
    """The data plane of one process. Must be called in a running event loop when no upstream is given."""
    repository = Repository(settings.repository)
    metrics = Metrics(registry or CollectorRegistry(), _thresholds_s(repository))
    return DataPlane(settings, upstream or TritonUpstream(settings.triton), repository, metrics)


@asynccontextmanager
async def running(plane: DataPlane) -> AsyncIterator[None]:
    """Keep a plane's catalog fresh, and close the plane at the end, when nothing is in flight any more."""
    await plane.catalog.refresh()
    watch = asyncio.create_task(plane.catalog.watch(plane.settings.poll_interval_s))
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await plane.close()


def create_app(plane: DataPlane) -> FastAPI:
    """The HTTP application over a data plane, to be served within `running(plane)`."""
    app = FastAPI(
        title="Tidegate",
        summary="Ask models: what they mean, or their tensors.",
        version=server_version(),
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
    )
    for routes in (health_routes, predict_routes, v2_routes):
        app.include_router(routes(plane))
    add_error_handlers(app)
    app.add_middleware(HotPath, plane=plane)
    return app


def _thresholds_s(repository: Repository) -> set[float]:
    """Latency thresholds of the published versions: they become buckets of the latency histogram."""
    thresholds = set()
    for name in repository.models():
        for version in repository.versions(name):
            with suppress(ContractError):
                thresholds.add(repository.contract(name, version).slo.latency_threshold_ms / 1000)
    return thresholds
