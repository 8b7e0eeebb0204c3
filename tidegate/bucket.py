"""A model repository in an object store: S3 and what speaks its protocol, Google's, Azure's.

    blobs/<sha256>                             every file of every version, by its content
    models/<name>/<version>/contract.json      a version is there when its contract is
    models/<name>/config.pbtxt                 what is served

An object is there whole or not at all, and one named by its content never changes: what is there needn't be sent again.
"""

import hashlib
import html
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from contract import Contract
from contract.repository import CONFIG_FILE
from contract.schema import CONTRACT_FILE, Artifact
from tidegate.store import DeliveryError, Version, fill

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("s3", "gs", "az")

_RETRIES: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}
_SILENCE_S = 120.0  # the server says nothing while it takes a part of 5 MiB, which a slow line has to send by then
_PARTS = 4  # that share the line
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

# What is found in the library's reports: a server's answer, one without a text, a server that gives none, and causes.
_ANSWER = re.compile(r"<Code>(?P<code>.*?)</Code>\s*<Message>(?P<message>.*?)</Message>", re.DOTALL)
_REFUSED = re.compile(r"Server returned non-2xx status code: (?P<status>[^:]+)")
_UNANSWERED = re.compile(r"Error performing \w+ (?P<server>\w+://[^/\s]+).* - HTTP error: ")
_CREDENTIALS = re.compile(r"Error performing \w+ \S+/latest/(api/token|meta-data/)")
_CAUSE = re.compile(r"^ *(?:\w+: )?\"?(\w.*?)\"?,$", re.MULTILINE)


class Bucket:
    """A repository below a prefix of an object store; credentials come from the environment, as for every client."""

    def __init__(self, objects: ObjectStore, address: str) -> None:
        self._objects = objects
        self._address = address

    @classmethod
    def at(cls, address: str, *, silence_s: float = _SILENCE_S) -> "Bucket":
        """The one at `s3://bucket/prefix`, given up when silent; DeliveryError for an address that isn't one."""
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"  # a store of one's own, without TLS
        if address.startswith("s3:"):
            _check_endpoint(plain=plain)
        client: ClientConfig = {
            "connect_timeout": "10 seconds",
            "read_timeout": timedelta(seconds=silence_s),
            "timeout": "1 day",  # a large file takes what it takes
            "allow_http": plain,
        }
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
                    obstore.put(self._objects, _blob(entry), folder / entry.path, max_concurrency=_PARTS)
            self._claim(version, (folder / CONTRACT_FILE).read_bytes())

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

    def _claim(self, version: Version, contract_text: bytes) -> None:
        """Put the contract where none is: of two copies at once, the first one's stays."""
        path = _contract_of(version)
        try:
            obstore.put(self._objects, str(path), contract_text, mode="create")
        except AlreadyExistsError:
            if self._read(path) != contract_text:
                raise DeliveryError(f"{version} came in meanwhile, from elsewhere: copy again") from None
        except NotImplementedError:  # AWS_CONDITIONAL_PUT=disabled, for a store that can't do it
            obstore.put(self._objects, str(path), contract_text)

    def _download(self, entry: Artifact, target: Path) -> None:
        with _explained(self._address), target.open("wb") as file:
            for piece in obstore.get(self._objects, _blob(entry)):
                file.write(piece)


def _blob(entry: Artifact) -> str:
    return f"blobs/{entry.sha256}"


def _contract_of(version: Version) -> PurePosixPath:
    return PurePosixPath("models", version.model, str(version.number), CONTRACT_FILE)


def _check_endpoint(*, plain: bool) -> None:
    """Of one that is none the library makes a panic, of one without TLS a `builder error`."""
    for name in _ENDPOINTS:
        endpoint = os.environ.get(name)
        if endpoint is None:
            continue
        if not _is_server(endpoint):
            raise DeliveryError(f"expected an address like https://s3.example.com in {name}, got {endpoint!r}")
        if not plain and urlsplit(endpoint).scheme == "http":
            raise DeliveryError(f"{name} is {endpoint}, without TLS: set AWS_ALLOW_HTTP=true if you mean that")


def _is_server(address: str) -> bool:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and " " not in address


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """What the library, or the disk, reports."""
    try:
        yield
    except (BaseError, OSError, ValueError) as exc:
        raise DeliveryError(f"{address}: {_sentence(str(exc))}") from exc


def _sentence(report: str) -> str:
    """The library's first line is for people, unless something better is in the answer or the causes that follow it."""
    first = report.partition("\n")[0]
    if _CREDENTIALS.search(first):
        return (
            "no credentials: expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or a role of "
            "this machine or pod"
        )
    if answer := _ANSWER.search(report):
        if answer["code"] == "NoSuchKey":  # which one, the answer doesn't say
            return first.partition(": Error performing")[0]
        message = " ".join(html.unescape(answer["message"]).split())
        return f"the store answered {answer['code']}: {message}"
    if refused := _REFUSED.search(first):
        return f"the store answered {refused['status']}"
    if asked := _UNANSWERED.search(first):
        causes = _CAUSE.findall(report)
        return f"no answer from {asked['server']}" + (f": {causes[-1]}" if causes else "")
    return first
