"""Calls made apart from those who wait for them: nobody waits longer than he wants, and the call goes on to its end.

A server that isn't told of a client's leaving is still at work on its call. So that whoever asks and leaves, again and
again, can't pile up work there, those calls count until they end.
"""

import asyncio
import time
from collections.abc import Coroutine, Set
from typing import Any, TypeVar

from gateway.error import DeadlineExceeded, Overloaded

_T = TypeVar("_T")


class Errands:
    """At most so many calls at a time, those included that nobody waits for any more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, _T], deadline: float) -> _T:
        """Make a call, and wait for its end until `deadline` (monotonic seconds).

        Raises DeadlineExceeded, Overloaded when there are too many, or what the call raised. It is cancelled when
        nobody waits for it any more; how long it goes on then is up to it.
        """
        if deadline <= time.monotonic():
            call.close()
            raise DeadlineExceeded("the request's time was up before the model was asked")
        if len(self._tasks) >= self._most:
            call.close()
            raise Overloaded(f"the inference servers are at work on {self._most} calls, the gateway's limit")
        task = asyncio.get_running_loop().create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded("the request's time was up before the model answered") from None
        finally:
            task.cancel()  # does nothing to one that has ended

    @property
    def tasks(self) -> Set[asyncio.Task[Any]]:
        """The calls that go on."""
        return self._tasks

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may have been there to see it
