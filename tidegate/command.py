"""The command line: one function a stage. Imports are inside the functions, so that a stage needs only its own extra.

Exit codes: 0 done, 1 it could not be done and one sentence says why, 2 wrong arguments.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from contract import Contract, Passport, TensorSpec
    from contract.schema import AxisRange
    from training.pipeline import Compile

app = typer.Typer(
    help="From a PyTorch model to a served and monitored one.",
    epilog="Exit codes: 0 done, 1 it could not be done and one sentence says why, 2 wrong arguments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

RepositoryOption = Annotated[Path, typer.Option("--repository", help="Folder that Triton loads models from.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of training runs and their checkpoints.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder that holds the data set.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="A minute's training with a lower gate, to try things out.")]
EngineOption = Annotated[bool, typer.Option("--engine/--no-engine", help="Compile a TensorRT engine.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead.")]

REPOSITORY = Path("model_repository")
RUNS = Path("run/training")
STATE = Path("run")
DEMO_RECIPE = "fashion-resnet"
DEMO_MODEL = "fashion-mnist"


@app.command()
def doctor(json_: JsonOption = False) -> None:
    """Say what of GPU, TensorRT, Triton, Prometheus, Grafana and kubectl is here, and what that means.

    Example: tidegate doctor
    """
    with _one_sentence():
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
def recipes(json_: JsonOption = False) -> None:
    """List the recipes that can be trained.

    Example: tidegate recipes
    """
    with _one_sentence():
        from training import recipe

        rows = [recipe.find(name) for name in recipe.names()]
    if json_:
        print(json.dumps([{"recipe": r.name, "model": r.model, "task": r.task} for r in rows], indent=1))
        return
    table = Table("recipe", "model", "task", "description", box=None)
    for row in rows:
        table.add_row(row.name, row.model, row.task, row.description)
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
    json_: JsonOption = False,
) -> None:
    """Train a recipe, going on where it was interrupted, and publish the result as a new version.

    Example: tidegate train fashion-resnet
    """
    with _one_sentence():
        from training import find, run, train_stage

        shown = _progress(json_)
        if publish:
            contract = run(find(recipe), **_publishing(repository, runs, data, quick, engine, shown))
        else:
            train_stage(find(recipe), runs_dir=runs, data_dir=data, console=shown, quick=quick)
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
    json_: JsonOption = False,
) -> None:
    """Publish a finished run as a new version: evaluate, check, export, compile; no training.

    Example: tidegate publish fashion-resnet
    """
    with _one_sentence():
        from training import find, publish_stage

        contract = publish_stage(find(recipe), **_publishing(repository, runs, data, quick, engine, _progress(json_)))
    if json_:
        print(_published(contract))


@app.command()
def models(
    repository: RepositoryOption = REPOSITORY,
    triton: Annotated[str, typer.Option(help="Triton's gRPC address, to ask what is loaded.")] = "127.0.0.1:8001",
    json_: JsonOption = False,
) -> None:
    """List published versions: quality, engine passport, and state in Triton.

    Example: tidegate models --json
    """
    with _one_sentence():
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
    with _one_sentence():
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
    processes: Annotated[int, typer.Option(min=1, max=64, help="Gateway processes, on the same ports.")] = 1,
    http_port: Annotated[int, typer.Option(min=1, max=65533, help="The gateway's HTTP port.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=1, max=65533, help="The gateway's gRPC port.")] = 8081,
    metrics_port: Annotated[int, typer.Option(min=1, max=65533, help="The gateway's metrics port.")] = 8082,
    triton_port: Annotated[
        int, typer.Option(min=1, max=65533, help="Triton's HTTP port; gRPC and metrics are the next two.")
    ] = 8000,
    prometheus_port: Annotated[int, typer.Option(min=1, max=65533, help="Prometheus' port.")] = 9090,
    json_: JsonOption = False,
) -> None:
    """Run Triton, the gateway and Prometheus on this machine until Ctrl-C.

    Example: tidegate up
    """
    with _one_sentence():
        from tidegate.stack import Ports, Stack, addresses

        ports = Ports(
            http=http_port,
            grpc=grpc_port,
            metrics=metrics_port,
            triton=triton_port,
            triton_grpc=triton_port + 1,
            triton_metrics=triton_port + 2,
            prometheus=prometheus_port,
        )
        stack = Stack(repository=repository, state=state, ports=ports, routes=routes, processes=processes)
        stack.run(lambda: print(json.dumps(asdict(ports)), flush=True) if json_ else console.print(addresses(stack)))
    _progress(json_).print("everything is stopped")


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
    with _one_sentence():
        from tidegate import routing

        if check is not None:
            _progress(json_).print(routing.check_file(check), highlight=False, markup=False)
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
    with _one_sentence():
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


@contextmanager
def _one_sentence() -> Iterator[None]:
    """The outermost edge: errors raised on purpose are shown as their sentence, anything else as it is."""
    from contract import ContractError
    from tidegate.error import CommandError

    try:
        yield
    except ModuleNotFoundError as exc:
        _fail(f"{exc.name} is not installed, and this command needs it: pip install 'tidegate[local]'")
    except (ContractError, CommandError, OSError) as exc:
        _fail(str(exc))
    except Exception as exc:
        # The roots of the packages' error trees, by name: importing them here would need every extra.
        if not {kind.__name__ for kind in type(exc).__mro__} & {"TrainingError", "ServingError", "MonitoringError"}:
            raise
        _fail(str(exc))
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None


def _fail(sentence: str) -> NoReturn:
    console.print("[red]error:[/]", end=" ")
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def _progress(json_: bool) -> Console:
    """Where progress is shown: beside the JSON, never in it."""
    return Console(stderr=True) if json_ else console


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


def _compiler(shown: Console) -> "Compile | None":
    """The engine build with a progress bar; None, said plainly, where no builder is installed."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from serving import EngineUnavailable
    from serving.builder import find_builder
    from serving.engine import build

    try:
        find_builder()
    except EngineUnavailable as exc:
        shown.print(f"[yellow]no engine is compiled:[/] {exc}", highlight=False)
        return None

    def compile_(onnx: Path, inputs: "Sequence[TensorSpec]", batch: "AxisRange") -> "Passport":
        columns = (SpinnerColumn(), TextColumn("compile {task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=shown, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            return build(
                onnx, inputs, batch, progress=lambda phase, done: bar.update(task, description=phase, completed=done)
            )

    return compile_


def _train_apart(repository: Path, runs: Path, data: Path | None, quick: bool) -> None:
    """Train in a process of its own, so that torch's memory and threads are gone when serving starts."""
    command = [sys.executable, "-m", "tidegate", "train", DEMO_RECIPE, "--repository", str(repository)]
    command += ["--runs", str(runs), *(["--data", str(data)] if data else []), *(["--quick"] if quick else [])]
    if code := subprocess.run(command, check=False).returncode:
        raise typer.Exit(code)
