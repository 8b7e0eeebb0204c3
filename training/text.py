"""Texts as a network sees them: a tokenizer made from the training split, and ids cut by the very code that serves.

The tokenizer is byte pair encoding (Sennrich, Haddow & Birch 2016, arXiv 1508.07909) over lower-case words without
accents, punctuation apart, as BERT's is (Devlin et al. 2019, arXiv 1810.04805); a word's first piece begins with `▁`.
Not WordPiece: the library's trainer breaks ties of it by chance, and the same data must give the same bytes.
"""

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from contract.preprocess import text_preprocessor
from contract.schema import ClassificationPostprocess, TensorSpec, TextPreprocess
from contract.tensor import Tensors
from training.data import Dataset, Split

PAD_ID, UNKNOWN_ID, START_ID, END_ID, MASK_ID = range(5)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # by id
TOKENIZER_FILE = "tokenizer.json"

MIN_CHARACTER_TEXTS = 3  # a character in fewer training texts than this is unknown, so that unknown is learned too


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Raw texts, the index `[M]` of each one's label, and where it is known how much it is of every label, `[M, K]`."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    shares: NDArray[np.float32] | None = None

    def take(self, chosen: Sequence[int] | NDArray[np.intp]) -> "Texts":
        """The texts chosen by index."""
        index = np.asarray(chosen, dtype=np.intp)
        return Texts(
            texts=tuple(self.texts[i] for i in chosen),
            labels=self.labels[index],
            shares=None if self.shares is None else self.shares[index],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSplits:
    """The raw texts of a data set's three splits; `sha256` is of all texts and labels, split by split."""

    name: str
    train: Texts
    validation: Texts
    test: Texts

    @property
    def sha256(self) -> str:
        """SHA-256 of what is in which split, in order."""
        state = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for text, label in zip(part.texts, part.labels, strict=True):
                state.update(f"{label} {len(text)} {text}\n".encode(errors="surrogatepass"))
        return state.hexdigest()


def divided(
    name: str,
    samples: Texts,
    *,
    num_validation: int,
    num_test: int,
    seed: int,
    family: Callable[[str], str] = str,
) -> TextSplits:
    """Every text in exactly one split, chosen by the seed, and texts of the same family in the same one.

    So the two held-out splits may be a little smaller than asked for. Raises ValueError when one of the three is empty.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(samples.texts):
        members[family(text)].append(i)
    families = list(members.values())
    order = [families[i] for i in np.random.default_rng(seed).permutation(len(families))]
    ends = np.cumsum([len(each) for each in order])
    test, held_out = np.searchsorted(ends, [num_test, num_test + num_validation], side="right")
    if not 0 < test < held_out < len(order):
        raise ValueError(f"expected three splits of {len(samples.texts)} texts, got {num_test}, {num_validation} asked")
    return TextSplits(
        name=name,
        train=samples.take(list(chain(*order[held_out:]))),
        validation=samples.take(list(chain(*order[test:held_out]))),
        test=samples.take(list(chain(*order[:test]))),
    )


def fingerprint(text: str) -> str:
    """The letters of a text in lower case: two texts that differ otherwise are the same to learn from."""
    return "".join(filter(str.isalpha, text.lower()))


def trained_tokenizer(texts: Sequence[str], num_tokens: int) -> bytes:
    """`tokenizer.json` of at most that many tokens, made from these texts; the same bytes every time.

    A text becomes `[CLS] pieces [SEP]`, so that an empty one isn't empty for the network.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN_ID], fuse_unk=True))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=num_tokens, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(_without_rare_characters(texts, tokenizer), trainer)
    start, end = SPECIAL[START_ID], SPECIAL[END_ID]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(start, START_ID), (end, END_ID)],
    )
    return tokenizer.to_str().encode()


