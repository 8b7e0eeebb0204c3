import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training import run_folder
from training.distributed import main
from training.error import RunMismatch
from training.loop import train


@pytest.fixture(scope="module")
def together(run_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """What two processes trained, and how each job ended."""
    folder = tmp_path_factory.mktemp("together")
    return folder, run_tiny("together", folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alike", "sharded"])
def test_two_processes_end_where_one_does(
    name: str, together: tuple[Path, dict[str, str]], tiny: SimpleNamespace, tmp_path: Path
) -> None:
    """Batch normalisation, augmentation, accumulation, clipping and going back to the best epoch included."""
    folder, became = together
    assert became["whole"] == "trained"
    recipe, dataset = tiny.TOGETHER[name], tiny.load()
    with run_folder.opened(tmp_path, recipe, dataset) as opened:
        alone = train(recipe, dataset, opened, tiny.Unwatched())
    lines = [json.loads(line) for line in (folder / name / "bands/epochs.jsonl").read_text().splitlines()]
    assert len(lines) == len(alone.progress.epochs)
    for line, epoch in zip(lines, alone.progress.epochs, strict=True):
        assert line["loss"] == pytest.approx(epoch.loss, abs=1e-5)
        assert line["validation_loss"] == pytest.approx(epoch.validation_loss, abs=1e-5)
    saved = load_file(folder / name / "bands/checkpoint.safetensors")
    for key, tensor in alone.network.state_dict().items():
        torch.testing.assert_close(saved[f"network.{key}"], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_lost_process_is_named_and_the_run_goes_on_to_the_same_bits(together: tuple[Path, dict[str, str]]) -> None:
    folder, became = together
    assert became["killed"].startswith("process 1 of 2 was ended by SIGKILL: start the same command again")
    assert became["resumed"] == "trained"
    whole = load_file(folder / "sharded/bands/checkpoint.safetensors")
    resumed = load_file(folder / "killed/sharded/bands/checkpoint.safetensors")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_a_run_keeps_its_number_of_processes(tiny: SimpleNamespace, tmp_path: Path) -> None:
    dataset = tiny.load()
    with (
        run_folder.opened(tmp_path, tiny.RECIPE, dataset, num_processes=2) as opened,
        pytest.raises(RunMismatch, match=r"a run of 2 processes, and this is a start with 1: go on with 2"),
    ):
        train(tiny.RECIPE, dataset, opened, tiny.Unwatched())


def test_the_worker_says_how_it_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fashion-resnet"])
    assert "expected to be started by torchrun" in capsys.readouterr().err
