"""The documentation's pages: Swagger UI and the OpenAPI document, from this process alone.

A cluster without a way out must see them too, so the files of Swagger UI come from an installed package, and the pages'
policy lets a browser load nothing from elsewhere and run nothing that is written into the page.
"""

import asyncio
from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from contract import Contract
from gateway.catalog import Served, newest
from gateway.error import UnknownModel
from gateway.openapi import document

Models = Mapping[str, Mapping[str, Served]]

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the style sheet's own icons
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_FRESH = {**_SAFE, "Cache-Control": "no-cache"}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="/docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="docs" data-url="{url}" data-expansion="{expansion}"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/start.js"></script>
</body>
</html>
"""
_START = """\
const place = document.getElementById("docs");
SwaggerUIBundle({
  url: place.dataset.url,
  domNode: place,
  docExpansion: place.dataset.expansion,
  deepLinking: true,
  filter: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png"}


class Documents:
    """OpenAPI documents, of all models or of one, made again when what is served has changed."""

    def __init__(
        self,
        base: Callable[[], dict[str, Any]],
        models: Callable[[], Models],
        max_items: Callable[[Contract], int],
        version_dir: Callable[[str, str], Path],
        *,
        secured: bool = False,
    ) -> None:
        self._base = base
        self._models = models
        self._max_items = max_items
        self._version_dir = version_dir
        self._secured = secured
        self._snapshot: Models = {}
        self._made: dict[str | None, bytes] = {}

    def check(self, model: str) -> None:
        """UnknownModel when there is nothing to document under that name."""
        if model not in (known := _documented(self._models())):
            raise UnknownModel(f"unknown model {model!r:.80}; models with documentation are {sorted(known)}")

    async def get(self, model: str | None = None) -> bytes:
        """The document as JSON; UnknownModel for a model that has none."""
        if model is not None:
            self.check(model)
        snapshot = self._models()
        if snapshot is not self._snapshot:  # the catalog never changes one, it replaces it
            self._snapshot, self._made = snapshot, {}
        made = self._made
        if model not in made:
            made[model] = await asyncio.to_thread(self._make, snapshot, model)
        return made[model]

    def _make(self, models: Models, model: str | None) -> bytes:
        base, served = self._base(), _documented(models)
        if model is not None:
            base, served = {**base, "paths": {}, "components": {}, "tags": []}, {model: served[model]}
        return orjson.dumps(document(base, served, self._max_items, self._version_dir, secured=self._secured))


def docs_routes(documents: Documents) -> APIRouter:
    """`/docs`, `/docs/models/{name}` and `/openapi.json`."""
    router = APIRouter(include_in_schema=False)
    swagger = Path(str(files("fastapi_swagger") / "resources"))

    @router.get("/openapi.json")
    async def openapi(model: str | None = None) -> Response:
        return Response(await documents.get(model), media_type="application/json", headers=_FRESH)

    @router.get("/docs")
    async def docs() -> Response:
        return _page("Tidegate", "/openapi.json", "none")

    @router.get("/docs/models/{name}")
    async def model(name: str) -> Response:
        documents.check(name)
        return _page(f"{name} - Tidegate", f"/openapi.json?model={quote(name, safe='')}", "list")

    @router.get("/docs/assets/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript", headers=_FRESH)

    @router.get("/docs/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise HTTPException(404)
        headers = {**_SAFE, "Cache-Control": "public, max-age=86400"}
        return FileResponse(swagger / name, media_type=_ASSETS[name], headers=headers)

    return router


def _page(title: str, url: str, expansion: str) -> Response:
    text = _PAGE.format(title=escape(title), url=escape(url), expansion=expansion)
    return Response(text, media_type="text/html", headers={**_FRESH, "Content-Security-Policy": _POLICY})


def _documented(models: Models) -> dict[str, Served]:
    """The newest version of each model, where it has a contract."""
    latest = {name: versions[newest(versions)] for name, versions in models.items()}
    return {name: served for name, served in latest.items() if served.contract is not None}
