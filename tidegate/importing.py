"""`tidegate import`: a model that was trained elsewhere becomes a published version."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tidegate.error import CommandError
from tidegate.terminal import REPOSITORY, JsonOption, RepositoryOption, progress

if TYPE_CHECKING:
    from contract.schema import AxisRange
    from training.importer import Derived, Origin, Wish


def import_model(
    source: Annotated[str, typer.Argument(help="An ONNX file, or `package.module:make` that makes a torch network.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    task: Annotated[
        str | None, typer.Option(help="What it does: image-classification, text-embedding, regression, ...")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A safetensors file with the torch network's weights.")] = None,
    sample: Annotated[
        list[Path] | None,
        typer.Option(help=".npz with an array an input (and perhaps `target`), or images and folders of them."),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A file with one label a line.")] = None,
    output: Annotated[str | None, typer.Option(help="The output that holds the answer, where several could.")] = None,
    image: Annotated[str | None, typer.Option(help="It takes images, of HEIGHTxWIDTH: 224x224.")] = None,
    scale: Annotated[float, typer.Option(help="What a pixel of 0 to 255 is multiplied by first.")] = 1 / 255,
    mean: Annotated[str, typer.Option(help="Mean that is subtracted then, one number or one a channel.")] = "0",
    std: Annotated[str, typer.Option(help="Deviation that it is divided by then, as many numbers.")] = "1",
    bgr: Annotated[bool, typer.Option("--bgr", help="The model takes blue first.")] = False,
    resize: Annotated[Literal["stretch", "crop", "pad"], typer.Option(help="How images come to size.")] = "stretch",
    axis: Annotated[
        list[str] | None, typer.Option(help="Lengths of an axis: NAME=MIN:OPT:MAX, or NAME=LENGTH.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes MIN:OPT:MAX.")] = "1:8:32",
    description: Annotated[str, typer.Option(help="One sentence on what it does.")] = "",
    latency_ms: Annotated[float, typer.Option(min=0.001, help="99 % of answers should take no longer.")] = 100.0,
    publish: Annotated[bool, typer.Option("--publish/--no-publish", help="Or only say what was found.")] = True,
    repository: RepositoryOption = REPOSITORY,
    json_: JsonOption = False,
) -> None:
    """Publish a model that was trained elsewhere; what its file doesn't say is found by running it.

    Example: tidegate import model.onnx --name magika --labels labels.txt --sample inputs.npz
    """
    from contract import Repository
    from contract.schema import Slo
    from training import importer

    pixels = None
    if image is not None or (task or "").startswith("image"):
        pixels = importer.Pixels(
            size=None if image is None else _size(image),
            scale=scale,
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            bgr=bgr,
            resize=resize,
        )
    wish = importer.Wish(
        name=name,
        task=task,
        description=description,
        labels=() if labels is None else _lines(labels),
        output=output,
        pixels=pixels,
        batch=_range("--batch", batch),
        axes=dict(_axis(text) for text in axis or ()),
        samples=tuple(sample or ()),
        slo=Slo(latency_threshold_ms=latency_ms, latency_objective=0.99, availability_objective=0.999),
    )
    shown = progress(json_)
    with tempfile.TemporaryDirectory(prefix="tidegate-import-") as folder:
        derived, origin = _derive(source, weights, wish, Path(folder))
        for line in _found(derived):
            shown.print(line, highlight=False, markup=False, soft_wrap=True)
        contract = importer.publish(derived, origin, Repository(repository)) if publish else None
    if contract is not None:
        shown.print(
            f"published version {contract.version} in {repository / name}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if json_:
        typer.echo(json.dumps(_document(derived, contract.version if contract else None), indent=1))


def _derive(source: str, weights: Path | None, wish: "Wish", folder: Path) -> "tuple[Derived, Origin]":
    from training import importer

    if not importer.is_factory(source):
        if weights is not None:
            raise CommandError("expected --weights with `package.module:make` only: an ONNX file holds its own weights")
        path = Path(source)
        derived = importer.derive(importer.read(path), wish, folder)
        return derived, importer.origin_of(path, derived)
    from training.importer.network import derive_network

    return derive_network(source, weights, wish, folder)


def _found(derived: "Derived") -> list[str]:
    specs = [("takes", spec) for spec in derived.inputs] + [("gives", spec) for spec in derived.outputs]
    lines = [f"{verb} {spec.name} {spec.datatype} {list(spec.shape)}" for verb, spec in specs]
    num = sum(len(part.inputs[derived.inputs[0].name]) for part in derived.answered if part.real)
    return [*lines, *derived.remarks, *_watched(derived, num)]


def _watched(derived: "Derived", num_samples: int) -> list[str]:
    from contract.schema import EmbeddingPostprocess
    from training import importer

    if not num_samples:
        return ["without --sample drift isn't watched"]
    lines = [f"drift is watched against {num_samples} samples"]
    if isinstance(derived.postprocess, EmbeddingPostprocess):
        embedding = importer.watched_embedding(derived)
        along = (
            f"the embedding is watched along {len(embedding.components)} principal components"
            if embedding is not None
            else f"of the embedding only its length is watched: expected {importer.MIN_EMBEDDED} samples or more, "
            "of FP32 vectors that differ"
        )
        lines.append(along)
    return lines


def _document(derived: "Derived", version: int | None) -> dict[str, Any]:
    return {
        "model": derived.wish.name,
        "version": version,
        "inputs": [spec.model_dump() for spec in derived.inputs],
        "outputs": [spec.model_dump() for spec in derived.outputs],
        "batch": derived.batch.model_dump() if derived.opened.batched else None,
        "preprocess": derived.preprocess.kind,
        "postprocess": derived.postprocess.kind,
        "state": derived.state,
        "found": list(derived.remarks),
    }


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and 1 <= int(side) <= 4096 for side in sides):
        raise CommandError(f"--image: expected HEIGHTxWIDTH, such as 224x224, got {text!r}")
    return int(sides[0]), int(sides[1])


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise CommandError(f"{option}: expected numbers with commas between them, got {text!r}") from None


def _axis(text: str) -> "tuple[str, AxisRange]":
    name, equals, lengths = text.rpartition("=")
    if not equals or not name:
        raise CommandError(f"--axis: expected NAME=MIN:OPT:MAX or NAME=LENGTH, got {text!r}")
    return name, _range("--axis", lengths)


def _range(option: str, text: str) -> "AxisRange":
    from contract.schema import AxisRange

    parts = text.split(":")
    try:
        low, opt, high = map(int, parts * 3 if len(parts) == 1 else parts)
        return AxisRange(min=low, opt=opt, max=high)
    except ValueError:
        raise CommandError(f"{option}: expected MIN:OPT:MAX, rising from 1 on, or one length, got {text!r}") from None


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except UnicodeDecodeError:
        raise CommandError(f"--labels: expected UTF-8 text with one label a line, {path} is none") from None
