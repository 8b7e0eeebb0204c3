import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from contract import Contract, Profile, Repository
from contract.golden import Golden
from contract.profile import categorical_feature, ordered_feature
from contract.schema import (
    AxisRange,
    Column,
    EmbeddingPostprocess,
    Evaluation,
    Metric,
    RegressionPostprocess,
    TablePreprocess,
    TensorPostprocess,
    TensorPreprocess,
    TensorSpec,
    TextPreprocess,
)
from gateway import example

Serve = Callable[..., Any]
MakeVersion = Callable[..., Contract]

LENGTH = AxisRange(min=1, opt=4, max=6)
COLUMNS = (
    Column(name="area", kind="number"),
    Column(name="garden", kind="number", required=False),
    Column(name="city", kind="category", categories=("Kiel", "Jena")),
    Column(name="heating", kind="category", categories=("gas", "heat pump"), required=False),
)


Infos = Mapping[str, tuple[int, Sequence[Any]]]


def graph(inputs: Infos, outputs: Mapping[str, Sequence[Any]], *nodes: Any) -> onnx.ModelProto:
    def infos(tensors: Infos) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, ["n", *dims]) for name, (kind, dims) in tensors.items()]

    answers = infos({name: (TensorProto.FLOAT, dims) for name, dims in outputs.items()})
    model = helper.make_model(
        helper.make_graph(list(nodes), "small", infos(inputs), answers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def constant(name: str, values: Any, kind: Any = np.float32) -> Any:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.array(values, kind), name))


def scores(source: str) -> list[Any]:
    """Nodes that make `logits` `[n, 3]` of `source` `[n, any]`."""
    return [
        constant("axis", [1], np.int64),
        helper.make_node("ReduceSum", [source, "axis"], ["sum"]),
        constant("weight", [[0.1, 0, -0.1]]),
        helper.make_node("MatMul", ["sum", "weight"], ["logits"]),
    ]


def write_text(root: Path, make: MakeVersion) -> None:
    """`reviews`: text to one of three labels; its golden sample is "good film"."""
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    inputs = (
        TensorSpec(name="ids", datatype="INT64", shape=(-1,), ranges=(LENGTH,)),
        TensorSpec(name="mask", datatype="INT32", shape=(-1,), ranges=(LENGTH,)),
    )
    preprocess = TextPreprocess(tokenizer="tokenizer.json", ids_tensor="ids", mask_tensor="mask", max_length=6)
    metrics = [Metric(name=n, value=0.9, low=0.85, high=0.93, num_samples=200) for n in ("accuracy", "recall.dark")]
    evaluation = Evaluation(dataset="films", split="test", metrics=tuple(metrics))
    make(root, "reviews", task="text-classification", inputs=inputs, preprocess=preprocess, evaluation=evaluation)
    folder = root / "reviews" / "1"
    tokenizer.save(str(folder / "tokenizer.json"))
    nodes = [
        helper.make_node("Cast", ["mask"], ["mask64"], to=TensorProto.INT64),
        helper.make_node("Mul", ["ids", "mask64"], ["real"]),
        helper.make_node("Cast", ["real"], ["numbers"], to=TensorProto.FLOAT),
        *scores("numbers"),
    ]
    tensors = {"ids": (TensorProto.INT64, ["length"]), "mask": (TensorProto.INT32, ["length"])}
    onnx.save(graph(tensors, {"logits": [3]}, *nodes), folder / "model.onnx")
    ids = np.array([[2, 3, 0]], np.int64)
    Golden({"ids": ids, "mask": (ids > 0).astype(np.int32)}, {}).save(folder)


