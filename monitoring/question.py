"""What a dashboard's JSON asks Prometheus: read back from the text, so that it is what Grafana will ask."""

import json
import re
from collections.abc import Iterator
from typing import Any


def panels_of(text: str) -> list[dict[str, Any]]:
    """The panels of a dashboard's JSON, without its rows."""
    return [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]


def queries_of(text: str) -> Iterator[tuple[str, str]]:
    """Where and what: each PromQL of the panels and annotations of a dashboard's JSON, once for each `$window`.

    Other variables, such as `$model`, are still in it: `bound` puts values in their place.
    """
    document = json.loads(text)
    windows = next((v["query"].split(",") for v in document["templating"]["list"] if v["name"] == "window"), [""])
    asked = [(panel["title"], target["expr"]) for panel in panels_of(text) for target in panel["targets"]]
    asked += [(f"annotation {one['name']}", one["expr"]) for one in document["annotations"]["list"]]
    for where, expr in asked:
        for window in windows if "${window}" in expr else [""]:
            yield where, expr.replace("${window}", window)


def selectors_of(text: str) -> Iterator[tuple[str, str]]:
    """Variable and series from whose labels it takes its values, for the variables of a dashboard's JSON."""
    for variable in json.loads(text)["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"].removeprefix("label_values(").rpartition(",")[0]


def bound(expr: str, **values: str) -> str:
    """The PromQL with these values for its variables, and for any other the regular expression of everything."""
    return re.sub(r"\$([a-z]\w*)", lambda match: values.get(match[1], ".*"), expr)
