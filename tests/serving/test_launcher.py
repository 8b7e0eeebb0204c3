"""Real processes that behave badly; the real Triton runs in tests/integration/test_triton.py."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.error import LaunchFailed, PortInUse
from serving.launcher import Launcher, LaunchSettings, Ports
from serving.runtime import Runtime

MakeProgram = Callable[[str], Path]
Until = Callable[..., None]


@pytest.fixture
def launcher(tmp_path: Path, ports: Ports, make_program: MakeProgram) -> Callable[..., Launcher]:
    def make(text: str, start_timeout_s: float = 30.0) -> Launcher:
        settings = LaunchSettings(
            repository=tmp_path,
            state_dir=tmp_path / "state",
            ports=ports,
            start_timeout_s=start_timeout_s,
            stop_timeout_s=0.5,
        )
        return Launcher(Runtime(binary=make_program(text), description="a script"), settings)

    return make


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_program_that_ends_at_once_shows_its_last_lines(launcher: Callable[..., Launcher], tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed) as caught:
        launcher("echo first; echo the reason >&2; exit 3").start()
    sentence, *tail = str(caught.value).splitlines()
    log = tmp_path / "state" / "triton.log"
    assert sentence == f"Triton ended with code 3 before it was ready; the last lines of {log}:"
    assert tail == ["first", "the reason"]


def test_a_program_that_ends_silently_says_so(launcher: Callable[..., Launcher]) -> None:
    with pytest.raises(LaunchFailed, match=r"^Triton was ended by SIGSEGV before it was ready; it wrote nothing to"):
        launcher("kill -SEGV $$").start()


def test_a_program_that_never_gets_ready_is_stopped_at_the_deadline(launcher: Callable[..., Launcher]) -> None:
    slow = launcher("echo loading; sleep 100", start_timeout_s=0.5)
    with pytest.raises(LaunchFailed, match=r"(?s)^Triton wasn't ready within 0.5 s and was stopped; .*loading$"):
        slow.start()
    assert slow.pid is None
    assert slow.exit_reason() is None


def test_a_file_that_is_no_program_is_named(tmp_path: Path, ports: Ports) -> None:
    binary = tmp_path / "triton"
    binary.write_bytes(b"\x7fELF no")
    binary.chmod(0o755)
    settings = LaunchSettings(repository=tmp_path, state_dir=tmp_path, ports=ports)
    with pytest.raises(LaunchFailed, match=r"(?s)ended with code 1 before it was ready.*Exec format error"):
        Launcher(Runtime(binary=binary, description="no program"), settings).start()


@pytest.mark.parametrize("taken", ["http", "grpc", "metrics"])
def test_a_port_in_use_is_one_clear_sentence(launcher: Callable[..., Launcher], ports: Ports, taken: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", getattr(ports, taken)))
        other.listen()
        with pytest.raises(PortInUse) as caught:
            launcher("sleep 100").start()
    assert str(caught.value) == (
        f"Triton can't listen on 127.0.0.1:{getattr(ports, taken)} (Address already in use): "
        f"end what uses it, or choose another --{taken}-port"
    )


def test_stop_kills_what_ignores_it_and_its_children(
    launcher: Callable[..., Launcher], tmp_path: Path, until: Until
) -> None:
    stubborn = launcher(f"trap '' TERM; sleep 100 & echo $! > {tmp_path}/child; echo up; wait; sleep 100", 1.0)
    with pytest.raises(LaunchFailed):
        stubborn.start()
    child = int((tmp_path / "child").read_text())
    until(lambda: not is_running(child))


def test_triton_ends_when_its_launcher_is_killed(tmp_path: Path, until: Until) -> None:
    """The launcher gets no chance to stop it: Linux does."""
    script = """
import os, subprocess, sys
from serving import leash
child = subprocess.Popen([sys.executable, "-I", leash.__file__, str(os.getpid()), "/bin/sleep", "100"])
print(child.pid, flush=True)
child.wait()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(lambda: Path(f"/proc/{child}/comm").read_text().strip() == "sleep")
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not is_running(child))


@pytest.mark.parametrize("ports", [(8000, 8000, 8002), (0, 8001, 8002), (8000, 8001, 70000)])
def test_ports_are_checked(ports: tuple[int, int, int]) -> None:
    http, grpc, metrics = ports
    with pytest.raises(ValueError, match="port"):
        Ports(http=http, grpc=grpc, metrics=metrics)


@pytest.mark.parametrize("fault", [{"start_timeout_s": 0}, {"stop_timeout_s": -1}])
def test_deadlines_are_checked(fault: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above zero"):
        LaunchSettings(repository=Path(), state_dir=Path(), **fault)  # type: ignore[arg-type]
