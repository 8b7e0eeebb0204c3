import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace

from contract import ContractInvalid
from contract.answer import answerer
from contract.picture import MAX_MASK_PIXELS
from contract.place import ImagePlace, Place, TextPlace
from contract.postprocess import interpret
from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    GenerationPostprocess,
    MaskPostprocess,
    Postprocess,
    RegressionPostprocess,
    TokenLabelsPostprocess,
)

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIO = TokenLabelsPostprocess(tensor="t", labels=TAGS, outside="O")
PLAIN = TokenLabelsPostprocess(tensor="t", labels=("none", "PER", "LOC"), outside="none")
BOXES = BoxesPostprocess(boxes_tensor="b", scores_tensor="s", labels=("cat", "dog"), min_score=0.5)
MASK = MaskPostprocess(tensor="m", labels=("ground", "road", "car"))
NOWHERE = Path("nowhere")


def answer(spec: Postprocess, outputs: dict[str, Any], *places: Place, folder: Path = NOWHERE) -> list[dict[str, Any]]:
    return answerer(spec, folder)(outputs, interpret(spec, outputs), places)


def test_classes_are_sorted_and_hold_no_nan() -> None:
    spec = ClassificationPostprocess(tensor="p", labels=("a", "b", "c"), top_k=2, activation="identity")
    first, second = answer(spec, {"p": np.array([[0.2, 0.5, 0.3], [np.nan] * 3])})
    assert first["label"] == "b"
    assert [entry["label"] for entry in first["top"]] == ["b", "c"]
    assert second == {"label": None, "confidence": None, "top": []}
    value = RegressionPostprocess(tensor="y", scale=2, offset=1, unit="m")
    assert answer(value, {"y": np.array([[3.0]], np.float32)}) == [{"value": 7.0, "unit": "m"}]


def words(text: str) -> TextPlace:
    """The place of a text whose tokens are its words, between two special ones."""
    starts = [i for i in range(len(text)) if text[i] != " " and (i == 0 or text[i - 1] == " ")]
    offsets = [(start, (text + " ").index(" ", start)) for start in starts]
    return TextPlace(text=text, offsets=[(0, 0), *offsets, (0, 0)])


def spans(spec: TokenLabelsPostprocess, text: str, *tags: str | None) -> list[tuple[str, str]]:
    """Label and text of each span, where the tokens between the special ones have these tags; None is NaN."""
    scores = np.full((1, len(tags) + 2, len(spec.labels)), -9, np.float32)
    for token, tag in enumerate(("O" if spec is BIO else "none", *tags, spec.labels[1])):
        scores[0, token] = np.nan if tag is None else scores[0, token]
        scores[0, token, spec.labels.index(tag or spec.outside)] = np.nan if tag is None else 9
    (found,) = answer(spec, {"t": scores}, words(text))
    for span in found["spans"]:
        assert text[span["start"] : span["end"]] == span["text"]
        assert span["confidence"] == pytest.approx(1)
    return [(span["label"], span["text"]) for span in found["spans"]]


@pytest.mark.parametrize(
    ("spec", "text", "tags", "expected"),
    [
        (BIO, "Ada Lovelace in Rome", ["B-PER", "I-PER", "O", "B-LOC"], [("PER", "Ada Lovelace"), ("LOC", "Rome")]),
        (BIO, "Ada Bob", ["B-PER", "B-PER"], [("PER", "Ada"), ("PER", "Bob")]),
        (BIO, "Ada Rome", ["B-PER", "I-LOC"], [("PER", "Ada"), ("LOC", "Rome")]),
        (BIO, "of Rome too", ["O", "I-LOC", "O"], [("LOC", "Rome")]),
        (BIO, "New old York", ["B-LOC", "O", "I-LOC"], [("LOC", "New"), ("LOC", "York")]),
        (BIO, "New broken York", ["B-LOC", None, "I-LOC"], [("LOC", "New"), ("LOC", "York")]),
        (PLAIN, "Ada Lovelace Rome", ["PER", "PER", "LOC"], [("PER", "Ada Lovelace"), ("LOC", "Rome")]),
        (BIO, "👩‍🚀 Ada 🚀", ["O", "B-PER", "I-PER"], [("PER", "Ada 🚀")]),
        (BIO, "", [], []),
    ],
)
def test_tags_become_spans_of_the_text(
    spec: TokenLabelsPostprocess, text: str, tags: list[str | None], expected: list[tuple[str, str]]
) -> None:
    assert spans(spec, text, *tags) == expected


