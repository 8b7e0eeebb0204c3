import logging
import threading
from pathlib import Path

import pytest

from contract import Repository
from serving.builder import find_builder
from serving.cache import EngineCache
from serving.engine import LocalEngines, main
from serving.error import EngineUnavailable
from serving.gpu import find_gpu

needs_no_gpu = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU: engines are built and served")


def run(*arguments: object) -> int:
    return main([*map(str, arguments)])


@needs_no_gpu
def test_a_node_without_a_gpu_serves_the_graphs_and_says_so(
    tiny_repository: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = Repository(tmp_path / "serve" / "models")
    arguments = ("--repository", tiny_repository.root, "--output", output.root, "--cache", tmp_path / "cache")
    with caplog.at_level(logging.INFO):
        assert run(*arguments) == 0
    assert output.contract("tiny", 1, verified=True) == tiny_repository.contract("tiny", 1)
    (said,) = [record.message for record in caplog.records if record.name == "serving.engine"]
    assert said.startswith(
        "tiny version 1 is served without an engine: no NVIDIA GPU with the package tensorrt was found"
    )
    assert run(*arguments) == 0


def test_a_refused_version_has_an_exit_code_of_its_own(tiny_repository: Repository, tmp_path: Path) -> None:
    graph = tiny_repository.version_dir("tiny", 1) / "model.onnx"
    graph.write_bytes(b"garbage")
    assert run("--repository", tiny_repository.root, "--output", tmp_path / "serve" / "models") == 3


@needs_no_gpu
def test_what_cant_be_done_is_one_sentence(
    tiny_repository: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run("--repository", tmp_path / "none", "--output", tmp_path / "serve" / "models") == 1
    assert "none doesn't exist: publish a model there first" in caplog.records[-1].message
    assert run("--repository", tiny_repository.root, "--model", "tiny", "--cache", tmp_path / "cache") == 1
    assert "no NVIDIA GPU with the package tensorrt was found" in caplog.records[-1].message


@needs_no_gpu
def test_a_repository_that_comes_later_is_waited_for_and_that_is_said(
    tiny_repository: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = tmp_path / "later"
    publisher = threading.Timer(0.3, tiny_repository.root.rename, [later])
    publisher.start()
    assert run("--repository", later, "--output", tmp_path / "serve" / "models", "--wait", 60) == 0
    publisher.join()
    assert "doesn't exist: publish a model there first" in caplog.text
    assert "waiting for it for up to 60 s" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--output", "x", "--model", "tiny"),
        ("--output", "x", "--version", "1"),
        ("--model", "tiny", "--watch", "1"),
        ("--output", "x", "--watch", "0"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2


@needs_no_gpu
def test_an_engine_that_nobody_ran_beside_its_graph_answers_no_client(
    tiny_repository: Repository, tmp_path: Path
) -> None:
    """TensorRT-RTX builds it here, where it can't run: just as well it could be wrong."""
    pytest.importorskip("tensorrt_rtx")
    engines = LocalEngines(cache=EngineCache(folder=tmp_path / "cache", builder=find_builder(["8.9"])))
    with pytest.raises(EngineUnavailable, match=r"model\.rtx was never run beside its graph"):
        engines.find(tiny_repository.latest("tiny"), tiny_repository.version_dir("tiny", 1))
    bare = tiny_repository.latest("tiny")
    bare = bare.model_copy(update={"artifacts": tuple(a for a in bare.artifacts if a.role != "golden")})
    with pytest.raises(EngineUnavailable, match="no golden samples that an engine could be held against"):
        engines.find(bare, tiny_repository.version_dir("tiny", 1))


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="no NVIDIA GPU here")
def test_a_node_with_a_gpu_serves_engines(tiny_repository: Repository, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    output = Repository(tmp_path / "serve" / "models")
    arguments = ("--repository", tiny_repository.root, "--output", output.root, "--cache", tmp_path / "cache")
    assert run(*arguments) == 0
    assert 'platform: "tensorrt_plan"' in (output.root / "tiny/config.pbtxt").read_text()
    assert output.contract("tiny", 1, verified=True).artifact("engine") is not None
