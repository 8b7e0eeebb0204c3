"""The gRPC side: `inference.GRPCInferenceService`, translated into calls of the data plane.

Triton's repository, shared-memory, trace and log calls are refused: this port is for those who ask models, not for
those who change them.
"""

import logging
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from contract.tensor import Tensors, datatype_of, from_raw, from_values, to_raw
from gateway.dataplane import DataPlane
from gateway.error import BodyTooLarge, InvalidRequest
from gateway.outcome import message_of, outcome_of
from gateway.v2 import SERVER_NAME, select, server_version

log = logging.getLogger(__name__)

_REFUSED = (
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
    *("TraceSetting", "LogSettings"),
)
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_tensors(request: Any) -> Tensors:
    """Read the input tensors of a `ModelInferRequest`, raw or typed; raises InvalidRequest or TensorError."""
    names = [tensor.name for tensor in request.inputs]
    if len(set(names)) != len(names):
        raise InvalidRequest("an input is given twice")
    raw = request.raw_input_contents
    if not raw:
        return {tensor.name: _from_contents(tensor) for tensor in request.inputs}
    if len(raw) != len(names):
        raise InvalidRequest(f"expected raw contents for each of {len(names)} inputs, got {len(raw)}")
    return {
        tensor.name: from_raw(tensor.name, tensor.datatype, tuple(tensor.shape), data)
        for tensor, data in zip(request.inputs, raw, strict=True)
    }


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
        """Name and version of the gateway."""
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=server_version())

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether a version can be asked."""
        try:
            self._plane.catalog.find(request.name, request.version)
        except Exception as exc:
            if outcome_of(exc).grpc_code is not grpc.StatusCode.UNAVAILABLE:
                await _abort(context, exc)
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Tensors and versions of a model."""
        try:
            served = self._plane.catalog.find(request.name, request.version)
            versions = self._plane.catalog.models()[served.name]
            if served.contract is None:
                timeout_s = self._plane.settings.request_timeout_s
                return await self._plane.upstream.model_metadata(served.name, served.version, timeout_s)
        except Exception as exc:
            return await _abort(context, exc)
        answer = pb.ModelMetadataResponse(name=served.name, versions=versions, platform=SERVER_NAME)
        for side, specs in ((answer.inputs, served.contract.inputs), (answer.outputs, served.contract.outputs)):
            for spec in specs:
                side.add(name=spec.name, datatype=spec.datatype, shape=(-1, *spec.shape))
        return answer

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Infer one request."""
        try:
            with self._plane.call(
                "v2_grpc", request.model_name, request.model_version, context.time_remaining()
            ) as call:
                if (size := request.ByteSize()) > (most := self._plane.settings.max_body_bytes):
                    raise BodyTooLarge(f"expected a message of at most {most} bytes, got {size}")
                outputs = await self._plane.infer(call, read_tensors(request))
                chosen = select(outputs, (output.name for output in request.outputs))
                answer = pb.ModelInferResponse(
                    model_name=call.served.name, model_version=call.served.version, id=request.id
                )
                for name, array in chosen.items():
                    answer.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
                    answer.raw_output_contents.append(to_raw(array))
                return answer
        except Exception as exc:
            return await _abort(context, exc)


async def _refuse(self: Any, request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the gateway doesn't pass on calls that change the server")


async def _lack(self: Any, request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the gateway doesn't answer this call; ask ModelInfer")


async def _lack_stream(self: Any, requests: Any, context: Any) -> Any:
    await _lack(self, None, context)
    yield  # what makes it a stream's answer


for _name in _REFUSED:
    setattr(InferenceService, _name, _refuse)
for _name in ("ModelConfig", "ModelStatistics"):
    setattr(InferenceService, _name, _lack)
InferenceService.ModelStreamInfer = _lack_stream


def grpc_server(plane: DataPlane, address: str) -> tuple[grpc.aio.Server, int]:
    """A server for the plane, bound but not started, and its port.

    Raises OSError when the address is taken.
    """
    # Somewhat more than our own limit, so that it is us who refuse and count; beyond it the transport does.
    limit = 2 * plane.settings.max_body_bytes
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        )
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(plane), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise OSError(f"gRPC can't listen on {address}: the address is in use or not this machine's")
    return server, port


def _from_contents(tensor: Any) -> Any:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidRequest(f"input {tensor.name!r:.80}: {tensor.datatype!r:.20} needs raw contents")
    values = list(getattr(tensor.contents, field))
    shape = tuple(tensor.shape)
    if tensor.datatype == "BYTES":
        return from_raw(tensor.name, "BYTES", shape, b"".join(len(v).to_bytes(4, "little") + v for v in values))
    return from_values(tensor.name, tensor.datatype, shape, values)


async def _abort(context: Any, error: Exception) -> Any:
    outcome = outcome_of(error)
    if outcome.status == 500:
        log.error("a request failed unexpectedly", exc_info=error)
    await context.abort(outcome.grpc_code, message_of(error))
