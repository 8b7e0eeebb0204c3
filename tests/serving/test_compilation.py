import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contract import Passport, Repository
from contract.digest import sha256_of
from contract.golden import Golden
from contract.origin import ORIGIN_KEY
from contract.schema import AxisRange, TensorPostprocess, TensorSpec
from serving import builder as builders
from serving.builder import available, local_node
from serving.compilation import build, profile_of
from serving.error import EngineBuildFailed, EngineRefused, EngineUnavailable
from serving.gpu import find_gpu
from serving.measurement import measure

BATCH = AxisRange(min=1, opt=4, max=8)
SEQUENCE = TensorSpec(name="tokens", datatype="FP32", shape=(-1, 4), ranges=(AxisRange(min=1, opt=16, max=64),))

needs_rtx = pytest.mark.skipif(builders._import("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 isn't installed")
needs_no_gpu = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU: TensorRT is chosen instead")
needs_gpu = pytest.mark.skipif(
    find_gpu() is None or builders._import("tensorrt") is None, reason="no NVIDIA GPU with the package tensorrt here"
)


def write_model(path: Path, dtype: int = TensorProto.FLOAT, operator: str = "Relu", origin: str = "") -> Path:
    """`tokens` `[N, length, 4]` to `scores` `[N, length, 2]`; `origin` is the last node's."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weight = numpy_helper.from_array(np.linspace(-1, 1, 8).reshape(4, 2).astype(kind), "weight")
    nodes = [helper.make_node("MatMul", ["tokens", "weight"], ["product"], name="product")]
    nodes.append(helper.make_node(operator, ["product"], ["scores"], name="last", domain=""))
    helper.set_metadata_props(nodes[-1], {ORIGIN_KEY: origin} if origin else {})
    graph = helper.make_graph(
        nodes,
        "sequence",
        [helper.make_tensor_value_info("tokens", dtype, ["batch", "length", 4])],
        [helper.make_tensor_value_info("scores", dtype, ["batch", "length", 2])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@needs_rtx
@needs_no_gpu
def test_an_engine_and_its_passport_are_built_without_a_gpu(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx")
    seen: list[tuple[str, float]] = []
    passport = build(model, [SEQUENCE], BATCH, progress=lambda phase, share: seen.append((phase, share)))
    assert passport == Passport.load(tmp_path)
    assert passport.engine == "model.rtx"
    assert passport.builder == "tensorrt-rtx"
    assert not passport.triton_loadable
    assert passport.onnx_sha256 == sha256_of(model)
    assert passport.compute_capabilities == ("8.0", "8.6", "8.9", "12.0")
    assert passport.precision == "FP32"
    assert passport.profile == profile_of([SEQUENCE], BATCH)
    assert passport.max_error is None
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.rtx", "passport.json"}
    assert seen[0][1] == 0
    assert all(0 <= share <= 1 for _, share in seen)
    assert seen[-1] == (seen[0][0], 1.0)


@needs_rtx
@needs_no_gpu
def test_an_image_model_with_bytes_in_is_built(tiny_repository: Repository) -> None:
    contract = tiny_repository.latest("tiny")
    folder = tiny_repository.version_dir("tiny", 1)
    passport = build(folder / "model.onnx", contract.inputs, contract.batch, compute_capabilities=["8.9"])
    assert passport.compute_capabilities == ("8.9",)
    assert [axis.max for axis in passport.profile[0].axes] == [8, 8, 8, 1]


@needs_rtx
@needs_no_gpu
def test_precision_is_read_from_the_graph(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", TensorProto.FLOAT16)
    passport = build(model, [SEQUENCE.model_copy(update={"datatype": "FP16"})], BATCH, compute_capabilities=["7.5"])
    assert passport.precision == "FP16"


@needs_rtx
@needs_no_gpu
def test_the_builders_reason_is_shown(tmp_path: Path) -> None:
    """Turing has no FP32 matrix product in TensorRT-RTX; nothing is left behind."""
    model = write_model(tmp_path / "model.onnx")
    with pytest.raises(EngineBuildFailed, match=r"^TensorRT-RTX [\d.]+ refuses model.onnx: .*FP32 GEMM is"):
        build(model, [SEQUENCE], BATCH, compute_capabilities=["7.5"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@needs_rtx
@needs_no_gpu
def test_every_parser_error_names_its_node(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", operator="NoSuchOperator")
    with pytest.raises(EngineBuildFailed, match=r"can't read model.onnx: .*last.* \(NoSuchOperator\): "):
        build(model, [SEQUENCE], BATCH)


@needs_rtx
@needs_no_gpu
def test_a_parser_error_names_the_module_and_the_line_that_made_its_node(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", operator="NoSuchOperator", origin="head (mine.py:7)")
    with pytest.raises(EngineBuildFailed, match=r"last \(NoSuchOperator, from head \(mine\.py:7\)\): ") as caught:
        build(model, [SEQUENCE], BATCH)
    assert "\n" not in str(caught.value)


@needs_rtx
@needs_no_gpu
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """The kernel refuses to write files beyond a limit that the engine exceeds: as a full disk does, half-way."""
    model = write_model(tmp_path / "model.onnx")
    build(model, [SEQUENCE], BATCH, compute_capabilities=["8.9"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    script = (
        "import resource, signal, sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from contract.schema import AxisRange, TensorPostprocess, TensorSpec; from serving.compilation import build\n"
        "spec = TensorSpec(name='tokens', datatype='FP32', shape=(-1, 4), ranges=(AxisRange(min=1, opt=16, max=64),))\n"
        "def fill(*_): resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "build(Path(sys.argv[1]), [spec], AxisRange(min=1, opt=4, max=8), progress=fill)\n"
    )
    command = [sys.executable, "-c", script, str(model), str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "EngineBuildFailed" in done.stderr
    assert "the disk is full: free some space and try again" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@needs_rtx
@needs_no_gpu
def test_a_graph_without_a_batch_axis_is_built(tmp_path: Path) -> None:
    """Here the model's first axis is one of the sample: nothing is put in front of it."""
    whole = TensorSpec(name="tokens", datatype="FP32", shape=(-1, -1, 4), ranges=(BATCH, *SEQUENCE.ranges))
    passport = build(write_model(tmp_path / "model.onnx"), [whole], None, compute_capabilities=["8.9"])
    assert [axis.max for axis in passport.profile[0].axes] == [8, 64, 4]


@needs_rtx
@needs_no_gpu
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(EngineBuildFailed, match=r"can't read model.onnx: .*[Ff]ailed to parse"):
        build(tmp_path / "model.onnx", [SEQUENCE], BATCH)
    with pytest.raises(EngineBuildFailed, match=r"none.onnx doesn't exist"):
        build(tmp_path / "none.onnx", [SEQUENCE], BATCH)


@needs_rtx
@needs_no_gpu
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "other"}, r"the contract has the inputs \['other'\], the ONNX model \['tokens'\]"),
        ({"shape": (-1, 5)}, r"input 'tokens': the contract says \[-1, -1, 5\], the ONNX model \[-1, -1, 4\]"),
        ({"shape": (-1,)}, r"input 'tokens': the contract says \[-1, -1\], the ONNX model \[-1, -1, 4\]"),
    ],
)
def test_a_graph_that_isnt_the_contracts_is_refused(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    model = write_model(tmp_path / "model.onnx")
    with pytest.raises(EngineBuildFailed, match=message):
        build(model, [SEQUENCE.model_copy(update=spec)], BATCH)


@needs_rtx
@needs_no_gpu
def test_what_progress_raises_stops_the_build(tmp_path: Path) -> None:
    def interrupt(phase: str, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(write_model(tmp_path / "model.onnx"), [SEQUENCE], BATCH, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@needs_rtx
@needs_no_gpu
def test_a_target_that_rtx_doesnt_know_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match=r"doesn't build for 9.0, only for SM120"):
        builders.find_builder(["9.0"])


@needs_no_gpu
def test_without_any_builder_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    message = "no engine builder: no GPU was found, and the package tensorrt-rtx-cu13 isn't installed"
    assert available() == message
    with pytest.raises(EngineUnavailable, match=message):
        build(tmp_path / "model.onnx", [SEQUENCE], BATCH)
    assert local_node() is None


@needs_rtx
@needs_no_gpu
def test_available_says_what_the_engines_are_not_for() -> None:
    assert available().endswith("ahead of time for 8.0, 8.6, 8.9, 12.0; Triton can't load its engines")


@needs_rtx
@needs_no_gpu
def test_an_engine_that_runs_nowhere_here_is_not_measured(tmp_path: Path) -> None:
    build(write_model(tmp_path / "model.onnx"), [SEQUENCE], BATCH, compute_capabilities=["8.9"])
    with pytest.raises(EngineUnavailable, match="runs nowhere here: nothing was measured"):
        measure(builders.find_builder(), tmp_path, Golden({}, {}), BATCH, TensorPostprocess())


@needs_rtx
def test_what_measuring_calls_is_there() -> None:
    """It runs on a GPU only; that the two libraries have the calls can be seen anywhere."""
    module, cuda = builders._import("tensorrt_rtx"), pytest.importorskip("cuda.bindings.runtime")
    for kind, names in {
        "Runtime": ("deserialize_cuda_engine",),
        "ICudaEngine": ("create_execution_context", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype"),
        "IExecutionContext": ("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"),
    }.items():
        assert all(hasattr(getattr(module, kind), name) for name in names)
    assert module is not None
    assert module.nptype(module.DataType.HALF) == np.float16
    calls = ("cudaMalloc", "cudaFree", "cudaMemcpy", "cudaStreamCreate", "cudaStreamSynchronize", "cudaStreamDestroy")
    assert all(callable(getattr(cuda, name)) for name in calls)
    assert cuda.cudaMemcpyKind.cudaMemcpyHostToDevice != cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(TensorProto.FLOAT, 1e-4), (TensorProto.FLOAT16, 5e-3)])
def test_a_tensorrt_engine_answers_as_its_graph_does(tmp_path: Path, dtype: int, tolerance: float) -> None:
    """Over all golden samples, at the profile's edges and its optimum; the passport says so."""
    import onnxruntime

    model = write_model(tmp_path / "model.onnx", dtype)
    spec = SEQUENCE.model_copy(update={"datatype": "FP32" if dtype == TensorProto.FLOAT else "FP16"})
    built = build(model, [spec], BATCH, timing_cache=tmp_path / "timing.cache")
    assert (built.engine, built.triton_loadable) == ("model.plan", True)
    assert (tmp_path / "timing.cache").stat().st_size > 0
    assert built.misfit(*(local_node() or ("", "", ""))) is None
    assert "was never run beside its graph" in (built.doubt() or "")

    x = np.random.default_rng(0).standard_normal((11, 16, 4)).astype(helper.tensor_dtype_to_np_dtype(dtype))
    (scores,) = onnxruntime.InferenceSession(str(model)).run(None, {"tokens": x})
    golden = Golden({"tokens": x}, {"scores": scores})
    measured = measure(builders.find_builder(), tmp_path, golden, BATCH, TensorPostprocess())
    assert measured == Passport.load(tmp_path)
    assert measured.max_error is not None
    assert measured.max_error <= tolerance
    assert measured.doubt() is None

    with pytest.raises(EngineRefused, match="expected shape"):
        measure(
            builders.find_builder(),
            tmp_path,
            Golden({"tokens": x}, {"scores": scores[:, 1:]}),
            BATCH,
            TensorPostprocess(),
        )
    plan = tmp_path / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    with pytest.raises(EngineRefused, match=r"isn't loaded: .* is not the engine its passport was written for"):
        measure(builders.find_builder(), tmp_path, golden, BATCH, TensorPostprocess())
