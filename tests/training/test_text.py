import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from contract import Contract
from contract.preprocess import preprocessor
from contract.schema import TensorPostprocess, TensorSpec, TextPreprocess
from training.text import (
    END_ID,
    MASK_ID,
    PAD_ID,
    SPECIAL,
    START_ID,
    TOKENIZER_FILE,
    UNKNOWN_ID,
    Texts,
    divided,
    encode,
    fingerprint,
    text_dataset,
    trained_tokenizer,
)

WORDS = (
    "the",
    "film",
    "is",
    "not",
    "a",
    "good",
    "but",
    "people,",
    "in",
    "it",
    "are",
    "very",
    "says",
    "Café's",
    "owner",
)
CORPUS = tuple(" ".join(np.random.default_rng(i).choice(WORDS, 12)) for i in range(60))
LABELS = np.arange(60) % 2

INPUTS = (TensorSpec(name="ids", datatype="INT32", shape=(16,)), TensorSpec(name="mask", datatype="INT32", shape=(16,)))
PREPROCESS = TextPreprocess(
    tokenizer=TOKENIZER_FILE, ids_tensor="ids", mask_tensor="mask", max_length=16, unknown_id=UNKNOWN_ID
)


@pytest.fixture(scope="module")
def tokenizer() -> bytes:
    return trained_tokenizer(CORPUS, 200)


def ids(tokenizer: bytes, text: str) -> list[int]:
    return [int(i) for i in encode([text], PREPROCESS, INPUTS, tokenizer)["ids"][0]]


def test_the_special_tokens_have_the_ids_that_their_names_say(tokenizer: bytes) -> None:
    built = Tokenizer.from_str(tokenizer.decode())
    assert [built.token_to_id(token) for token in SPECIAL] == [PAD_ID, UNKNOWN_ID, START_ID, END_ID, MASK_ID]
    assert [PAD_ID, UNKNOWN_ID, START_ID, END_ID, MASK_ID] == [0, 1, 2, 3, 4]


def test_a_text_is_framed_filled_up_and_cut_off(tokenizer: bytes) -> None:
    assert ids(tokenizer, "") == [START_ID, END_ID, *[PAD_ID] * 14]
    long = ids(tokenizer, "the film " * 50)
    assert (long[0], long[-1], len(long)) == (START_ID, END_ID, 16)
    assert encode(["film"], PREPROCESS, INPUTS, tokenizer)["mask"].sum() == 3


def test_case_accents_and_space_make_no_difference_and_strange_letters_are_unknown(tokenizer: bytes) -> None:
    assert ids(tokenizer, "THE  Cafe\n") == ids(tokenizer, "the café")
    assert UNKNOWN_ID not in ids(tokenizer, "people in the film")
    assert UNKNOWN_ID in ids(tokenizer, "ЖЩ")


def test_a_letter_of_hardly_any_text_is_unknown(tokenizer: bytes) -> None:
    rare = Tokenizer.from_str(trained_tokenizer((*CORPUS, "žþ", "a þ"), 200).decode())
    assert rare.token_to_id("þ") is None
    assert Tokenizer.from_str(trained_tokenizer((*CORPUS, *["a þ"] * 3), 200).decode()).token_to_id("þ") is not None


def test_the_same_texts_give_the_same_bytes() -> None:
    """Ties among pairs are the rule in so small a corpus, and each training hashes by another secret."""
    assert len({trained_tokenizer(CORPUS, 200) for _ in range(5)}) == 1


@pytest.mark.parametrize("text", ["", "the film", "Ж [MASK] [PAD] x", "the\0film\u200b 😀", "film " * 40])
def test_training_cuts_a_text_as_the_gateway_does(tokenizer: bytes, tmp_path: Path, text: str) -> None:
    (tmp_path / TOKENIZER_FILE).write_bytes(tokenizer)
    contract = Contract.model_construct(preprocess=PREPROCESS, inputs=INPUTS, postprocess=TensorPostprocess())
    served = preprocessor(contract, tmp_path)
    assert served is not None
    learned = encode([text, "film"], PREPROCESS, INPUTS, tokenizer)
    assert learned.keys() == {"ids", "mask"}
    for name, array in served([text, "film"]).tensors.items():
        assert array.dtype == learned[name].dtype == np.int32
        np.testing.assert_array_equal(array, learned[name])


def test_splits_hold_every_text_once_and_a_family_in_one_of_them() -> None:
    samples = Texts(texts=CORPUS, labels=LABELS)
    splits = divided("words", samples, num_validation=10, num_test=20, seed=3, family=lambda text: text.split()[0])
    parts = [splits.train.texts, splits.validation.texts, splits.test.texts]
    assert sorted(sum(parts, ())) == sorted(CORPUS)
    families = [{text.split()[0] for text in part} for part in parts]
    assert sum(map(len, families)) == len(set.union(*families))
    assert len(splits.test.texts) <= 20
    assert all(LABELS[CORPUS.index(text)] == label for text, label in zip(parts[0], splits.train.labels, strict=True))


def test_without_families_splits_have_the_sizes_asked_for() -> None:
    samples = Texts(texts=CORPUS, labels=LABELS)
    splits = divided("words", samples, num_validation=10, num_test=20, seed=3)
    assert (len(splits.train.texts), len(splits.validation.texts), len(splits.test.texts)) == (30, 10, 20)
    assert splits.sha256 == divided("words", samples, num_validation=10, num_test=20, seed=3).sha256
    assert splits.sha256 != divided("words", samples, num_validation=10, num_test=20, seed=4).sha256
    with pytest.raises(ValueError, match="expected three splits of 60 texts"):
        divided("words", samples, num_validation=40, num_test=20, seed=3)


def test_the_tokenizer_has_seen_the_training_split_alone() -> None:
    samples = Texts(texts=CORPUS, labels=LABELS)
    splits = divided("words", samples, num_validation=10, num_test=20, seed=3)
    dataset = text_dataset(splits, PREPROCESS, INPUTS, 200)
    assert dataset.files == {TOKENIZER_FILE: trained_tokenizer(splits.train.texts, 200)}
    assert len(json.loads(dataset.files[TOKENIZER_FILE])["model"]["vocab"]) <= 200
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (30, 10, 20)
    assert dataset.sha256 != text_dataset(splits, PREPROCESS, INPUTS, 40).sha256


def test_shares_are_learned_from_and_labels_are_judged_by() -> None:
    shares = np.linspace(0, 1, 120, dtype=np.float32).reshape(60, 2)
    plain, graded = (
        divided("words", Texts(texts=CORPUS, labels=LABELS, shares=each), num_validation=10, num_test=20, seed=3)
        for each in (None, shares)
    )
    dataset = text_dataset(graded, PREPROCESS, INPUTS, 200, graded=True)
    expected = [shares[CORPUS.index(text)] for text in graded.train.texts]
    np.testing.assert_array_equal(dataset.train.targets, expected)
    np.testing.assert_array_equal(dataset.test.targets, graded.test.labels)
    by_labels = text_dataset(graded, PREPROCESS, INPUTS, 200)
    np.testing.assert_array_equal(by_labels.train.targets, graded.train.labels)
    assert by_labels.sha256 == text_dataset(plain, PREPROCESS, INPUTS, 200).sha256 != dataset.sha256
    with pytest.raises(ValueError, match="got labels alone"):
        text_dataset(plain, PREPROCESS, INPUTS, 200, graded=True)


def test_a_fingerprint_is_what_is_left_without_case_digits_and_signs() -> None:
    assert fingerprint("Win $1,000 NOW!") == fingerprint("win 2000 now") == "winnow"
