"""Pushing boards, against a fake of Grafana's documented HTTP API: the real one isn't run here."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from monitoring.boardbook import board_texts
from monitoring.dashboard import BOARDS, DATASOURCE_UID
from monitoring.error import PushRefused
from monitoring.grafana import push
from tests.monitoring.fake_grafana import Grafana, serving

TEXTS = board_texts()
PROMETHEUS = "http://127.0.0.1:9090"


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    with serving(Grafana()) as running:
        yield running


def outcomes(grafana: Grafana, token: str = "an-admin", **options: Any) -> list[str]:
    return [one.outcome for one in push(grafana.url, token, TEXTS, **options)]


def refusal(grafana: Any, token: str = "an-admin", **options: Any) -> str:
    with pytest.raises(PushRefused) as caught:
        list(push(grafana.url, token, TEXTS, **options))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_everything_is_made_and_a_second_time_nothing_changes(grafana: Grafana) -> None:
    assert outcomes(grafana, prometheus=PROMETHEUS) == ["created"] * 7
    assert grafana.boards.keys() == BOARDS.keys()
    assert set(grafana.folder_of.values()) == {"tidegate"}
    source = grafana.datasources[DATASOURCE_UID]
    assert (source["url"], source["jsonData"]["manageAlerts"]) == (PROMETHEUS, False)

    changes = grafana.num_changes
    assert outcomes(grafana, prometheus=PROMETHEUS) == ["unchanged"] * 7
    assert grafana.num_changes == changes


def test_only_what_differs_is_updated(grafana: Grafana) -> None:
    outcomes(grafana, prometheus=PROMETHEUS)
    del grafana.boards["tidegate-drift"]["panels"][3]
    grafana.folder_of["tidegate-model"] = "elsewhere"

    pushed = list(push(grafana.url, "an-admin", TEXTS, prometheus=PROMETHEUS, alerts=True))

    assert [one.what for one in pushed if one.outcome == "updated"] == [
        "data source Tidegate Prometheus",
        "board Tidegate / Model",
        "board Tidegate / Drift",
    ]
    assert grafana.boards["tidegate-drift"]["version"] == 2
    assert grafana.folder_of["tidegate-model"] == "tidegate"
    assert grafana.datasources[DATASOURCE_UID]["jsonData"]["manageAlerts"] is True


def test_an_editor_may_push_boards_and_finds_a_folder_by_its_title(grafana: Grafana) -> None:
    grafana.folders["x"] = {"uid": "x", "title": "Serving & more"}

    assert outcomes(grafana, "an-editor", folder="Serving & more") == ["unchanged", *["created"] * 5]
    assert set(grafana.folder_of.values()) == {"x"}
    assert grafana.datasources == {}


def test_a_refusal_says_what_to_do(grafana: Grafana) -> None:
    assert "doesn't know the token: make one of a service account" in refusal(grafana, "wrong")
    assert "needs the role Editor" in refusal(grafana, "a-viewer")
    assert "or Admin where --prometheus is given" in refusal(grafana, "an-editor", prometheus=PROMETHEUS)


def test_a_board_of_the_same_title_is_not_replaced(grafana: Grafana) -> None:
    outcomes(grafana)
    other = grafana.boards.pop("tidegate-drift")
    grafana.boards["by-hand"], grafana.folder_of["by-hand"] = other, "tidegate"

    assert "take another --folder (A dashboard with the same name already exists)" in refusal(grafana)
    assert grafana.boards["by-hand"] == other


def test_an_edit_in_between_is_not_lost(grafana: Grafana) -> None:
    outcomes(grafana)
    edited = grafana.boards["tidegate-overview"]
    del edited["panels"][0]
    read = dict(edited)

    class Edited(Grafana):
        def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, Any]:
            answer = super().answer(method, path, token, body)
            if path == "/api/dashboards/uid/tidegate-overview":
                answer = 200, {"dashboard": dict(read), "meta": {"folderUid": "tidegate"}}
                edited["version"] += 1
            return answer

    with serving(Edited(folders=grafana.folders, boards=grafana.boards, folder_of=grafana.folder_of)) as busy:
        assert "somebody changed a board while it was pushed" in refusal(busy)


def test_what_is_no_grafana_is_said_to_be_none() -> None:
    class Other:
        port = 0

        def __init__(self, status: int, body: Any) -> None:
            self._answer = status, body

        @property
        def url(self) -> str:
            return f"http://127.0.0.1:{self.port}/deeper/"

        def answer(self, *_: Any) -> tuple[int, Any]:
            return self._answer

    for status, body in ((404, "<html>"), (200, "<html>"), (200, {"status": "up"})):
        with serving(Other(status, body)) as other:
            assert "what answers there is none" in refusal(other)
    with serving(Other(500, {"message": "out of order"})) as other:
        assert "refused with status 500: out of order" in refusal(other)


def test_nobody_there_and_no_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        absent = Grafana(port=probe.getsockname()[1])
    assert "no Grafana can be reached" in refusal(absent)
    with pytest.raises(PushRefused, match=r"expected the address of a Grafana.*'grafana:3000'"):
        list(push("grafana:3000", "t", TEXTS))


def test_a_grafana_that_hangs_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hanging = Grafana(port=silent.getsockname()[1])
        assert "didn't answer in time" in refusal(hanging, timeout_s=0.05)


def test_a_grafana_below_a_path(grafana: Grafana) -> None:
    class Below(Grafana):
        def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, Any]:
            assert path.startswith("/monitoring/api/")
            return super().answer(method, path.removeprefix("/monitoring"), token, body)

    with serving(Below()) as below:
        pushed = list(push(f"{below.url}/monitoring", "an-editor", TEXTS))
    assert pushed[-1].url.endswith("/monitoring/d/tidegate-rollout")
