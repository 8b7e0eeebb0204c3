"""Sentences from film reviews, each liked or disliked as at least 20 people read it. MIT licence.

Hutto & Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM:
ratings of 10,605 sentences out of the reviews that Pang & Lee 2004 collected, from -4 to 4. The label is the sign of
the mean rating; sentences rated 0 are left out, and so is the second copy of a sentence. How sure a label is
is in the rating too: the shares of the two labels are the logistic function of it, and of it negated.
"""

import tarfile
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from training.error import DataInvalid
from training.package import Package
from training.text import Texts, TextSplits, divided, fingerprint

LABELS = ("negative", "positive")
NUM_VALIDATION, NUM_TEST = 600, 1_500  # leave 8,400 to learn from
SPLIT_SEED = 2014  # not the run's: another seed still holds the same sentences out

PACKAGE = Package(
    manager="pypi",
    name="vaderSentiment",
    version="3.3.2",
    members=("additional_resources/hutto_ICWSM_2014.tar.gz",),
    sha256="28f44276978bda2476664e41a9a97cba352b5e4ae9c76e865a926f9b318b5416",
    licence="MIT",
    source=True,
)
_RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"  # id, mean rating, sentence


@lru_cache(maxsize=1)
def splits(data_dir: Path | None) -> TextSplits:
    """The raw sentences; raises DataNotFound or DataInvalid."""
    return divided(
        "VADER film sentences",
        _samples(PACKAGE.read(data_dir)[PACKAGE.members[0]]),
        num_validation=NUM_VALIDATION,
        num_test=NUM_TEST,
        seed=SPLIT_SEED,
    )


def _samples(archive: bytes) -> Texts:
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        file = packed.extractfile(_RATINGS)
        if file is None:
            raise DataInvalid(f"expected a file {_RATINGS} in {PACKAGE.members[0]}, got something else of that name")
        lines = file.read().decode().splitlines()
    rated: dict[str, tuple[str, float]] = {}
    for line in lines:
        _, rating, sentence = line.split("\t")
        rated.setdefault(fingerprint(sentence), (sentence.strip(), float(rating)))
    chosen = [(sentence, rating) for sentence, rating in rated.values() if rating]
    rating_M = np.array([rating for _, rating in chosen])
    liked_M = 1 / (1 + np.exp(-rating_M))
    return Texts(
        texts=tuple(sentence for sentence, _ in chosen),
        labels=(rating_M > 0).astype(np.int64),
        shares=np.stack((1 - liked_M, liked_M), axis=1).astype(np.float32),
    )
