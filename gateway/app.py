"""The composition root: everything a gateway is made of, put together in one place."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge

from contract import Repository
from gateway.access import Access
from gateway.balance import BalanceMetrics, Balancer
from gateway.dataplane import DataPlane
from gateway.exposition import Registry
from gateway.feedback import Feedback
from gateway.guard import Guard
from gateway.hot import HotEndpoints, HotPath
from gateway.journal import Journal
from gateway.key_ring import KeyRing
from gateway.log import RequestLog
from gateway.metric import Metrics
from gateway.page import Documents, docs_routes
from gateway.region import remove_leftovers
from gateway.resolve import is_loopback
from gateway.rest import (
    add_error_handlers,
    control_routes,
    generate_routes,
    health_routes,
    predict_routes,
    v2_routes,
)
from gateway.route_file import RouteFile
from gateway.setting import Settings
from gateway.shadow import Shadow
from gateway.sharing import Sharing
from gateway.trace import create_tracer
from gateway.upstream import TritonUpstream, Upstream
from gateway.v2 import server_version

_SHARED_MEMORY_BYTES = 32 * 1024 * 1024  # three calls of 64 images of 224 x 224 at once


def create_plane(
    settings: Settings, *, upstream: Upstream | None = None, registry: Registry | None = None
) -> DataPlane:
    """The data plane of one process. Must be called in a running event loop.

    Raises RouteError or KeyFileError when the routes, the feedback keys or the API keys can't be read.
    """
    registry = registry or Registry()
    repository = Repository(settings.repository)
    keys = KeyRing(settings.feedback_keys) if settings.feedback_keys is not None else None
    access = Access(settings.api_keys, registry)
    requests = RequestLog(sys.stdout, sample=settings.log_sample)
    lost = Gauge(
        "gateway_log_lost_lines",
        "Request log lines not written: nobody read them, or too many errors a second.",
        registry=registry,
    )
    lost.set_function(lambda: requests.dropped + requests.suppressed)
    tracer = create_tracer(settings.trace_endpoint, "tidegate-gateway", settings.trace_sample)
    shadow = Shadow(registry)
    return DataPlane(
        settings,
        upstream or _triton(settings, registry),
        repository,
        Metrics(registry),
        routes=RouteFile.load(settings.routes, registry, on_change=shadow.prepare),
        shadow=shadow,
        access=access,
        feedback=Feedback(keys, registry, clock=time.time),
        journal=Journal(requests, tracer),
    )


@asynccontextmanager
async def running(plane: DataPlane) -> AsyncIterator[None]:
    """Keep a plane's catalog and routes fresh, and close the plane at the end, when nothing is in flight any more."""
    await plane.catalog.refresh()
    watches = [
        asyncio.create_task(plane.catalog.watch(plane.settings.poll_interval_s)),
        asyncio.create_task(plane.routes.watch(plane.settings.poll_interval_s)),
        asyncio.create_task(plane.feedback.watch(plane.settings.poll_interval_s)),
        asyncio.create_task(plane.access.watch(plane.settings.poll_interval_s)),
    ]
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*watches, return_exceptions=True)
        await plane.close()


def create_app(plane: DataPlane) -> FastAPI:
    """The HTTP application over a data plane, to be served within `running(plane)`."""
    app = FastAPI(
        title="Tidegate",
        summary="Ask models: what they mean, or their tensors.",
        version=server_version(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    documents = Documents(
        app.openapi,
        plane.catalog.models,
        plane.max_items,
        plane.catalog.repository.version_dir,
        secured=plane.access.ring is not None,
    )
    app.include_router(docs_routes(documents))
    for routes in (health_routes, predict_routes, v2_routes, generate_routes, control_routes):
        app.include_router(routes(plane))
    add_error_handlers(app)
    app.add_middleware(HotPath, endpoints=HotEndpoints(plane))
    app.add_middleware(Guard, access=plane.access)
    return app


def _triton(settings: Settings, registry: CollectorRegistry) -> Upstream:
    addresses = [address.strip() for address in settings.triton.split(",")]

    def connect(address: str) -> Upstream:
        size_bytes = _shared_memory_bytes(settings, address)
        share = partial(Sharing, size_bytes=size_bytes) if size_bytes else None
        return TritonUpstream(address, share, busy_poll_s=settings.busy_poll_us / 1e6)

    if settings.shared_memory_bytes != 0:
        remove_leftovers()
    return Balancer(addresses, connect, metrics=BalanceMetrics(registry))


def _shared_memory_bytes(settings: Settings, address: str) -> int:
    """How much memory the Triton at `ip:port` may share with this process."""
    if settings.shared_memory_bytes is not None:
        return settings.shared_memory_bytes
    return _SHARED_MEMORY_BYTES if is_loopback(address) else 0