def write_table(root: Path, make: MakeVersion) -> None:
    """`houses`: a row of numbers and categories to a price."""
    rng = np.random.default_rng(0)
    features = (
        ordered_feature("column.area", rng.integers(40, 200, 500).astype(np.float64)),
        ordered_feature("column.garden", np.where(rng.random(500) < 0.3, np.nan, rng.normal(300, 50, 500))),
        categorical_feature("column.city", ["Jena"] * 300 + ["Kiel"] * 200, ("Kiel", "Jena")),
    )
    make(
        root,
        "houses",
        task="tabular-regression",
        inputs=(TensorSpec(name="row", datatype="FP32", shape=(4,), allow_nan=True),),
        outputs=(TensorSpec(name="price", datatype="FP32", shape=(1,)),),
        preprocess=TablePreprocess(tensor="row", columns=COLUMNS),
        postprocess=RegressionPostprocess(tensor="price", unit="EUR"),
        profile=Profile(features=features),
        artifacts=(),
    )
    nodes = [constant("axis", [1], np.int64), helper.make_node("ReduceSum", ["row", "axis"], ["price"])]
    model = graph({"row": (TensorProto.FLOAT, [4])}, {"price": [1]}, *nodes)
    onnx.save(model, root / "houses" / "1" / "model.onnx")


def write_tensors(root: Path, make: MakeVersion) -> None:
    """`mixer`: two tensors in, two out; `finder`: a tensor to a vector. Neither says what they mean."""
    series = TensorSpec(name="series", datatype="FP32", shape=(-1, 2), ranges=(LENGTH,))
    make(
        root,
        "mixer",
        task="forecast",
        inputs=(series, TensorSpec(name="on", datatype="BOOL", shape=(2,))),
        outputs=(
            TensorSpec(name="next", datatype="FP32", shape=(-1, 2)),
            TensorSpec(name="gate", datatype="FP32", shape=(2,)),
        ),
        preprocess=TensorPreprocess(),
        postprocess=TensorPostprocess(),
        profile=Profile(),
    )
    nodes = [
        helper.make_node("Cast", ["on"], ["gate"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["series"], ["next"]),
    ]
    tensors: Infos = {"series": (TensorProto.FLOAT, ["length", 2]), "on": (TensorProto.BOOL, [2])}
    onnx.save(graph(tensors, {"next": ["length", 2], "gate": [2]}, *nodes), root / "mixer" / "1" / "model.onnx")
    make(
        root,
        "finder",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(4,)),),
        outputs=(TensorSpec(name="vector", datatype="FP32", shape=(4,)),),
        preprocess=TensorPreprocess(),
        postprocess=EmbeddingPostprocess(tensor="vector"),
        profile=Profile(),
    )
    model = graph({"x": (TensorProto.FLOAT, [4])}, {"vector": [4]}, helper.make_node("Identity", ["x"], ["vector"]))
    onnx.save(model, root / "finder" / "1" / "model.onnx")


@pytest.fixture
def repository(tiny_repository: Repository, make_version: MakeVersion) -> Repository:
    """`tiny` (images), `reviews` (text), `houses` (rows), `mixer` and `finder` (tensors)."""
    for write in (write_text, write_table, write_tensors):
        write(tiny_repository.root, make_version)
    return tiny_repository


async def read(gateway: Any, model: str | None = None) -> dict[str, Any]:
    answer = await gateway.client.get("/openapi.json", params={} if model is None else {"model": model})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def examples(content: dict[str, Any]) -> list[Any]:
    named = [one["value"] for one in content.get("examples", {}).values()]
    return named + ([content["example"]] if "example" in content else [])


def check(document: dict[str, Any], schema: dict[str, Any], instance: Any) -> None:
    OAS31Validator({**schema, "components": document["components"]}).validate(instance)


async def test_every_example_fits_its_schema_and_is_answered_as_documented(
    serve: Serve, repository: Repository
) -> None:
    async with serve(repository) as gateway:
        document = await read(gateway)
        OpenAPIV31SpecValidator(document).validate()
        asked: dict[str, int] = {}
        for path, methods in document["paths"].items():
            for media, content in methods.get("post", {}).get("requestBody", {}).get("content", {}).items():
                for value in examples(content) if "{" not in path else ():
                    check(document, content["schema"], value)
                    answer = await gateway.client.post(path, json=value)
                    assert (media, answer.status_code) == ("application/json", 200), (path, value, answer.text)
                    success = methods["post"]["responses"]["200"]["content"]["application/json"]["schema"]
                    check(document, success, answer.json())
                    asked[path] = asked.get(path, 0) + 1
        assert asked == {
            **{f"/v1/models/{name}/predict": 2 for name in ("tiny", "reviews", "houses")},
            **{f"/v2/models/{name}/infer": 1 for name in ("tiny", "reviews", "houses", "mixer", "finder")},
        }


