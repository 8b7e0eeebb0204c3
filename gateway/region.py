"""Memory that an inference server on this host can read: a file in /dev/shm, lent in slices.

Its space is taken when it is made, so that a write can't fail for want of it. A file's owner holds a lock on it for as
long as it lives, in whatever container; what nobody holds is a leftover.
"""

import fcntl
import mmap
import os
import secrets
from bisect import insort
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path("/dev/shm")  # noqa: S108
PREFIX = "tidegate-gateway-"

_ALIGNMENT = 64


def aligned(size: int) -> int:
    """The size of a piece behind which another may begin."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(eq=False, slots=True)
class Slice:
    """A part of a region that is lent."""

    region: str
    offset: int
    memory: NDArray[Any]  # UINT8


class Region:
    """A file of `size_bytes`. Raises OSError when it can't be had."""

    def __init__(self, size_bytes: int, folder: Path = FOLDER) -> None:
        self.name = f"{PREFIX}{secrets.token_hex(8)}"
        self.size_bytes = size_bytes
        self._path = folder / self.name
        self._file = _create_locked(self._path)
        self._lent: list[tuple[int, int]] = []  # first byte and the one behind the last, in order
        try:
            os.posix_fallocate(self._file, 0, size_bytes)
            self._memory = np.frombuffer(mmap.mmap(self._file, size_bytes), np.uint8)
        except BaseException:
            self.close()
            raise

    def lend(self, size: int) -> Slice | None:
        """The first room of that size; None when there is none."""
        size = aligned(size)
        start = 0
        for taken, end in self._lent:
            if taken - start >= size:
                break
            start = end
        if start + size > self.size_bytes:
            return None
        insort(self._lent, (start, start + size))
        return Slice(self.name, start, self._memory[start : start + size])

    def take_back(self, lent: Slice) -> None:
        """A slice is used no more, by nobody."""
        self._lent.remove((lent.offset, lent.offset + len(lent.memory)))

    def close(self) -> None:
        """Remove the file; who has mapped it keeps the memory."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def remove_leftovers(folder: Path = FOLDER) -> None:
    """Remove the regions of processes that died."""
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):  # not ours to remove, or its owner lives
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)


def _create_locked(path: Path) -> int:
    """An empty file that has its name only once it is locked: nobody may take it for a leftover in between."""
    unnamed = path.with_name(f".{path.name}")
    file = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(path)
    except BaseException:
        unnamed.unlink(missing_ok=True)
        os.close(file)
        raise
    return file
