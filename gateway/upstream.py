"""Triton as the gateway sees it: a narrow protocol, and its implementation over gRPC.

Source: https://github.com/kserve/open-inference-protocol and Triton's model-repository extension for the index.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from contract import TensorError
from contract.tensor import Tensors, datatype_of, from_raw, to_raw
from contract.triton import plain_reason
from gateway.error import (
    DeadlineExceeded,
    UpstreamError,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from gateway.http2.client import CallError, GrpcChannel

Metadata = Sequence[tuple[str, str]]

_SERVICE = "/inference.GRPCInferenceService/"
_STREAM_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # Triton is a neighbour, never behind the proxy to the world
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of Triton's repository index. `version` is empty for a model of which nothing is loaded."""

    name: str
    version: str
    ready: bool
    reason: str


class Upstream(Protocol):
    """What the gateway needs of an inference server. Every method raises UpstreamError or DeadlineExceeded."""

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        """Everything in the server's repository, loaded or not.

        UpstreamUnavailable unless the server is ready; UpstreamFailed when it is, but can't read its repository.
        """

    async def infer(
        self,
        name: str,
        version: str,
        tensors: Tensors,
        timeout_s: float,
        *,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
        metadata: Metadata = (),
    ) -> dict[str, NDArray[Any]]:
        """Run one batch and return all of the model's outputs. Priority 0 is the model's default."""

    def stream(self, requests: AsyncIterator[Any], timeout_s: float) -> AsyncIterator[Any]:
        """Send `ModelInferRequest`s and yield `ModelStreamInferResponse`s, as many as the models make of them."""

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        """Return the server's `ModelMetadataResponse`."""

    async def model_config(self, name: str, version: str, timeout_s: float) -> Any:
        """Return the server's `ModelConfigResponse`."""

    async def model_statistics(self, name: str, version: str, timeout_s: float) -> Any:
        """Return the server's `ModelStatisticsResponse`; of all models when no name is given."""

    async def close(self) -> None:
        """Let go of the connection."""


class TritonUpstream:
    """A Triton at `address` (host:port of its gRPC endpoint)."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._channel = GrpcChannel(host.strip("[]"), int(port))
        self._streams: grpc.aio.Channel | None = None

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        """Everything in Triton's repository, loaded or not.

        UpstreamUnavailable unless Triton is ready; UpstreamFailed when it is, but can't read its repository.
        """
        ready = await self._ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, timeout_s)
        if not ready.ready:
            raise UpstreamUnavailable("the inference server is not ready")
        try:
            index = await self._ask(
                "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse, timeout_s
            )
        except UpstreamUnavailable as exc:  # it has just said that it is ready: the fault is its repository's
            raise UpstreamFailed("the inference server can't list its repository") from exc
        return [IndexEntry(m.name, m.version, m.state == "READY", m.reason) for m in index.models]

    async def infer(
        self,
        name: str,
        version: str,
        tensors: Tensors,
        timeout_s: float,
        *,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
        metadata: Metadata = (),
    ) -> dict[str, NDArray[Any]]:
        """Run one batch and return all of the model's outputs. Priority 0 is the model's default."""
        request = pb.ModelInferRequest(model_name=name, model_version=version)
        for tensor, array in tensors.items():
            request.inputs.add(name=tensor, datatype=datatype_of(array), shape=array.shape)
            request.raw_input_contents.append(to_raw(array))
        if priority:
            request.parameters["priority"].uint64_param = priority
        if parameters:
            write_parameters(request.parameters, parameters)
        return read_outputs(await self._ask("ModelInfer", request, pb.ModelInferResponse, timeout_s, metadata))

    async def stream(self, requests: AsyncIterator[Any], timeout_s: float) -> AsyncIterator[Any]:
        """Send `ModelInferRequest`s and yield `ModelStreamInferResponse`s, as many as the models make of them."""
        if self._streams is None:
            self._streams = grpc.aio.insecure_channel(self._address, options=_STREAM_OPTIONS)
        method = self._streams.stream_stream(
            _SERVICE + "ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        try:
            async for response in method(requests, timeout=timeout_s):
                yield response
        except grpc.aio.AioRpcError as exc:
            raise _translate(exc.code(), exc.details() or "", unsent=False) from exc

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        """Return Triton's `ModelMetadataResponse`."""
        request = pb.ModelMetadataRequest(name=name, version=version)
        return await self._ask("ModelMetadata", request, pb.ModelMetadataResponse, timeout_s)

    async def model_config(self, name: str, version: str, timeout_s: float) -> Any:
        """Return Triton's `ModelConfigResponse`."""
        request = pb.ModelConfigRequest(name=name, version=version)
        return await self._ask("ModelConfig", request, pb.ModelConfigResponse, timeout_s)

    async def model_statistics(self, name: str, version: str, timeout_s: float) -> Any:
        """Return Triton's `ModelStatisticsResponse`; of all models when no name is given."""
        request = pb.ModelStatisticsRequest(name=name, version=version)
        return await self._ask("ModelStatistics", request, pb.ModelStatisticsResponse, timeout_s)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._channel.close()
        if self._streams is not None:
            await self._streams.close()

    async def _ask(self, method: str, request: Any, response: Any, timeout_s: float, metadata: Metadata = ()) -> Any:
        """One unary call; the one place that translates gRPC's errors of the upstream side."""
        try:
            answer = await self._channel.unary(_SERVICE + method, request.SerializeToString(), timeout_s, metadata)
        except CallError as exc:
            raise _translate(exc.code, exc.details, unsent=exc.unsent) from exc
        return response.FromString(answer)


def read_outputs(response: Any) -> dict[str, NDArray[Any]]:
    """Read the tensors of a `ModelInferResponse`; UpstreamFailed when they contradict themselves."""
    if len(response.outputs) != len(response.raw_output_contents):
        raise UpstreamFailed("the inference server's answer holds no raw tensors")
    try:
        return {
            output.name: from_raw(output.name, output.datatype, tuple(output.shape), raw)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }
    except TensorError as exc:
        raise UpstreamFailed(f"the inference server's answer can't be read: {exc}") from exc


def write_parameters(into: Any, parameters: Mapping[str, Any]) -> None:
    """Write request parameters (booleans, integers, floats, strings) into a protobuf map of them."""
    for name, value in parameters.items():
        match value:
            case bool():
                into[name].bool_param = value
            case int() if value >= 2**63:
                into[name].uint64_param = value
            case int():
                into[name].int64_param = value
            case float():
                into[name].double_param = value
            case _:
                into[name].string_param = value


def _translate(code: grpc.StatusCode, details: str, *, unsent: bool) -> UpstreamError | DeadlineExceeded:
    details = plain_reason(details)
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return UpstreamRefused(details)
        case grpc.StatusCode.NOT_FOUND:
            return UpstreamUnavailable("the model is not loaded", unsent=True)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.CANCELLED:
            return UpstreamUnavailable("the inference server is not available", unsent=unsent)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the inference server did not answer in time")
        case _:
            return UpstreamFailed(f"the model failed: {details}")


def concatenate(parts: Sequence[Tensors]) -> dict[str, NDArray[Any]]:
    """Join the samples of several requests whose tensors have the same names, datatypes and sample shapes."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
