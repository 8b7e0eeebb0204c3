"""Another library's look at data sets, at its defaults: `python drift.py LIBRARY IN.npz OUT.json`, in its environment.

IN holds `reference` `[M, F]`, `looks` `[L, N, F]` and `categorical` `[F]`; categories are whole numbers. OUT says of
each look which features were flagged, and how long a look took.
"""

import importlib.metadata
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

SIGNIFICANCE = 0.05


def evidently(reference, categorical):
    """The preset for drift; it chooses a test by kind and size of each column."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = _names(reference)
    definition = DataDefinition(
        numerical_columns=[n for n, c in zip(names, categorical, strict=True) if not c],
        categorical_columns=[n for n, c in zip(names, categorical, strict=True) if c],
    )

    def dataset(values):
        return Dataset.from_pandas(_frame(values, categorical), data_definition=definition)

    past = dataset(reference)

    def look(values):
        result = Report([DataDriftPreset()], include_tests=True).run(dataset(values), past).dict()
        failed = {}
        for test in result["tests"]:
            column = test["metric_config"]["params"].get("column")
            if column is not None:
                failed[column] = test["status"] == "FAIL"
        assert len(failed) == len(names), f"expected a test of each column, got {len(failed)}"
        return [failed[name] for name in names]

    return look


def nannyml(reference, categorical):
    """Univariate drift at its defaults: Jensen-Shannon, thresholds from the reference's own chunks or 0.1."""
    import nannyml as nml

    names = _names(reference)

    def look(values):
        calculator = nml.UnivariateDriftCalculator(
            column_names=names,
            treat_as_categorical=[n for n, c in zip(names, categorical, strict=True) if c],
            chunk_size=len(values),
        )
        calculator.fit(_frame(reference, categorical))
        found = calculator.calculate(_frame(values, categorical)).filter(period="analysis").to_df()
        return [bool(found[name].xs("alert", axis=1, level=-1).to_numpy().any()) for name in names]

    return look


def alibi_detect(reference, categorical):
    """Feature-wise Kolmogorov-Smirnov and chi-square tests with its Bonferroni correction."""
    from alibi_detect.cd import TabularDrift

    columns = {int(i): None for i in np.flatnonzero(categorical)}
    detector = TabularDrift(reference, p_val=SIGNIFICANCE, categories_per_feature=columns or None)

    def look(values):
        data = detector.predict(values, drift_type="batch")["data"]
        return [bool(p < data["threshold"]) for p in data["p_val"]]

    return look


def frouros(reference, categorical):
    """A test of each feature; the library sets no level, 0.05 is what its examples use."""
    from frouros.detectors.data_drift import ChiSquareTest, KSTest

    detectors = []
    for column, is_category in enumerate(categorical):
        detector = ChiSquareTest() if is_category else KSTest()
        detector.fit(X=_column(reference, column, is_category))
        detectors.append(detector)

    def look(values):
        compared = [detector.compare(X=_column(values, i, categorical[i]))[0] for i, detector in enumerate(detectors)]
        return [bool(result.p_value < SIGNIFICANCE) for result in compared]

    return look


LIBRARIES = {"evidently": evidently, "nannyml": nannyml, "alibi-detect": alibi_detect, "frouros": frouros}


def _names(values):
    return [f"f{i:02d}" for i in range(values.shape[1])]


def _column(values, column, is_category):
    return values[:, column].astype(int).astype(str) if is_category else values[:, column]


def _frame(values, categorical):
    import pandas as pd

    return pd.DataFrame({n: _column(values, i, categorical[i]) for i, n in enumerate(_names(values))})


def main():
    """Look at each data set in turn, until the time is up."""
    library, source, target, limit_s = sys.argv[1:5]
    warnings.simplefilter("ignore")
    with np.load(source, allow_pickle=False) as file:
        reference, looks, categorical = file["reference"], file["looks"], file["categorical"].astype(bool)
    look = LIBRARIES[library](reference, categorical)
    started, flags = time.monotonic(), []
    for values in looks:
        flags.append(look(values))
        if time.monotonic() - started > float(limit_s):
            break
    seconds = (time.monotonic() - started) / len(flags)
    version = importlib.metadata.version(library)
    Path(target).write_text(json.dumps({"version": version, "flags": flags, "seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    main()
