"""`python -m bench`: the gateway beside Triton asked directly and beside its peers, in one run, in turns, as ratios.

`python -m bench soak` asks a gateway a million times and watches its memory. Both write their figures into
`run/bench/` and, with those of the other's last run, into `docs/bench.md`. `python -m bench engines` compiles what is
published for every target and precision, and writes `docs/engines.md`; `python -m bench recipes` trains, publishes and
asks every recipe, and writes `docs/recipes.md`; `python -m bench cluster` harms one Triton of three, and writes
`docs/scaling.md`; `python -m bench ablation` trains one network with one choice changed at a time, and writes
`docs/ablation.md`; `python -m bench chess` plays chess through the gateway, and writes `docs/chess.md`. Nothing else
should run on the machine meanwhile: the load generator and the servers share its cores.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.environment import PEERS
from bench.error import BenchError
from bench.kind import HOST, TITLES, v2_json
from bench.load import require_tools
from bench.model import FASHION, PHOTO, TINY, make_model
from bench.plot import draw
from bench.report import MODEL_COLUMNS, TARGET_COLUMNS, failure_lines, markdown, model_rows, target_rows
from bench.result import Result, Soak
from bench.rounds import PORTS, Options, machine_with_triton, run_rounds, running_stack
from bench.server import ROOT
from bench.soak import SHAPE, soak
from bench.target import targets
from tidegate.error import StackError

MODELS = (TINY, FASHION, PHOTO)
PEER_IDS = tuple(peer.id for peer in PEERS)
KINDS = tuple(kind for kind in TITLES if kind not in PEER_IDS)

STATE = ROOT / "run" / "bench"
CATALOGUE = ROOT / "run" / "catalogue"
RESULT, SOAK = STATE / "result.json", STATE / "soak.json"
PAGE, PICTURE = "bench.md", "bench.png"


def main() -> int:
    """Measure, print, and write; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended in order
    options = _options()
    console = Console()
    if options.what == "engines":
        return _engines(options, console)
    if options.what == "recipes":
        return _recipes(options, console)
    if options.what == "cluster":
        return _cluster(options, console)
    if options.what == "chess":
        return _chess(options, console)
    if options.what == "ablation":
        return _ablation(options, console)
    os.environ["TIDEGATE_PROCESSES"] = str(options.processes)
    STATE.mkdir(parents=True, exist_ok=True)
    try:
        require_tools()
        with tempfile.TemporaryDirectory() as scratch:
            if options.what == "soak":
                SOAK.write_text(_soak(options, Path(scratch), console).model_dump_json(indent=1))
            else:
                RESULT.write_text(run_rounds(_chosen(options), Path(scratch), console).model_dump_json(indent=1))
    except (BenchError, StackError) as exc:
        console.print(f"bench: {exc}", markup=False)
        return 1
    _report(options.docs, console)
    return 0


def _engines(options: argparse.Namespace, console: Console) -> int:
    """The engines of the published models, and the latency of the same model elsewhere."""
    from bench.engine import run  # these load torch, which must not sit beside the servers
    from bench.engine_page import write

    try:
        write(run(options.repository, console), options.docs)
    except BenchError as exc:
        console.print(f"bench: {exc}", markup=False)
        return 1
    return 0


def _recipes(options: argparse.Namespace, console: Console) -> int:
    """The table of all recipes, those that may be trained first where they aren't yet."""
    from bench.recipe import run
    from bench.recipe_page import COLUMNS, cells, write
    from training.error import RecipeNotFound
    from training.recipe import find, names

    recipes = [find(name) for name in names()]
    try:
        trained = recipes if options.recipes is None else [find(name) for name in options.recipes]
        result = run(CATALOGUE, console, recipes, trained={recipe.name for recipe in trained})
    except (BenchError, RecipeNotFound, StackError) as exc:
        console.print(f"bench: {exc}", markup=False)
        return 1
    write(result, options.docs)
    console.print(_table("recipes", COLUMNS, map(cells, result.rows)))
    for name, reason in result.failures.items():
        console.print(f"not there: {name}: {reason}", markup=False)
    return int(bool(result.failures))


def _cluster(options: argparse.Namespace, console: Console) -> int:
    """Three gateways and three Tritons under faults, and a gateway with many models."""
    from bench import cluster, many
    from bench.cluster_page import COLUMNS, MANY_COLUMNS, WATCHED_COLUMNS, cells, many_cells, watched_cells, write

    try:
        with tempfile.TemporaryDirectory() as scratch:
            rows = many.run(Path(scratch), options.repository, (10, 100, 1000))
            with console.status("a Prometheus and its rules"):
                watched = [many.watch(Path(scratch), number) for number in (10, 50)]
            result = cluster.run(Path(scratch), options.repository, console)
    except BenchError as exc:
        console.print(f"bench: {exc}", markup=False)
        return 1
    write(result, rows, watched, options.docs)
    console.print(_table("under faults", COLUMNS, [cells(result, phase) for phase in result.phases]))
    console.print(_table("many models", MANY_COLUMNS, map(many_cells, rows)))
    console.print(_table("watched", WATCHED_COLUMNS, map(watched_cells, watched)))
    return 0


