"""JSON Schemas of what a version takes and answers, from its contract.

Sources: https://json-schema.org/draft/2020-12; https://github.com/kserve/open-inference-protocol for V2 documents.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from contract import Contract, TensorSpec
from contract.picture import MAX_MASK_PIXELS
from contract.profile import Feature
from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    Column,
    EmbeddingPostprocess,
    GenerationPostprocess,
    ImagePreprocess,
    MaskPostprocess,
    RegressionPostprocess,
    TablePreprocess,
    TensorPostprocess,
    TensorPreprocess,
    TextPreprocess,
    TokenLabelsPostprocess,
)
from gateway.example import tidy
from gateway.feedback import MAX_FEEDBACK
from gateway.prediction import MAX_TOKEN_CHARACTERS

Schema = dict[str, Any]

_INTEGER_BITS = {"INT8": 8, "INT16": 16, "INT32": 32, "INT64": 64, "UINT8": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64}
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"], "description": "null when the model answered no number."}
_RATIO: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_TOKEN: Schema = {
    "type": "string",
    "description": "Send it with the true label to `/v1/feedback`. Only there when this gateway takes feedback.",
}


def feedback_schema() -> Schema:
    """The body of a request to `/v1/feedback`."""
    one = closed({"token": {"type": "string", "maxLength": MAX_TOKEN_CHARACTERS}, "label": {"type": "string"}})
    many = {"type": "array", "minItems": 1, "maxItems": MAX_FEEDBACK, "items": one}
    return {"oneOf": [one, closed({"feedback": many})]}


def item_schema(contract: Contract) -> Schema:
    """One item of a predict request in JSON."""
    match contract.preprocess:
        case ImagePreprocess() as image:
            return {
                "type": "string",
                "contentEncoding": "base64",
                "contentMediaType": "image/*",
                "description": f"An image file in base64. It is made {image.width} x {image.height} ({image.resize}, "
                f"{image.mode}); at most {image.max_pixels} pixels in all images of a request.",
            }
        case TextPreprocess() as text:
            return {"type": "string", "description": f"What is longer than {text.max_length} tokens is cut."}
        case TablePreprocess() as table:
            features = {feature.name: feature for feature in contract.profile.features}
            columns = {c.name: _column(c, features.get(f"column.{c.name}")) for c in table.columns}
            return closed(columns, [column.name for column in table.columns if column.required])
        case TensorPreprocess():
            return {}


def prediction_schemas(contract: Contract) -> dict[str, Schema]:
    """The schema of one answer, and those that it refers to."""
    label: Schema = {"$ref": f"#/components/schemas/{contract.name}.Label"}
    match contract.postprocess:
        case ClassificationPostprocess() as post:
            best = closed({"label": label, "confidence": {"type": "number"}})
            top = {"type": "array", "maxItems": min(post.top_k, len(post.labels)), "items": best}
            fields = {
                "label": {"oneOf": [label, {"type": "null"}], "description": "null when the model answered no number."},
                "confidence": _NUMBER_OR_NULL,
                "top": {**top, "description": "The most probable labels, the first one first."},
                "token": _TOKEN,
            }
            return {"Label": _enum(post.labels), "Prediction": closed(fields, ["label", "confidence", "top"])}
        case RegressionPostprocess() as post:
            return {"Prediction": closed({"value": _NUMBER_OR_NULL, "unit": {"const": post.unit}})}
        case EmbeddingPostprocess() as post:
            vector = _nested(contract.output(post.tensor).shape, _NUMBER_OR_NULL)
            return {"Prediction": closed({"embedding": vector})}
        case TokenLabelsPostprocess() as post:
            return {"Label": _enum(post.span_labels), "Prediction": _spans(label)}
        case BoxesPostprocess() as post:
            return {"Label": _enum(post.labels), "Prediction": _boxes(label, post.min_score)}
        case MaskPostprocess() as post:
            return {"Label": _enum(post.labels), "Prediction": _mask(label, post.labels)}
        case GenerationPostprocess():
            return {"Prediction": closed({"text": {"type": "string"}})}
        case TensorPostprocess():
            outputs = {spec.name: _nested(spec.shape, _value(spec)) for spec in contract.outputs}
            return {"Prediction": closed({"outputs": closed(outputs)})}


def infer_request(contract: Contract) -> Schema:
    """A V2 request; every input is there once, in any order."""
    batch: list[Schema] = [{"type": "integer", "minimum": 1, "maximum": contract.batch.max}] if contract.batched else []
    inputs = [_tensor(spec, batch, _value(spec)) for spec in contract.inputs]
    output = {"type": "object", "properties": {"name": {"enum": [s.name for s in contract.outputs]}}}
    fields: Schema = {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": len(inputs), "maxItems": len(inputs), "items": _one_of(inputs)},
        "outputs": {
            "type": "array",
            "items": {**output, "required": ["name"]},
            "description": "Those to answer with; all of them when left out.",
        },
    }
    binary = "Instead of `data`, raw bytes may follow the JSON: the protocol's binary tensor extension."
    return {**closed(fields, ["inputs"]), "description": f"{binary} FP16 and BF16 have no other form."}


def infer_response(contract: Contract) -> Schema:
    """The answer to a V2 request in JSON."""
    batch: list[Schema] = [{"type": "integer", "minimum": 1}] if contract.batched else []
    outputs = [_tensor(spec, batch, {}) for spec in contract.outputs]
    fields: Schema = {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _one_of(outputs)},
    }
    return {"type": "object", "properties": fields, "required": ["model_name", "model_version", "outputs"]}


def closed(properties: Mapping[str, Any], required: list[str] | None = None) -> Schema:
    """An object of these properties and no others; all are required unless it is said which are."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _enum(labels: Sequence[str]) -> Schema:
    return {"type": "string", "enum": list(labels)}


