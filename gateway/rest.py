"""The HTTP side apart from the hot endpoints: health, metadata, feedback, routes, documentation; and errors."""

import logging
import time
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from google.protobuf.json_format import MessageToDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from contract import Contract, ContractError
from gateway.access import HOLDER
from gateway.body import Body, field_names, read_json
from gateway.call import Ask
from gateway.catalog import Served
from gateway.dataplane import DataPlane
from gateway.error import GatewayError, UnknownModel
from gateway.generate import events, first_of, generate, stream
from gateway.hot import EXTENSIONS, Reply, error_reply, unless_gone
from gateway.log import request_id
from gateway.route_file import describe
from gateway.schema import feedback_schema
from gateway.v2 import SERVER_NAME, server_version, write_metadata

log = logging.getLogger(__name__)

_JSON_LIMIT_BYTES = 1024 * 1024
_TEXT_FIELDS = {"name", "version", "key", "string_value", "label_filename", "default_model_filename"}

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

    @router.get("/models/{name}", summary="One model, or the one that a route's name leads to")
    async def model(request: Request) -> Response:
        return reply(_describe(plane, _served(plane, request).name))

    @router.get("/examples/{name}", summary="Recent requests that show a feature's drift, if they are kept")
    @router.get("/examples/{name}/versions/{version}", include_in_schema=False)
    async def examples(request: Request, feature: str) -> Response:
        served = _served(plane, request)
        found = plane.examples(served, feature)
        return reply({"model": served.name, "version": served.version, "feature": feature, "examples": found})

    _add_hot(router, "predict", ("Ask the newest version", "Ask one version"), _PREDICT_BODY)
    return router


def v2_routes(plane: DataPlane) -> APIRouter:
    """`/v2`: the Open Inference Protocol."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol V2"])

    @router.get("", summary="Server metadata")
    async def server() -> Response:
        return reply({"name": SERVER_NAME, "version": server_version(), "extensions": EXTENSIONS})

    @router.get("/models/stats", summary="Triton's statistics of all models")  # before the name, which fits it too
    async def all_statistics() -> Response:
        return reply(_document(await plane.upstream.model_statistics("", "", plane.settings.request_timeout_s)))

    @router.get("/models/{name}", summary="Model metadata")
    @router.get("/models/{name}/versions/{version}", summary="Version metadata")
    async def metadata(request: Request) -> Response:
        served = _served(plane, request)
        versions = plane.catalog.models()[served.name]
        if served.contract is not None:
            return reply(write_metadata(served.contract, versions))
        said = await plane.upstream.model_metadata(served.name, served.version, plane.settings.request_timeout_s)
        tensors = {
            side: [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(said, side)]
            for side in ("inputs", "outputs")
        }
        return reply({"name": said.name, "versions": list(versions), "platform": said.platform, **tensors})

    @router.get("/models/{name}/config", summary="Triton's configuration of the model")
    @router.get("/models/{name}/versions/{version}/config", include_in_schema=False)
    async def config(request: Request) -> Response:
        served = _served(plane, request)
        said = await plane.upstream.model_config(served.name, served.version, plane.settings.request_timeout_s)
        return reply(_document(said.config))

    @router.get("/models/{name}/stats", summary="Triton's statistics of the model")
    @router.get("/models/{name}/versions/{version}/stats", include_in_schema=False)
    async def statistics(request: Request) -> Response:
        name, version = _served(plane, request).name, request.path_params.get("version") or ""
        said = await plane.upstream.model_statistics(name, version, plane.settings.request_timeout_s)
        return reply(_document(said))

    @router.get("/models/{name}/ready", summary="The model can be asked")
    @router.get("/models/{name}/versions/{version}/ready", summary="The version can be asked")
    async def model_ready(request: Request) -> Response:
        _served(plane, request)
        return reply({"ready": True})

    _add_hot(router, "infer", ("Infer with the newest version", "Infer with one version"), _INFER_BODY)
    return router


def generate_routes(plane: DataPlane) -> APIRouter:
    """`generate` and `generate_stream`: plain JSON, for models that answer once, and those that answer in a stream."""
    router = APIRouter(prefix="/v2", tags=["generate"])

    @router.post("/models/{name}/generate", summary="Ask for one answer")
    @router.post("/models/{name}/versions/{version}/generate", include_in_schema=False)
    async def once(request: Request) -> Response:
        body = _body(request)
        document = await _read_json(plane, body)
        return reply(await unless_gone(generate(plane, _ask(request), document), body))

    @router.post("/models/{name}/generate_stream", summary="Ask for answers as server-sent events")
    @router.post("/models/{name}/versions/{version}/generate_stream", include_in_schema=False)
    async def streamed(request: Request) -> Response:
        body = _body(request)
        answers = stream(plane, _ask(request), await _read_json(plane, body))
        first = await unless_gone(first_of(answers), body)
        return StreamingResponse(events(answers, first), media_type="text/event-stream")

    return router


def control_routes(plane: DataPlane) -> APIRouter:
    """Feedback, and what is in force of the routes."""
    router = APIRouter(prefix="/v1")

    body = {"required": True, "content": {"application/json": {"schema": feedback_schema()}}}

    @router.post("/feedback", tags=["feedback"], summary="Tell true labels", openapi_extra={"requestBody": body})
    async def feedback(request: Request) -> Response:
        return reply(plane.feedback.give(await _read_json(plane, _body(request))))

    @router.get("/routes", tags=["routes"], summary="The routes in force, and how their shadows agree")
    async def routes() -> Response:
        return reply(describe(plane.routes, plane.shadow))

    @router.get("/routes/{name}/disagreements", tags=["routes"], summary="Where a shadow last answered otherwise")
    async def disagreements(name: str) -> Response:
        if plane.shadow.counts(name) is None:
            raise UnknownModel(f"no route {name!r:.80} with a shadow")
        return reply({"route": name, "disagreements": plane.shadow.counter_examples(name)})

    return router


def add_error_handlers(app: FastAPI) -> None:
    """Every error, the framework's own included, is `{"error": sentence}`."""

    async def ours(_: Request, exc: Exception) -> Response:
        return _response(error_reply(exc))

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


