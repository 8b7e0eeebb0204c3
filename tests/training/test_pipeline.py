import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from contract import Passport, Repository, TensorSpec
from contract.digest import sha256_of
from contract.golden import Golden
from contract.observation import Observer
from contract.passport import InputProfile
from contract.postprocess import interpret
from contract.schema import AxisRange, Postprocess
from training.error import GateFailed, ParityFailed, RunUnfinished
from training.gate import Gate
from training.parity import Graph
from training.pipeline import publish_stage, run, train_stage
from training.provenance import git_revision


@dataclasses.dataclass(frozen=True)
class Engine:
    """Stands in for a build that needs a GPU: a file that says what it was built from, and its passport."""

    builder: str = "tensorrt"
    file: str = "model.plan"
    onnx_sha256: str | None = None
    max_error: float | None = None

    def __call__(self, onnx: Path, inputs: Sequence[TensorSpec], batch: AxisRange, _: Postprocess) -> Passport:
        assert Golden.load(onnx.parent).inputs  # what an engine is measured on is there before it is built
        content = b"engine of " + onnx.read_bytes()[:100]
        (onnx.parent / self.file).write_bytes(content)
        axes = [(batch, *spec.bounds()) for spec in inputs]
        passport = Passport.model_validate(
            {
                "engine": self.file,
                "engine_sha256": hashlib.sha256(content).hexdigest(),
                "engine_size_bytes": len(content),
                "onnx_sha256": self.onnx_sha256 or sha256_of(onnx),
                "builder": self.builder,
                "builder_version": "10.9.0",
                "compute_capabilities": ("8.6",),
                "profile": tuple(InputProfile(name=s.name, axes=a) for s, a in zip(inputs, axes, strict=True)),
                "max_error": self.max_error,
                "created_at": "2025-01-01T00:00:00+00:00",
                "build_time_s": 0.0,
            }
        )
        passport.save(onnx.parent)
        return passport


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=400)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> Path:
    """A runs folder with the tiny recipe trained to its end."""
    runs = tmp_path_factory.mktemp("runs")
    train_stage(tiny.RECIPE, runs_dir=runs, console=Console(file=io.StringIO()))
    return runs


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_publishes_a_version_that_keeps_its_promise(
    tmp_path: Path, repository: Repository, tiny: SimpleNamespace, console: Console
) -> None:
    contract = run(tiny.RECIPE, repository=repository, runs_dir=tmp_path / "runs", console=console)
    assert contract == repository.contract("bands", 1, verified=True)
    assert (contract.inputs, contract.outputs, contract.batch) == (
        tiny.RECIPE.inputs,
        tiny.RECIPE.outputs,
        tiny.RECIPE.batch,
    )
    assert [(artifact.role, artifact.path) for artifact in contract.artifacts] == [
        ("model", "model.onnx"),
        ("golden", "golden.npz"),
        ("report", "report.json"),
        ("report", "report.html"),
        ("report", "curves.png"),
    ]
    assert sum(cell.num_samples for cell in contract.profile.confidence) == len(tiny.load().validation)
    assert contract.evaluation.metric("accuracy").low >= 0.8
    assert contract.evaluation.metric("accuracy").num_samples == len(tiny.load().test)

    folder = repository.version_dir("bands", 1)
    golden = Golden.load(folder)
    np.testing.assert_allclose(
        Graph(folder / "model.onnx", contract.outputs).run_all(golden.inputs, 8)["logits"],
        golden.outputs["logits"],
        atol=1e-4,
    )
    assert len(golden.inputs["image"]) == 16
    report = json.loads((folder / "report.json").read_bytes())
    assert len(report["epochs"]) == 4
    assert report["parity"]["max_error"] < 1e-4
    assert report["comparison"] is None
    assert "this is the first version" in said(console)

    made = contract.provenance
    assert made.seed == 1
    assert made.data_sha256 == tiny.load().sha256
    assert made.config["gates"] == [{"metric": "accuracy", "at_least": 0.8, "at_most": None}]
    assert made.num_parameters == sum(p.numel() for p in tiny.network().parameters())
    # Stem, two 3x3 convolutions, the 1x1 way around, the head; a multiply and an add are two.
    assert made.flops_per_sample == 2 * (64 * 9 * 4 + 16 * 9 * (4 * 8 + 8 * 8) + 16 * 4 * 8 + 8 * 3)
    assert 'backend: "onnxruntime"' in (repository.root / "bands/config.pbtxt").read_text()
    for stage in ("data", "train", "evaluate", "export", "parity", "profile", "publish"):
        assert f"✓ {stage}" in said(console)


