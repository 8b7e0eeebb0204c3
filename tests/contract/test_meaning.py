from typing import Any

import pytest
from pydantic import ValidationError

from contract.meaning import check_postprocess, check_preprocess, split_tag
from contract.schema import (
    AxisRange,
    BoxesPostprocess,
    GenerationPostprocess,
    ImagePreprocess,
    MaskPostprocess,
    Postprocess,
    Preprocess,
    TensorPreprocess,
    TensorSpec,
    TextPreprocess,
    TokenLabelsPostprocess,
)

IMAGE = ImagePreprocess(tensor="image", mode="RGB", height=8, width=8)
TEXT = TextPreprocess(tokenizer="t.json", ids_tensor="ids", max_length=9)
INPUTS = (
    TensorSpec(name="image", datatype="UINT8", shape=(8, 8, 3)),
    TensorSpec(name="ids", datatype="INT64", shape=(-1,), ranges=(AxisRange(min=1, opt=4, max=9),)),
)
TAGS = TokenLabelsPostprocess(tensor="y", labels=("O", "B-PER", "I-PER"), outside="O")
BOXES = BoxesPostprocess(boxes_tensor="y", scores_tensor="s", labels=("cat", "dog"))
MASK = MaskPostprocess(tensor="y", labels=("ground", "road", "car"))
TEXTS = GenerationPostprocess(tensor="y", tokenizer="t.json", end_id=1, pad_id=0)


def check(post: Postprocess, pre: Preprocess, datatype: Any, *shape: int, **others: tuple[int, ...]) -> None:
    outputs = {"y": TensorSpec(name="y", datatype=datatype, shape=shape)}
    outputs |= {name: TensorSpec(name=name, datatype="FP32", shape=axes) for name, axes in others.items()}
    check_preprocess(pre, INPUTS)
    check_postprocess(post, pre, INPUTS, tuple(outputs.values()))


def test_what_fits_is_taken() -> None:
    check(TAGS, TEXT, "FP32", -1, 3)
    check(BOXES, IMAGE, "FP32", 7, 4, s=(7, 2))
    check(BOXES, IMAGE, "FP32", -1, 4, s=(-1, 2))
    check(MASK, IMAGE, "FP32", 3, 4, 4)
    check(TEXTS, TEXT, "INT32", 20)
    check(TEXTS, IMAGE, "INT64", -1)  # captions


@pytest.mark.parametrize(
    ("post", "pre", "datatype", "shape", "others", "said"),
    [
        (TAGS, IMAGE, "FP32", (-1, 3), {}, "expected text preprocessing, got 'image'"),
        (TAGS, TEXT, "FP32", (-1, 4), {}, r"'y' is expected as FP16 or FP32 or FP64 \[-1, 3\], got FP32 \[-1, 4\]"),
        (TAGS, TEXT, "FP32", (9, 3), {}, r"got FP32 \[9, 3\]"),
        (TAGS, TEXT, "INT64", (-1, 3), {}, r"got INT64 \[-1, 3\]"),
        (BOXES, TEXT, "FP32", (7, 4), {"s": (7, 2)}, "expected image preprocessing, got 'text'"),
        (BOXES, IMAGE, "FP32", (7, 4), {}, "reads output 's'; the model has no such output"),
        (BOXES, IMAGE, "FP32", (7, 5), {"s": (7, 2)}, r"'y' is expected as FP32 \[boxes, 4\], got FP32 \[7, 5\]"),
        (BOXES, IMAGE, "FP32", (7, 4), {"s": (6, 2)}, r"'s' is expected as .* \[7, 2\], got FP32 \[6, 2\]"),
        (BOXES, IMAGE, "FP32", (4,), {"s": (7, 2)}, r"got FP32 \[4\]"),
        (MASK, TensorPreprocess(), "FP32", (3, 4, 4), {}, "expected image preprocessing, got 'tensor'"),
        (MASK, IMAGE, "FP32", (2, 4, 4), {}, r"expected as FP32 \[3, height, width\], got FP32 \[2, 4, 4\]"),
        (MASK, IMAGE, "FP16", (3, 4, 4), {}, r"got FP16 \[3, 4, 4\]"),
        (TEXTS, TEXT, "FP32", (20,), {}, r"expected as INT32 or INT64 \[length\], got FP32 \[20\]"),
        (TEXTS, TEXT, "INT64", (20, 2), {}, r"got INT64 \[20, 2\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    post: Postprocess, pre: Preprocess, datatype: str, shape: tuple[int, ...], others: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check(post, pre, datatype, *shape, **others)


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (TokenLabelsPostprocess, {"labels": ("O", "B-A"), "outside": "none"}, "expected one of the labels as outside"),
        (TokenLabelsPostprocess, {"labels": ("O", "A", "A"), "outside": "O"}, "differ from one another"),
        (MaskPostprocess, {"labels": ("a", "a")}, "differ from one another"),
        (MaskPostprocess, {"labels": tuple(map(str, range(257)))}, "at most 256"),
        (GenerationPostprocess, {"tokenizer": "t.json", "end_id": -1, "pad_id": 0}, "greater than or equal to 0"),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(kind: type, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind(tensor="y", **fields)


def test_boxes_take_labels_that_differ_and_a_score_that_is_a_probability() -> None:
    for change in ({"labels": ("cat", "cat")}, {"labels": ()}, {"min_score": 1.5}):
        with pytest.raises(ValidationError):
            BoxesPostprocess(**{"boxes_tensor": "b", "scores_tensor": "s", "labels": ("cat",)} | change)


def test_spans_are_called_by_their_tags_without_prefixes() -> None:
    assert TAGS.span_labels == ("PER",)
    assert [split_tag(tag) for tag in ("B-PER", "I-X-Y", "PER", "X-ray", "B-", "I")] == [
        ("B", "PER"), ("I", "X-Y"), ("", "PER"), ("", "X-ray"), ("", "B-"), ("", "I")
    ]  # fmt: skip
