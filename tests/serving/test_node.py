from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract import Contract, Passport, Repository
from contract.digest import sha256_of
from contract.passport import InputProfile
from contract.schema import AxisRange
from contract.triton import model_config
from serving.error import EngineBuildFailed, EngineBusy, EngineError, RepositoryMissing, ServingError
from serving.node import Node
from serving.published import examine, look

MakeVersion = Callable[..., Contract]
NODE = "tensorrt", "10.9.0", "8.9"


class BuiltElsewhere:
    """Engines of a machine with a GPU: files that say they are. `failing` holds why a version has none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failing: dict[int, EngineError] = {}
        self.asked: list[tuple[str, int]] = []

    def find(self, contract: Contract, folder: Path, /) -> Path:
        self.asked.append((contract.name, contract.version))
        if contract.version in self.failing:
            raise self.failing[contract.version]
        found = self.folder / f"{contract.name}-{contract.version}"
        if found.is_dir():
            return found
        found.mkdir(parents=True)
        (found / "model.plan").write_bytes(b"engine of %d" % contract.version)
        passport: dict[str, Any] = {
            "engine": "model.plan",
            "engine_sha256": sha256_of(found / "model.plan"),
            "engine_size_bytes": 11,
            "onnx_sha256": sha256_of(folder / "model.onnx"),
            "builder": "tensorrt",
            "builder_version": "10.9.0",
            "compute_capabilities": ("8.9",),
            "profile": (InputProfile(name="image", axes=(AxisRange(min=1, opt=4, max=8),)),),
            "max_error": 2e-6,
            "created_at": "2026-01-01T00:00:00+00:00",
            "build_time_s": 1,
        }
        Passport(**passport).save(found)
        return found


@pytest.fixture
def engines(tmp_path: Path) -> BuiltElsewhere:
    return BuiltElsewhere(tmp_path / "cache")


@pytest.fixture
def output(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "serve" / "models")


@pytest.fixture
def node(tiny_repository: Repository, output: Repository, engines: BuiltElsewhere) -> Node:
    return Node(source=tiny_repository, output=output, engines=engines)


def write_config(repository: Repository, contract: Contract, *versions: int) -> None:
    (repository.root / contract.name / "config.pbtxt").write_text(model_config(contract, "onnxruntime", versions))


def accepted(repository: Repository, name: str = "tiny") -> dict[int, str]:
    """What the loader would load on this node; nothing may be refused."""
    published = look(repository, name)
    assert published is not None
    examined = examine(repository, published, NODE)
    assert examined.refused == {}
    return examined.accepted


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_version_is_served_by_its_engine(node: Node, tiny_repository: Repository, output: Repository) -> None:
    before = contents(tiny_repository.root)
    (outcome,) = node.prepare()
    expected = "tiny version 1 is served by model.plan of tensorrt 10.9.0 for sm_89, within 2.0e-06 of its graph"
    assert str(outcome) == expected
    assert list(accepted(output)) == [1]
    folder = output.version_dir("tiny", 1)
    assert (folder / "model.plan").read_bytes() == b"engine of 1"
    assert (folder / "model.onnx").stat().st_ino == (
        tiny_repository.version_dir("tiny", 1) / "model.onnx"
    ).stat().st_ino
    config = (output.root / "tiny/config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in config
    assert 'default_model_filename: "model.plan"' in config
    assert "KIND_GPU" in config
    assert contents(tiny_repository.root) == before
    theirs, ours = tiny_repository.latest("tiny"), output.latest("tiny")
    assert ours == theirs.model_copy(update={"artifacts": ours.artifacts})


def test_doing_it_again_changes_nothing(
    node: Node, output: Repository, engines: BuiltElsewhere, tiny_repository: Repository
) -> None:
    node.prepare()
    before = contents(output.root)
    assert node.prepare() == []
    assert len(engines.asked) == 1
    anew = Node(source=tiny_repository, output=output, engines=engines)
    assert len(anew.prepare()) == 1
    assert contents(output.root) == before


def test_without_an_engine_the_graph_is_served_and_why_is_said(
    node: Node, output: Repository, engines: BuiltElsewhere
) -> None:
    engines.failing[1] = EngineBuildFailed("TensorRT 10.9.0 can't read model.onnx: nonzero_3 (NonZero): unsupported")
    (outcome,) = node.prepare()
    assert str(outcome).startswith("tiny version 1 is served without an engine: TensorRT 10.9.0 can't read model.onnx")
    assert not outcome.engine
    assert list(accepted(output)) == [1]
    config = (output.root / "tiny/config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in config
    assert "platform" not in config
    assert not (output.version_dir("tiny", 1) / "model.plan").exists()


def test_one_version_without_an_engine_takes_the_others_along(
    node: Node, output: Repository, engines: BuiltElsewhere, tiny_repository: Repository, make_version: MakeVersion
) -> None:
    node.prepare()
    make_version(tiny_repository.root, version=2)
    engines.failing[2] = EngineBuildFailed("no")
    said = {outcome.version: outcome.sentence for outcome in node.prepare()}
    assert said[1] == "is served without its engine, for version 2 has none and Triton mixes neither"
    assert said[2] == "is served without an engine: no"
    assert list(accepted(output)) == [1, 2]
    assert not (output.version_dir("tiny", 1) / "model.plan").exists()


def test_an_engine_that_another_process_builds_is_asked_for_again(
    node: Node, output: Repository, engines: BuiltElsewhere
) -> None:
    engines.failing[1] = EngineBusy("another process was still building this engine after 900 s")
    assert not node.prepare()[0].engine
    engines.failing.clear()
    assert node.prepare()[0].engine
    assert 'platform: "tensorrt_plan"' in (output.root / "tiny/config.pbtxt").read_text()
    assert list(accepted(output)) == [1]


def test_new_versions_come_and_old_ones_and_models_go(
    node: Node, output: Repository, tiny_repository: Repository, make_version: MakeVersion
) -> None:
    make_version(tiny_repository.root, name="other")
    node.prepare()
    second = make_version(tiny_repository.root, version=2)
    write_config(tiny_repository, second, 2)
    (tiny_repository.root / "other").rename(tiny_repository.root.parent / "other")
    node.prepare()
    assert output.models() == ["tiny"]
    assert output.versions("tiny") == [2]
    assert list(accepted(output)) == [2]
    assert {path.name for path in output.root.iterdir()} == {"tiny"}
    assert {path.name for path in output.staging.iterdir()} == {"lock"}


def test_flipped_bits_are_refused_before_anything_reads_them(
    node: Node, output: Repository, engines: BuiltElsewhere, tiny_repository: Repository, make_version: MakeVersion
) -> None:
    make_version(tiny_repository.root, version=2)
    graph = tiny_repository.version_dir("tiny", 2) / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    refused, served = sorted(node.prepare(), key=lambda outcome: not outcome.refused)
    assert str(refused).startswith("tiny version 2 is left out: tiny/2/model.onnx: expected sha256 ")
    assert (served.version, served.engine) == (1, True)
    assert engines.asked == [("tiny", 1)]
    assert list(accepted(output)) == [1]


def test_withdrawn_versions_are_withdrawn_here_too(
    node: Node, output: Repository, tiny_repository: Repository, make_version: MakeVersion
) -> None:
    make_version(tiny_repository.root, version=2)
    config = tiny_repository.root / "tiny/config.pbtxt"
    write_config(tiny_repository, tiny_repository.contract("tiny", 1), 1)
    config.write_text("# Withdrawn: 2\n" + config.read_text())
    node.prepare()
    assert output.withdrawn("tiny") == {2}
    assert list(accepted(output)) == [1]


def test_other_backends_go_along_as_they_are(node: Node, output: Repository, tiny_repository: Repository) -> None:
    config = tiny_repository.root / "tiny/config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    (outcome,) = node.prepare()
    assert str(outcome) == "tiny version 1 is served without an engine: the backend python runs no engines"
    assert 'backend: "python"' in (output.root / "tiny/config.pbtxt").read_text()


def test_a_config_that_is_none_is_said(node: Node, tiny_repository: Repository) -> None:
    (tiny_repository.root / "tiny/config.pbtxt").write_text("max_batch_size: {")
    (outcome,) = node.prepare()
    assert outcome.refused
    assert str(outcome).startswith("tiny is left out: config.pbtxt can't be read")


def test_folders_that_arent_there_or_cant_be_written_are_one_sentence(
    node: Node, output: Repository, tiny_repository: Repository, engines: BuiltElsewhere
) -> None:
    with pytest.raises(RepositoryMissing):
        Node(source=Repository(output.root / "none"), output=output, engines=engines).prepare()
    output.root.parent.mkdir(parents=True, exist_ok=True)
    output.root.write_text("a file")
    with pytest.raises(ServingError, match="can't be written: File exists"):
        node.prepare()
