"""`tidegate dashboards`: the boards as files, or put into a Grafana.

The boards are the same for every model: they read from Prometheus what there is.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tidegate.error import CommandError
from tidegate.terminal import JsonOption, console, progress

RunbooksOption = Annotated[
    str, typer.Option("--runbooks", help="Address of docs/runbooks, for links; without it runbooks are only named.")
]


def push(
    url: Annotated[str, typer.Option(help="Address of the Grafana.")] = "http://127.0.0.1:3000",
    token: Annotated[
        str, typer.Option(envvar="GRAFANA_TOKEN", help="Token of a service account with the role Editor.")
    ] = "",
    folder: Annotated[str, typer.Option(help="Title of the folder for the boards.")] = "Tidegate",
    prometheus: Annotated[
        str | None,
        typer.Option(help="Address of Prometheus as Grafana reaches it; makes a data source, which takes role Admin."),
    ] = None,
    alerts: Annotated[
        bool, typer.Option("--alerts/--no-alerts", help="Show Prometheus' rules in Grafana's alerting pages.")
    ] = False,
    runbooks: RunbooksOption = "",
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for each answer.")] = 10.0,
    json_: JsonOption = False,
) -> None:
    """Put the boards into a Grafana; a second time changes nothing.

    Example: tidegate dashboards push --url http://127.0.0.1:3000 --prometheus http://127.0.0.1:9090
    """
    from monitoring.boardbook import board_texts
    from monitoring.grafana import push as push_boards

    if not token:
        raise CommandError("expected a token, got none: give one by --token, or better by GRAFANA_TOKEN")
    _check(runbooks)
    done, shown = [], progress(json_)
    for one in push_boards(
        url, token, board_texts(runbooks), folder=folder, prometheus=prometheus, alerts=alerts, timeout_s=timeout_s
    ):
        done.append(one)
        shown.print(f"{one.outcome:<10}{one.what}  {one.url}".rstrip(), highlight=False, soft_wrap=True)
    if json_:
        typer.echo(json.dumps([asdict(one) for one in done], indent=1))
    elif all(one.outcome == "unchanged" for one in done):
        console.print("nothing was to be changed")


def write(
    out: Annotated[Path, typer.Argument(help="Folder for the files; made if need be.")],
    runbooks: RunbooksOption = "",
    json_: JsonOption = False,
) -> None:
    """Write the boards as JSON files, to import into a Grafana or to mount into its container.

    Example: tidegate dashboards write run/dashboards
    """
    from monitoring.boardbook import board_texts
    from monitoring.file import write_texts

    _check(runbooks)
    texts = board_texts(runbooks)
    write_texts(out, texts)
    paths = [str(out / name) for name in texts]
    typer.echo(json.dumps(paths) if json_ else "\n".join(paths))


def _check(runbooks: str) -> None:
    if runbooks and not runbooks.startswith(("http://", "https://")):
        raise CommandError(f"expected an address of the runbooks that a browser can open, got {runbooks!r}")
