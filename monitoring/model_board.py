"""The board `Model`: one version against another, and where the time of their requests goes.

Top to bottom: the versions side by side, their traffic, where time goes, what is left of the budget, what they answer,
and how often that is right. `accuracy` and `objective` say what the series mean.
"""

from grafana_foundation_sdk.builders.table import Panel

from monitoring.accuracy import CONFUSION, ESTIMATE, EVALUATED, accuracy
from monitoring.dashboard import Board, Panels, board_link, choice, many
from monitoring.drift import CHOSEN, WINDOWS
from monitoring.objective import BURNS, burn
from monitoring.panel import Column, Look, Query, bars, grid, lines
from monitoring.rule import recent
from monitoring.statistic import ALARM_Z
from monitoring.traffic import REQUESTS

_MODEL = 'model=~"$model"'
_VERSION = f'{_MODEL}, version=~"$version"'
_BY = "model, version"
_NAME = "{{model}} v{{version}}"

_QUANTILE = "model_version_quantile:gateway_request_duration_seconds:histogram_quantile_rate5m"
_STAGE = "model_stage:gateway_stage_duration_seconds"
_THRESHOLD = f"max by ({_BY}) (model_slo_latency_threshold_seconds{{{_VERSION}}})"
_EVALUATED = f"max by ({_BY}) ({EVALUATED}{{{_VERSION}}})"


def _recent(series: str, matcher: str = _VERSION) -> str:
    return recent(f"{series}{{{matcher}}}")


def _by_slo(series: str) -> str:
    return f"max by (model, slo) ({_recent(series, _MODEL)})"


def model_board() -> Board:
    """What a model's versions do, side by side."""
    return Board(
        uid="tidegate-model",
        description="One model or version against another. Made by monitoring/; edits are overwritten.",
        variables=[
            many("model", "model_info"),
            many("version", 'model_info{model=~"$model"}'),
            choice("window", [window.range for window in WINDOWS]),
        ],
        rows={
            "Versions side by side": [_versions()],
            "Traffic": _traffic(),
            "Where the time goes": _time(),
            "Error budget": _budget(),
            "What it answers": _classes(),
            "How often it is right": _accuracy(),
        },
    )


def _versions() -> Panel:
    look = Look(
        title="Versions",
        width=24,
        height=7,
        help="What each served version does now, and how good it was and is. A new version that is worse than the old "
        "one in a red column: route back to the old one. *Accuracy* needs 100 true labels in a day, *estimated* 200 "
        "answers. The version leads to its drift.",
        runbooks=("CanaryWorse", "ModelAge"),
    )
    p99 = f'max by ({_BY}) ({_QUANTILE}{{quantile="0.99", {_VERSION}}})'
    created = f"max by ({_BY}) (model_created_timestamp_seconds{{{_VERSION}}}) * 1000"
    drift = f"max by ({_BY}) ({_recent(CHOSEN.record('z'))})"
    columns = [
        Column(expr=f"sum by ({_BY}) ({REQUESTS}{{{_VERSION}}})", name="Requests", unit="reqps"),
        Column(expr=_ratio("5xx"), name="5xx", unit="percentunit", warn=0.001, bad=0.01),
        Column(expr=_ratio("4xx"), name="4xx", unit="percentunit"),
        Column(expr=f'max by ({_BY}) ({_QUANTILE}{{quantile="0.5", {_VERSION}}})', name="p50", unit="s"),
        Column(expr=p99, name="p99", unit="s"),
        Column(expr=f"{p99} / {_THRESHOLD}", name="p99 of threshold", unit="percentunit", warn=0.8, bad=1),
        Column(expr=drift, name="Drift z", warn=ALARM_Z, bad=2 * ALARM_Z),
        Column(expr=_EVALUATED, name="Evaluated accuracy", unit="percentunit"),
        Column(expr=f"max by ({_BY}) ({_recent(accuracy('24h'))})", name="Accuracy", unit="percentunit"),
        Column(expr=f"max by ({_BY}) ({_recent(ESTIMATE)})", name="Estimated accuracy", unit="percentunit"),
        Column(expr=created, name="Made", unit="dateTimeFromNow"),
    ]
    link = board_link("tidegate-drift", model="${__data.fields.model}", version="${__data.fields.version}")
    return grid(look, columns, sort_by="Requests", links={"version": link})


def _ratio(code: str) -> str:
    return f"max by ({_BY}) (model_version:gateway_requests_{code}:ratio_rate5m{{{_VERSION}}})"


