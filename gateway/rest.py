"""The HTTP side: translates requests into calls of the data plane, and errors into short JSON."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from contract import Contract, ContractError
from gateway.body import field_names, read_body, read_items, read_json
from gateway.dataplane import DataPlane
from gateway.error import GatewayError, InvalidRequest
from gateway.outcome import message_of, outcome_of
from gateway.v2 import (
    SERVER_NAME,
    read_inputs,
    requested_outputs,
    select,
    server_version,
    write_metadata,
    write_outputs,
)

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

_PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "One of `image`, `text`, `row`, or a list in `images`, `texts`, `rows`.",
                },
                "example": {"image": "<a PNG or JPEG file in base64>"},
            },
        },
    }
}
_INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "datatype": {"type": "string"},
                                    "data": {"type": "array", "items": {}},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                        },
                    },
                }
            }
        },
    }
}


def reply(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; NaN and infinity become null, since JSON has neither."""
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


class HotPath:
    """Answers the two requests that matter for speed before the framework's routing, which costs more than they do.

    The framework knows the same endpoints, so that they are in its documentation; a test holds the two together.
    """

    def __init__(self, app: ASGIApp, plane: DataPlane) -> None:
        self._app = app
        self._endpoints = {("v1", "predict"): predict_endpoint(plane), ("v2", "infer"): infer_endpoint(plane)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        found = self._find(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, scope["path_params"] = found
        try:
            response = await endpoint(Request(scope, receive))
        except (GatewayError, ContractError) as exc:
            response = error_reply(exc)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[Endpoint, dict[str, str]] | None:
        match scope["path"].split("/"):
            case ["", root, "models", name, verb] if name and (root, verb) in self._endpoints:
                return self._endpoints[root, verb], {"name": name}
            case ["", root, "models", name, "versions", version, verb] if (
                name and version and (root, verb) in self._endpoints
            ):
                return self._endpoints[root, verb], {"name": name, "version": version}
        return None


def health_routes(plane: DataPlane) -> APIRouter:
    """`/health/live` and `/health/ready`, and the same under the protocol's names."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live", summary="The process answers")
    @router.get("/v2/health/live", include_in_schema=False)
    async def live() -> Response:
        return reply({"live": True})

    @router.get("/health/ready", summary="Triton answers, and if it has models, one is loaded")
    @router.get("/v2/health/ready", include_in_schema=False)
    async def ready() -> Response:
        if plane.catalog.ready:
            return reply({"ready": True})
        reason = "no model is loaded" if plane.catalog.up else "the inference server is not available"
        return reply({"ready": False, "error": reason}, 503, {"Retry-After": "1"})

    return router


def predict_routes(plane: DataPlane) -> APIRouter:
    """`/v1/models`: what models mean."""
    router = APIRouter(prefix="/v1", tags=["predict"])

    @router.get("/models", summary="Models, their versions and how to ask them")
    async def models() -> Response:
        return reply({"models": [_describe(plane, name) for name in plane.catalog.models()]})

    @router.get("/models/{name}", summary="One model")
    async def model(name: str) -> Response:
        plane.catalog.find(name, None)
        return reply(_describe(plane, name))

    predict = predict_endpoint(plane)
    for path, summary in (("", "Ask the newest version"), ("/versions/{version}", "Ask one version")):
        router.post(f"/models/{{name}}{path}/predict", summary=summary, openapi_extra=_PREDICT_BODY)(predict)
    return router


def predict_endpoint(plane: DataPlane) -> Endpoint:
    """Answer what a client means: images, texts or rows."""

    async def predict(request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version")
        with plane.call("predict", name, version) as call:
            body = await read_body(request, call, plane.settings.max_body_bytes)
            if call.served.contract is None:
                raise InvalidRequest(f"model {call.served.name!r} takes tensors; send them by the V2 protocol")
            items = await read_items(request, body, call.served.contract.preprocess, plane.settings.max_items)
            predictions = await plane.predict(call, items)
            return reply({"model": call.served.name, "version": call.served.version, "predictions": predictions})

    return predict


def v2_routes(plane: DataPlane) -> APIRouter:
    """`/v2`: the Open Inference Protocol."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol V2"])

    @router.get("", summary="Server metadata")
    async def server() -> Response:
        return reply({"name": SERVER_NAME, "version": server_version(), "extensions": []})

    @router.get("/models/{name}", summary="Model metadata")
    @router.get("/models/{name}/versions/{version}", summary="Version metadata")
    async def metadata(request: Request) -> Response:
        served = plane.catalog.find(request.path_params["name"], request.path_params.get("version"))
        versions = plane.catalog.models()[served.name]
        if served.contract is not None:
            contract = served.contract
            return reply(write_metadata(served.name, versions, SERVER_NAME, contract.inputs, contract.outputs))
        said = await plane.upstream.model_metadata(served.name, served.version, plane.settings.request_timeout_s)
        tensors = {
            side: [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(said, side)]
            for side in ("inputs", "outputs")
        }
        return reply({"name": said.name, "versions": list(versions), "platform": said.platform, **tensors})

    @router.get("/models/{name}/ready", summary="The model can be asked")
    @router.get("/models/{name}/versions/{version}/ready", summary="The version can be asked")
    async def model_ready(request: Request) -> Response:
        plane.catalog.find(request.path_params["name"], request.path_params.get("version"))
        return reply({"ready": True})

    infer = infer_endpoint(plane)
    for path, summary in (("", "Infer with the newest version"), ("/versions/{version}", "Infer with one version")):
        router.post(f"/models/{{name}}{path}/infer", summary=summary, openapi_extra=_INFER_BODY)(infer)
    return router