def test_the_profile_takes_inputs_from_training_and_outputs_from_held_out_data(
    repository: Repository, tiny: SimpleNamespace, console: Console, trained: Path
) -> None:
    contract = publish_stage(tiny.RECIPE, repository=repository, runs_dir=trained, console=console)
    dataset = tiny.load()
    samples = {feature.name: feature.num_samples for feature in contract.profile.features}
    assert samples == {
        **dict.fromkeys(("brightness", "contrast", "sharpness", "aspect"), len(dataset.train)),
        **dict.fromkeys(("prediction", "confidence", "entropy"), len(dataset.validation)),
    }
    graph = Graph(repository.version_dir("bands", 1) / "model.onnx", contract.outputs)
    outputs = graph.run_all(dataset.validation.inputs, 8)
    observer = Observer(contract)
    assigned = observer.assign(dataset.train.inputs, dataset.train.observed, None) | observer.assign(
        {**dataset.validation.inputs}, {}, interpret(contract.postprocess, outputs)
    )
    for feature in contract.profile.features:
        if feature.name in ("prediction", "aspect"):
            shares = np.bincount(assigned[feature.name], minlength=len(feature.bins)) / feature.num_samples
            np.testing.assert_allclose(shares, [cell.ratio for cell in feature.bins], atol=1e-9)


@pytest.mark.parametrize(
    ("engine", "runtime"), [(Engine(max_error=1e-5), "tensorrt"), (Engine("tensorrt-rtx", "model.rtx"), "onnxruntime")]
)
def test_an_engine_goes_with_the_version_and_is_served_where_triton_can(
    repository: Repository, tiny: SimpleNamespace, console: Console, trained: Path, engine: Engine, runtime: str
) -> None:
    contract = publish_stage(tiny.RECIPE, repository=repository, runs_dir=trained, compile=engine, console=console)
    roles = {artifact.role: artifact.path for artifact in contract.artifacts}
    assert (roles["engine"], roles["passport"]) == (engine.file, "passport.json")
    assert Passport.load(repository.version_dir("bands", 1)).builder == engine.builder
    assert repository.contract("bands", 1, verified=True) == contract
    config = (repository.root / "bands/config.pbtxt").read_text()
    assert ("tensorrt_plan" in config) == (runtime == "tensorrt")
    assert "✓ compile" in said(console)


@pytest.mark.parametrize(
    ("engine", "message"),
    [(Engine(onnx_sha256="0" * 64), "from another graph"), (Engine(max_error=0.01), "strays by")],
)
def test_an_engine_that_is_not_the_graphs_stops_it(
    repository: Repository, tiny: SimpleNamespace, console: Console, trained: Path, engine: Engine, message: str
) -> None:
    with pytest.raises(ParityFailed, match=message):
        publish_stage(tiny.RECIPE, repository=repository, runs_dir=trained, compile=engine, console=console)
    assert repository.models() == []
    assert "✗ compile" in said(console)


def test_an_engine_that_nobody_measured_is_not_served(
    repository: Repository, tiny: SimpleNamespace, console: Console, trained: Path
) -> None:
    contract = publish_stage(tiny.RECIPE, repository=repository, runs_dir=trained, compile=Engine(), console=console)
    assert contract.artifact("engine") is None
    assert not list(repository.version_dir("bands", 1).glob("*.plan"))
    assert "tensorrt_plan" not in (repository.root / "bands/config.pbtxt").read_text()
    assert "nothing measured it" in said(console)


def test_on_a_terminal_a_bar_shows_how_it_goes(tmp_path: Path, tiny: SimpleNamespace) -> None:
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    train_stage(tiny.RECIPE, runs_dir=tmp_path, console=terminal)
    drawn = said(terminal)
    assert re.search(r"epoch 4/4 .*40/40 loss \d\.\d{4} accuracy \d\.\d{4} [\d,]+ samples/s \d:\d\d:\d\d left", drawn)


def test_a_failed_gate_publishes_nothing(
    repository: Repository, tiny: SimpleNamespace, console: Console, trained: Path
) -> None:
    strict = dataclasses.replace(tiny.RECIPE, gates=(Gate(metric="log_loss", at_most=1e-9),))
    with pytest.raises(GateFailed, match="not good enough on bands: log_loss is"):
        publish_stage(strict, repository=repository, runs_dir=trained, console=console)
    assert not repository.root.exists()
    assert not repository.staging.exists()
    assert "✗ evaluate" in said(console)


