"""Burn rates and budgets of the contracts' objectives, against arithmetic by hand."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from monitoring.objective import BURNS, burn

Hold = Callable[..., None]

ALLOWED = 0.001
OBJECTIVES = {
    'model_slo_availability_objective_ratio{model="m", version="1"}': f"{1 - ALLOWED}x2000",
    'model_slo_latency_objective_ratio{model="m", version="1"}': f"{1 - ALLOWED}x2000",
    'model_slo_latency_threshold_seconds{model="m", version="1"}': "0.1x2000",
}


def requests(code: str, values: str, version: str = "1") -> dict[str, str]:
    return {f'gateway_requests_total{{model="m", version="{version}", code="{code}"}}': values}


def bucket(le: str, values: str, version: str = "1") -> dict[str, str]:
    return {f'gateway_request_duration_seconds_bucket{{model="m", version="{version}", le="{le}"}}': values}


def series(*rows: Mapping[str, str]) -> list[dict[str, str]]:
    merged = {name: values for row in (OBJECTIVES, *rows) for name, values in row.items()}
    return [{"series": name, "values": values} for name, values in merged.items()]


def value(record: str, slo: str, expected: float, at: str) -> dict[str, Any]:
    return {
        "expr": f'abs({record}{{slo="{slo}"}} - {expected!r}) < bool 1e-9 * {max(1, abs(expected))!r}',
        "eval_time": at,
        "exp_samples": [{"labels": f'{{model="m", slo="{slo}"}}', "value": 1}],
    }


def alerts(slo: str, rates: set[float], burned: float, at: str) -> dict[str, Any]:
    """The burn alerts that fire: those of these rates."""
    what = {"Availability": "failed or turned away", "Latency": "slower than the contract's threshold"}[slo]
    fired = [
        {
            "exp_labels": {
                "model": "m",
                "slo": slo.lower(),
                "team": "platform",
                "severity": one.severity,
                "long": one.long,
                "short": one.short,
            },
            "exp_annotations": {
                "summary": f"m: requests {what} spend the error budget {burned:.1f} times too fast over {one.long}, "
                f"and still over {one.short}; the limit is {one.rate:g}",
                "runbook_url": f"docs/runbooks/{slo}BudgetBurn.md",
            },
        }
        for one in BURNS
        if one.rate in rates
    ]
    return {"eval_time": at, "alertname": f"{slo}BudgetBurn", "exp_alerts": fired}


@pytest.mark.parametrize(
    ("burned", "rates"),
    [(20, {14.4, 6, 3, 1}), (8, {6, 3, 1}), (4, {3, 1}), (2, {1}), (0.5, set[float]())],
)
def test_the_faster_it_burns_the_more_is_said(hold: Hold, burned: float, rates: set[float]) -> None:
    """6,000 requests a minute from the start, so that every window has seen the same."""
    bad = 6_000 * ALLOWED * burned
    rows = (
        requests("200", f"0+{6_000 - bad}x50"),
        requests("503", f"0+{bad}x50"),
        bucket("0.05", "0+1000x50"),
        bucket("0.1", f"0+{6_000 - bad}x50"),
        bucket("+Inf", "0+6000x50"),
    )

    hold(
        {
            "interval": "1m",
            "input_series": series(*rows),
            "promql_expr_test": [
                value(burn(range_), slo, burned, "45m")
                for range_ in ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")
                for slo in ("availability", "latency")
            ],
            "alert_rule_test": [alerts(slo, rates, burned, "45m") for slo in ("Availability", "Latency")],
        },
        every="1m",
    )


def test_only_what_is_ours_is_bad(hold: Hold) -> None:
    """Turned away counts, and what failed before a version was known; a client's mistakes don't count at all."""
    rows = (
        requests("200", "0+980x50"),
        *(requests(code, "0+500x50") for code in ("400", "404", "499")),
        requests("429", "0+5x50"),
        requests("502", "0+5x50"),
        requests("503", "0+10x50", version="other"),
    )

    hold(
        {
            "interval": "1m",
            "input_series": series(*rows),
            "promql_expr_test": [value(burn("1h"), "availability", 0.02 / ALLOWED, "45m")],
        },
        every="1m",
    )


def test_each_version_is_held_to_its_own_threshold_and_the_model_to_the_strictest_objective(hold: Hold) -> None:
    """The threshold of version 2 is a whole number, which exporters and PromQL write differently."""
    second = {
        'model_slo_latency_objective_ratio{model="m", version="2"}': "0.9x50",
        'model_slo_latency_threshold_seconds{model="m", version="2"}': "1x50",
    }
    rows = (
        *(bucket(le, values) for le, values in (("0.1", "0+99x50"), ("1.0", "0+100x50"), ("+Inf", "0+100x50"))),
        *(bucket(le, values, "2") for le, values in (("0.1", "0x50"), ("1.0", "0+40x50"), ("+Inf", "0+50x50"))),
        *(bucket(le, "0+10x50", "other") for le in ("1.0", "+Inf")),  # no contract, no objective
    )

    hold(
        {
            "interval": "1m",
            "input_series": series(second, *rows),
            "promql_expr_test": [value(burn("5m"), "latency", 11 / 150 / ALLOWED, "45m")],
        },
        every="1m",
    )


def test_nobody_is_woken_for_a_handful_of_requests_nor_for_what_is_over(hold: Hold) -> None:
    few = series(requests("200", "0+0.4x60"), requests("503", "0x20 1x40"))  # 5 %, of 20
    over = series(requests("200", "0+1000x100"), requests("503", "0+100x4 400x96"))  # 7 hours ago

    quiet = [alerts("Availability", set(), 0, "50m")]
    hold({"interval": "1m", "input_series": few, "alert_rule_test": quiet}, every="1m")
    quiet = [alerts("Availability", set(), 0, "450m")]
    hold({"interval": "5m", "input_series": over, "alert_rule_test": quiet}, every="5m")


def test_the_budget_remembers_what_the_windows_forgot(hold: Hold) -> None:
    """Of 4 days, a tenth of the requests of 6 hours failed, 2 days ago; sums of 5 minutes are taken twice an hour."""
    rows = (requests("200", "0+1000x1200"), requests("503", "0x575 0+111x72 7992x600"))

    def burned(num_sums: int) -> float:
        return 12 * 111 / (num_sums * 1000 + 12 * 111) / ALLOWED

    checks = [
        {"expr": f'round({burn("1d")}{{slo="availability"}}, 0.001)', "exp": 0.0},
        {"expr": f'round({burn("3d")}{{slo="availability"}}, 0.1)', "exp": round(burned(145), 1)},
        {
            "expr": 'round(model_slo:error_budget_left:ratio30d{slo="availability"}, 0.1)',
            "exp": round(1 - burned(192), 1),
        },
    ]

    hold(
        {
            "interval": "5m",
            "input_series": series(*rows),
            "promql_expr_test": [
                {
                    "expr": check["expr"],
                    "eval_time": "4d",
                    "exp_samples": [{"labels": '{model="m", slo="availability"}', "value": check["exp"]}],
                }
                for check in checks
            ],
            "alert_rule_test": [alerts("Availability", set(), 0, "4d")],
        },
        every="30m",
    )


def test_the_time_to_exhaustion_is_what_is_left_at_the_rate_of_now(hold: Hold) -> None:
    rows = (requests("200", "0+99950x50"), requests("503", "0+50x50"))  # half of the budget's rate: half is left
    seconds = 0.5 * 30 * 86400 / 0.5

    hold(
        {
            "interval": "1m",
            "input_series": series(*rows),
            "promql_expr_test": [
                value("model_slo:error_budget_left:ratio30d", "availability", 0.5, "45m"),
                value("model_slo:error_budget_exhaustion:seconds6h", "availability", seconds, "45m"),
            ],
        },
        every="1m",
    )


def test_without_traffic_or_without_a_contract_there_is_no_burn_rate(hold: Hold) -> None:
    idle = series(requests("200", "0x50"), requests("503", "0x50"))
    unknown = [
        {"series": 'gateway_requests_total{model="other", version="other", code="503"}', "values": "0+10x50"},
        {"series": 'gateway_requests_total{model="other", version="other", code="200"}', "values": "0+10x50"},
    ]
    nothing = [{"expr": burn(range_), "eval_time": "45m", "exp_samples": []} for range_ in ("5m", "1h", "3d")]

    hold(
        *({"interval": "1m", "input_series": rows, "promql_expr_test": nothing} for rows in (idle, unknown)), every="1m"
    )
