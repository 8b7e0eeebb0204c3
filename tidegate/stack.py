"""The whole system as processes of this machine: Triton, the gateway and Prometheus, for a laptop and for tests.

Where it is asked for, the fast lane of drift is one of them.

Each writes to a log of its own in `<state>/log`. They are ended in order, the gateway first so that it can answer what
it has in hand; should this process be killed outright, Linux ends them.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.table import Table

from tidegate.error import StackError

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0

_POLL_S = 0.1
_LOG_TAIL_LINES = 12
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where everything listens, on 127.0.0.1; None where it isn't run."""

    http: int = 8080
    grpc: int = 8081
    metrics: int = 8082
    triton: int = 8000
    triton_grpc: int = 8001
    triton_metrics: int = 8002
    prometheus: int = 9090
    fast_lane: int | None = None


@dataclass(slots=True)
class _Process:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines)


@dataclass(kw_only=True)
class Stack:
    """Triton, gateway and Prometheus over one repository."""

    repository: Path
    state: Path
    ports: Ports = field(default_factory=Ports)
    scrape_interval_s: int = 5
    routes: Path | None = None
    api_keys: Path | None = None
    processes: int = 1  # of the gateway; their metrics ports follow one another
    _processes: list[_Process] = field(default_factory=list, init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def url(self) -> str:
        """Address of the gateway."""
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def prometheus_url(self) -> str:
        """Address of Prometheus."""
        return f"http://127.0.0.1:{self.ports.prometheus}"

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, and stay until SIGINT or SIGTERM.

        Raises StackError when a part can't be started or ends; everything is stopped then.
        """
        with self._signals():
            try:
                self.start()
                if not self._stopping.is_set():
                    on_ready()
                while not self._stopping.wait(_POLL_S):
                    self._check_alive()
            finally:
                self.stop()

    def start(self) -> None:
        """Start everything and wait until a prediction can be asked for; raises StackError."""
        if not self.repository.is_dir():
            raise StackError(f"there is no model repository {self.repository}; `tidegate train` makes one")
        self._check_ports()
        for name, command, environment in self._commands():
            self._spawn(name, command, environment)
        self._wait({"the gateway": f"{self.url}/health/ready", "Prometheus": f"{self.prometheus_url}/-/ready"})

    def wait_for(self, model: str) -> None:
        """Wait until a model can be asked; raises StackError."""
        self._wait({f"model {model}": f"{self.url}/v2/models/{model}/ready"})

    def stop(self) -> None:
        """End everything, the gateway first; what doesn't end in time is killed."""
        for process in reversed(self._processes):
            process.popen.send_signal(signal.SIGTERM)
            try:
                process.popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
        self._processes.clear()

    def pid(self, name: str) -> int:
        """Process id of a part: `triton` (its supervisor), `gateway`, `prometheus` or `fast-lane`."""
        return next(process.popen.pid for process in self._processes if process.name == name)

    def _feedback_keys(self) -> Path:
        from gateway.key_ring import KeyRing

        path = self.state / "feedback.keys"
        if not path.exists():
            self.state.mkdir(parents=True, exist_ok=True)
            KeyRing.make(path)
        return path

    def _commands(self) -> Iterator[tuple[str, Sequence[str], Mapping[str, str | None]]]:
        from monitoring import command, find_binary, write_configuration

        ports = self.ports
        config = write_configuration(
            self.state / "prometheus",
            gateways=[f"127.0.0.1:{ports.metrics + number}" for number in range(self.processes)],
            tritons=[f"127.0.0.1:{ports.triton_metrics}"],
            detectors=[] if ports.fast_lane is None else [f"127.0.0.1:{ports.fast_lane}"],
            scrape_interval_s=self.scrape_interval_s,
        )
        data = self.state / "prometheus" / "data"
        yield "prometheus", command(find_binary("prometheus"), config, data, f"127.0.0.1:{ports.prometheus}"), {}
        if ports.fast_lane is not None:
            options = (f"--prometheus={self.prometheus_url}", f"--listen=127.0.0.1:{ports.fast_lane}")
            yield "fast-lane", [sys.executable, "-m", "monitoring.exporter", *options], {}
        yield (
            "triton",
            [
                *(sys.executable, "-m", "serving"),
                f"--repository={self.repository}",
                f"--state-dir={self.state / 'triton'}",
                f"--http-port={ports.triton}",
                f"--grpc-port={ports.triton_grpc}",
                f"--metrics-port={ports.triton_metrics}",
            ],
            {},
        )
        yield (
            "gateway",
            [sys.executable, "-m", "gateway"],
            {
                "TIDEGATE_REPOSITORY": str(self.repository),
                "TIDEGATE_FEEDBACK_KEYS": str(self._feedback_keys()),
                "TIDEGATE_API_KEYS": None if self.api_keys is None else str(self.api_keys),
                **({} if self.routes is None else {"TIDEGATE_ROUTES": str(self.routes)}),
                "TIDEGATE_TRITON": f"127.0.0.1:{ports.triton_grpc}",
                "TIDEGATE_HTTP_PORT": str(ports.http),
                "TIDEGATE_GRPC_PORT": str(ports.grpc),
                "TIDEGATE_METRICS_PORT": str(ports.metrics),
                "TIDEGATE_PROCESSES": str(self.processes),
            },
        )

    def _wait(self, waiting: Mapping[str, str]) -> None:
        """Until every address answers 200."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while waiting and not self._stopping.is_set():
            self._check_alive()
            waiting = {name: url for name, url in waiting.items() if not _answers(url)}
            if waiting and time.monotonic() > deadline:
                tails = "\n".join(f"{p.name} ({p.log}):\n{p.tail()}" for p in self._processes)
                raise StackError(f"{' and '.join(waiting)} not ready within {READY_TIMEOUT_S:.0f} s\n{tails}")
            self._stopping.wait(_POLL_S)

    def _spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str | None]) -> None:
        """Start a part; a variable of its environment that is None isn't passed on."""
        from serving import leash

        log = self.state / "log" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))  # why the last one ended is still to be read
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, "-I", leash.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={key: value for key, value in {**os.environ, **environment}.items() if value is not None},
                process_group=0,  # Ctrl-C reaches this process alone, and it ends the others in order
            )
        self._processes.append(_Process(name, popen, log))

    def _check_ports(self) -> None:
        for name in Ports.__dataclass_fields__:
            port = getattr(self.ports, name)
            if port is None:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as exc:
                    option = name.removesuffix("_grpc").removesuffix("_metrics").replace("_", "-")
                    raise StackError(
                        f"port {port} on 127.0.0.1 can't be had ({exc.strerror}): end what uses it, or choose another "
                        f"with `tidegate up --{option}-port`"
                    ) from None

    def _check_alive(self) -> None:
        for process in self._processes:
            code = process.popen.poll()
            if code is not None and not self._stopping.is_set():
                raise StackError(f"{process.name} ended with code {code}; the end of {process.log}:\n{process.tail()}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(_: int, __: FrameType | None) -> None:
            self._stopping.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def addresses(stack: Stack) -> Table:
    """Where to look, for a person."""
    ports = stack.ports
    table = Table(show_header=False, box=None)
    for what, where in (
        ("gateway", f"{stack.url}   (interactive documentation: {stack.url}/docs)"),
        ("gRPC", f"127.0.0.1:{ports.grpc}   (Open Inference Protocol: any tritonclient)"),
        ("metrics", f"http://127.0.0.1:{ports.metrics}/metrics   (Triton's: port {ports.triton_metrics})"),
        ("Prometheus", f"{stack.prometheus_url}/graph"),
        *([] if ports.fast_lane is None else [("fast lane", f"http://127.0.0.1:{ports.fast_lane}/metrics")]),
        ("boards", "monitoring/dashboards/; `tidegate dashboards push` sends them to a Grafana"),
        ("logs", f"{stack.state / 'log'}/ and {stack.state / 'triton'}/"),
    ):
        table.add_row(f"[bold]{what}[/]", where)
    return table


def _answers(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
