"""What holds for every board. That each query gives data is held in tests/integration/test_prometheus.py."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

import monitoring
from monitoring.boardbook import BOARDS_FOLDER, board_texts
from monitoring.dashboard import BOARDS, DATASOURCE_UID, board_link
from monitoring.question import bound, panels_of, queries_of, selectors_of
from monitoring.rulebook import alert_groups
from monitoring.sketch import PAGE, with_sketches

FOLDER = Path(monitoring.__file__).parent
TEXTS = board_texts()
ALERTS = {alert.name for group in alert_groups() for alert in group.rules}
PANELS = [(name, panel) for name, text in TEXTS.items() for panel in panels_of(text)]
each_board = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


def board(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(TEXTS[f"{name}.json"])
    return document


def urls(node: Any) -> Iterator[str]:
    """Every address in a board's JSON."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "url")
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from urls(one)


def test_there_is_a_file_for_each_board_and_no_other() -> None:
    assert {json.loads(text)["uid"] for text in TEXTS.values()} == set(BOARDS)
    assert {path.name for path in (FOLDER / BOARDS_FOLDER).glob("*.json")} == set(TEXTS)
    assert board_texts() == TEXTS


@each_board
def test_ids_are_unique_and_panels_fill_the_page_without_overlap(text: str) -> None:
    panels = json.loads(text)["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))

    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


@each_board
def test_grafanas_own_types_read_it_and_write_the_same(text: str) -> None:
    """Its annotations apart: the types of dashboards lack the fields of Prometheus' annotations."""
    document = json.loads(text)
    again = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))

    del document["annotations"], again["annotations"]
    assert again == document


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=lambda one: one["title"] if isinstance(one, dict) else one)
def test_a_panel_says_what_it_shows_in_which_unit_and_what_to_do(name: str, panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 100
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    targets = panel["targets"]
    assert targets
    assert all(target["legendFormat"] and target["datasource"] == panel["datasource"] for target in targets)
    assert len({target["refId"] for target in targets}) == len(targets)
    steps = [step["value"] for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])]
    assert steps[1:] == sorted(steps[1:])


def test_a_runbook_that_is_named_is_that_of_an_alert() -> None:
    named = {
        name
        for _, panel in PANELS
        if (found := re.search(r" Runbook: ([\w, ]+)\.$", panel["description"]))
        for name in found[1].split(", ")
    }

    assert len(named) > 20
    assert named <= ALERTS


def test_links_lead_to_boards_and_to_runbooks_where_their_address_is_known() -> None:
    folder = "https://example.org/runbooks"
    for without, with_ in zip(TEXTS.values(), board_texts(folder + "/").values(), strict=True):
        boards, runbooks = list(urls(json.loads(without))), set(urls(json.loads(with_)))
        assert {re.sub(r"^/d/([\w-]+).*", r"\1", url) for url in boards} <= set(BOARDS)
        assert len(boards) >= len(BOARDS) - 1
        leading = {url for url in runbooks if not url.startswith("/d/")}
        assert leading
        names = {url.removeprefix(f"{folder}/").removesuffix(".md") for url in leading}
        assert names <= ALERTS | {"${__data.fields.alertname}"}
        assert "${runbooks}" not in with_ + without
    with pytest.raises(ValueError, match="expected one of tidegate-overview"):
        board_link("tidegate-nowhere")


def test_a_link_sets_only_variables_that_the_board_has() -> None:
    variables = {
        document["uid"]: {variable["name"] for variable in document["templating"]["list"]}
        for document in map(json.loads, TEXTS.values())
    }
    for text in TEXTS.values():
        for url in urls(json.loads(text)):
            target = re.match(r"/d/([\w-]+)", url)
            assert target is not None
            assert set(re.findall(r"var-(\w+)=", url)) <= variables[target[1]]


@each_board
def test_a_query_uses_only_variables_that_the_board_has(text: str) -> None:
    names = {variable["name"] for variable in json.loads(text)["templating"]["list"]}
    asked = " ".join(expr for _, expr in (*queries_of(text), *selectors_of(text)))

    assert set(re.findall(r"\$\{?([a-z]\w*)", asked)) <= names
    assert "$model" in asked


