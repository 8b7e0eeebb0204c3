"""`python -m bench chess`: the tree search against its opponents, through the real stack or without servers."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench.case import metric_sum
from bench.error import BenchError
from bench.game import GREEDY, RANDOM, Match, Opponent, Searcher, play_match
from bench.game_network import LocalNetwork, NoNetwork, Position, ServedNetwork
from bench.kind import HOST
from bench.machine import Machine, this_machine
from bench.rounds import PORTS, running_stack
from bench.tree import Array, Effort, Network
from contract import Repository
from contract.document import Document
from contract.error import ContractError

MODEL = "chess"
SEED = 1997  # of openings and opponents

_METRICS = f"http://{HOST}:{PORTS.metrics}/metrics"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is played: `num_games` against each opponent, with the newest version in the repository."""

    repository: Path
    num_games: int
    effort: Effort
    local: bool
    command: str


class ChessResult(Document):
    """One run; `mean_batch` is samples a call to Triton, None where no server took part."""

    machine: Machine
    command: str
    model: str
    version: int
    effort: Effort
    matches: tuple[Match, ...]
    num_requests: int
    num_positions: int
    mean_batch: float | None
    wall_s: float


def run(plan: Plan, console: Console) -> ChessResult:
    """Play everything; raises BenchError, and StackError when a server can't be started."""
    repository = Repository(plan.repository)
    try:
        contract = repository.latest(MODEL)
    except ContractError as exc:
        raise BenchError(f"{exc}: publish it with `tidegate train chess-policy-value`") from exc
    version = contract.version
    position = Position(contract, repository.version_dir(MODEL, version))
    if plan.local:
        return asyncio.run(_play(plan, position, version, console))
    with tempfile.TemporaryDirectory() as scratch:
        alone = Path(scratch) / "model_repository"  # nothing else is loaded beside it
        shutil.copytree(plan.repository / MODEL, alone / MODEL)
        with running_stack(alone, Path(scratch), [MODEL], 1):
            return asyncio.run(_play(plan, position, version, console))


async def _play(plan: Plan, position: Position, version: int, console: Console) -> ChessResult:
    network: LocalNetwork | ServedNetwork
    network = LocalNetwork(position) if plan.local else ServedNetwork(position, f"{HOST}:{PORTS.grpc}")
    asked = _Counted(network)
    searcher = Searcher(asked, plan.effort)
    started = time.monotonic()
    matches = []
    try:
        with Progress(console=console, transient=True) as progress:
            for opponent in (RANDOM, GREEDY, control(position.columns, plan.effort)):
                task = progress.add_task(f"against {opponent.name}", total=plan.num_games)
                advance = partial(progress.advance, task)
                matches.append(await play_match(opponent, searcher, plan.num_games, SEED, advance))
    finally:
        await network.close()
    return ChessResult(
        machine=this_machine(),
        command=plan.command,
        model=MODEL,
        version=version,
        effort=plan.effort,
        matches=tuple(matches),
        num_requests=asked.num_requests,
        num_positions=asked.num_positions,
        mean_batch=None if plan.local else _mean_batch(),
        wall_s=time.monotonic() - started,
    )


def control(columns: Mapping[str, int], effort: Effort) -> Opponent:
    """The same search without a network, so that a match against it says what the network adds."""
    return Opponent("the same search, no network", lambda rng: Searcher(NoNetwork(columns, rng), effort))


class _Counted:
    """A network, and how often it was asked."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.columns = network.columns
        self.num_requests = self.num_positions = 0

    async def ask(self, fens: Sequence[str]) -> tuple[Array, Array]:
        """See Network."""
        self.num_requests += 1
        self.num_positions += len(fens)
        return await self._network.ask(fens)


def _mean_batch() -> float:
    """By the gateway's own histogram, what it was warmed up with included."""
    label = f'model="{MODEL}"'
    calls = metric_sum(_METRICS, "gateway_batch_size_count", label)
    return metric_sum(_METRICS, "gateway_batch_size_sum", label) / max(calls, 1)
