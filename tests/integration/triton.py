"""What the tests of the real Triton share: a client, small models, and waiting with a deadline."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from contract import Contract, Repository
from contract.tensor import datatype_of, from_raw, to_raw
from serving.launcher import Launcher, Ports
from serving.loader import Loader, ModelState
from tests.port import free_ports

Array = NDArray[Any]
MakeVersion = Callable[..., Contract]
Spec = tuple[int, Sequence[Any]]
TIMEOUT_S = 20.0
ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-triton"


class Client:
    """Inference over gRPC, tensors in and out as arrays."""

    def __init__(self, address: str) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def send(
        self, model: str, tensors: Mapping[str, Array], version: int | None = None, outputs: Sequence[str] = ()
    ) -> Any:
        """A future; `answer` makes arrays of it."""
        request = service_pb2.ModelInferRequest(model_name=model, model_version=str(version or ""))
        for name, array in tensors.items():
            request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
            request.raw_input_contents.append(to_raw(array))
        for name in outputs:
            request.outputs.add(name=name)
        return self._stub.ModelInfer.future(request, timeout=TIMEOUT_S)

    def infer(
        self, model: str, tensors: Mapping[str, Array], version: int | None = None, outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        return answer(self.send(model, tensors, version, outputs))

    def refusal(self, model: str, tensors: Mapping[str, Array]) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            self.infer(model, tensors)
        return str(caught.value.details())


def answer(call: Any) -> dict[str, Array]:
    response = call.result()
    return {
        output.name: from_raw(output.name, output.datatype, list(output.shape), raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A running Triton with its loader; tests write into `repository` and call `loader.reconcile()`."""

    repository: Repository
    launcher: Launcher
    loader: Loader
    client: Client
    ports: Ports

    def publish(self, name: str, model: onnx.ModelProto, config: str, version: int = 1) -> None:
        folder = self.repository.version_dir(name, version)
        folder.mkdir(parents=True)
        onnx.save(model, folder / "model.onnx")
        (self.repository.root / name / "config.pbtxt").write_text(
            f'name: "{name}" backend: "onnxruntime" default_model_filename: "model.onnx"\n'
            f"instance_group [ {{ kind: KIND_AUTO count: 1 }} ]\n{config}"
        )

    def load(self, name: str, model: onnx.ModelProto, config: str) -> ModelState:
        self.publish(name, model, config)
        return self.loader.reconcile()[name]


def some_ports() -> Ports:
    return Ports(**dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True)))


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        pause.wait(0.05)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Spec],
    outputs: Mapping[str, Spec],
    **constants: Array,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def times(factor: float) -> onnx.ModelProto:
    """`x` FP32 `[N, 4]` times a number."""
    spec = (TensorProto.FLOAT, ["n", 4])
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    return make_model([node], {"x": spec}, {"y": spec}, factor=np.array(factor, np.float32))


TIMES = """max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [4] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [4] } ]
version_policy { all { } }
"""

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
