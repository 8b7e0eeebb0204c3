import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from contract import Contract, Profile
from contract.answer import answerer
from contract.postprocess import interpret
from contract.profile import MAX_CATEGORIES, categorical_feature
from contract.schema import RegressionPostprocess
from gateway.error import InvalidRequest, UnknownModel
from gateway.feedback import MAX_FEEDBACK, Feedback, FeedbackOff, UnknownLabel
from gateway.key_ring import KeyRing
from gateway.prediction import MAX_AGE_S, ExpiredToken

LABELS = ("dark", "even", "bright")


class Place:
    """Feedback with keys, a clock that the test sets, and the counters as a scrape shows them."""

    def __init__(self, keys: KeyRing | None, **bounds: int) -> None:
        self.now = 1_800_000_000.0
        self.registry = CollectorRegistry()
        self.feedback = Feedback(keys, self.registry, clock=lambda: self.now, **bounds)

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """Label values, without model and version, to value."""
        return {
            tuple(value for label, value in sample.labels.items() if label not in ("model", "version")): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name
        }

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        return {labels: value for labels, value in self.series(name).items() if value}

    def token(self, index: int = 0, confidence: float = 0.95, model: str = "tiny", version: int = 1) -> str:
        token = self.feedback.token(model, version, index, confidence)
        assert token is not None
        return token

    def give(self, label: object, **prediction: Any) -> dict[str, Any]:
        return self.feedback.give({"token": self.token(**prediction), "label": label})


@pytest.fixture
def contract(make_version: Callable[..., Contract], tmp_path: Path) -> Contract:
    return make_version(tmp_path)


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    return KeyRing.make(tmp_path / "keys")


@pytest.fixture
def place(contract: Contract, keys: KeyRing) -> Place:
    place = Place(keys)
    place.feedback.serve(contract)
    return place


def test_every_series_is_there_from_the_start(place: Place) -> None:
    names = (*LABELS, "other")
    assert place.series("inference_feedback_total") == {(p, a): 0 for p in names for a in names}
    bins = [f"0.{k}" for k in range(10)]
    assert place.series("inference_feedback_confidence_total") == {(b, c): 0 for b in bins for c in ("false", "true")}
    assert set(place.series("gateway_feedback_total").values()) == {0}


def test_a_true_label_is_counted_where_it_belongs(place: Place) -> None:
    assert place.give("dark") == {"counted": True, "correct": True}
    assert place.give("bright", index=1, confidence=0.42) == {"counted": True, "correct": False}
    assert place.counted("inference_feedback_total") == {("dark", "dark"): 1, ("even", "bright"): 1}
    assert place.counted("inference_feedback_confidence_total") == {("0.9", "true"): 1, ("0.4", "false"): 1}
    assert place.counted("gateway_feedback_total") == {("counted",): 2}


def test_predictions_are_signed_as_they_are_answered(place: Place, contract: Contract, tmp_path: Path) -> None:
    outputs = {"logits": np.array([[0, 9, 0], [np.nan, 0, 0], [0, 0, 0]], np.float32)}
    meaning = interpret(contract.postprocess, outputs)
    predictions = answerer(contract.postprocess, tmp_path)(outputs, meaning, ())
    place.feedback.sign(contract, meaning, predictions)
    assert "token" not in predictions[1]  # the model answered NaN: nothing was predicted
    for prediction in (predictions[0], predictions[2]):
        assert place.feedback.give({"token": prediction["token"], "label": prediction["label"]})["correct"]
    assert place.counted("inference_feedback_total") == {("even", "even"): 1, ("dark", "dark"): 1}
    assert place.counted("inference_feedback_confidence_total") == {("0.9", "true"): 1, ("0.3", "true"): 1}


def test_what_does_not_classify_gets_no_token(place: Place, contract: Contract) -> None:
    regression = contract.model_copy(update={"name": "price", "postprocess": RegressionPostprocess(tensor="logits")})
    place.feedback.serve(regression)
    predictions = [{"value": 1.0, "unit": ""}]
    place.feedback.sign(regression, np.ones(1), predictions)
    assert predictions == [{"value": 1.0, "unit": ""}]
    with pytest.raises(UnknownModel):
        place.give("dark", model="price")


def test_rare_labels_are_pooled_as_the_profile_pools_them(keys: KeyRing, contract: Contract) -> None:
    feature = categorical_feature("prediction", ["dark"] * 90 + ["bright"] * 2, LABELS)
    place = Place(keys)
    place.feedback.serve(contract.model_copy(update={"profile": Profile(features=(feature,))}))
    place.give("bright", index=1)
    place.give("dark", index=2)
    assert set(place.series("inference_feedback_total")) == {
        (p, a) for p in ("dark", "other") for a in ("dark", "other")
    }
    assert place.counted("inference_feedback_total") == {("other", "other"): 1, ("other", "dark"): 1}
    assert place.counted("inference_feedback_confidence_total") == {("0.9", "false"): 2}


def test_without_a_profile_the_labels_are_bounded_all_the_same(keys: KeyRing, contract: Contract) -> None:
    post = contract.postprocess.model_copy(update={"labels": tuple(f"label {i}" for i in range(1000))})
    place = Place(keys)
    place.feedback.serve(contract.model_copy(update={"profile": Profile(), "postprocess": post}))
    assert place.give("label 999", index=999)["correct"]
    assert len(place.series("inference_feedback_total")) == (MAX_CATEGORIES + 1) ** 2
    assert place.counted("inference_feedback_total") == {("other", "other"): 1}


