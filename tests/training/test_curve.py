"""The curves' files: every step once, whatever was killed; and the same numbers for TensorBoard."""

import json
from pathlib import Path

import pytest

from training import curve
from training.checkpoint import Epoch, Progress
from training.curve import EPOCHS_FILE, LAYERS_FILE, MAX_LINES, STEPS_FILE, Curves
from training.event import EVENTS_FOLDER, event_file
from training.layer import Layer

EPOCH = Epoch(loss=1.0, score=0.5, validation_loss=0.75, validation_score=0.25)


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in curve.read(folder / STEPS_FILE)]


def test_lines_beyond_the_checkpoint_are_written_anew(tmp_path: Path) -> None:
    curves = Curves(tmp_path, Progress(), 100)
    for step in range(1, 6):
        curves.step(step, {"loss": 1 / step})
    curves.layers(5, {"head": Layer(gradient_ratio=0.5)})
    assert not (tmp_path / STEPS_FILE).exists()
    curves.flush()
    with (tmp_path / STEPS_FILE).open("ab") as file:
        file.write(b'{"step": 6, "lo')
    again = Curves(tmp_path, Progress(step=3), 100)
    assert steps(tmp_path) == [1, 2, 3]
    assert curve.read(tmp_path / LAYERS_FILE) == []
    again.step(4, {"loss": 0.125})
    again.flush()
    assert curve.read(tmp_path / STEPS_FILE)[-1] == {"step": 4, "loss": 0.125}


def test_a_long_run_keeps_to_a_bounded_number_of_lines(tmp_path: Path) -> None:
    curves = Curves(tmp_path, Progress(), 3 * MAX_LINES)
    for step in range(1, 10):
        curves.step(step, {})
    curves.flush()
    assert steps(tmp_path) == [3, 6, 9]


def test_epochs_are_written_as_they_end(tmp_path: Path) -> None:
    Curves(tmp_path, Progress(), 10).epochs(5, (EPOCH, EPOCH))
    lines = [json.loads(line) for line in (tmp_path / EPOCHS_FILE).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["validation_loss"] == 0.75


def test_tensorboard_reads_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for begun_at, losses in ((0, (4.0, 3.0, 2.0)), (2, (1.0,))):
        with event_file(tmp_path, begun_at, wanted=True) as file:
            curves = Curves(tmp_path, Progress(step=begun_at), 10, events=file)
            for step, loss in enumerate(losses, begun_at + 1):
                curves.step(step, {"loss": loss})
            curves.layers(begun_at + 1, {"head": Layer(gradient_ratio=0.5)})
            curves.flush()
            curves.epochs(begun_at + 1, (EPOCH,))
    found = accumulator.EventAccumulator(str(tmp_path / EVENTS_FOLDER)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("step/loss")] == [(1, 4.0), (2, 3.0), (3, 1.0)]
    assert found.Scalars("layer/layers/head/gradient_ratio")[-1].value == 0.5
    assert found.Scalars("epoch/validation_loss")[-1].value == 0.75


def test_nothing_is_written_for_tensorboard_unless_wanted(tmp_path: Path) -> None:
    with event_file(tmp_path, 0, wanted=False) as file:
        assert file is None
    assert list(tmp_path.iterdir()) == []
