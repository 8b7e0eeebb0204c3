"""How models come to a cluster: copies between places, and jobs that run there."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.terminal import JsonOption

if TYPE_CHECKING:
    from tidegate.store import Store


def sync(
    source: Annotated[str, typer.Argument(help="A folder, or s3://, gs://, az:// or oci:// address.")],
    target: Annotated[str, typer.Argument(help="Another one of these.")],
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may repeat.")] = None,
    json_: JsonOption = False,
) -> None:
    """Copy the versions that are missing, every file held against its digest, and serve there what is served here.

    Example: tidegate sync model_repository s3://models/production
    """
    from tidegate.store import synchronise

    typer_say = (lambda _: None) if json_ else typer.echo
    done = synchronise(_store(source), _store(target), models=model or (), say=typer_say)
    if json_:
        copied = [{"model": each.model, "version": each.number} for each in done.copied]
        typer.echo(json.dumps({"copied": copied, "configured": done.configured}, indent=1))
    elif done.configured:
        typer.echo(f"served there as here from now on: {', '.join(done.configured)}")
    else:
        typer.echo("everything was there already")


def jobs(
    command: Annotated[list[str], typer.Argument(help="A command of tidegate, as on this machine.")],
    gpus: Annotated[int, typer.Option(min=0, help="GPUs it needs.")] = 0,
    image: Annotated[str | None, typer.Option(help="Image by digest; the one of k8s/components/images else.")] = None,
    namespace: Annotated[str, typer.Option(help="Namespace it runs in.")] = "tidegate",
) -> None:
    """Print a Kubernetes Job that runs a command of tidegate on the cluster's models.

    Example: tidegate jobs -- models rollback fashion-mnist | kubectl create -f -
    """
    from tidegate.job import manifest

    typer.echo(manifest(command, gpus=gpus, image=image, namespace=namespace), nl=False)


def _store(address: str) -> "Store":
    from tidegate.store import DeliveryError, Folder

    scheme, separator, _ = address.partition("://")
    if not separator:
        return Folder(Path(address))
    if scheme == "oci":
        from tidegate.artefact import Artefact

        return Artefact.at(address)
    from tidegate.bucket import SCHEMES, Bucket

    if scheme not in SCHEMES:
        raise DeliveryError(f"expected a folder, or an address of oci, {', '.join(SCHEMES)}, got {address!r}")
    return Bucket.at(address)
