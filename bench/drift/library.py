"""Other libraries' looks at the same data sets, each in its own environment in `run/bench`, and ours beside them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.drift.evaluator import Evaluator
from bench.drift.result import Look
from bench.drift.ruling import STEP_S, record, rules
from bench.drift.traffic import CATEGORY_SHARES, NULL, NUM_CATEGORICAL, NUM_ORDERED, Distribution, Model, counters
from bench.error import BenchError
from contract.profile import Feature, categorical_feature, ordered_feature
from monitoring.drift import WINDOWS

Floats = NDArray[np.float64]

NUM_REFERENCE, NUM_SAMPLES = 5_000, 600
OURS = "our rules, 1 h window"
SCRIPT = Path(__file__).parents[1] / "peer" / "drift.py"
INSTALL_TIMEOUT_S, SLACK_S = 900, 120
_HOUR = WINDOWS[:1]
_QUIET = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1"}  # two of them tell their makers of their use


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """What is installed, and what it is called."""

    name: str
    requirements: tuple[str, ...]


_ALL = (
    Library(name="evidently", requirements=("evidently==0.7.23", "pandas<3")),  # can't be imported under pandas 3
    Library(name="nannyml", requirements=("nannyml==0.13.1", "pandas<3", "statsmodels")),
    Library(name="alibi-detect", requirements=("alibi-detect==0.13.0",)),
    Library(name="frouros", requirements=("frouros==0.9.0",)),
)
LIBRARIES = {library.name: library for library in _ALL}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A reference `[M, F]`, looks at other samples `[L, N, F]`, and which columns are categories, and have shifted."""

    name: str
    features: Sequence[str]
    reference: Floats
    looks: Floats
    categorical: NDArray[np.bool_]
    shifted: Sequence[int] = ()
    note: str = ""


def simulated(num_looks: int, seed: int) -> Iterator[DataSet]:
    """Thirty features without a shift, and with one of every kind in one of them."""
    shifts: dict[str, tuple[Distribution, float]] = {
        "no shift": (NULL, 0.0),
        "location 0.25 sd": (Distribution(location=0.25), 0.0),
        "variance x 1.5": (Distribution(scale=1.5**0.5), 0.0),
        "5 % outliers": (Distribution(outliers=0.05), 0.0),
        "3 % of a category to the rarest": (NULL, 0.03),
    }
    categorical = np.arange(NUM_ORDERED + NUM_CATEGORICAL) >= NUM_ORDERED
    names = [f"x{i:02d}" for i in range(len(categorical))]
    for number, (name, (shifted, moved)) in enumerate(shifts.items()):
        random = np.random.default_rng((seed, number))
        looks = [_rows(random, NUM_SAMPLES, shifted, moved) for _ in range(num_looks)]
        where = () if name == "no shift" else (NUM_ORDERED,) if moved else (0,)
        reference = _rows(random, NUM_REFERENCE, NULL, 0)
        yield DataSet(
            name=name,
            features=names,
            reference=reference,
            looks=np.stack(looks),
            categorical=categorical,
            shifted=where,
        )


def our_look(data: DataSet) -> Look:
    """One look by the rules of the hour's window at each set of samples, as if they were its traffic."""
    model = Model(features=tuple(_profiles(data)), num_samples=len(data.reference))
    started = time.monotonic()
    flags = [_flagged(model, values) for values in data.looks]
    return _look(OURS, "", data, flags, (time.monotonic() - started) / len(flags))


def their_look(library: Library, data: DataSet, folder: Path, limit_s: float) -> Look:
    """The same by a library, for so many seconds; raises BenchError when it can't be installed or fails."""
    home = folder / f"drift-{library.name}"
    python = _installed(library, home)
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "in.npz", Path(scratch) / "out.json"
        np.savez(source, reference=data.reference, looks=data.looks, categorical=data.categorical)
        line = [str(python), str(SCRIPT), library.name, str(source), str(target), str(limit_s)]
        _run(line, limit_s + SLACK_S, library, {**_QUIET, "HOME": str(home.resolve())})
        found = json.loads(target.read_text(encoding="utf-8"))
    return _look(library.name, found["version"], data, found["flags"], found["seconds"])


def _look(way: str, version: str, data: DataSet, flags: Sequence[Sequence[bool]], seconds: float) -> Look:
    table = np.array(flags, bool)
    return Look(
        way=way,
        version=version,
        data=data.name,
        num_samples=data.looks.shape[1],
        looks=len(table),
        flagged=int(table.any(axis=1).sum()),
        found=int(table[:, list(data.shifted)].all(axis=1).sum()) if data.shifted else None,
        seconds_a_look=seconds,
        note=data.note,
    )


def _rows(random: np.random.Generator, num: int, shifted: Distribution, moved: float) -> Floats:
    """Rows `[num, F]`, of which the first feature of a kind may have shifted."""
    ordered = random.normal(size=(num, NUM_ORDERED))
    if shifted != NULL:
        ordered[:, 0] = shifted.draw(random, num)
    categories = random.choice(8, size=(num, NUM_CATEGORICAL), p=CATEGORY_SHARES)
    if moved:
        categories[:, 0] = random.choice(
            8, size=num, p=CATEGORY_SHARES + moved * (np.arange(8) == 7) - moved * (np.arange(8) == 0)
        )
    return np.concatenate([ordered, categories], axis=1)


def _profiles(data: DataSet) -> Iterator[Feature]:
    for name, values, is_category in zip(data.features, data.reference.T, data.categorical, strict=True):
        if is_category:
            labels = [str(int(value)) for value in values]
            yield categorical_feature(name, labels, sorted(set(labels), key=int))
        else:
            yield ordered_feature(name, values)


def _flagged(model: Model, values: Floats) -> list[bool]:
    """Which features alarm an hour in which these values were counted."""
    counts = []
    for feature, column in zip(model.features, values.T, strict=True):
        if feature.kind == "ordered":
            index = feature.assign(column)
        else:
            index = feature.lookup([str(int(value)) for value in column])
        hour = np.zeros((len(feature.bins), 61), np.int64)
        hour[:, 60] = np.bincount(index, minlength=len(feature.bins))
        counts.append(hour)
    evaluator = Evaluator(counters(model, counts), STEP_S)
    record(evaluator, rules(_HOUR))
    alarm = evaluator.series[_HOUR[0].record("alarm_z")]
    now = {dict(labels)["feature"]: row[60] > 0 for labels, row in zip(alarm.labels, alarm.values, strict=True)}
    return [bool(now.get(feature.name, False)) for feature in model.features]


def _installed(library: Library, home: Path) -> Path:
    python, stamp = home / "bin" / "python", home / ".stamp"
    wanted = " ".join(library.requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        _run([sys.executable, "-m", "venv", str(home)], INSTALL_TIMEOUT_S, library, {})
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *library.requirements], INSTALL_TIMEOUT_S, library, {})
        stamp.write_text(wanted)
    return python


def _run(line: Sequence[str], timeout_s: float, library: Library, environment: dict[str, str]) -> None:
    try:
        subprocess.run(
            line, capture_output=True, text=True, timeout=timeout_s, check=True,
            stdin=subprocess.DEVNULL, env=os.environ | environment,
        )  # fmt: skip
    except subprocess.CalledProcessError as exc:
        lines = exc.stderr.strip().splitlines() or ["no word why"]
        raise BenchError(f"{library.name}: {lines[-1][:200]}") from exc
    except (subprocess.TimeoutExpired, OSError) as exc:
        raise BenchError(f"{library.name}: {exc}") from exc
