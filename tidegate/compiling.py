"""`tidegate compile` and `tidegate passport`: a version's graph at another precision, and what its engine is for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from tidegate.error import CommandError
from tidegate.terminal import JsonOption

if TYPE_CHECKING:
    from contract import Contract, Passport, TensorSpec
    from contract.schema import AxisRange, Postprocess

CACHE = Path("run/engines")
PrecisionChoice = Literal["fp32", "fp16", "int8"]
TargetChoice = Literal["tensorrt", "cpu"]


class Compiler:
    """The engine build with a progress bar; where there is a GPU, the engine is run beside its graph at once."""

    def __init__(self, shown: Console, compute_capabilities: Sequence[str] | None = None) -> None:
        """Raises EngineUnavailable where no builder works, or doesn't build for these."""
        from serving.builder import find_builder

        self._shown = shown
        self._builder = find_builder(compute_capabilities)

    def __call__(
        self,
        onnx: Path,
        inputs: "Sequence[TensorSpec]",
        batch: "AxisRange | None",
        postprocess: "Postprocess | None" = None,
    ) -> "Passport":
        """Write engine and passport beside `onnx`; measured on the golden samples that lie there too."""
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from contract.golden import GOLDEN_FILE, Golden
        from serving.cache import timing_cache_of
        from serving.compilation import build
        from serving.measurement import measure

        columns = (SpinnerColumn(), TextColumn("compile {task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self._shown, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            passport = build(
                onnx,
                inputs,
                batch,
                compute_capabilities=self._builder.compute_capabilities,
                progress=lambda phase, done: bar.update(task, description=phase, completed=done),
                timing_cache=timing_cache_of(CACHE, self._builder),
            )
        if not passport.triton_loadable or postprocess is None or not onnx.with_name(GOLDEN_FILE).is_file():
            return passport
        return measure(self._builder, onnx.parent, Golden.load(onnx.parent), batch, postprocess)


def compile_version(
    model: Annotated[str, typer.Argument(help="Name of a published model.")],
    version: Annotated[int | None, typer.Option(help="A version; the newest that wasn't lowered without it.")] = None,
    precision: Annotated[PrecisionChoice, typer.Option(help="What the graph computes in.")] = "fp32",
    target: Annotated[TargetChoice, typer.Option(help="An engine for a GPU, or ONNX Runtime on a CPU.")] = "tensorrt",
    sm: Annotated[
        list[str] | None,
        typer.Option("--sm", help="Build for this compute capability, as 8.9; several without GPU."),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Samples as .npz, for a model without a recipe.", exists=True, dir_okay=False)
    ] = None,
    repository: Annotated[Path, typer.Option(help="Folder that Triton loads models from.")] = Path("model_repository"),
    data: Annotated[Path | None, typer.Option(help="Folder that holds the data set.")] = None,
    json_: JsonOption = False,
) -> None:
    """Publish a version's graph at another precision, checked and compiled, as a version of its own.

    Example: tidegate compile fashion-mnist --precision int8 --target cpu
    """
    from contract import Repository
    from training import material
    from training.variant import Lowering, parent_of, publish_variant

    shown = Console(stderr=json_)
    upper: Any = precision.upper()
    try:
        lowering = Lowering(precision=upper, target=target)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    compiler = Compiler(shown, sm) if target == "tensorrt" else None
    parent = parent_of(Repository(repository), model, version)
    found = material.of_recipe(parent, data) if samples is None else material.of_file(parent, samples)

    def compile_(folder: Path, contract: "Contract") -> "Passport":
        assert compiler is not None
        return compiler(folder / "model.onnx", contract.inputs, contract.batch_axis, contract.postprocess)

    contract = publish_variant(
        Repository(repository), parent, found, lowering, compile=compile_ if compiler else None, console=shown
    )
    if json_:
        metrics = [metric.model_dump() for metric in contract.evaluation.metrics]
        typer.echo(json.dumps({"model": model, "version": contract.version, "metrics": metrics}, indent=1))


def passport(
    model: Annotated[str, typer.Argument(help="Name of a published model.")],
    version: Annotated[int | None, typer.Option(help="A version; the newest without it.")] = None,
    node: Annotated[
        str | None, typer.Option(help="Another machine, as its compute capability and TensorRT: 8.9,11.4.0")
    ] = None,
    repository: Annotated[Path, typer.Option(help="Folder that Triton loads models from.")] = Path("model_repository"),
    json_: JsonOption = False,
) -> None:
    """Show what a version's engine was built from and for, and say in one sentence whether it runs here.

    Example: tidegate passport fashion-mnist --node 8.9,11.4.0
    """
    from contract import Passport, Repository

    found = Repository(repository)
    contract = found.latest(model) if version is None else found.contract(model, version)
    if contract.artifact("passport") is None:
        raise CommandError(f"{model} version {contract.version} has no engine: ONNX Runtime serves it; "
                           f"`tidegate compile {model}` publishes one that has")  # fmt: skip
    read = Passport.load(found.version_dir(model, contract.version))
    sentence = verdict(read, _node(node))
    if json_:
        typer.echo(json.dumps({**read.model_dump(), "verdict": sentence}, indent=1))
        return
    table = Table(show_header=False, box=None, title=f"{model} version {contract.version}", title_justify="left")
    for name, value in _rows(read):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def verdict(passport: "Passport", node: tuple[str, str, str] | None) -> str:
    """One sentence: whether the engine runs on a node (builder, version, compute capability), and if not, why."""
    if not passport.triton_loadable:
        return f"Triton loads no engine of {passport.builder}: it shows that the graph compiles for {passport.targets}"
    if node is None:
        return f"this machine runs no engines: it has no NVIDIA GPU with TensorRT; it is for {passport.targets}"
    return passport.misfit(*node) or passport.doubt() or "it runs here, and answers what its graph answers"


def _node(text: str | None) -> tuple[str, str, str] | None:
    if text is None:
        from serving.builder import local_node

        return local_node()
    capability, _, version = text.partition(",")
    if not (capability.replace(".", "").isdecimal() and version.replace(".", "").isdecimal()):
        raise CommandError(f"expected --node as compute capability and TensorRT version, like 8.9,11.4.0, got {text!r}")
    return "tensorrt", version, capability


def _rows(read: "Passport") -> list[tuple[str, str]]:
    axes = {entry.name: [f"{a.min}..{a.opt}..{a.max}" if a.min != a.max else str(a.max) for a in entry.axes]
            for entry in read.profile}  # fmt: skip
    error = "never run beside its graph" if read.max_error is None else f"{read.max_error:.1e}"
    changed = "" if read.changed_ratio is None else f", {read.changed_ratio:.1%} of the answers change"
    return [
        ("engine", f"{read.engine}, {read.engine_size_bytes / 1024:,.0f} KiB, sha256 {read.engine_sha256[:12]}"),
        ("graph", f"sha256 {read.onnx_sha256[:12]}"),
        ("built", f"{read.created_at} in {read.build_time_s:.1f} s by {read.builder} {read.builder_version}"),
        ("for", f"{read.targets}, {read.precision}"),
        ("CUDA, driver", f"{read.cuda_version or 'none'}, {read.driver_version or 'none'}"),
        *((f"profile of {name}", ", ".join(bounds)) for name, bounds in axes.items()),
        ("error", error + changed),
    ]
