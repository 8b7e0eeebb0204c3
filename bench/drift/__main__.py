"""`python -m bench.drift`: how often drift detection cries wolf, how soon it sees a shift: our rules, and others'.

Parts can be run one by one, each takes minutes: `alarms`, `delays`, `peers`, `images`, `texts`, `cost`. What was
measured is kept in `run/bench/drift.json`; every run writes `docs/drift.md` between its marks and the picture beside it
anew.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench.drift.cost import counting_cost, fast_lane_cost
from bench.drift.image import image_sets
from bench.drift.library import LIBRARIES, DataSet, our_look, simulated, their_look
from bench.drift.measure import HARMLESS, alarms, delays
from bench.drift.page import write_page
from bench.drift.result import Costs, Evaluation, Look
from bench.drift.text import text_sets
from bench.error import BenchError
from bench.server import ROOT

STATE = ROOT / "run" / "bench" / "drift.json"
RATES = (10.0, 100.0)


def main() -> int:
    """Measure the chosen parts and write the page; returns the exit code."""
    options = _options()
    console = Console()
    for part in options.parts or PARTS:
        console.print(f"measuring {part}")
        PARTS[part](options, console)
    write_page(Evaluation.load(STATE), options.docs)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.drift", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without any")
    parser.add_argument("--months", type=int, default=2, help="months of each kind of harmless traffic")
    parser.add_argument("--traffic", choices=HARMLESS, nargs="+", default=list(HARMLESS), metavar="KIND")
    parser.add_argument("--libraries", choices=LIBRARIES, nargs="+", default=list(LIBRARIES), metavar="LIBRARY")
    parser.add_argument("--looks", type=int, default=40, help="looks at data sets of each kind")
    parser.add_argument("--seconds", type=float, default=20, help="after which a library begins no further look")
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository", help="holds Fashion-MNIST")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return options


def _alarms(options: argparse.Namespace, console: Console) -> None:
    for name in options.traffic:
        found = tuple(alarms(name, options.months, options.seed))
        known = Evaluation.load(STATE)
        kept = tuple(one for one in known.alarms if one.traffic != name)
        known.model_copy(update={"alarms": kept + found}).save(STATE)
        for one in found:
            console.print(f"{one.traffic}: {one.way}: {one.per_month:g} a month in {one.seconds:.0f} s")


def _delays(options: argparse.Namespace, console: Console) -> None:
    found = tuple(one for rate in RATES for one in delays(rate, options.seed))
    Evaluation.load(STATE).model_copy(update={"delays": found}).save(STATE)
    console.print(f"{len(found)} delays")


def _peers(options: argparse.Namespace, console: Console) -> None:
    _looks(list(simulated(options.looks, options.seed)), options, console)


def _real(
    part: str, sets: Callable[[Path, int, int], Iterator[DataSet]]
) -> Callable[[argparse.Namespace, Console], None]:
    def measured(options: argparse.Namespace, console: Console) -> None:
        try:
            found = list(sets(options.repository, options.looks, options.seed))
        except BenchError as exc:
            console.print(f"{part} are not measured: {exc}", markup=False)
            return
        _looks(found, options, console)

    return measured


def _looks(sets: Sequence[DataSet], options: argparse.Namespace, console: Console) -> None:
    """Ours and each library's looks, kept at once; one that can't be had is among the failures."""
    _keep([our_look(data) for data in sets])
    for library in options.libraries:
        try:
            _keep([their_look(LIBRARIES[library], data, STATE.parent, options.seconds) for data in sets])
            console.print(f"{library} has looked")
        except BenchError as exc:
            known = Evaluation.load(STATE)
            known.model_copy(update={"failures": tuple(dict.fromkeys((*known.failures, str(exc))))}).save(STATE)
            console.print(str(exc), markup=False)


def _keep(looks: Sequence[Look]) -> None:
    """Put looks in the place of those of the same at the same, and say no more that they failed."""
    known = Evaluation.load(STATE)
    new = {(look.way, look.data) for look in looks}
    kept = tuple(one for one in known.looks if (one.way, one.data) not in new)
    failures = tuple(one for one in known.failures if not one.startswith(tuple(f"{look.way}:" for look in looks)))
    known.model_copy(update={"looks": (*kept, *looks), "failures": failures}).save(STATE)


def _cost(options: argparse.Namespace, console: Console) -> None:
    counting = counting_cost()
    with tempfile.TemporaryDirectory() as scratch:
        lane = fast_lane_cost(Path(scratch))
    costs = Costs(**asdict(counting), lane_start_s=lane.start_s, lane_minute_ms=lane.minute_ms)
    Evaluation.load(STATE).model_copy(update={"costs": costs}).save(STATE)
    console.print(costs)


PARTS: dict[str, Callable[[argparse.Namespace, Console], None]] = {
    "alarms": _alarms,
    "delays": _delays,
    "peers": _peers,
    "images": _real("images", image_sets),
    "texts": _real("texts", text_sets),
    "cost": _cost,
}

if __name__ == "__main__":
    sys.exit(main())
