"""The real Triton, started once for the module: models come, go, break and are swapped; then Triton itself dies."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from serving.control import Control
from serving.error import PortInUse
from serving.launcher import Launcher, LaunchSettings, Ports
from serving.loader import Loader, ModelState
from serving.runtime import Runtime, find
from serving.supervisor import Supervisor, SupervisorSettings

HERE = Path(__file__).resolve().parents[2]
VENV = HERE / ".venv-triton"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not (VENV / "pyvenv.cfg").is_file(), reason="there is no .venv-triton with the Triton wheel"),
]

Array = NDArray[Any]
MakeVersion = Callable[..., Contract]
Spec = tuple[int, Sequence[Any]]
TIMEOUT_S = 20.0


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


def free_ports() -> Ports:
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    http, grpc_port, metrics = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    return Ports(http=http, grpc=grpc_port, metrics=metrics)


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        pause.wait(0.05)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return find(tmp_path_factory.mktemp("runtime"), venv=VENV)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, runtime: Runtime) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("serving")
    (root / "model_repository").mkdir()
    ports = free_ports()
    settings = LaunchSettings(
        repository=root / "model_repository", state_dir=root / "state", ports=ports, stop_timeout_s=1.0
    )
    launcher = Launcher(runtime, settings)
    launcher.start()
    client = Client(f"127.0.0.1:{ports.grpc}")
    repository = Repository(root / "model_repository")
    try:
        with Control(f"127.0.0.1:{ports.grpc}") as control:
            loader = Loader(repository, control, load_timeout_s=60)
            yield Serving(repository=repository, launcher=launcher, loader=loader, client=client, ports=ports)
    finally:
        client.close()
        launcher.stop()


@pytest.fixture(autouse=True)
def no_models_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test begins and ends with an empty repository."""
    yield
    if "serving" in request.fixturenames:
        serving = request.getfixturevalue("serving")
        for folder in serving.repository.root.iterdir():
            shutil.rmtree(folder)
        serving.loader.reconcile()


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


def test_a_published_version_answers_as_its_golden_samples_say(serving: Serving, make_version: MakeVersion) -> None:
    contract = make_version(serving.repository.root)
    assert serving.loader.reconcile() == {"tiny": ModelState(versions=(1,))}
    with np.load(serving.repository.version_dir("tiny", 1) / "golden.npz") as golden:
        answered = serving.client.infer("tiny", {"image": golden["input.image"]})
        np.testing.assert_allclose(answered["logits"], golden["output.logits"], rtol=0, atol=1e-5)
    images = np.zeros((contract.batch.max + 1, 8, 8, 1), np.uint8)
    assert "batch-size must be <= 8" in serving.client.refusal("tiny", {"image": images})


def test_a_broken_model_is_named_and_the_others_serve(serving: Serving) -> None:
    serving.publish("good", times(2), TIMES)
    serving.publish("broken", times(2), TIMES)
    (serving.repository.version_dir("broken", 1) / "model.onnx").write_bytes(b"garbage")
    states = serving.loader.reconcile()
    assert states["good"].healthy
    assert states["broken"].versions == ()
    assert states["broken"].problem == "none of its versions can be served"
    reason = states["broken"].problems[1]
    assert reason.startswith("broken/1/model.onnx can't be loaded: ")
    assert str(serving.repository.root) not in reason
    np.testing.assert_array_equal(serving.client.infer("good", {"x": ROWS})["y"], 2 * ROWS)
    onnx.save(times(3), serving.repository.version_dir("broken", 1) / "model.onnx")
    assert serving.loader.reconcile()["broken"].healthy
    np.testing.assert_array_equal(serving.client.infer("broken", {"x": ROWS})["y"], 3 * ROWS)


def test_a_broken_version_is_left_out_and_the_others_serve(serving: Serving) -> None:
    for version in (1, 2, 3):
        serving.publish("model", times(version), TIMES, version)
    (serving.repository.version_dir("model", 2) / "model.onnx").write_bytes(b"garbage")
    state = serving.loader.reconcile()["model"]
    assert state.versions == (1, 3)
    assert list(state.problems) == [2]
    for version in (1, 3):
        np.testing.assert_array_equal(serving.client.infer("model", {"x": ROWS}, version)["y"], version * ROWS)


