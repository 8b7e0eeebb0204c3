"""A model repository in an object store: S3 and what speaks its protocol, Google's, Azure's.

    blobs/<sha256>                             every file of every version, by its content
    models/<name>/<version>/contract.json      a version is there when its contract is
    models/<name>/config.pbtxt                 what is served

An object is there whole or not at all, and one named by its content never changes: what is there needn't be sent again.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from contract import Contract
from contract.repository import CONFIG_FILE
from contract.schema import CONTRACT_FILE, Artifact
from tidegate.store import DeliveryError, Version, fill

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("s3", "gs", "az")

_RETRIES: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}


class Bucket:
    """A repository below a prefix of an object store; credentials come from the environment, as for every client."""

    def __init__(self, objects: ObjectStore, address: str) -> None:
        self._objects = objects
        self._address = address

    @classmethod
    def at(cls, address: str) -> "Bucket":
        """The one at `s3://bucket/prefix`; DeliveryError for an address that isn't one."""
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"  # a store of one's own, without TLS
        client: ClientConfig = {"connect_timeout": "10 seconds", "timeout": "10 minutes", "allow_http": plain}
        with _explained(address):
            return cls(from_url(address, client_options=client, retry_config=_RETRIES), address)

    def versions(self) -> Mapping[Version, str]:
        """By listing contracts."""
        found = {}
        for path in self._paths():
            if path.name == CONTRACT_FILE and len(path.parts) == 4 and path.parts[2].isdecimal():
                text = self._read(path)
                found[Version(path.parts[1], int(path.parts[2]))] = hashlib.sha256(text).hexdigest()
        return found

    def configs(self) -> Mapping[str, str]:
        """By listing them."""
        paths = [path for path in self._paths() if path.name == CONFIG_FILE and len(path.parts) == 3]
        return {path.parts[1]: self._read(path).decode() for path in paths}

    def fetch(self, version: Version, folder: Path) -> None:
        """Download what isn't there yet."""
        fill(folder, self._read(_contract_of(version)), self._download)

    def add(self, version: Version, folder: Path) -> None:
        """Upload what isn't there yet, the contract last."""
        with _explained(self._address):
            for entry in Contract.load(folder).artifacts:
                if not self._holds(entry):
                    obstore.put(self._objects, _blob(entry), folder / entry.path)
            obstore.put(self._objects, str(_contract_of(version)), folder / CONTRACT_FILE)

    def configure(self, configs: Mapping[str, str]) -> None:
        """One object a model."""
        with _explained(self._address):
            for model, text in configs.items():
                obstore.put(self._objects, f"models/{model}/{CONFIG_FILE}", text.encode())

    def _paths(self) -> list[PurePosixPath]:
        with _explained(self._address):
            pages = obstore.list(self._objects, "models")
            return sorted(PurePosixPath(each["path"]) for page in pages for each in page)

    def _read(self, path: PurePosixPath) -> bytes:
        with _explained(self._address):
            return bytes(obstore.get(self._objects, str(path)).bytes())

    def _holds(self, entry: Artifact) -> bool:
        try:
            return obstore.head(self._objects, _blob(entry))["size"] == entry.size_bytes
        except FileNotFoundError:
            return False

    def _download(self, entry: Artifact, target: Path) -> None:
        with _explained(self._address), target.open("wb") as file:
            for piece in obstore.get(self._objects, _blob(entry)):
                file.write(piece)


def _blob(entry: Artifact) -> str:
    return f"blobs/{entry.sha256}"


def _contract_of(version: Version) -> PurePosixPath:
    return PurePosixPath("models", version.model, str(version.number), CONTRACT_FILE)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """The library's first line is for people; what follows is its source."""
    try:
        yield
    except (BaseError, OSError, ValueError) as exc:
        raise DeliveryError(f"{address}: {str(exc).partition(chr(10))[0]}") from exc
