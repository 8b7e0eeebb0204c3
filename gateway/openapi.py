"""The OpenAPI document of what is served now: for each model, its endpoints typed from its contract.

The framework describes the endpoints that every model shares, with the model's name as a parameter. Here each model
gets them under its own name, with its labels, columns and tensors, an example that works, and what is known of its
quality.

Source: https://spec.openapis.org/oas/v3.1.0
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contract import Contract
from contract.schema import ImagePreprocess, TensorPreprocess
from contract.tensor import as_sent
from gateway import example
from gateway.body import IMAGE_FIELD, field_names
from gateway.catalog import Served
from gateway.schema import Schema, closed, infer_request, infer_response, item_schema, prediction_schemas

_ERRORS = {
    400: "What was sent can't be read, or doesn't fit the model.",
    404: "The model is not there (any longer).",
    413: "The body is larger than the gateway takes.",
    415: "A content type or encoding that isn't read.",
    429: "The gateway has as many requests in hand as it takes; try again after `Retry-After` seconds.",
    502: "The model failed.",
    503: "The model can't be reached; try again after `Retry-After` seconds.",
    504: "The request's time was up.",
}
_SECURITY: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_FILE: Schema = {"type": "string", "format": "binary"}


def document(
    base: Mapping[str, Any],
    served: Mapping[str, Served],
    max_items: Callable[[Contract], int],
    version_dir: Callable[[str, str], Path],
    *,
    secured: bool = False,
) -> dict[str, Any]:
    """`base` with the endpoints of each model that has a contract. Reads files.

    `served` is the newest version of each model; `version_dir` gives its folder. `secured`: an API key is asked for.
    """
    tags: list[Schema] = []
    paths: dict[str, Schema] = {}
    schemas: dict[str, Schema] = {"Error": _error_schema()}
    for name, version in served.items():
        if version.contract is not None:
            model = _Model(version.contract, max_items(version.contract), version_dir(name, version.version))
            tags.append(model.tag())
            paths |= model.paths()
            schemas |= model.schemas()
    components = base.get("components", {})
    return {
        **base,
        "tags": [*tags, *base.get("tags", ())],
        "paths": {**paths, **{path: _with_parameters(path, methods) for path, methods in base["paths"].items()}},
        "components": {
            **components,
            "schemas": {**components.get("schemas", {}), **schemas},
            "responses": {**components.get("responses", {}), **_error_responses()},
            **({"securitySchemes": _SECURITY} if secured else {}),
        },
        **({"security": [{name: []} for name in _SECURITY]} if secured else {}),
    }


class _Model:
    """What the document says of one model."""

    def __init__(self, contract: Contract, most: int, version_dir: Path) -> None:
        self.contract = contract
        self.most = most
        self.tensors = example.sample(contract, version_dir)
        self.item = example.item(contract, version_dir, self.tensors)
        self.tag_name = f"model {contract.name}"  # apart from the tags of what is no model's

    def tag(self) -> Schema:
        """The model's section."""
        url = f"/docs/models/{self.contract.name}"
        return {
            "name": self.tag_name,
            "description": _describe(self.contract, self.most),
            "externalDocs": {"description": "this model alone", "url": url},
        }

    def paths(self) -> dict[str, Schema]:
        """Its endpoints."""
        name = self.contract.name
        paths = {f"/v2/models/{name}/infer": {"post": self._infer()}}
        if not isinstance(self.contract.preprocess, TensorPreprocess):
            paths = {f"/v1/models/{name}/predict": {"post": self._predict()}, **paths}
        return paths

    def schemas(self) -> dict[str, Schema]:
        """The schemas that its endpoints refer to."""
        named = {"InferRequest": infer_request(self.contract), "InferResponse": infer_response(self.contract)}
        if not isinstance(self.contract.preprocess, TensorPreprocess):
            named |= {"Item": item_schema(self.contract), **prediction_schemas(self.contract)}
        return {f"{self.contract.name}.{kind}": schema for kind, schema in named.items()}

    def _predict(self) -> Schema:
        one, many = field_names(self.contract.preprocess)
        item = self._ref("Item")
        items = {"type": "array", "minItems": 1, "maxItems": self.most, "items": item}
        content: dict[str, Schema] = {
            "application/json": {
                "schema": {"oneOf": [closed({one: item}), closed({many: items})]},
                "examples": {
                    "one": {"summary": f"One {one}", "value": {one: self.item}},
                    "many": {"summary": f"Several {many}", "value": {many: [self.item] * min(2, self.most)}},
                },
            }
        }
        if isinstance(self.contract.preprocess, ImagePreprocess):
            files = {"type": "array", "minItems": 1, "maxItems": self.most, "items": _FILE}
            content = {
                "multipart/form-data": {"schema": closed({IMAGE_FIELD: files})},
                **content,
                "image/*": {"schema": _FILE},
            }
        answer = {
            "model": {"type": "string"},
            "version": {"type": "string"},
            "predictions": {
                "type": "array",
                "description": "One for each item, in their order.",
                "items": self._ref("Prediction"),
            },
        }
        return self._operation("predict", f"Ask {self.contract.name}", content, closed(answer))

    def _infer(self) -> Schema:
        body: Schema = {"schema": self._ref("InferRequest")}
        inputs = example.values(self.contract.inputs, as_sent(self.contract.batch_axis, self.tensors))
        if inputs is not None:
            body["example"] = {"inputs": inputs}
        summary = f"Send tensors to {self.contract.name} (Open Inference Protocol V2)"
        return self._operation("infer", summary, {"application/json": body}, self._ref("InferResponse"))

    def _operation(self, verb: str, summary: str, content: Schema, answer: Schema) -> Schema:
        errors = {str(status): {"$ref": f"#/components/responses/{status}"} for status in _ERRORS}
        success = {"description": "The answer.", "content": {"application/json": {"schema": answer}}}
        return {
            "tags": [self.tag_name],
            "operationId": f"{verb}_{self.contract.name}",
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": {"200": success, **errors},
        }

    def _ref(self, kind: str) -> Schema:
        return {"$ref": f"#/components/schemas/{self.contract.name}.{kind}"}


def _describe(contract: Contract, most: int) -> str:
    """What the version is, how good it was, and its limits, in Markdown."""
    evaluation, slo = contract.evaluation, contract.slo
    measured = f"Measured on {evaluation.dataset}, split {evaluation.split}, with 95 % intervals:"
    lines = [
        contract.description,
        f"**{contract.task}**, version {contract.version}",
        measured if evaluation.measured else "Nobody measured how good it is.",
        "\n".join(
            f"- {m.name} {m.value:.4g} ({m.low:.4g} to {m.high:.4g}; {m.num_samples} samples)"
            for m in evaluation.metrics
            if "." not in m.name  # those of a single label, such as recall.cat, may be thousands
        ),
        f"At most {most} items a request. {100 * slo.latency_objective:.4g} % of the answers should take no more than "
        f"{slo.latency_threshold_ms:g} ms.",
    ]
    return "\n\n".join(filter(None, lines))


def _with_parameters(path: str, methods: Mapping[str, Schema]) -> Schema:
    """The operations of a path with its parameters: the framework knows only those that a function names."""
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    described = {}
    for verb, operation in methods.items():
        others = [one for one in operation.get("parameters", ()) if one["in"] != "path"]
        described[verb] = {**operation, "parameters": named + others}
    return described


def _error_schema() -> Schema:
    sentence = {"type": "string", "description": "One sentence: what was expected, what came, what to do."}
    return closed({"error": sentence})


def _error_responses() -> dict[str, Schema]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": text, "content": content} for status, text in _ERRORS.items()}