def test_a_prediction_is_counted_once(place: Place) -> None:
    document = {"token": place.token(), "label": "dark"}
    assert place.feedback.give(document)["counted"]
    for label in ("dark", "bright"):  # the first label stands
        again = place.feedback.give(document | {"label": label})
        assert again == {"counted": False, "reason": "feedback for this prediction was counted before"}
    assert place.counted("inference_feedback_total") == {("dark", "dark"): 1}
    assert place.counted("gateway_feedback_total") == {("counted",): 1, ("replayed",): 2}


def test_only_so_many_predictions_are_remembered(keys: KeyRing, contract: Contract) -> None:
    place = Place(keys, max_remembered=2)
    place.feedback.serve(contract)
    documents = [{"token": place.token(), "label": "dark"} for _ in range(3)]
    assert [place.feedback.give(document)["counted"] for document in documents] == [True] * 3
    assert [place.feedback.give(documents[i])["counted"] for i in (2, 1, 0)] == [False, False, True]


def test_a_label_that_was_refused_can_be_told_again(place: Place) -> None:
    token = place.token()
    with pytest.raises(UnknownLabel):
        place.feedback.give({"token": token, "label": "Dark"})
    assert place.feedback.give({"token": token, "label": "dark"})["counted"]


@pytest.mark.parametrize(
    ("entry", "result", "said"),
    [
        ({"label": "pink"}, "unknown_label", "expected a label of 'tiny', got 'pink'; labels are ['dark'"),
        ({"label": 1}, "unknown_label", "got 1"),
        ({"label": None}, "unknown_label", "got None"),
        ({"token": "x"}, "invalid", "expected a prediction's token, got 1 characters"),
        ({"token": None}, "invalid", "got NoneType"),
        ({"extra": 1}, "invalid", "expected an object of 'token' and 'label', got the fields ['extra', 'label'"),
    ],
)
def test_what_can_not_be_counted_is_said(place: Place, entry: dict[str, Any], result: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        place.feedback.give({"token": place.token(), "label": "dark", **entry})
    assert said in str(error.value)
    assert place.counted("gateway_feedback_total") == {(result,): 1}
    assert not place.counted("inference_feedback_total")


def test_an_old_token_is_expired(place: Place) -> None:
    token = place.token()
    place.now += MAX_AGE_S + 1
    with pytest.raises(ExpiredToken):
        place.feedback.give({"token": token, "label": "dark"})
    assert place.counted("gateway_feedback_total") == {("expired",): 1}


@pytest.mark.parametrize("prediction", [{"version": 7}, {"model": "other"}, {"index": 3}])
def test_a_version_that_was_never_here_is_said(place: Place, prediction: dict[str, Any]) -> None:
    with pytest.raises(UnknownModel, match="was not served since this gateway started"):
        place.give("dark", **prediction)
    assert place.counted("gateway_feedback_total") == {("unknown_model",): 1}


def test_many_are_counted_each_for_itself(place: Place) -> None:
    token = place.token()
    entries = [{"token": token, "label": "dark"}, {"token": token, "label": "dark"}, {"token": "x", "label": "dark"}, 7]
    answer = place.feedback.give({"feedback": [*entries, {"token": place.token(index=2), "label": "dark"}]})
    assert answer["counted"] == 2
    assert [result["counted"] for result in answer["results"]] == [True, False, False, False, True]
    assert [result.get("reason", "")[:20] for result in answer["results"][1:4]] == [
        "feedback for this pr",
        "expected a predictio",
        "expected an object o",
    ]
    assert place.counted("gateway_feedback_total") == {("counted",): 2, ("replayed",): 1, ("invalid",): 2}


@pytest.mark.parametrize("entries", [[], "x", None, [{}] * (MAX_FEEDBACK + 1)])
def test_a_list_has_its_bounds(place: Place, entries: object) -> None:
    with pytest.raises(InvalidRequest, match="expected a list of 1 to 1000 objects"):
        place.feedback.give({"feedback": entries})


def test_a_version_that_comes_back_goes_on_counting(place: Place, contract: Contract) -> None:
    place.give("dark")
    place.feedback.serve(contract)
    assert place.counted("inference_feedback_total") == {("dark", "dark"): 1}


def test_without_keys_there_are_no_tokens_and_it_is_said_how_to_have_them(contract: Contract) -> None:
    place = Place(None)
    place.feedback.serve(contract)
    meaning = np.array([[1.0, 0.0, 0.0]])
    predictions: list[dict[str, Any]] = [{"label": "dark", "confidence": 1.0}]
    place.feedback.sign(contract, meaning, predictions)
    assert predictions == [{"label": "dark", "confidence": 1.0}]
    with pytest.raises(FeedbackOff, match="set TIDEGATE_FEEDBACK_KEYS to a file of keys"):
        place.feedback.give({})


async def test_new_keys_are_taken_over_while_it_runs(place: Place, keys: KeyRing, tmp_path: Path) -> None:
    watch = asyncio.create_task(place.feedback.watch(0))
    before = place.token()
    fresh = tmp_path / "fresh"
    fresh.write_text("fresh:" + "ab" * 16 + "\n" + (tmp_path / "keys").read_text())
    fresh.chmod(0o600)
    fresh.rename(tmp_path / "keys")
    async with asyncio.timeout(10):
        while keys.signing.id != b"fresh":
            await asyncio.sleep(0)
    assert place.feedback.give({"token": before, "label": "dark"})["counted"]
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch
