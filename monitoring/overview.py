"""The dashboard `Tidegate / Overview`: what an engineer woken at 3 am looks at first.

Top to bottom: is something broken, whose requests fail, where does the time go, is Triton the cause, and has what the
model sees changed. Each panel's description says what to do next.
"""

from collections.abc import Sequence

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from monitoring.dashboard import dashboard_text
from monitoring.panel import Look, Query, bars, grid, lines, verdict

_MODEL = 'model=~"$model"'
_VERSION = f'{_MODEL}, version=~"$version"'
_BY = "model, version"
_NAME = "{{model}} v{{version}}"

_QUANTILE = "model_version_quantile:gateway_request_duration_seconds:histogram_quantile_rate5m"
_STAGE = "model_stage:gateway_stage_duration_seconds"
_LATENCY_LIMIT = f"max by ({_BY}) (model_slo_latency_threshold_seconds{{{_VERSION}}})"
_PREDICTIONS = f"model_version_label:inference_prediction:increase1h{{{_VERSION}}}"
_FEATURE_BIN = "model_version_feature:inference_feature_bin"

Panels = Sequence[Builder[Panel]]


def overview() -> str:
    """The dashboard's JSON."""
    return dashboard_text(
        uid="tidegate-overview",
        title="Tidegate / Overview",
        description="Is it broken, for whom, where does the time go, and has the data changed? Made by monitoring/.",
        rows={
            "Is it broken?": _verdicts(),
            "Traffic and errors": _traffic(),
            "Latency": _latency(),
            "Load": _load(),
            "Triton": _triton(),
            "Drift: the last hour against the reference": _drift(),
        },
    )


def _verdicts() -> Panels:
    down = Look(
        title="Down now",
        unit="none",
        width=7,
        help="Targets that don't answer Prometheus, gateways that can't reach Triton, versions not served because of "
        "their contract. Red: read that process's log first; what stands below may be old. No data: Prometheus "
        "scrapes nothing, see its /targets page.",
    )
    errors = Look(
        title="Server errors (5xx), worst model",
        unit="percentunit",
        width=6,
        help="Share of requests in 5 minutes that we failed. Red from 1 %: see since when in *Error ratio*. If Triton "
        "is down or fails requests, start there; if a version is new, route away from it. 0 without requests.",
    )
    latency = Look(
        title="p99 against its objective, worst model",
        unit="percentunit",
        width=6,
        help="The 99th percentile as a share of the contract's latency threshold. Above 100 %, more than one request "
        "in a hundred is too slow: *Where the time goes* shows the stage. Grey: no request in 5 minutes.",
    )
    shed = Look(
        title="Refused (shed)",
        unit="reqps",
        width=5,
        help="Requests refused because all places were taken, or because their deadline couldn't be kept. Above 0 we "
        "lack capacity: add replicas, or find in *Requests* who sends so much.",
    )
    broken = [
        Query('sum(1 - up{job="gateway"})', "gateways"),
        Query('sum(1 - up{job="triton"})', "Tritons"),
        Query("sum(1 - gateway_upstream_up)", "gateways without Triton"),
        Query("max(gateway_contract_errors)", "versions whose contract can't be read"),
    ]
    worst_errors = f"topk(1, model_version:gateway_requests_5xx:ratio_rate5m{{{_VERSION}}})"
    p99 = f'max by ({_BY}) ({_QUANTILE}{{quantile="0.99", {_VERSION}}})'
    return [
        verdict(down, broken, warn=None, bad=1),
        verdict(errors, [Query(worst_errors, _NAME)], warn=0.001, bad=0.01),
        verdict(latency, [Query(f"topk(1, {p99} / {_LATENCY_LIMIT})", _NAME)], warn=0.8, bad=1, absent="text"),
        verdict(shed, [Query(f"sum(model_reason:gateway_shed:rate5m{{{_MODEL}}})", "all")], warn=0.001, bad=1),
    ]


def _traffic() -> Panels:
    requests = Look(
        title="Requests",
        unit="reqps",
        width=8,
        help="Requests a second by model and version. A fall to 0 with nothing down means that clients don't reach us: "
        "look at the load balancer. A rise explains latency and refusals.",
    )
    errors = Look(
        title="Error ratio",
        unit="percentunit",
        width=8,
        help="5xx are ours, 4xx are the client's. Dashed: the 5xx that the availability objective allows. 4xx alone "
        "rising: a client changed its requests, or asks for a model that isn't there (`other`).",
    )
    refused = Look(
        title="Refused and retried",
        unit="reqps",
        width=8,
        help="Requests refused by reason, and requests sent to Triton once more, alone, after their batch was refused. "
        "`capacity`: too much traffic. `deadline`: Triton is too slow. Retries: look for a client with bad tensors.",
    )
    allowed = f"1 - max by ({_BY}) (model_slo_availability_objective_ratio{{{_VERSION}}})"
    return [
        lines(requests, [Query(f"model_version:gateway_requests:rate5m{{{_VERSION}}}", _NAME)]),
        lines(
            errors,
            [
                Query(f"model_version:gateway_requests_{code}:ratio_rate5m{{{_VERSION}}}", f"{_NAME} {code}")
                for code in ("5xx", "4xx")
            ],
            limit=Query(allowed, f"{_NAME} 5xx allowed"),
        ),
        lines(
            refused,
            [
                Query(f"model_reason:gateway_shed:rate5m{{{_MODEL}}}", "{{model}} refused: {{reason}}"),
                Query(f"model:gateway_upstream_retries:rate5m{{{_MODEL}}}", "{{model}} retried"),
            ],
        ),
    ]