def test_every_query_is_promql(promtool: Callable[..., str], tmp_path: Path) -> None:
    asked = [expr for text in TEXTS.values() for _, expr in (*queries_of(text), *selectors_of(text))]
    rules = [{"record": f"r{i}", "expr": bound(expr)} for i, expr in enumerate(asked)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")

    assert f"{len(asked)} rules found" in promtool("check", "rules", "--lint=none", path)


def test_one_version_is_chosen_on_the_drift_board_and_any_number_on_the_others() -> None:
    def choices(name: str) -> dict[str, bool]:
        return {v["name"]: bool(v.get("multi")) for v in board(name)["templating"]["list"]}

    assert choices("model") == {"datasource": False, "model": True, "version": True, "window": False}
    assert choices("drift") == {
        "datasource": False, "model": False, "version": False, "window": False, "feature": False
    }  # fmt: skip
    assert list(queries_of(TEXTS["drift.json"]))[:3] == [
        ("How surely each feature has moved, over $window: z", expr)
        for expr in (
            "max by (feature) (last_over_time(model_version_feature:inference_feature_bin:z_increase"
            f'{window}{{model="$model", version="$version"}}[11m]))'
            for window in ("1h", "6h", "24h")
        )
    ]


def test_values_take_the_place_of_variables_but_not_of_captured_groups() -> None:
    expr = 'label_replace(up{model=~"$model", version="$version"}, "a", "$1", "b", "(.*)")'

    assert bound(expr, version="2") == 'label_replace(up{model=~".*", version="2"}, "a", "$1", "b", "(.*)")'


def test_what_is_red_comes_first() -> None:
    first, *_ = (panel for panel in board("overview")["panels"] if panel["type"] != "row")
    assert first["title"] == "Down now"
    tables = {panel["title"]: panel for panel in panels_of(TEXTS["overview.json"]) if panel["type"] == "table"}
    assert tables["Models, those with alerts first"]["options"]["sortBy"] == [{"displayName": "Alerts", "desc": True}]
    assert max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board("overview")["panels"]) <= 26


def test_no_data_is_red_except_where_silence_is_all_right() -> None:
    colors = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"]
        for _, panel in PANELS
        if panel["type"] == "stat"
    }

    assert colors.pop("p99 against its objective, worst") == "text"
    assert set(colors.values()) == {"red"}


def test_a_limit_is_a_dashed_red_line() -> None:
    limited = [panel for _, panel in PANELS if panel["type"] == "timeseries" and panel["fieldConfig"]["overrides"]]

    assert len(limited) > 10
    for panel in limited:
        (override,) = panel["fieldConfig"]["overrides"]
        style = {one["id"]: one["value"] for one in override["properties"]}
        assert override["matcher"]["options"] == panel["targets"][-1]["refId"]
        assert (style["color"]["fixedColor"], style["custom.lineStyle"]["fill"]) == ("red", "dash")


def test_the_page_shows_the_boards_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert with_sketches(page, TEXTS) == page, "run `python -m monitoring.sketch`"
    with pytest.raises(ValueError, match="## Overview"):
        with_sketches("# Dashboards\n", TEXTS)


def test_containers_find_what_they_mount_and_listen_on_loopback() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]

    assert services.keys() == {"prometheus", "alertmanager", "grafana"}
    for service in services.values():
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[\w./-]+:v?\d+\.\d+\.\d+\}", service["image"])
        mounts = [volume.split(":")[0] for volume in service["volumes"] if volume.startswith(".")]
        assert mounts
        assert all((FOLDER / mount).exists() for mount in mounts)
        listening = [*service.get("command", ()), service.get("environment", {}).get("GF_SERVER_HTTP_ADDR", "")]
        assert any("127.0.0.1" in one for one in listening)


def test_the_provisioned_data_source_is_the_one_that_boards_choose_first() -> None:
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/tidegate.yaml").read_text("utf-8"))["datasources"]

    assert source["uid"] == DATASOURCE_UID
    assert source["jsonData"]["manageAlerts"] is False
    for text in TEXTS.values():
        assert json.loads(text)["templating"]["list"][0]["current"]["value"] == DATASOURCE_UID
