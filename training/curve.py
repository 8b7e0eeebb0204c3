"""A run's curves, as lines of JSON in its folder, for reports and whoever else draws them.

    steps.jsonl    loss, score, learning rate, gradient norm and seconds since the start, a line a step
    layers.jsonl   what the layers showed at the steps at which they were watched
    epochs.jsonl   means of training and validation, a line an epoch

Lines are gathered in memory and written before each checkpoint, so a step waits for no disk. A run that was killed
goes on from its checkpoint, and lines from beyond it are dropped: the files hold every step once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.checkpoint import Epoch, Progress
from training.durable import write_atomically
from training.event import EventFile
from training.layer import Layer

STEPS_FILE, LAYERS_FILE, EPOCHS_FILE = "steps.jsonl", "layers.jsonl", "epochs.jsonl"
MAX_LINES = 10_000  # of steps: more can't be told apart in a picture, and a month's run must not fill the disk
_MAX_WAITING = 1_000


class Curves:
    """The open files of a run that goes on where `progress` stands; `events` takes the same numbers to TensorBoard."""

    def __init__(self, folder: Path, progress: Progress, num_steps: int, *, events: EventFile | None = None) -> None:
        self._folder = folder
        self._events = events
        self._every = max(1, num_steps // MAX_LINES)
        self._waiting: dict[str, list[dict[str, Any]]] = {STEPS_FILE: [], LAYERS_FILE: []}
        for name in self._waiting:
            _drop_beyond(folder / name, progress.step)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Note what a step came to, for every step or every few of them."""
        if step % self._every == 0:
            self._note(STEPS_FILE, {"step": step, **values})

    def layers(self, step: int, layers: Mapping[str, Layer]) -> None:
        """Note what the layers showed."""
        self._note(LAYERS_FILE, {"step": step, "layers": {name: asdict(layer) for name, layer in layers.items()}})

    def epochs(self, step: int, epochs: Sequence[Epoch]) -> None:
        """Write all epochs that have ended, the last of them with that step."""
        lines = [{"epoch": index + 1, **asdict(epoch)} for index, epoch in enumerate(epochs)]
        write_atomically(self._folder / EPOCHS_FILE, _lines(lines))
        if self._events is not None:
            self._events.write("epoch", step, lines[-1])

    def flush(self) -> None:
        """Write what was gathered."""
        for name, lines in self._waiting.items():
            if lines:
                with (self._folder / name).open("ab") as file:
                    file.write(_lines(lines))
                if self._events is not None:
                    for line in lines:
                        self._events.write(name.removesuffix("s.jsonl"), line["step"], line)
                lines.clear()
        if self._events is not None:
            self._events.flush()

    def _note(self, name: str, line: dict[str, Any]) -> None:
        self._waiting[name].append(line)
        if len(self._waiting[name]) >= _MAX_WAITING:
            self.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of such a file, without a last one that a kill cut short; none when there is no file."""
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _drop_beyond(path: Path, step: int) -> None:
    if path.is_file():
        write_atomically(path, _lines([line for line in read(path) if line["step"] <= step]))


def _lines(lines: Sequence[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
