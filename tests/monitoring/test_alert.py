"""Every alert fires where it should, says what it should, and is quiet beside that; by Prometheus' own rule tester."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from monitoring.fast_lane import fast_lane_alerts
from monitoring.limit import MAX_SAMPLES
from monitoring.rule import Alert
from monitoring.rulebook import alert_groups

ALERTS = [alert for group in alert_groups() for alert in group.rules]
OF_BUDGETS = {"AvailabilityBudgetBurn", "LatencyBudgetBurn"}  # test_objective has those
MODEL = 'model="m", version="1"'
OF = {"model": "m", "version": "1"}

Series = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Series in promtool's notation, a value a minute: at which the alert fires, and at which it doesn't."""

    alert: str
    fires: Series
    quiet: Series
    labels: Mapping[str, str] = field(default_factory=dict)
    summary: str
    at: str = "40m"
    every: str = "1m"


def feature(counts: Mapping[str, float], ratios: Mapping[str, float], name: str = "f", num: int = 10_000) -> Series:
    """A feature's reference, and samples a minute in each bin."""
    of = f'{MODEL}, feature="{name}"'
    return {
        f"inference_feature_reference_samples{{{of}}}": f"{num}x120",
        **{f'inference_feature_reference_ratio{{{of}, bin="{b}"}}': f"{r}x120" for b, r in ratios.items()},
        **{f'inference_feature_bin_total{{{of}, bin="{b}"}}': f"0+{n}x120" for b, n in counts.items()},
    }


def labels_come(right: float, wrong: float) -> Series:
    """True labels a minute, and an evaluation with an accuracy of 0.95 over 10,000 samples."""
    return {
        "inference_feedback_confidence_total" + f'{{{MODEL}, bin="0.9", correct="true"}}': f"0+{right}x300",
        "inference_feedback_confidence_total" + f'{{{MODEL}, bin="0.9", correct="false"}}': f"0+{wrong}x300",
        f"model_evaluation_accuracy_ratio{{{MODEL}}}": "0.95x300",
        f"model_evaluation_samples{{{MODEL}}}": "10000x300",
    }


def confidence(low: float, high: float) -> Series:
    """Samples a minute in a bin where the model was right in 60 % of cases, and in one where it was in 98 %."""
    of = "inference_confidence_accuracy_ratio" + f"{{{MODEL}, bin="
    reference = {"00": 0.25, "19": 0.75}
    return {
        **feature({"00": low, "19": high}, reference, "confidence"),
        f'{of}"00"}}': "0.6x300",
        f'{of}"19"}}': "0.98x300",
    }


def triton(success: float, failure: float = 0, pending: int = 0, queue_ms: float = 0, compute_ms: float = 1) -> Series:
    """A model in Triton by its requests a minute."""
    return {
        f"nv_inference_request_success{{{MODEL}}}": f"0+{success}x60",
        f'nv_inference_request_failure{{{MODEL}, reason="BACKEND"}}': f"0+{failure}x60",
        f'nv_inference_request_failure{{{MODEL}, reason="CANCELED"}}': f"0+{success}x60",
        f"nv_inference_pending_request_count{{{MODEL}}}": f"{pending}x60",
        f"nv_inference_queue_duration_us{{{MODEL}}}": f"0+{queue_ms * 1000 * success}x60",
        f"nv_inference_compute_infer_duration_us{{{MODEL}}}": f"0+{compute_ms * 1000 * success}x60",
        f"model_slo_latency_threshold_seconds{{{MODEL}}}": "0.1x60",
    }


def versions(bad: tuple[float, float], good: tuple[float, float]) -> Series:
    """Two versions of a model, with bad and good requests a minute of each."""
    requests = 'gateway_requests_total{{model="m", version="{}", code="{}"}}'
    return {
        requests.format(version, code): f"0+{counts[i]}x60"
        for code, counts in (("500", bad), ("200", good))
        for i, version in enumerate((1, 2))
    }


