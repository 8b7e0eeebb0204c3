import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from contract import Passport, Repository
from contract.passport import InputProfile
from contract.schema import AxisRange
from serving.gpu import find_gpu
from tidegate.compiling import compile_version, passport, verdict
from tidegate.error import CommandError

pytestmark = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU: TensorRT is chosen instead")

app = typer.Typer(pretty_exceptions_enable=False)
app.command("compile")(compile_version)
app.command("passport")(passport)


def run(*arguments: object, code: int = 0) -> Result:
    """What lies beneath an error is the command line's to show: here it comes through."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def said(*arguments: object) -> str:
    """What is printed, whatever the terminal's width."""
    return " ".join(run(*arguments).output.split())


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    images = np.random.default_rng(3).integers(0, 256, (40, 1, 1, 1), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    np.savez(tmp_path / "samples.npz", image=images)
    return tmp_path / "samples.npz"


@pytest.fixture
def compiled(tiny_repository: Repository, samples: Path) -> Repository:
    """With a version 2, of FP16 and for two GPUs."""
    pytest.importorskip("tensorrt_rtx")
    options = ("--repository", tiny_repository.root, "--samples", samples)
    printed = said("compile", "tiny", "--precision", "fp16", "--sm", "8.9", "--sm", "12.0", *options)
    assert "model.rtx by tensorrt-rtx" in printed
    assert "for sm_89, sm_120" in printed
    return tiny_repository


def test_the_passport_says_what_the_engine_is_and_that_it_isnt_for_triton(compiled: Repository) -> None:
    printed = said("passport", "tiny", "--repository", compiled.root)
    assert "sm_89, sm_120, FP16" in printed
    assert "1..4..8, 8, 8, 1" in printed
    assert printed.endswith(
        "Triton loads no engine of tensorrt-rtx: it shows that the graph compiles for sm_89, sm_120"
    )
    document = json.loads(run("passport", "tiny", "--repository", compiled.root, "--json").stdout)
    assert document["verdict"].startswith("Triton loads no engine of tensorrt-rtx")
    with pytest.raises(CommandError, match=r"tiny version 1 has no engine: ONNX Runtime serves it; `tidegate compile"):
        run("passport", "tiny", "--version", 1, "--repository", compiled.root)


def test_json_goes_to_stdout_alone(tiny_repository: Repository, samples: Path) -> None:
    options = ("--repository", tiny_repository.root, "--samples", samples, "--json")
    document = json.loads(run("compile", "tiny", "--precision", "int8", "--target", "cpu", *options).stdout)
    assert document["version"] == 2
    assert document["metrics"][0]["name"] == "label_agreement"


def test_what_cant_be_is_said(tiny_repository: Repository, samples: Path) -> None:
    with pytest.raises(CommandError, match="expected INT8 for the CPU, got FP16"):
        run("compile", "tiny", "--precision", "fp16", "--target", "cpu", "--repository", tiny_repository.root)
    assert tiny_repository.versions("tiny") == [1]


@pytest.mark.parametrize(
    ("changes", "node", "sentence"),
    [
        ({}, ("tensorrt", "11.4.0", "8.9"), "it runs here, and answers what its graph answers"),
        (
            {},
            ("tensorrt", "10.9.0", "8.6"),
            "built for sm_89 with tensorrt 11.4.0; this node is sm_86 with tensorrt 10.9.0",
        ),
        ({"max_error": 1.0}, ("tensorrt", "11.4.0", "8.9"), "model.plan strays by 1.0e+00 from its graph; FP32 may by"),
        ({}, None, "this machine runs no engines: it has no NVIDIA GPU with TensorRT"),
    ],
)
def test_the_verdict_is_one_sentence(changes: dict[str, Any], node: tuple[str, str, str] | None, sentence: str) -> None:
    fields: dict[str, Any] = {
        "engine": "model.plan",
        "engine_sha256": "0" * 64,
        "engine_size_bytes": 6,
        "onnx_sha256": "0" * 64,
        "builder": "tensorrt",
        "builder_version": "11.4.0",
        "compute_capabilities": ("8.9",),
        "profile": (InputProfile(name="x", axes=(AxisRange(min=1, opt=2, max=3),)),),
        "max_error": 1e-6,
        "created_at": "2026-01-01T00:00:00+00:00",
        "build_time_s": 0.3,
    }
    assert verdict(Passport(**(fields | changes)), node).startswith(sentence)


@pytest.mark.parametrize("node", ["8.9", "x,11.4", "8.9,", "8.9;11.4"])
def test_a_node_that_is_none_is_refused(compiled: Repository, node: str) -> None:
    with pytest.raises(CommandError, match="expected --node as compute capability and TensorRT version"):
        run("passport", "tiny", "--node", node, "--repository", compiled.root)
