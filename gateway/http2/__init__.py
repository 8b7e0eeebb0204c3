"""gRPC over HTTP/2 on asyncio: a server and a client that cost a fraction of grpc.aio's CPU a call."""

from gateway.http2.client import CallError, GrpcChannel
from gateway.http2.server import GrpcServer

__all__ = ["CallError", "GrpcChannel", "GrpcServer"]