def shadow(agreed: float, disagreed: float, same: float = 0, different: float = 0) -> Series:
    of = 'route="r", target="m/2", result='
    copies, samples = "gateway_shadow_requests_total", "gateway_shadow_top1_total"
    return {
        f'{copies}{{{of}"agreed"}}': f"0+{agreed}x60",
        f'{copies}{{{of}"disagreed"}}': f"0+{disagreed}x60",
        f'{samples}{{{of}"same"}}': f"0+{same}x60",
        f'{samples}{{{of}"different"}}': f"0+{different}x60",
    }


def routed(weight: float, fallback: float) -> Series:
    return {
        'gateway_route_total{route="r", target="m/1", kind="weight"}': f"0+{weight}x60",
        'gateway_route_total{route="r", target="m/0", kind="fallback"}': f"0+{fallback}x60",
    }


def up(job: str, *values: str) -> Series:
    return {f'up{{job="{job}", instance="{i}"}}': value for i, value in enumerate(values)}


EVEN = {"a": 0.5, "b": 0.5, "other": 0.0, "missing": 0.0}
OLD_S = 100 * 86400

SCENES = [
    Scene(
        alert="GatewayAbsent",
        fires=up("gateway", "1x5 0x60", "1x5 0x60"),
        quiet=up("gateway", "0x60", "1x60"),
        labels={"job": "gateway"},
        summary="no gateway answers Prometheus: nobody is served, or nobody is watching",
    ),
    Scene(
        alert="TritonAbsent",
        fires={**up("triton", "1x60"), 'gateway_upstream_up{instance="g"}': "0x60"},
        quiet={**up("triton", "0x60", "1x60"), 'gateway_upstream_up{instance="g"}': "1x60"},
        labels={"job": "triton"},
        summary="no Triton is there for the gateways: every request fails",
    ),
    Scene(
        alert="TritonAbsent",
        fires=up("triton", "0x60", "_x60"),
        quiet=up("triton", "1x39 0x1"),
        labels={"job": "triton"},
        summary="no Triton is there for the gateways: every request fails",
    ),
    Scene(
        alert="InferenceWedged",
        fires=triton(success=0, pending=7),
        quiet=triton(success=1, pending=7),
        labels=OF,
        summary="m version 1: 7 requests wait in Triton, and none was answered for 5 minutes",
    ),
    Scene(
        alert="QueueDominatesCompute",
        fires=triton(success=60, queue_ms=50, compute_ms=20),
        quiet=triton(success=60, queue_ms=20, compute_ms=2),
        labels=OF,
        summary="m version 1: a request waits 50ms in Triton's queue, longer than it computes, and more than a quarter "
        "of the latency threshold",
    ),
    Scene(
        alert="RequestsRejected",
        fires={
            'gateway_shed_total{model="m", reason="capacity"}': "0+6x60",
            f'gateway_requests_total{{{MODEL}, code="200"}}': "0+60x60",
        },
        quiet={
            'gateway_shed_total{model="m", reason="capacity"}': "0+6x60",
            f'gateway_requests_total{{{MODEL}, code="200"}}': "0+1200x60",
            'gateway_shed_total{model="idle", reason="capacity"}': "0+1x60",  # more than 1 %, of next to nothing
            'gateway_requests_total{model="idle", version="1", code="200"}': "0+5x60",
        },
        labels={"model": "m"},
        summary="m: 10% of requests are turned away; more than 1 % is too much",
    ),
    Scene(
        alert="BackendFailures",
        fires=triton(success=60, failure=20),
        quiet=triton(success=600, failure=1),
        labels=OF,
        summary="m version 1: Triton fails 25% of requests; more than 1 % is too much",
    ),
    Scene(
        alert="GpuErrors",
        fires={'DCGM_FI_DEV_XID_ERRORS{Hostname="n", gpu="0", pod="p"}': "0x30 79x30"},
        quiet={'DCGM_FI_DEV_XID_ERRORS{Hostname="n", gpu="0", pod="p"}': "79x60"},  # an old one
        labels={"Hostname": "n", "gpu": "0"},
        summary="GPU 0 of n reported XID errors in the last 15 minutes",
    ),
    Scene(
        alert="RetryBudgetExhausted",
        fires={'gateway_upstream_retry_budget_exhausted_total{instance="g"}': "0+2x60"},
        quiet={'gateway_upstream_retry_budget_exhausted_total{instance="g"}': "5x60"},
        summary="10 lost calls in 5 minutes weren't sent once more: one retry for ten calls is allowed, and "
        "those were spent",
    ),
    Scene(
        alert="FallbackActive",
        fires=routed(weight=90, fallback=30),
        quiet=routed(weight=900, fallback=1),
        labels={"route": "r", "target": "m/0"},
        summary="route r: 25% of requests are answered by its fallback m/0",
    ),
    Scene(
        alert="BreakerOpen",
        fires={'gateway_upstream_breaker_state{endpoint="t:8001", instance="g"}': "2 1 2 2 1 2 2x60"},
        quiet={'gateway_upstream_breaker_state{endpoint="t:8001", instance="g"}': "0x36 2x1 1x1 0x20"},
        labels={"endpoint": "t:8001"},
        summary="Triton t:8001 is down, or is spared the calls of a model that failed",
    ),
    Scene(
        alert="ReplicasDisagree",
        fires={**up("gateway", "1x60", "1x60"), f'model_info{{{MODEL}, instance="0"}}': "1x60"},
        quiet={
            **up("gateway", "1x60", "1x60", "0x60"),
            **{f'model_info{{{MODEL}, instance="{i}"}}': "1x60" for i in range(2)},
        },
        labels=OF,
        summary="m version 1 is served by 1 gateways, and not by the others",
    ),
    Scene(
        alert="RoutesNotInForce",
        fires={f'gateway_route_config_in_force{{instance="{i}"}}': "0x60" for i in range(2)},
        quiet={'gateway_route_config_in_force{instance="0"}': "1x60"},
        summary="2 gateways refuse the routes file as it is now, and go by the one before",
    ),
    Scene(
        alert="ApiKeysNotInForce",
        fires={f'gateway_api_keys_in_force{{instance="{i}"}}': "0x60" for i in range(2)},
        quiet={'gateway_api_keys_in_force{instance="0"}': "1x60"},
        summary="2 gateways refuse the file of API keys as it is now, and go by the one before",
    ),
    Scene(
        alert="ContractMismatch",
        fires={'gateway_contract_errors{instance="0"}': "2x60", 'gateway_contract_errors{instance="1"}': "2x60"},
        quiet={'gateway_contract_errors{instance="0"}': "0x60"},
        summary="2 published versions aren't served, because their contract can't be used",
    ),
    Scene(
        alert="CanaryWorse",
        fires=versions(bad=(1, 10), good=(1_000, 90)),
        quiet=versions(bad=(100, 10), good=(900, 90)),  # both as bad
        labels={"model": "m", "version": "2", "slo": "availability"},
        summary="m version 2 has 9.9% more requests bad in availability than the model's other versions over "
        "30 minutes",
        at="50m",
    ),
    Scene(
        alert="CanaryWorse",
        fires=versions(bad=(1, 10), good=(999, 90)),
        quiet=versions(bad=(0, 1), good=(1_000, 2)),  # a third of it, of too few
        labels={"model": "m", "version": "2", "slo": "availability"},
        summary="m version 2 has 9.9% more requests bad in availability than the model's other versions over "
        "30 minutes",
        at="50m",
    ),
    Scene(
        alert="ShadowDisagreement",
        fires=shadow(agreed=0, disagreed=100, same=90, different=10),
        quiet=shadow(agreed=0, disagreed=100, same=99, different=1),  # other figures, the same classes
        labels={"route": "r", "target": "m/2"},
        summary="route r: 10% of its shadow m/2 differs",
    ),
    Scene(
        alert="ShadowDisagreement",
        fires=shadow(agreed=75, disagreed=25),
        quiet=shadow(agreed=1, disagreed=1),  # too few
        labels={"route": "r", "target": "m/2"},
        summary="route r: 25% of its shadow m/2 differs",
    ),
    Scene(
        alert="ModelAge",
        fires={f"model_created_timestamp_seconds{{{MODEL}}}": f"{-OLD_S}x100"},
        quiet={
            f"model_created_timestamp_seconds{{{MODEL}}}": f"{-OLD_S}x100",
            'model_created_timestamp_seconds{model="m", version="2"}': "0x100",
        },
        labels={"model": "m"},
        summary="m: its newest served version is 100d 1h 20m 0s old, more than 90 days",
        at="80m",
    ),
    Scene(
        alert="FeatureDrift",
        fires=feature({"a": 40, "b": 20}, EVEN),
        quiet={
            **feature({"a": 30, "b": 30}, EVEN),
            **feature({"a": 32, "b": 28}, EVEN, "wanders"),  # too little
            **feature({"a": 0.6, "b": 1.2}, EVEN, "few"),
        },
        labels={**OF, "feature": "f"},
        summary="m version 1: the input f has drifted, z = 12.5 where 4.8 is the limit",
        at="90m",
        every="5m",
    ),
    Scene(
        alert="PredictionDrift",
        fires=feature({"a": 40, "b": 20}, EVEN, "prediction"),
        quiet=feature({"a": 40, "b": 20}, EVEN),  # an input
        labels={**OF, "feature": "prediction"},
        summary="m version 1: the output prediction has drifted, z = 12.5 where 4.8 is the limit",
        at="90m",
        every="5m",
    ),
    Scene(
        alert="UnseenValues",
        fires=feature({"a": 30, "b": 30, "other": 3}, EVEN),
        quiet=feature({"a": 30, "b": 30, "other": 3}, {"a": 0.475, "b": 0.475, "other": 0.05, "missing": 0.0}),
        labels={**OF, "feature": "f", "bin": "other"},
        summary="m version 1: more of f is other than in the reference, z = 22.4 where 4.8 is the limit",
        at="90m",
        every="5m",
    ),
    Scene(
        alert="AccuracyLow",
        fires=labels_come(right=85, wrong=15),
        quiet=labels_come(right=94, wrong=6),
        labels=OF,
        summary="m version 1: 85% of the answers whose true label came were right, more than two points less than at "
        "its evaluation",
        at="100m",
        every="5m",
    ),
    Scene(
        alert="EstimatedAccuracyLow",
        fires=confidence(low=60, high=40),
        quiet=confidence(low=26, high=74),
        labels=OF,
        summary="m version 1: its confidence says that accuracy fell by 13.3% over the last day",
        at="100m",
        every="5m",
    ),
    Scene(
        alert="AccuracyEstimateWrong",
        fires={**labels_come(right=70, wrong=30), **confidence(low=25, high=75)},
        quiet={**labels_come(right=89, wrong=11), **confidence(low=25, high=75)},
        labels=OF,
        summary="m version 1: the accuracy estimated without labels is 17.65% outside the interval of the accuracy by "
        "true labels",
        at="110m",
        every="5m",
    ),
    Scene(
        alert="ScrapeFailing",
        fires=up("triton", "1x20 0x60"),
        quiet=up("triton", "1x37 0x30"),  # down, and not for long enough yet
        labels={"job": "triton", "instance": "0"},
        summary="triton 0 can't be scraped: what is shown of it is old",
    ),
    Scene(
        alert="CardinalityHigh",
        fires={'scrape_samples_scraped{job="gateway", instance="g"}': f"{MAX_SAMPLES['gateway'] * 0.9}x60"},
        quiet={'scrape_samples_scraped{job="gateway", instance="g"}': f"{MAX_SAMPLES['gateway'] * 0.7}x60"},
        labels={"job": "gateway", "instance": "g"},
        summary="gateway g sends 90% of the samples it may; above 100 % its scrapes are refused",
    ),
    Scene(
        alert="DriftRulesStale",
        fires={f'inference_feature_reference_samples{{{MODEL}, feature="f"}}': "1000x120"},
        quiet=feature({"a": 0, "b": 0}, EVEN),
        labels=OF,
        summary="m version 1: 1 features are counted, and some window has no drift",
        at="60m",
    ),
    Scene(
        alert="FeaturesNotCounted",
        fires={'gateway_observation_errors_total{model="m", instance="g"}': "0+1x60"},
        quiet={'gateway_observation_errors_total{model="m", instance="g"}': "9x60"},
        labels={"model": "m"},
        summary="m: drift misses 15 batches of 15 minutes, whose features couldn't be counted",
    ),
    Scene(
        alert="LatencyObjectiveUnwatched",
        fires={
            f"model_slo_latency_threshold_seconds{{{MODEL}}}": "0.125x60",
            f'gateway_request_duration_seconds_bucket{{{MODEL}, le="0.1"}}': "0x60",
        },
        quiet={
            f"model_slo_latency_threshold_seconds{{{MODEL}}}": "1x60",
            f'gateway_request_duration_seconds_bucket{{{MODEL}, le="1.0"}}': "0x60",
        },
        labels=OF,
        summary="m version 1: no histogram bucket is at its latency threshold of 0.125 s, so its latency objective "
        "isn't watched",
    ),
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.alert)
def test_it_fires_says_so_and_is_quiet_otherwise(hold: Callable[..., None], scene: Scene) -> None:
    alert = next(alert for alert in ALERTS if alert.name == scene.alert)
    fired = {
        "exp_labels": {"severity": alert.severity, "team": alert.team, **scene.labels},
        "exp_annotations": {"summary": scene.summary, "runbook_url": f"docs/runbooks/{alert.name}.md"},
    }

    hold(
        _test(scene.fires, scene.at, scene.alert, [fired]),
        _test(scene.quiet, scene.at, scene.alert, []),
        every=scene.every,
    )


