"""Triton as the gateway sees it: a narrow protocol, and its implementation over gRPC.

Source: https://github.com/kserve/open-inference-protocol and Triton's model-repository extension for the index.
"""

from collections.abc import Sequence
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

_SERVICE = "/inference.GRPCInferenceService/"
_UNLIMITED = -1


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

    async def infer(self, name: str, version: str, tensors: Tensors, timeout_s: float) -> dict[str, NDArray[Any]]:
        """Run one batch and return all of the model's outputs."""

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        """Return the server's `ModelMetadataResponse`."""

    async def close(self) -> None:
        """Let go of the connection."""


class TritonUpstream:
    """A Triton at `address` (host:port of its gRPC endpoint)."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            address,
            options=(
                ("grpc.enable_http_proxy", 0),  # Triton is a neighbour, never behind the proxy to the world
                ("grpc.max_receive_message_length", _UNLIMITED),
                ("grpc.max_send_message_length", _UNLIMITED),
                # A Triton that comes back is found within a second, not after gRPC's default of up to two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ),
        )
        self._server_ready = self._method("ServerReady", pb.ServerReadyRequest, pb.ServerReadyResponse)
        self._index = self._method("RepositoryIndex", pb.RepositoryIndexRequest, pb.RepositoryIndexResponse)
        self._infer = self._method("ModelInfer", pb.ModelInferRequest, pb.ModelInferResponse)
        self._metadata = self._method("ModelMetadata", pb.ModelMetadataRequest, pb.ModelMetadataResponse)

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        """Everything in Triton's repository, loaded or not.

        UpstreamUnavailable unless Triton is ready; UpstreamFailed when it is, but can't read its repository.
        """
        ready = await _answer(self._server_ready(pb.ServerReadyRequest(), timeout=timeout_s))
        if not ready.ready:
            raise UpstreamUnavailable("the inference server is not ready")
        try:
            index = await _answer(self._index(pb.RepositoryIndexRequest(), timeout=timeout_s))
        except UpstreamUnavailable as exc:  # it has just said that it is ready: the fault is its repository's
            raise UpstreamFailed("the inference server can't list its repository") from exc
        return [IndexEntry(m.name, m.version, m.state == "READY", m.reason) for m in index.models]

    async def infer(self, name: str, version: str, tensors: Tensors, timeout_s: float) -> dict[str, NDArray[Any]]:
        """Run one batch and return all of the model's outputs."""
        request = pb.ModelInferRequest(model_name=name, model_version=version)
        for tensor, array in tensors.items():
            request.inputs.add(name=tensor, datatype=datatype_of(array), shape=array.shape)
            request.raw_input_contents.append(to_raw(array))
        return read_outputs(await _answer(self._infer(request, timeout=timeout_s)))

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        """Return Triton's `ModelMetadataResponse`."""
        return await _answer(self._metadata(pb.ModelMetadataRequest(name=name, version=version), timeout=timeout_s))

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()

    def _method(self, name: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(
            _SERVICE + name, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )


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


async def _answer(call: Any) -> Any:
    """Await a gRPC call and translate its errors: the one place that knows gRPC's codes of the upstream side."""
    try:
        return await call
    except grpc.aio.AioRpcError as exc:
        raise _translate(exc.code(), plain_reason(exc.details() or "")) from exc


def _translate(code: grpc.StatusCode, details: str) -> UpstreamError | DeadlineExceeded:
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return UpstreamRefused(details)
        case grpc.StatusCode.NOT_FOUND:
            return UpstreamUnavailable("the model is not loaded")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.CANCELLED:
            return UpstreamUnavailable("the inference server is not available")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the inference server did not answer in time")
        case _:
            return UpstreamFailed(f"the model failed: {details}")


def concatenate(parts: Sequence[Tensors]) -> dict[str, NDArray[Any]]:
    """Join the samples of several requests whose tensors have the same names, datatypes and sample shapes."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
