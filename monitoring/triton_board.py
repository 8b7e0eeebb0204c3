"""The board `Triton and GPU`: whether what runs the models is the cause.

Triton's own account of requests, how the gateways get along with each Triton, and the GPUs below it. Without NVIDIA's
DCGM exporter the last row is empty.
"""

from monitoring.dashboard import Board, Panels, many
from monitoring.panel import Look, Query, heat, lines
from monitoring.traffic import REQUESTS

_VERSION = 'model=~"$model", version=~"$version"'
_BY = "model, version"
_NAME = "{{model}} v{{version}}"
_GPU = "{{Hostname}} gpu {{gpu}}"


def triton_board() -> Board:
    """The board that says whether Triton, the way to it, or its GPU is the cause."""
    return Board(
        uid="tidegate-triton",
        description="Triton, the gateways' way to it, and its GPUs. Made by monitoring/; edits are overwritten.",
        variables=[many("model", "model_info"), many("version", 'model_info{model=~"$model"}')],
        rows={
            "Triton": _triton(),
            "Between the gateways and Triton": _way(),
            "GPU (where NVIDIA's DCGM exporter runs)": _gpu(),
        },
    )


def _triton() -> Panels:
    queue = Look(
        title="Time in the queue",
        unit="s",
        width=8,
        help="Mean seconds a request waits in Triton before it computes. Up while *compute* is level: too few "
        "instances or GPUs for the traffic. Dashed: a quarter of the strictest latency threshold, which alarms.",
        runbooks=("QueueDominatesCompute",),
    )
    compute = Look(
        title="Time to compute",
        unit="s",
        width=8,
        help="Mean seconds a request computes, and its tensors are copied in and out. Up: larger batches, a throttled "
        "or shared GPU (see below), or a slower version. Copies that dominate: tensors are too large for the work.",
    )
    pending = Look(
        title="Pending requests",
        unit="short",
        width=8,
        help="Requests that wait in Triton's queue now. Growing without end: Triton is slower than its traffic, and "
        "will refuse soon. Above 0 with no success: it hangs, restart it.",
        runbooks=("InferenceWedged",),
    )
    answered = Look(
        title="Answered by Triton, and asked of the gateways",
        unit="reqps",
        width=8,
        help="Executed requests a second, and the gateways' own. Triton far below the gateways: coalescing at work. "
        "Gateways ask and Triton answers nothing: the way between them is broken, see the next row.",
    )
    failures = Look(
        title="Failed by Triton",
        unit="reqps",
        width=8,
        help="Requests a second that Triton failed, by reason. `BACKEND`: the model itself, read Triton's log; right "
        "after a release, route back. `REJECTED`: its queue is full. `CANCELED`: clients went away.",
        runbooks=("BackendFailures",),
    )
    batch = Look(
        title="Mean batch size",
        unit="short",
        width=8,
        help="Rows an execution. Near 1 under load: batches don't form, look for clients whose tensors differ in "
        "shape. At the contract's maximum with a growing queue: one more instance or GPU is needed.",
    )
    quarter = f"0.25 * min(model_slo_latency_threshold_seconds{{{_VERSION}}})"
    copies = ("compute_input", "compute_infer", "compute_output")
    by_reason = f"model_version_reason:nv_inference_request_failure:rate5m{{{_VERSION}}}"
    return [
        lines(queue, [Query(_mean("queue"), _NAME)], limit=Query(quarter, "alarms")),
        lines(compute, [Query(_mean(stage), f"{_NAME} {stage}") for stage in copies]),
        lines(pending, [Query(f"model_version:nv_inference_pending_request_count:sum{{{_VERSION}}}", _NAME)]),
        lines(
            answered,
            [
                Query(f"model_version:nv_inference_request_success:rate5m{{{_VERSION}}}", f"{_NAME} Triton"),
                Query(f"sum by ({_BY}) ({REQUESTS}{{{_VERSION}}})", f"{_NAME} gateways"),
            ],
        ),
        lines(failures, [Query(by_reason, f"{_NAME} {{{{reason}}}}")]),
        lines(batch, [Query(f"model_version:nv_inference_batch_size:mean_rate5m{{{_VERSION}}}", _NAME)]),
    ]


def _mean(stage: str) -> str:
    return f"model_version:nv_inference_{stage}_duration_seconds:mean_rate5m{{{_VERSION}}}"


