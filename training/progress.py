"""Training as a person watches it: a bar with loss, score, samples a second and the time that is left."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from training.checkpoint import Epoch
from training.checkpoint import Progress as Standing


class TrainingBar:
    """A Watcher that draws on a console; a context manager, so the bar is gone when training is."""

    def __init__(self, console: Console, *, num_epochs: int, batch_size: int, score_name: str) -> None:
        self._console = console
        self._num_epochs = num_epochs
        self._score_name = score_name
        self._steps_per_epoch = 1
        self._num_ended = 0
        self._noted: tuple[str, ...] = ()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn(f"{score_name} {{task.fields[score]}}"),
            _Rate(batch_size),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log gets the epochs' lines, not hundreds of bars
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self._bar.stop()

    def began(self, progress: Standing, num_steps: int, steps_per_epoch: int, /) -> None:
        """Draw the bar where training stands."""
        self._steps_per_epoch = steps_per_epoch
        self._num_ended = len(progress.epochs)
        self._task = self._bar.add_task("", total=num_steps, epoch="", loss="-", score="-")
        if 0 < progress.step < num_steps:
            self._console.print(f"  goes on at step {progress.step} of {num_steps}")
        self._bar.update(self._task, completed=progress.step)

    def stepped(self, progress: Standing, /) -> None:
        """Means over the open epoch so far, and what is wrong with the layers when that is new."""
        assert self._task is not None
        self._note(progress.notes)
        done = (progress.step - 1) % self._steps_per_epoch + 1
        self._bar.update(
            self._task,
            completed=progress.step,
            epoch=f"{self._num_ended + 1}/{self._num_epochs}",
            loss=f"{progress.loss_sum / done:.4f}",
            score=f"{progress.score_sum / done:.4f}",
        )

    def ended_epoch(self, epoch: Epoch, /) -> None:
        """Leave one line for every epoch."""
        self._num_ended += 1
        self._console.print(
            f"  epoch {self._num_ended:>{len(str(self._num_epochs))}}/{self._num_epochs}"
            f"  loss {epoch.loss:.4f}  {self._score_name} {epoch.score:.4f}"
            f"  validation {epoch.validation_loss:.4f}  {epoch.validation_score:.4f}"
        )

    def _note(self, notes: tuple[str, ...]) -> None:
        for note in notes:
            if note not in self._noted:
                self._console.print(f"  [yellow]note:[/] {escape(note)}", highlight=False)
        self._noted = notes


class _Rate(ProgressColumn):
    """Samples a second, from the bar's own estimate of steps a second."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self._batch_size = batch_size

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * self._batch_size:,.0f} samples/s", style="progress.data.speed")
