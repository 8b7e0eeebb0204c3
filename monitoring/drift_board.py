"""The board `Drift`: which feature, since when, how far, and did it matter; for one version of one model.

First all features over time, then one of them: its shares beside the reference's, and every measure of how surely and
how far it moved. `drift` says what each measure is.
"""

from grafana_foundation_sdk.builders.statushistory import Panel as Heat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Lines

from monitoring.accuracy import ESTIMATE, ESTIMATE_DROP, EVALUATED, accuracy
from monitoring.dashboard import Board, Panels, board_link, choice, one
from monitoring.drift import CHOSEN, MIN_SAMPLES, WINDOWS
from monitoring.drift_alert import OUTPUTS
from monitoring.fast_lane import EVIDENCE_MAX, LIMIT
from monitoring.panel import Column, Look, Query, bars, grid, heat, lines
from monitoring.rule import recent
from monitoring.statistic import ALARM_Z

_VERSION = 'model="$model", version="$version"'
_FEATURE = f'{_VERSION}, feature="$feature"'
_SAMPLES = "inference_feature_reference_samples"


def _recent(series: str, matcher: str = _VERSION) -> str:
    return recent(f"{series}{{{matcher}}}")


def _measure(operation: str, matcher: str = _VERSION) -> str:
    return _recent(CHOSEN.record(operation), matcher)


def drift_board() -> Board:
    """The board that says which feature, since when, how far, and whether it mattered."""
    return Board(
        uid="tidegate-drift",
        description="How far what a version sees is from its reference. Made by monitoring/; edits are overwritten.",
        variables=[
            one("model", _SAMPLES),
            one("version", f'{_SAMPLES}{{model="$model"}}'),
            choice("window", [window.range for window in WINDOWS]),
            one("feature", f"{_SAMPLES}{{{_VERSION}}}"),
        ],
        since="now-2d",
        rows={
            "Which feature, since when?": [_map()],
            "Found early (where the fast lane runs)": [_evidence()],
            "How far?": [_features()],
            "One feature: $feature": _one_feature(),
            "Did it matter?": _outcome(),
        },
    )


def _map() -> Heat:
    look = Look(
        title="How surely each feature has moved, over $window: z",
        unit="short",
        width=24,
        height=10,
        help=f"A row a feature, a cell a piece of time. Red from {ALARM_Z}: no chance any more. One row red: ask what "
        "changed upstream of that feature at the cell where it begins. All rows at once: new clients, or another time "
        f"of day. Empty: under {MIN_SAMPLES} samples in the window, choose a longer one.",
        runbooks=("FeatureDrift", "PredictionDrift", "DriftRulesStale"),
    )
    steps = [(None, "green"), (3.0, "yellow"), (ALARM_Z, "red"), (3 * ALARM_Z, "dark-red")]
    return heat(look, Query(f"max by (feature) ({_measure('z')})", "{{feature}}"), steps=steps)


def _evidence() -> Lines:
    look = Look(
        title="Evidence of the fast lane",
        unit="short",
        width=24,
        help="At e it takes 10^e minutes of traffic at least, on average, to see as much without drift. Above the "
        "dashed line: drifted, whatever the windows say yet. Up and down again each day: a rhythm, raise the feature's "
        "floor. Empty: the fast lane isn't run, or doesn't know the version yet, which takes ten minutes.",
        runbooks=("FeatureDriftFast", "FastLaneStale"),
    )
    limit = Query(f"max by (model, version) ({LIMIT}{{{_VERSION}}})", "alarm")
    return lines(look, [Query(_by_feature(f"{EVIDENCE_MAX}{{{_VERSION}}}"), "{{feature}}")], limit=limit)


def _features() -> Table:
    look = Look(
        title="Features over $window, the surest first",
        width=24,
        height=9,
        help="*z* is how surely a feature moved, *unbiased PSI* how far: 0.1 is a moderate shift, 0.25 a large one, "
        "and around 0 is none. *Alarming since* is there only where both are enough for an alert. KS and W1 (in ranks "
        "of the reference) are of ordered features only. The name shows the feature below.",
        runbooks=("FeatureDrift", "UnseenValues"),
    )
    alarms = f'ALERTS_FOR_STATE{{alertname=~"FeatureDrift|PredictionDrift|UnseenValues", {_VERSION}}} * 1000'
    unseen = _recent(CHOSEN.unseen_z)
    columns = [
        Column(expr=_by_feature(_measure("z")), name="z", warn=3, bad=ALARM_Z),
        Column(expr=_by_feature(_measure("psi_unbiased")), name="Unbiased PSI", warn=0.1, bad=0.25),
        Column(expr=_by_feature(_measure("psi")), name="PSI"),
        Column(expr=_by_feature(_measure("js")), name="JS distance"),
        Column(expr=_by_feature(_measure("ks")), name="KS"),
        Column(expr=_by_feature(_measure("w1")), name="W1"),
        Column(expr=_by_feature(unseen), name="Unseen z", warn=3, bad=ALARM_Z),
        Column(expr=f"min by (feature) ({alarms})", name="Alarming since", unit="dateTimeFromNow"),
        Column(expr=_by_feature(_measure("")), name="Samples", unit="none"),
    ]
    link = board_link(
        "tidegate-drift", model="$model", version="$version", window="$window", feature="${__data.fields.feature}"
    )
    return grid(look, columns, sort_by="z", links={"feature": link})


