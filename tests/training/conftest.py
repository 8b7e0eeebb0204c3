"""The tiny recipe of `tiny.py`, and that file run as a process that is killed."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).with_name("tiny.py")
ROOT = SCRIPT.parents[2]


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """Everything that `tiny.py` defines."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="session")
def run_tiny() -> Callable[..., dict[str, str]]:
    """Run `tiny.py` with arguments; how each of its processes ended, by name."""

    def run(*arguments: object) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # A process that ends while the threads of a lost peer's group still wait is let go by C++ with these words.
        said = [line for line in done.stderr.splitlines() if line != "terminate called without an active exception"]
        assert not said, done.stderr
        return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())

    return run
