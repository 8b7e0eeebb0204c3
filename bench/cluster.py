"""`python -m bench cluster`: three gateways and three Tritons as processes; one Triton is killed, slowed, and cut off.

Requests come at a fixed rate, whatever becomes of the answers, to each gateway in turn. Between gateways and Tritons
stands a proxy that delays bytes or swallows them, as a sick host or a broken network would; a kill is SIGKILL.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console

from bench.error import BenchError
from bench.machine import Machine, this_machine
from bench.model import TINY, make_model
from bench.server import ROOT
from contract.document import Document
from serving import leash

HOST = "127.0.0.1"
NUM = 3
RATE = 150.0  # requests a second, over all gateways: a fifth of what two cores carry with all seven processes on them
PHASE_S = 12.0
DELAY_S = 0.25
TIMEOUT_S = 2.0  # of a client; the gateway's own deadline is sent along
READY_TIMEOUT_S = 90.0
_FIRST_PORT = 18300


class Sample(Document):
    """One request: when it was sent, in seconds from the start, how long it took in milliseconds, and its status.

    Status 0: no answer came within the client's time.
    """

    at_s: float
    took_ms: float
    status: int


class Phase(Document):
    """What was the matter for how long, and how many requests each Triton answered meanwhile."""

    name: str
    began_s: float
    ended_s: float
    answered: tuple[int, ...]


class ClusterResult(Document):
    """One run."""

    machine: Machine
    rate: float
    phases: tuple[Phase, ...]
    samples: tuple[Sample, ...]

    def of(self, phase: Phase) -> list[Sample]:
        """The requests that were sent in a phase."""
        return [each for each in self.samples if phase.began_s <= each.at_s < phase.ended_s]

    def recovered_after_s(self, phase: Phase) -> float | None:
        """Seconds from the phase's beginning until a second begins from which on no request fails in it.

        Slow requests count as failures here: those of more than three times the 99th percentile of the first phase.
        """
        limit = 3 * float(np.percentile([each.took_ms for each in self.of(self.phases[0])], 99))
        bad = [each.at_s for each in self.of(phase) if each.status != 200 or each.took_ms > limit]
        if not bad:
            return 0.0
        after = float(np.ceil(max(bad) - phase.began_s + 1e-9))
        return after if after < phase.ended_s - phase.began_s - 1 else None


def run(scratch: Path, published: Path, console: Console) -> ClusterResult:
    """Start everything, do the harm, and end everything; raises BenchError when a part can't be started."""
    repository = scratch / "model_repository"
    make_model(TINY, repository, published)
    return asyncio.run(_Simulation(scratch, repository, console).run())


@dataclass(slots=True)
class _Fault:
    """What a proxy does to the bytes of one Triton."""

    delay_s: float = 0.0
    cut: asyncio.Event = field(default_factory=asyncio.Event)  # set: connected

    def __post_init__(self) -> None:
        self.cut.set()