def test_the_watchdog_never_stops(hold: Callable[..., None]) -> None:
    (alert,) = (alert for alert in ALERTS if alert.name == "Watchdog")
    fired = {
        "exp_labels": {"severity": "none", "team": "platform"},
        "exp_annotations": {"summary": alert.summary, "runbook_url": "docs/runbooks/Watchdog.md"},
    }

    hold(_test({"up": "_x9"}, "5m", "Watchdog", [fired]), every="1m")


def test_every_alert_has_a_scene() -> None:
    of_the_fast_lane = {alert.name for alert in fast_lane_alerts().rules}  # shown in test_fast_lane.py
    shown = {scene.alert for scene in SCENES} | OF_BUDGETS | of_the_fast_lane | {"Watchdog"}
    assert shown == {alert.name for alert in ALERTS}


def test_only_what_looks_back_long_enough_by_itself_fires_at_once() -> None:
    lets_a_restart_pass = {
        alert.name for alert in ALERTS if alert.pending.endswith(("m", "h")) and alert.pending[0] != "0"
    }

    assert {alert.name for alert in ALERTS} - lets_a_restart_pass == OF_BUDGETS | {
        "GpuErrors",  # an XID is an event, not a state
        "FeatureDriftFast",  # its evidence has been summed over hours
        "Watchdog",
    }


@pytest.mark.parametrize("name", ["tritonAbsent", "Triton absent", "", "TRITON"])
def test_an_alert_has_a_name_that_a_file_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="TritonAbsent"):
        Alert(name=name, expr="up", severity="info", team="model", summary="")


def _test(series: Series, at: str, alert: str, fired: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": fired}],
    }
