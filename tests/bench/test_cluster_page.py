from pathlib import Path

import numpy as np
import pytest

from bench.cluster import ClusterResult, Phase, Sample
from bench.cluster_page import COMMAND, cells, write
from bench.machine import Machine
from bench.many import ManyRow, Watched
from bench.page import END, mark

MACHINE = Machine(date="2026-01-01", processor="a processor", num_cores=2, memory_gib=8, system="Linux", versions={})
MANY = ManyRow(
    num_models=100, num_series=61_000, scrape_bytes=6 * 2**20, scrape_s=0.03, first_look_s=0.5, look_s=0.001,
    memory_mib=33,
)  # fmt: skip
WATCHED = Watched(
    num_models=10, num_scraped=6_100, num_head_series=14_000, scrape_s=0.05, rules_s=1.5, rules_cores=0.02,
    memory_mib=150,
)  # fmt: skip


def phase(name: str, began_s: float, answered: tuple[int, ...] = (10, 10, 10)) -> Phase:
    return Phase(name=name, began_s=began_s, ended_s=began_s + 10, answered=answered)


def asked(began_s: float, bad_until_s: float, status: int = 503, took_ms: float = 2.0) -> list[Sample]:
    return [
        Sample(
            at_s=began_s + at, took_ms=took_ms if at < bad_until_s else 2.0, status=status if at < bad_until_s else 200
        )
        for at in np.arange(0, 10, 0.1)
    ]


@pytest.mark.parametrize(
    ("samples", "failed", "again"),
    [
        (asked(10, 0), "0 (0.00%)", "0 s"),
        (asked(10, 2.5), "25 (25.00%)", "3 s"),
        (asked(10, 2.5, status=200, took_ms=50), "0 (0.00%)", "3 s"),  # three times too slow is no recovery
        (asked(10, 9.5), "95 (95.00%)", "not in this phase"),
    ],
)
def test_a_phase_says_what_failed_and_when_it_was_well_again(samples: list[Sample], failed: str, again: str) -> None:
    well, ill = phase("all well", 0), phase("one killed", 10, (0, 30, 10))
    result = ClusterResult(machine=MACHINE, rate=10, phases=(well, ill), samples=(*asked(0, 0), *samples))

    row = cells(result, ill)

    assert (row[0], row[1], row[2], row[7]) == ("one killed", "100", failed, again)
    assert row[6] == "0%, 75%, 25%"


def test_the_page_has_all_three_tables(tmp_path: Path) -> None:
    (tmp_path / "scaling.md").write_text(f"# Scaling\n\n{mark(COMMAND)}\n{END}\n")
    result = ClusterResult(machine=MACHINE, rate=10, phases=(phase("all well", 0),), samples=tuple(asked(0, 0)))

    write(result, [MANY], [WATCHED], tmp_path)

    page = (tmp_path / "scaling.md").read_text()
    assert "| all well | 100 | 0 (0.00%) | 2.0 ms | 2.0 ms | 2 ms | 33%, 33%, 33% | 0 s |" in page
    assert "| 100 | 61,000 | 6.0 MiB | 30 ms | 0.50 s | 1.0 ms | 33 MiB |" in page
    assert "| 10 | 6,100 | 14,000 | 1.50 s | 0.020 | 150 MiB |" in page
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
