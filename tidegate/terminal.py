"""What every command shares: its options, the console, and the outermost edge where errors become one sentence."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

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

_ROOTS = {"TrainingError", "ServingError", "MonitoringError"}


def in_one_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """The command within the outermost edge."""

    @functools.wraps(command)
    def within(*args: P.args, **kwargs: P.kwargs) -> R:
        with one_sentence():
            return command(*args, **kwargs)

    return within


@contextmanager
def one_sentence() -> Iterator[None]:
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
        if not {kind.__name__ for kind in type(exc).__mro__} & _ROOTS:
            raise
        _fail(str(exc))
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None


def progress(json_: bool) -> Console:
    """Where progress is shown: beside the JSON, never in it."""
    return Console(stderr=True) if json_ else console


def _fail(sentence: str) -> NoReturn:
    console.print("[red]error:[/]", end=" ")
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