def encode(
    texts: Sequence[str], preprocess: TextPreprocess, inputs: Sequence[TensorSpec], tokenizer: bytes
) -> dict[str, NDArray[Any]]:
    """The contract's tensors `[M, ...]` of M texts, by the preprocessing that the gateway runs."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, preprocess.tokenizer).write_bytes(tokenizer)
        return dict(text_preprocessor(preprocess, inputs, Path(folder))(texts).tensors)


def text_dataset(
    splits: TextSplits,
    preprocess: TextPreprocess,
    inputs: Sequence[TensorSpec],
    num_tokens: int,
    *,
    graded: bool = False,
) -> Dataset:
    """The data set of a text classifier, with the tokenizer that its training split gave.

    When `graded`, it is learned from the shares of the training split's texts; it is judged by labels all the same.
    """
    tokenizer = trained_tokenizer(splits.train.texts, num_tokens)

    def encoded(part: Texts, targets: NDArray[Any]) -> Split:
        tensors: Tensors = encode(part.texts, preprocess, inputs, tokenizer)
        return Split(inputs=tensors, targets=targets)

    identity = f"{splits.sha256} {hashlib.sha256(tokenizer).hexdigest()} {preprocess.model_dump_json()}"
    learned: NDArray[Any] = splits.train.labels
    if graded:
        if splits.train.shares is None:
            raise ValueError(f"{splits.name}: expected shares of the labels to learn from, got labels alone")
        learned = splits.train.shares
        identity += f" {hashlib.sha256(learned.tobytes()).hexdigest()}"
    return Dataset(
        name=splits.name,
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=encoded(splits.train, learned),
        validation=encoded(splits.validation, splits.validation.labels),
        test=encoded(splits.test, splits.test.labels),
        files={preprocess.tokenizer: tokenizer},
    )


def tfidf_accuracy(splits: TextSplits, *, graded: bool = False) -> float:
    """What anyone would try first: accuracy on the test split of logistic regression on the words' weights.

    When `graded`, each text is learned from as one of every label, that counts as much as its share.
    Weights: Salton & Buckley 1988, "Term-weighting approaches in automatic text retrieval", logarithmic frequencies.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2), LogisticRegression(C=10.0, max_iter=1_000))
    texts, labels = splits.train.texts, splits.train.labels
    weight: NDArray[Any] = np.ones(len(texts))
    if graded:
        assert splits.train.shares is not None
        num_labels = splits.train.shares.shape[1]
        texts = tuple(text for text in texts for _ in range(num_labels))
        labels, weight = np.tile(np.arange(num_labels), len(splits.train.texts)), splits.train.shares.ravel()
    model.fit(texts, labels, logisticregression__sample_weight=weight)
    return float(model.score(splits.test.texts, splits.test.labels))


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTask:
    """Classification of texts: the data, and what of a recipe follows from it, whatever the network.

    `max_length` is in tokens, the two that frame a text among them. `graded` is as `text_dataset` takes it.
    """

    name: str
    splits: Callable[[Path | None], TextSplits]
    labels: tuple[str, ...]
    num_tokens: int
    max_length: int
    graded: bool = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The ids of a text; what is shorter is filled up, what is longer cut off."""
        return (TensorSpec(name="ids", datatype="INT32", shape=(self.max_length,)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """A score for each label."""
        return (TensorSpec(name="logits", datatype="FP32", shape=(len(self.labels),)),)

    @property
    def preprocess(self) -> TextPreprocess:
        """Tokens by the tokenizer that the training split gave; the network knows padding by its id."""
        return TextPreprocess(
            tokenizer=TOKENIZER_FILE,
            ids_tensor="ids",
            max_length=self.max_length,
            pad_id=PAD_ID,
            unknown_id=UNKNOWN_ID,
        )

    @property
    def postprocess(self) -> ClassificationPostprocess:
        """Every label with its probability."""
        return ClassificationPostprocess(tensor="logits", labels=self.labels, top_k=len(self.labels))

    def load(self, data_dir: Path | None) -> Dataset:
        """The texts as ids; raises DataNotFound or DataInvalid."""
        splits = self.splits(data_dir)
        return text_dataset(splits, self.preprocess, self.inputs, self.num_tokens, graded=self.graded)

    def baseline(self, dataset: Dataset) -> float:
        """Accuracy of logistic regression on the words of the raw texts, none of them cut off.

        It learns from as many texts as the data set does, and is judged by as many: the first ones, as `limited` takes.
        """
        return tfidf_accuracy(self._limited(dataset))

    def graded_baseline(self, dataset: Dataset) -> float:
        """The same from the shares of the labels."""
        return tfidf_accuracy(self._limited(dataset), graded=True)

    def _limited(self, dataset: Dataset) -> TextSplits:
        whole = self.splits(None)
        train, test = whole.train.take(range(len(dataset.train))), whole.test.take(range(len(dataset.test)))
        return replace(whole, train=train, test=test)


def _without_rare_characters(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The texts as the tokenizer normalises them, less the characters that hardly any text has."""
    assert tokenizer.normalizer is not None
    normal = [tokenizer.normalizer.normalize_str(text) for text in texts]
    counts = Counter(chain.from_iterable(map(set, normal)))
    rare = {ord(character): None for character, count in counts.items() if count < MIN_CHARACTER_TEXTS}
    return [text.translate(rare) for text in normal]
