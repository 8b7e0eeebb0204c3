"""Two versions of a model side by side, and going back to an earlier one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tidegate.terminal import REPOSITORY, DataOption, JsonOption, RepositoryOption

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from training.comparison import Comparison, Difference

MAX_ROWS = 20  # a model of a thousand labels fills no screen; --json holds them all

_BAR_CELLS = 25
_COLOURS = {"better": "green", "same": "default", "worse": "red"}

ModelArgument = Annotated[str, typer.Argument(help="Name of the model.")]


def compare(
    model: ModelArgument,
    a: Annotated[int, typer.Argument(min=1, help="A version.")],
    b: Annotated[int, typer.Argument(min=1, help="The version to hold against it.")],
    repository: RepositoryOption = REPOSITORY,
    data: DataOption = None,
    png: Annotated[Path | None, typer.Option(help="Draw it into this PNG file too.")] = None,
    json_: JsonOption = False,
) -> None:
    """Hold one version of a model against another: both answer the same test samples.

    Example: tidegate models compare fashion-mnist 1 2
    """
    from contract import Repository
    from training.champion import compare_published

    comparison = compare_published(Repository(repository), model, a, b, data)
    if png is not None:
        png.write_bytes(drawn(comparison, model, b))
    if json_:
        typer.echo(json.dumps({"model": model, "version": b, **comparison.document()}, indent=1))
    else:
        Console().print(shown(comparison, model, b))


def rollback(
    model: ModelArgument,
    to: Annotated[int | None, typer.Option(min=1, help="The version to go to; the one before without it.")] = None,
    repository: RepositoryOption = REPOSITORY,
    json_: JsonOption = False,
) -> None:
    """Serve an earlier version again, and withdraw the later ones; they stay, and --to brings them back.

    Example: tidegate models rollback fashion-mnist
    """
    from contract import Repository
    from training.publication import rollback as go_back

    now = go_back(Repository(repository), model, to)
    withdrawn = sorted(now.withdrawn)
    if json_:
        document = {"model": model, "newest": now.contract.version, "served": now.versions, "withdrawn": withdrawn}
        typer.echo(json.dumps(document, indent=1))
        return
    said = f"{model}: version {now.contract.version} is the newest that is served"
    if withdrawn:
        said += f"; withdrawn: {', '.join(map(str, withdrawn))}"
        said += f" (tidegate models rollback {model} --to {withdrawn[-1]} brings it back)"
    Console().print(said, highlight=False, soft_wrap=True)


def shown(comparison: "Comparison", model: str, version: int) -> Group:
    """The comparison for a terminal: the verdict, and each metric with its interval drawn to scale."""
    table = Table("metric", f"version {comparison.champion}", f"version {version}", "difference", box=None)
    table.add_column("95 % interval", justify="center")
    table.add_column(f"version {version} is")
    rows, num_hidden = _chosen(comparison.differences)
    for row in rows:
        scale = max(max(-other.low, other.high) for other in rows if _scale(other) == _scale(row))
        table.add_row(
            row.metric,
            f"{row.champion:.4f}",
            f"{row.challenger:.4f}",
            f"{row.value:+.4f} ({row.low:+.4f} to {row.high:+.4f})",
            _bar(row, scale),
            Text(row.verdict, _COLOURS[row.verdict]),
        )
    parts: list[Text | Table] = [Text(f"{model} version {version} is {comparison}")]
    if rows:
        parts.append(table)
    if num_hidden:
        parts.append(Text(f"{num_hidden} more differ less; --json holds them", "dim"))
    return Group(*parts)


def drawn(comparison: "Comparison", model: str, version: int) -> bytes:
    """The comparison as a PNG: every difference with its interval, shares beside what isn't one."""
    from training.report.figure import png

    rows, _ = _chosen(comparison.differences)
    title = f"{model}: version {version} beside {comparison.champion}"
    shares = [row for row in rows if row.is_share]
    others = [row for row in rows if not row.is_share and row.champion]
    panels = [(shares, "difference in percentage points", [100.0] * len(shares))]
    panels += [(others, f"difference in % of version {comparison.champion}'s", [100 / abs(o.champion) for o in others])]
    draws = [_panel(part, title, unit, factors) for part, unit, factors in panels if part]
    return png(*draws)


def _chosen(differences: "Sequence[Difference]") -> "tuple[list[Difference], int]":
    """The metrics of the whole, then single labels' by size of their difference; and how many are left out."""
    whole = [d for d in differences if "." not in d.metric]
    parts = sorted((d for d in differences if "." in d.metric), key=lambda d: -abs(d.value))
    room = max(0, MAX_ROWS - len(whole))
    return whole + parts[:room], len(parts[room:])


def _scale(row: "Difference") -> str:
    """The metrics of single labels can be compared with one another, and so are drawn to one scale."""
    return row.metric.partition(".")[0]


def _bar(row: "Difference", scale: float) -> Text:
    def cell(value: float) -> int:
        return round((value / scale + 1) / 2 * (_BAR_CELLS - 1)) if scale else _BAR_CELLS // 2

    cells = [" "] * _BAR_CELLS
    for i in range(cell(row.low), cell(row.high) + 1):
        cells[i] = "─"
    cells[_BAR_CELLS // 2] = "│"
    cells[cell(row.value)] = "●"
    return Text("".join(cells), _COLOURS[row.verdict])


def _panel(rows: "Sequence[Difference]", title: str, unit: str, factors: Sequence[float]) -> "Callable[[Axes], None]":
    """Each row's interval as a line around its value, on one axis; the dotted line is no difference."""
    from training.report.figure import LIGHT

    colours = {"better": LIGHT["good"], "same": LIGHT["muted"], "worse": LIGHT["bad"]}

    def draw(axes: "Axes") -> None:
        axes.axvline(0, color=LIGHT["ink"], linestyle=":", linewidth=1)
        for place, (row, factor) in enumerate(zip(rows, factors, strict=True)):
            low, value, high = row.low * factor, row.value * factor, row.high * factor
            axes.plot([low, high], [place, place], color=colours[row.verdict])
            axes.plot(value, place, "o", color=colours[row.verdict], markersize=5)
        axes.set_yticks(range(len(rows)), [row.metric for row in rows])
        axes.invert_yaxis()
        axes.set_title(title)
        axes.set_xlabel(unit)

    return draw
