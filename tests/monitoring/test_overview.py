import json
import re
from typing import Any

import pytest

from monitoring.dashboard import panels_of, queries_of
from monitoring.overview import overview

TEXT = overview()
PANELS = panels_of(TEXT)
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def test_the_same_text_at_every_run() -> None:
    assert overview() == TEXT


def test_uid_and_ids_are_stable_and_differ() -> None:
    dashboard = json.loads(TEXT)

    assert dashboard["uid"] == "tidegate-overview"
    assert "id" not in dashboard
    assert [panel["id"] for panel in dashboard["panels"]] == list(range(1, len(dashboard["panels"]) + 1))


def test_the_first_row_is_what_is_broken() -> None:
    assert [panel["title"] for panel in PANELS if panel["gridPos"]["y"] == 1] == [
        "Down now",
        "Server errors (5xx), worst model",
        "p99 against its objective, worst model",
        "Refused (shed)",
    ]


def test_it_can_be_filtered_by_data_source_model_and_version() -> None:
    variables = {v["name"]: v for v in json.loads(TEXT)["templating"]["list"]}

    assert list(variables) == ["datasource", "model", "version"]
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["version"]["query"] == 'label_values(model_info{model=~"$model"}, version)'


@each_panel
def test_a_panel_says_what_it_shows_in_which_unit_and_what_to_do(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 100
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_panel
def test_every_query_has_a_name_and_a_letter_of_its_own(panel: dict[str, Any]) -> None:
    targets = panel["targets"]

    assert targets
    assert all(target["legendFormat"] for target in targets)
    assert len({target["refId"] for target in targets}) == len(targets)


def test_panels_of_a_row_fill_the_page_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(TEXT)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


def test_no_data_is_red_except_where_silence_is_all_right() -> None:
    colors = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"]
        for panel in PANELS
        if panel["type"] == "stat"
    }

    assert colors.pop("p99 against its objective, worst model") == "text"
    assert set(colors.values()) == {"red"}


def test_thresholds_rise() -> None:
    for steps in re.findall(r'"steps": (\[.*?\])', TEXT, flags=re.DOTALL):
        values = [step["value"] for step in json.loads(steps)]
        assert values[0] is None
        assert values[1:] == sorted(values[1:])


def test_the_objective_is_a_dashed_red_line() -> None:
    limited = [panel for panel in PANELS if panel["type"] == "timeseries" and panel["fieldConfig"]["overrides"]]

    assert [panel["title"] for panel in limited] == ["Error ratio", "Latency p50, p95, p99"]
    for panel in limited:
        (override,) = panel["fieldConfig"]["overrides"]
        target = next(t for t in panel["targets"] if t["refId"] == override["matcher"]["options"])
        assert "model_slo_" in target["expr"]


def test_queries_are_those_of_the_panels() -> None:
    assert len(list(queries_of(TEXT))) == sum(len(panel["targets"]) for panel in PANELS)