def _ask(request: Request) -> Ask:
    name, version = request.path_params["name"], request.path_params.get("version")
    given = request_id(request.headers.get("x-request-id"))
    key = request.scope.get(HOLDER)
    return Ask("v2_http", name, version, request_id=given, key=key, headers=lambda: dict(request.headers))


def _served(plane: DataPlane, request: Request) -> Served:
    """Who serves the model or route in the path."""
    return plane.routing.find(_ask(request))[0]


def _body(request: Request) -> Body:
    return Body(request.receive, dict(request.scope["headers"]), _JSON_LIMIT_BYTES)


async def _read_json(plane: DataPlane, body: Body) -> dict[str, Any]:
    return read_json(await body.read(time.monotonic() + plane.settings.request_timeout_s))


def _document(message: Any) -> Any:
    """A protobuf message as Triton's HTTP endpoint shows it: 64-bit integers stay numbers."""
    return _numbers(MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def _numbers(value: Any) -> Any:
    match value:
        case dict():
            return {key: item if key in _TEXT_FIELDS else _numbers(item) for key, item in value.items()}
        case list():
            return [_numbers(item) for item in value]
        case str() if value.lstrip("-").isdecimal():
            return int(value)
    return value


def _add_hot(router: APIRouter, verb: str, summaries: tuple[str, str], extra: dict[str, Any]) -> None:
    """Put a hot endpoint into the documentation: `HotPath` answers it before the framework sees it."""
    for path, summary in zip(("", "/versions/{version}"), summaries, strict=True):
        router.post(f"/models/{{name}}{path}/{verb}", summary=summary, openapi_extra=extra)(_never)


async def _never() -> Response:
    raise AssertionError("the hot path answers this before the framework")


def _response(made: Reply) -> Response:
    return Response(made.body, made.status, {k.decode(): v.decode() for k, v in made.headers}, "application/json")