def _traffic() -> Panels:
    requests = Look(
        title="Requests",
        unit="reqps",
        width=8,
        help="Requests a second by model and version. Traffic that moves from one version to another at a mark is a "
        "release or an edit of the routes; a fall to 0 of all versions means that clients don't reach us.",
    )
    errors = Look(
        title="Error ratio",
        unit="percentunit",
        width=8,
        help="5xx are ours, 4xx are the client's. Dashed: the 5xx that the availability objective allows. 4xx alone "
        "rising: a client changed its requests, or asks for a model that isn't there (`other`).",
        runbooks=("AvailabilityBudgetBurn", "BackendFailures"),
    )
    latency = Look(
        title="Latency p50, p95, p99",
        unit="s",
        width=8,
        help="Whole time in the gateway, by model and version. Dashed: the contract's threshold. p99 up alone: a queue "
        "or a few large requests. All up: see the stages. A flat top is the last bucket's bound: it means *at least*.",
        runbooks=("LatencyBudgetBurn",),
    )
    allowed = f"1 - max by ({_BY}) (model_slo_availability_objective_ratio{{{_VERSION}}})"
    return [
        lines(requests, [Query(f"sum by ({_BY}) ({REQUESTS}{{{_VERSION}}})", _NAME)]),
        lines(
            errors,
            [Query(_ratio(code), f"{_NAME} {code}") for code in ("5xx", "4xx")],
            limit=Query(allowed, f"{_NAME} 5xx allowed"),
        ),
        lines(
            latency,
            [Query(f"{_QUANTILE}{{{_VERSION}}}", f"{_NAME} q{{{{quantile}}}}")],
            limit=Query(_THRESHOLD, f"{_NAME} objective"),
        ),
    ]


def _time() -> Panels:
    stages = Look(
        title="Time by stage",
        unit="s",
        width=8,
        help="Mean seconds a request spends in each stage, over the chosen models. `queue`: batches wait for one "
        "another, add Triton instances or replicas. `upstream`: see Triton and GPU. `preprocess`: gateways lack CPU.",
        runbooks=("LatencyBudgetBurn",),
    )
    batch = Look(
        title="Mean batch size",
        unit="short",
        width=8,
        help="Rows per call to Triton, and per execution in Triton. Near 1 under load: coalescing doesn't work, look "
        "for clients whose tensors differ in shape. At the contract's maximum: Triton is saturated.",
    )
    refused = Look(
        title="In flight, refused, retried",
        unit="short",
        width=8,
        help="Requests inside the gateways now, and refused and retried ones a second. Level at a ceiling with "
        "`capacity` refusals: add replicas. `deadline`: Triton is too slow. Retried: a client sends bad tensors.",
        runbooks=("RequestsRejected",),
    )
    total, count = (f"sum by (stage) ({_STAGE}_{part}:rate5m{{{_MODEL}}})" for part in ("sum", "count"))
    return [
        lines(stages, [Query(f"{total} / ({count} > 0)", "{{stage}}")], stacked=True),
        lines(
            batch,
            [
                Query(f"model:gateway_batch_size:mean_rate5m{{{_MODEL}}}", "{{model}} gateway"),
                Query(f"model_version:nv_inference_batch_size:mean_rate5m{{{_VERSION}}}", f"{_NAME} Triton"),
            ],
        ),
        lines(
            refused,
            [
                Query(f"sum by (model) (gateway_inflight_requests{{{_MODEL}}})", "{{model}} in flight"),
                Query(f"model_reason:gateway_shed:rate5m{{{_MODEL}}}", "{{model}} refused: {{reason}}"),
                Query(f"model:gateway_upstream_retries:rate5m{{{_MODEL}}}", "{{model}} retried"),
            ],
        ),
    ]


