"""Splice sites of primate genes: 3,000 windows of 60 bases, in whose middle an exon ends, begins, or neither.

Noordewier, Towell & Shavlik 1990, "Training knowledge-based neural networks to recognize genes in DNA sequences"
(NIPS 3), from GenBank 64.1; as the package mlbench for R brings it (GPL-2), without the windows of unknown bases.

Genes come in families, and so do their windows: of 3,186 there are 3,001 different ones, and 436 more than that have a
near copy. Windows that agree in 40 bases or more (unrelated ones agree in 15) are therefore held together by the split.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from training.data import Dataset, Split, grouped
from training.package import Package

LABELS = ("exon to intron", "intron to exon", "neither")  # a donor, an acceptor, no splice site
_CLASSES = ("ei", "ie", "n")
BASES = "ACGT"
NUM_BASES = 60
# One place more than a window has: a text that is too long is then seen to be, and doesn't just lose its end.
MAX_LENGTH = NUM_BASES + 1
TOKENIZER_FILE = "tokenizer.json"
PAD_ID, FIRST_BASE_ID, ANY_ID, UNKNOWN_ID = 0, 1, 5, 6

NUM_ALIKE = 40
NUM_TEST, NUM_VALIDATION = 1_000, 300
SPLIT_SEED = 1990

PACKAGE = Package(
    manager="debian",
    name="r-cran-mlbench",
    version="2.1-3-1",
    members=("usr/lib/R/site-library/mlbench/data/DNA.rda",),
    sha256="6b6081c286e481736a66dfb5427bc43df3f9d41ffc251d066d2f04b703c524de",
    licence="GPL-2",
)


def load(data_dir: Path | None) -> Dataset:
    """About 1,700 windows to learn from, 300 to watch, 1,000 to judge; raises DataNotFound or DataInvalid."""
    (content,) = PACKAGE.read(data_dir).values()
    code_ML, label_M = distinct(*_read(content))
    samples = Split(inputs={"ids": encoded(code_ML)}, targets=label_M)
    identity = f"{PACKAGE.digest()} alike={NUM_ALIKE} test={NUM_TEST} validation={NUM_VALIDATION} seed={SPLIT_SEED}"
    train, validation, test = grouped(
        samples, families(code_ML), num_validation=NUM_VALIDATION, num_test=NUM_TEST, seed=SPLIT_SEED
    )
    return Dataset(
        name="primate splice sites",
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=train,
        validation=validation,
        test=test,
        files={TOKENIZER_FILE: tokenizer()},
    )


def distinct(code_ML: NDArray[np.int32], label_M: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Every window once, in the order of its first copy; one whose copies have different labels not at all."""
    _, first, group_M = np.unique(code_ML, axis=0, return_index=True, return_inverse=True)
    kept = [at for group, at in enumerate(first) if len(set(label_M[group_M == group])) == 1]
    chosen = np.sort(np.array(kept))
    return code_ML[chosen], label_M[chosen]


def families(code_ML: NDArray[np.int32]) -> NDArray[np.intp]:
    """Number of each window's family `[M]`: chains of windows of which each agrees with the next in 40 bases."""
    family_M = np.arange(len(code_ML))
    for at, code_L in enumerate(code_ML):
        for other in np.flatnonzero((code_ML[:at] == code_L).sum(axis=1) >= NUM_ALIKE):
            family_M[family_M == family_M[at]] = family_M[other]
    return np.unique(family_M, return_inverse=True)[1]


def tokenizer() -> bytes:
    """The tokenizer's file: a letter a token, small letters and an RNA's U too; other letters are unknown."""
    vocabulary = {
        "[PAD]": PAD_ID,
        **{base: FIRST_BASE_ID + i for i, base in enumerate(BASES)},
        "N": ANY_ID,
        "[UNK]": UNKNOWN_ID,
    }
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    spelled = [normalizers.Replace(small, base) for small, base in zip("acgtnuU", "ACGTNTT", strict=True)]
    built.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s"), ""), *spelled])
    built.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return str(built.to_str()).encode()


def encoded(code_ML: NDArray[np.int32]) -> NDArray[np.int32]:
    """Numbers of bases `[M, 60]` as the tokenizer's ids `[M, 61]`."""
    return np.pad(code_ML + FIRST_BASE_ID, ((0, 0), (0, MAX_LENGTH - NUM_BASES)), constant_values=PAD_ID).astype(
        np.int32
    )


def spelled(ids_L: NDArray[np.int32]) -> str:
    """A window's ids as the text that a person would send."""
    return "".join(BASES[i - FIRST_BASE_ID] for i in ids_L[:NUM_BASES])


def _read(content: bytes) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number of each base `[M, 60]`, and label `[M]`: three columns a base say A, C or G, and T is none of them."""
    from rdata import conversion, parser

    table: Any = conversion.convert(parser.parse_data(content), default_encoding="ascii")["DNA"]
    bit_ML3 = table.iloc[:, :-1].to_numpy().astype(np.int32).reshape(len(table), NUM_BASES, 3)
    code_ML = np.where(bit_ML3.any(axis=2), bit_ML3.argmax(axis=2), 3)
    label_M = np.array([_CLASSES.index(name) for name in table["Class"]])
    return code_ML.astype(np.int32), label_M.astype(np.int64)