@dataclass(slots=True)
class _Child:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """SIGKILL to its whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(10)


class _Simulation:
    def __init__(self, scratch: Path, repository: Path, console: Console) -> None:
        self._scratch, self._repository, self._console = scratch, repository, console
        self._faults = [_Fault() for _ in range(NUM)]
        self._tritons: list[_Child] = []
        self._gateways: list[_Child] = []
        self._samples: list[Sample] = []
        self._phases: list[Phase] = []
        self._seen = [0.0] * NUM
        self._zero = 0.0

    async def run(self) -> ClusterResult:
        try:
            self._tritons = [self._start_triton(number) for number in range(NUM)]
            async with contextlib.AsyncExitStack() as stack:
                for number, fault in enumerate(self._faults):
                    await stack.enter_async_context(_proxy(_port("proxy", number), _port("grpc", number), fault))
                await self._until("Tritons", [f"http://{HOST}:{_port('http', n)}/v2/health/ready" for n in range(NUM)])
                self._gateways = [self._start_gateway(number) for number in range(NUM)]
                ready = [f"http://{HOST}:{_port('gateway', n)}/v2/models/{TINY}/ready" for n in range(NUM)]
                await self._until("gateways", ready)
                await self._do_harm()
        finally:
            for child in (*self._gateways, *self._tritons):
                child.popen.send_signal(signal.SIGTERM)
            for child in (*self._gateways, *self._tritons):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.popen.wait(15)
                child.kill()
        return ClusterResult(
            machine=this_machine(),
            rate=RATE,
            phases=tuple(self._phases),
            samples=tuple(sorted(self._samples, key=lambda each: each.at_s)),
        )

    async def _do_harm(self) -> None:
        self._zero = time.monotonic()
        load = asyncio.create_task(self._load())
        try:
            await asyncio.sleep(3)  # connections are made and the first calls are slow
            await self._phase("all well", lambda: None)
            await self._phase("one Triton killed", self._tritons[0].kill)
            self._tritons[0] = self._start_triton(0)
            await self._phase("started again", lambda: None)
            await self._phase("one Triton slow", lambda: self._slow(1, DELAY_S))
            await self._phase("fast again", lambda: self._slow(1, 0.0))
            await self._phase("one Triton cut off", self._faults[2].cut.clear)
            await self._phase("connected again", self._faults[2].cut.set)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)

    def _slow(self, number: int, delay_s: float) -> None:
        self._faults[number].delay_s = delay_s

    async def _phase(self, name: str, do: Callable[[], object]) -> None:
        began, before = time.monotonic() - self._zero, await asyncio.to_thread(self._answered)
        do()
        with self._console.status(name):
            await asyncio.sleep(PHASE_S)
        after = await asyncio.to_thread(self._answered)
        # A Triton that was started again counts from nothing.
        counts = tuple(int(b if b < a else b - a) for a, b in zip(before, after, strict=True))
        self._phases.append(Phase(name=name, began_s=began, ended_s=time.monotonic() - self._zero, answered=counts))

    def _answered(self) -> list[float]:
        """Samples that each Triton has inferred; what one that is down had, it keeps."""
        for number in range(NUM):
            with contextlib.suppress(OSError):
                text = _get(f"http://{HOST}:{_port('metrics', number)}/metrics").decode()
                lines = [line for line in text.splitlines() if line.startswith("nv_inference_count{")]
                self._seen[number] = sum(float(line.rpartition(" ")[2]) for line in lines)
        return list(self._seen)

    async def _load(self) -> None:
        body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]})
        urls = itertools.cycle(f"http://{HOST}:{_port('gateway', n)}/v2/models/{TINY}/infer" for n in range(NUM))
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        tasks: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:
            try:
                for number in itertools.count():
                    await asyncio.sleep(max(0.0, self._zero + number / RATE - time.monotonic()))
                    task = asyncio.create_task(self._ask(client, next(urls), body))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            finally:
                await asyncio.gather(*tasks)

    async def _ask(self, client: httpx.AsyncClient, url: str, body: str) -> None:
        started, status = time.monotonic(), 0
        headers = {"Content-Type": "application/json", "X-Request-Timeout-Ms": str(round(500 * TIMEOUT_S))}
        with contextlib.suppress(httpx.HTTPError):
            status = (await client.post(url, content=body, headers=headers)).status_code
        took = time.monotonic() - started
        self._samples.append(Sample(at_s=started - self._zero, took_ms=1000 * took, status=status))

    def _start_triton(self, number: int) -> _Child:
        command = [
            *(sys.executable, "-m", "serving"),
            f"--repository={self._repository}",
            f"--state-dir={self._scratch / f'triton{number}'}",
            f"--http-port={_port('http', number)}",
            f"--grpc-port={_port('grpc', number)}",
            f"--metrics-port={_port('metrics', number)}",
        ]
        return self._start(f"triton{number}", command, {})

    def _start_gateway(self, number: int) -> _Child:
        tritons = ",".join(f"{HOST}:{_port('proxy', n)}" for n in range(NUM))
        environment = {
            "TIDEGATE_REPOSITORY": str(self._repository),
            "TIDEGATE_TRITON": tritons,
            "TIDEGATE_HTTP_PORT": str(_port("gateway", number)),
            "TIDEGATE_GRPC_PORT": "0",
            "TIDEGATE_METRICS_PORT": "0",
            "TIDEGATE_SHARED_MEMORY_BYTES": "0",  # the Tritons stand for those of other hosts
        }
        return self._start(f"gateway{number}", [sys.executable, "-m", "gateway"], environment)

    def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> _Child:
        log = self._scratch / f"{name}.log"
        with log.open("ab") as file:
            popen = subprocess.Popen(
                [sys.executable, "-I", leash.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment, cwd=ROOT,
                process_group=0,
            )  # fmt: skip
        return _Child(name, popen, log)

    async def _until(self, what: str, urls: Sequence[str]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        with self._console.status(f"waiting for the {what}"):
            while not all([await asyncio.to_thread(_answers, url) for url in urls]):
                if time.monotonic() > deadline:
                    logs = ", ".join(str(child.log) for child in (*self._tritons, *self._gateways))
                    raise BenchError(f"the {what} aren't ready within {READY_TIMEOUT_S:.0f} s; see {logs}")
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _proxy(port: int, target: int, fault: _Fault) -> AsyncIterator[None]:
    """Bytes both ways, as the fault has it."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delayed: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await fault.cut.wait()
                if delayed and fault.delay_s:
                    await asyncio.sleep(fault.delay_s)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # at the end, with connections open
            await relay(reader, writer)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await fault.cut.wait()
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(HOST, target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, upstream_writer, delayed=False), pump(upstream_reader, writer, delayed=True))

    server = await asyncio.start_server(connected, HOST, port)
    try:
        yield
    finally:
        fault.cut.set()
        server.close()


def _port(what: str, number: int) -> int:
    kinds = ("http", "grpc", "metrics", "proxy", "gateway")
    return _FIRST_PORT + 10 * number + kinds.index(what)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        _get(url)
        return True
    return False


def _get(url: str) -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=2) as answer:
        content: bytes = answer.read()
    return content


def seconds(result: ClusterResult) -> Iterator[tuple[int, list[Sample]]]:
    """The requests of each second."""
    for second, group in itertools.groupby(result.samples, key=lambda each: int(each.at_s)):
        yield second, list(group)
