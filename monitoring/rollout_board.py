"""The board `Rollout`: whether the new version is as good as the old one, and may get more traffic.

A canary is compared with the other versions of its model over the same half hour (`rollout` says how), a shadow with
whoever answered.
"""

from monitoring.dashboard import Board, Panels, board_link, many
from monitoring.panel import Column, Look, Query, grid, lines, verdict
from monitoring.rollout import DISAGREEMENT, EXCESS, EXCESS_Z, MIN_COMPARED, MIN_REQUESTS
from monitoring.statistic import ALARM_Z

_MODEL = 'model=~"$model"'
_ROUTE = 'route=~"$route"'
_NAME = "{{model}} v{{version}}"
_PAIR = "{{route}} > {{target}}"
_COUNT = "model_version_slo:gateway_requests"


def rollout_board() -> Board:
    """The board that says whether a version may get more traffic."""
    return Board(
        uid="tidegate-rollout",
        description="Canary against stable, and shadows. Made by monitoring/; edits are overwritten.",
        variables=[many("model", "model_info"), many("route", "gateway_route_total")],
        rows={
            "Who gets what": _split(),
            "Canary against stable, over the last 30 minutes": _canary(),
            "Shadow": _shadow(),
        },
    )


def _split() -> Panels:
    shares = Look(
        title="Requests by route and target",
        unit="reqps",
        width=12,
        help="Who was asked for, who served, and who chose it. A target without its share: its weight is 0, its model "
        "isn't loaded, or the routes aren't those you think, see on the right. `fallback`: the first choice fails.",
        runbooks=("FallbackActive",),
    )
    fallback = Look(
        title="Answered by a fallback",
        unit="percentunit",
        width=8,
        help="Share of a route's requests that its fallback answers. Above 1 %: the first choice is down or too slow, "
        "find out why before anything else is rolled out.",
        runbooks=("FallbackActive",),
    )
    force = Look(
        title="Gateways with old routes",
        unit="none",
        width=4,
        help="Gateways that refuse the routes file as it is, and go by the one before. Red: `tidegate routes` says "
        "what is wrong with the file; until then your edit isn't in force.",
        runbooks=("RoutesNotInForce",),
    )
    route = f"sum by (route) (rate(gateway_route_total{{{_ROUTE}}}[5m])) > 0"
    by_fallback = f'sum by (route) (rate(gateway_route_total{{kind="fallback", {_ROUTE}}}[5m]))'
    split = f"sum by (route, target, kind) (rate(gateway_route_total{{{_ROUTE}}}[5m]))"
    return [
        lines(shares, [Query(split, f"{_PAIR} ({{{{kind}}}})")], stacked=True),
        lines(
            fallback,
            [Query(f"({by_fallback} or ({route}) * 0) / ({route})", "{{route}}")],
            limit=Query("vector(0.01)", "alarm"),
        ),
        verdict(force, [Query("sum(1 - gateway_route_config_in_force)", "gateways")], warn=None, bad=1),
    ]


