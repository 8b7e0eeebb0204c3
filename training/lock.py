"""A lock between processes that a killed process can't leave behind.

The kernel drops a flock(2) with the last descriptor that holds it, so there are no stale locks to reason about.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from training.error import LockTimeout

_POLL_S = 0.05


@contextmanager
def exclusive(
    path: Path, what: str, *, timeout_s: float = 0.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Hold the lock on `path`, which is made when it isn't there.

    Raises LockTimeout, naming `what` is locked, when another process still holds it after `timeout_s` seconds.
    """
    deadline = clock() + timeout_s
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        while not _try_lock(file):
            if clock() >= deadline:
                raise LockTimeout(f"{what} is in use by another process; waited {timeout_s:g} s, try again later")
            time.sleep(_POLL_S)
        yield


def is_free(path: Path) -> bool:
    """Whether no process holds the lock on an existing file at this moment."""
    with path.open("a") as file:
        return _try_lock(file)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
