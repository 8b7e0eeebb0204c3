"""The curves as TensorBoard's event files, for those who watch several runs beside each other there.

TensorBoard is an extra that training itself doesn't need; its files are written by torch, from a thread of their own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EVENTS_FOLDER = "tensorboard"


class EventFile:
    """One more event file in a run's folder; TensorBoard puts those of a resumed run together."""

    def __init__(self, folder: Path, step: int) -> None:
        # Here, so that who doesn't ask for event files needs no tensorboard.
        from torch.utils.tensorboard import SummaryWriter

        # Steps that the run does again after it was killed replace those of before.
        self._writer = SummaryWriter(str(folder / EVENTS_FOLDER), purge_step=step + 1)

    def write(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        """Every number among the values, nested ones by their path, at that step."""
        for path, value in _numbers(name, values):
            self._writer.add_scalar(path, value, step)

    def flush(self) -> None:
        """Hand everything to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """End the thread and the file."""
        self._writer.close()


@contextmanager
def event_file(folder: Path, step: int, *, wanted: bool) -> Iterator[EventFile | None]:
    """The run's next event file where one is wanted, closed at the end."""
    if not wanted:
        yield None
        return
    file = EventFile(folder, step)
    try:
        yield file
    finally:
        file.close()


def _numbers(path: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{path}/{name}", value)
        elif isinstance(value, int | float) and name not in ("step", "epoch"):
            yield f"{path}/{name}", value
