"""The few kinds of panel that our dashboards are made of, so that every one of them looks and behaves alike.

Types of Grafana's own dashboards-as-code library: https://github.com/grafana/grafana-foundation-sdk
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import barchart, common, prometheus, stat, statushistory, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS = "${runbooks}"  # stands for their address until the dashboard's text is made
LIMIT_COLOR = "red"

# The library's panel builders share their methods but no base class.
_Panel = TypeVar("_Panel", stat.Panel, timeseries.Panel, barchart.Panel, table.Panel, statushistory.Panel)
Steps = Sequence[tuple[float | None, str]]

_LIMIT_STYLE = [
    model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": LIMIT_COLOR}),
    model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
    model.DynamicConfigValue("custom.fillOpacity", 0),
    model.DynamicConfigValue("custom.stacking", {"mode": "none"}),
]


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression, and what each of its series is called: a legend with `{{label}}`, or a table's column."""

    expr: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A table's column of numbers; orange from `warn` and red from `bad`, where there are such limits."""

    expr: str
    name: str
    unit: str = "short"
    warn: float | None = None
    bad: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What all kinds share: `help` says what the panel shows and what to do, `runbooks` name alerts that go on there.

    `width` is in 24ths of the page, `height` in Grafana's rows of 30 pixels.
    """

    title: str
    help: str
    unit: str = "short"
    width: int = 12
    height: int = 8
    runbooks: tuple[str, ...] = ()


def verdict(look: Look, queries: Sequence[Query], *, warn: float | None, bad: float, absent: str = "red") -> stat.Panel:
    """Large numbers, green below `warn` and red from `bad` up.

    `absent` is the colour of no data: red where it means that nobody is watching, "text" (grey) where it is all right.
    """
    panel = (
        stat.Panel()
        .no_value("no data")
        .color_mode(common_model.BigValueColorMode.BACKGROUND)
        .graph_mode(common_model.BigValueGraphMode.NONE)
        .text_mode(common_model.BigValueTextMode.VALUE_AND_NAME)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_thresholds([(None, absent), *_rising(0, warn, bad)]))
        .color_scheme(builder.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .targets([_target(ref, query).instant() for ref, query in _numbered(queries)])
    )
    return _dress(panel, look)


def lines(
    look: Look, queries: Sequence[Query], *, limit: Query | None = None, stacked: bool = False
) -> timeseries.Panel:
    """Series over time; `limit` is a dashed red line that they should stay below."""
    stacking = common_model.StackingMode.NORMAL if stacked else common_model.StackingMode.NONE
    numbered = _numbered([*queries, limit] if limit else queries)
    panel = (
        timeseries.Panel()
        .axis_soft_min(0)
        .line_width(1)
        .fill_opacity(40 if stacked else 5)
        .show_points(common_model.VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(stacking).group("A"))
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.TABLE)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_model.TooltipDisplayMode.MULTI)
            .sort(common_model.SortOrder.DESCENDING)
        )
        .targets([_target(ref, query).range() for ref, query in numbered])
    )
    if limit:
        panel = panel.override_by_query(numbered[-1][0], _LIMIT_STYLE)
    return _dress(panel, look)


def heat(look: Look, query: Query, *, steps: Steps) -> statushistory.Panel:
    """A row for each series, a cell for each piece of time, coloured by the highest of `steps` that it reaches."""
    panel = (
        statushistory.Panel()
        .max_data_points(96)
        .show_value(common_model.VisibilityMode.NEVER)
        .row_height(0.9)
        .col_width(1)
        .fill_opacity(90)
        .decimals(1)
        .thresholds(_thresholds(steps))
        .color_scheme(builder.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .legend(common.VizLegendOptions().show_legend(True).placement(common_model.LegendPlacement.BOTTOM))
        .targets([_target("A", query).range()])
    )
    return _dress(panel, look)


def bars(look: Look, queries: Sequence[Query], *, category: str) -> barchart.Panel:
    """One group of bars for each value of the label `category`, in its order, one bar in it for each query: now."""
    sort = model.DataTransformerConfig(id_val="sortBy", options={"fields": {}, "sort": [{"field": category}]})
    panel = (
        barchart.Panel()
        .min(0)
        .x_field(category)
        .x_tick_label_max_length(24)
        .show_value(common_model.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(True).placement(common_model.LegendPlacement.BOTTOM))
        .targets([_row_target(ref, query) for ref, query in _numbered(queries)])
        .transformations([*_one_row_each([query.name for query in queries], alone=queries[-1].name), sort])
    )
    return _dress(panel, look)


def grid(look: Look, columns: Sequence[Column], *, sort_by: str, links: Mapping[str, str] | None = None) -> table.Panel:
    """One row for each set of labels, a column for each label and number: now, the largest `sort_by` first.

    Labels are shown as they are, so the look has no unit of its own. `links` gives cells of a column an address, in
    which `${__data.fields.<label>}` is the row's own.
    """
    queries = [Query(column.expr, column.name) for column in columns]
    panel = (
        table.Panel()
        .no_value("none")
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
        .targets([_row_target(ref, query) for ref, query in _numbered(queries)])
        .transformations(_one_row_each([column.name for column in columns], alone=columns[-1].name))
    )
    for column in columns:
        panel = panel.override_by_name(column.name, _cells(column))
    for name, url in (links or {}).items():
        link = [{"title": f"${{__value.text}}: {_title_of(url)}", "url": url}]
        panel = panel.override_by_name(name, [model.DynamicConfigValue("links", link)])
    return _dress(panel, replace(look, unit="string"))


def _dress(panel: _Panel, look: Look) -> _Panel:
    help_ = look.help + (f" Runbook: {', '.join(look.runbooks)}." if look.runbooks else "")
    links = [
        builder.DashboardLink(f"Runbook: {name}").type(model.DashboardLinkType.LINK).url(f"{RUNBOOKS}/{name}.md")
        for name in look.runbooks
    ]
    panel = panel.title(look.title).description(help_).unit(look.unit).span(look.width).height(look.height)
    return panel.links([link.target_blank(True) for link in links]).datasource(DATASOURCE)


def _rising(good: float | None, warn: float | None, bad: float) -> list[tuple[float | None, str]]:
    steps: list[tuple[float | None, str]] = [(good, "green"), (warn, "orange"), (bad, "red")]
    return steps if warn is not None else [steps[0], steps[2]]


def _thresholds(steps: Steps) -> builder.ThresholdsConfig:
    return (
        builder.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def _cells(column: Column) -> list[model.DynamicConfigValue]:
    values: dict[str, Any] = {"unit": column.unit}
    if column.bad is not None:
        values["thresholds"] = _thresholds(_rising(None, column.warn, column.bad)).build()
        values["color"] = {"mode": "thresholds"}
        values["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
    return [model.DynamicConfigValue(name, value) for name, value in values.items()]


def _title_of(url: str) -> str:
    return "runbook" if url.startswith(RUNBOOKS) else "look closer"


def _numbered(queries: Sequence[Query]) -> list[tuple[str, Query]]:
    return list(zip(string.ascii_uppercase, queries, strict=False))


def _target(ref: str, query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.name).datasource(DATASOURCE)


def _row_target(ref: str, query: Query) -> prometheus.Dataquery:
    return _target(ref, query).instant().format(PromQueryFormat.TABLE)


def _one_row_each(names: Sequence[str], alone: str) -> list[model.DataTransformerConfig]:
    """Join the answers of all queries on their labels, drop the time, and name the values after their queries.

    Grafana calls the number of query A `Value #A`, but plain `Value` where no other query has data: that is `alone`.
    """
    renamed = {f"Value #{ref}": name for ref, name in zip(string.ascii_uppercase, names, strict=False)}
    renamed["Value"] = alone
    organize = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": renamed}
    return [
        model.DataTransformerConfig(id_val="merge", options={}),
        model.DataTransformerConfig(id_val="organize", options=organize),
    ]
