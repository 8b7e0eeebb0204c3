"""The names in Jane Austen's novels as tags of a text's tokens, and how well a network finds them.

A network is given three novels, and lists of names (training/dataset/name_list.py) by way of the names that passages
are read again under. What it adds to both shows beside a dictionary that has both. Judged by whole names, as the
CoNLL-2003 task was: a name counts where its first and its last token and its kind are right (Tjong Kim Sang & De
Meulder 2003, cs/0306050). Axes: M and N samples, L positions, T tags.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contract.place import TextPlace
from contract.preprocess import text_preprocessor
from contract.schema import TensorSpec, TextPreprocess
from contract.tensor import Tensors
from training.data import Dataset, Split, digest, several
from training.dataset.name_list import listed
from training.dataset.novel_name import TEST, TRAIN, VALIDATION, WORD, Passage, Span, passages
from training.dataset.novel_renamed import Renaming, ordinary
from training.evaluation import Measure, resampled
from training.masked import exam, lesson
from training.next_token import NOTHING
from training.text import SPECIAL, UNKNOWN_ID, trained_tokenizer

NAME = "Jane Austen's names"
LABELS = ("outside", "B-person", "I-person", "B-place", "I-place")
OUTSIDE = 0
KINDS = ("person", "place")  # the tags of a kind are 2 k + 1, where a name begins, and 2 k + 2
_MASK_SEED, _RENAMING_SEED = 1904, 9223


def tagged(
    data_dir: Path | None, preprocess: TextPreprocess, inputs: tuple[TensorSpec, ...], tokens: int, renamed: int
) -> Dataset:
    """Passages of three novels to learn from, of one to watch, of two to judge by; a tag a token.

    A passage to learn from is there as it is written and `renamed` times under other names, in random order. The
    targets are `tags`, and `new`: whether the token is held out and of a name no word of which is in a name of the
    first three novels. Raises DataNotFound or DataInvalid.
    """
    parts, tokenizer = _encoded(data_dir, preprocess, inputs, tokens, renamed)
    splits = {
        name: Split(inputs={preprocess.ids_tensor: ids}, targets=several({"tags": tags, "new": new}))
        for name, (ids, tags, new) in parts.items()
    }
    return _dataset(tokenizer, preprocess, splits)


def hidden(
    data_dir: Path | None,
    preprocess: TextPreprocess,
    inputs: tuple[TensorSpec, ...],
    tokens: int,
    renamed: int,
    mask: int,
    *,
    whole: bool = True,
) -> Dataset:
    """The same passages to fill gaps in, without tags; words and names are hidden `whole`, or token by token."""
    parts, tokenizer = _encoded(data_dir, preprocess, inputs, tokens, renamed)
    begins_V = _begins(tokenizer)
    splits = {}
    for name, (ids, tags, _) in parts.items():
        units = _units(ids, tags, begins_V) if whole else _units(ids, tags, np.ones_like(begins_V), names=False)
        splits[name] = lesson(ids, units) if name == "train" else exam(ids, units, mask=mask, seed=_MASK_SEED)
    return _dataset(tokenizer, preprocess, splits)


def measure(outputs: Tensors, targets: NDArray[Any]) -> list[Measure]:
    """F1, precision and recall of whole names, F1 of each kind, and recall of names that training never saw."""
    right = [set(spans(row)) for row in targets["tags"]]
    said = [
        set(spans(np.where(row == NOTHING, OUTSIDE, tags)))
        for row, tags in zip(targets["tags"], outputs["logits"].argmax(axis=-1), strict=True)
    ]
    new = [{span for span in row if flags[span[0]]} for row, flags in zip(right, targets["new"], strict=True)]
    counts = _counts(right, said)
    measures = [
        resampled("span_f1", counts, _f1, larger_is_better=True),
        resampled("precision", counts[:, :2], _share, larger_is_better=True),
        resampled("recall", counts[:, ::2], _share, larger_is_better=True),
        resampled("recall_of_new", _counts(new, said)[:, ::2], _share, larger_is_better=True),
    ]
    for kind, name in enumerate(KINDS):
        of_kind = _counts(*([{span for span in row if span[2] == kind} for row in rows] for rows in (right, said)))
        measures.append(resampled(f"span_f1.{name}", of_kind, _f1, larger_is_better=True))
    return measures


def most_frequent_tag(dataset: Dataset) -> float:
    """F1 of a dictionary: a word is tagged as it mostly was in training, and a new word is outside."""
    return _dictionary_f1(dataset, {})


def most_frequent_tag_or_list(dataset: Dataset) -> float:
    """F1 of a dictionary that knows the lists too: a word that training never had is tagged as the list that has it."""
    names = listed(None)
    people = dict.fromkeys((name.lower() for name in (*names["first"], *names["last"])), "person")
    return _dictionary_f1(dataset, dict.fromkeys(map(str.lower, names["place"]), "place") | people)


def spans(tags_L: NDArray[Any]) -> Iterator[tuple[int, int, int]]:
    """First token, token after the last, and kind of every name; an `I-` that continues nothing begins a name."""
    start, kind = 0, -1
    for i, tag in enumerate([*tags_L.tolist(), OUTSIDE]):
        now = (tag - 1) // 2 if tag > OUTSIDE else -1
        if kind >= 0 and (now != kind or tag % 2):
            yield start, i, kind
            kind = -1
        if kind < 0 <= now:
            start, kind = i, now


@lru_cache(maxsize=1)
def _encoded(
    data_dir: Path | None, preprocess: TextPreprocess, inputs: tuple[TensorSpec, ...], tokens: int, renamed: int
) -> tuple[dict[str, tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bool_]]], bytes]:
    """Ids, tags and whether they are of new names `[M, L]`, of each split; and the tokenizer."""
    of_split = _of_split(data_dir)
    known = {word for passage in of_split["train"] for span in passage.spans for word in _words(passage, span)}
    of_split["train"] = _renamed(of_split["train"], data_dir, renamed)
    tokenizer = trained_tokenizer([passage.text for passage in of_split["train"]], tokens)
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, preprocess.tokenizer).write_bytes(tokenizer)
        encode = text_preprocessor(preprocess, inputs, Path(folder), located=True)
        for name, chosen in of_split.items():
            prepared = encode([passage.text for passage in chosen])
            places = [place for place in prepared.places if isinstance(place, TextPlace)]
            tags = np.array([_tags(*each) for each in zip(chosen, places, strict=True)], dtype=np.int64)
            new = np.zeros(tags.shape, dtype=np.bool_)
            if name != "train":
                new = np.array([_tags(_of_new(p, known), place) for p, place in zip(chosen, places, strict=True)]) > 0
            parts[name] = prepared.tensors[preprocess.ids_tensor], tags, new
    return parts, tokenizer


def _of_split(data_dir: Path | None) -> dict[str, list[Passage]]:
    of_book = passages(data_dir)
    novels = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    return {name: [passage for book in books for passage in of_book[book]] for name, books in novels.items()}


def _renamed(written: Sequence[Passage], data_dir: Path | None, times: int) -> list[Passage]:
    """The passages, and each again under other names; mixed, for a quick run takes the first ones."""
    generator, common = np.random.default_rng(_RENAMING_SEED), ordinary(written)
    names = {
        sort: tuple(name for name in each if name.lower() not in common) for sort, each in listed(data_dir).items()
    }
    rename = Renaming(names, generator)
    together = [*written, *(rename(passage) for _ in range(times) for passage in written)]
    return [together[i] for i in generator.permutation(len(together))]


def _words(passage: Passage, span: Span) -> list[str]:
    return WORD.findall(passage.text[span.start : span.end].lower())


def _of_new(passage: Passage, known: Set[str]) -> Passage:
    """The passage with only those names that have no known word."""
    return replace(passage, spans=tuple(span for span in passage.spans if known.isdisjoint(_words(passage, span))))


def _dictionary_f1(dataset: Dataset, known: Mapping[str, str]) -> float:
    """F1 of tagging each word by itself, as training mostly has it, or else as it is known; neighbours are one name.

    It learns from as many passages as the data set has at most, none of them under other names.
    """
    of_split = _of_split(None)
    seen: dict[str, Counter[str | None]] = defaultdict(Counter)
    for passage in of_split["train"][: len(dataset.train)]:
        kinds = {at: span.kind for span in passage.spans for at in range(span.start, span.end)}
        for word in WORD.finditer(passage.text):
            seen[word.group().lower()][kinds.get(word.start())] += 1
    kind_of = {**known, **{word: counts.most_common(1)[0][0] for word, counts in seen.items()}}
    right = [{(span.start, span.end, span.kind) for span in passage.spans} for passage in of_split["test"]]
    return _f1(_counts(right, [set(_looked_up(passage.text, kind_of)) for passage in of_split["test"]]))


def _looked_up(text: str, kind_of: Mapping[str, str | None]) -> Iterator[tuple[int, int, str]]:
    """Start, end and kind of the names in a text whose words have these kinds, if any."""
    start, end, now = 0, 0, None
    for word in WORD.finditer(text):
        kind = kind_of.get(word.group().lower())
        if now is not None and not (kind == now and text[end : word.start()] == " "):
            yield start, end, now
            now = None
        start, end, now = (word.start() if now is None else start), word.end(), kind
    if now is not None:
        yield start, end, now


def _tags(passage: Passage, place: TextPlace) -> list[int]:
    """A tag a token, nothing for those that stand for no text."""
    names = list(passage.spans)
    tags = []
    for start, end in place.offsets:
        while names and names[0].end <= start:
            names.pop(0)
        if start == end:
            tags.append(NOTHING)
        elif names and names[0].start < end:
            begins = start <= names[0].start
            tags.append(2 * KINDS.index(names[0].kind) + (1 if begins else 2))
        else:
            tags.append(OUTSIDE)
    return tags


def _begins(tokenizer: bytes) -> NDArray[np.bool_]:
    """Bool `[V]`: whether a token begins a word."""
    vocabulary = Tokenizer.from_str(tokenizer.decode()).get_vocab()
    begins_V = np.ones(len(vocabulary), dtype=np.bool_)
    for token, i in vocabulary.items():
        begins_V[i] = token.startswith("▁") or token in SPECIAL
    return begins_V


def _units(
    ids_ML: NDArray[Any], tags_ML: NDArray[np.int64], begins_V: NDArray[np.bool_], *, names: bool = True
) -> NDArray[np.int64]:
    """What is hidden together: a word's tokens, and a name's words."""
    goes_on = (tags_ML > OUTSIDE) & (tags_ML % 2 == 0) & names
    real = tags_ML != NOTHING
    return np.asarray(np.cumsum(begins_V[ids_ML] & ~goes_on & real, axis=1) * (real & (ids_ML != UNKNOWN_ID)))


def _counts(right: Sequence[set[Any]], said: Sequence[set[Any]]) -> NDArray[np.float64]:
    """For each text `[N, 3]`: names found, names said, names there."""
    return np.array([(len(r & s), len(s), len(r)) for r, s in zip(right, said, strict=True)], dtype=np.float64)


def _f1(counts_N3: NDArray[np.float64]) -> float:
    found, said, there = counts_N3.sum(axis=0)
    return float(2 * found / max(said + there, 1.0))


def _share(counts_N2: NDArray[np.float64]) -> float:
    found, of = counts_N2.sum(axis=0)
    return float(found / max(of, 1.0))


def _dataset(tokenizer: bytes, preprocess: TextPreprocess, splits: dict[str, Split]) -> Dataset:
    files = {preprocess.tokenizer: tokenizer}
    return Dataset(name=NAME, sha256=digest(splits, files), files=files, **splits)
