"""`tidegate rules`: what of each published contract is watched, and the files that Prometheus and Alertmanager read.

The files are the same for every repository: gateways export what each contract promises, and the rules read it there.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tidegate.error import CommandError
from tidegate.terminal import REPOSITORY, JsonOption

if TYPE_CHECKING:
    from contract import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What is watched of one version, and what can't be; `problem` says why nothing is."""

    model: str
    version: int
    latency_threshold_ms: float = 0.0
    latency_objective: float = 0.0
    availability_objective: float = 0.0
    drift_features: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    problem: str = ""


def rules(
    repository: Annotated[Path, typer.Option(help="Folder that Triton loads models from.")] = REPOSITORY,
    out: Annotated[Path | None, typer.Option(help="Write the files into this folder instead.")] = None,
    gateway: Annotated[list[str] | None, typer.Option(help="host:port of a gateway's metrics; may repeat.")] = None,
    triton: Annotated[list[str] | None, typer.Option(help="host:port of a Triton's metrics; may repeat.")] = None,
    fast_lane: Annotated[list[str] | None, typer.Option(help="host:port of drift's fast lane; may repeat.")] = None,
    alertmanager: Annotated[list[str] | None, typer.Option(help="host:port of an Alertmanager; may repeat.")] = None,
    webhook: Annotated[str | None, typer.Option(help="Where Alertmanager posts, below it team and severity.")] = None,
    runbooks: Annotated[str | None, typer.Option(help="Address of docs/runbooks, for links in alerts.")] = None,
    json_: JsonOption = False,
) -> None:
    """Show what of each contract is watched, or write the rules, alerts and configurations that watch it.

    Example: tidegate rules --out run/monitoring --gateway gateway:8082 --triton triton:8002
    """
    console = Console(soft_wrap=True)
    if out is not None:
        paths = _write(out, gateway, triton, fast_lane, alertmanager, webhook, runbooks)
        typer.echo(json.dumps([str(path) for path in paths]) if json_ else "\n".join(map(str, paths)))
        return
    rows = list(watched(repository))
    if json_:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
    elif not rows:
        console.print(f"no published version in {repository}; rules wait for contracts, and need no change then")
    else:
        console.print(_table(rows))


def watched(root: Path) -> Iterator[Watched]:
    """What is watched of every version in a repository, newest first."""
    from contract import ContractError, Repository

    repository = Repository(root)
    for name in repository.models():
        for version in reversed(repository.versions(name)):
            try:
                contract = repository.contract(name, version)
            except ContractError as exc:
                yield Watched(model=name, version=version, problem=str(exc))
                continue
            yield Watched(
                model=name,
                version=version,
                latency_threshold_ms=contract.slo.latency_threshold_ms,
                latency_objective=contract.slo.latency_objective,
                availability_objective=contract.slo.availability_objective,
                drift_features=tuple(feature.name for feature in contract.profile.features),
                gaps=tuple(_gaps(contract)),
            )


def _gaps(contract: "Contract") -> Iterator[str]:
    if not contract.profile.features:
        yield "drift: the contract has no reference profile"
    elif (fewest := min(feature.num_samples for feature in contract.profile.features)) < 5_000:
        yield f"small drifts: the reference has {fewest} samples, 5000 are usable"
    if contract.postprocess.kind != "classification":
        yield "accuracy by feedback: only classifications get labels back"
    elif not any(metric.name == "accuracy" for metric in contract.evaluation.metrics):
        yield "a fall in accuracy: the evaluation has no accuracy to fall from"


def _table(rows: list[Watched]) -> Table:
    table = Table("model", "version", "latency", "availability", "drift", "not watched", box=None)
    for row in rows:
        if row.problem:
            table.add_row(row.model, str(row.version), "", "", "", row.problem)
            continue
        table.add_row(
            row.model,
            str(row.version),
            f"{row.latency_objective:.3%} within {row.latency_threshold_ms:g} ms",
            f"{row.availability_objective:.3%}",
            f"{len(row.drift_features)} features",
            "; ".join(row.gaps),
        )
    return table


def _write(
    out: Path,
    gateways: list[str] | None,
    tritons: list[str] | None,
    detectors: list[str] | None,
    alertmanagers: list[str] | None,
    webhook: str | None,
    runbooks: str | None,
) -> list[Path]:
    from monitoring.alertmanager import ALERTMANAGER_FILE, WEBHOOK, alertmanager_configuration
    from monitoring.file import write_texts
    from monitoring.prometheus import CONFIG_FILE, GATEWAYS, TRITONS, write_configuration
    from monitoring.rule import RUNBOOKS
    from monitoring.rulebook import ALERTS_FILE, RULES_FILE

    try:
        bell = alertmanager_configuration(webhook or WEBHOOK)
        write_configuration(
            out,
            gateways=gateways or GATEWAYS,
            tritons=tritons or TRITONS,
            alertmanagers=alertmanagers or (),
            detectors=detectors or (),
            runbooks=runbooks or RUNBOOKS,
        )
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    write_texts(out, {ALERTMANAGER_FILE: bell})
    return [out / name for name in (CONFIG_FILE, RULES_FILE, ALERTS_FILE, ALERTMANAGER_FILE)]
