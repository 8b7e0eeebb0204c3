"""Real texts: a model of film sentences is sent those of other genres, which the same people rated.

Hutto & Gilbert 2014 had 20 people rate sentences of film reviews, of reviews of things that are sold, of editorials,
and tweets; see training/dataset/sentiment.py. So what each genre costs in accuracy is known, and that is why it has to
be found. The reference is half of the film sentences that training held out, the other half is looked at without a
shift.
"""

import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.drift.library import NUM_SAMPLES, DataSet
from bench.drift.published import Published, categorical
from training.dataset.sentiment import PACKAGE, splits

MODEL = RECIPE = "sentiment-bilstm"
GENRES = {"shop reviews": "amazonReviewSnippets", "editorials": "nytEditorialSnippets", "tweets": "tweets"}

Array = NDArray[Any]


def text_sets(repository: Path, num_looks: int, seed: int) -> Iterator[DataSet]:
    """Data sets of the features that a gateway counts; raises BenchError where no such model is published."""
    model = Published(repository, MODEL, RECIPE)
    whole = splits(None)
    held = [*whole.validation.texts, *whole.test.texts]
    labels = np.concatenate((whole.validation.labels, whole.test.labels))
    order = np.random.default_rng(seed).permutation(len(held))
    held, labels = [held[i] for i in order], labels[order]
    half = len(held) // 2
    reference, names, _ = model.look(model.encoded(held[:half]), labels[:half])
    plain, _, right = model.look(model.encoded(held[half:]), labels[half:])
    for name, values, answers in [("no shift", plain, right), *_genres(model)]:
        random = np.random.default_rng((seed, len(name)))
        chosen = [random.choice(len(values), NUM_SAMPLES, replace=False) for _ in range(num_looks)]
        cost = float(right.mean() - answers[np.concatenate(chosen)].mean())
        yield DataSet(
            name=f"film sentences, {name}" if name == "no shift" else f"{name} for film sentences",
            features=names,
            reference=reference,
            looks=np.stack([values[rows] for rows in chosen]),
            categorical=categorical(names),
            note=f"{100 * cost:.1f} points of accuracy",
        )


def _genres(model: Published) -> Iterator[tuple[str, Array, Array]]:
    with tarfile.open(fileobj=BytesIO(PACKAGE.read(None)[PACKAGE.members[0]])) as packed:
        for name, member in GENRES.items():
            file = packed.extractfile(f"hutto_ICWSM_2014/{member}_GroundTruth.txt")  # id, mean rating, sentence
            assert file is not None
            rows = [line.split("\t") for line in file.read().decode(errors="replace").splitlines()]
            rated = [(text, float(rating)) for _, rating, text in rows if float(rating)]
            liked = np.array([rating > 0 for _, rating in rated])
            values, _, right = model.look(model.encoded([text for text, _ in rated]), liked)
            yield name, values, right
