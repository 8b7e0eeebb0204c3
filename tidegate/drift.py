"""`tidegate drift`: which features of a model have drifted, since when, how far, and which requests show it."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from tidegate.terminal import JsonOption

if TYPE_CHECKING:
    from monitoring.finding import Finding, Findings, Unseen

DRIFTED = 3  # exit code: neither that of a failure nor that of a wrong argument
_BAR_CELLS = 24
_SPARKS = "▁▂▃▄▅▆▇█"
_MAX_EXAMPLE_FEATURES, _MAX_EXAMPLES = 5, 4  # shown
_MAX_QUIET = 3  # of an embedding's features that don't alarm, shown


def drift(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[str | None, typer.Option(help="A version; the newest watched one without it.")] = None,
    prometheus: Annotated[str, typer.Option(help="Address of Prometheus.")] = "http://127.0.0.1:9090",
    url: Annotated[str, typer.Option(help="Address of a gateway, to ask for example requests.")] = (
        "http://127.0.0.1:8080"
    ),
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for each answer.")] = 10.0,
    json_: JsonOption = False,
) -> None:
    """Show a model's features by how surely they have drifted, since when, how far, and which requests show it.

    Exit codes: 0 nothing alarms, 3 something does, 1 it can't be told, 2 wrong arguments.

    Example: tidegate drift fashion-mnist
    """
    from monitoring.finding import find
    from monitoring.query import Client

    with Client(prometheus, timeout_s) as client:
        findings = find(client, model, version)
    examples, why_not = _examples(url, findings, timeout_s)
    if json_:
        document = {"alarms": findings.alarms, **asdict(findings), "examples": examples, "no_examples": why_not}
        typer.echo(json.dumps(document, indent=1))
    else:
        _show(Console(), findings, examples, why_not)
    if findings.alarms:
        raise typer.Exit(DRIFTED)


def _examples(url: str, findings: "Findings", timeout_s: float) -> tuple[dict[str, Any], str]:
    """The kept requests of each alarming feature, or why there are none."""
    from tidegate.ask import exchange
    from tidegate.error import AskError

    examples: dict[str, Any] = {}
    for feature in findings.alarming[:_MAX_EXAMPLE_FEATURES]:
        path = f"/v1/examples/{quote(findings.model, safe='')}/versions/{quote(findings.version, safe='')}"
        try:
            answer = exchange("GET", url, f"{path}?feature={quote(feature, safe='')}", timeout_s)
        except AskError as exc:
            return examples, str(exc)
        examples[feature] = answer["examples"]
    return examples, ""


def _show(console: Console, findings: "Findings", examples: dict[str, Any], why_not: str) -> None:
    console.print(_features(findings))
    if findings.unseen:
        console.print(_unseen(findings.unseen))
    if findings.early:
        console.print(_early(findings), markup=False, highlight=False)
    waiting = [f"{f.feature} ({f.num_samples:.0f})" for f in findings.features if f.z is None]
    if waiting:
        console.print(f"too few samples yet for a value (200 are needed): {', '.join(waiting)}", highlight=False)
    for feature, rows in examples.items():
        if rows:
            console.print(_example_table(feature, rows))
        else:
            console.print(f"no example request of {feature} is kept yet", highlight=False)
    if why_not:
        console.print(f"no example requests: {why_not}", markup=False, highlight=False)
    if findings.alarms:
        by_windows = any(f.alarms for f in findings.features) or any(u.alarms for u in findings.unseen)
        page = f"docs/runbooks/{'FeatureDrift' if by_windows else 'FeatureDriftFast'}.md"
        console.print(f"[red]drifted[/]; what to do: {page}", highlight=False)
    else:
        console.print(f"nothing alarms: no z above {findings.limit_z} with an effect that matters", highlight=False)


def _features(findings: "Findings") -> Table:
    scale = max([findings.limit_z * 1.5, *(f.z for f in findings.features if f.z is not None)])
    quiet = _quiet(findings)
    table = Table(
        Column("feature", no_wrap=True),
        *("z", f"│ at {findings.limit_z}", "last day", "since", "PSI", "moved most (reference → now)"),
        title=f"{findings.model} version {findings.version}",
        title_justify="left",
        caption=f"and {len(quiet)} more of the embedding, all below those" if quiet else None,
        caption_justify="left",
        box=None,
    )
    for finding in findings.features:
        if finding.z is None or finding in quiet:
            continue
        style = "red" if finding.alarms else ""
        table.add_row(
            Text(finding.feature, style=style),
            Text(f"{finding.z:.1f}", style=style),
            Text(_bar(finding.z, findings.limit_z, scale), style=style or "blue"),
            _sparkline(finding.history, scale),
            _since(finding, findings.at),
            "" if finding.psi_unbiased is None else f"{finding.psi_unbiased:.3f}",
            Text(_moved(finding)),
        )
    return table


def _quiet(findings: "Findings") -> Sequence["Finding"]:
    """Features of an embedding that aren't worth a row each: all that don't alarm, but for the surest."""
    from contract.embedding import is_embedding_feature

    known = (finding for finding in findings.features if finding.z is not None and not finding.alarms)
    return [finding for finding in known if is_embedding_feature(finding.feature)][_MAX_QUIET:]


def _bar(z: float, limit: float, scale: float) -> str:
    """A bar as long as z, with a mark where the limit is."""
    length = round(max(z, 0) / scale * _BAR_CELLS)
    mark = round(limit / scale * _BAR_CELLS)
    cells = ["█" if i < length else " " for i in range(_BAR_CELLS)]
    cells[min(mark, _BAR_CELLS - 1)] = "┃" if length > mark else "│"
    return "".join(cells)


def _sparkline(history: Sequence[float | None], scale: float) -> str:
    top = len(_SPARKS) - 1
    return "".join(" " if z is None else _SPARKS[min(round(max(z, 0) / scale * top), top)] for z in history[::2])


def _since(finding: "Finding", now: float) -> str:
    if finding.since is None:
        return ""
    clock = time.strftime("%d %b %H:%M", time.localtime(finding.since))
    return f"{clock} ({_age(now - finding.since)}), {finding.window}"


def _age(seconds: float) -> str:
    if seconds >= 24 * 3600 - 60:
        return "a day or more"
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _moved(finding: "Finding") -> str:
    moved = ", ".join(f"{m.bin} {m.reference:.1%} → {m.now:.1%}" for m in finding.moved)
    return f"{finding.test}: {moved}" if finding.test else moved


def _unseen(rows: Sequence["Unseen"]) -> Table:
    table = Table("feature", "unseen value", "share now", "z", "window", title="unseen values", box=None)
    table.title_justify = "left"
    for row in rows:
        style = "red" if row.alarms else ""
        table.add_row(row.feature, row.bin, f"{row.now:.2%}", f"{row.z:.1f}", row.window, style=style)
    return table


def _early(findings: "Findings") -> str:
    """The fast lane's verdict: what alarms, or how near the nearest is."""
    said = [f"{e.feature} {e.evidence:.1f} of {e.num_samples:,.0f} samples" for e in findings.early if e.alarms]
    limit = f"its limit of {findings.limit_evidence:.1f}"
    if said:
        return f"fast lane: above {limit}: {', '.join(said)}"
    most = findings.early[0]
    return f"fast lane: nothing above {limit}; most has {most.feature}, {most.evidence:.1f}"


def _example_table(feature: str, rows: Sequence[dict[str, Any]]) -> Table:
    """The newest of the requests; `--json` has all of them, with their inputs where those are kept."""
    table = Table("bin", "when", "request", "bins of all features", title=f"requests that show {feature}", box=None)
    table.title_justify = "left"
    for row in rows[:_MAX_EXAMPLES]:
        when = time.strftime("%d %b %H:%M:%S", time.localtime(row["time"]))
        bins = ", ".join(f"{name} {value}" for name, value in row["bins"].items())
        table.add_row(Text(row["bin"]), when, Text(row["request_id"]), Text(bins))
    return table
