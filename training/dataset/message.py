"""What a program says to its users, in English and French: the translated messages of LibreOffice 7.4. MPL 2.0.

About 15,300 pairs, from a button's single word to a sentence; one in ten is longer than 24 tokens, and left out of all
three splits. Marks of keyboard shortcuts (`_File`, `~File`) are taken out, as every language puts them elsewhere, and
so a client has to do; placeholders stay. Messages that differ only in case, digits or punctuation are in the same
split, so none of the test's was seen in training in other clothes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from contract.tensor import Tensors
from training.data import Dataset, Split, digest
from training.evaluation import Measure, counted, resampled
from training.next_token import NOTHING
from training.package import Package

PACKAGE = Package(
    manager="debian",
    name="libreoffice-l10n-fr",
    version="4:7.4.7-1+deb12u14",
    members=("usr/lib/libreoffice/program/resource/fr/LC_MESSAGES/*.mo",),
    sha256="b2deb4e8a3d4dc12f94a597437647a36aa24be1ad8418b81b0a8b22cf22ae444",
    licence="MPL-2.0",
)
NAME = "LibreOffice messages, English to French"
TOKENIZER_FILE = "tokenizer.json"

NUM_TOKENS = 4_096  # both languages together: frequent words are one token, the rest two or three
MAX_LENGTH = 24  # tokens of a message with its end; nine in ten are no longer
PAD, START, END = 0, 1, 2
SPECIAL = ("<pad>", "<s>", "</s>")

NUM_TEST, NUM_VALIDATION = 1_500, 500  # messages, before those that are too long are left out
SPLIT_SEED = 1409

_MARK = re.compile(r"([%$]\(?\w+[)$]?)|[_~](?=\w)")  # a placeholder, or the mark of a keyboard shortcut

Pair = tuple[str, str]


class Messages:
    """The data set, and how translations of it are judged: `measure` reads token ids by what was loaded last."""

    def __init__(self) -> None:
        self._tokenizer: Tokenizer | None = None

    def load(self, data_dir: Path | None) -> Dataset:
        """Source and target ids of every message; raises DataNotFound or DataInvalid."""
        splits = divided(pairs(PACKAGE.read(data_dir)))
        self._tokenizer = trained(text for pair in splits["train"] for text in pair)
        parts = {name: encoded(self._tokenizer, chosen) for name, chosen in splits.items()}
        files = {TOKENIZER_FILE: self._tokenizer.to_str().encode()}
        return Dataset(name=NAME, sha256=digest(parts, files), files=files, **parts)

    def measure(self, outputs: Tensors, targets: NDArray[Any]) -> Sequence[Measure]:
        """BLEU and chrF of translations `translation` `[N, T]`, and the share that is the person's word for word."""
        assert self._tokenizer is not None
        written = texts(self._tokenizer, outputs["translation"])
        return judged(written, texts(self._tokenizer, targets))


def pairs(content: Mapping[str, bytes]) -> list[Pair]:
    """English and French of every message that has words to translate, each English once, sorted."""
    import polib

    found: Counter[Pair] = Counter()
    for file in content.values():
        for entry in polib.mofile(file):
            pair = _cleaned(entry.msgid), _cleaned(entry.msgstr)
            if not entry.msgid_plural and _has_words(*pair):
                found[pair] += 1
    once: dict[str, str] = {}
    for (english, french), _ in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        once.setdefault(english, french)
    return sorted(once.items())


