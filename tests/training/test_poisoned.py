"""Publishing under bad conditions, poisoned files, a full disk, a kill: one sentence, and all before is intact."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from contract import ContractError, ContractInvalid, Repository
from contract.digest import artifact
from contract.schema import Contract
from training import publication
from training.champion import challenge
from training.error import TrainingError
from training.external import check_enclosed

SCRIPT = Path(__file__).with_name("disk.py")
ROOT = SCRIPT.parents[2]
NAMESPACE = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
MOUNT = 'mount -t tmpfs -o size=128k none "$1" && exec "$2" "$3" full "$1"'


def lines(command: list[str]) -> list[list[str]]:
    """What the script says, each line as name, state and sentence."""
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return [line.split(maxsplit=2) for line in done.stdout.splitlines()]


def test_a_disk_that_fills_up_leaves_everything_as_it_was(tmp_path: Path) -> None:
    probe = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no small file system can be mounted here: {probe.stderr.decode().strip()}")
    outcomes = lines([*NAMESPACE, "sh", "-ec", MOUNT, "sh", str(tmp_path), sys.executable, str(SCRIPT)])
    failed = [outcome for outcome in outcomes if outcome[2] != "published"]
    assert len(failed) >= 2
    for _, state, sentence in failed:
        assert state == "intact"
        assert sentence.endswith("is full: free some space and try again; nothing was published")
    assert outcomes[-1] == ["end", "changed", "published"]


def test_a_file_that_may_not_grow_leaves_everything_as_it_was(tmp_path: Path) -> None:
    outcomes = lines([sys.executable, str(SCRIPT), "limited", str(tmp_path)])
    assert [outcome[:2] for outcome in outcomes] == [
        *([str(size), "intact"] for size in (5, 60, 500, 1_000)),
        ["end", "changed"],
    ]
    for _, _, sentence in outcomes[:-1]:
        assert sentence.endswith("raise its limit (ulimit -f); nothing was published")


def test_killed_while_going_back_it_is_done_or_not(tmp_path: Path) -> None:
    assert lines([sys.executable, str(SCRIPT), "rollback", str(tmp_path)]) == [
        ["replace-config", "SIGKILL"],
        ["done", "SIGKILL"],
    ]
    undone, done = (Repository(tmp_path / step / "models") for step in ("replace-config", "done"))
    assert (undone.withdrawn("bands"), done.withdrawn("bands")) == (frozenset(), frozenset({2}))
    for repository in (undone, done):
        assert publication.rollback(repository, "bands", 1).versions == (1,)
        assert publication.rollback(repository, "bands", 2).versions == (1, 2)


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def elsewhere(location: str) -> onnx.ModelProto:
    """A graph one of whose weights lies in another file, inside the branch of a condition."""
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["branch"], value=weight)],
        "branch",
        [],
        [helper.make_tensor_value_info("branch", TensorProto.FLOAT, [2])],
    )
    condition = helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=branch)
    inputs = [helper.make_tensor_value_info("condition", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2])]
    return helper.make_model(helper.make_graph([condition], "graph", inputs, outputs))


def poisoned(kind: str, folder: Path) -> bytes:
    match kind:
        case "pickle":
            return pickle.dumps(Bomb(folder / "exploded"))
        case "empty":
            return b""
        case "noise":
            return np.random.default_rng(0).bytes(5_000)
        case _:
            return bytes(elsewhere(kind).SerializeToString())


POISONS = ["pickle", "empty", "noise", "../../../../etc/passwd", "/etc/passwd", "weights.bin", ""]


@pytest.mark.parametrize("kind", POISONS)
def test_a_poisoned_graph_is_not_published(tmp_path: Path, tiny: SimpleNamespace, kind: str) -> None:
    repository = Repository(tmp_path / "models")
    tiny.publish_in(repository.root, None)
    before = {path: path.read_bytes() for path in repository.root.rglob("*") if path.is_file()}
    with publication.draft(repository, "bands") as draft:
        contract = with_graph(tiny.contract(2, draft.folder), draft.folder, poisoned(kind, tmp_path))
        with pytest.raises(ContractInvalid, match=r"^bands/2/model\.onnx (is no ONNX graph|takes 'weight' from)"):
            draft.publish(contract)
    assert {path: path.read_bytes() for path in repository.root.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "exploded").exists()


def with_graph(contract: Contract, folder: Path, graph: bytes) -> Contract:
    """The same contract over another graph: whoever poisons one may well write the digest, too."""
    (folder / "model.onnx").write_bytes(graph)
    return contract.model_copy(update={"artifacts": (artifact(folder, "model.onnx", "model"),)})


@pytest.mark.parametrize("kind", [*POISONS, "flipped"])
def test_a_poisoned_champion_is_not_asked(tmp_path: Path, tiny: SimpleNamespace, kind: str) -> None:
    repository = Repository(tmp_path / "models")
    tiny.publish_in(repository.root, None)
    folder, contract = repository.version_dir("bands", 1), repository.contract("bands", 1)
    if kind == "flipped":
        content = bytearray((folder / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "model.onnx").write_bytes(content)
    else:
        contract = with_graph(contract, folder, poisoned(kind, tmp_path))
    test = tiny.load().test
    comparison = challenge(repository, contract, tiny.RECIPE, {"logits": np.zeros((len(test), 3))}, test)
    assert comparison.verdict is None
    assert str(comparison).startswith("not compared with version 1: the graph of version 1 can't be used: bands/1/")
    assert "\n" not in str(comparison)
    assert not (tmp_path / "exploded").exists()


def test_a_graph_whose_weights_lie_in_a_file_of_its_version_is_published(tmp_path: Path, tiny: SimpleNamespace) -> None:
    repository = Repository(tmp_path / "models")
    with publication.draft(repository, "bands") as draft:
        contract = with_graph(tiny.contract(1, draft.folder), draft.folder, poisoned("weights.bin", tmp_path))
        (draft.folder / "weights.bin").write_bytes(np.ones(2, np.float32).tobytes())
        weights = artifact(draft.folder, "weights.bin", "model")
        draft.publish(contract.model_copy(update={"artifacts": (*contract.artifacts, weights)}))
    assert repository.contract("bands", 1, verified=True).artifacts[1] == weights


def test_a_link_is_no_file_of_a_version(tmp_path: Path, tiny: SimpleNamespace) -> None:
    repository = Repository(tmp_path / "models")
    with publication.draft(repository, "bands") as draft:
        contract = tiny.contract(1, draft.folder)
        (draft.folder / "model.onnx").rename(tmp_path / "model.onnx")
        (draft.folder / "model.onnx").symlink_to(tmp_path / "model.onnx")
        with pytest.raises(ContractError, match=r"model\.onnx is missing, or no plain file"):
            draft.publish(contract)
    assert repository.models() == []


def test_a_flipped_bit_anywhere_is_found_before_going_back(tmp_path: Path, tiny: SimpleNamespace) -> None:
    repository = Repository(tmp_path / "models")
    for _ in range(2):
        tiny.publish_in(repository.root, None)
    config = (repository.root / "bands/config.pbtxt").read_bytes()
    graph = repository.version_dir("bands", 1) / "model.onnx"
    whole = graph.read_bytes()
    for place in range(0, len(whole), 7):
        graph.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((ContractError, TrainingError)):
            publication.rollback(repository, "bands")
    assert (repository.root / "bands/config.pbtxt").read_bytes() == config
    graph.write_bytes(whole)
    assert publication.rollback(repository, "bands").versions == (1,)


def test_a_whole_graph_is_enclosed(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(elsewhere("here.bin").SerializeToString())
    check_enclosed(graph, {"model.onnx", "here.bin"})
