"""The routes that a gateway has in force, and those of a file before it has them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gateway.route_file import check
from gateway.route_text import RouteError
from tidegate.ask import exchange
from tidegate.error import AskError, CommandError


def ask(url: str, timeout_s: float) -> dict[str, Any]:
    """What the gateway says of its routes; raises AskError."""
    document = exchange("GET", url, "/v1/routes", timeout_s)
    if "routes" not in document:
        raise AskError(f"the gateway at {url} answered without routes")
    return document


def check_file(path: Path) -> str:
    """Say that a routes file can be used, and how many routes it has; raises CommandError with the sentence why not."""
    try:
        names = [route.name for route in check(path).document.routes]
    except RouteError as exc:
        raise CommandError(str(exc)) from exc
    return (
        f"{path} can be used; it has {len(names)} route{'' if len(names) == 1 else 's'}: {', '.join(names) or 'none'}"
    )


def show(document: Mapping[str, Any]) -> Group:
    """The gateway's answer for a terminal: the error of a broken edit, the revision, and each route in a few lines."""
    table = Table(box=None, show_header=False)
    for route in document["routes"]:
        for number, (what, how) in enumerate(_lines(route, document["tenant_header"])):
            table.add_row(Text("" if number else route["name"], "bold"), what, how)
    since = f"in force since {document['loaded_at']}"
    head = f"revision {document['revision']}, {since}" if document["revision"] else "the gateway has no routes file"
    shown: list[Text | Table] = [Text(head)]
    if document["error"]:
        shown.append(Text(f"the file's last edit is not in force: {document['error']}", "red"))
    return Group(*shown, table if document["routes"] else Text("no routes: each name is the model of that name"))


def _lines(route: Mapping[str, Any], tenant_header: str) -> list[tuple[str, Text]]:
    """What a route has, and how, one line each."""
    lines = [("targets", Text(_targets(route["targets"])))]
    lines += [("rule", Text(_rule(rule, tenant_header))) for rule in route.get("rules", ())]
    lines += [(what, Text(how)) for what, how in _manner(route, tenant_header)]
    if fallback := route.get("fallback"):
        after = f", after {fallback['after_ms']:g} ms" if "after_ms" in fallback else ""
        lines.append(("fallback", Text(" then ".join(map(_label, fallback["targets"])) + after)))
    if shadow := route.get("shadow"):
        lines.append(("shadow", _shadow(shadow)))
    return lines


def _label(target: Mapping[str, Any]) -> str:
    return f"{target['model']}/{target.get('version', 'newest')}"


def _targets(targets: Sequence[Mapping[str, Any]]) -> str:
    total = sum(target["weight"] for target in targets)
    return ", ".join(f"{_label(target)} {100 * target['weight'] / total:.3g} %" for target in targets)


def _rule(rule: Mapping[str, Any], tenant_header: str) -> str:
    when = rule["when"]
    header = when.get("header", tenant_header)
    if "prefix" in when:
        condition = f"{header} begins with {when['prefix']}"
    elif "present" in when:
        condition = f"{header} is {'there' if when['present'] else 'not there'}"
    else:
        condition = f"{header} is {' or '.join(when.get('equals', when.get('tenant')))}"
    manner = "".join(f", {what} {how}" for what, how in _manner(rule, tenant_header))
    return f"{condition}: {_targets(rule['targets'])}{manner}"


def _manner(split: Mapping[str, Any], tenant_header: str) -> list[tuple[str, str]]:
    """What a route and a rule may both say besides targets."""
    lines = []
    if "sticky" in split:
        lines.append(("sticky", f"by {split['sticky'].get('header', tenant_header)}"))
    if "deadline_ms" in split:
        lines.append(("deadline", f"{split['deadline_ms']:g} ms"))
    if "priority" in split:
        lines.append(("priority", str(split["priority"])))
    return lines


def _shadow(shadow: Mapping[str, Any]) -> Text:
    counts = shadow.get("counts") or {}
    compared = counts.get("agreed", 0) + counts.get("disagreed", 0)
    samples = counts.get("top1_same", 0) + counts.get("top1_different", 0)
    text = Text(f"{_label(shadow)} gets {100 * shadow['fraction']:.3g} %: ")
    if not compared:
        text.append("nothing compared yet")
    else:
        disagreed = counts["disagreed"]
        text.append(f"{1 - disagreed / compared:.2%} of {compared} agree", "yellow" if disagreed else "green")
    if samples:
        text.append(f", the first class in {counts['top1_same'] / samples:.2%} of {samples} samples")
    text.append("".join(f", {counts[result]} {result}" for result in ("failed", "dropped") if counts.get(result)))
    return text
