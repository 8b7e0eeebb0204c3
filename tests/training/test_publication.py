import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contract import Contract, DigestMismatch, Repository
from training import publication
from training.durable import explanation
from training.error import LockTimeout, PublishFailed
from training.lock import exclusive
from training.served import Served


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def publish(repository: Repository, tiny: SimpleNamespace, **changes: Any) -> Served:
    with publication.draft(repository, "bands") as draft:
        return draft.publish(tiny.contract(draft.version, draft.folder, **changes))


def named_versions(repository: Repository) -> list[int]:
    text = (repository.root / "bands/config.pbtxt").read_text()
    return list(map(int, text.split("versions: [")[1].split("]")[0].split(",")))


def test_killed_at_any_step_nothing_half_done_can_be_loaded(
    tmp_path: Path, tiny: SimpleNamespace, run_tiny: Callable[..., dict[str, str]]
) -> None:
    became = run_tiny("publish", tmp_path)
    assert became.pop("earlier") == "exit 0"
    not_reached = {"rename-version-0", "replace-config-0", "rename-model-1"}
    assert {name for name, ended in became.items() if ended != "SIGKILL"} == not_reached
    assert len(became) == 2 * len(tiny.PUBLISH_STEPS)
    for name in became:
        repository = Repository(tmp_path / name / "models")
        for model in repository.root.iterdir() if repository.root.is_dir() else ():
            assert (model / "config.pbtxt").is_file(), name
            for version in repository.versions(model.name):
                repository.contract(model.name, version, verified=True)
            assert set(named_versions(repository)) <= set(repository.versions("bands")), name
        given_out = json.loads((repository.staging / "ledger.json").read_bytes())["bands"]
        assert given_out == 1 + name.endswith("1")
        now = publish(repository, tiny)
        assert now.contract.version == given_out + 1, name
        assert sorted(path.name for path in repository.staging.iterdir()) == ["ledger.json", "lock"], name


def test_the_newest_two_are_served(repository: Repository, tiny: SimpleNamespace) -> None:
    assert [publish(repository, tiny).versions for _ in range(4)] == [(1,), (1, 2), (2, 3), (3, 4)]
    assert named_versions(repository) == [3, 4]
    assert repository.versions("bands") == [1, 2, 3, 4]
    assert repository.latest("bands").version == 4
    assert {path.name for path in repository.root.iterdir()} == {"bands"}


def test_another_interface_is_served_alone(repository: Repository, tiny: SimpleNamespace) -> None:
    publish(repository, tiny)
    assert publish(repository, tiny, batch_max=16).versions == (2,)
    assert "max_batch_size: 16" in (repository.root / "bands/config.pbtxt").read_text()
    assert publish(repository, tiny).versions == (1, 3)


def test_another_runtime_is_served_alone(repository: Repository, tiny: SimpleNamespace) -> None:
    publish(repository, tiny)
    compiled = publish(repository, tiny, files=("model.onnx", "model.plan"))
    assert (compiled.runtime, compiled.versions) == ("tensorrt", (2,))
    assert 'platform: "tensorrt_plan"' in (repository.root / "bands/config.pbtxt").read_text()
    # The compiled version holds its graph too, so a version without an engine takes it along.
    assert publish(repository, tiny, files=("model.onnx", "model.rtx")).versions == (2, 3)


def test_a_version_whose_contract_cannot_be_read_is_not_served(repository: Repository, tiny: SimpleNamespace) -> None:
    publish(repository, tiny)
    (repository.version_dir("bands", 1) / "contract.json").write_text("{}")
    assert publish(repository, tiny).versions == (2,)


def test_a_number_is_never_given_out_again(repository: Repository, tiny: SimpleNamespace) -> None:
    publish(repository, tiny)
    publish(repository, tiny)
    shutil.rmtree(repository.version_dir("bands", 2))
    assert publish(repository, tiny).contract.version == 3
    with pytest.raises(RuntimeError), publication.draft(repository, "bands") as failed:
        raise RuntimeError
    assert failed.version == 4
    shutil.rmtree(repository.root)
    assert publish(repository, tiny).contract.version == 5
    shutil.rmtree(repository.staging)  # without the ledger, the folders still count
    assert publish(repository, tiny).contract.version == 6


@pytest.mark.parametrize("content", ["", "[]", '{"bands": "7"}'])
def test_a_damaged_ledger_is_not_guessed_at(repository: Repository, content: str) -> None:
    repository.staging.mkdir()
    (repository.staging / "ledger.json").write_text(content)
    with pytest.raises(PublishFailed, match="is damaged: write into it"), publication.draft(repository, "bands"):
        pass


def test_two_publishers_at_once(repository: Repository, tiny: SimpleNamespace) -> None:
    with publication.draft(repository, "bands") as first, publication.draft(repository, "bands") as second:
        assert (first.version, second.version) == (1, 2)
        second.publish(tiny.contract(2, second.folder))
        assert first.folder.is_dir()
        served = first.publish(tiny.contract(1, first.folder))
    assert (served.contract.version, served.versions) == (2, (1, 2))
    assert named_versions(repository) == [1, 2]


def test_a_publisher_waits_for_another_but_not_forever(repository: Repository, tiny: SimpleNamespace) -> None:
    with publication.draft(repository, "bands", lock_timeout_s=0) as draft:
        contract = tiny.contract(1, draft.folder)
        with exclusive(repository.staging / "lock", "it"):
            with pytest.raises(LockTimeout, match=r"the repository .* is in use by another process"):
                draft.publish(contract)
            with pytest.raises(LockTimeout), publication.draft(repository, "bands", lock_timeout_s=0):
                pass
        assert repository.versions("bands") == []
        draft.publish(contract)
    assert repository.versions("bands") == [1]


