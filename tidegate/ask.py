"""Asking a running gateway, as `tidegate predict` and the demo do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tidegate.error import AskError


def predict(url: str, model: str, version: str | None, files: Sequence[Path], timeout_s: float) -> dict[str, Any]:
    """Send image files in one request and return the gateway's answer; raises AskError."""
    which = f"{quote(model, safe='')}/versions/{quote(version, safe='')}" if version else quote(model, safe="")
    images = [("image", (file.name, file.read_bytes())) for file in files]
    try:
        answer = httpx.post(
            f"{url.rstrip('/')}/v1/models/{which}/predict", files=images, timeout=timeout_s, trust_env=False
        )
        document = answer.json()
    except httpx.TimeoutException:
        raise AskError(f"the gateway at {url} did not answer within {timeout_s:g} s") from None
    except httpx.HTTPError as exc:
        raise AskError(f"the gateway at {url} can't be reached ({exc}); `tidegate up` starts one") from None
    except ValueError:
        raise AskError(f"what answers at {url} is no Tidegate gateway: it sent no JSON") from None
    if answer.status_code != 200:
        raise AskError(f"the gateway answered {answer.status_code}: {document.get('error', document)}")
    assert isinstance(document, dict)
    return document
