"""The gRPC side: `inference.GRPCInferenceService`, health and reflection, translated into calls of the data plane.

Triton's repository, shared-memory, trace and log calls are refused: this port is for those who ask models, not for
those who change them.
"""

import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.call import Ask
from gateway.dataplane import DataPlane
from gateway.error import BodyTooLarge, Unauthenticated
from gateway.hot import EXTENSIONS, class_labels
from gateway.http2.head import RequestHead
from gateway.http2.server import GrpcServer
from gateway.log import request_id
from gateway.message import read_message, write_message
from gateway.outcome import message_of, outcome_of
from gateway.stream import answer_stream
from gateway.v2 import SERVER_NAME, server_version, write_metadata

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
OPEN_PATHS = frozenset((f"/{_HEALTH}/Check", f"/{_HEALTH}/Watch", f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady"))
_REFUSED = (
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
    *("TraceSetting", "LogSettings"),
)


class InferenceService(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The service, over a data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def ServerLive(self, request: Any, context: Any) -> Any:
        """Whether the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Whether Triton answers and a model is loaded."""
        return pb.ServerReadyResponse(ready=self._plane.catalog.ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Name, version and extensions of the gateway."""
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=server_version(), extensions=EXTENSIONS)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether a version can be asked."""
        try:
            self._find(request, context)
        except Exception as exc:
            if outcome_of(exc).grpc_code is not grpc.StatusCode.UNAVAILABLE:
                await _abort(context, exc)
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Tensors and versions of a model."""
        try:
            served = self._find(request, context)
            versions = self._plane.catalog.models()[served.name]
            if served.contract is None:
                return await self._plane.upstream.model_metadata(served.name, served.version, self._timeout_s(context))
        except Exception as exc:
            return await _abort(context, exc)
        return pb.ModelMetadataResponse(**write_metadata(served.contract, versions))

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        """Triton's configuration of a model."""
        try:
            served = self._find(request, context)
            return await self._plane.upstream.model_config(served.name, served.version, self._timeout_s(context))
        except Exception as exc:
            return await _abort(context, exc)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        """Triton's statistics of a model, or of all when none is named."""
        try:
            name = self._find(request, context).name if request.name else ""
            return await self._plane.upstream.model_statistics(name, request.version, self._timeout_s(context))
        except Exception as exc:
            return await _abort(context, exc)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Infer one request."""
        try:
            with self._plane.call(_ask(self._plane, request, context)) as call:
                if (size := request.ByteSize()) > (most := self._plane.settings.max_body_bytes):
                    raise BodyTooLarge(f"expected a message of at most {most} bytes, got {size}")
                asked = read_message(request)
                outputs = await self._plane.infer(call, asked)
                served = call.served
                return write_message(served.name, served.version, asked, outputs, labels=class_labels(served.contract))
        except Exception as exc:
            return await _abort(context, exc)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Infer requests as they come; a decoupled model answers each as often as it likes."""
        # A stream may stay open for long: each of its requests needs a key that is good then.
        async for response in answer_stream(self._plane, requests, lambda one: _ask(self._plane, one, context)):
            yield response

    def _find(self, request: Any, context: Any) -> Any:
        ask = Ask("v2_grpc", request.name, request.version or None, headers=lambda: _metadata(context))
        return self._plane.routing.find(ask)[0]

    def _timeout_s(self, context: Any) -> float:
        limit_s, remaining_s = self._plane.settings.request_timeout_s, context.time_remaining()
        return limit_s if remaining_s is None else min(limit_s, remaining_s)


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """`grpc.health.v1.Health`: the whole server under the empty name and the service's, a model under its own."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def Check(self, request: Any, context: Any) -> Any:
        """Whether the server, or a model, serves."""
        if request.service in ("", SERVICE):
            return _health(self._plane.catalog.ready)
        try:
            self._plane.access.admit("grpc", _metadata(context))  # what models there are isn't for everybody
            self._plane.routing.find(Ask("v2_grpc", request.service))
        except Exception as exc:
            if outcome_of(exc).grpc_code is not grpc.StatusCode.UNAVAILABLE:
                await _abort(context, exc)
            return _health(False)
        return _health(True)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Every change of what `Check` says of the whole server."""
        async for ready in self._plane.catalog.changes_of_readiness():
            yield _health(ready)


async def _refuse(self: Any, request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the gateway doesn't pass on calls that change the server")


for _name in _REFUSED:
    setattr(InferenceService, _name, _refuse)


def grpc_server(plane: DataPlane) -> GrpcServer:
    """A server for the plane, not started."""
    # Somewhat more than our own limit, so that it is us who refuse and count; beyond it the transport does.
    settings, access = plane.settings, plane.access

    def guard(head: RequestHead) -> str | None:
        if access.ring is not None and head.path not in OPEN_PATHS:
            try:
                access.admit("grpc", _texts(head.metadata))
            except Unauthenticated as exc:
                return message_of(exc)
        return None

    server = GrpcServer(
        guard=guard,
        max_message_bytes=2 * settings.max_body_bytes,
        max_connections=settings.max_connections,
        arrival_timeout_s=settings.request_timeout_s,
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(plane), server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(plane), server)
    names = (SERVICE, _HEALTH, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), server)
    return server


def _ask(plane: DataPlane, request: Any, context: Any) -> Ask:
    key = None if plane.access.ring is None else plane.access.admit("grpc", _metadata(context))
    return Ask(
        "v2_grpc",
        request.model_name,
        request.model_version or None,
        context.time_remaining(),
        request_id(request.id or None),
        context.peer(),
        key,
        lambda: _metadata(context),
    )


def _metadata(context: Any) -> dict[str, str]:
    return _texts(context.invocation_metadata())


def _texts(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    return {name: value for name, value in metadata if isinstance(value, str)}


def _health(ready: bool) -> Any:
    serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
    return health_pb2.HealthCheckResponse(status=serving)


async def _abort(context: Any, error: Exception) -> Any:
    outcome = outcome_of(error)
    if outcome.status == 500:
        log.error("a request failed unexpectedly", exc_info=error)
    await context.abort(outcome.grpc_code, message_of(error))
