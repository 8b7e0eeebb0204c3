"""The board `Overview`: all models on one screen, what is red first; what an engineer woken at 3 am looks at first.

Top to bottom: is something broken, which alert and which model, since when. A click on a row leads to the board that
says why, or to the runbook. Each panel's description says what to do next.
"""

from monitoring.dashboard import Board, Panels, board_link, many
from monitoring.drift import MIN_SAMPLES, WINDOWS
from monitoring.objective import BURNS, burn
from monitoring.panel import RUNBOOKS, Column, Look, Query, grid, lines, verdict
from monitoring.rule import recent
from monitoring.statistic import ALARM_Z
from monitoring.traffic import REQUESTS

_MODEL = 'model=~"$model"'
_P99 = 'model_version_quantile:gateway_request_duration_seconds:histogram_quantile_rate5m{quantile="0.99", ' + _MODEL
_THRESHOLD = f"max by (model, version) (model_slo_latency_threshold_seconds{{{_MODEL}}})"
_OF_LIMIT = f"max by (model) (max by (model, version) ({_P99}}}) / {_THRESHOLD})"
_FAILED = f"max by (model) (model_version:gateway_requests_5xx:ratio_rate5m{{{_MODEL}}})"
_BURN = f"max by (model) ({burn('1h')}{{{_MODEL}}})"
_SPENT = f"max by (model) (1 - {recent(f'model_slo:error_budget_left:ratio30d{{{_MODEL}}}')})"
_PAGES = BURNS[0].rate
_ALIVE = 'ALERTS{alertname="Watchdog", alertstate="firing"}'


def _alerts(matcher: str) -> str:
    """What fires and somebody must act upon; what belongs to no model is among it, whichever model is chosen."""
    return f'ALERTS{{alertstate="firing", alertname!="Watchdog", model=~"$model|", {matcher}}}'


def _drift(operation: str) -> str:
    """The largest of a model's features, over whichever window shows most."""
    windows = (f"max by (model) ({recent(f'{w.record(operation)}{{{_MODEL}}}')})" for w in WINDOWS)
    every = (f'label_replace({one}, "window", "{w.range}", "", "")' for one, w in zip(windows, WINDOWS, strict=True))
    return f"max by (model) ({' or '.join(every)})"


def overview() -> Board:
    """The board that says whether something is broken, which model, and since when."""
    return Board(
        uid="tidegate-overview",
        description="All models on one screen, what is red first. Made by monitoring/; edits are overwritten.",
        variables=[many("model", "model_info")],
        rows={"Is it broken?": _verdicts(), "What to do first": _tables(), "Since when?": _history()},
    )


def _verdicts() -> Panels:
    down = Look(
        title="Down now",
        unit="none",
        width=7,
        height=4,
        help="Targets that don't answer Prometheus, gateways that can't reach Triton, versions not served because of "
        "their contract. Red: read that process's log first; what stands below may be old. No data: Prometheus "
        "scrapes nothing, see its /targets page.",
        runbooks=("GatewayAbsent", "TritonAbsent", "ContractMismatch"),
    )
    firing = Look(
        title="Alerts firing",
        unit="none",
        width=5,
        height=4,
        help="Alerts that page somebody, and those that wait for working hours. Red: the table below has them. "
        "No data: Prometheus evaluates no alerts, so nobody is watching.",
        runbooks=("Watchdog",),
    )
    errors = Look(
        title="Server errors (5xx), worst model",
        unit="percentunit",
        width=4,
        height=4,
        help="Share of requests in 5 minutes that we failed. Red from 1 %: open the board Model. If Triton is down or "
        "fails requests, start there; if a version is new, route away from it. 0 without requests.",
        runbooks=("AvailabilityBudgetBurn", "BackendFailures"),
    )
    latency = Look(
        title="p99 against its objective, worst",
        unit="percentunit",
        width=4,
        height=4,
        help="The 99th percentile as a share of the contract's latency threshold. Above 100 %, more than one request "
        "in a hundred is too slow: the board Model shows in which stage. Grey: no request in 5 minutes.",
        runbooks=("LatencyBudgetBurn",),
    )
    shed = Look(
        title="Refused (shed)",
        unit="reqps",
        width=4,
        height=4,
        help="Requests refused because all places were taken, or because their deadline couldn't be kept. Above 0 we "
        "lack capacity: add replicas, or find in *Requests* who sends so much.",
        runbooks=("RequestsRejected",),
    )
    broken = [
        Query('sum(1 - up{job="gateway"})', "gateways"),
        Query('sum(1 - up{job="triton"})', "Tritons"),
        Query("sum(1 - gateway_upstream_up)", "without Triton"),
        Query("max(gateway_contract_errors)", "not served"),
    ]
    alerts = [
        Query(f"count({_alerts(matcher)}) or on () {_ALIVE} * 0", name)
        for matcher, name in (('severity="critical"', "critical"), ('severity!="critical"', "others"))
    ]
    shed_rate = f"sum(model_reason:gateway_shed:rate5m{{{_MODEL}}})"
    return [
        verdict(down, broken, warn=None, bad=1),
        verdict(firing, alerts, warn=None, bad=1),
        verdict(errors, [Query(f"topk(1, {_FAILED})", "{{model}}")], warn=0.001, bad=0.01),
        verdict(latency, [Query(f"topk(1, {_OF_LIMIT})", "{{model}}")], warn=0.8, bad=1, absent="text"),
        verdict(shed, [Query(shed_rate, "all")], warn=0.001, bad=1),
    ]


