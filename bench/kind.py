"""The kinds: every way of asking that is measured, each able to prove once that its answers are right."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any, Protocol

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from bench.error import LoadError, WrongAnswer
from bench.load import Figures, Shape, h2load, wrk
from bench.model import Array, Model

HOST = "127.0.0.1"
TIMEOUT_S = 10

METHOD = "/inference.GRPCInferenceService/ModelInfer"
BINARY_HEADER = "Inference-Header-Content-Length"
JSON = {"Content-Type": "application/json"}

COUNTED, UNCOUNTED = COUNTING = ("counted-json", "uncounted-json")  # two gateways that differ in that alone

TITLES = {
    "triton-json": "Triton, HTTP JSON",
    "triton-binary": "Triton, HTTP binary",
    "triton-grpc": "Triton, gRPC",
    "gateway-json": "gateway, HTTP JSON",
    "gateway-binary": "gateway, HTTP binary",
    "gateway-grpc": "gateway, gRPC",
    "gateway-predict": "gateway, predict an image",
    COUNTED: "gateway by itself, HTTP JSON",
    UNCOUNTED: "the same that doesn't count",
    "loop-one": "plain loop, 1 thread",
    "loop-all": "plain loop, default threads",
    "mlserver": "MLServer",
    "kserve": "KServe",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "mosec": "Mosec",
}

Verify = Callable[[bytes, Message], None]

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says


class Kind(Protocol):
    """A way of asking."""

    @property
    def id(self) -> str:
        """A key of TITLES."""

    def check(self) -> None:
        """Ask once; raises WrongAnswer, or LoadError when there is no answer."""

    def load(self, shape: Shape, duration_s: int) -> Figures:
        """Ask again and again; raises LoadError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpKind:
    """POSTs `bodies` in turn; `verify` is given the answer to the first, and its headers."""

    id: str
    url: str
    headers: Mapping[str, str]
    bodies: tuple[bytes, ...]
    verify: Verify

    def check(self) -> None:
        """Ask once."""
        request = urllib.request.Request(self.url, self.bodies[0], dict(self.headers))  # noqa: S310  # our own address
        try:
            with _DIRECT.open(request, timeout=TIMEOUT_S) as answer:
                self.verify(answer.read(), answer.headers)
        except urllib.error.HTTPError as exc:
            raise LoadError(f"expected an answer, got status {exc.code}: {exc.read(160)!r}") from None
        except OSError as exc:
            raise LoadError(f"expected an answer, got {exc}") from None
        except (ValueError, KeyError, IndexError, TypeError) as exc:
            raise WrongAnswer(f"the answer can't be read: {exc!r:.160}") from exc

    def load(self, shape: Shape, duration_s: int) -> Figures:
        """Ask by wrk."""
        return wrk(self.url, self.headers, self.bodies, shape, duration_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpcKind:
    """Calls ModelInfer of the Open Inference Protocol."""

    id: str
    address: str
    request: Any  # a ModelInferRequest; its library has no types
    scores: Array

    def check(self) -> None:
        """Ask once, by a real gRPC client: h2load sees no gRPC status."""
        with grpc.insecure_channel(self.address) as channel:
            infer = channel.unary_unary(
                METHOD,
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )
            try:
                answer = infer(self.request, timeout=TIMEOUT_S)
            except grpc.RpcError as exc:
                raise LoadError(f"expected an answer, got {exc.code().name}: {exc.details():.160}") from exc
        compare(np.frombuffer(answer.raw_output_contents[0], np.float32), self.scores)

    def load(self, shape: Shape, duration_s: int) -> Figures:
        """Ask by h2load."""
        return h2load(self.address, METHOD, self.request.SerializeToString(), shape, duration_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopKind:
    """No server at all: a process that decodes the model's files and runs them one after the other."""

    id: str
    model: Model

    def check(self) -> None:
        """Nothing to ask: the loop runs the code that the expected scores came from."""

    def load(self, shape: Shape, duration_s: int) -> Figures:
        """Run the loop for that long; the shape says nothing to it."""
        threads = "1" if self.id == "loop-one" else "0"
        command = [sys.executable, "-m", "bench.loop", str(self.model.folder), threads, str(duration_s)]
        files = b"".join(len(file).to_bytes(4, "big") + file for file in self.model.files)
        try:
            done = subprocess.run(command, input=files, capture_output=True, timeout=duration_s + 30, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as exc:
            raise LoadError(f"the loop failed: {exc}") from exc
        return Figures.model_validate_json(done.stdout)


def v2_json(kind: str, url: str, model: Model) -> HttpKind:
    """Tensors as JSON, by the Open Inference Protocol V2."""
    body = _json({"inputs": [_describe(model) | {"data": _values(model)}]})

    def verify(answer: bytes, _: Message) -> None:
        compare(json.loads(answer)["outputs"][0]["data"], model.scores)

    return HttpKind(id=kind, url=url, headers=JSON, bodies=(body,), verify=verify)


def v2_binary(kind: str, url: str, model: Model) -> HttpKind:
    """Tensors as bytes behind a short JSON, by Triton's extension of the protocol; outputs likewise."""
    tensor = model.sample.tobytes()
    described = _describe(model) | {"parameters": {"binary_data_size": len(tensor)}}
    outputs = [{"name": model.contract.outputs[0].name, "parameters": {"binary_data": True}}]
    head = _json({"inputs": [described], "outputs": outputs})
    headers = {"Content-Type": "application/octet-stream", BINARY_HEADER: str(len(head))}

    def verify(answer: bytes, answer_headers: Message) -> None:
        compare(np.frombuffer(answer[int(answer_headers[BINARY_HEADER]) :], np.float32), model.scores)

    return HttpKind(id=kind, url=url, headers=headers, bodies=(head + tensor,), verify=verify)


def v2_grpc(kind: str, address: str, model: Model) -> GrpcKind:
    """Tensors as raw bytes by gRPC."""
    request = pb.ModelInferRequest(model_name=model.name, raw_input_contents=[model.sample.tobytes()])
    spec = model.contract.inputs[0]
    request.inputs.add(name=spec.name, datatype=spec.datatype, shape=model.sample.shape)
    return GrpcKind(id=kind, address=address, request=request, scores=model.scores)


def predict(url: str, model: Model) -> HttpKind:
    """Image files, as they are."""

    def verify(answer: bytes, _: Message) -> None:
        label = json.loads(answer)["predictions"][0]["label"]
        if label != model.label:
            raise WrongAnswer(f"expected {model.label!r}, got {label!r}")

    headers = {"Content-Type": model.media_type}
    return HttpKind(id="gateway-predict", url=url, headers=headers, bodies=model.files, verify=verify)


def plain_json(kind: str, url: str, model: Model, read: Callable[[Any], Any], *, nested: bool = False) -> HttpKind:
    """`{"x": values}`, for servers without the protocol; `read` finds the scores in the answer's JSON."""
    body = _json({"x": [_values(model)] if nested else _values(model)})

    def verify(answer: bytes, _: Message) -> None:
        compare(read(json.loads(answer)), model.scores)

    return HttpKind(id=kind, url=url, headers=JSON, bodies=(body,), verify=verify)


def compare(got: Any, expected: Array) -> None:
    """Raises WrongAnswer unless the scores agree as far as two builds of one runtime do."""
    scores = np.asarray(got, np.float64).ravel()
    if scores.shape != (expected.size,) or not np.allclose(scores, expected.ravel(), rtol=1e-3, atol=1e-3):
        raise WrongAnswer(f"expected the scores {expected.ravel()[:4].round(3).tolist()}..., got {got!r:.120}")


def _describe(model: Model) -> dict[str, Any]:
    spec = model.contract.inputs[0]
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(model.sample.shape)}


def _values(model: Model) -> list[Any]:
    """The sample as numbers of the length that people send: shortest digits, not those of a double."""
    return [value.item() if value.dtype.kind != "f" else float(str(value)) for value in model.sample.ravel()]


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