def test_a_version_that_came_in_between_is_noticed(repository: Repository, tiny: SimpleNamespace) -> None:
    with publication.draft(repository, "bands") as compared:
        contract = tiny.contract(1, compared.folder)
        publish(repository, tiny)
        with pytest.raises(PublishFailed, match="compared with version none, and by now version 2 is served"):
            compared.publish(contract, follows=0)
        assert compared.publish(contract, follows=2).versions == (1, 2)


def test_going_back_serves_the_version_before_and_can_be_undone(repository: Repository, tiny: SimpleNamespace) -> None:
    for _ in range(3):
        publish(repository, tiny)
    before = {path: path.read_bytes() for path in repository.root.glob("bands/*/*")}

    back = publication.rollback(repository, "bands")
    assert (back.contract.version, back.versions, back.withdrawn) == (
        2,
        (2,),
        frozenset({3}),
    )  # nothing has to be loaded for it
    assert (named_versions(repository), repository.withdrawn("bands")) == ([2], frozenset({3}))
    assert repository.latest("bands").version == 2

    further = publication.rollback(repository, "bands")
    assert (further.versions, further.withdrawn) == ((1,), frozenset({2, 3}))
    with pytest.raises(PublishFailed, match=r"no version before 1 to go back to: .* one of \[1, 2, 3\]; nothing"):
        publication.rollback(repository, "bands")

    undone = publication.rollback(repository, "bands", 3)
    assert (undone.versions, undone.withdrawn) == ((1, 3), frozenset({2}))  # 2 was withdrawn by itself, and stays so
    assert publication.rollback(repository, "bands", 2).versions == (1, 2)
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in repository.staging.iterdir()) == ["ledger.json", "lock"]


def test_what_was_withdrawn_stays_so_when_another_is_published(repository: Repository, tiny: SimpleNamespace) -> None:
    for _ in range(3):
        publish(repository, tiny)
    publication.rollback(repository, "bands", 1)
    now = publish(repository, tiny)
    assert (now.contract.version, now.versions, now.withdrawn) == (4, (1, 4), frozenset({2, 3}))
    assert publication.rollback(repository, "bands").contract.version == 1
    shutil.rmtree(repository.version_dir("bands", 3))  # what is gone needs no remembering
    assert publish(repository, tiny).withdrawn == {2, 4}


def test_going_back_to_another_interface(repository: Repository, tiny: SimpleNamespace) -> None:
    publish(repository, tiny)
    publish(repository, tiny, batch_max=16)
    assert publication.rollback(repository, "bands").versions == (1,)
    assert "max_batch_size: 8" in (repository.root / "bands/config.pbtxt").read_text()


def test_there_is_no_going_to_what_is_not_there_or_not_what_it_was(
    repository: Repository, tiny: SimpleNamespace
) -> None:
    with pytest.raises(PublishFailed, match="'bands' has no version that could be served; nothing was changed"):
        publication.rollback(repository, "bands")
    publish(repository, tiny)
    publish(repository, tiny)
    with pytest.raises(PublishFailed, match=r"bands has no version 9; versions are \[1, 2\]; nothing was changed"):
        publication.rollback(repository, "bands", 9)
    (repository.version_dir("bands", 1) / "model.onnx").write_bytes(b"something else")
    with pytest.raises(DigestMismatch, match=r"bands/1/model\.onnx: expected"):
        publication.rollback(repository, "bands")
    assert (named_versions(repository), repository.withdrawn("bands")) == ([1, 2], frozenset())


def test_files_that_are_not_the_contracts_are_not_published(repository: Repository, tiny: SimpleNamespace) -> None:
    with publication.draft(repository, "bands") as draft:
        contract: Contract = tiny.contract(1, draft.folder)
        with pytest.raises(
            PublishFailed, match="expected the contract of bands version 1, got that of bands version 9"
        ):
            draft.publish(contract.model_copy(update={"version": 9}))
        (draft.folder / "model.onnx").write_bytes(b"something else")
        with pytest.raises(DigestMismatch):
            draft.publish(contract)
        contract = tiny.contract(1, draft.folder)
        (draft.folder / "notes.pkl").write_bytes(b"")
        with pytest.raises(PublishFailed, match=r"holds notes\.pkl, which its contract doesn't name"):
            draft.publish(contract)
    assert repository.models() == []
    assert list(repository.staging.glob("draft-*")) == []


def test_a_disk_that_refuses_is_one_sentence(repository: Repository, tiny: SimpleNamespace) -> None:
    repository.staging.write_bytes(b"a file where a folder is needed")
    with pytest.raises(PublishFailed, match="nothing was published") as caught, publication.draft(repository, "bands"):
        pass
    assert "\n" not in str(caught.value)
    repository.staging.unlink()
    with publication.draft(repository, "bands") as draft:
        contract = tiny.contract(1, draft.folder)
        shutil.rmtree(draft.folder)
        with pytest.raises(PublishFailed, match="No such file or directory; nothing was published"):
            draft.publish(contract)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "is full: free some space"),
        (errno.EDQUOT, "is full"),
        (errno.EFBIG, "would be larger than this process may write"),
        (errno.EACCES, "can't be written: work as its owner"),
        (errno.EROFS, "can't be written"),
        (errno.EXDEV, "mount its parent folder"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_every_refusal_says_what_to_do(code: int, said: str) -> None:
    assert said in explanation(OSError(code, "Input/output error"), Path("models"))


def test_a_full_disk_is_one_sentence(repository: Repository, tiny: SimpleNamespace) -> None:
    with (
        pytest.raises(PublishFailed, match="is full: free some space"),
        publication.draft(repository, "bands") as draft,
    ):
        Path("/dev/full").write_bytes(b"x")
    assert not draft.folder.exists()
