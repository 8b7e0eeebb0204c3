"""Processes of other servers under measurement: started, kept from disturbing one another, and ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.error import BenchError, ServerError
from bench.kind import Kind
from serving import leash

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0

_POLL_S = 0.2
_TAIL_CHARACTERS = 300


@dataclass(kw_only=True)
class Server:
    """A server that is a process group of its own, with its output in `log`; `pid` is known once it was started.

    `suspend` keeps it from running while it isn't `awake`.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    suspend: bool = False
    pid: int = field(default=0, init=False)
    _popen: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self, kind: Kind) -> None:
        """Start it and wait until it answers rightly; raises ServerError, and nothing is left running then."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as file:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", leash.__file__, str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                cwd=ROOT,
                process_group=0,
            )
        self.pid = self._popen.pid
        try:
            self._wait(self._popen, kind)
            self._pause(signal.SIGSTOP)
        except BaseException:
            self.stop()
            raise

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run."""
        self._pause(signal.SIGCONT)
        try:
            yield
        finally:
            self._pause(signal.SIGSTOP)

    def stop(self) -> None:
        """End its process group."""
        if self._popen is None:
            return
        self._pause(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(STOP_TIMEOUT_S)
        self._signal(signal.SIGKILL)  # also what outlived its parent
        self._popen.wait()
        self._popen = None

    def _wait(self, popen: subprocess.Popen[bytes], kind: Kind) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if popen.poll() is not None:
                raise ServerError(f"{self.name} ended with code {popen.returncode}: {self._tail()}")
            try:
                kind.check()
            except BenchError as exc:
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not answer rightly {START_TIMEOUT_S:.0f} s on: {exc}") from exc
                time.sleep(_POLL_S)
            else:
                return

    def _tail(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return " ".join(text[-_TAIL_CHARACTERS:].split())

    def _pause(self, number: int) -> None:
        if self.suspend:
            self._signal(number)

    def _signal(self, number: int) -> None:
        assert self._popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)