def test_a_version_is_held_against_the_one_that_is_served(
    repository: Repository, tiny: SimpleNamespace, console: Console, trained: Path, tmp_path: Path
) -> None:
    weak = dataclasses.replace(tiny.RECIPE, quick_config=dataclasses.replace(tiny.CONFIG, epochs=1, num_train=16))
    run(weak, repository=repository, runs_dir=tmp_path, console=console, quick=True, require="better")
    publish_stage(tiny.RECIPE, repository=repository, runs_dir=trained, console=console, require="better")
    report = json.loads((repository.version_dir("bands", 2) / "report.json").read_bytes())["comparison"]
    assert (report["champion"], report["verdict"], report["num_samples"]) == (1, "better", 96)
    first = report["differences"][0]
    weaker, stronger = (repository.contract("bands", v).evaluation.metric("accuracy").value for v in (1, 2))
    assert (first["metric"], first["champion"], first["challenger"]) == ("accuracy", weaker, stronger)
    assert 0 < first["low"] < stronger - weaker < first["high"]
    assert "better than version 1: accuracy +" in said(console)

    publish_stage(tiny.RECIPE, repository=repository, runs_dir=trained, console=console, require="not worse")
    assert "the same as version 2, as far as 96 samples can tell" in said(console)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("models/**/*")}
    with pytest.raises(GateFailed, match="a version must be better, and this one is the same as version 3"):
        publish_stage(tiny.RECIPE, repository=repository, runs_dir=trained, console=console, require="better")
    with pytest.raises(GateFailed, match="a version must be not worse, and this one is worse than version 3"):
        publish_stage(weak, repository=repository, runs_dir=tmp_path, console=console, quick=True, require="not worse")
    assert "✗ compare" in said(console)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("models/**/*")} == before


def test_a_champion_that_cannot_be_asked_is_said(
    repository: Repository, tiny: SimpleNamespace, console: Console, trained: Path
) -> None:
    publish_stage(tiny.RECIPE, repository=repository, runs_dir=trained, console=console)
    padded = tiny.RECIPE.preprocess.model_copy(update={"resize": "pad"})
    other = dataclasses.replace(tiny.RECIPE, preprocess=padded)
    with pytest.raises(GateFailed, match=r"not compared with version 1: .* otherwise \(resize 'stretch', now 'pad'\)"):
        publish_stage(other, repository=repository, runs_dir=trained, console=console, require="not worse")


def test_an_unfinished_run_is_not_published(
    tmp_path: Path, repository: Repository, tiny: SimpleNamespace, console: Console
) -> None:
    with pytest.raises(RunUnfinished, match="holds no run of bands: train it first"):
        publish_stage(tiny.RECIPE, repository=repository, runs_dir=tmp_path, console=console)

    class Stopped(Exception):
        pass

    def stop(step: int) -> None:
        if step == 12:
            raise Stopped

    with pytest.raises(Stopped):
        tiny.train_in(tmp_path, stop, 1e6)
    with pytest.raises(RunUnfinished, match="is at step 10 of 40: train it to the end first"):
        publish_stage(tiny.RECIPE, repository=repository, runs_dir=tmp_path, console=console)
    assert run(tiny.RECIPE, repository=repository, runs_dir=tmp_path, console=console).version == 1
    assert "goes on at step 10 of 40" in said(console)


def test_a_quick_run_is_marked_as_one(
    tmp_path: Path, repository: Repository, tiny: SimpleNamespace, console: Console
) -> None:
    contract = run(tiny.RECIPE, repository=repository, runs_dir=tmp_path, console=console, quick=True)
    assert "Quick run" in contract.description
    assert contract.provenance.config["recipe"] == "bands-quick"
    assert contract.provenance.config["gates"] == [{"metric": "log_loss", "at_least": None, "at_most": 10.0}]
    assert (tmp_path / "bands-quick").is_dir()
    again = run(tiny.RECIPE, repository=repository, runs_dir=tmp_path, console=console, quick=True)
    assert again.version == 2
    assert "is trained to its end" in said(console)
    digests = [[a.sha256 for a in c.artifacts if a.role == "model"] for c in (contract, again)]
    assert digests[0] == digests[1]


def test_outside_a_repository_the_revision_is_unknown(tmp_path: Path) -> None:
    assert git_revision(tmp_path) == "unknown"
    assert git_revision(Path(__file__).parent) != "unknown"