def _way() -> Panels:
    state = Look(
        title="Each Triton, the worst that a gateway says of it",
        unit="none",
        help="Green: asked as usual. Yellow: tried again, one call at a time. Red: down, or spared the calls of a "
        "model that failed. One row red: restart that Triton. All rows: a network between them, or a model's own "
        "failures.",
        runbooks=("BreakerOpen", "TritonAbsent"),
    )
    calls = Look(
        title="Calls in flight to each Triton",
        unit="short",
        help="What the gateways wait for, by Triton. One far above the others: it is slow, look at its GPU. All at a "
        "ceiling: they are saturated, add one.",
    )
    again = Look(
        title="Calls lost, and sent once more",
        unit="short",
        help="In 5 minutes: calls sent once more, to another Triton where there is one, calls that weren't because the "
        "budget of one retry in ten was spent, and times a Triton was left out. Any, again and again: one Triton keeps "
        "failing, find it on the left.",
        runbooks=("RetryBudgetExhausted",),
    )
    up = Look(
        title="Gateways that reach a Triton",
        unit="none",
        help="Gateways in all, and those that a Triton answers. A gap: requests to those gateways fail, though the "
        "others are well; look at their network policy and their addresses of Triton.",
        runbooks=("TritonAbsent", "GatewayAbsent"),
    )
    states = [(None, "green"), (1.0, "yellow"), (2.0, "red")]
    again_queries = [
        Query("sum(increase(gateway_upstream_failovers_total[5m]))", "sent once more"),
        Query("sum(increase(gateway_upstream_retry_budget_exhausted_total[5m]))", "not tried, budget spent"),
        Query("sum by (endpoint) (increase(gateway_upstream_ejections_total[5m]))", "{{endpoint}} left out"),
    ]
    return [
        heat(state, Query("max by (endpoint) (gateway_upstream_breaker_state)", "{{endpoint}}"), steps=states),
        lines(calls, [Query("sum by (endpoint) (gateway_upstream_pending)", "{{endpoint}}")]),
        lines(again, again_queries),
        lines(up, [Query('count(up{job="gateway"})', "gateways"), Query("sum(gateway_upstream_up)", "with a Triton")]),
    ]


def _gpu() -> Panels:
    busy = Look(
        title="GPU utilisation",
        unit="percentunit",
        width=8,
        help="Share of time that a kernel ran. At 1 with a growing queue: the GPU is the limit, add one or a smaller "
        "precision. Low with a growing queue: instances, copies or the CPU are the limit.",
    )
    memory = Look(
        title="GPU memory used",
        unit="percentunit",
        width=8,
        help="Share of the GPU's memory. Near 1: the next version won't load beside the old one, unload something or "
        "use a larger GPU before a release.",
    )
    heat_ = Look(
        title="GPU temperature",
        unit="celsius",
        width=8,
        help="Above 85 degrees most GPUs slow their clock: compare with *SM clock*. One GPU hotter than its "
        "neighbours: its cooling or its place in the rack, drain the node.",
    )
    clock = Look(
        title="SM clock",
        unit="hertz",
        width=8,
        help="A clock that falls under load is a throttled GPU: temperature or power is at its limit, and everything "
        "on it becomes slower by as much.",
    )
    power = Look(
        title="Power",
        unit="watt",
        width=8,
        help="At the card's limit with a falling clock: power throttling, spread the load or raise the limit. Low "
        "while utilisation is high: small batches that leave the GPU waiting.",
    )
    errors = Look(
        title="Last XID error",
        unit="none",
        width=8,
        help="The number of the last error that the driver reported; 0 is none. 13 and 31 are the program's, 48, 63, "
        "74, 79 and 94 are hardware: drain the node and have the card checked.",
        runbooks=("GpuErrors",),
    )
    series = (
        (busy, "dcgm_gpu_utilization:ratio"),
        (memory, "dcgm_memory_used:ratio"),
        (heat_, "dcgm_temperature_celsius:max"),
        (clock, "dcgm_sm_clock_hertz:max"),
        (power, "dcgm_power_watts:max"),
        (errors, "dcgm_xid_errors:max"),
    )
    return [lines(look, [Query(f"hostname_gpu:{name}", _GPU)]) for look, name in series]