def _latency() -> Panels:
    quantiles = Look(
        title="Latency p50, p95, p99",
        unit="s",
        help="Whole time in the gateway, by model and version. Dashed: the contract's threshold. p99 up alone: a queue "
        "or a few large requests. All up: see the stages. A flat top is the last bucket's bound: it means *at least*.",
    )
    stages = Look(
        title="Where the time goes",
        unit="s",
        help="Mean seconds a request spends in each stage, over the chosen models. `queue`: batches wait for one "
        "another, add Triton instances or replicas. `upstream`: see the row Triton. `preprocess`: gateways lack CPU.",
    )
    total, count = (f"sum by (stage) ({_STAGE}_{part}:rate5m{{{_MODEL}}})" for part in ("sum", "count"))
    return [
        lines(
            quantiles,
            [Query(f"{_QUANTILE}{{{_VERSION}}}", f"{_NAME} q{{{{quantile}}}}")],
            limit=Query(_LATENCY_LIMIT, f"{_NAME} objective"),
        ),
        lines(stages, [Query(f"{total} / ({count} > 0)", "{{stage}}")], stacked=True),
    ]


def _load() -> Panels:
    inflight = Look(
        title="Requests in flight",
        unit="short",
        help="Requests inside the gateways now. Rising while *Requests* is level: answers have become slower. Level at "
        "a ceiling with refusals: the limit is reached, add replicas.",
    )
    batch = Look(
        title="Mean batch size",
        unit="short",
        help="Rows per call to Triton, and per execution in Triton. Near 1 under load: coalescing doesn't work, look "
        "for clients whose tensors differ in shape. At the contract's maximum: Triton is saturated.",
    )
    return [
        lines(inflight, [Query(f"sum by (model) (gateway_inflight_requests{{{_MODEL}}})", "{{model}}")]),
        lines(
            batch,
            [
                Query(f"model:gateway_batch_size:mean_rate5m{{{_MODEL}}}", "{{model}} gateway"),
                Query(f"model_version:nv_inference_batch_size:mean_rate5m{{{_VERSION}}}", f"{_NAME} Triton"),
            ],
        ),
    ]


def _triton() -> Panels:
    time = Look(
        title="Triton: queue and compute",
        unit="s",
        width=8,
        help="Mean seconds a request waits in Triton, and computes there. Queue up, compute level: too few instances "
        "or GPUs. Compute up: larger batches, a throttled or shared GPU, or a slower version.",
    )
    pending = Look(
        title="Triton: pending requests",
        unit="short",
        width=8,
        help="Requests that wait in Triton's queue now. Growing without end: Triton is slower than its traffic, and "
        "will refuse soon. Zero with requests in flight: the gateway holds them, not Triton.",
    )
    failures = Look(
        title="Triton: failed requests",
        unit="reqps",
        width=8,
        help="Requests a second that Triton failed. Any above 0: read Triton's log for that model; right after a "
        "release, route back to the version before.",
    )
    mean = "model_version:nv_inference_{}_duration_seconds:mean_rate5m{{" + _VERSION + "}}"
    return [
        lines(
            time,
            [
                Query(mean.format("queue"), f"{_NAME} queue"),
                Query(mean.format("compute_infer"), f"{_NAME} compute"),
            ],
        ),
        lines(pending, [Query(f"sum by ({_BY}) (nv_inference_pending_request_count{{{_VERSION}}})", _NAME)]),
        lines(failures, [Query(f"model_version:nv_inference_request_failure:rate5m{{{_VERSION}}}", _NAME)]),
    ]


def _drift() -> Panels:
    since = Look(
        title="Unbiased PSI by feature",
        unit="short",
        width=8,
        help="How far each feature is from the reference; around 0 without drift, and below it by chance. One feature: "
        "ask what changed upstream of it. Many at once: new clients, or a new time of day. No line: under 200 samples.",
    )
    now = Look(
        title="Features now",
        unit="short",
        width=8,
        help="The largest change first. Orange from 0.1, red from 0.25: an effect's size by convention, not proof of "
        "one. With few samples PSI is large by chance: trust the unbiased one. `prediction` is the predicted class.",
    )
    classes = Look(
        title="Predicted classes now and in the reference",
        unit="percentunit",
        width=8,
        help="Share of each predicted class in the last hour, beside its share in the reference. A class takes over or "
        "dies out: look at its inputs. `missing` is an output that was NaN: roll back. `other` pools rare classes.",
    )
    psi, unbiased = (f"{_FEATURE_BIN}:{name}_increase1h{{{_VERSION}}}" for name in ("psi", "psi_unbiased"))
    current = f"{_PREDICTIONS} / on ({_BY}) group_left () (sum by ({_BY}) ({_PREDICTIONS}) > 0)"
    reference = f'inference_feature_reference_ratio{{feature="prediction", {_VERSION}}}'
    return [
        lines(since, [Query(unbiased, f"{_NAME} {{{{feature}}}}")]),
        grid(
            now,
            [
                Query(f"sum by ({_BY}, feature) ({unbiased})", "Unbiased PSI"),
                Query(f"sum by ({_BY}, feature) ({psi})", "PSI"),
                Query(f"round(sum by ({_BY}, feature) ({_FEATURE_BIN}:increase1h{{{_VERSION}}}))", "Samples"),
            ],
            sort_by="Unbiased PSI",
            colors={"Unbiased PSI": (0.1, 0.25)},
        ),
        bars(
            classes,
            [Query(_by_class(current, "label"), "now"), Query(_by_class(reference, "bin"), "reference")],
            category="class",
        ),
    ]


def _by_class(expr: str, label: str) -> str:
    """One label that names model, version and predicted label, for both sides to be joined on."""
    return f'max by (class) (label_join({expr}, "class", " ", "model", "version", "{label}"))'
