"""Runs one gateway process: HTTP, gRPC and metrics in one event loop, until SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import signal
import sys
from types import FrameType

import uvicorn
import uvloop
from prometheus_client import (
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from gateway.app import create_app, create_plane, running
from gateway.exposition import start_exporter
from gateway.hot import HotEndpoints
from gateway.http2.server import GrpcServer
from gateway.process import bound_socket
from gateway.protocol import protocol_of
from gateway.resolve import is_loopback, join_address
from gateway.rpc import grpc_server
from gateway.setting import Settings

log = logging.getLogger(__name__)

_BACKLOG = 2048
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(settings: Settings) -> None:
    """Serve until told to stop; raises OSError when a port is taken, and what `create_plane` raises."""
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; what is in flight then is answered, within `drain_timeout_s`."""
    # The event loop lets go of the interpreter in every numpy call: while threads decode images, it should get it back
    # at once and not after Python's default of 5 ms.
    sys.setswitchinterval(0.0002)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # when each series was made: nothing reads it, and it would double the scrape
    http = bound_socket(settings.host, settings.http_port, share=settings.share_ports)
    grpc = bound_socket(settings.host, settings.grpc_port, share=settings.share_ports)
    plane = create_plane(settings)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=plane.metrics.registry)
    rpc = grpc_server(plane)
    try:
        exporter, exporter_thread = start_exporter(settings.host, settings.metrics_port, plane.metrics.registry)
    except OSError as exc:
        raise OSError(f"metrics can't be had on {settings.host}:{settings.metrics_port}: {exc.strerror}") from exc
    server = _Server(
        uvicorn.Config(
            create_app(plane),
            loop="none",
            ws="none",
            http=protocol_of(HotEndpoints(plane), settings.max_connections),
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=round(settings.drain_timeout_s),
            timeout_keep_alive=75,
            lifespan="off",
        )
    )
    for number in _SIGNALS:  # uvicorn sends itself the signal again once it has ended
        signal.signal(number, lambda *_: None)
    async with running(plane):
        http.listen(_BACKLOG)
        grpc.listen(_BACKLOG)
        await rpc.start(grpc)
        _settle_garbage()
        log.info(
            "http on %s:%d, grpc on %d, metrics on %d, triton at %s",
            *(*http.getsockname()[:2], grpc.getsockname()[1], exporter.server_port, settings.triton),
        )
        if plane.access.ring is None and not is_loopback(join_address(*http.getsockname()[:2])):
            log.warning("everybody who reaches these ports may ask: there are no API keys (docs/access.md)")
        try:
            await server.serve(sockets=[http])
        finally:
            await _drain(rpc, 0 if server.force_exit else settings.drain_timeout_s)
    await asyncio.to_thread(exporter.shutdown)
    exporter.server_close()
    exporter_thread.join(settings.drain_timeout_s)


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # told twice, it doesn't wait for what is in flight
        super().handle_exit(sig, frame)


async def _drain(rpc: GrpcServer, timeout_s: float) -> None:
    """Let gRPC's calls end; told to stop once more, don't wait for them."""
    loop = asyncio.get_running_loop()
    stops = [loop.create_task(rpc.stop(timeout_s))]
    for number in _SIGNALS:
        loop.add_signal_handler(number, lambda: stops.append(loop.create_task(rpc.stop(0))))
    await stops[0]


def _settle_garbage() -> None:
    """What was made at start stays: the collector needn't look at it again and again.

    A request leaves next to no cycles behind, so the youngest generation may be larger than Python's default.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