async def test_errors_are_as_documented(serve: Serve, repository: Repository) -> None:
    async with serve(repository) as gateway:
        document = await read(gateway)
        answer = await gateway.client.post("/v1/models/houses/predict", json={"row": {"area": "large"}})
        responses = document["paths"]["/v1/models/houses/predict"]["post"]["responses"]
        reference = responses[str(answer.status_code)]["$ref"].rpartition("/")[2]
        response = document["components"]["responses"][reference]
        check(document, response["content"]["application/json"]["schema"], answer.json())


async def test_an_image_can_be_sent_in_each_documented_form(serve: Serve, repository: Repository) -> None:
    async with serve(repository) as gateway:
        document = await read(gateway)
        content = document["paths"]["/v1/models/tiny/predict"]["post"]["requestBody"]["content"]
        assert list(content) == ["multipart/form-data", "application/json", "image/*"]
        data = base64.b64decode(content["application/json"]["examples"]["one"]["value"]["image"])
        golden = Golden.load(repository.version_dir("tiny", 1)).inputs["image"][0]
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "PNG"
            np.testing.assert_array_equal(np.asarray(image), golden[:, :, 0])
        for sent in ({"files": {"image": data}}, {"content": data, "headers": {"content-type": "image/png"}}):
            assert (await gateway.client.post("/v1/models/tiny/predict", **sent)).status_code == 200


async def test_what_the_contract_says_is_what_the_document_says(serve: Serve, repository: Repository) -> None:
    async with serve(repository) as gateway:
        document = await read(gateway)
        schemas = document["components"]["schemas"]
        assert schemas["tiny.Label"]["enum"] == ["dark", "even", "bright"]
        assert schemas["houses.Prediction"]["properties"]["unit"] == {"const": "EUR"}
        houses = schemas["houses.Item"]
        assert houses["required"] == ["area", "city"]
        assert houses["properties"]["city"]["enum"] == ["Kiel", "Jena"]
        assert houses["properties"]["heating"] == {
            "type": ["string", "null"],
            "enum": ["gas", "heat pump", None],
            "description": "Any other text counts as never seen.",
        }
        assert houses["properties"]["area"]["description"] == "In training 98 of 100 values were from 41 to 198."
        paths = document["paths"]
        row = paths["/v1/models/houses/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert row["one"]["value"]["row"]["city"] == "Jena"
        assert 110 < row["one"]["value"]["row"]["area"] < 130
        text = paths["/v1/models/reviews/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert text["one"]["value"] == {"text": "good film"}
        series = schemas["mixer.InferRequest"]["properties"]["inputs"]["items"]["oneOf"][0]["properties"]
        assert series["shape"]["prefixItems"] == [
            {"type": "integer", "minimum": 1, "maximum": 8},
            {"type": "integer", "minimum": 1, "maximum": 6},
            {"const": 2},
        ]
        (reviews,) = [tag["description"] for tag in document["tags"] if tag["name"] == "model reviews"]
        assert "**text-classification**, version 1" in reviews
        assert "on films, split test, with 95 % intervals:\n\n- accuracy 0.9 (0.85 to 0.93; 200 samples)\n\n" in reviews
        assert "At most 8 items a request" in reviews


async def test_a_models_part_is_whole_and_holds_no_other(serve: Serve, repository: Repository) -> None:
    async with serve(repository) as gateway:
        part, whole = await read(gateway, "houses"), await read(gateway)
        OpenAPIV31SpecValidator(part).validate()
        assert set(part["paths"]) == {"/v1/models/houses/predict", "/v2/models/houses/infer"}
        assert part["paths"].items() <= whole["paths"].items()
        assert [tag["name"] for tag in part["tags"]] == ["model houses"]
        missing = await gateway.client.get("/openapi.json?model=nothing")
        assert (missing.status_code, "models with documentation are" in missing.json()["error"]) == (404, True)


async def test_a_new_version_is_documented_when_it_is_served(
    serve: Serve, tiny_repository: Repository, make_version: MakeVersion
) -> None:
    async with serve() as gateway:
        before = await read(gateway)
        assert before == await read(gateway)
        make_version(tiny_repository.root, version=2)
        await gateway.plane.catalog.refresh()
        after = await read(gateway)
        assert "version 1" in before["tags"][0]["description"]
        assert "version 2" in after["tags"][0]["description"]


@pytest.mark.parametrize(
    ("path", "url"), [("/docs", "/openapi.json"), ("/docs/models/tiny", "/openapi.json?model=tiny")]
)
async def test_the_pages_ask_nobody_else(serve: Serve, path: str, url: str) -> None:
    async with serve() as gateway:
        page = await gateway.client.get(path)
        assert page.status_code == 200
        assert f'data-url="{url}"' in page.text
        assert "//" not in page.text
        policy = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
        assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "start.js"):
            assert f"/docs/assets/{asset}" in page.text
            answer = await gateway.client.get(f"/docs/assets/{asset}")
            assert answer.status_code == 200
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await gateway.client.get("/docs/assets/__init__.py")).status_code == 404
        assert (await gateway.client.get("/docs/models/nothing")).status_code == 404


