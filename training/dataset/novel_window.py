"""Jane Austen's novels as windows of tokens, to learn what she writes next. Four to learn from, two held out.

A paragraph is a line: how the source wraps lines, spaces sentences and numbers chapters differs from novel to novel.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from contract.postprocess import softmax
from contract.tensor import Tensors
from training.data import Dataset, Split
from training.dataset.novel import PACKAGE, books
from training.evaluation import Measure, resampled

NAME = "Jane Austen's novels"
TEST_BOOK = "persuasion"  # her last one: 83,000 of 717,000 words
VALIDATION_BOOK = "northangerabbey"  # 77,000: windows of a novel that is learned from would be foretold too well
TOKENIZER_FILE = "tokenizer.json"

NUM_TOKENS = 2_048  # a word is 1.4 tokens; more would leave many that are seen too seldom to be learned
CONTEXT = 128  # tokens: half a page
NUM_VALIDATION, NUM_TEST = 128, 256  # windows; a test's answers of half a megabyte each must fit into memory
ORDER_SEED = 1818

_HEADING = re.compile(r"(?i)(chapter|volume) [\divxl]+\.?|finis|the end")


class Novels:
    """The data set, and how well its next tokens are foretold: `measure` counts letters by what was loaded last.

    `cache` is the shape of what a model keeps of a text; at a window's start it holds nothing.
    """

    def __init__(self, cache: tuple[int, ...]) -> None:
        self._cache = cache
        self._letters_K = np.empty(0, dtype=np.int64)

    def load(self, data_dir: Path | None) -> Dataset:
        """Windows of four novels, of a fifth and of the sixth; raises DataNotFound or DataInvalid."""
        text_of = {name: written(lines) for name, lines in books(data_dir).items()}
        watched, held_out = text_of.pop(VALIDATION_BOOK), text_of.pop(TEST_BOOK)
        tokenizer = trained(list(text_of.values()))
        self._letters_K = letters(tokenizer)
        windows = np.concatenate([cut(tokenizer, text) for text in text_of.values()])
        learned = np.random.default_rng(ORDER_SEED).permutation(windows)
        books_held_out = f"{VALIDATION_BOOK} {TEST_BOOK}"
        sizes = f"{NUM_TOKENS} {CONTEXT} {NUM_VALIDATION} {NUM_TEST} {ORDER_SEED}"
        identity = f"{PACKAGE.digest()} {books_held_out} {sizes}"
        return Dataset(
            name=NAME,
            sha256=hashlib.sha256(identity.encode()).hexdigest(),
            train=self._lesson(learned),
            validation=self._lesson(spread(cut(tokenizer, watched), NUM_VALIDATION)),
            test=self._asked(spread(cut(tokenizer, held_out), NUM_TEST)),
            files={TOKENIZER_FILE: tokenizer.to_str().encode()},
        )

    def measure(self, outputs: Tensors, targets: NDArray[Any]) -> Sequence[Measure]:
        """Perplexity of a token, and bits of a character, of `logits` `[N, T, K]`; resampled by whole windows."""
        chance = np.take_along_axis(softmax(outputs["logits"]), targets[..., np.newaxis], axis=2)[..., 0]
        nats_N = -np.log(np.maximum(chance, 1e-12)).sum(axis=1)
        return [
            resampled("perplexity", _counts(nats_N, np.full(len(targets), targets.shape[1])), _perplexity,
                      larger_is_better=False),
            resampled("bits_per_character", _counts(nats_N, self._letters_K[targets].sum(axis=1)), _bits,
                      larger_is_better=False),
        ]  # fmt: skip

    def _lesson(self, window_MT: NDArray[np.int64]) -> Split:
        """Whole windows to learn from. What is asked in service is a token after others, nearly always: a step."""
        inputs = {**self._nothing(len(window_MT)), "ids": window_MT[:, :1]}
        return Split(inputs=inputs, targets=window_MT[:, 1:], lesson={"ids": window_MT[:, :-1]})

    def _asked(self, window_MT: NDArray[np.int64]) -> Split:
        """Whole windows to be judged by, each entered at once."""
        return Split(inputs={**self._nothing(len(window_MT)), "ids": window_MT[:, :-1]}, targets=window_MT[:, 1:])

    def _nothing(self, num_windows: int) -> dict[str, NDArray[Any]]:
        # The same zeros for all windows: of their own they would take gigabytes.
        cache = np.broadcast_to(np.zeros(self._cache, dtype=np.float32), (num_windows, *self._cache))
        return {"cache": cache, "length": np.zeros((num_windows, 1), dtype=np.int64)}


def written(lines: Sequence[str]) -> str:
    """A novel as one paragraph a line, without headings."""
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", "\n".join(lines)))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph and not _HEADING.fullmatch(paragraph))


def trained(texts: Sequence[str]) -> Tokenizer:
    """Byte pairs within words, so that no text has an unknown token.

    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=NUM_TOKENS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def letters(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Characters of each token `[K]`: its bytes, for all but one of the novels' characters are ASCII."""
    count_K = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, index in tokenizer.get_vocab().items():
        count_K[index] = len(token)
    return count_K


def cut(tokenizer: Tokenizer, text: str) -> NDArray[np.int64]:
    """Windows `[M, CONTEXT + 1]` of a text one after the other; the last token of each is the next one's first."""
    ids = np.array(tokenizer.encode(text).ids, dtype=np.int64)
    num_windows = (len(ids) - 1) // CONTEXT
    return np.stack([ids[at * CONTEXT : (at + 1) * CONTEXT + 1] for at in range(num_windows)])


def spread(windows: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """So many of the windows, at equal distances over the whole novel."""
    return windows[np.linspace(0, len(windows) - 1, num).astype(np.intp)]


def _counts(nats_N: NDArray[np.float64], units_N: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.stack((nats_N, units_N), axis=1)


def _perplexity(samples: NDArray[np.float64]) -> float:
    nats, units = samples.sum(axis=0)
    return float(np.exp(nats / units))


def _bits(samples: NDArray[np.float64]) -> float:
    nats, units = samples.sum(axis=0)
    return float(nats / units / np.log(2))
