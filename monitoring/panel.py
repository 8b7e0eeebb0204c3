"""The few kinds of panel that our dashboards are made of, so that every one of them looks and behaves alike.

Types of Grafana's own dashboards-as-code library: https://github.com/grafana/grafana-foundation-sdk
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import barchart, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
LIMIT_COLOR = "red"

# The library's panel builders share their methods but no base class.
_Panel = TypeVar("_Panel", stat.Panel, timeseries.Panel, barchart.Panel, table.Panel)

_HEIGHT = 8
_STAT_HEIGHT = 4
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
class Look:
    """What all kinds share: `help` says what the panel shows and what to do, `width` is in 24ths of the page."""

    title: str
    help: str
    unit: str
    width: int = 12


def verdict(look: Look, queries: Sequence[Query], *, warn: float | None, bad: float, absent: str = "red") -> stat.Panel:
    """Large numbers, green below `warn` and red from `bad` up.

    `absent` is the colour of no data: red where it means that nobody is watching, "text" (grey) where it is all right.
    """
    steps: list[tuple[float | None, str]] = [(None, absent), (0, "green"), (bad, "red")]
    if warn is not None:
        steps.insert(2, (warn, "orange"))
    panel = (
        stat.Panel()
        .height(_STAT_HEIGHT)
        .no_value("no data")
        .color_mode(common_model.BigValueColorMode.BACKGROUND)
        .graph_mode(common_model.BigValueGraphMode.NONE)
        .text_mode(common_model.BigValueTextMode.VALUE_AND_NAME)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_thresholds(steps))
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
        .height(_HEIGHT)
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


def bars(look: Look, queries: Sequence[Query], *, category: str) -> barchart.Panel:
    """One group of bars for each value of the label `category`, one bar in it for each query: the state now."""
    panel = (
        barchart.Panel()
        .height(_HEIGHT)
        .min(0)
        .x_field(category)
        .x_tick_label_max_length(24)
        .show_value(common_model.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(True).placement(common_model.LegendPlacement.BOTTOM))
        .targets([_row_target(ref, query) for ref, query in _numbered(queries)])
        .transformations(_one_row_each(queries))
    )
    return _dress(panel, look)


def grid(
    look: Look, queries: Sequence[Query], *, sort_by: str, colors: Mapping[str, tuple[float, float]]
) -> table.Panel:
    """One row for each set of labels, one column for each query: the state now, the largest `sort_by` first.

    `colors` gives columns their thresholds: orange from the first, red from the second.
    """
    panel = (
        table.Panel()
        .height(_HEIGHT)
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
        .targets([_row_target(ref, query) for ref, query in _numbered(queries)])
        .transformations(_one_row_each(queries))
    )
    for column, (warn, bad) in colors.items():
        thresholds = _thresholds([(None, "green"), (warn, "orange"), (bad, "red")]).build()
        cell = {"type": "color-background", "mode": "basic"}
        panel = panel.override_by_name(
            column,
            [
                model.DynamicConfigValue("thresholds", thresholds),
                model.DynamicConfigValue("color", {"mode": "thresholds"}),
                model.DynamicConfigValue("custom.cellOptions", cell),
                model.DynamicConfigValue("decimals", 3),
            ],
        )
    return _dress(panel, look)


def _dress(panel: _Panel, look: Look) -> _Panel:
    return panel.title(look.title).description(look.help).unit(look.unit).span(look.width).datasource(DATASOURCE)


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> builder.ThresholdsConfig:
    return (
        builder.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def _numbered(queries: Sequence[Query]) -> list[tuple[str, Query]]:
    return list(zip(string.ascii_uppercase, queries, strict=False))


def _target(ref: str, query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.name).datasource(DATASOURCE)


def _row_target(ref: str, query: Query) -> prometheus.Dataquery:
    return _target(ref, query).instant().format(PromQueryFormat.TABLE)


def _one_row_each(queries: Sequence[Query]) -> list[model.DataTransformerConfig]:
    """Join the answers of all queries on their labels, drop the time, and name the values after their queries."""
    names = {f"Value #{ref}": query.name for ref, query in _numbered(queries)}
    organize = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": names}
    return [
        model.DataTransformerConfig(id_val="merge", options={}),
        model.DataTransformerConfig(id_val="organize", options=organize),
    ]
