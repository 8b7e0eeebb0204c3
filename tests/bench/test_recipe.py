"""Which published versions the table of recipes is of: those that the recipes make now."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from torch import nn

from bench.recipe import RecipeResult, run
from contract import Contract, Repository
from contract.repository import CONFIG_FILE, withdrawn_line
from contract.schema import Provenance
from training.checkpoint import CHECKPOINT_FILE
from training.data import Dataset, Split
from training.recipe import Recipe, find

NOW, EARLIER = "a" * 64, "b" * 64
NUM_PARAMETERS = 8  # of `nn.Linear(3, 2)`


class Data:
    """A data set that may change, and how often something was computed on it."""

    def __init__(self) -> None:
        self.sha256 = NOW
        self.num_computed = 0

    def load(self, data_dir: Path | None) -> Dataset:
        few = Split(inputs={"x": np.zeros((2, 3), np.float32)}, targets=np.zeros(2))
        return Dataset(name="few", sha256=self.sha256, train=few, validation=few, test=few)

    def baseline(self, dataset: Dataset) -> float:
        self.num_computed += 1
        return self.num_computed / 10


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def recipe(data: Data) -> Recipe:
    """A real recipe's settings, with a network and data that are cheap."""
    return replace(
        find("adult-income"),
        model="tiny",
        network=lambda: nn.Linear(3, 2),
        load=data.load,
        baselines={"always no": data.baseline},
    )


@pytest.fixture
def publish(tmp_path: Path, make_version: Any, recipe: Recipe) -> Any:
    """`publish(version, of=recipe, **provenance)`."""

    def write(version: int, of: Recipe = recipe, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "created_at": "2026-01-01T00:00:00+00:00",
            "git_revision": "unknown",
            "libraries": {},
            "seed": 1,
            "data_sha256": NOW,
            "config": {**of.describe(), "gates": [], "machine": {}, "start": {"sha256": NOW}},
            "num_parameters": NUM_PARAMETERS,
            "flops_per_sample": 6,
            "training_time_s": version,  # by which a row shows whose it is
        }
        make_version(tmp_path / "model_repository", version=version, provenance=Provenance(**(fields | changes)))

    return write


def table(state: Path, recipe: Recipe) -> RecipeResult:
    """Without training and without servers: each version is answered in as many milliseconds as its number."""

    def latencies(repository: Repository, folder: Path, contracts: Mapping[str, Contract]) -> dict[str, float]:
        return {name: float(contract.version) for name, contract in contracts.items()}

    return run(state, Console(quiet=True), [recipe], trained=(), latencies=latencies)


def test_the_row_is_of_the_newest_served_version_that_the_recipe_makes_now(
    tmp_path: Path, recipe: Recipe, publish: Any
) -> None:
    described = recipe.describe()
    older = {key: value for key, value in described["train"].items() if key != "accumulation"}
    publish(1)
    # From before that setting was there, and before the network was described.
    publish(2, config={**{key: value for key, value in described.items() if key != "network"}, "train": older})
    publish(3)
    publish(4, recipe.quick())
    publish(5, num_parameters=NUM_PARAMETERS + 1)
    publish(6, data_sha256=EARLIER)
    publish(7, config={**described, "train": {**described["train"], "epochs": 99}})
    publish(8, config={**described, "frozen": ["stem.*"]})
    publish(10, replace(recipe, network=lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.2))))
    publish(9, config={**described, "variant": {"precision": "INT8"}})
    config = tmp_path / "model_repository" / "tiny" / CONFIG_FILE
    config.write_text(withdrawn_line({3}) + config.read_text())

    result = table(tmp_path, recipe)

    (row,) = result.rows
    assert result.failures == {}
    assert (row.training_time_s, row.latency_ms, row.num_parameters) == (2, 2, NUM_PARAMETERS)


def test_a_row_is_of_the_weights_that_come_before_now(tmp_path: Path, recipe: Recipe, publish: Any) -> None:
    later = replace(recipe, after=replace(recipe, name="before"))
    publish(1)
    assert len(table(tmp_path, later).rows) == 1  # nobody knows what came before
    weights = tmp_path / "runs" / "before" / CHECKPOINT_FILE
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"others")
    assert table(tmp_path, later).rows == ()
    publish(2, config=later.begun(tmp_path / "runs").describe())
    assert len(table(tmp_path, later).rows) == 1


def test_a_recipe_whose_network_changed_has_no_row_until_it_is_trained(
    tmp_path: Path, recipe: Recipe, publish: Any
) -> None:
    publish(1)
    assert len(table(tmp_path, recipe).rows) == 1
    result = table(tmp_path, replace(recipe, network=lambda: nn.Linear(3, 3)))
    assert result.rows == ()
    assert result.failures == {recipe.name: "it wasn't trained to its end for this table"}


def test_a_baseline_is_computed_once_for_each_data_set(
    tmp_path: Path, recipe: Recipe, publish: Any, data: Data
) -> None:
    publish(1)
    publish(2, data_sha256=EARLIER)
    found = []
    for sha256 in (NOW, NOW, EARLIER, NOW):
        data.sha256 = sha256
        (row,) = table(tmp_path, recipe).rows
        found.append((row.training_time_s, row.baselines))
    first, second = {"always no": 0.1}, {"always no": 0.2}
    assert found == [(1, first), (1, first), (2, second), (1, first)]
