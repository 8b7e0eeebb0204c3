"""Busy polling: looking out for an answer that comes soon, because a process that sleeps takes long to wake up.

Source: the kernel's SO_BUSY_POLL, https://docs.kernel.org/networking/napi.html#busy-polling, in the event loop.
"""

import asyncio
import time
from typing import Any, Final

_CALM: Final = 16  # calls that come one by one before it begins: among many, there is always something to do
_MAX_SKIPPED: Final = 1024


class BusyPoll:
    """Keeps the event loop from sleeping for up to `longest_s` seconds a call; 0 is never.

    Only for calls that are alone, one after another; and each look-out in vain lets twice as many calls pass before
    the next one, so that slow servers cost nothing.
    """

    __slots__ = ("_in_vain", "_longest_s", "_skipped")

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._skipped = _CALM
        self._in_vain = 1

    def watch(self, answer: asyncio.Future[Any], *, alone: bool) -> None:
        """Look out for an answer that has just been asked for."""
        if not self._longest_s:
            return
        if not alone:
            self._skipped = max(self._skipped, _CALM)
        elif self._skipped:
            self._skipped -= 1
        else:
            self._look(answer, time.monotonic() + self._longest_s)

    def _look(self, answer: asyncio.Future[Any], until: float) -> None:
        if answer.done():
            self._in_vain = 1
        elif time.monotonic() < until:
            answer.get_loop().call_soon(self._look, answer, until)  # a loop with something to do doesn't sleep
        else:
            self._in_vain = min(2 * self._in_vain, _MAX_SKIPPED)
            self._skipped = self._in_vain
