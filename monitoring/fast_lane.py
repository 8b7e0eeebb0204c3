"""The rules over what `exporter` exports: a limit that keeps false alarms rare, and whether the exporter keeps up.

Evidence e means: without drift it takes 10^e minutes of traffic at least, on average, for this feature to get there. So
a limit of two months for each of a version's features gives at most half a false alarm in a month for all of them.
"""

from monitoring.reference import FEATURE
from monitoring.rule import OF, Alert, Group, Rule

# As `exporter` exports them.
EVIDENCE = "inference_feature_evidence"
SAMPLES = "inference_feature_evidence_samples"
TIMESTAMP = "inference_feature_evidence_timestamp_seconds"

BUDGET_MINUTES = 2 * 30 * 24 * 60
STALE_S = 300

EVIDENCE_MAX = f"model_version_feature:{EVIDENCE}:max"
SAMPLES_MAX = f"model_version_feature:{SAMPLES}:max"
LIMIT = f"model_version:{EVIDENCE}:limit"


def fast_lane_group() -> Group[Rule]:
    """The evidence of whichever exporter has most, the samples behind it, and the limit that it is held against."""
    return Group(
        name="drift_fast",
        rules=(
            Rule(record=EVIDENCE_MAX, expr=f"max by ({FEATURE}) ({EVIDENCE})"),
            Rule(record=SAMPLES_MAX, expr=f"max by ({FEATURE}) ({SAMPLES})"),
            Rule(record=LIMIT, expr=f"log10({BUDGET_MINUTES} * count by (model, version) ({EVIDENCE_MAX}))"),
        ),
    )


def fast_lane_alerts() -> Group[Alert]:
    """A shift found early, and an exporter that has stopped reading."""
    return Group(
        name="drift_fast_alerts",
        rules=(
            Alert(
                name="FeatureDriftFast",
                expr=f"{EVIDENCE_MAX}\n> on (model, version) group_left () {LIMIT}",
                severity="warning",
                team="model",
                summary=f"{OF}: {{{{ $labels.feature }}}} has drifted; by chance it would look like this once in "
                '10^{{ printf "%.0f" $value }} minutes',
            ),
            Alert(
                name="FastLaneStale",
                expr=f"time() - max(last_over_time({TIMESTAMP}[6h])) > {STALE_S}",
                pending="5m",
                severity="warning",
                team="platform",
                summary="drift's fast lane has read nothing for {{ $value | humanizeDuration }}; the windows go on",
            ),
        ),
    )
