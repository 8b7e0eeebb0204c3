"""Recording rules for the request path: what the gateways saw, and what Triton did with it.

What an on-call engineer must be able to tell apart, and how the series show it:

- nobody asks: rate 0, error ratio 0, no latency. A ratio is never NaN: with no request, none has failed.
- all is well: rate above 0, error ratio 0, a latency.
- nobody is watching: the gateways aren't scraped, and there is no series at all.
"""

from monitoring.rule import Group, Rule

WINDOW = "5m"  # twenty scrapes at 15 s: a missed one does no harm, and a rise shows within a minute or two
QUANTILES = ("0.5", "0.95", "0.99")

REQUESTS = f"model_version:gateway_requests:rate{WINDOW}"
BUCKETS = f"model_version_le:gateway_request_duration_seconds_bucket:rate{WINDOW}"


def gateway_group() -> Group[Rule]:
    """Rates, error ratios, latency quantiles, stage times and batch sizes, from the gateways' counters."""
    return Group(
        name="gateway",
        rules=(
            Rule(record=REQUESTS, expr=_rate("gateway_requests_total", "model, version")),
            _error_ratio("5xx", "5.."),
            _error_ratio("4xx", "4.."),
            Rule(record=BUCKETS, expr=_rate("gateway_request_duration_seconds_bucket", "model, version, le")),
            *(_quantile(quantile) for quantile in QUANTILES),
            *_stages(),
            Rule(
                record=f"model:gateway_batch_size:mean_rate{WINDOW}",
                expr=_mean("gateway_batch_size_sum", "gateway_batch_size_count", "model"),
            ),
            Rule(record=f"model_reason:gateway_shed:rate{WINDOW}", expr=_rate("gateway_shed_total", "model, reason")),
            Rule(
                record=f"model:gateway_upstream_retries:rate{WINDOW}",
                expr=_rate("gateway_upstream_retries_total", "model"),
            ),
            _accounted(),
        ),
    )


def triton_group() -> Group[Rule]:
    """Triton's own account of a request's life, and of how well it fills its batches.

    Triton adds up queue and compute time request by request, so the mean is over requests, not over the rows in them.
    Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md
    """
    by = "model, version"
    return Group(
        name="triton",
        rules=(
            *(_triton_mean(stage, by) for stage in ("queue", "compute_input", "compute_infer", "compute_output")),
            Rule(
                record=f"model_version:nv_inference_batch_size:mean_rate{WINDOW}",
                expr=_mean("nv_inference_count", "nv_inference_exec_count", by),
            ),
            Rule(
                record=f"model_version:nv_inference_request_success:rate{WINDOW}",
                expr=_rate("nv_inference_request_success", by),
            ),
            Rule(
                record=f"model_version:nv_inference_request_failure:rate{WINDOW}",
                expr=_rate("nv_inference_request_failure", by),
            ),
            Rule(
                record=f"model_version_reason:nv_inference_request_failure:rate{WINDOW}",
                expr=_rate("nv_inference_request_failure", f"{by}, reason"),
            ),
            Rule(
                record="model_version:nv_inference_pending_request_count:sum",
                expr=f"sum by ({by}) (nv_inference_pending_request_count)",
            ),
        ),
    )


def _error_ratio(name: str, code: str) -> Rule:
    failed = f'sum by (model, version) (rate(gateway_requests_total{{code=~"{code}"}}[{WINDOW}]))'
    return Rule(
        record=f"model_version:gateway_requests_{name}:ratio_rate{WINDOW}",
        expr=f"{failed}\n/ ({REQUESTS} > 0)\nor {REQUESTS} * 0",
    )


def _quantile(quantile: str) -> Rule:
    """Latency in seconds that a share `quantile` of requests stayed within.

    A quantile beyond the last finite bucket shows as that bucket's bound, so a flat line there means "at least". The
    comparison drops NaN, which is the quantile of no requests.
    """
    return Rule(
        record=f"model_version_quantile:gateway_request_duration_seconds:histogram_quantile_rate{WINDOW}",
        expr=f"histogram_quantile({quantile}, {BUCKETS}) >= 0",
        labels={"quantile": quantile},
    )


def _stages() -> tuple[Rule, ...]:
    """Seconds spent and requests passed per stage, kept apart so that a panel can add up several models first."""
    metric, by = "gateway_stage_duration_seconds", "model, stage"
    total, count = (f"model_stage:{metric}_{part}:rate{WINDOW}" for part in ("sum", "count"))
    return (
        Rule(record=total, expr=_rate(f"{metric}_sum", by)),
        Rule(record=count, expr=_rate(f"{metric}_count", by)),
        Rule(record=f"model_stage:{metric}:mean_rate{WINDOW}", expr=f"{total} / ({count} > 0)"),
    )


def _accounted() -> Rule:
    """Seconds in all stages over the seconds that requests took: 1 when the stages add up.

    A failed request has a duration and not every stage, so the share falls as far as requests fail.
    """
    took = f"sum by (model) (rate(gateway_request_duration_seconds_sum[{WINDOW}]))"
    total = f"model_stage:gateway_stage_duration_seconds_sum:rate{WINDOW}"
    return Rule(
        record=f"model:gateway_stage_duration_seconds:accounted_ratio_rate{WINDOW}",
        expr=f"sum by (model) ({total})\n/ ({took} > 0)",
    )


def _triton_mean(stage: str, by: str) -> Rule:
    metric = f"nv_inference_{stage}_duration"
    return Rule(
        record=f"model_version:{metric}_seconds:mean_rate{WINDOW}",
        expr=f"{_mean(f'{metric}_us', 'nv_inference_request_success', by)}\n/ 1e6",
    )


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}[{WINDOW}]))"


def _mean(total: str, count: str, by: str) -> str:
    """Total per count; absent, not NaN, when nothing was counted."""
    return f"{_rate(total, by)}\n/ ({_rate(count, by)} > 0)"
