"""The command line: one function a stage. Imports are inside the functions, so that a stage needs only its own extra.

Exit codes: 0 done, 1 it could not be done and one sentence says why, 2 wrong arguments.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tidegate import dashboards, keys
from tidegate.compiling import compile_version, passport
from tidegate.data import data
from tidegate.delivery import jobs, sync
from tidegate.drift import drift
from tidegate.experiment import report, runs, size, sweep
from tidegate.generation import generate
from tidegate.importing import import_model
from tidegate.manifest import manifests
from tidegate.replay import replay
from tidegate.retraining import retrain
from tidegate.rules import rules
from tidegate.terminal import (
    REPOSITORY,
    RUNS,
    STATE,
    DataOption,
    EngineOption,
    JsonOption,
    QuickOption,
    RepositoryOption,
    RunsOption,
    console,
    in_one_sentence,
    one_sentence,
    progress,
)
from tidegate.versioning import compare, rollback

if TYPE_CHECKING:
    from contract import Contract
    from training.gate import Requirement
    from training.pipeline import Compile

app = typer.Typer(
    help="From a PyTorch model to a served and monitored one.",
    epilog="Exit codes: 0 done, 1 it could not be done and one sentence says why, 2 wrong arguments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(pretty_exceptions_enable=False)
app.add_typer(models_app, name="models")
dashboards_app = typer.Typer(
    help="The Grafana boards: push them, or write them as files.", no_args_is_help=True, pretty_exceptions_enable=False
)
keys_app = typer.Typer(
    help="Who may ask a gateway: keys made, listed, revoked.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(keys_app, name="keys")
keys_app.command("new")(in_one_sentence(keys.new))
keys_app.command("list")(in_one_sentence(keys.list_keys))
keys_app.command("revoke")(in_one_sentence(keys.revoke))
app.add_typer(dashboards_app, name="dashboards")
dashboards_app.command("push")(in_one_sentence(dashboards.push))
dashboards_app.command("write")(in_one_sentence(dashboards.write))
models_app.command("compare")(in_one_sentence(compare))
models_app.command("rollback")(in_one_sentence(rollback))
app.command("import")(in_one_sentence(import_model))
app.command("compile")(in_one_sentence(compile_version))
app.command("passport")(in_one_sentence(passport))
app.command("size")(in_one_sentence(size))
app.command("sweep")(in_one_sentence(sweep))
app.command("report")(in_one_sentence(report))
app.command("runs")(in_one_sentence(runs))
app.command("rules")(in_one_sentence(rules))
app.command("generate")(in_one_sentence(generate))
app.command("data")(in_one_sentence(data))
app.command("drift")(in_one_sentence(drift))
app.command("replay")(in_one_sentence(replay))
app.command("sync")(in_one_sentence(sync))
app.command("jobs")(in_one_sentence(jobs))
app.command("manifests")(in_one_sentence(manifests))
app.command("retrain")(in_one_sentence(retrain))

BetterOption = Annotated[
    bool, typer.Option("--require-better", help="Publish only what is shown to be better than the served version.")
]
NotWorseOption = Annotated[
    bool, typer.Option("--require-not-worse", help="Publish only what isn't shown to be worse than the served version.")
]

DEMO_RECIPE = "fashion-resnet"
DEMO_MODEL = "fashion-mnist"


@app.command()
def doctor(json_: JsonOption = False) -> None:
    """Say what of GPU, TensorRT, Triton, Prometheus, Grafana and kubectl is here, and what that means.

    Example: tidegate doctor
    """
    with one_sentence():
        from tidegate.doctor import examine

        checks = examine()
    if json_:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        table = Table("", "what", "found", "what that means", box=None)
        for check in checks:
            mark = "[green]✓[/]" if check.found else "[red]✗[/]" if check.required else "[yellow]-[/]"
            table.add_row(mark, check.name, check.found or "no", check.meaning)
        console.print(table)
    if any(check.required and not check.found for check in checks):
        raise typer.Exit(1)


@app.command()
def recipes(repository: RepositoryOption = REPOSITORY, json_: JsonOption = False) -> None:
    """List the recipes that can be trained, and the quality of those that are published.

    Example: tidegate recipes
    """
    with one_sentence():
        from tidegate.listing import recipe_rows

        rows = recipe_rows(repository)
    if json_:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table(box=None)
    table.add_column("recipe", no_wrap=True)
    table.add_column("task, data and parameters")
    table.add_column("newest version and its quality (95 % interval)")
    for row in rows:
        version = "not published yet" if row.version is None else f"version {row.version}: {row.quality}"
        table.add_row(row.name, f"{row.task}, {row.data}, {row.num_parameters:,} parameters", f"{row.model}, {version}")
    console.print(table)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of the recipe; `tidegate recipes` lists them.")],
    repository: RepositoryOption = REPOSITORY,
    runs: RunsOption = RUNS,
    data: DataOption = None,
    quick: QuickOption = False,
    engine: EngineOption = True,
    publish: Annotated[bool, typer.Option("--publish/--no-publish", help="Publish the result.")] = True,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that train together, one a GPU.")] = 1,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files for TensorBoard too.")] = False,
    require_better: BetterOption = False,
    require_not_worse: NotWorseOption = False,
    json_: JsonOption = False,
) -> None:
    """Train a recipe, going on where it was interrupted, and publish the result as a new version.

    Example: tidegate train fashion-resnet
    """
    with one_sentence():
        from training import find, run, train_stage
        from training.pipeline import Manner

        shown, manner = progress(json_), Manner(num_processes=processes, events=tensorboard)
        if publish:
            options = _publishing(repository, runs, data, quick, engine, shown)
            contract = run(find(recipe), **options, require=_required(require_better, require_not_worse), manner=manner)
        else:
            train_stage(find(recipe), runs_dir=runs, data_dir=data, console=shown, quick=quick, manner=manner)
    if json_ and publish:
        print(_published(contract))


@app.command()
def publish(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe that was trained.")],
    repository: RepositoryOption = REPOSITORY,
    runs: RunsOption = RUNS,
    data: DataOption = None,
    quick: QuickOption = False,
    engine: EngineOption = True,
    require_better: BetterOption = False,
    require_not_worse: NotWorseOption = False,
    json_: JsonOption = False,
) -> None:
    """Publish a finished run as a new version: evaluate, check, export, compile; no training.

    Example: tidegate publish fashion-resnet
    """
    with one_sentence():
        from training import find, publish_stage

        options = _publishing(repository, runs, data, quick, engine, progress(json_))
        contract = publish_stage(find(recipe), **options, require=_required(require_better, require_not_worse))
    if json_:
        print(_published(contract))


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    repository: RepositoryOption = REPOSITORY,
    triton: Annotated[str, typer.Option(help="Triton's gRPC address, to ask what is loaded.")] = "127.0.0.1:8001",
    json_: JsonOption = False,
) -> None:
    """List published versions: quality, engine passport, and state in Triton.

    Example: tidegate models --json
    """
    if context.invoked_subcommand is not None:
        return
    with one_sentence():
        from tidegate.listing import versions

        rows = versions(repository, triton)
    if json_:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    if not rows:
        console.print(f"no published version in {repository}; `tidegate train {DEMO_RECIPE}` makes one")
        return
    table = Table("model", "version", "quality (95 % interval)", "engine", "in Triton", box=None)
    for row in rows:
        table.add_row(row.model, str(row.version), row.quality or row.problem, row.engine, row.state)
    console.print(table)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    items: Annotated[
        list[str], typer.Argument(help="Image files, texts, rows as JSON objects; @FILE is what a file holds.")
    ],
    url: Annotated[str, typer.Option(help="Address of the gateway.")] = "http://127.0.0.1:8080",
    version: Annotated[str | None, typer.Option(help="A version; the newest without it.")] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for the answer.")] = 10.0,
    json_: JsonOption = False,
) -> None:
    """Ask a served model about images, texts or rows.

    Example: tidegate predict fashion-mnist run/demo/ankle-boot.png
    """
    with one_sentence():
        from tidegate import ask

        answer = ask.predict(url, model, version, items, timeout_s)
    if json_:
        print(json.dumps(answer, indent=1))
        return
    table = Table("item", "answer", title=f"{answer['model']} version {answer['version']}", box=None)
    shown = items if len(items) == len(answer["predictions"]) else range(len(answer["predictions"]))
    for item, prediction in zip(shown, answer["predictions"], strict=True):
        label, confidence = prediction.get("label"), prediction.get("confidence")
        known = label is not None and confidence is not None
        table.add_row(f"{item!s:.40}", f"{label} ({confidence:.1%})" if known else json.dumps(prediction))
    console.print(table)


@app.command()
def up(
    repository: RepositoryOption = REPOSITORY,
    state: Annotated[Path, typer.Option(help="Folder for logs and Prometheus' data.")] = STATE,
    routes: Annotated[Path | None, typer.Option(help="Routes file of the gateway; docs/routes.md says how.")] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(envvar="TIDEGATE_API_KEYS", help="File of the keys of those who may ask; everybody may without."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Gateway processes, on the same ports.")] = 1,
    http_port: Annotated[int, typer.Option(min=1, max=65533, help="The gateway's HTTP port.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=1, max=65533, help="The gateway's gRPC port.")] = 8081,
    metrics_port: Annotated[int, typer.Option(min=1, max=65533, help="The gateway's metrics port.")] = 8082,
    triton_port: Annotated[
        int, typer.Option(min=1, max=65533, help="Triton's HTTP port; gRPC and metrics are the next two.")
    ] = 8000,
    prometheus_port: Annotated[int, typer.Option(min=1, max=65533, help="Prometheus' port.")] = 9090,
    fast_lane: Annotated[
        bool, typer.Option("--fast-lane", help="Run drift's fast lane too: shifts are found sooner at high rates.")
    ] = False,
    fast_lane_port: Annotated[int, typer.Option(min=1, max=65533, help="The fast lane's metrics port.")] = 9098,
    json_: JsonOption = False,
) -> None:
    """Run Triton, the gateway and Prometheus on this machine until Ctrl-C.

    Example: tidegate up
    """
    with one_sentence():
        from tidegate.stack import Ports, Stack, addresses

        ports = Ports(
            http=http_port,
            grpc=grpc_port,
            metrics=metrics_port,
            triton=triton_port,
            triton_grpc=triton_port + 1,
            triton_metrics=triton_port + 2,
            prometheus=prometheus_port,
            fast_lane=fast_lane_port if fast_lane else None,
        )
        stack = Stack(
            repository=repository, state=state, ports=ports, routes=routes, api_keys=api_keys, processes=processes
        )
        stack.run(lambda: print(json.dumps(asdict(ports)), flush=True) if json_ else console.print(addresses(stack)))
    progress(json_).print("everything is stopped")


@app.command()
def routes(
    url: Annotated[str, typer.Option(help="Address of the gateway.")] = "http://127.0.0.1:8080",
    check: Annotated[Path | None, typer.Option(help="Check this routes file instead; no gateway is asked.")] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for the answer.")] = 10.0,
    json_: JsonOption = False,
) -> None:
    """Show the routes that a gateway has in force, or check a routes file.

    Example: tidegate routes --check routes.yaml
    """
    with one_sentence():
        from tidegate import routing

        if check is not None:
            progress(json_).print(routing.check_file(check), highlight=False, markup=False)
            return
        document = routing.ask(url, timeout_s)
    if json_:
        print(json.dumps(document, indent=1))
    else:
        console.print(routing.show(document))


@app.command()
def demo(
    repository: RepositoryOption = REPOSITORY,
    runs: RunsOption = RUNS,
    data: DataOption = None,
    quick: QuickOption = False,
) -> None:
    """Train and publish a model unless one is published, serve and monitor it, and send it real images.

    Example: tidegate demo
    """
    with one_sentence():
        from contract import Repository
        from tidegate.demo import show
        from tidegate.stack import Stack

        if not Repository(repository).versions(DEMO_MODEL):
            _train_apart(repository, runs, data, quick)
        stack = Stack(repository=repository, state=STATE)
        console.print("starting Triton, the gateway and Prometheus")
        stack.run(lambda: show(stack, DEMO_RECIPE, console, data))
    console.print("everything is stopped")


@app.command()
def schema() -> None:
    """Print the JSON Schema of contract.json.

    Example: tidegate schema > docs/contract.schema.json
    """
    from contract import json_schema

    print(json.dumps(json_schema(), indent=1))


def main() -> None:
    """Entry point of the `tidegate` command."""
    app()


def _published(contract: "Contract") -> str:
    metrics = [metric.model_dump() for metric in contract.evaluation.metrics]
    return json.dumps({"model": contract.name, "version": contract.version, "metrics": metrics}, indent=1)


def _publishing(
    repository: Path, runs: Path, data: Path | None, quick: bool, engine: bool, shown: Console
) -> dict[str, Any]:
    """What every stage that publishes is given."""
    from contract import Repository

    return {
        "repository": Repository(repository),
        "runs_dir": runs,
        "compile": _compiler(shown) if engine else None,
        "data_dir": data,
        "console": shown,
        "quick": quick,
    }


def _required(better: bool, not_worse: bool) -> "Requirement | None":
    if better and not_worse:
        raise typer.BadParameter("give --require-better or --require-not-worse, not both")
    return "better" if better else "not worse" if not_worse else None


def _compiler(shown: Console) -> "Compile | None":
    """The engine build with a progress bar; None, said plainly, where no builder is installed."""
    from serving import EngineUnavailable
    from tidegate.compiling import Compiler

    try:
        return Compiler(shown)
    except EngineUnavailable as exc:
        shown.print(f"[yellow]no engine is compiled:[/] {exc}", highlight=False)
        return None


def _train_apart(repository: Path, runs: Path, data: Path | None, quick: bool) -> None:
    """Train in a process of its own, so that torch's memory and threads are gone when serving starts."""
    command = [sys.executable, "-m", "tidegate", "train", DEMO_RECIPE, "--repository", str(repository)]
    command += ["--runs", str(runs), *(["--data", str(data)] if data else []), *(["--quick"] if quick else [])]
    if code := subprocess.run(command, check=False).returncode:
        raise typer.Exit(code)
