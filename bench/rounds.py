"""One benchmark from start to end: the models, the servers, the rounds, and what came of them."""

import contextlib
import json
import shutil
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench.case import Case, counting_case, gateway_apart, peer_case, stack_cases, why_not_as_told
from bench.environment import Peer, install
from bench.error import BenchError, ServerError
from bench.kind import COUNTING, HOST, TITLES
from bench.machine import Machine, resident_mib, this_machine
from bench.measure import measure
from bench.model import PHOTO, TINY, Model, make_model
from bench.result import Failure, PeerNote, Result, Run
from bench.server import Server
from tidegate.stack import Ports, Stack

PORTS = Ports(
    http=18080, grpc=18081, metrics=18082, triton=18000, triton_grpc=18001, triton_metrics=18002, prometheus=19090
)


# What counting costs is less than what the machine does from one second to the next, and no more than two processes of
# one program differ by: many short turns tell it best, of several processes each.
COUNTING_STARTS, COUNTING_TURNS, COUNTING_TURN_S = 5, 8, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is measured, and how long. `state` is the folder that environments and logs of the peers stay in."""

    rounds: int
    seconds: int
    connections: Sequence[int]
    models: Sequence[str]
    kinds: Sequence[str]
    peers: Sequence[Peer]
    num_processes: int
    repository: Path
    state: Path
    command: str


@dataclass(slots=True)
class _Found:
    runs: list[Run] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: list[PeerNote] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)


def run_rounds(options: Options, scratch: Path, console: Console) -> Result:
    """Measure everything that was asked for; what can't be measured is among the result's failures.

    Then the servers' logs stay, in `options.state / "log"`.

    Raises StackError when Triton, the gateway or Prometheus can't be started.
    """
    found = _Found()
    repository = scratch / "model_repository"
    models = list(_models(options, repository, found))
    peers = _installed(options, found, console)
    with running_stack(repository, scratch, [model.name for model in models], options.num_processes) as stack:
        machine = machine_with_triton()
        for model in models:
            _measure_model(model, repository, peers, options, found, console)
            if model.name == TINY and set(options.kinds).issuperset(COUNTING):
                _measure_counting(model, repository, options, found, console)
        if found.failures:  # what the servers said of them would go with the scratch folder
            shutil.copytree(scratch / "log", options.state / "log", dirs_exist_ok=True)
        found.memory_mib |= {name: sum(resident_mib(stack.pid(name))) for name in ("gateway", "triton", "prometheus")}
    return Result(
        machine=machine,
        command=options.command,
        seconds=options.seconds,
        rounds=options.rounds,
        num_processes=options.num_processes,
        runs=tuple(found.runs),
        failures=tuple(found.failures),
        peers=tuple(found.notes),
        memory_mib=found.memory_mib,
    )


@contextlib.contextmanager
def running_stack(repository: Path, scratch: Path, models: Sequence[str], num_processes: int) -> Iterator[Stack]:
    """Triton, a gateway and Prometheus over the models, ready to be asked; raises StackError."""
    stack = Stack(repository=repository, state=scratch, ports=PORTS, processes=num_processes)
    try:
        stack.start()
        for model in models:
            stack.wait_for(model)
        yield stack
    finally:
        stack.stop()


def machine_with_triton() -> Machine:
    """What we run on, the version of the Triton that was started included."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{HOST}:{PORTS.triton}/v2", timeout=5) as answer:
        version = json.load(answer)["version"]
    machine = this_machine()
    return machine.model_copy(update={"versions": {"Triton": version} | machine.versions})


def _models(options: Options, repository: Path, found: _Found) -> Iterator[Model]:
    for name in options.models:
        try:
            yield make_model(name, repository, options.repository)
        except BenchError as exc:
            found.failures.append(Failure(model=name, reason=str(exc)))


def _installed(options: Options, found: _Found, console: Console) -> Mapping[str, Peer]:
    """The peers that there is an environment for, by id."""
    peers = {}
    for peer in options.peers:
        versions: Mapping[str, str] = {}
        try:
            with console.status(f"installing {peer.requirement} into an environment of its own"):
                versions = install(peer, options.state / peer.id)
            peers[peer.id] = peer
        except BenchError as exc:
            found.failures.append(Failure(model="every model", kind=peer.id, reason=str(exc)))
        found.notes.append(PeerNote(kind=peer.id, settings=peer.settings, versions=dict(versions)))
    return peers


def _measure_model(
    model: Model, repository: Path, peers: Mapping[str, Peer], options: Options, found: _Found, console: Console
) -> None:
    cases = [case for case in stack_cases(model, PORTS, options.connections) if case.kind.id in options.kinds]
    with contextlib.ExitStack() as ended:
        started = {}
        for server, case in _others(model, repository, peers, options):
            if reason := _start(server, case, console):
                found.failures.append(Failure(model=model.name, kind=case.kind.id, reason=reason))
                continue
            ended.callback(server.stop)
            started[case.kind.id] = server
            cases.append(case)
        _measured(cases, options.rounds, options.seconds, found, console)
        for kind, server in started.items():
            with contextlib.suppress(ServerError):  # one that ended has no figures, and they say why
                found.memory_mib[TITLES[kind]] = sum(resident_mib(server.pid))


def _measure_counting(model: Model, repository: Path, options: Options, found: _Found, console: Console) -> None:
    for start in range(COUNTING_STARTS):
        cases = []
        with contextlib.ExitStack() as ended:
            for kind in COUNTING:
                log = options.state / f"{kind}.log"
                server = gateway_apart(kind, repository, PORTS, options.num_processes, log)
                case = counting_case(kind, model, server, max(options.connections))
                if reason := _start(server, case, console):
                    found.failures.append(Failure(model=model.name, kind=kind, reason=reason))
                    return
                ended.callback(server.stop)
                cases.append(case)
            _measured(cases, COUNTING_TURNS, COUNTING_TURN_S, found, console, first=start * COUNTING_TURNS)
            for kind in COUNTING:
                if reason := why_not_as_told(kind, options.num_processes):
                    found.runs = [run for run in found.runs if run.kind != kind]
                    found.failures.append(Failure(model=model.name, kind=kind, reason=reason))
                    return


def _measured(
    cases: Sequence[Case], rounds: int, seconds: int, found: _Found, console: Console, *, first: int = 0
) -> None:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=(rounds + 1) * sum(len(case.shapes) for case in cases))
        runs, failures = measure(
            cases, rounds, seconds, lambda what: progress.update(task, advance=1, description=what)
        )
    found.runs += [run.model_copy(update={"round": first + run.round}) for run in runs]
    found.failures += failures


def _start(server: Server, case: Case, console: Console) -> str:
    """Start a server; why it can't be measured, empty if it can."""
    try:
        with console.status(f"{case.model}: starting {TITLES[case.kind.id]}"):
            server.start(case.kind)
    except BenchError as exc:
        return str(exc)
    return ""


def _others(
    model: Model, repository: Path, peers: Mapping[str, Peer], options: Options
) -> Iterator[tuple[Server, Case]]:
    """Servers beside the stack, with how each is asked."""
    if model.name != PHOTO:  # the peers have no decoding of their own to compare
        for peer in peers.values():
            server = peer.server(model, options.state / peer.id)
            yield server, peer_case(peer, model, server, options.connections)
