"""Puts the boards into a Grafana over its HTTP API: a folder, a data source if wanted, and every board.

What is there already as it should be is left alone, so a second push changes nothing. A board is sent with the version
that was read, so an edit by somebody else in between is refused by Grafana rather than lost. Rules and alerts stay in
Prometheus: none is made in Grafana.
Source: https://grafana.com/docs/grafana/latest/developers/http_api/
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from grafana_client.api import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException, GrafanaTimeoutError
from niquests.exceptions import JSONDecodeError, RequestException

from monitoring.dashboard import DATASOURCE_NAME, DATASOURCE_UID
from monitoring.error import PushRefused
from monitoring.prometheus import SCRAPE_INTERVAL_S

_NOT_OURS = ("id", "version", "schemaVersion")  # Grafana's own count, and the form that it keeps boards in


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What became of one thing in Grafana."""

    what: str
    outcome: Literal["created", "updated", "unchanged"]
    url: str = ""


def push(
    url: str,
    token: str,
    boards: Mapping[str, str],
    *,
    folder: str = "Tidegate",
    prometheus: str | None = None,
    alerts: bool = False,
    timeout_s: float = 10.0,
) -> Iterator[Pushed]:
    """Make folder, data source and boards (JSON by file name) as they should be, yielding each as it is done.

    `prometheus` is its address as Grafana reaches it; without it no data source is touched, and the boards ask for one.
    With `alerts`, Grafana's alerting pages show Prometheus' rules. Raises PushRefused with one sentence.
    """
    address = _address(url)
    with _in_one_sentence(address):
        api: Any = GrafanaApi.from_url(address, credential=token, timeout=timeout_s)
        _require_grafana(api, address)
        if prometheus is not None:
            yield _datasource(api, prometheus, alerts)
        uid, outcome = _folder(api, folder)
        yield Pushed(what=f"folder {folder}", outcome=outcome)
        for text in boards.values():
            yield _board(api, address, json.loads(text), uid)


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PushRefused(f"expected the address of a Grafana, such as http://127.0.0.1:3000, got {url!r}")
    return url.rstrip("/") + "/"


def _require_grafana(api: Any, address: str) -> None:
    """Ask for its health, which needs no token, so that a wrong address isn't taken for a wrong token."""
    try:
        health = api.client.GET("/health")
    except (GrafanaClientError, JSONDecodeError) as exc:
        raise _no_grafana(address) from exc
    if not isinstance(health, dict) or "database" not in health:
        raise _no_grafana(address)


def _no_grafana(address: str) -> PushRefused:
    return PushRefused(f"expected a Grafana at {address}, but what answers there is none: check --url")


def _datasource(api: Any, prometheus: str, alerts: bool) -> Pushed:
    wanted = {
        "uid": DATASOURCE_UID,
        "name": DATASOURCE_NAME,
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus,
        "jsonData": {"httpMethod": "POST", "timeInterval": f"{SCRAPE_INTERVAL_S}s", "manageAlerts": alerts},
    }
    what = f"data source {DATASOURCE_NAME}"
    found = _or_none(lambda: api.datasource.get_datasource_by_uid(DATASOURCE_UID))
    if found is None:
        api.datasource.create_datasource(wanted)
        return Pushed(what=what, outcome="created")
    if _holds(found, wanted):
        return Pushed(what=what, outcome="unchanged")
    api.datasource.update_datasource_by_uid(DATASOURCE_UID, {**wanted, "version": found.get("version", 0)})
    return Pushed(what=what, outcome="updated")


def _folder(api: Any, title: str) -> tuple[str, Literal["created", "unchanged"]]:
    """The uid of the folder of this title, wherever it came from, else of a new one."""
    for folder in api.folder.get_all_folders():
        if folder["title"] == title:
            return str(folder["uid"]), "unchanged"
    uid = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40]
    return str(api.folder.create_folder(title, uid=uid or None)["uid"]), "created"


def _board(api: Any, address: str, board: dict[str, Any], folder_uid: str) -> Pushed:
    what, url = f"board {board['title']}", f"{address}d/{board['uid']}"
    found = _or_none(lambda: api.dashboard.get_dashboard(board["uid"]))
    wanted = {key: value for key, value in board.items() if key not in _NOT_OURS}
    if found and found["meta"].get("folderUid") == folder_uid and _holds(found["dashboard"], wanted):
        return Pushed(what=what, outcome="unchanged", url=url)
    version = {"version": found["dashboard"]["version"]} if found else {}
    sent = {**board, **version, "id": None}
    api.dashboard.update_dashboard(
        {"dashboard": sent, "folderUid": folder_uid, "overwrite": False, "message": "tidegate dashboards push"}
    )
    return Pushed(what=what, outcome="updated" if found else "created", url=url)


def _or_none(ask: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return ask()
    except GrafanaClientError as exc:
        if exc.status_code == 404:
            return None
        raise


def _holds(found: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; Grafana may add fields of its own."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_holds(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_holds, found, wanted))
    return bool(found == wanted)


@contextmanager
def _in_one_sentence(address: str) -> Iterator[None]:
    try:
        yield
    except GrafanaTimeoutError as exc:
        raise PushRefused(f"Grafana at {address} didn't answer in time: see whether it is up") from exc
    except GrafanaException as exc:
        raise PushRefused(_sentence(address, exc)) from exc
    except JSONDecodeError as exc:
        raise _no_grafana(address) from exc
    except RequestException as exc:
        raise PushRefused(f"no Grafana can be reached at {address}: check --url, and that it runs") from exc


def _sentence(address: str, exc: GrafanaException) -> str:
    said = exc.response if isinstance(exc.response, dict) else {}
    reason = said.get("message") or exc.message
    if exc.status_code == 401:
        return f"Grafana at {address} doesn't know the token: make one of a service account and give it by --token"
    if exc.status_code == 403:
        return (
            f"Grafana at {address} doesn't allow the token this ({reason}): its service account needs the role Editor, "
            "or Admin where --prometheus is given"
        )
    if exc.status_code == 412 and said.get("status") == "name-exists":
        return f"another board in the folder has the title of ours: rename it, or take another --folder ({reason})"
    if exc.status_code == 412:
        return f"somebody changed a board while it was pushed: look at it in Grafana, then push again ({reason})"
    return f"Grafana at {address} refused with status {exc.status_code}: {reason}"
