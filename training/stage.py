"""The stages of a run as a person sees them: each with its name, what came of it, and how long it took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Stages:
    """Announces each stage on a console; a stage that fails is named too, and its error goes on."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[str], None]]:
        """Run a stage; what it is given to say is shown behind its time."""
        said: list[str] = []
        started = self._clock()
        try:
            yield said.append
        except BaseException:
            self._show("✗", "red", name, started, "failed")
            raise
        self._show("✓", "green", name, started, "; ".join(said))

    def _show(self, mark: str, colour: str, name: str, started: float, said: str) -> None:
        line = Text.assemble(
            (mark, colour), f" {name:<10}", (f"{self._clock() - started:7.1f} s  ", "dim"), said, no_wrap=False
        )
        self.console.print(line)


def summary(title: str, rows: list[tuple[str, str]]) -> Table:
    """Two columns: what, and how much of it."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table