def _ablation(options: argparse.Namespace, console: Console) -> int:
    """One network, trained with one choice changed at a time."""
    from bench.ablation import run
    from bench.ablation_page import COLUMNS, rows, write
    from training.error import TrainingError

    try:
        result = run(STATE, console)
    except TrainingError as exc:
        console.print(f"bench: {exc}", markup=False)
        return 1
    write(result, options.docs)
    console.print(_table("ablation", COLUMNS, rows(result)))
    return 0


def _chess(options: argparse.Namespace, console: Console) -> int:
    """A tree search that asks the gateway, against players that know less."""
    from bench.chess_page import COLUMNS, cells, write
    from bench.chess_run import Plan, run
    from bench.tree import Effort

    effort = Effort(num_simulations=options.simulations)
    plan = Plan(
        repository=options.repository,
        num_games=options.games,
        effort=effort,
        local=options.local,
        command=_command(),
    )
    try:
        result = run(plan, console)
    except (BenchError, StackError) as exc:
        console.print(f"bench: {exc}", markup=False)
        return 1
    console.print(_table("chess", COLUMNS, map(cells, result.matches)))
    write(result, options.docs)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the gateway beside Triton and beside other servers, or its memory over many requests.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("rounds", "soak", "engines", "recipes", "cluster", "ablation", "chess"),
        default="rounds",
    )
    training = parser.add_mutually_exclusive_group()
    training.add_argument(
        "--recipes", nargs="+", metavar="RECIPE", help="`recipes`: train only these; the table shows all published ones"
    )
    training.add_argument(
        "--no-training", dest="recipes", action="store_const", const=(), help="`recipes`: train none of them"
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="measurements of each cell, in turns")
    parser.add_argument("--seconds", type=_positive, default=2, help="length of one measurement")
    parser.add_argument("--connections", type=_positive, nargs="+", default=[1, 16, 64])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL", help=" ".join(MODELS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=" ".join(KINDS))
    parser.add_argument(
        "--peers", nargs="+", choices=PEER_IDS, default=PEER_IDS, metavar="PEER", help=" ".join(PEER_IDS)
    )
    parser.add_argument("--no-peers", action="store_const", const=(), dest="peers", help="no other servers")
    parser.add_argument("--processes", type=_positive, default=1, help="gateway processes")
    parser.add_argument("--requests", type=_positive, default=1_000_000, help="requests of `soak`")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="holds Fashion-MNIST")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help=f"folder for {PAGE} and {PICTURE}")
    parser.add_argument("--games", type=_positive, default=100, help="games of `chess` against each opponent")
    parser.add_argument("--simulations", type=_positive, default=96, help="simulations a move of `chess`")
    parser.add_argument("--local", action="store_true", help="`chess` without servers, for trying its search")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def _chosen(options: argparse.Namespace) -> Options:
    return Options(
        rounds=options.rounds,
        seconds=options.seconds,
        connections=options.connections,
        models=options.models,
        kinds=options.kinds,
        peers=[peer for peer in PEERS if peer.id in options.peers],
        num_processes=options.processes,
        repository=options.repository,
        state=STATE,
        command=_command(),
    )


def _soak(options: argparse.Namespace, scratch: Path, console: Console) -> Soak:
    repository = scratch / "model_repository"
    model = make_model(TINY, repository, options.repository)
    kind = v2_json("gateway-json", f"http://{HOST}:{PORTS.http}/v2/models/{TINY}/infer", model)
    with running_stack(repository, scratch, [TINY], options.processes) as stack, console.status("warming up") as status:
        return Soak(
            machine=machine_with_triton(),
            command=_command(),
            connections=SHAPE.connections,
            num_processes=options.processes,
            samples=soak(kind, stack.pid("gateway"), options.requests, status.update),
        )


def _command() -> str:
    return " ".join(["python -m bench", *sys.argv[1:]])


def _report(docs: Path, console: Console) -> None:
    """Print and write what the last runs of both commands found."""
    result = Result.model_validate_json(RESULT.read_bytes()) if RESULT.is_file() else None
    watched = Soak.model_validate_json(SOAK.read_bytes()) if SOAK.is_file() else None
    docs.mkdir(parents=True, exist_ok=True)
    drawn = result is not None and draw(result, docs / PICTURE)
    (docs / PAGE).write_text(markdown(result, watched, PICTURE if drawn else None), encoding="utf-8")
    if result is not None:
        for model in result.models():
            console.print(_table(model, MODEL_COLUMNS, model_rows(result, model)))
        for line in failure_lines(result.failures):
            console.print(f"not measured: {line}", markup=False)
    console.print(_table("targets", TARGET_COLUMNS, target_rows(targets(result, watched))))
    console.print(f"written: {docs / PAGE}")


def _table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=None)
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    sys.exit(main())