def tensors_contract(contract: Contract, *specs: TensorSpec) -> Contract:
    fields = {"inputs": specs, "preprocess": TensorPreprocess(), "artifacts": ()}
    return Contract.model_validate(contract.model_dump() | fields)


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        (TensorSpec(name="x", datatype="BYTES", shape=(2,)), ["text", "text"]),
        (TensorSpec(name="x", datatype="INT8", shape=()), [0]),
        (TensorSpec(name="x", datatype="FP32", shape=(-1,), ranges=(LENGTH,)), [0.0] * 4),
        (TensorSpec(name="x", datatype="FP16", shape=(2,)), None),
        (TensorSpec(name="x", datatype="BF16", shape=(2,)), None),
        (TensorSpec(name="x", datatype="UINT8", shape=(example.MAX_VALUES + 1,)), None),
    ],
)
def test_tensors_are_shown_where_json_can_show_them(
    tiny_repository: Repository, spec: TensorSpec, data: list[Any] | None
) -> None:
    contract = tensors_contract(tiny_repository.contract("tiny", 1), spec)
    shown = example.values(contract.inputs, example.sample(contract, tiny_repository.version_dir("tiny", 1)))
    assert (None if shown is None else shown[0]["data"]) == data


@pytest.mark.parametrize("damage", ["missing", "no archive", "other tensors", "a number"])
def test_golden_samples_that_do_not_fit_are_done_without(tiny_repository: Repository, damage: str) -> None:
    folder = tiny_repository.version_dir("tiny", 1)
    match damage:
        case "missing":
            (folder / "golden.npz").unlink()
        case "no archive":
            (folder / "golden.npz").write_bytes(b"x")
        case "other tensors":
            Golden({"picture": np.zeros((1, 8, 8, 1), np.uint8)}, {}).save(folder)
        case "a number":
            Golden({"image": np.array(3, np.uint8)}, {}).save(folder)
    sample = example.sample(tiny_repository.contract("tiny", 1), folder)
    assert sample["image"].shape == (1, 8, 8, 1)


def test_an_image_that_makes_a_large_png_is_shown_as_jpeg() -> None:
    noise: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    for pixels, form in ((noise, "JPEG"), (np.zeros_like(noise), "PNG")):
        with Image.open(io.BytesIO(example.image_file(pixels))) as image:
            assert (image.format, image.size) == (form, (128, 128))


def test_a_column_that_nobody_profiled_has_an_example_too() -> None:
    assert [example.cell(column, None) for column in COLUMNS] == [0, 0, "Kiel", "gas"]
