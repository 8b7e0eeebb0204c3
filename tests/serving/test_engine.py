from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from contract import Passport, Repository
from contract.digest import sha256_of
from contract.schema import AxisRange, TensorSpec
from serving import builder as builders
from serving.engine import available, build, cache_key, local_node, profile_of
from serving.error import EngineBuildFailed, EngineUnavailable
from serving.gpu import find_gpu

BATCH = AxisRange(min=1, opt=4, max=8)
SEQUENCE = TensorSpec(name="tokens", datatype="FP32", shape=(-1, 4), ranges=(AxisRange(min=1, opt=16, max=64),))

needs_rtx = pytest.mark.skipif(builders._import("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 isn't installed")
needs_no_gpu = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU: TensorRT is chosen instead")
needs_gpu = pytest.mark.skipif(
    find_gpu() is None or builders._import("tensorrt") is None, reason="no NVIDIA GPU with the package tensorrt here"
)


def write_model(path: Path, dtype: int = TensorProto.FLOAT, operator: str = "Relu") -> Path:
    """`tokens` `[N, length, 4]` to `scores` `[N, length, 2]`."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weight = numpy_helper.from_array(np.linspace(-1, 1, 8).reshape(4, 2).astype(kind), "weight")
    nodes = [helper.make_node("MatMul", ["tokens", "weight"], ["product"], name="product")]
    nodes.append(helper.make_node(operator, ["product"], ["scores"], name="last", domain=""))
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


KEY = st.fixed_dictionaries(
    {
        "onnx_sha256": st.sampled_from(["a" * 64, "b" * 64]),
        "builder": st.sampled_from(["tensorrt", "tensorrt-rtx"]),
        "builder_version": st.sampled_from(["10.9", "11.4"]),
        "compute_capabilities": st.sampled_from([("8.6",), ("8.9",), ("8.6", "8.9")]),
        "profile": st.sampled_from([1, 2]).map(
            lambda batch_min: profile_of([SEQUENCE], AxisRange(min=batch_min, opt=4, max=8))
        ),
        "precision": st.sampled_from(["FP32", "FP16"]),
    }
)


@given(one=KEY, other=KEY)
def test_the_cache_key_is_the_same_exactly_for_the_same_build(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (cache_key(**one) == cache_key(**other)) == (one == other)


def test_the_cache_key_doesnt_depend_on_order() -> None:
    other = TensorSpec(name="mask", datatype="FP32", shape=(4,))
    facts = {"onnx_sha256": "a" * 64, "builder": "tensorrt-rtx", "builder_version": "1.7", "precision": "FP32"}
    one = cache_key(**facts, compute_capabilities=["8.6", "8.9"], profile=profile_of([SEQUENCE, other], BATCH))
    two = cache_key(**facts, compute_capabilities=["8.9", "8.6"], profile=profile_of([other, SEQUENCE], BATCH))
    assert one == two


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("batch", [1, 4, 8])
def test_a_tensorrt_engine_answers_as_onnx_runtime_does(tmp_path: Path, batch: int) -> None:
    """FP32: the largest error over all outputs is at most 1e-4, at the profile's edges and its optimum."""
    import onnxruntime
    import tensorrt
    import torch

    model = write_model(tmp_path / "model.onnx")
    passport = build(model, [SEQUENCE], BATCH, timing_cache=tmp_path / "timing.cache")
    assert passport.engine == "model.plan"
    assert passport.triton_loadable
    assert Passport.load(tmp_path).misfit(*(local_node() or ("", "", ""))) is None
    assert (tmp_path / "timing.cache").stat().st_size > 0

    x = np.random.default_rng(0).standard_normal((batch, 16, 4)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(str(model)).run(None, {"tokens": x})
    logger = builders.logger_of(tensorrt)
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine((tmp_path / "model.plan").read_bytes())
    context = engine.create_execution_context()
    inputs, outputs = torch.from_numpy(x).cuda(), torch.empty(expected.shape, device="cuda")
    context.set_input_shape("tokens", x.shape)
    context.set_tensor_address("tokens", inputs.data_ptr())
    context.set_tensor_address("scores", outputs.data_ptr())
    stream = torch.cuda.current_stream()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    assert np.abs(outputs.cpu().numpy() - expected).max() <= 1e-4
