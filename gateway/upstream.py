"""Triton as the gateway sees it: a narrow protocol, and its implementation over gRPC.

Source: https://github.com/kserve/open-inference-protocol and Triton's model-repository extension for the index.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from contract.tensor import Tensors
from contract.triton import plain_reason
from gateway.error import (
    DeadlineExceeded,
    UpstreamError,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from gateway.http2.client import CallError, GrpcChannel
from gateway.payload import (
    Columns,
    append_inputs,
    columns_of,
    join,
    place_inputs,
    placed_bytes,
    read_outputs,
    write_inputs,
    write_parameters,
)
from gateway.sharing import Loan, Sharing

Metadata = Sequence[tuple[str, str]]

# Triton (2.51 and others) may crash when a call is cancelled, or its deadline passes, just as it ends
# (https://github.com/triton-inference-server/server/issues/8034 and 7472): nearly all end by themselves within this.
GRACE_S = 1.0

LARGE_BYTES = 64 * 1024  # of a batch; below it, copies cost less than avoiding them (docs/gateway.md)

_SERVICE = "/inference.GRPCInferenceService/"
_INFER = _SERVICE + "ModelInfer"
_STREAM_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # Triton is a neighbour, never behind the proxy to the world
    # A Triton that is back should be seen within a second; gRPC's own default goes up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
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


@dataclass(eq=False, slots=True)  # not frozen: that would make it three times as dear
class Batch:
    """What a version of a model is asked at once: requests whose tensors, joined by their rows, are its inputs.

    Priority 0 is the model's default; `metadata` goes beside it.
    """

    name: str
    version: str
    parts: Sequence[Tensors]
    priority: int = 0
    parameters: Mapping[str, Any] | None = None
    metadata: Metadata = ()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's inputs."""
        return {name: join(arrays) for name, arrays in columns_of(self.parts).items()}


class Upstream(Protocol):
    """What the gateway needs of an inference server. Every method raises UpstreamError or DeadlineExceeded."""

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        """Everything in the server's repository, loaded or not.

        UpstreamUnavailable unless the server is ready; UpstreamFailed when it is, but can't read its repository.
        """

    async def infer(self, batch: Batch, timeout_s: float) -> dict[str, NDArray[Any]]:
        """Run a batch and return all of the model's outputs.

        When its time is up, or the task is cancelled, it may go on for as long as the server is at work on the batch,
        a second at most: who can't wait for that has it run in a task apart.
        """

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
    """A Triton at `address` (host:port of its gRPC endpoint). `share` makes what it shares with us, if it is here."""

    def __init__(
        self,
        address: str,
        share: Callable[[str, GrpcChannel], Sharing] | None = None,
        *,
        busy_poll_s: float = 0.0,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._channel = GrpcChannel(host.strip("[]"), int(port), busy_poll_s=busy_poll_s)
        self._sharing = share(address, self._channel) if share is not None else None
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

    async def infer(self, batch: Batch, timeout_s: float) -> dict[str, NDArray[Any]]:
        """Run a batch and return all of the model's outputs; `Upstream.infer` says how long it may go on."""
        request = pb.ModelInferRequest(model_name=batch.name, model_version=batch.version)
        if batch.priority:
            request.parameters["priority"].uint64_param = batch.priority
        if batch.parameters:
            write_parameters(request.parameters, batch.parameters)
        columns = columns_of(batch.parts)
        try:
            if sum([array.nbytes for arrays in columns.values() for array in arrays]) < LARGE_BYTES:
                write_inputs(request, columns)
                message = request.SerializeToString()
                answer = await self._channel.unary(_INFER, message, timeout_s, batch.metadata, grace_s=GRACE_S)
            else:
                answer = await self._infer_large(request, columns, timeout_s, batch.metadata)
        except CallError as exc:
            raise _translate(exc.code, exc.details, unsent=exc.unsent, lost=exc.lost) from exc
        return read_outputs(pb.ModelInferResponse.FromString(answer))

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
            raise _translate(exc.code(), exc.details() or "") from exc

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
        if self._sharing is not None:
            await self._sharing.close()
        await self._channel.close()
        if self._streams is not None:
            await self._streams.close()

    async def _infer_large(self, request: Any, columns: Columns, timeout_s: float, metadata: Metadata) -> bytes:
        """Infer without a copy of the tensors; in a message when they can't be shared, or Triton doesn't find them."""
        deadline = time.monotonic() + timeout_s
        if (loan := self._lend(columns)) is not None:
            try:
                with loan as place:
                    place_inputs(request, columns, place)
                    message = request.SerializeToString()
                    return await self._channel.unary(_INFER, message, timeout_s, metadata, grace_s=GRACE_S)
            except CallError:
                if not loan.forgotten:
                    raise
            del request.inputs[:]
            timeout_s = deadline - time.monotonic()
            if timeout_s <= 0:
                raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before it was sent once more")
        first, *tail = append_inputs(request, columns)
        message = request.SerializeToString() + first
        return await self._channel.unary(_INFER, message, timeout_s, metadata, tail, GRACE_S)

    def _lend(self, columns: Columns) -> Loan | None:
        if self._sharing is None or (size := placed_bytes(columns)) is None:
            return None
        return self._sharing.lend(size)

    async def _ask(self, method: str, request: Any, response: Any, timeout_s: float) -> Any:
        try:
            answer = await self._channel.unary(_SERVICE + method, request.SerializeToString(), timeout_s)
        except CallError as exc:
            raise _translate(exc.code, exc.details, unsent=exc.unsent, lost=exc.lost) from exc
        return response.FromString(answer)


def _translate(
    code: grpc.StatusCode, details: str, *, unsent: bool = False, lost: bool = False
) -> UpstreamError | DeadlineExceeded:
    details = plain_reason(details)
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return UpstreamRefused(details)
        case grpc.StatusCode.NOT_FOUND:
            return UpstreamUnavailable("the model is not loaded", unsent=True)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.CANCELLED:
            return UpstreamUnavailable("the inference server is not available", unsent=unsent, lost=lost)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the inference server did not answer in time")
        case _:
            return UpstreamFailed(f"the model failed: {details}")
