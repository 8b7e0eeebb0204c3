"""A Grafana dashboard from rows of panels: its variables, its links to the others, and what is marked on its time axes.

Its JSON is the same text at every run (stable uid, ids by position), so that a change can be read in a diff.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from monitoring.panel import DATASOURCE, RUNBOOKS

Panels = Sequence[Builder[model.Panel]]
Variable = Builder[model.VariableModel]

BOARDS = {
    "tidegate-overview": "Overview",
    "tidegate-model": "Model",
    "tidegate-drift": "Drift",
    "tidegate-triton": "Triton and GPU",
    "tidegate-rollout": "Rollout",
}
DATASOURCE_UID = "tidegate-prometheus"  # of the data source that `monitoring.grafana` makes; any other can be chosen
DATASOURCE_NAME = "Tidegate Prometheus"


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """A dashboard: panels by the title of their row, top to bottom and left to right; `since` is how far back it shows.

    `uid` is one of `BOARDS`; one of the variables is `model`, whose events are marked.
    """

    uid: str
    description: str
    variables: Sequence[Variable]
    rows: Mapping[str, Panels]
    since: str = "now-3h"


def board_text(board: Board, runbooks: str = "") -> str:
    """The dashboard's JSON; links to runbooks are in it when `runbooks` is the address of their folder."""
    dashboard = (
        builder.Dashboard(f"Tidegate / {BOARDS[board.uid]}")
        .uid(board.uid)
        .description(board.description)
        .tags(["tidegate"])
        .readonly()
        .time(board.since, "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .links([_link(uid) for uid in BOARDS if uid != board.uid])
        .variables([_datasource(), *board.variables])
    )
    for name, panels in board.rows.items():
        dashboard = dashboard.with_row(builder.Row(name))
        for panel in panels:
            dashboard = dashboard.with_panel(panel)
    document = json.loads(json.dumps(dashboard.build(), cls=JSONEncoder))
    for number, panel in enumerate(document["panels"], start=1):
        panel["id"] = number
    document["annotations"] = {"list": _annotations()}
    return json.dumps(_addressed(document, runbooks.rstrip("/")), indent=2, sort_keys=True) + "\n"


def board_link(uid: str, **values: str) -> str:
    """Address of a board at the same time and data source, with variables set: `${__data.fields.x}` is a row's."""
    if uid not in BOARDS:
        raise ValueError(f"expected one of {', '.join(BOARDS)}, got {uid!r}")
    variables = "".join(f"&var-{name}={value}" for name, value in values.items())
    return f"/d/{uid}?${{datasource:queryparam}}{variables}&${{__url_time_range}}"


def many(name: str, selector: str) -> Variable:
    """Any number of values of the label `name`. All is everything, also what has no such label, or `other` in it."""
    return _query(name, selector).multi(True).include_all(True).all_value(".*").current(_option("All", "$__all"))


def one(name: str, selector: str) -> Variable:
    """One value of the label `name`, the first of the list if no link says otherwise."""
    return _query(name, selector)


def choice(name: str, values: Sequence[str]) -> Variable:
    """One of a few fixed values, the first if no link says otherwise."""
    options = [model.VariableOption(text=value, value=value, selected=value == values[0]) for value in values]
    custom = builder.CustomVariable(name).label(name.capitalize()).values(",".join(values))
    return custom.options(options).current(_option(values[0], values[0]))


def _query(name: str, selector: str) -> builder.QueryVariable:
    order = model.VariableSort.NUMERICAL_DESC if name == "version" else model.VariableSort.ALPHABETICAL_ASC
    return (
        builder.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query(f"label_values({selector}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(order)
    )


def _datasource() -> Variable:
    current = _option(DATASOURCE_NAME, DATASOURCE_UID)
    return builder.DatasourceVariable("datasource").label("Prometheus").type("prometheus").current(current)


def _option(text: str, value: str) -> model.VariableOption:
    return model.VariableOption(text=text, value=value)


def _link(uid: str) -> Builder[model.DashboardLink]:
    link = builder.DashboardLink(BOARDS[uid]).type(model.DashboardLinkType.LINK).url(f"/d/{uid}")
    return link.icon("dashboard").include_vars(True).keep_time(True)


def _annotations() -> list[dict[str, Any]]:
    """What happened, marked on every time axis, for a cause is looked for where the curve bends.

    Plain objects, for the library's type lacks the fields of Prometheus' annotations: `titleFormat` and the like.
    Source: https://grafana.com/docs/grafana/latest/datasources/prometheus/annotations/
    """
    created = 'max by (model, version) (model_created_timestamp_seconds{model=~"$model"}) * 1000'
    edited = "sum by (result) (increase(gateway_route_reloads_total[2m])) > 0"
    firing = 'ALERTS{alertstate="firing", alertname!="Watchdog", model=~"$model|"}'
    return [
        _annotation("Published", "blue", created, "{{model}} version {{version}} was made", at_value=True),
        _annotation("Routes changed", "purple", edited, "an edit of the routes file was {{result}}"),
        _annotation("Alerts", "red", firing, "{{alertname}} ({{severity}})", tags="model,version,feature,slo,route"),
    ]


def _annotation(
    name: str, color: str, expr: str, title: str, *, tags: str = "", at_value: bool = False
) -> dict[str, Any]:
    """Marks where `expr` is above 0; with `at_value`, at the time that is its value, in milliseconds.

    `tags` are labels shown where a series has them; in the title, one that it hasn't would show as its own name.
    """
    return {
        "name": name,
        "datasource": {"type": DATASOURCE.type_val, "uid": DATASOURCE.uid},
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "step": "60s",
        "tagKeys": tags,
        "titleFormat": title,
        "useValueForTime": at_value,
    }


def _addressed(node: Any, runbooks: str) -> Any:
    """The same JSON with links to runbooks at their address, or without them where there is none."""
    if isinstance(node, dict):
        return {key: _addressed(value, runbooks) for key, value in node.items()}
    if isinstance(node, list):
        return [_addressed(item, runbooks) for item in node if runbooks or not _leads_to_runbook(item)]
    return node.replace(RUNBOOKS, runbooks) if isinstance(node, str) else node


def _leads_to_runbook(node: Any) -> bool:
    return isinstance(node, dict) and str(node.get("url", "")).startswith(RUNBOOKS)
