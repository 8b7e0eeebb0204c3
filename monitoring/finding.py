"""What Prometheus says of a model's drift at this moment: which features, since when, how far, how surely.

Everything is read from what the rules of `drift` have recorded, so what is shown here is what the alerts go by.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitoring.drift import WINDOWS, Window
from monitoring.error import NotWatched
from monitoring.fast_lane import EVIDENCE_MAX, LIMIT, SAMPLES_MAX
from monitoring.query import Client, matcher
from monitoring.reference import ALL_SAMPLES, RATIO
from monitoring.rule import recent
from monitoring.statistic import ALARM_Z

_HISTORY_S = 24 * 3600
_HISTORY_STEP_S = 1800
_ONSET_STEP_S = 60
_MOST_MOVED = 3

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """A bin, its share of the reference, and of the traffic in the window."""

    bin: str
    reference: float
    now: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A feature over the window that shows most: the one that alarms, else the one with the largest z.

    `z` is None below the samples that a value takes. `since` is in Unix seconds, None where nothing alarms; a drift
    older than a day has the time a day ago. `history` is the largest z of each half hour of the last day, oldest first.
    """

    feature: str
    window: str
    num_samples: float
    z: float | None = None
    test: str = ""
    psi_unbiased: float | None = None
    alarms: bool = False
    since: float | None = None
    moved: tuple[Moved, ...] = ()
    history: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Unseen:
    """Values of a feature that no bin of its reference has, as a share of all rows."""

    feature: str
    bin: str
    window: str
    z: float
    now: float
    alarms: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Early:
    """What the fast lane has seen of a feature: the log10 of the minutes it takes at least, without drift."""

    feature: str
    evidence: float
    num_samples: float
    alarms: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """A version's drift: features with the largest z first, its unseen values, and what the fast lane has seen.

    `early` has the most evidence first. It is empty, and `limit_evidence` None, where no fast lane runs.
    """

    model: str
    version: str
    at: float
    limit_z: float = ALARM_Z
    features: tuple[Finding, ...]
    unseen: tuple[Unseen, ...] = ()
    limit_evidence: float | None = None
    early: tuple[Early, ...] = ()

    @property
    def alarms(self) -> bool:
        """Whether anything does."""
        return bool(self.alarming)

    @property
    def alarming(self) -> tuple[str, ...]:
        """Features of which anything alarms, by the windows first."""
        by_windows = [f.feature for f in self.features if f.alarms] + [u.feature for u in self.unseen if u.alarms]
        return tuple(dict.fromkeys(by_windows + [e.feature for e in self.early if e.alarms]))


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The last value of each record of the windows, by record, then by the labels that tell its series apart."""

    values: Mapping[str, Mapping[Key, float]]

    def of(self, record: str) -> Mapping[Key, float]:
        """Nothing where nothing was recorded."""
        return self.values.get(record, {})


def find(client: Client, model: str, version: str | None = None, windows: Sequence[Window] = WINDOWS) -> Findings:
    """Read a version's drift, the newest watched one's without `version`; raises NotWatched, QueryFailed."""
    version = _version(client, model, version)
    labels = matcher(model=model, version=version)
    now = time.time()
    recorded = _read(client, labels, windows)
    onsets = _onsets(client, labels, windows, int(now))
    histories = _histories(client, labels, windows, int(now))
    names = [feature for (feature,) in recorded.of(ALL_SAMPLES)]
    limit_evidence, early = _early(client, labels)
    found = [_finding(name, recorded, windows, onsets.get(name), histories.get(name)) for name in names]
    return Findings(
        model=model,
        version=version,
        at=now,
        features=tuple(sorted(found, key=lambda f: (not f.alarms, -(f.z or 0), f.feature))),
        unseen=tuple(_unseen(recorded, windows)),
        limit_evidence=limit_evidence,
        early=early,
    )


def _version(client: Client, model: str, version: str | None) -> str:
    samples = client.instant(f"count by (version) (inference_feature_reference_samples{matcher(model=model)})")
    known = sorted((sample.labels["version"] for sample in samples), key=lambda v: (len(v), v))
    if not known:
        raise NotWatched(
            f"Prometheus knows no reference of a model {model!r}: expected one that a scraped gateway serves, "
            "with a profile in its contract; `tidegate models` lists them"
        )
    if version is not None and version not in known:
        raise NotWatched(f"expected one of the watched versions {', '.join(known)} of {model}, got {version!r}")
    return version or known[-1]


def _read(client: Client, labels: str, windows: Sequence[Window]) -> _Recorded:
    names = [RATIO, ALL_SAMPLES]
    for window in windows:
        names += [window.record(kind) for kind in ("", "z", "alarm_z", "psi_unbiased", "rows")]
        names += [window.count, window.unseen, window.unseen_z, window.record("z", "model_version_feature_test")]
    values: dict[str, dict[Key, float]] = {}
    for sample in client.instant(recent(_any_of(names, labels))):
        key = tuple(sample.labels[name] for name in ("feature", "bin", "test") if name in sample.labels)
        values.setdefault(sample.labels["__name__"], {})[key] = sample.value
    return _Recorded(values)


def _any_of(names: Sequence[str], labels: str) -> str:
    return f'{{__name__=~"{"|".join(names)}", {labels[1:]}'


def _finding(
    feature: str,
    recorded: _Recorded,
    windows: Sequence[Window],
    since: float | None,
    history: NDArray[np.float64] | None,
) -> Finding:
    key = (feature,)

    def strength(window: Window) -> tuple[float, float]:
        return recorded.of(window.record("alarm_z")).get(key, -1), recorded.of(window.record("z")).get(key, -1)

    window = max(windows, key=strength)
    tests = {
        test: abs(z) if test != "chi2" else z
        for (name, test), z in recorded.of(window.record("z", "model_version_feature_test")).items()
        if name == feature
    }
    alarms = recorded.of(window.record("alarm_z")).get(key, 0) > 0
    return Finding(
        feature=feature,
        window=window.range,
        num_samples=recorded.of(window.record()).get(key, 0),
        z=recorded.of(window.record("z")).get(key),
        test=max(tests, key=lambda test: tests[test]) if tests else "",
        psi_unbiased=recorded.of(window.record("psi_unbiased")).get(key),
        alarms=alarms,
        since=since if alarms else None,
        moved=tuple(_moved(feature, recorded, window)),
        history=() if history is None else tuple(None if np.isnan(z) else float(z) for z in history),
    )


def _moved(feature: str, recorded: _Recorded, window: Window) -> Iterator[Moved]:
    """The bins whose share moved most."""
    counts = {key[1]: value for key, value in recorded.of(window.count).items() if key[0] == feature}
    total = sum(counts.values())
    if not total:
        return
    reference = {key[1]: value for key, value in recorded.of(RATIO).items() if key[0] == feature}
    moved = [Moved(bin=b, reference=reference.get(b, 0), now=n / total) for b, n in counts.items()]
    yield from sorted(moved, key=lambda m: -abs(m.now - m.reference))[:_MOST_MOVED]


def _unseen(recorded: _Recorded, windows: Sequence[Window]) -> Iterator[Unseen]:
    """One line a bin that has an unseen value, over the window with the largest z."""
    strongest: dict[Key, Unseen] = {}
    for window in windows:
        rows = recorded.of(window.record("rows"))
        for (feature, name), z in recorded.of(window.unseen_z).items():
            now = recorded.of(window.unseen).get((feature, name), 0) / max(rows.get((feature,), 0), 1)
            known = strongest.get((feature, name))
            if now and (known is None or z > known.z):
                strongest[feature, name] = Unseen(
                    feature=feature, bin=name, window=window.range, z=z, now=now, alarms=z > ALARM_Z
                )
    yield from sorted(strongest.values(), key=lambda u: -u.z)


def _early(client: Client, labels: str) -> tuple[float | None, tuple[Early, ...]]:
    """The fast lane's limit, and its evidence; as they are now, for it records at every scrape."""
    recorded: dict[str, dict[str, float]] = {EVIDENCE_MAX: {}, SAMPLES_MAX: {}, LIMIT: {}}
    for sample in client.instant(_any_of(list(recorded), labels)):
        recorded[sample.labels["__name__"]][sample.labels.get("feature", "")] = sample.value
    limit = recorded[LIMIT].get("")
    early = (
        Early(
            feature=feature,
            evidence=evidence,
            num_samples=recorded[SAMPLES_MAX].get(feature, 0),
            alarms=limit is not None and evidence > limit,
        )
        for feature, evidence in recorded[EVIDENCE_MAX].items()
    )
    return limit, tuple(sorted(early, key=lambda e: -e.evidence))