def test_a_file_that_training_didnt_write_is_refused_and_named(serving: Serving, make_version: MakeVersion) -> None:
    make_version(serving.repository.root)
    make_version(serving.repository.root, version=2)
    model = serving.repository.version_dir("tiny", 2) / "model.onnx"
    model.write_bytes(model.read_bytes().replace(b"tiny", b"evil"))  # a valid model all the same
    onnx.checker.check_model(str(model))
    state = serving.loader.reconcile()["tiny"]
    assert state.versions == (1,)
    assert state.problems[2].startswith("tiny/2/model.onnx: expected sha256")
    image = np.zeros((1, 8, 8, 1), np.uint8)
    assert serving.client.infer("tiny", {"image": image}, version=1)["logits"].shape == (1, 3)
    with pytest.raises(grpc.RpcError, match=r"version 2 is not (found|available)|not available"):
        serving.client.infer("tiny", {"image": image}, version=2)


def test_versions_and_models_come_and_go(serving: Serving) -> None:
    serving.publish("model", times(1), TIMES)
    assert serving.loader.reconcile()["model"].versions == (1,)
    serving.publish("model", times(2), TIMES, version=2)
    assert serving.loader.reconcile()["model"].versions == (1, 2)
    np.testing.assert_array_equal(serving.client.infer("model", {"x": ROWS})["y"], 2 * ROWS)
    config = serving.repository.root / "model" / "config.pbtxt"
    config.write_text(config.read_text().replace("all { }", "specific { versions: [1] }"))
    assert serving.loader.reconcile()["model"].versions == (1,)
    np.testing.assert_array_equal(serving.client.infer("model", {"x": ROWS})["y"], ROWS)
    shutil.rmtree(serving.repository.root / "model")
    assert serving.loader.reconcile() == {}
    assert "unknown model" in serving.client.refusal("model", {"x": ROWS})


def test_a_reload_drops_no_request(serving: Serving) -> None:
    """Two clients keep asking while versions are added, replaced and taken away."""
    serving.publish("model", times(1), TIMES)
    serving.loader.reconcile()
    done = threading.Event()
    failures: list[str] = []
    factors: list[set[float]] = [set(), set()]

    def ask(client: int) -> None:
        for _ in range(20_000):
            if done.is_set():
                return
            try:
                factors[client].add(float(serving.client.infer("model", {"x": ROWS})["y"][0, 1]))
            except grpc.RpcError as exc:
                failures.append(exc.details())

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(2)]
    for thread in threads:
        thread.start()
    try:
        for version in (2, 3):
            serving.publish("model", times(version), TIMES, version)
            assert serving.loader.reconcile()["model"].healthy
            until(lambda expected=float(version): all(expected in seen for seen in factors))  # type: ignore[misc]
        onnx.save(times(7), serving.repository.version_dir("model", 3) / "model.onnx")
        assert serving.loader.reconcile()["model"].healthy
        until(lambda: all(7.0 in seen for seen in factors))
        shutil.rmtree(serving.repository.version_dir("model", 1))
        assert serving.loader.reconcile()["model"].versions == (2, 3)
    finally:
        done.set()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert failures == []


def test_triton_serves_metrics_without_summaries(serving: Serving) -> None:
    serving.load("counted", times(2), TIMES)
    serving.client.infer("counted", {"x": ROWS})

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{serving.ports.metrics}/metrics", timeout=TIMEOUT_S) as response:
            return str(response.read().decode())

    # Triton counts after it has answered.
    until(lambda: 'nv_inference_request_success{model="counted",version="1"} 1' in metrics())
    assert "summary" not in metrics()
    assert "nv_cpu_utilization" in metrics()


# The onnxruntime backend


