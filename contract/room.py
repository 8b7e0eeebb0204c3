"""Memory that threads share, so that together they never take more of it than there is."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from contract.error import InputError

SMALL_BYTES = 1024 * 1024  # who needs no more isn't counted, and never waits

_MIB = 1024 * 1024


class Room:
    """So many bytes, of which each thread takes what it needs, for a while, in the order in which they come."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = self._left_bytes = size_bytes
        self._turn = threading.Lock()  # held while waiting: who needs much isn't overtaken again and again
        self._changed = threading.Condition()

    @contextmanager
    def take(self, num_bytes: int, *, deadline: float = math.inf) -> Iterator[None]:
        """Wait until there is enough, and have it.

        Raises InputError for more than there ever is, and TimeoutError at `deadline`, in monotonic seconds.
        """
        if num_bytes <= SMALL_BYTES:
            yield
            return
        if num_bytes > self.size_bytes:
            raise InputError(
                f"expected what is decoded in at most {self.size_bytes / _MIB:.0f} MiB of memory, "
                f"got what may need {num_bytes / _MIB:.0f} MiB; send it smaller"
            )
        if not self._turn.acquire(timeout=_left_s(deadline)):
            raise TimeoutError
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: self._left_bytes >= num_bytes, _left_s(deadline)):
                    raise TimeoutError
                self._left_bytes -= num_bytes
        finally:
            self._turn.release()
        try:
            yield
        finally:
            with self._changed:
                self._left_bytes += num_bytes
                self._changed.notify()


def _left_s(deadline: float) -> float:
    return min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
