"""The page of the games: what is measured stands in the middle of what is always said."""

from pathlib import Path

import pytest

from bench.chess_page import write
from bench.chess_run import ChessResult
from bench.game import Match
from bench.machine import Machine
from bench.tree import Effort

RESULTS = """\
## Results

- taken on 2026-01-01 by `python -m bench chess --games 10`: a processor, 2 cores
- model `chess` version 3, asked {how}
- a move is 96 simulations, up to 16 positions asked about at once
- 20 games at once

| opponent | games | won | drawn | lost | score | 95 % interval | plies a game |
| --- | --- | --- | --- | --- | --- | --- | --- |
| random | 10 | 9 | 1 | 0 | 0.950 | 0.655 to 0.995 | 32 |
| greedy | 10 | 5 | 0 | 5 | 0.500 | 0.237 to 0.763 | 81 |
| the same search, no network | 4 | 3 | 0 | 1 | 0.750 | 0.301 to 0.954 | 60 |

12,000 positions in 1,500 requests were answered in 1,234 s, in which the opponents thought too: 8.0 a request{batches}.

What this says: """


@pytest.mark.parametrize(
    ("mean_batch", "how", "batches"),
    [
        (20.25, "through the gateway", " and 20.2 a call to Triton, as the gateway gathers what different games ask"),
        (None, "in ONNX Runtime, without servers", ""),
    ],
)
def test_the_page_says_what_was_played_and_how(
    machine: Machine, tmp_path: Path, mean_batch: float | None, how: str, batches: str
) -> None:
    result = ChessResult(
        machine=machine,
        command="python -m bench chess --games 10",
        model="chess",
        version=3,
        effort=Effort(),
        matches=(
            Match(opponent="random", won=9, drawn=1, lost=0, mean_plies=32.4),
            Match(opponent="greedy", won=5, drawn=0, lost=5, mean_plies=80.6),
            Match(opponent="the same search, no network", won=3, drawn=0, lost=1, mean_plies=60.0),
        ),
        num_requests=1_500,
        num_positions=12_000,
        mean_batch=mean_batch,
        wall_s=1_234.4,
    )

    write(result, tmp_path / "docs")

    page = (tmp_path / "docs" / "chess.md").read_text()
    assert page.startswith("# Chess\n\nWritten by `python -m bench chess`; don't edit.\n")
    assert RESULTS.format(how=how, batches=batches) in page
    assert "the very same search with as many simulations a move and no network" in page
    assert "positions were divided one by one, not by games" in page
    assert page.endswith("`unknown_ratio`.\n\n")