def test_requests_of_one_batch_keep_their_rows_and_outputs(serving: Serving) -> None:
    spec = (TensorProto.FLOAT, ["n", "k"])
    nodes = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Abs", ["x"], ["size"])]
    config = """max_batch_size: 16
    input [ { name: "x" data_type: TYPE_FP32 dims: [-1] } ]
    output [ { name: "minus" data_type: TYPE_FP32 dims: [-1] }, { name: "size" data_type: TYPE_FP32 dims: [-1] } ]
    dynamic_batching { preferred_batch_size: [16] max_queue_delay_microseconds: 200000 }"""
    assert serving.load("pair", make_model(nodes, {"x": spec}, {"minus": spec, "size": spec}), config).healthy
    rng = np.random.default_rng(0)
    asked: list[tuple[Array, tuple[str, ...]]] = []
    for rows, width, outputs in [(3, 2, ()), (4, 5, ("size",)), (4, 2, ("minus",)), (5, 5, ("size", "minus"))]:
        asked.append((rng.standard_normal((rows, width)).astype(np.float32), outputs))
    calls = [serving.client.send("pair", {"x": x}, outputs=outputs) for x, outputs in asked]
    for (x, outputs), call in zip(asked, calls, strict=True):
        answered = answer(call)
        assert set(answered) == set(outputs or ("minus", "size"))
        expected = {"minus": -x, "size": np.abs(x)}
        for name, array in answered.items():
            np.testing.assert_array_equal(array, expected[name])


def test_a_bad_request_fails_alone(serving: Serving) -> None:
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    ids, found = (TensorProto.INT64, ["n", 1]), (TensorProto.FLOAT, ["n", 1])
    model = make_model([node], {"ids": ids}, {"y": found}, table=np.arange(10, dtype=np.float32))
    config = """max_batch_size: 4
    input [ { name: "ids" data_type: TYPE_INT64 dims: [1] } ]
    output [ { name: "y" data_type: TYPE_FP32 dims: [1] } ]
    dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 200000 }"""
    assert serving.load("lookup", model, config).healthy
    calls = [serving.client.send("lookup", {"ids": np.array([[i]], np.int64)}) for i in (1, 2, 99, 4)]
    for expected, call in zip((1, 2, None, 4), calls, strict=True):
        if expected is None:
            with pytest.raises(grpc.RpcError, match="out of data bounds") as caught:
                call.result()
            assert not re.search(r"/\w+/", str(caught.value.details()))
        else:
            assert answer(call)["y"] == [[expected]]


def test_text_goes_through_as_it_is(serving: Serving) -> None:
    spec = (TensorProto.STRING, ["n", "k"])
    config = """max_batch_size: 8
    input [ { name: "x" data_type: TYPE_STRING dims: [-1] } ]
    output [ { name: "y" data_type: TYPE_STRING dims: [-1] } ]"""
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": spec}, {"y": spec})
    assert serving.load("text", model, config).healthy
    words = np.array([["ebb", ""], ["Größe 潮", "b'x'"]], dtype=object)
    answered = serving.client.infer("text", {"x": words})["y"]
    assert [word.decode() for word in answered.ravel()] == list(words.ravel())
    bad = np.array([[b"\xff\xfe"]], dtype=object)
    assert "input 'x': a BYTES element isn't UTF-8" in serving.client.refusal("text", {"x": bad})


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("FP16", np.float16), ("FP64", np.float64), ("INT8", np.int8), ("UINT8", np.uint8), ("BOOL", np.bool_)],
)
def test_datatypes_go_through_as_they_are(serving: Serving, kind: str, dtype: type[np.generic]) -> None:
    spec = (helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["n", 3])
    config = f"""max_batch_size: 8
    input [ {{ name: "x" data_type: TYPE_{kind} dims: [3] }} ]
    output [ {{ name: "y" data_type: TYPE_{kind} dims: [3] }} ]"""
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": spec}, {"y": spec})
    assert serving.load("same", model, config).healthy
    x = np.array([[0, 1, 2], [3, 0, 5]]).astype(dtype)
    np.testing.assert_array_equal(serving.client.infer("same", {"x": x})["y"], x)


def test_scalars_and_empty_axes(serving: Serving) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])]
    matrix, scalar = (TensorProto.FLOAT, ["n", "k"]), (TensorProto.FLOAT, ["n"])
    config = """max_batch_size: 8
    input [ { name: "x" data_type: TYPE_FP32 dims: [-1] },
            { name: "s" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } } ]
    output [ { name: "y" data_type: TYPE_FP32 dims: [-1] },
             { name: "t" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } } ]"""
    assert serving.load(
        "edge", make_model(nodes, {"x": matrix, "s": scalar}, {"y": matrix, "t": scalar}), config
    ).healthy
    s = np.array([[1], [2]], np.float32)
    for width in (3, 0):
        x = np.ones((2, width), np.float32)
        answered = serving.client.infer("edge", {"x": x, "s": s})
        assert answered["y"].shape == (2, width)
        np.testing.assert_array_equal(answered["t"], s)