def _by_feature(expr: str) -> str:
    return f"max by (feature) ({expr})"


def _one_feature() -> Panels:
    shares = Look(
        title="$feature: shares now and in the reference",
        unit="percentunit",
        help="Share of each bin over the window, beside the reference's. The bins of an ordered feature are its "
        "reference's twentieths, from low (00) to high (19), so the reference is level: a slope is a shift, a U a "
        "spread, a full last bin outliers. Categories stand by name.",
        runbooks=("FeatureDrift",),
    )
    tests = Look(
        title="$feature: which way it moved",
        unit="short",
        help="The score of each test over time. `location`: up or down as a whole. `scale`: spread, or narrowed below "
        "0. `tail`: outliers. `chi2` alone: the shape, or a category. A step at a mark: a release or a client did it.",
        runbooks=("FeatureDrift",),
    )
    far = Look(
        title="$feature: how far",
        unit="short",
        help="Unbiased PSI is around 0 without drift. Growing slowly: the world changes, get labels and train again. A "
        "step: something upstream broke. Back by itself each day: a rhythm, raise the feature's floor.",
        runbooks=("FeatureDrift",),
    )
    unseen = Look(
        title="$feature: values that the reference hasn't",
        unit="percentunit",
        help="Share of rows whose value is missing, or in no category of the reference. A step from 0: a client left "
        "the field out or renamed a category, ask who was deployed then.",
        runbooks=("UnseenValues",),
    )
    count, total = _recent(CHOSEN.count, _FEATURE), _measure("", _FEATURE)
    now = f"max by (bin) ({count} / on (feature) group_left () ({total} > 0))"
    reference = f"max by (bin) (model_version_feature_bin:inference_feature_reference:ratio{{{_FEATURE}}})"
    rows = f"({_measure('rows', _FEATURE)} > 0)"
    outside = f"{_recent(CHOSEN.unseen, _FEATURE)} / on (feature) group_left () {rows}"
    z = _recent(CHOSEN.record("z", "model_version_feature_test"), _FEATURE)
    measures = ("psi_unbiased", "js", "ks", "w1")
    return [
        bars(shares, [Query(now, "now"), Query(reference, "reference")], category="bin"),
        lines(tests, [Query(z, "{{test}}")], limit=Query(f"vector({ALARM_Z})", "alarm")),
        lines(far, [Query(_measure(name, _FEATURE), name) for name in measures]),
        lines(unseen, [Query(f"max by (bin) ({outside})", "{{bin}}")]),
    ]


def _outcome() -> Panels:
    outputs = Look(
        title="What the model answers: z",
        unit="short",
        help="How surely the answers themselves have moved. Inputs red above and answers quiet: the model doesn't "
        "mind, wait. Answers red: compare predicted classes on the board Model.",
        runbooks=("PredictionDrift",),
    )
    accurate = Look(
        title="Accuracy, and what confidence says of it",
        unit="percentunit",
        help="Accuracy of a day by true labels, and as the model's confidence estimates it. Falling since the drift "
        "began: it costs, get labels and train again, or route to another version. Level: it doesn't.",
        runbooks=("AccuracyLow", "EstimatedAccuracyLow"),
    )
    answers = f'{_VERSION}, feature=~"{OUTPUTS}"'
    return [
        lines(
            outputs,
            [Query(_by_feature(_measure("z", answers)), "{{feature}}")],
            limit=Query(f"vector({ALARM_Z})", "alarm"),
        ),
        lines(
            accurate,
            [
                Query(_recent(accuracy("24h")), "by true labels"),
                Query(_recent(ESTIMATE), "estimated"),
                Query(_recent(ESTIMATE_DROP), "estimated drop"),
            ],
            limit=Query(f"max by (model, version) ({EVALUATED}{{{_VERSION}}})", "evaluated"),
        ),
    ]
