"""Real processes: a parent whose children carry the stub's name and arguments, and a child that dies."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.stub import StubWatch

Until = Callable[..., None]

# Starts each program given, shows its id, and never waits for it: the dead stay zombies, as with Triton.
PARENT = """
import os, sys
for stub, model in zip(sys.argv[1::2], sys.argv[2::2]):
    print(os.spawnv(os.P_NOWAIT, stub, [stub, model, "1000"]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[tuple[int, list[int]]]:
    """Process ids of a parent and its two stubs, of the models `one` and `two`."""
    stub = tmp_path / "triton_python_backend_stub"
    shutil.copy2(shutil.which("sh") or "/bin/sh", stub)
    arguments: list[str] = []
    for model in ("one", "two"):
        script = tmp_path / "repository" / model / "1" / "model.onnx"
        script.parent.mkdir(parents=True)
        script.write_text("read line < /dev/null; while :; do sleep 1; done\n")
        arguments += [str(stub), str(script)]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in arguments[::2]]
        yield parent.pid, children
        os.killpg(parent.pid, signal.SIGKILL)


def kill(pid: int, until: Until) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")


def see_both(watch: StubWatch, triton: int, until: Until) -> None:
    def seen() -> bool:
        assert watch.dead_models(triton, ["one", "two"]) == set()
        return set(watch._models.values()) == {"one", "two"}

    until(seen)


def test_a_dead_models_process_is_told_once_on_second_sight(triton: tuple[int, list[int]], until: Until) -> None:
    parent, (one, _) = triton
    watch = StubWatch()
    see_both(watch, parent, until)
    kill(one, until)
    told = [watch.dead_models(parent, ["one", "two"]) for _ in range(3)]
    assert told == [set(), {"one"}, set()]


def test_a_process_never_seen_alive_belongs_to_the_model_without_one(
    triton: tuple[int, list[int]], until: Until
) -> None:
    parent, (_, two) = triton
    kill(two, until)
    watch = StubWatch()
    until(lambda: "one" in (watch.dead_models(parent, []), *watch._models.values()))
    watch = StubWatch()
    told = [watch.dead_models(parent, ["one", "two"]) for _ in range(3)]
    assert told == [set(), {"two"}, set()]


def test_a_model_that_isnt_served_any_more_is_not_told(triton: tuple[int, list[int]], until: Until) -> None:
    parent, (one, _) = triton
    watch = StubWatch()
    see_both(watch, parent, until)
    kill(one, until)
    assert [watch.dead_models(parent, ["two"]) for _ in range(2)] == [set(), set()]


def test_a_process_that_is_gone_has_no_models() -> None:
    assert StubWatch().dead_models(2**22 + 1, ["one"]) == set()
