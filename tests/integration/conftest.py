"""A whole stack on free ports: the real Triton, the gateway and the real Prometheus, as users run them."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tidegate.stack import Ports, Stack

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on: all held at once, so that they differ, and let go."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def running_stack(repository: Path, state: Path) -> Iterator[Stack]:
    """A ready stack, stopped at the end; its logs stay in `state`."""
    names = Ports.__dataclass_fields__
    ports = Ports(**dict(zip(names, free_ports(len(names)), strict=True)))
    stack = Stack(repository=repository, state=state, ports=ports, scrape_interval_s=1)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def wait_until(what: str, holds: Callable[[], Any], timeout_s: float = 60) -> Any:
    """The first truthy answer; AssertionError naming what didn't come to hold."""
    deadline = time.monotonic() + timeout_s
    while True:
        if answer := holds():
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def stack_over() -> Any:
    """`with stack_over(repository, state) as stack`."""
    return running_stack


@pytest.fixture(scope="session", name="free_ports")
def _free_ports() -> Any:
    """`free_ports(count)`: ports that nobody listens on."""
    return free_ports


@pytest.fixture(scope="session", name="wait_until")
def _wait_until() -> Any:
    """`wait_until(what, holds, timeout_s=60)`."""
    return wait_until
