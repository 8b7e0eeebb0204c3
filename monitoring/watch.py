"""Whether the watch itself can be relied on: a board that shows nothing wrong may show nothing at all."""

from monitoring.drift import WINDOWS
from monitoring.limit import MAX_SAMPLES
from monitoring.objective import THRESHOLD
from monitoring.rule import OF, PERCENT, Alert, Group
from monitoring.traffic import BUCKETS

_VERSION = "model, version"


def watch_alerts() -> Group[Alert]:
    """Whether the watch itself can be relied on."""
    features = f"count by ({_VERSION}) (inference_feature_reference_samples)"
    recorded = [f"last_over_time({window.record()}[20m])" for window in WINDOWS]
    crowded = (f'scrape_samples_scraped{{job="{job}"}} / {limit} > 0.8' for job, limit in MAX_SAMPLES.items())
    return Group(
        name="watch_alerts",
        rules=(
            Alert(
                name="ScrapeFailing",
                expr="up == 0",
                pending="5m",
                severity="warning",
                team="platform",
                summary="{{ $labels.job }} {{ $labels.instance }} can't be scraped: what is shown of it is old",
            ),
            Alert(
                name="CardinalityHigh",
                expr="\nor ".join(crowded),
                pending="15m",
                severity="warning",
                team="platform",
                summary=f"{{{{ $labels.job }}}} {{{{ $labels.instance }}}} sends {PERCENT} of the samples it may; "
                "above 100 % its scrapes are refused",
            ),
            Alert(
                name="DriftRulesStale",
                expr="\nor ".join(f"({features} unless on ({_VERSION}) {one})" for one in recorded),
                pending="15m",
                severity="warning",
                team="platform",
                summary=f"{OF}: {{{{ $value }}}} features are counted, and some window has no drift",
            ),
            Alert(
                name="FeaturesNotCounted",
                expr="sum by (model) (increase(gateway_observation_errors_total[15m])) > 0",
                pending="5m",
                severity="warning",
                team="model",
                summary='{{ $labels.model }}: drift misses {{ printf "%.0f" $value }} batches of 15 minutes, '
                "whose features couldn't be counted",
            ),
            Alert(
                name="LatencyObjectiveUnwatched",
                expr=f"max by ({_VERSION}) (model_slo_latency_threshold_seconds)\n"
                f"unless on ({_VERSION}) ({BUCKETS} and on ({_VERSION}, le) {THRESHOLD})",
                pending="15m",
                severity="info",
                team="platform",
                summary=f"{OF}: no histogram bucket is at its latency threshold of {{{{ $value }}}} s, so its latency "
                "objective isn't watched",
            ),
            Alert(
                name="Watchdog",
                expr="vector(1)",
                severity="none",
                team="platform",
                summary="always firing: when it stops coming, Prometheus or Alertmanager is down",
            ),
        ),
    )
