import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from contract import Contract, Passport, Repository
from contract.digest import artifact
from contract.golden import Golden
from contract.passport import InputProfile
from contract.schema import ClassificationPostprocess, TensorPreprocess, TensorSpec
from contract.triton import model_config
from serving.compilation import build
from serving.gpu import find_gpu
from training import material
from training.error import DataInvalid, GateFailed, ParityFailed, PublishFailed, RecipeNotFound
from training.parity import Graph
from training.variant import Compile, Lowering, parent_of, publish_variant

MakeVersion = Callable[..., Contract]
INT8, FP16, FP32 = (
    Lowering(precision="INT8", target="cpu"),
    Lowering(precision="FP16", target="tensorrt"),
    Lowering(precision="FP32", target="tensorrt"),
)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Pictures of every brightness for `tiny`, and the right label of each."""
    rng = np.random.default_rng(3)
    images = (rng.uniform(0, 200, (200, 1, 1, 1)) + rng.uniform(0, 55, (200, 8, 8, 1))).astype(np.uint8)
    mean = images.mean(axis=(1, 2, 3)) / 255
    target = np.argmax(np.stack([2 - 4 * mean, np.ones(200), 4 * mean - 2]), axis=0)
    np.savez(tmp_path / "samples.npz", image=images, target=target)
    return tmp_path / "samples.npz"


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def publish(tiny_repository: Repository, samples: Path, console: Console) -> Callable[..., Contract]:
    def run(lowering: Lowering, compile_: Compile | None = None, file: Path = samples) -> Contract:
        parent = parent_of(tiny_repository, "tiny", None)
        chosen = material.of_file(parent, file)
        return publish_variant(tiny_repository, parent, chosen, lowering, compile=compile_, console=console)

    return run


def test_an_int8_version_is_published_beside_the_one_it_was_made_from(
    tiny_repository: Repository, publish: Callable[..., Contract], console: Console
) -> None:
    before = tiny_repository.contract("tiny", 1)
    contract = publish(INT8)
    assert contract == tiny_repository.contract("tiny", 2, verified=True)
    assert contract.provenance.config["variant"] == {
        "of": 1, "precision": "INT8", "target": "cpu", "judged_on": "samples.npz"
    }  # fmt: skip
    assert (contract.inputs, contract.outputs, contract.batch) == (before.inputs, before.outputs, before.batch)
    assert "versions: [1, 2]" in (tiny_repository.root / "tiny/config.pbtxt").read_text()
    folder = tiny_repository.version_dir("tiny", 2)
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(folder / "model.onnx").graph.node)
    golden = Golden.load(folder)
    assert golden.inputs.keys() == Golden.load(tiny_repository.version_dir("tiny", 1)).inputs.keys()
    own = Graph(folder / "model.onnx", contract.outputs).run(golden.inputs)
    np.testing.assert_array_equal(golden.outputs["logits"], own["logits"])
    assert contract.evaluation.metrics[0].num_samples == 100
    assert contract.evaluation.metrics[0].value >= 0.98
    assert json.loads((folder / "report.json").read_bytes())["parity"]["num_samples"] == 100
    assert "calibrated on 100 samples of samples.npz" in said(console)


def test_a_lowered_version_is_no_parent(tiny_repository: Repository, publish: Callable[..., Contract]) -> None:
    publish(INT8)
    assert parent_of(tiny_repository, "tiny", None).version == 1
    with pytest.raises(PublishFailed, match="tiny version 2 was lowered already: name the version it was made from"):
        parent_of(tiny_repository, "tiny", 2)


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU: TensorRT is chosen instead")
@pytest.mark.parametrize("lowering", [FP32, FP16, Lowering(precision="INT8", target="tensorrt")])
def test_an_engine_of_each_precision_is_published(publish: Callable[..., Contract], lowering: Lowering,
                                                  tiny_repository: Repository) -> None:  # fmt: skip
    pytest.importorskip("tensorrt_rtx")

    def compile_(folder: Path, contract: Contract) -> Passport:
        return build(folder / "model.onnx", contract.inputs, contract.batch_axis, compute_capabilities=["8.9"])

    contract = publish(lowering, compile_)
    passport = Passport.load(tiny_repository.version_dir("tiny", 2))
    assert passport.precision == lowering.precision
    assert contract.artifact("passport") is not None


def plan(max_error: float | None) -> Compile:
    """A TensorRT that isn't here: a plan, and what running it beside its graph came to."""

    def compile_(folder: Path, contract: Contract) -> Passport:
        (folder / "model.plan").write_bytes(b"plan")
        passport: dict[str, Any] = {
            "engine": "model.plan",
            "engine_sha256": artifact(folder, "model.plan", "engine").sha256,
            "engine_size_bytes": 4,
            "onnx_sha256": artifact(folder, "model.onnx", "model").sha256,
            "builder": "tensorrt",
            "builder_version": "11.4.0",
            "compute_capabilities": ("8.9",),
            "profile": (InputProfile(name="image", axes=(contract.batch,)),),
            "max_error": max_error,
            "created_at": "2026-01-01T00:00:00+00:00",
            "build_time_s": 1,
        }
        made = Passport(**passport)
        made.save(folder)
        return made

    return compile_