def test_a_model_without_batch_axis_is_served(serving: Serving) -> None:
    spec = (TensorProto.FLOAT, [2, 2])
    config = """max_batch_size: 0
    input [ { name: "x" data_type: TYPE_FP32 dims: [2, 2] } ]
    output [ { name: "y" data_type: TYPE_FP32 dims: [2, 2] } ]"""
    model = make_model([helper.make_node("Transpose", ["x"], ["y"])], {"x": spec}, {"y": spec})
    assert serving.load("fixed", model, config).healthy
    x = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(serving.client.infer("fixed", {"x": x})["y"], x.T)


def parameter(key: str, value: str) -> tuple[str, str]:
    return "version_policy", f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }} version_policy'


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("dims: [4]", "dims: [5]"), r"input 'x': config.pbtxt says \[5\] a sample, the model has \[4\]"),
        (("TYPE_FP32", "TYPE_FP16"), r"input 'x': config.pbtxt says TYPE_FP16, the model has tensor\(float\)"),
        (('"y"', '"z"'), r"config.pbtxt names the outputs \['z'\]; the model has \['y'\]"),
        (("size: 8", "size: 0"), r"input 'x': config.pbtxt says \[4\] a sample, the model has \['n', 4\]"),
        (parameter("intra_op_thread_count", "x"), "intra_op_thread_count: expected a non-negative integer, got 'x'"),
        (parameter("graph_optimization_level", "5"), "graph_optimization_level: expected one of -1, 1, 2, 99, got '5'"),
    ],
)
def test_a_config_that_isnt_the_graphs_is_named(serving: Serving, change: tuple[str, str], reason: str) -> None:
    state = serving.load("model", times(2), TIMES.replace(*change))
    assert state.versions == ()
    assert re.fullmatch(reason + ".*", state.problems[1])


def test_a_fixed_first_axis_cant_be_batched(serving: Serving) -> None:
    spec = (TensorProto.FLOAT, [1, 4])
    model = make_model([helper.make_node("Neg", ["x"], ["y"])], {"x": spec}, {"y": spec})
    assert serving.load("model", model, TIMES).problems[1] == (
        "input 'x': max_batch_size needs a dynamic first axis, the model has shape [1, 4]: export it so, or set 0"
    )


def test_a_missing_model_file_is_named(serving: Serving) -> None:
    serving.publish("model", times(2), TIMES)
    (serving.repository.version_dir("model", 1) / "model.onnx").unlink()
    assert serving.loader.reconcile()["model"].problems[1] == (
        "model/1/model.onnx doesn't exist: the version's folder must hold the ONNX file"
    )


# Triton's own life


def test_a_second_triton_on_the_same_ports_is_one_clear_sentence(
    serving: Serving, runtime: Runtime, tmp_path: Path
) -> None:
    settings = LaunchSettings(repository=tmp_path, state_dir=tmp_path, ports=serving.ports)
    with pytest.raises(PortInUse, match=f"Triton can't listen on 127.0.0.1:{serving.ports.http} "):
        Launcher(runtime, settings).start()
    assert serving.launcher.pid is not None


