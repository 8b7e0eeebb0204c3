"""Against a small server on the wire; the real Triton's part is in tests/integration/test_triton.py."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from contract import Contract, Repository
from serving.control import Control
from serving.error import RepositoryMissing, TritonUnreachable
from serving.loader import Loader, ModelState

MakeVersion = Callable[..., Contract]


@pytest.fixture
def loader(tiny_repository: Repository, control: Control) -> Loader:
    return Loader(tiny_repository, control, load_timeout_s=10)


def spoil(repository: Repository, version: int, name: str = "tiny") -> None:
    model = repository.version_dir(name, version) / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")


def touch(repository: Repository, version: int) -> None:
    os.utime(repository.version_dir("tiny", version) / "model.onnx", ns=(1, 1))


def test_everything_is_loaded_once(loader: Loader, stand_in: Any) -> None:
    for _ in range(3):
        assert loader.reconcile() == {"tiny": ModelState(versions=(1,))}
    assert stand_in.calls == [("load", "tiny", (1,))]


def test_a_new_version_is_loaded(
    loader: Loader, stand_in: Any, tiny_repository: Repository, make_version: MakeVersion
) -> None:
    loader.reconcile()
    make_version(tiny_repository.root, version=2)
    assert loader.reconcile()["tiny"].versions == (1, 2)
    assert stand_in.calls[1:] == [("load", "tiny", (1, 2))]


def test_touched_files_with_the_same_content_load_nothing(
    loader: Loader, stand_in: Any, tiny_repository: Repository
) -> None:
    loader.reconcile()
    touch(tiny_repository, 1)
    assert loader.reconcile()["tiny"].healthy
    assert len(stand_in.calls) == 1


def test_a_refused_version_is_named_and_the_others_serve(
    loader: Loader,
    stand_in: Any,
    tiny_repository: Repository,
    make_version: MakeVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_version(tiny_repository.root, version=2)
    spoil(tiny_repository, 2)
    state = loader.reconcile()["tiny"]
    assert state.versions == (1,)
    assert not state.healthy
    assert "tiny/2/model.onnx" in state.problems[2]
    assert stand_in.calls == [("load", "tiny", (1,))]
    assert "model tiny version 2 isn't served: tiny/2/model.onnx" in caplog.text


def test_what_serves_goes_on_when_its_files_go_bad(loader: Loader, stand_in: Any, tiny_repository: Repository) -> None:
    loader.reconcile()
    spoil(tiny_repository, 1)
    state = loader.reconcile()["tiny"]
    assert state.versions == (1,)
    assert 1 in state.problems
    assert len(stand_in.calls) == 1
    loader.forget()  # Triton was started anew: from disk, it may not come back
    stand_in.served.clear()
    assert loader.reconcile()["tiny"].problem == "none of its versions can be served"
    assert len(stand_in.calls) == 1


def test_a_version_that_triton_refuses_is_left_out(
    loader: Loader, stand_in: Any, tiny_repository: Repository, make_version: MakeVersion
) -> None:
    make_version(tiny_repository.root, version=2)
    stand_in.faults = {("tiny", 2): "no such operator"}
    state = loader.reconcile()["tiny"]
    assert state == ModelState(versions=(1,), problems={2: "Internal: no such operator"})
    assert stand_in.calls == [("load", "tiny", (1, 2)), ("load", "tiny", (1,))]


def test_a_failed_model_is_tried_again_only_when_its_files_change(
    loader: Loader, stand_in: Any, tiny_repository: Repository
) -> None:
    stand_in.faults = {("tiny", 1): "bad"}
    for _ in range(3):
        assert loader.reconcile()["tiny"].problem == "none of its versions can be served"
    assert len(stand_in.calls) == 1
    stand_in.faults = {}
    touch(tiny_repository, 1)
    assert loader.reconcile()["tiny"].healthy
    assert len(stand_in.calls) == 2


def test_a_reason_that_names_no_version_is_kept(loader: Loader, stand_in: Any) -> None:
    stand_in.fault = (grpc.StatusCode.INVALID_ARGUMENT, "unexpected platform")
    assert loader.reconcile()["tiny"].problem == "unexpected platform"


def test_removed_models_are_unloaded_once(loader: Loader, stand_in: Any, tiny_repository: Repository) -> None:
    stand_in.served["stranger"] = {4}
    loader.reconcile()
    shutil.rmtree(tiny_repository.root / "tiny")
    assert loader.reconcile() == {}
    assert loader.reconcile() == {}
    assert stand_in.calls == [("load", "tiny", (1,)), ("unload", "stranger", ()), ("unload", "tiny", ())]
    assert stand_in.served == {}


def test_models_that_triton_lost_are_loaded_again(loader: Loader, stand_in: Any) -> None:
    loader.reconcile()
    stand_in.served.clear()
    assert loader.reconcile()["tiny"].versions == (1,)
    assert len(stand_in.calls) == 2


def test_an_absent_repository_unloads_nothing(loader: Loader, stand_in: Any, tiny_repository: Repository) -> None:
    loader.reconcile()
    shutil.rmtree(tiny_repository.root)
    with pytest.raises(RepositoryMissing):
        loader.reconcile()
    assert stand_in.served == {"tiny": {1}}


def test_a_broken_config_is_a_problem_and_what_serves_goes_on(
    loader: Loader, stand_in: Any, tiny_repository: Repository
) -> None:
    loader.reconcile()
    (tiny_repository.root / "tiny" / "config.pbtxt").write_text("max_batch_size: {")
    state = loader.reconcile()["tiny"]
    assert state.versions == (1,)
    assert (state.problem or "").startswith("config.pbtxt can't be read")
    assert stand_in.served == {"tiny": {1}}


def test_after_triton_was_away_failures_are_tried_again(
    tiny_repository: Repository, stand_in: Any, address: str, ports: Any
) -> None:
    with Control(address) as control:
        loader = Loader(tiny_repository, control)
        stand_in.faults = {("tiny", 1): "bad"}
        loader.reconcile()
    with Control(f"127.0.0.1:{ports.grpc}") as nobody:
        loader._triton = nobody
        with pytest.raises(TritonUnreachable):
            loader.reconcile()
    with Control(address) as control:
        loader._triton = control
        stand_in.faults = {}
        assert loader.reconcile()["tiny"].healthy
