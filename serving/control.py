"""Triton's control calls over gRPC: what it serves, load, unload. The one place that knows tritonclient's protobufs.

What is served comes from the statistics call: unlike the repository index, it also lists a loaded model whose folder
is gone, and only what really answers.
"""

import re
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from contract.triton import plain_reason
from serving.error import LoadFailed, TritonUnreachable

ModelConfig = Any
"""A `model_config_pb2.ModelConfig`; the generated module has no types."""

# A Triton that is back should be seen within a second; gRPC's own default goes up to two minutes.
_OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # Triton is a neighbour, never behind the proxy to the world
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
]
_CHECK_STOP_S = 0.1
_FAILED_VERSION = re.compile(r"version (\d+) is at UNAVAILABLE state: (.*?);\s*(?=version \d+ is at |$)", re.DOTALL)


class Control:
    """A connection to one Triton. With `stop` set, a call in flight is given up at once."""

    def __init__(self, address: str, *, timeout_s: float = 5.0, stop: threading.Event | None = None) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._stop = stop or threading.Event()
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def ready(self) -> bool:
        """Whether Triton answers and says that it is ready."""
        try:
            return bool(self._call(self._stub.ServerReady, service_pb2.ServerReadyRequest()).ready)
        except TritonUnreachable:
            return False

    def serving(self) -> dict[str, set[int]]:
        """Versions that answer, by model; raises TritonUnreachable."""
        answer = self._call(self._stub.ModelStatistics, service_pb2.ModelStatisticsRequest())
        served: dict[str, set[int]] = {}
        for entry in answer.model_stats:
            served.setdefault(entry.name, set()).add(int(entry.version))
        return served

    def load(self, name: str, config: ModelConfig, versions: Sequence[int], *, timeout_s: float) -> None:
        """Load exactly these versions of a model with this config, beside what serves now, and then swap.

        Triton keeps instances of versions whose files and config didn't change. If one version fails, none of the new
        ones is served and the old ones stay. Raises LoadFailed with Triton's reasons, or TritonUnreachable.
        """
        chosen = model_config_pb2.ModelConfig()
        chosen.CopyFrom(config)
        chosen.version_policy.specific.versions[:] = versions
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        request.parameters["config"].string_param = json_format.MessageToJson(
            chosen, preserving_proto_field_name=True, indent=None
        )
        try:
            self._call(self._stub.RepositoryModelLoad, request, timeout_s)
        except TritonUnreachable as exc:
            cause = exc.__cause__
            if isinstance(cause, grpc.RpcError) and cause.code() == grpc.StatusCode.DEADLINE_EXCEEDED and self.ready():
                raise LoadFailed(f"not loaded within {timeout_s:g} s") from exc
            raise
        except grpc.RpcError as exc:
            raise _load_failed(exc.details() or exc.code().name) from exc

    def unload(self, name: str) -> None:
        """Stop serving a model and, when nothing else needs them, the models it is made of; TritonUnreachable."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        try:
            self._call(self._stub.RepositoryModelUnload, request)
        except grpc.RpcError as exc:
            raise LoadFailed(plain_reason(exc.details() or exc.code().name)) from exc

    def _call(self, method: Any, request: Any, timeout_s: float | None = None) -> Any:
        """The answer; TritonUnreachable when there was none, grpc.RpcError when Triton refused."""
        call = method.future(request, timeout=timeout_s or self._timeout_s)
        while not self._stop.is_set():
            try:
                return call.result(timeout=_CHECK_STOP_S)
            except grpc.FutureTimeoutError:
                continue
            except grpc.RpcError as exc:
                if exc.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise TritonUnreachable(
                        f"Triton at {self.address} doesn't answer: {plain_reason(exc.details())}"
                    ) from exc
                raise
        call.cancel()
        raise TritonUnreachable(f"the call to Triton at {self.address} was given up: we are stopping")


def _load_failed(details: str) -> LoadFailed:
    versions = {int(version): plain_reason(reason) for version, reason in _FAILED_VERSION.findall(details)}
    message = "; ".join(f"version {version}: {reason}" for version, reason in versions.items()) or plain_reason(details)
    return LoadFailed(message, versions)