def test_an_engine_is_served_when_it_was_held_against_its_graph_only(
    publish: Callable[..., Contract], tiny_repository: Repository, console: Console
) -> None:
    publish(FP32, plan(2e-6))
    config = tiny_repository.root / "tiny/config.pbtxt"
    assert 'platform: "tensorrt_plan"' in config.read_text()
    unmeasured = publish(FP32, plan(None))
    assert unmeasured.artifact("engine") is None
    assert "was never run beside its graph" in said(console)
    with pytest.raises(ParityFailed, match=r"model\.plan strays by 2\.0e-03 from its graph; FP32 may by 0\.0001"):
        publish(FP32, plan(2e-3))
    assert tiny_repository.versions("tiny") == [1, 2, 3]


def write_outlier(root: Path, make_version: MakeVersion, samples: Path) -> None:
    """Version 1 of `tiny` once more, of four numbers: the label is in three small ones, beside a huge one."""
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.standard_normal((200, 3)), np.full((200, 1), 5000.0)], axis=1).astype(np.float32)
    contract = make_version(
        root,
        version=2,
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(4,)),),
        preprocess=TensorPreprocess(),
        postprocess=ClassificationPostprocess(tensor="logits", labels=("dark", "even", "bright")),
    )
    weight = np.concatenate([np.eye(3), np.zeros((1, 3))]).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["logits"], name="product")],
        "outlier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "weight")],
    )
    folder = root / "tiny" / "2"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    Golden({"x": x[:4]}, {"logits": x[:4, :3]}).save(folder)
    files = (artifact(folder, "model.onnx", "model"), artifact(folder, "golden.npz", "golden"))
    contract = contract.model_copy(update={"artifacts": files})
    contract.save(folder)
    (root / "tiny/config.pbtxt").write_text(model_config(contract, "onnxruntime", [2]))
    np.savez(samples, x=x)


def test_int8_that_loses_the_task_is_refused(
    tiny_repository: Repository, make_version: MakeVersion, publish: Callable[..., Contract], samples: Path
) -> None:
    """In steps of 5000 / 255 the three small numbers are all zero. Without targets the labels themselves are held."""
    write_outlier(tiny_repository.root, make_version, samples)
    config = (tiny_repository.root / "tiny/config.pbtxt").read_bytes()
    with pytest.raises(ParityFailed, match=r"label_agreement is 1\.0000 for the FP32 graph and 0\.\d+ for the lowered"):
        publish(INT8)
    assert tiny_repository.versions("tiny") == [1, 2]
    assert (tiny_repository.root / "tiny/config.pbtxt").read_bytes() == config
    assert isinstance(ParityFailed(""), GateFailed)


def test_samples_that_arent_the_models_are_refused(tiny_repository: Repository, samples: Path) -> None:
    contract = tiny_repository.contract("tiny", 1)
    for arrays in ({"other": np.zeros((4, 8, 8, 1))}, {"image": np.zeros((1, 8, 8, 1), np.uint8)}):
        np.savez(samples, **arrays)
        with pytest.raises(DataInvalid, match=r"expected at least two samples each of \['image'\]"):
            material.of_file(contract, samples)


def test_a_version_without_a_recipe_says_what_to_give(tiny_repository: Repository) -> None:
    with pytest.raises(RecipeNotFound, match=r"tiny version 1 names no recipe .*: give samples with --samples"):
        material.of_recipe(tiny_repository.contract("tiny", 1), None)


@pytest.mark.parametrize(("precision", "why"), [("FP16", "computes FP16 there through FP32"), ("FP32", "already")])
def test_the_cpu_is_for_int8(precision: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Lowering(precision=precision, target="cpu")
