from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bench.plot import draw
from bench.report import failure_lines, markdown, show
from bench.result import Cell, Failure, PeerNote, Result, Soak, Spread

MakeResult = Callable[..., Result]
MakeCell = Callable[..., Cell]


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (None, "-"),
        (Spread(1.0, 1.0, 1.0), "1"),
        (Spread(0.5, 0.25, 1.01), "0.5 (0.25 to 1.01)"),
        (Spread(1234.5, 99.0, 4000.0), "1234 (99 to 4000)"),
    ],
)
def test_spreads_are_short(spread: Spread | None, text: str) -> None:
    assert show(spread) == text


def test_the_page_says_what_on_what_and_how(make_result: MakeResult, cell: MakeCell, steady: Soak) -> None:
    note = PeerNote(kind="mosec", settings="one worker", versions={"mosec": "1.2.3"})
    gone = Failure(model="fashion-mnist", reason="it isn't published")
    rates = {cell("triton-json"): [100.0, 100.0], cell("gateway-json"): [90.0, 110.0], cell("mosec"): [50.0, 50.0]}
    page = markdown(make_result(rates, failures=(gone,), peers=(note,)), steady, "bench.png")
    assert "- taken on 2026-01-01 by `python -m bench`" in page
    assert "a processor, 2 cores, 24 GiB; a system" in page
    assert "| 64 | Triton, HTTP JSON | 10.00 | 20.00 | 100 | 1 |" in page
    assert "| 64 | gateway, HTTP JSON | 10.10 | 20.20 | 100 | 1 (0.9 to 1.1) |" in page
    assert "| at least 1 | 1 (0.9 to 1.1) | yes |" in page
    assert "| Mosec | mosec 1.2.3 | one worker |" in page
    assert "- fashion-mnist: it isn't published" in page
    assert "| 10 | 151.5 |" in page
    assert "![Answers a second at the most connections](bench.png)" in page


def test_a_page_of_nothing_still_lists_the_targets() -> None:
    page = markdown(None, None, None)
    assert page.count("| not measured |") == 11


def test_every_row_of_a_table_has_as_many_cells_as_its_head(
    make_result: MakeResult, cell: MakeCell, steady: Soak
) -> None:
    page = markdown(make_result({cell("mosec"): [1.0], cell("loop-one", 1, model="photo"): [2.0]}), steady, None)
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 5
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_one_reason_is_said_once() -> None:
    twice = tuple(Failure(model="tiny", kind="mosec", load=load, reason="it fell over") for load in ("1", "16"))
    assert failure_lines(twice) == ["tiny, Mosec (1, 16 in flight): it fell over"]


def test_the_picture_is_small_and_has_a_panel_for_each_model(
    make_result: MakeResult, cell: MakeCell, tmp_path: Path
) -> None:
    rates = {cell(kind, model=model): [9.0, 10.0] for model in ("tiny", "photo") for kind in ("gateway-json", "mosec")}
    assert draw(make_result(rates), tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.width <= 1000
    assert (tmp_path / "bench.png").stat().st_size < 100_000


def test_nothing_to_compare_makes_no_picture(make_result: MakeResult, cell: MakeCell, tmp_path: Path) -> None:
    assert not draw(make_result({cell("gateway-json"): [1.0]}), tmp_path / "bench.png")
    assert not (tmp_path / "bench.png").exists()
