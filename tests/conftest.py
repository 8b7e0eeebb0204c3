"""A small real model with a full contract: what most tests serve instead of a mock."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from contract import Contract, Repository
from contract.digest import artifact
from contract.golden import Golden
from contract.observation import build_profile
from contract.postprocess import interpret
from contract.schema import (
    AxisRange,
    ClassificationPostprocess,
    Evaluation,
    ImagePreprocess,
    Metric,
    Provenance,
    Slo,
    TensorSpec,
)
from contract.triton import model_config

MakeVersion = Callable[..., Contract]

LABELS = ("dark", "even", "bright")
# Three scores that rise, stay and fall with the mean brightness: the right label can be told by eye.
WEIGHTS = np.repeat(np.array([[-4.0, 0.0, 4.0]], np.float32) / 64, 64, axis=0)
BIAS = np.array([2.0, 1.0, -2.0], np.float32)


def tiny_onnx() -> onnx.ModelProto:
    """`image` UINT8 `[N, 8, 8, 1]` to `logits` FP32 `[N, 3]`."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            onnx.numpy_helper.from_array(np.array(255.0, np.float32), "scale"),
            onnx.numpy_helper.from_array(WEIGHTS, "weight"),
            onnx.numpy_helper.from_array(BIAS, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def tiny_logits(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model answers, computed without ONNX."""
    return np.asarray(image.reshape(len(image), -1) / np.float32(255) @ WEIGHTS + BIAS)


def tiny_images(num: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """`UINT8` `[num, 8, 8, 1]` of every brightness."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0, 200, size=(num, 1, 1, 1))
    return np.asarray((level + rng.uniform(0, 55, size=(num, 8, 8, 1))).astype(np.uint8))


def write_version(root: Path, name: str = "tiny", version: int = 1, **changes: Any) -> Contract:
    """Write a whole version, and the model's config.pbtxt naming every version there is."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    onnx.save(tiny_onnx(), folder / "model.onnx")
    images = tiny_images(1000)
    outputs = {"logits": tiny_logits(images)}
    Golden({"image": images[:4]}, {"logits": outputs["logits"][:4]}).save(folder)
    preprocess = ImagePreprocess(tensor="image", mode="L", height=8, width=8)
    postprocess = ClassificationPostprocess(tensor="logits", labels=LABELS, top_k=2)
    fields: dict[str, Any] = {
        "name": name,
        "version": version,
        "task": "image-classification",
        "inputs": (TensorSpec(name="image", datatype="UINT8", shape=(8, 8, 1)),),
        "outputs": (TensorSpec(name="logits", datatype="FP32", shape=(3,)),),
        "batch": AxisRange(min=1, opt=4, max=8),
        "preprocess": preprocess,
        "postprocess": postprocess,
        "slo": Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
        "profile": build_profile(
            preprocess,
            postprocess,
            {"image": images},
            {"aspect": np.ones(len(images))},
            interpret(postprocess, outputs),
        ),
        "evaluation": Evaluation(
            dataset="tiny", split="test", metrics=(Metric(name="accuracy", value=1, low=0.99, high=1, num_samples=400),)
        ),
        "provenance": Provenance(
            created_at="2026-01-01T00:00:00+00:00",
            git_revision="unknown",
            libraries={"onnx": onnx.__version__},
            seed=0,
            data_sha256="0" * 64,
            config={},
            num_parameters=WEIGHTS.size + BIAS.size,
            flops_per_sample=2 * WEIGHTS.size,
            training_time_s=0,
        ),
        "artifacts": (artifact(folder, "model.onnx", "model"), artifact(folder, "golden.npz", "golden")),
    }
    contract = Contract(**(fields | changes))
    contract.save(folder)
    versions = Repository(root).versions(name)
    (root / name / "config.pbtxt").write_text(model_config(contract, "onnxruntime", versions))
    return contract


@pytest.fixture(scope="session")
def make_version() -> MakeVersion:
    """`make_version(root, name="tiny", version=1, **fields)` writes a version and returns its contract."""
    return write_version


@pytest.fixture
def tiny_repository(tmp_path: Path) -> Repository:
    """A repository with `tiny` version 1: image 8x8 to dark, even or bright."""
    root = tmp_path / "model_repository"
    root.mkdir()
    write_version(root)
    return Repository(root)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which lane built engines, and what needs a GPU and did not run."""
    from serving.builder import available

    passed, skipped = terminalreporter.getreports("passed"), terminalreporter.getreports("skipped")
    built = Counter(str(value) for report in passed for key, value in report.user_properties if key == "engine")
    terminalreporter.section("engines")
    terminalreporter.line(f"builder: {available()}")
    for lane, num in built.items():
        terminalreporter.line(f"{num} recipe engines built by {lane}")
    if num_gpu := sum("gpu" in report.keywords for report in skipped):
        terminalreporter.line(f"{num_gpu} tests need an NVIDIA GPU and were skipped")