def test_a_killed_triton_comes_back_with_its_models(
    runtime: Runtime, tiny_repository: Repository, tmp_path: Path
) -> None:
    broken = tiny_repository.version_dir("broken", 1)
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"garbage")
    (broken.parent / "config.pbtxt").write_text(f'name: "broken" backend: "onnxruntime"\n{TIMES}')
    ports, stop = free_ports(), threading.Event()
    settings = LaunchSettings(
        repository=tiny_repository.root, state_dir=tmp_path / "state", ports=ports, stop_timeout_s=1.0
    )
    launcher = Launcher(runtime, settings)
    client = Client(f"127.0.0.1:{ports.grpc}")
    image = {"image": np.full((1, 8, 8, 1), 255, np.uint8)}

    def answers() -> bool:
        try:
            return int(client.infer("tiny", image)["logits"].argmax()) == 2
        except grpc.RpcError:
            return False

    def kill_stub() -> None:
        """Its model's process alone, as the kernel does when memory runs out."""
        threads = Path(f"/proc/{launcher.pid}/task").glob("*/children")
        stubs = [pid for children in threads for pid in children.read_text().split()]
        os.kill(int(stubs[0]), signal.SIGKILL)

    with Control(f"127.0.0.1:{ports.grpc}", stop=stop) as control:
        loader = Loader(tiny_repository, control)
        supervisor = Supervisor(loader, launcher, stop=stop, settings=SupervisorSettings(interval_s=0.1))
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            until(answers)
            first = launcher.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            until(lambda: launcher.pid not in (None, first))
            until(answers)
            until(lambda: 1 in loader.states.get("broken", ModelState()).problems)
            second = launcher.pid
            kill_stub()
            until(lambda: not answers())
            until(answers)
            assert launcher.pid == second
        finally:
            stop.set()
            thread.join(TIMEOUT_S)
            client.close()
    assert not thread.is_alive()
    assert launcher.pid is None
    assert not list(Path("/dev/shm").glob(f"tidegate_{os.getpid()}_{ports.grpc}_*"))


def test_a_triton_that_hangs_is_started_again(runtime: Runtime, tiny_repository: Repository, tmp_path: Path) -> None:
    ports, stop = free_ports(), threading.Event()
    settings = LaunchSettings(
        repository=tiny_repository.root, state_dir=tmp_path / "state", ports=ports, stop_timeout_s=0.5
    )
    launcher = Launcher(runtime, settings)
    with Control(f"127.0.0.1:{ports.grpc}", timeout_s=0.3, stop=stop) as control:
        loader = Loader(tiny_repository, control)
        rhythm = SupervisorSettings(interval_s=0.1, hang_timeout_s=0.5)
        thread = threading.Thread(target=Supervisor(loader, launcher, stop=stop, settings=rhythm).run)
        thread.start()
        try:
            until(lambda: loader.states.get("tiny", ModelState(problem="not yet")).healthy)
            first = launcher.pid
            assert first is not None
            os.kill(first, signal.SIGSTOP)
            until(lambda: launcher.pid not in (None, first))
            until(lambda: loader.states.get("tiny", ModelState(problem="not yet")).healthy)
        finally:
            stop.set()
            thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def test_a_triton_run_by_someone_else_is_kept_in_step(serving: Serving) -> None:
    serving.publish("model", times(5), TIMES)
    command = [sys.executable, "-m", "serving", "--repository", str(serving.repository.root), "--interval", "0.1"]
    command += ["--address", f"127.0.0.1:{serving.ports.grpc}"]

    def served(factor: float) -> bool:
        try:
            return float(serving.client.infer("model", {"x": ROWS})["y"][0, 1]) == factor
        except grpc.RpcError:
            return False

    with subprocess.Popen(command, cwd=HERE, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: served(5))
            serving.publish("model", times(6), TIMES, version=2)
            until(lambda: served(6))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=TIMEOUT_S)
            finally:
                process.kill()
    assert process.returncode == 0
    assert served(6)  # it went, Triton stayed


def test_the_command_serves_until_it_is_told_to_stop(tiny_repository: Repository, tmp_path: Path) -> None:
    ports = free_ports()
    command = [sys.executable, "-m", "serving", "--repository", str(tiny_repository.root), "--venv", str(VENV)]
    command += ["--state-dir", str(tmp_path / "state"), "--interval", "0.1", "--stop-timeout", "1"]
    command += ["--http-port", str(ports.http), "--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)]
    client = Client(f"127.0.0.1:{ports.grpc}")
    image = {"image": np.zeros((1, 8, 8, 1), np.uint8)}

    def answers() -> bool:
        try:
            return int(client.infer("tiny", image)["logits"].argmax()) == 0
        except grpc.RpcError:
            return False

    with subprocess.Popen(command, cwd=HERE, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(answers)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                _, log = process.communicate(timeout=TIMEOUT_S)
            finally:
                process.kill()
                client.close()
    assert process.returncode == 0
    assert "Triton is ready after" in log
    assert "model tiny serves version 1" in log
    assert log.rstrip().endswith("stopped")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", ports.http))
