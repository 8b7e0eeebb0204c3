"""A whole stack on free ports: the real Triton, the gateway and the real Prometheus, as users run them."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contract import Repository
from serving.control import Control
from serving.launcher import Launcher, LaunchSettings
from serving.loader import Loader
from serving.runtime import Runtime, find
from tests.integration import triton
from tests.port import free_ports
from tidegate.stack import Ports, Stack


@contextmanager
def running_stack(repository: Path, state: Path, fast_lane: bool = False) -> Iterator[Stack]:
    """A ready stack, stopped at the end; its logs stay in `state`."""
    names = [name for name in Ports.__dataclass_fields__ if fast_lane or name != "fast_lane"]
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
    """`with stack_over(repository, state, fast_lane=False) as stack`."""
    return running_stack


@pytest.fixture(scope="session", name="wait_until")
def _wait_until() -> Any:
    """`wait_until(what, holds, timeout_s=60)`."""
    return wait_until


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return find(tmp_path_factory.mktemp("runtime"), venv=triton.VENV)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, runtime: Runtime) -> Iterator[triton.Serving]:
    root = tmp_path_factory.mktemp("serving")
    (root / "model_repository").mkdir()
    ports = triton.some_ports()
    settings = LaunchSettings(
        repository=root / "model_repository", state_dir=root / "state", ports=ports, stop_timeout_s=1.0
    )
    launcher = Launcher(runtime, settings)
    launcher.start()
    client = triton.Client(f"127.0.0.1:{ports.grpc}")
    repository = Repository(root / "model_repository")
    try:
        with Control(f"127.0.0.1:{ports.grpc}") as control:
            loader = Loader(repository, control, load_timeout_s=60)
            yield triton.Serving(repository=repository, launcher=launcher, loader=loader, client=client, ports=ports)
    finally:
        client.close()
        launcher.stop()


@pytest.fixture(autouse=True)
def no_models_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test begins and ends with an empty repository."""
    yield
    if "serving" in request.fixturenames:
        serving = request.getfixturevalue("serving")
        for folder in serving.repository.root.iterdir():
            shutil.rmtree(folder)
        serving.loader.reconcile()