def _onsets(client: Client, labels: str, windows: Sequence[Window], now: int) -> dict[str, float]:
    """Since when each feature has been alarming without a break, as far as a day back."""
    names = [window.record("alarm_z") for window in windows]
    largest = f"max by (feature) ({recent(_any_of(names, labels))})"
    start = now - _HISTORY_S
    onsets = {}
    for series in client.range(f"{largest} > 0", start, now, _ONSET_STEP_S):
        quiet = np.flatnonzero(np.isnan(series.values))
        first = int(quiet[-1]) + 1 if quiet.size else 0
        onsets[series.labels["feature"]] = float(start + first * _ONSET_STEP_S)
    return onsets


def _histories(client: Client, labels: str, windows: Sequence[Window], now: int) -> dict[str, NDArray[np.float64]]:
    start = now - _HISTORY_S + _HISTORY_STEP_S
    histories: dict[str, NDArray[np.float64]] = {}
    for window in windows:  # one by one: max_over_time drops the names that tell the windows' series apart
        largest = f"max_over_time({window.record('z')}{labels}[{_HISTORY_STEP_S}s])"
        for series in client.range(largest, start, now, _HISTORY_STEP_S):
            feature = series.labels["feature"]
            histories[feature] = np.fmax(histories.get(feature, series.values), series.values)
    return histories
