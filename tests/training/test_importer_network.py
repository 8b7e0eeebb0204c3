"""A torch network that somebody else wrote, by its factory and its weights; and the command that imports one."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from contract import Repository
from contract.error import ContractError
from contract.golden import Golden
from contract.schema import AxisRange
from tidegate.error import CommandError
from tidegate.importing import import_model
from training.importer import ImportRefused, Wish
from training.importer.network import derive_network, make

SOURCE = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids, mask):
        x = self.embedding(ids) * mask.unsqueeze(-1)
        mean = x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return {"scores": self.head(mean), "states": x}

def make():
    torch.manual_seed(0)
    return Encoder()

def number():
    return 7
"""


@pytest.fixture(autouse=True)
def somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module in the working folder, as a user has it."""
    (tmp_path / "somebodys.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("somebodys", None)


def save_samples(*lengths: int) -> tuple[Path, ...]:
    rng = np.random.default_rng(0)
    files = []
    for length in lengths:
        files.append(Path(f"{length}.npz"))
        mask = np.ones((6, length), np.float32)
        np.savez(files[-1], allow_pickle=False, ids=rng.integers(0, 50, (6, length)), mask=mask)
    return tuple(files)


def save_weights() -> Path:
    network = make("somebodys:make", None)
    doubled = {name: tensor * 2 for name, tensor in network.state_dict().items()}
    save_file(doubled, "weights.safetensors")
    return Path("weights.safetensors")


def test_a_network_becomes_a_graph_that_answers_the_same(tmp_path: Path) -> None:
    samples, weights = save_samples(4, 7, 12), save_weights()
    derived, origin = derive_network("somebodys:make", weights, Wish(name="mine", samples=samples), tmp_path / "work")
    assert derived.opened.batched
    length = AxisRange(min=4, opt=7, max=12)
    assert [(spec.shape, spec.ranges) for spec in derived.inputs] == [((-1,), (length,))] * 2
    assert {spec.name: spec.shape for spec in derived.outputs} == {"scores": (3,), "states": (-1, 8)}
    assert origin.source == "somebodys:make with weights.safetensors"
    assert origin.flops_per_sample > 0
    arrays = np.load(samples[0])
    with torch.inference_mode():
        expected = make("somebodys:make", weights)(*(torch.from_numpy(arrays[name]) for name in ("ids", "mask")))
    got = derived.answered[0].outputs
    np.testing.assert_allclose(got["scores"], expected["scores"].numpy(), atol=1e-5)
    np.testing.assert_allclose(got["states"], expected["states"].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("source", "weights", "said"),
    [
        ("nowhere:make", None, "expected a function at nowhere:make"),
        ("somebodys:nothing", None, "expected a function at somebodys:nothing"),
        ("somebodys:number", None, "made a int"),
        ("somebodys:make", b"\x80\x02.", "is a pickle.*safetensors"),
        ("somebodys:make", b"nothing of the kind", "no safetensors file"),
        ("somebodys:make", {"head.weight": torch.zeros(3, 8)}, "aren't this network's"),
        ("somebodys:make", "missing", "missing is no file"),
    ],
)
def test_a_factory_or_weights_that_do_not_do_are_refused(source: str, weights: Any, said: str) -> None:
    path = None if weights is None else Path("weights")
    if isinstance(weights, bytes):
        Path("weights").write_bytes(weights)
    elif isinstance(weights, dict):
        save_file(weights, "weights")
    elif weights is not None:
        path = Path(weights)
    with pytest.raises(ImportRefused, match=said):
        make(source, path)


def test_samples_must_be_the_networks_arguments(tmp_path: Path) -> None:
    np.savez("wrong.npz", allow_pickle=False, ids=np.zeros((2, 3), np.int64))
    for samples, said in (((), "at least one real input"), ((Path("wrong.npz"),), r"arrays \['ids', 'mask'\]")):
        with pytest.raises(ImportRefused, match=said):
            derive_network("somebodys:make", None, Wish(name="mine", samples=samples), tmp_path / "work")


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(import_model)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_publishes_what_it_derived(tmp_path: Path) -> None:
    save_samples(5)
    Path("labels.txt").write_text("ebb\nslack\nflood\n")
    options = ["--name=mine", "--sample=5.npz", "--labels=labels.txt", "--output=scores", "--axis=ids.1=2:5:9"]
    options += ["--axis=mask.1=2:5:9", "--batch=1:4:16", "--latency-ms=20", "--repository=models", "--json"]
    said = run("somebodys:make", *options)
    assert said.exit_code == 0, said.output
    document = json.loads(said.stdout)
    assert (document["version"], document["postprocess"], document["batch"]["max"]) == (1, "classification", 16)
    assert "against 6 samples" in said.stderr
    repository = Repository(tmp_path / "models")
    contract = repository.contract("mine", 1, verified=True)
    assert contract.inputs[0].ranges == (AxisRange(min=2, opt=5, max=9),)
    assert contract.slo.latency_threshold_ms == 20
    assert contract.provenance.config["imported_from"] == "somebodys:make"
    assert len(Golden.load(repository.version_dir("mine", 1)).inputs["ids"]) == 6
    assert run("somebodys:make", *options, "--no-publish").exit_code == 0
    assert repository.versions("mine") == [1]


@pytest.mark.parametrize(
    "option", ["--image=big", "--axis=ids", "--axis=ids=5:2:1", "--batch=0", "--mean=a,b", "--labels=bytes"]
)
def test_options_that_say_nothing_are_refused_with_what_was_expected(option: str) -> None:
    Path("bytes").write_bytes(b"\xff\xfe\xfa")
    said = run("model.onnx", "--name=mine", "--image=8x8", option)
    assert isinstance(said.exception, CommandError)
    assert "expected" in str(said.exception)


def test_nothing_is_left_of_an_import_that_was_refused(tmp_path: Path) -> None:
    Path("model.onnx").write_text("no model")
    said = run("model.onnx", "--name=mine", "--repository=models")
    assert isinstance(said.exception, ImportRefused)
    assert not isinstance(said.exception, ContractError)
    assert not (tmp_path / "models").exists()
