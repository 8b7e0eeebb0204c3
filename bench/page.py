"""Figures in the middle of a page that people write: between two marks, so that a run replaces only those."""

from collections.abc import Iterable, Sequence
from pathlib import Path

END = "<!-- end of figures -->"


def mark(command: str) -> str:
    """The line that a command's figures begin after."""
    return f"<!-- figures: {command} -->"


def put(page: Path, command: str, text: str) -> None:
    """Put text between the mark that names the command and the closing one; raises ValueError when one is missing."""
    begin = mark(command)
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"expected the marks {begin!r} and {END!r} in {page}")
    page.write_text(f"{before}{begin}\n\n{text}\n{END}{after}", encoding="utf-8")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
