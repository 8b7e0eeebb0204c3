"""How runs stand, read while they go on, by someone who has neither their data nor their network."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.checkpoint import Epoch
from training.config import TrainConfig
from training.standing import kept_epoch, standing, standings


class Stopped(Exception):
    """Training was interrupted."""


def test_a_run_is_seen_begun_half_way_and_trained(tiny: SimpleNamespace, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 15:  # of 40, in four epochs
            raise Stopped

    assert standings(tmp_path) == []
    with pytest.raises(Stopped):
        tiny.train_in(tmp_path, stop)
    (seen,) = standings(tmp_path)
    assert (seen.name, seen.state, len(seen.progress.epochs)) == ("bands", "in epoch 2 of 4", 1)
    tiny.train_in(tmp_path)
    seen = standing(tmp_path / "bands")
    assert (seen.state, seen.score_name, seen.config) == ("trained", "accuracy", tiny.CONFIG)
    assert seen.kept == seen.progress.epochs[-1]


def test_a_run_that_cant_be_read_says_so_and_hides_no_other(tiny: SimpleNamespace, tmp_path: Path) -> None:
    tiny.train_in(tmp_path)
    damaged, foreign = tmp_path / "damaged", tmp_path / "foreign"
    for folder in (damaged, foreign):
        folder.mkdir()
        (folder / "run.json").write_bytes((tmp_path / "bands" / "run.json").read_bytes())
    (damaged / "checkpoint.safetensors").write_bytes(b"no checkpoint")
    (foreign / "run.json").write_text(json.dumps({"train": {"warp": 9}, "objective": {}}))
    states = {seen.name: seen.state for seen in standings(tmp_path)}
    assert states["bands"] == "trained"
    assert "is no checkpoint" in states["damaged"]
    assert "doesn't say what its run is" in states["foreign"]


def test_the_epoch_that_is_kept_is_the_best_where_training_goes_back_to_it() -> None:
    epochs = [Epoch(loss=1, score=0, validation_loss=loss, validation_score=0) for loss in (3.0, 1.0, 2.0)]
    assert kept_epoch(TrainConfig(), epochs) is epochs[2]
    assert kept_epoch(TrainConfig(patience=1), epochs) is epochs[1]
    assert kept_epoch(TrainConfig(), []) is None
