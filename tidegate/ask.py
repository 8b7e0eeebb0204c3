"""Asking a running gateway, as `tidegate predict` and `tidegate routes` do, with the key in `TIDEGATE_API_KEY`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tidegate.error import AskError, CommandError


def predict(url: str, model: str, version: str | None, items: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """Put items to a model in one request, as whatever it takes, and return the gateway's answer.

    An item is a text, or a row as a JSON object, or `@file` for what a file holds: an image, a text, or rows (a JSON
    object, a list of them, or one a line). For a model of images `@` may be left out. Raises CommandError for an item
    that can't be read, OSError for a file that isn't there, AskError when the gateway can't be asked, or refuses.
    """
    name = quote(model, safe="")
    described = exchange("GET", url, f"/v1/models/{name}", timeout_s)
    if "fields" not in described:
        raise CommandError(f"model {model!r} takes tensors; ask it by the V2 protocol, {described.get('infer')}")
    one, many = described["fields"]
    path = f"/v1/models/{name}/versions/{quote(version, safe='')}/predict" if version else described["predict"]
    if one == "image":
        files = [Path(item.removeprefix("@")) for item in items]
        images = [("image", (file.name, file.read_bytes())) for file in files]
        return exchange("POST", url, path, timeout_s, files=images)
    read = _rows if one == "row" else _texts
    values = [value for item in items for value in read(item)]
    return exchange("POST", url, path, timeout_s, json={many: values})


def exchange(method: str, url: str, path: str, timeout_s: float, **content: Any) -> dict[str, Any]:
    """One request to the gateway at `url`, and the JSON object that it answers; raises AskError."""
    try:
        answer = httpx.request(
            method, f"{url.rstrip('/')}{path}", timeout=timeout_s, trust_env=False, headers=key_header(), **content
        )
        document = answer.json()
    except httpx.TimeoutException:
        raise AskError(f"the gateway at {url} did not answer within {timeout_s:g} s") from None
    except httpx.HTTPError as exc:
        raise AskError(f"the gateway at {url} can't be reached ({exc}); `tidegate up` starts one") from None
    except ValueError:
        raise AskError(f"what answers at {url} is no Tidegate gateway: it sent no JSON") from None
    if answer.status_code != 200 or not isinstance(document, dict):
        said = document.get("error") if isinstance(document, dict) else None
        raise AskError(f"the gateway at {url} answered {answer.status_code}: {said or document!s:.200}")
    return document


def key_header() -> dict[str, str]:
    """The header with the key in `TIDEGATE_API_KEY`, where there is one."""
    key = os.environ.get("TIDEGATE_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise CommandError("expected an API key of printable ASCII in TIDEGATE_API_KEY")  # it isn't quoted: a secret
    return {"Authorization": f"Bearer {key}"} if key else {}


def _texts(item: str) -> list[str]:
    return [_file(item)] if item.startswith("@") else [item]


def _rows(item: str) -> list[dict[str, Any]]:
    text = _file(item) if item.startswith("@") else item
    parts = text.splitlines() if item.endswith(".jsonl") else [text]
    try:
        documents = [json.loads(part) for part in parts if part.strip()]
    except ValueError as exc:
        raise CommandError(f"expected rows as JSON objects, got {item:.60}: {exc}") from exc
    rows = [row for document in documents for row in (document if isinstance(document, list) else [document])]
    if not all(isinstance(row, dict) for row in rows):
        raise CommandError(f"expected rows as JSON objects, got {item:.60}")
    return rows


def _file(item: str) -> str:
    try:
        return Path(item[1:]).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CommandError(f"{item[1:]} is no text in UTF-8") from None