def _tables() -> Panels:
    firing = Look(
        title="Alerts that fire",
        width=10,
        height=7,
        help="What fires, and since when its condition holds. Several at once: begin with the one that began first, "
        "and with TritonAbsent or GatewayAbsent before anything about a model. The name leads to the runbook.",
    )
    models = Look(
        title="Models, those with alerts first",
        width=14,
        height=7,
        help="One row a model, the worst of its versions. *p99* is a share of the contract's threshold; *burn* 1 "
        f"spends the budget of 30 days in 30 days, {_PAGES:g} pages; *drift* is the surest feature's z in any window, "
        "which "
        f"alarms above {ALARM_Z} where the change is large enough to matter. The name leads to the board Model.",
    )
    every, of_models = _alerts('severity!=""'), _alerts('model!=""')
    labels = "alertname, severity, team, model, version, feature, slo, route"
    since = f"max by ({labels}) (ALERTS_FOR_STATE and ignoring (alertstate) {every}) * 1000"
    known = f"group by (model) (model_info{{{_MODEL}}}) * 0"
    columns = [
        Column(expr=f"count by (model) ({of_models}) or {known}", name="Alerts", unit="none", bad=1),
        Column(expr=f"sum by (model) ({REQUESTS}{{{_MODEL}}})", name="Requests", unit="reqps"),
        Column(expr=_FAILED, name="5xx", unit="percentunit", warn=0.001, bad=0.01),
        Column(expr=_OF_LIMIT, name="p99", unit="percentunit", warn=0.8, bad=1),
        Column(expr=_BURN, name="Burn 1h", warn=1, bad=_PAGES),
        Column(expr=_SPENT, name="Budget spent", unit="percentunit", warn=0.5, bad=1),
        Column(expr=_drift("z"), name="Drift z", warn=ALARM_Z, bad=2 * ALARM_Z),
    ]
    row = "${__data.fields.model}"
    return [
        grid(
            firing,
            [Column(expr=since, name="Since", unit="dateTimeFromNow")],
            sort_by="Since",
            links={"alertname": f"{RUNBOOKS}/${{__data.fields.alertname}}.md"},
        ),
        grid(
            models,
            columns,
            sort_by="Alerts",
            links={
                "model": board_link("tidegate-model", model=row),
                "Drift z": board_link("tidegate-drift", model=row),
            },
        ),
    ]


def _history() -> Panels:
    requests = Look(
        title="Requests",
        unit="reqps",
        width=8,
        height=6,
        help="Requests a second by model. A fall to 0 with nothing down means that clients don't reach us: look at the "
        "load balancer. A rise explains latency and refusals.",
    )
    errors = Look(
        title="Server errors (5xx)",
        unit="percentunit",
        width=8,
        height=6,
        help="Share of requests that we failed, each model's worst version. A step at a blue or purple mark: a release "
        "or an edit of the routes did it, take it back. A step at none: look at Triton and GPU.",
        runbooks=("AvailabilityBudgetBurn",),
    )
    latency = Look(
        title="p99 as a share of the threshold",
        unit="percentunit",
        width=8,
        height=6,
        help="1 is the contract's latency threshold. One model above it: the board Model shows the stage. All at once: "
        "Triton, its GPU or the gateways' CPU is what they share.",
        runbooks=("LatencyBudgetBurn",),
    )
    burning = Look(
        title="Error budget burn over 1 h",
        unit="short",
        width=8,
        height=6,
        help="How many times too fast the worse of the two objectives spends its budget. "
        f"Above {_PAGES:g} somebody is paged: "
        "stop releases, and mend what the panels above show. Above 1 for days: the budget won't last 30 days.",
        runbooks=("AvailabilityBudgetBurn", "LatencyBudgetBurn"),
    )
    spent = Look(
        title="Error budget spent in 30 days",
        unit="percentunit",
        width=8,
        height=6,
        help="Share of what may go wrong in 30 days that has gone wrong. From 1 the objective is missed: release "
        "nothing but repairs. Evaluated every 5 minutes; it falls only as bad days pass out of the window.",
    )
    drift = Look(
        title="Drift, the surest feature",
        unit="short",
        width=8,
        height=6,
        help="The largest z of any feature in any window, a point for each model. Above the dashed line it is no "
        "chance: open the board Drift for which feature, since when and how far. "
        f"Nothing below {MIN_SAMPLES} samples.",
        runbooks=("FeatureDrift", "PredictionDrift"),
    )
    name = "{{model}}"
    return [
        lines(requests, [Query(f"sum by (model) ({REQUESTS}{{{_MODEL}}})", name)]),
        lines(errors, [Query(_FAILED, name)]),
        lines(latency, [Query(_OF_LIMIT, name)], limit=Query("vector(1)", "threshold")),
        lines(burning, [Query(_BURN, name)], limit=Query(f"vector({_PAGES:g})", "pages")),
        lines(spent, [Query(_SPENT, name)], limit=Query("vector(1)", "all of it")),
        lines(drift, [Query(_drift("z"), name)], limit=Query(f"vector({ALARM_Z})", "alarm")),
    ]