def _spans(label: Schema) -> Schema:
    position = {"type": "integer", "minimum": 0}
    span = closed(
        {
            "label": label,
            "text": {"type": "string", "minLength": 1},
            "start": {**position, "description": "In characters (Unicode code points) of the text that was sent."},
            "end": {**position, "description": "The first character that no longer belongs to it."},
            "confidence": {**_RATIO, "description": "Mean over its tokens."},
        }
    )
    return closed({"spans": {"type": "array", "items": span, "description": "In the order of the text."}})


def _boxes(label: Schema, min_score: float) -> Schema:
    edges = {
        "type": "array",
        "minItems": 4,
        "maxItems": 4,
        "items": {"type": "number", "minimum": 0},
        "description": "x1, y1, x2, y2 in pixels of the picture that was sent, upright.",
    }
    box = closed({"label": label, "confidence": {"type": "number", "minimum": min_score}, "box": edges})
    return closed({"boxes": {"type": "array", "items": box, "description": "The most probable one first."}})


def _mask(label: Schema, labels: Sequence[str]) -> Schema:
    found = closed({"label": label, "ratio": {**_RATIO, "description": "Its share of the pixels."}})
    fields = {
        "labels": {"type": "array", "minItems": 1, "maxItems": len(labels), "items": found},
        "confidence": _NUMBER_OR_NULL,
        "size": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"type": "integer", "minimum": 1},
            "description": "Width and height of the mask: those of the picture that was sent, upright. Of more than "
            f"{MAX_MASK_PIXELS} pixels they are fewer: scale the mask to the picture.",
        },
        "mask": {
            "type": "string",
            "contentEncoding": "base64",
            "contentMediaType": "image/png",
            "description": f"A PNG, one byte a pixel: 0 is {labels[0]!r}, and so on in the order of the labels.",
        },
    }
    return closed(fields)


def _column(column: Column, feature: Feature | None) -> Schema:
    schema: Schema = {"type": "string" if column.kind == "category" else "number"}
    if column.kind == "category":
        schema |= {"enum": list(column.categories), "description": "Any other text counts as never seen."}
    elif feature is not None:
        low, high = tidy(feature.edges[0]), tidy(feature.edges[-1])
        schema["description"] = f"In training 98 of 100 values were from {low} to {high}."
    if not column.required:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"].append(None)
    return schema


def _tensor(spec: TensorSpec, batch: list[Schema], value: Schema) -> Schema:
    """A tensor in a V2 document; its first axis is the batch, where it has one."""
    ranges = iter({"minimum": bounds.min, "maximum": bounds.max} for bounds in spec.ranges)
    shown = [{"type": "integer", **next(ranges, {})} if axis == -1 else {"const": axis} for axis in spec.wire_shape]
    axes = [*batch, *shown]
    shape = {"type": "array", "prefixItems": axes, "minItems": len(axes), "maxItems": len(axes)}
    fields: Schema = {
        "name": {"const": spec.name},
        "datatype": {"const": spec.datatype},
        "shape": shape,
        "data": {"type": "array", "description": "Row by row.", "items": value},
    }
    return {"type": "object", "properties": fields, "required": list(fields)}


def _value(spec: TensorSpec) -> Schema:
    """One element of a tensor in JSON."""
    if spec.datatype in _INTEGER_BITS:
        bits, signed = _INTEGER_BITS[spec.datatype], not spec.datatype.startswith("U")
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return {"type": "integer", "minimum": low, "maximum": high}
    return {"type": {"BOOL": "boolean", "BYTES": "string"}.get(spec.datatype, "number")}


def _nested(shape: tuple[int, ...], value: Schema) -> Schema:
    """Lists in lists, one level an axis."""
    for axis in reversed(shape):
        length = {} if axis == -1 else {"minItems": axis, "maxItems": axis}
        value = {"type": "array", **length, "items": value}
    return value


def _one_of(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