def divided(everything: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs in three splits; messages whose words are the same go together."""
    groups: dict[str, list[Pair]] = {}
    for pair in everything:
        groups.setdefault(words(pair[0]), []).append(pair)
    names = sorted(groups)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    bounds = {
        "test": slice(NUM_TEST),
        "validation": slice(NUM_TEST, NUM_TEST + NUM_VALIDATION),
        "train": slice(NUM_TEST + NUM_VALIDATION, None),
    }
    return {name: [pair for i in order[chosen] for pair in groups[names[i]]] for name, chosen in bounds.items()}


def words(text: str) -> str:
    """What is left of an English text without case, digits and punctuation."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def trained(lines: Iterable[str]) -> Tokenizer:
    """Byte pairs, so that no text has an unknown token; every text ends with its end.

    Sennrich, Haddow & Birch 2015, arXiv 1508.07909.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def encoded(tokenizer: Tokenizer, chosen: Sequence[Pair]) -> Split:
    """The pairs with at most `MAX_LENGTH` tokens a side; the lesson shows the right translation up to each token."""
    sources, targets = (tokenizer.encode_batch([pair[side] for pair in chosen]) for side in (0, 1))
    both = [(s.ids, t.ids) for s, t in zip(sources, targets, strict=True) if max(len(s), len(t)) <= MAX_LENGTH]
    source_MS = _padded([source for source, _ in both], PAD)
    target_MT = _padded([target for _, target in both], NOTHING)
    shown_MT = _padded([[START, *target[:-1]] for _, target in both], PAD)
    inputs = {"ids": source_MS, "mask": (source_MS != PAD).astype(np.int64)}
    return Split(inputs=inputs, targets=target_MT, lesson={**inputs, "shown": shown_MT})


def texts(tokenizer: Tokenizer, ids_NT: NDArray[Any]) -> list[str]:
    """What ids `[N, T]` say up to their end."""
    rows = [row[: row.index(END)] if END in row else row for row in ids_NT.tolist()]
    return tokenizer.decode_batch([[token for token in row if token > END] for row in rows])


def judged(written: Sequence[str], wanted: Sequence[str]) -> list[Measure]:
    """BLEU and chrF as sacrebleu counts them, both from 0 to 100, and the share of equal texts.

    Post 2018, arXiv 1804.08771; Papineni et al. 2002, ACL; Popović 2015, WMT.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    measures = []
    for name, metric in (("bleu", BLEU(force=True)), ("chrf", CHRF())):
        # What each text adds; the sum of any of them is judged, so the bootstrap needn't read them again.
        counts = np.array(metric._extract_corpus_statistics(written, [wanted]), dtype=np.float64)

        def score(samples: NDArray[Any], metric: Any = metric) -> float:
            total = samples.sum(axis=0, keepdims=True).astype(int).tolist()
            return float(metric._aggregate_and_compute(total).score)

        measures.append(resampled(name, counts, score, larger_is_better=True))
    same = np.array([a == b for a, b in zip(written, wanted, strict=True)])
    return [*measures, counted("same_as_person", same)]


def copied(dataset: Dataset) -> float:
    """BLEU of leaving everything in English."""
    tokenizer = _tokenizer(dataset)
    return _bleu(tokenizer, texts(tokenizer, dataset.test.inputs["ids"]), dataset)


def nearest(dataset: Dataset) -> float:
    """BLEU of the known translation of the message with the most alike words, rare ones counting for more."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    tokenizer = _tokenizer(dataset)
    known, asked = (texts(tokenizer, split.inputs["ids"]) for split in (dataset.train, dataset.test))
    weigh = TfidfVectorizer().fit(known)
    found = NearestNeighbors(n_neighbors=1, metric="cosine").fit(weigh.transform(known))
    (closest,) = found.kneighbors(weigh.transform(asked), return_distance=False).T
    return _bleu(tokenizer, texts(tokenizer, dataset.train.targets[closest]), dataset)


def _tokenizer(dataset: Dataset) -> Tokenizer:
    return Tokenizer.from_str(dataset.files[TOKENIZER_FILE].decode())


def _bleu(tokenizer: Tokenizer, written: Sequence[str], dataset: Dataset) -> float:
    return judged(written, texts(tokenizer, dataset.test.targets))[0].metric.value


def _cleaned(text: str) -> str:
    return " ".join(_MARK.sub(lambda found: found[1] or "", text).split())


def _has_words(english: str, french: str) -> bool:
    """Whether there is something to translate: not markup, not a name that stays as it is."""
    return english != french and bool(french) and "</" not in english and bool(re.search(r"[A-Za-z]{2}", english))


def _padded(rows: Sequence[Sequence[int]], filler: int) -> NDArray[np.int64]:
    padded = np.full((len(rows), MAX_LENGTH), filler, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded
