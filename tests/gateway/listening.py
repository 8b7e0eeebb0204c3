"""Real servers over a gateway of this process, and waiting for what happens in it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import uvicorn
from tritonclient.grpc import service_pb2_grpc

from gateway import create_app
from gateway.hot import HotEndpoints
from gateway.process import bound_socket
from gateway.protocol import protocol_of
from gateway.rpc import grpc_server


@asynccontextmanager
async def listening(gateway: Any) -> AsyncIterator[int]:
    """The port of a real server over the gateway's plane."""
    listener = bound_socket("127.0.0.1", 0, share=False)
    config = uvicorn.Config(
        create_app(gateway.plane), loop="none", http=protocol_of(HotEndpoints(gateway.plane), 100),
        lifespan="off", log_config=None, access_log=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.001)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def grpc_address(gateway: Any) -> AsyncIterator[str]:
    """The address of a real gRPC server over the gateway's plane."""
    listener = bound_socket("127.0.0.1", 0, share=False)
    listener.listen()
    server = grpc_server(gateway.plane)
    await server.start(listener)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def calling(gateway: Any) -> AsyncIterator[Any]:
    """A stub of the gateway's gRPC service."""
    async with grpc_address(gateway) as address, grpc.aio.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def until(holds: Callable[[], Any]) -> None:
    """Wait for what happens elsewhere on the loop; TimeoutError after ten seconds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)
