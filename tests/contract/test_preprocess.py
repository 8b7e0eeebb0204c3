from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from contract import Contract, ContractInvalid, InputError, Repository
from contract.observation import Observer, build_profile
from contract.place import TextPlace
from contract.preprocess import preprocessor
from contract.schema import (
    AxisRange,
    Column,
    RegressionPostprocess,
    TablePreprocess,
    TensorPreprocess,
    TensorSpec,
    TextPreprocess,
    TokenLabelsPostprocess,
)
from contract.tensor import check_inputs


def changed(contract: Contract, **fields: Any) -> Contract:
    return Contract.model_validate(contract.model_dump() | fields)


@pytest.fixture
def table(tiny_repository: Repository) -> Contract:
    columns = (
        Column(name="age", kind="number"),
        Column(name="income", kind="number", required=False),
        Column(name="city", kind="category", categories=("Kiel", "Jena")),
    )
    return changed(
        tiny_repository.contract("tiny", 1),
        inputs=(TensorSpec(name="row", datatype="FP32", shape=(3,), allow_nan=True),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(1,)),),
        preprocess=TablePreprocess(tensor="row", columns=columns),
        postprocess=RegressionPostprocess(tensor="y"),
    )


@pytest.fixture
def text(tiny_repository: Repository) -> Contract:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tiny_repository.version_dir("tiny", 1) / "tokenizer.json"))
    length = AxisRange(min=1, opt=4, max=4)
    return changed(
        tiny_repository.contract("tiny", 1),
        inputs=(
            TensorSpec(name="ids", datatype="INT64", shape=(-1,), ranges=(length,)),
            TensorSpec(name="mask", datatype="INT32", shape=(-1,), ranges=(length,)),
        ),
        preprocess=TextPreprocess(
            tokenizer="tokenizer.json", ids_tensor="ids", mask_tensor="mask", max_length=4, unknown_id=1
        ),
    )


def test_images_are_stacked_with_their_aspects(tiny_repository: Repository, tmp_path: Path) -> None:
    Image.new("L", (16, 8), 7).save(tmp_path / "wide.png")
    data = (tmp_path / "wide.png").read_bytes()
    prepare = preprocessor(tiny_repository.contract("tiny", 1), tmp_path)
    assert prepare is not None
    prepared = prepare([data, data])
    assert prepared.tensors["image"].shape == (2, 8, 8, 1)
    assert prepared.observed["aspect"].tolist() == [2.0, 2.0]
    with pytest.raises(InputError, match="item 1: expected an image"):
        prepare([data, b"nothing"])


def test_rows_become_vectors_and_are_counted(table: Contract, tmp_path: Path) -> None:
    prepare = preprocessor(table, tmp_path)
    assert prepare is not None
    rows = [{"age": 30, "income": 2.5, "city": "Jena"}, {"age": 40, "income": None, "city": "Rom"}]
    prepared = prepare(rows)
    np.testing.assert_array_equal(prepared.tensors["row"], np.array([[30, 2.5, 1], [40, np.nan, 2]], np.float32))
    assert check_inputs(table.inputs, table.batch, prepared.tensors) == 2
    reference = np.tile(prepare(rows).tensors["row"], (10, 1))
    profile = build_profile(table.preprocess, table.postprocess, {"row": reference}, {}, np.zeros(20))
    city = next(f for f in profile.features if f.name == "column.city")
    assert {b.id: b.ratio for b in city.bins} == {"Jena": 0.5, "other": 0.5, "missing": 0}
    observer = Observer(changed(table, profile=profile))
    assigned = observer.assign(prepared.tensors, {}, np.zeros(2))
    shown = {f.name: [f.bins[i].id for i in assigned[f.name]] for f in observer.features}
    assert shown["column.city"] == ["Jena", "other"]
    assert shown["column.income"][1] == "missing"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"income": 1, "city": "Kiel"}, "column 'age' is missing"),
        ({"age": "30", "city": "Kiel"}, "column 'age': expected a finite number, got '30'"),
        ({"age": float("inf"), "city": "Kiel"}, "expected a finite number"),
        ({"age": 1, "city": 3}, "column 'city': expected a string"),
        ({"age": 1, "city": "Kiel", "shoe": 3}, "unknown columns"),
        ([1, 2, 3], "expected an object"),
    ],
)
def test_a_row_that_does_not_fit_is_named(table: Contract, tmp_path: Path, row: Any, said: str) -> None:
    prepare = preprocessor(table, tmp_path)
    assert prepare is not None
    with pytest.raises(InputError, match=said):
        prepare([row])


def test_texts_are_padded_together_and_cut(text: Contract, tiny_repository: Repository) -> None:
    prepare = preprocessor(text, tiny_repository.version_dir("tiny", 1))
    assert prepare is not None
    prepared = prepare(["good film", "good odd film good good", ""])
    assert prepared.tensors["ids"].tolist() == [[2, 3, 0, 0], [2, 1, 3, 2], [0, 0, 0, 0]]
    assert prepared.tensors["mask"].dtype == np.int32
    profile = build_profile(text.preprocess, text.postprocess, prepared.tensors, {}, np.eye(3))
    assert {f.name for f in profile.features} >= {"length", "unknown_ratio"}
    for bad, said in ((3, "expected a text"), ("\ud800", "surrogate")):
        with pytest.raises(InputError, match=said):
            prepare([bad])


def test_a_broken_tokenizer_is_named(text: Contract, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ContractInvalid, match="can't be loaded as a tokenizer"):
        preprocessor(text, tmp_path)


def test_tensor_models_have_no_preprocessing_but_are_watched(tiny_repository: Repository, tmp_path: Path) -> None:
    contract = changed(tiny_repository.contract("tiny", 1), preprocess=TensorPreprocess())
    assert preprocessor(contract, tmp_path) is None
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    profile = build_profile(contract.preprocess, contract.postprocess, {"image": images}, {}, np.eye(3)[:2])
    assert [f.name for f in profile.features][:2] == ["image.mean", "image.std"]


def test_texts_are_located_where_token_labels_need_it(text: Contract, tiny_repository: Repository) -> None:
    tagged = changed(
        text,
        outputs=(TensorSpec(name="tags", datatype="FP32", shape=(-1, 2)),),
        postprocess=TokenLabelsPostprocess(tensor="tags", labels=("O", "PER"), outside="O"),
    )
    folder = tiny_repository.version_dir("tiny", 1)
    plain, located = preprocessor(text, folder), preprocessor(tagged, folder)
    assert plain is not None
    assert located is not None
    texts = ["🚀 good  film", "good odd film good good", ""]
    before, after = plain(texts), located(texts)
    assert before.places == ()
    for name, array in before.tensors.items():
        np.testing.assert_array_equal(array, after.tensors[name])
    first, second, third = after.places
    assert first == TextPlace(text=texts[0], offsets=[(0, 1), (2, 6), (8, 12), (0, 0)])
    assert isinstance(second, TextPlace)
    assert [texts[1][start:end] for start, end in second.offsets] == ["good", "odd", "film", "good"]
    assert third == TextPlace(text="", offsets=[(0, 0)] * 4)