def test_a_span_is_as_sure_as_its_tokens_are_on_average() -> None:
    scores = np.log(np.array([[[0.2, 0.8, 0, 0, 0], [0.4, 0, 0.6, 0, 0], [0.9, 0.1, 0, 0, 0]]]) + 1e-12)
    place = TextPlace(text="Ada L x", offsets=[(0, 3), (3, 5), (5, 7)])  # as byte-level tokenizers count their spaces
    (found,) = answer(BIO, {"t": scores.astype(np.float32)}, place)
    (span,) = found["spans"]
    assert span == {"label": "PER", "text": "Ada L", "start": 0, "end": 5, "confidence": pytest.approx(0.7)}


def test_one_character_of_several_tokens_is_of_one_span() -> None:
    tokenizer = Tokenizer(BPE({c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    text = "a🚀b"
    place = TextPlace(text=text, offsets=tokenizer.encode(text).offsets)
    assert len(place.offsets) == 6
    scores = np.zeros((1, 6, len(TAGS)), np.float32)
    scores[0, :, 0] = 1
    scores[0, 1:5, 1] = 9  # B-PER, four times
    (found,) = answer(BIO, {"t": scores}, place)
    assert [(s["text"], s["start"], s["end"]) for s in found["spans"]] == [("🚀", 1, 2)]


def test_a_text_longer_than_the_model_is_answered_as_far_as_it_was_read() -> None:
    place = TextPlace(text="Ada in Rome", offsets=[(0, 3), (4, 6)])
    scores = np.zeros((1, 3, len(TAGS)), np.float32)  # padded beyond the text
    scores[0, :, 1] = 9
    (found,) = answer(BIO, {"t": scores}, place)
    assert [s["text"] for s in found["spans"]] == ["Ada", "in"]


PICTURE = ImagePlace(width=200, height=100, region=(0.0, -50.0, 200.0, 150.0))  # padded to a square


def boxes(edges: Any, scores: Any, place: ImagePlace = PICTURE) -> list[dict[str, Any]]:
    outputs = {"b": np.array([edges], np.float32).reshape(1, -1, 4), "s": np.array([scores], np.float32)}
    (found,) = answer(BOXES, {**outputs, "s": outputs["s"].reshape(1, -1, 2)}, place)
    shown: list[dict[str, Any]] = found["boxes"]
    return shown


def test_boxes_are_in_pixels_of_the_picture_and_the_surest_comes_first() -> None:
    whole, left = [0, 0, 1, 1], [0.1, 0.3, 0.5, 0.5]
    found = boxes([whole, left, left], [[0.1, 0.6], [0.9, 0.2], [0.4, 0.3]])
    assert [(one["label"], one["box"]) for one in found] == [("cat", [20, 10, 100, 50]), ("dog", [0, 0, 200, 100])]
    assert [one["confidence"] for one in found] == pytest.approx([0.9, 0.6])


@pytest.mark.parametrize(
    ("edges", "scores"),
    [
        ([], []),
        ([[0.2, 0.4, 0.2, 0.6]], [[0.9, 0]]),  # no width
        ([[0.6, 0.4, 0.2, 0.6]], [[0.9, 0]]),  # right of left
        ([[0.2, 0, 0.6, 0.2]], [[0.9, 0]]),  # in the margin alone
        ([[0.2, np.nan, 0.6, 0.6]], [[0.9, 0]]),
        ([[0.2, 0.4, np.inf, 0.6]], [[0.9, 0]]),
        ([[0.2, 0.4, 0.6, 0.6]], [[np.nan, 0.9]]),
        ([[0.2, 0.4, 0.6, 0.6]], [[np.inf, 0]]),
    ],
)
def test_what_is_no_box_is_not_answered(edges: Any, scores: Any) -> None:
    assert boxes(edges, scores) == []


def mask(logits: Any, place: ImagePlace) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    (found,) = answer(MASK, {"m": np.array([logits], np.float32)}, place)
    with Image.open(io.BytesIO(base64.b64decode(found["mask"]))) as image:
        assert (image.format, image.mode, list(image.size)) == ("PNG", "L", found["size"])
        return found, np.asarray(image)


def one_hot(labels: Any) -> np.ndarray[Any, Any]:
    return np.moveaxis(20.0 * np.eye(3)[np.array(labels)], -1, 0)


def test_a_mask_is_as_large_as_the_picture() -> None:
    found, pixels = mask(one_hot([[0, 1], [2, 2]]), ImagePlace(width=4, height=2, region=(0, 0, 4, 2)))
    np.testing.assert_array_equal(pixels, [[0, 0, 1, 1], [2, 2, 2, 2]])
    assert found["labels"] == [
        {"label": "car", "ratio": 0.5},
        {"label": "ground", "ratio": 0.25},
        {"label": "road", "ratio": 0.25},
    ]
    assert found["confidence"] == pytest.approx(1)
    padded = ImagePlace(width=4, height=2, region=(0, -1, 4, 3))
    np.testing.assert_array_equal(mask(one_hot([[0, 1], [2, 2]]), padded)[1], [[0, 0, 1, 1], [2, 2, 2, 2]])
    cropped = ImagePlace(width=4, height=2, region=(1, 0, 3, 2))
    np.testing.assert_array_equal(mask(one_hot([[1, 1], [2, 2]]), cropped)[1], [[0, 1, 1, 0], [0, 2, 2, 0]])


def test_the_mask_of_one_pixel() -> None:
    found, pixels = mask(one_hot([[0, 1], [2, 2]]), ImagePlace(width=1, height=1, region=(0, 0, 1, 1)))
    assert (found["size"], found["labels"], pixels.tolist()) == ([1, 1], [{"label": "car", "ratio": 1.0}], [[2]])


def test_a_pixel_that_is_no_number_is_background_and_takes_the_confidence_away() -> None:
    logits = one_hot([[2, 2], [2, 2]])
    logits[1, 0, 0] = np.nan
    found, pixels = mask(logits, ImagePlace(width=2, height=2, region=(0, 0, 2, 2)))
    assert pixels.tolist() == [[0, 2], [2, 2]]
    assert found["confidence"] is None


@pytest.mark.parametrize(
    ("width", "height", "region", "size"),
    [
        (3000, 3000, (0, 0, 3000, 3000), [8, 8]),
        (4000, 2000, (0, -1000, 4000, 3000), [8, 4]),  # padded
        (4000, 2000, (1000, 0, 3000, 2000), [16, 8]),  # cropped
        (8_000_000, 1, (3_999_999, 0, 4_000_001, 1), [4_096_000, 1]),  # hardly anything was seen
    ],
)
def test_a_large_picture_gets_its_mask_in_the_pixels_of_the_model(
    width: int, height: int, region: Any, size: list[int]
) -> None:
    found, pixels = mask(one_hot(np.ones((8, 8), int)), ImagePlace(width=width, height=height, region=region))
    assert found["size"] == size
    assert pixels.size <= MAX_MASK_PIXELS
    assert pixels[pixels.shape[0] // 2, pixels.shape[1] // 2] == 1


@pytest.fixture
def translator(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[END]": 1, "guter": 2, "Film": 3}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.save(str(tmp_path / "target.json"))
    return tmp_path


@pytest.mark.parametrize("datatype", [np.int32, np.int64])
def test_a_generated_text_ends_before_its_first_end(translator: Path, datatype: type) -> None:
    spec = GenerationPostprocess(tensor="g", tokenizer="target.json", end_id=1, pad_id=0)
    ids = [[2, 3, 1, 2], [2, 3, 0, 0], [2, 2, 3, 3], [1, 2, 3, 2], [0, 2, -7, 9999]]
    found = answer(spec, {"g": np.array(ids, datatype)}, folder=translator)
    assert [one["text"] for one in found] == ["guter Film", "guter Film", "guter guter Film Film", "", "guter"]


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    spec = GenerationPostprocess(tensor="g", tokenizer="target.json", end_id=1, pad_id=0)
    with pytest.raises(ContractInvalid, match=r"target\.json can't be loaded as a tokenizer"):
        answerer(spec, tmp_path)


def test_large_answers_are_not_quick() -> None:
    masks = answerer(MASK, NOWHERE)
    small, large = ({"m": np.zeros((1, 3, side, side), np.float32)} for side in (8, 256))
    icon, photo = (ImagePlace(width=side, height=side, region=(0, 0, side, side)) for side in (8, 4000))
    assert masks.quick(small, [icon])
    assert not masks.quick(small, [photo])
    assert not masks.quick(large, [icon])
