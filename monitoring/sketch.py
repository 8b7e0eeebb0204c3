"""What a board looks like, as text: its panels as boxes where its JSON puts them, for a review without a Grafana.

`python -m monitoring.sketch` writes the sketches into docs/dashboards.md again, each below its board's heading.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from monitoring.boardbook import board_texts

PAGE = Path(__file__).parents[1] / "docs" / "dashboards.md"

_CELLS = 4  # characters for one of the 24 columns; three lines of text stand for four of Grafana's rows


def sketch(text: str) -> str:
    """The panels of a board's JSON as boxes with their title and kind, 97 characters wide."""
    panels = json.loads(text)["panels"]
    bottom = max(_line(panel["gridPos"]["y"] + panel["gridPos"]["h"], panels) for panel in panels)
    canvas = [[" "] * (24 * _CELLS + 1) for _ in range(bottom + 1)]
    for panel in panels:
        _draw(canvas, panel, panels)
    return "\n".join("".join(line).rstrip() for line in canvas).strip("\n") + "\n"


def with_sketches(page: str, texts: Mapping[str, str]) -> str:
    """The page with each board's sketch in the ```text block below the heading of its title."""
    for text in texts.values():
        title = json.loads(text)["title"].removeprefix("Tidegate / ")
        found = re.search(rf"^## {re.escape(title)}$.*?^```text\n(.*?)^```$", page, flags=re.M | re.S)
        if found is None:
            raise ValueError(f"expected a heading '## {title}' with a ```text block below it in the page")
        page = page[: found.start(1)] + sketch(text) + page[found.end(1) :]
    return page


def _line(y: int, panels: list[dict[str, Any]]) -> int:
    """The line of text that is as far down as `y`; a row's title takes a line, and the edge above it another."""
    titles = len([panel for panel in panels if panel["type"] == "row" and panel["gridPos"]["y"] < y])
    return (y - titles) * 3 // 4 + titles * 2


def _draw(canvas: list[list[str]], panel: Mapping[str, Any], panels: list[dict[str, Any]]) -> None:
    at = panel["gridPos"]
    top, bottom = _line(at["y"], panels), _line(at["y"] + at["h"], panels)
    left, right = at["x"] * _CELLS, (at["x"] + at["w"]) * _CELLS
    if panel["type"] == "row":
        _write(canvas[top + 1], left, f"▼ {panel['title']}")
        return
    for line in range(top, bottom + 1):
        for x in range(left, right + 1):
            edge = ("─" if line in (top, bottom) else "") + ("│" if x in (left, right) else "")
            canvas[line][x] = {"": canvas[line][x], "─": "─", "│": "│"}.get(edge, "+")
    title = wrap(panel["title"], right - left - 3, max_lines=bottom - top - 1, placeholder="…")
    for line, text in zip(range(top + 1, bottom), [*title, f"[{panel['type']}]"], strict=False):
        _write(canvas[line], left + 2, text)


def _write(line: list[str], x: int, text: str) -> None:
    line[x : x + len(text)] = text


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = with_sketches(before, board_texts())
    if after != before:
        PAGE.write_text(after, encoding="utf-8")
        sys.stdout.write(f"{PAGE}\n")
