"""A Grafana dashboard from rows of panels, and what such a dashboard asks Prometheus.

Every one has the variables `datasource`, `model` and `version`. Its JSON is the same text at every run (stable uid, ids
by position), so that a change can be read in a diff.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from monitoring.panel import DATASOURCE

Rows = Mapping[str, Sequence[Builder[model.Panel]]]


def dashboard_text(*, uid: str, title: str, description: str, rows: Rows) -> str:
    """The dashboard's JSON; `rows` are panels by the title of their row, top to bottom and left to right."""
    dashboard = (
        builder.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["tidegate"])
        .readonly()
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(builder.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("model", "model_info", model.VariableSort.ALPHABETICAL_ASC))
        .with_variable(_variable("version", 'model_info{model=~"$model"}', model.VariableSort.NUMERICAL_DESC))
    )
    for name, panels in rows.items():
        dashboard = dashboard.with_row(builder.Row(name))
        for panel in panels:
            dashboard = dashboard.with_panel(panel)
    built = dashboard.build()
    for number, built_panel in enumerate(built.panels or (), start=1):
        built_panel.id_val = number
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def panels_of(text: str) -> list[dict[str, Any]]:
    """The panels of a dashboard's JSON, without its rows."""
    return [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]


def queries_of(text: str) -> Iterator[tuple[str, str]]:
    """Panel title and PromQL of every query of a dashboard's JSON, with `$model` and `$version` still in it."""
    for panel in panels_of(text):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def selectors_of(text: str) -> Iterator[str]:
    """The series from whose labels the variables of a dashboard's JSON take their values."""
    for variable in json.loads(text)["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"].removeprefix("label_values(").rpartition(",")[0]


def _variable(name: str, selector: str, sort: model.VariableSort) -> builder.QueryVariable:
    """Values of the label `name`. All is everything, also requests for unknown models, counted under `other`."""
    return (
        builder.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query(f"label_values({selector}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(sort)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(text="All", value="$__all"))
    )
