"""Triton's log on disk: appended to by Triton, kept within a bound by us, and quoted in errors."""

import os
from pathlib import Path
from typing import BinaryIO

MAX_SIZE_BYTES = 16 * 1024 * 1024
TAIL_LINES = 20

_TAIL_BYTES = 16 * 1024


class LogFile:
    """One log and one predecessor beside it (`.1`), so at most about twice `max_size_bytes`."""

    def __init__(self, path: Path, *, max_size_bytes: int = MAX_SIZE_BYTES) -> None:
        self.path = path
        self._previous = path.with_name(path.name + ".1")
        self._max_size_bytes = max_size_bytes
        self._start = 0

    def open(self) -> BinaryIO:
        """For a new process to append to; `tail` shows only what was written from here on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.trim()
        file = self.path.open("ab")
        self._start = file.tell()
        return file

    def trim(self) -> None:
        """Past the bound, move what is there to the predecessor.

        The writing process keeps its file: it appends, so after truncation it goes on at the new end. What it writes
        between copy and truncation is lost.
        """
        try:
            if self.path.stat().st_size <= self._max_size_bytes:
                return
        except FileNotFoundError:
            return
        with self.path.open("rb") as source, self._previous.open("wb") as target:
            source.seek(-self._max_size_bytes, os.SEEK_END)
            target.write(source.read())
        os.truncate(self.path, 0)
        self._start = 0

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines since `open`."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._start, end - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])
