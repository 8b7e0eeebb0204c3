import logging
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from contract import Repository
from serving.control import Control
from serving.error import LaunchFailed
from serving.launcher import Launcher, LaunchSettings, Ports
from serving.loader import Loader
from serving.runtime import Runtime
from serving.supervisor import Supervisor, SupervisorSettings

MakeProgram = Callable[[str], Path]
Until = Callable[..., None]

FAST = SupervisorSettings(interval_s=0.02, backoff_min_s=0.01, backoff_max_s=0.02)


@pytest.fixture
def loader(tiny_repository: Repository, control: Control) -> Loader:
    return Loader(tiny_repository, control)


def test_without_a_launcher_only_models_are_kept_in_step(loader: Loader, stand_in: Any, until: Until) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=Supervisor(loader, None, stop=stop, settings=FAST).run)
    thread.start()
    try:
        until(lambda: stand_in.served == {"tiny": {1}})
        stand_in.served.clear()  # as after a restart by whoever runs it
        until(lambda: stand_in.served == {"tiny": {1}})
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_a_first_start_that_fails_is_raised(
    loader: Loader, make_program: MakeProgram, ports: Ports, tmp_path: Path
) -> None:
    settings = LaunchSettings(repository=tmp_path, state_dir=tmp_path, ports=ports)
    launcher = Launcher(Runtime(binary=make_program("exit 7"), description="a script"), settings)
    with pytest.raises(LaunchFailed, match="ended with code 7"):
        Supervisor(loader, launcher, stop=threading.Event(), settings=FAST).run()


def test_an_unreachable_triton_is_reported_once(
    tiny_repository: Repository, ports: Ports, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    with Control(f"127.0.0.1:{ports.grpc}", stop=stop) as nobody:
        loader = Loader(tiny_repository, nobody)
        supervisor = Supervisor(loader, None, stop=stop, settings=FAST)
        with caplog.at_level(logging.WARNING):
            thread = threading.Thread(target=supervisor.run)
            thread.start()
            until(lambda: "doesn't answer" in caplog.text)
            stop.set()
            thread.join(10)
    assert not thread.is_alive()


def test_an_absent_repository_is_no_reason_to_restart_triton(
    loader: Loader, tiny_repository: Repository, make_program: MakeProgram, ports: Ports, tmp_path: Path
) -> None:
    launcher = Launcher(
        Runtime(binary=make_program("exit 0"), description="a script"),
        LaunchSettings(repository=tmp_path, state_dir=tmp_path, ports=ports),
    )
    settings = SupervisorSettings(hang_timeout_s=1e-9)
    supervisor = Supervisor(loader, None, stop=threading.Event(), settings=settings)
    tiny_repository.root.rename(tmp_path / "away")
    before = supervisor._answered
    supervisor._step()
    assert supervisor._answered > before
    assert (supervisor._ailment(launcher) or "").startswith("Triton hasn't answered")


def test_pauses_grow_to_a_bound(loader: Loader) -> None:
    settings = SupervisorSettings(backoff_min_s=0.5, backoff_max_s=3)
    pauses = Supervisor(loader, None, stop=threading.Event(), settings=settings)._backoff()
    assert list(islice(pauses, 6)) == [0, 0.5, 1, 2, 3, 3]


@pytest.mark.parametrize(
    "fault", [{"interval_s": 0}, {"hang_timeout_s": 0}, {"backoff_min_s": 0}, {"backoff_min_s": 9, "backoff_max_s": 1}]
)
def test_settings_are_checked(fault: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        SupervisorSettings(**fault)
