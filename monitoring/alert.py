"""What wakes people, or waits on their desk, when the parts that serve don't.

Every alert says who acts (`team`), how soon (`severity`) and where to read on: `docs/runbooks/<Alert>.md`. A ratio is
watched rather than a count, and only with enough behind it; a state must last longer than a restart takes.
"""

from monitoring.rule import OF, PERCENT, Alert, Group
from monitoring.traffic import REQUESTS

_VERSION = "model, version"


def serving_alerts() -> Group[Alert]:
    """Whether there is something that serves, and whether it does."""
    pending = "model_version:nv_inference_pending_request_count:sum"
    success = "model_version:nv_inference_request_success:rate5m"
    queue, compute = (
        f"model_version:nv_inference_{s}_duration_seconds:mean_rate5m" for s in ("queue", "compute_infer")
    )
    shed = "sum by (model) (model_reason:gateway_shed:rate5m)"
    failed = (
        f'sum by ({_VERSION}) (model_version_reason:nv_inference_request_failure:rate5m{{reason=~"BACKEND|OTHER"}})'
    )
    return Group(
        name="serving_alerts",
        rules=(
            Alert(
                name="GatewayAbsent",
                expr='absent(up{job="gateway"} == 1)',
                pending="2m",
                severity="critical",
                team="platform",
                labels={"job": "gateway"},
                summary="no gateway answers Prometheus: nobody is served, or nobody is watching",
            ),
            Alert(
                name="TritonAbsent",
                expr='absent(up{job="triton"} == 1)\nor max(gateway_upstream_up) == 0',
                pending="2m",
                severity="critical",
                team="platform",
                labels={"job": "triton"},
                summary="no Triton is there for the gateways: every request fails",
            ),
            Alert(
                name="InferenceWedged",
                expr=f"{pending} > 0\nand {success} == 0",
                pending="3m",
                severity="critical",
                team="platform",
                summary=f"{OF}: {{{{ $value }}}} requests wait in Triton, and none was answered for 5 minutes",
            ),
            Alert(
                name="QueueDominatesCompute",
                expr=f"{queue} > {compute}\n"
                f"and {queue} > 0.25 * max by ({_VERSION}) (model_slo_latency_threshold_seconds)",
                pending="15m",
                severity="warning",
                team="platform",
                summary=f"{OF}: a request waits {{{{ $value | humanizeDuration }}}} in Triton's queue, longer than it "
                "computes, and more than a quarter of the latency threshold",
            ),
            Alert(
                name="RequestsRejected",
                expr=f"{shed} / (sum by (model) ({REQUESTS}) > 0) > 0.01\nand {shed} * 300 >= 10",
                pending="5m",
                severity="warning",
                team="platform",
                summary=f"{{{{ $labels.model }}}}: {PERCENT} of requests are turned away; more than 1 % is too much",
            ),
            Alert(
                name="BackendFailures",
                expr=f"{failed} / ({failed} + {success} > 0) > 0.01",
                pending="5m",
                severity="warning",
                team="model",
                summary=f"{OF}: Triton fails {PERCENT} of requests; more than 1 % is too much",
            ),
        ),
    )


def upstream_alerts() -> Group[Alert]:
    """How the gateways get along with their Tritons, and whether all do the same."""
    route = "sum by (route) (rate(gateway_route_total[5m]))"
    fallback = 'sum by (route, target) (rate(gateway_route_total{kind="fallback"}[5m]))'
    return Group(
        name="upstream_alerts",
        rules=(
            Alert(
                name="RetryBudgetExhausted",
                expr="sum(increase(gateway_upstream_retry_budget_exhausted_total[5m])) > 0",
                pending="5m",
                severity="warning",
                team="platform",
                summary='{{ printf "%.0f" $value }} lost calls in 5 minutes weren\'t sent once more: '
                "one retry for ten calls is allowed, and those were spent",
            ),
            Alert(
                name="FallbackActive",
                expr=f"{fallback}\n/ on (route) group_left () ({route} > 0) > 0.01",
                pending="10m",
                severity="warning",
                team="model",
                summary=f"route {{{{ $labels.route }}}}: {PERCENT} of requests are answered by its fallback "
                "{{ $labels.target }}",
            ),
            Alert(
                name="BreakerOpen",
                expr="max by (endpoint) (max_over_time(gateway_upstream_breaker_state[2m])) == 2",
                pending="5m",
                severity="warning",
                team="platform",
                summary="Triton {{ $labels.endpoint }} is down, or is spared the calls of a model that failed",
            ),
            Alert(
                name="ReplicasDisagree",
                expr=f'count by ({_VERSION}) (model_info) < on () group_left () count(up{{job="gateway"}} == 1)',
                pending="15m",
                severity="warning",
                team="platform",
                summary=f"{OF} is served by {{{{ $value }}}} gateways, and not by the others",
            ),
            Alert(
                name="RoutesNotInForce",
                expr="count(gateway_route_config_in_force == 0) > 0",
                pending="5m",
                severity="warning",
                team="platform",
                summary="{{ $value }} gateways refuse the routes file as it is now, and go by the one before",
            ),
            Alert(
                name="ApiKeysNotInForce",
                expr="count(gateway_api_keys_in_force == 0) > 0",
                pending="5m",
                severity="warning",
                team="platform",
                summary="{{ $value }} gateways refuse the file of API keys as it is now, and go by the one before",
            ),
            Alert(
                name="ContractMismatch",
                expr="max(gateway_contract_errors) > 0",
                pending="5m",
                severity="warning",
                team="model",
                summary="{{ $value }} published versions aren't served, because their contract can't be used",
            ),
        ),
    )