def _budget() -> Panels:
    fast = Look(
        title="Burn rate, hours",
        unit="short",
        width=8,
        help="How many times too fast each objective spends its budget. "
        f"1 h above {BURNS[0].rate:g} with 5 min, or 6 h above {BURNS[1].rate:g} with 30 min, pages somebody: a short "
        "window back at 0 says that it is over. See *Error ratio* and *Latency*.",
        runbooks=("AvailabilityBudgetBurn", "LatencyBudgetBurn"),
    )
    slow = Look(
        title="Burn rate, days",
        unit="short",
        width=8,
        help="The same over days: above 1 over 3 days the budget won't last, which is a ticket, not a page. Nothing "
        "stands out in the hours above? Then it is a constant share of failures: look for the client or the class.",
        runbooks=("AvailabilityBudgetBurn", "LatencyBudgetBurn"),
    )
    left = Look(
        title="Budget left, and how long it lasts",
        width=8,
        help="What is left of 30 days' budget, and in how long it is gone if the last 6 hours go on. Below 0 the "
        "objective is missed: release nothing but repairs, or agree on another objective in the contract.",
    )
    slo = "{{model}} {{slo}}"
    columns = [
        Column(expr=_by_slo("model_slo:error_budget_left:ratio30d"), name="Left", unit="percentunit"),
        Column(expr=_by_slo(burn("30d")), name="Spent", unit="percentunit", warn=0.5, bad=1),
        Column(expr=_by_slo("model_slo:error_budget_exhaustion:seconds6h"), name="Gone in", unit="s"),
    ]
    return [
        lines(fast, [Query(f"{burn(r)}{{{_MODEL}}}", f"{slo} {r}") for r in ("5m", "30m", "1h", "6h")]),
        lines(slow, [Query(_recent(burn(r), _MODEL), f"{slo} {r}") for r in ("1d", "3d")]),
        grid(left, columns, sort_by="Spent"),
    ]


def _classes() -> Panels:
    shares = Look(
        title="Predicted classes in the window, and in the reference",
        unit="percentunit",
        help="Share of each predicted class, beside its share in the reference. A class takes over or dies out: look "
        "at its inputs on the board Drift. `other` pools rare classes.",
        runbooks=("PredictionDrift",),
    )
    quality = Look(
        title="Recall and precision by class, 7 days",
        unit="percentunit",
        help="By true labels: of those that are the class, how many were found, and of those called it, how many were "
        "it. A class that lost recall: see below what it is taken for, and get labels of it for training.",
        runbooks=("AccuracyLow",),
    )
    prediction = f'feature="prediction", {_VERSION}'
    now, all_ = _recent(CHOSEN.count, prediction), _recent(CHOSEN.record(), prediction)
    current = f"{now} / on ({_BY}) group_left () ({all_} > 0)"
    reference = f"model_version_feature_bin:inference_feature_reference:ratio{{{prediction}}}"
    recall, precision = (
        _labelled(_recent(f"model_version_{label}:inference_feedback:{name}_ratio7d"), label)
        for name, label in (("recall", "actual"), ("precision", "predicted"))
    )
    return [
        bars(
            shares,
            [Query(_labelled(current, "bin"), "now"), Query(_labelled(reference, "bin"), "reference")],
            category="class",
        ),
        bars(quality, [Query(recall, "recall"), Query(precision, "precision")], category="class"),
    ]


def _labelled(expr: str, label: str) -> str:
    """One label that names model, version and class, for both sides to be joined on."""
    return f'max by (class) (label_join({expr}, "class", " ", "model", "version", "{label}"))'


def _accuracy() -> Panels:
    live = Look(
        title="Accuracy over a day",
        unit="percentunit",
        help="By true labels, with the 95 % interval, and estimated from the model's own confidence where no labels "
        "come. Dashed: what it was at the evaluation. Interval wholly below the dashed line: it has become worse.",
        runbooks=("AccuracyLow", "EstimatedAccuracyLow", "AccuracyEstimateWrong"),
    )
    confused = Look(
        title="Most frequent mistakes in a day",
        help="What was predicted, what it was, and how often, by true labels. One pair far ahead: look at its inputs, "
        "they may be mislabelled or of a new kind. All pairs alike: the model is out of its depth, see Drift.",
        runbooks=("AccuracyLow",),
    )
    by = f"{_BY}, predicted, actual"
    pairs = f"sum by ({by}) (sum_over_time({CONFUSION}{{{_VERSION}}}[24h]))"
    of_predicted = f"sum by ({_BY}, predicted) ({pairs})"  # made into the diagonal, where both labels are the same
    diagonal = f'label_replace({of_predicted}, "actual", "$1", "predicted", "(.*)")'
    wrong = f"{pairs}\nunless on ({by}) {diagonal}"
    return [
        lines(
            live,
            [
                Query(_recent(accuracy("24h")), f"{_NAME} accuracy"),
                Query(_recent(accuracy("24h", "low")), f"{_NAME} low"),
                Query(_recent(accuracy("24h", "high")), f"{_NAME} high"),
                Query(_recent(ESTIMATE), f"{_NAME} estimated"),
            ],
            limit=Query(_EVALUATED, f"{_NAME} evaluated"),
        ),
        grid(confused, [Column(expr=f"topk(20, {wrong})", name="Times", unit="none")], sort_by="Times"),
    ]
