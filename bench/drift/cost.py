"""What drift costs, for thirty features: counting them in the gateway, and the fast lane's minute and its start."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.drift.backfill import open_metrics, prometheus_of
from bench.drift.traffic import (
    CATEGORIES,
    CATEGORY_SHARES,
    NUM_CATEGORICAL,
    NUM_ORDERED,
    Model,
    Traffic,
    counters,
    simulate,
)
from contract.observation import Observer, profile_of
from contract.schema import (
    AxisRange,
    Column,
    Contract,
    Evaluation,
    Provenance,
    Slo,
    TablePreprocess,
    TensorPostprocess,
    TensorSpec,
)
from gateway.metric import FeatureCounts
from gateway.reservoir import Reservoir
from monitoring.detector import HORIZON, STEP_S
from monitoring.exporter import DELAY_S, FastLane
from monitoring.query import Client

BATCH, ROUNDS, BATCHES = 32, 7, 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Microseconds a request, the best of some rounds; milliseconds a scrape; and the most series of a feature."""

    counting_us: float
    with_examples_us: float
    scrape_ms: float
    most_series: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneCost:
    """Seconds to read a day of counters at start, and milliseconds for each further minute."""

    start_s: float
    minute_ms: float


def counting_cost() -> Cost:
    """Time the gateway's own code on batches of 32 rows of a table with 24 numbers and 6 categories."""
    contract, rows = _table()
    observer = Observer(contract)
    counts = FeatureCounts()
    counts.add("m", "1", observer.features)
    reservoir = Reservoir(observer.features, keep_inputs=True, clock=time.time, random=np.random.default_rng(0))
    batches = np.split(rows, len(rows) // BATCH)
    ids = ["r"] * BATCH

    def count(examples: bool) -> None:
        for batch in batches:
            tensors = {"row": batch}
            assigned = observer.assign(tensors, {}, None)
            counts.count("m", "1", assigned)
            if examples:
                reservoir.offer(assigned, tensors, ids)

    def best_s(examples: bool) -> float:
        taken = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            count(examples)
            taken.append(time.perf_counter() - started)
        return min(taken)

    "".join(counts.lines())  # the first one makes what the others keep
    started = time.perf_counter()
    "".join(counts.lines())
    scrape_s = time.perf_counter() - started
    families = list(counts.collect())
    per_feature: dict[str, int] = {}
    for sample in (
        sample for family in families if family.name == "inference_feature_bin" for sample in family.samples
    ):
        per_feature[sample.labels["feature"]] = per_feature.get(sample.labels["feature"], 0) + 1
    return Cost(
        counting_us=best_s(examples=False) / len(rows) * 1e6,
        with_examples_us=best_s(examples=True) / len(rows) * 1e6,
        scrape_ms=scrape_s * 1e3,
        most_series=max(per_feature.values()),
    )


def fast_lane_cost(folder: Path) -> LaneCost:
    """Time the fast lane over a real Prometheus that holds the longest past it may need, of one replica."""
    random = np.random.default_rng(0)
    model = Model.draw(random, 50_000)
    now = int(time.time()) // (HORIZON * STEP_S) * HORIZON  # in steps; the last chain's beginning
    num = 2 * HORIZON
    series = counters(model, simulate(model, Traffic(rate=100), num, random))
    start = (now - num) * STEP_S

    def lines() -> Iterator[str]:
        for name, vector in series.items():
            thin = 1 if name.endswith("_total") else 4  # the reference doesn't change
            rows = dict(zip(vector.labels, vector.values[:, ::thin], strict=True))
            yield from open_metrics(name, rows, start, thin * STEP_S)

    with prometheus_of(lines(), folder) as url, Client(url, timeout_s=60) as client:
        lane = FastLane(client)
        started = time.perf_counter()
        lane.advance((now - 2) * STEP_S + DELAY_S)
        began = time.perf_counter()
        lane.advance((now - 1) * STEP_S + DELAY_S)
        return LaneCost(start_s=began - started, minute_ms=(time.perf_counter() - began) * 1e3)


def _table() -> tuple[Contract, np.ndarray]:
    random = np.random.default_rng(0)
    columns = [Column(name=f"x{i}", kind="number") for i in range(NUM_ORDERED)]
    columns += [Column(name=f"c{i}", kind="category", categories=CATEGORIES) for i in range(NUM_CATEGORICAL)]
    preprocess = TablePreprocess(tensor="row", columns=tuple(columns))
    num = BATCH * BATCHES
    numbers = random.normal(size=(num, NUM_ORDERED))
    categories = random.choice(len(CATEGORIES), size=(num, NUM_CATEGORICAL), p=CATEGORY_SHARES)
    rows = np.concatenate([numbers, categories], axis=1).astype(np.float32)
    inputs = {f"column.{column.name}": rows[:, i].astype(np.float64) for i, column in enumerate(columns)}
    spec = TensorSpec(name="row", datatype="FP32", shape=(len(columns),))
    contract = Contract(
        name="m",
        version=1,
        task="table",
        inputs=(spec,),
        outputs=(spec,),
        batch=AxisRange(min=1, opt=BATCH, max=BATCH),
        preprocess=preprocess,
        postprocess=TensorPostprocess(),
        slo=Slo(latency_threshold_ms=100, latency_objective=0.99, availability_objective=0.999),
        profile=profile_of(preprocess, TensorPostprocess(), inputs, {}),
        evaluation=Evaluation(dataset="", split="", metrics=()),
        provenance=Provenance(
            created_at="2026-01-01T00:00:00+00:00", git_revision="", libraries={}, seed=0, data_sha256="0" * 64,
            config={}, num_parameters=0, flops_per_sample=0, training_time_s=0,
        ),
        artifacts=(),
    )  # fmt: skip
    return contract, rows
