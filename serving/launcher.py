"""Triton as a child process: started with the settings we serve with, waited for, and stopped.

`--strict-readiness=false`: Triton is ready even though a model failed, because the others serve. What a model needs is
in its `config.pbtxt`, so nothing is completed by guessing (`--disable-auto-complete-config`, which also saves starting
every Python model twice). Latency summaries stay off: they cost a third of the throughput
(triton-inference-server/server#8561), and they don't add up over replicas anyway.
"""

import contextlib
import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from serving import leash
from serving.error import LaunchFailed, PortInUse
from serving.logfile import LogFile
from serving.runtime import Runtime

_LOG = logging.getLogger(__name__)
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_POLL_S = 0.02
_KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where Triton listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    def __post_init__(self) -> None:
        if len({self.http, self.grpc, self.metrics}) != 3:
            raise ValueError(f"Triton's three ports must differ, got {self.http}, {self.grpc}, {self.metrics}")
        for port in (self.http, self.grpc, self.metrics):
            if not 1 <= port <= 65535:
                raise ValueError(f"expected a port from 1 to 65535, got {port}")


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """How Triton is started and stopped; `stop_timeout_s` is from SIGTERM to SIGKILL."""

    repository: Path
    state_dir: Path
    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 4.0

    def __post_init__(self) -> None:
        if self.start_timeout_s <= 0 or self.stop_timeout_s <= 0:
            raise ValueError("start_timeout_s and stop_timeout_s must be above zero")


class Launcher:
    """Owns one Triton process.

    Start it from a thread that lives as long as Triton should: Linux ends Triton when that thread ends.
    """

    def __init__(self, runtime: Runtime, settings: LaunchSettings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._shared_memory_prefix = f"tidegate_{os.getpid()}_{settings.ports.grpc}_"
        self.log = LogFile(settings.state_dir / "triton.log")

    @property
    def pid(self) -> int | None:
        """Process id while Triton runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start Triton and wait until it is ready.

        Raises PortInUse, or LaunchFailed with the log's last lines; nothing is left running then.
        """
        if self.pid is not None:
            raise LaunchFailed(f"Triton runs already, as process {self.pid}")
        started = time.monotonic()
        self._check_ports()
        self._spawn()
        try:
            self._wait_until_ready(started + self._settings.start_timeout_s)
        except BaseException:
            self.stop()
            raise
        _LOG.info(
            "Triton is ready after %.2f s: process %s, HTTP %d, gRPC %d, metrics %d (%s)",
            time.monotonic() - started, self.pid, *self._ports(), self._runtime.description,
        )  # fmt: skip

    def exit_reason(self) -> str | None:
        """Why Triton ended, in one sentence; None while it runs."""
        code = self._process.poll() if self._process is not None else None
        return None if code is None else f"Triton {_describe_exit(code)}"

    def stop(self) -> None:
        """End Triton and whatever it started: SIGTERM, then SIGKILL after `stop_timeout_s`."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(self._settings.stop_timeout_s)
            except subprocess.TimeoutExpired:
                _LOG.warning("Triton didn't stop within %.0f s and is killed", self._settings.stop_timeout_s)
        self._kill_group(process)

    def _ports(self) -> tuple[int, int, int]:
        ports = self._settings.ports
        return ports.http, ports.grpc, ports.metrics

    def _check_ports(self) -> None:
        """Triton would find out after a while, one by one, and say it in twenty lines."""
        for use, port in zip(("http", "grpc", "metrics"), self._ports(), strict=True):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self._settings.host, port))
                except OSError as exc:
                    raise PortInUse(
                        f"Triton can't listen on {self._settings.host}:{port} ({exc.strerror}): "
                        f"end what uses it, or choose another --{use}-port"
                    ) from exc

    def _spawn(self) -> None:
        with self.log.open() as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", leash.__file__, str(os.getpid()), str(self._runtime.binary), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self._runtime.environment) or None,
                process_group=0,  # a Ctrl-C in the terminal reaches us alone, and we stop Triton in order
            )

    def _arguments(self) -> list[str]:
        settings, ports = self._settings, self._settings.ports
        arguments = [
            f"--model-repository={settings.repository.absolute()}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            "--exit-on-error=false",
            "--strict-readiness=false",
            f"--exit-timeout-secs={max(1, int(settings.stop_timeout_s) - 1)}",
            f"--http-address={settings.host}",
            f"--http-port={ports.http}",
            f"--grpc-address={settings.host}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-address={settings.host}",
            f"--metrics-port={ports.metrics}",
            "--allow-metrics=true",
            "--allow-cpu-metrics=true",
            "--metrics-config=summary_latencies=false",
            "--log-format=ISO8601",
        ]
        if self._runtime.uses_stubs:
            arguments.append(f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}")
        return [*arguments, *self._runtime.arguments]

    def _wait_until_ready(self, deadline: float) -> None:
        while not self._is_ready():
            if (reason := self.exit_reason()) is not None:
                raise LaunchFailed(self._with_log(f"{reason} before it was ready"))
            if time.monotonic() >= deadline:
                raise LaunchFailed(
                    self._with_log(f"Triton wasn't ready within {self._settings.start_timeout_s:g} s and was stopped")
                )
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self._settings.host, self._settings.ports.http, timeout=1.0)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _with_log(self, sentence: str) -> str:
        tail = self.log.tail()
        where = self.log.path
        return f"{sentence}; the last lines of {where}:\n{tail}" if tail else f"{sentence}; it wrote nothing to {where}"

    def _kill_group(self, process: subprocess.Popen[bytes]) -> None:
        """End what is left of the process group, and remove the shared memory that killed stubs leave behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_KILL_TIMEOUT_S)
        for region in _SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
            region.unlink(missing_ok=True)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
