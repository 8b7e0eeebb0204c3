"""The names in Jane Austen's novels as tags of a text's tokens, and how well a network finds them.

Judged by whole names, as the CoNLL-2003 task was: a name counts where its first and its last token and its kind are
right (Tjong Kim Sang & De Meulder 2003, cs/0306050). Axes: M and N samples, L positions, T tags.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
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
from training.dataset.novel_name import TEST, TRAIN, VALIDATION, Passage, passages
from training.evaluation import Measure, resampled
from training.masked import exam, lesson
from training.next_token import NOTHING
from training.text import SPECIAL, UNKNOWN_ID, trained_tokenizer

NAME = "Jane Austen's names"
LABELS = ("outside", "B-person", "I-person", "B-place", "I-place")
OUTSIDE = 0
KINDS = ("person", "place")  # the tags of a kind are 2 k + 1, where a name begins, and 2 k + 2
_MASK_SEED = 1904


def tagged(data_dir: Path | None, preprocess: TextPreprocess, inputs: tuple[TensorSpec, ...], tokens: int) -> Dataset:
    """Passages of three novels to learn from, of one to watch, of two to judge by; a tag a token.

    The lesson shows which tokens are of which name, for `Disguise`. The targets are `tags`, and `new`: whether the
    token is of a name no word of which is in a name of the first three novels.
    Raises DataNotFound or DataInvalid.
    """
    parts, tokenizer, known = _encoded(data_dir, preprocess, inputs, tokens)
    begins_V = _begins(tokenizer)
    splits = {
        name: Split(
            inputs={preprocess.ids_tensor: ids},
            targets=several({"tags": tags, "new": _new(ids, tags, known, begins_V)}),
        )
        for name, (ids, tags) in parts.items()
    }
    ids, tags = parts["train"]
    splits["train"] = replace(splits["train"], lesson={preprocess.ids_tensor: ids, "names": _numbered(tags)})
    return _dataset(tokenizer, preprocess, splits)


def hidden(
    data_dir: Path | None,
    preprocess: TextPreprocess,
    inputs: tuple[TensorSpec, ...],
    tokens: int,
    mask: int,
    *,
    whole: bool = True,
) -> Dataset:
    """The same passages to fill gaps in, without tags; words and names are hidden `whole`, or token by token."""
    parts, tokenizer, _ = _encoded(data_dir, preprocess, inputs, tokens)
    begins_V = _begins(tokenizer)
    splits = {}
    for name, (ids, tags) in parts.items():
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
    ids_tensor = next(iter(dataset.train.inputs))
    begins_V = _begins(next(iter(dataset.files.values())))
    seen: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for ids, tags in zip(dataset.train.inputs[ids_tensor], dataset.train.targets["tags"], strict=True):
        for start, end in _words(ids, tags, begins_V):
            seen[tuple(ids[start:end].tolist())][int(tags[start])] += 1
    usual = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    right, said = [], []
    for ids, tags in zip(dataset.test.inputs[ids_tensor], dataset.test.targets["tags"], strict=True):
        guessed = np.full_like(tags, OUTSIDE)
        for start, end in _words(ids, tags, begins_V):
            tag = usual.get(tuple(ids[start:end].tolist()), OUTSIDE)
            guessed[start:end] = tag + tag % 2  # `I-` where a name goes on
            guessed[start] = tag
        right.append(set(spans(tags)))
        said.append(set(spans(guessed)))
    return _f1(_counts(right, said))


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
    data_dir: Path | None, preprocess: TextPreprocess, inputs: tuple[TensorSpec, ...], tokens: int
) -> tuple[dict[str, tuple[NDArray[Any], NDArray[np.int64]]], bytes, frozenset[tuple[int, ...]]]:
    """Ids and tags `[M, L]` of each split, the tokenizer, and the words that training's names are made of."""
    of_book = passages(data_dir)
    novels = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    of_split = {name: [p for book in books for p in of_book[book]] for name, books in novels.items()}
    # It never sees a name, so it cuts known names into as many pieces as new ones.
    tokenizer = trained_tokenizer([_without_names(passage) for passage in of_split["train"]], tokens)
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, preprocess.tokenizer).write_bytes(tokenizer)
        encode = text_preprocessor(preprocess, inputs, Path(folder), located=True)
        for name, chosen in of_split.items():
            prepared = encode([passage.text for passage in chosen])
            places = [place for place in prepared.places if isinstance(place, TextPlace)]
            tags = np.array([_tags(p, place) for p, place in zip(chosen, places, strict=True)], dtype=np.int64)
            parts[name] = prepared.tensors[preprocess.ids_tensor], tags
    begins_V = _begins(tokenizer)
    ids, tags = parts["train"]
    known = {
        tuple(row[start:end].tolist())
        for row, row_tags in zip(ids, tags, strict=True)
        for start, end in _words(row, row_tags, begins_V)
        if row_tags[start] > OUTSIDE
    }
    return parts, tokenizer, frozenset(known)


def _without_names(passage: Passage) -> str:
    bounds = [0, *(at for span in passage.spans for at in (span.start, span.end)), len(passage.text)]
    return " ".join(passage.text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True))


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


def _words(ids_L: NDArray[Any], tags_L: NDArray[np.int64], begins_V: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First token of every word, and the token after its last."""
    real = np.flatnonzero(tags_L != NOTHING)
    firsts = real[begins_V[ids_L[real]]]
    yield from zip(firsts.tolist(), [*firsts[1:].tolist(), int(real[-1]) + 1 if real.size else 0], strict=True)


def _units(
    ids_ML: NDArray[Any], tags_ML: NDArray[np.int64], begins_V: NDArray[np.bool_], *, names: bool = True
) -> NDArray[np.int64]:
    """What is hidden together: a word's tokens, and a name's words."""
    goes_on = (tags_ML > OUTSIDE) & (tags_ML % 2 == 0) & names
    real = tags_ML != NOTHING
    return np.asarray(np.cumsum(begins_V[ids_ML] & ~goes_on & real, axis=1) * (real & (ids_ML != UNKNOWN_ID)))


def _numbered(tags_ML: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the name that a token is of, from 1; 0 outside."""
    inside = tags_ML > OUTSIDE
    return np.asarray(np.cumsum(inside & (tags_ML % 2 == 1), axis=1) * inside)


def _new(
    ids_ML: NDArray[Any],
    tags_ML: NDArray[np.int64],
    known: frozenset[tuple[int, ...]],
    begins_V: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Bool `[M, L]`: the tokens of names that have no known word."""
    new_ML = np.zeros(tags_ML.shape, dtype=np.bool_)
    for ids, tags, new in zip(ids_ML, tags_ML, new_ML, strict=True):
        for first, after, _ in spans(tags):
            words = (ids[start:end] for start, end in _words(ids, tags, begins_V) if first <= start < after)
            new[first:after] = all(tuple(word.tolist()) not in known for word in words)
    return new_ML


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