def _canary() -> Panels:
    table = Look(
        title="Each version against the others of its model",
        width=24,
        help=f"Share of bad requests, the others' share in the same half hour, and the difference. Route away where z "
        f"is above {ALARM_Z} and the difference above 1 %. Roll on where both sides have served enough and neither is "
        f"so. No difference is shown below {MIN_REQUESTS} requests on each side.",
        runbooks=("CanaryWorse",),
    )
    surely = Look(
        title="How surely worse: z",
        unit="short",
        width=8,
        help="Above the dashed line it is no chance that the version has more bad requests than the others. Below 0 it "
        "is the better one. Wait until the line has settled before more traffic is given to it.",
        runbooks=("CanaryWorse",),
    )
    latency = Look(
        title="p50 and p99 by version",
        unit="s",
        width=8,
        help="The versions of a model in the same minutes. The canary above stable at p50: it is slower, as a whole. "
        "At p99 only: it is cold, or its queue is its own; look again when it has traffic.",
    )
    errors = Look(
        title="Server errors (5xx) by version",
        unit="percentunit",
        width=8,
        help="The canary alone: take its traffic away and read Triton's log for that version. All versions: not the "
        "release but Triton or its GPU, see that board.",
        runbooks=("BackendFailures",),
    )
    bad, others, others_bad = (f"{_COUNT}_{kind}:increase30m" for kind in ("bad", "of_others", "of_others_bad"))
    columns = [
        Column(expr=_by_slo(f"{_COUNT}:increase30m"), name="Requests", unit="none"),
        Column(expr=_by_slo(bad, f"{_COUNT}:increase30m"), name="Bad", unit="percentunit"),
        Column(expr=_by_slo(others_bad, others), name="Others bad", unit="percentunit"),
        Column(expr=_by_slo(EXCESS), name="Difference", unit="percentunit", bad=0.01),
        Column(expr=_by_slo(EXCESS_Z), name="z", warn=3, bad=ALARM_Z),
    ]
    quantile = "model_version_quantile:gateway_request_duration_seconds:histogram_quantile_rate5m"
    p50_p99 = f'{quantile}{{quantile=~"0.5|0.99", {_MODEL}}}'
    row = board_link("tidegate-model", model="${__data.fields.model}")
    return [
        grid(table, columns, sort_by="z", links={"model": row}),
        lines(
            surely,
            [Query(f"{EXCESS_Z}{{{_MODEL}}}", f"{_NAME} {{{{slo}}}}")],
            limit=Query(f"vector({ALARM_Z})", "alarm"),
        ),
        lines(latency, [Query(p50_p99, f"{_NAME} q{{{{quantile}}}}")]),
        lines(errors, [Query(f"model_version:gateway_requests_5xx:ratio_rate5m{{{_MODEL}}}", _NAME)]),
    ]


def _by_slo(series: str, over: str = "") -> str:
    def total(one: str) -> str:
        return f"sum by (model, version, slo) ({one}{{{_MODEL}}})"

    return f"{total(series)} / ({total(over)} > 0)" if over else total(series)


def _shadow() -> Panels:
    differs = Look(
        title="Shadow disagreement",
        unit="percentunit",
        width=8,
        help="Share of samples whose first class differs from the one that the client got; without classes, of copies "
        f"beyond the tolerance. Needs {MIN_COMPARED} comparisons. Above the line: `tidegate models compare` says who "
        "is right.",
        runbooks=("ShadowDisagreement",),
    )
    copies = Look(
        title="Copies by what became of them",
        unit="reqps",
        width=8,
        help="`dropped`: the shadow is too slow for its share, lower it. `failed`: its model fails, read Triton's log. "
        "Only `agreed` and `disagreed` say anything about the version.",
        runbooks=("ShadowDisagreement",),
    )
    took = Look(
        title="Shadow p95, and the largest error",
        unit="short",
        width=8,
        help="Seconds that the shadow takes, and the largest absolute error of its outputs at p95. Slower than stable "
        "with the same traffic: it will be so as a canary. A large error with the same classes: a precision was lost.",
    )

    def p95(metric: str) -> str:
        return f"histogram_quantile(0.95, sum by (route, target, le) (rate({metric}_bucket{{{_ROUTE}}}[5m]))) >= 0"

    results = f"sum by (route, target, result) (rate(gateway_shadow_requests_total{{{_ROUTE}}}[5m]))"
    return [
        lines(
            differs,
            [Query(f"{DISAGREEMENT}{{{_ROUTE}}}", _PAIR)],
            limit=Query("vector(0.05)", "alarm"),
        ),
        lines(copies, [Query(results, f"{_PAIR} {{{{result}}}}")], stacked=True),
        lines(
            took,
            [
                Query(p95("gateway_shadow_duration_seconds"), f"{_PAIR} seconds"),
                Query(p95("gateway_shadow_max_error"), f"{_PAIR} error"),
            ],
        ),
    ]