def infer_endpoint(plane: DataPlane) -> Endpoint:
    """Answer tensors with tensors."""

    async def infer(request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version")
        with plane.call("v2_http", name, version) as call:
            document = read_json(await read_body(request, call, plane.settings.max_body_bytes))
            wanted = requested_outputs(document)
            request_id = document.get("id", "")
            if not isinstance(request_id, str):
                raise InvalidRequest(f"expected a string in 'id', got {type(request_id).__name__}")
            outputs = select(await plane.infer(call, read_inputs(document)), wanted)
            answer: dict[str, Any] = {"model_name": call.served.name, "model_version": call.served.version}
            if request_id:
                answer["id"] = request_id
            return reply(answer | {"outputs": write_outputs(outputs)})

    return infer


def error_reply(exc: Exception) -> Response:
    """One sentence, under the status of the error's outcome."""
    outcome = outcome_of(exc)
    if outcome.status == 500:
        log.error("a request failed unexpectedly", exc_info=exc)
    headers = {"Retry-After": str(outcome.retry_after_s)} if outcome.retry_after_s else None
    return reply({"error": message_of(exc)}, outcome.status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Every error, the framework's own included, is `{"error": sentence}`."""

    async def ours(_: Request, exc: Exception) -> Response:
        return error_reply(exc)

    async def framework(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 404:
            return reply({"error": f"no such path: {request.url.path!r:.120}; see /docs"}, 404)
        return reply({"error": str(exc.detail)}, exc.status_code, dict(exc.headers or {}))

    async def invalid(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        return reply({"error": f"the request is not valid: {exc.errors()[0]['msg']}"}, 400)

    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)
    for known in (GatewayError, ContractError, Exception):
        app.add_exception_handler(known, ours)


def _describe(plane: DataPlane, name: str) -> dict[str, Any]:
    versions = plane.catalog.models()[name]
    newest = plane.catalog.find(name, None)
    described: dict[str, Any] = {"name": name, "versions": list(versions), "default_version": newest.version}
    if newest.contract is None:
        return described | {"task": None, "infer": f"/v2/models/{name}/infer"}
    return described | _describe_contract(newest.contract, plane.max_items(newest.contract))


def _describe_contract(contract: Contract, max_items: int) -> dict[str, Any]:
    one, many = field_names(contract.preprocess)
    labels = getattr(contract.postprocess, "labels", None)
    return {
        "task": contract.task,
        "description": contract.description,
        "predict": f"/v1/models/{contract.name}/predict",
        "infer": f"/v2/models/{contract.name}/infer",
        "fields": [one, many],
        "labels": labels,
        "max_items": max_items,
        "evaluation": contract.evaluation.model_dump(),
    }
