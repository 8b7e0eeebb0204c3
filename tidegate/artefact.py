"""A model repository as an OCI artefact in a container registry, which Kubernetes can mount as an image volume.

One layer a version, a tar that is the same bytes whoever makes it, so a registry that has it isn't sent it again; one
layer with every `config.pbtxt`. The files lie below `repository/`, where a volume has them. The tag is moved last.
Source: https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from oras.container import Container  # type: ignore[import-untyped]
from oras.provider import Registry  # type: ignore[import-untyped]
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from contract.digest import sha256_of
from contract.repository import CONFIG_FILE
from contract.schema import CONTRACT_FILE
from tidegate.store import DeliveryError, Version, fill

SCHEME = "oci"

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_MODEL, _VERSION, _CONTRACT = "tidegate.model", "tidegate.version", "tidegate.contract"
_ROOT = "repository"
_TIMEOUT_S = 60.0  # without a byte
_CHUNK_BYTES = 32 * 1024 * 1024


class Artefact:
    """A repository at `registry/name:tag`; credentials are those of `docker login`."""

    def __init__(self, name: str) -> None:
        try:
            self._container = Container(name)
        except ValueError as exc:
            raise DeliveryError(f"expected oci://registry/name:tag, got oci://{name}") from exc
        self._address = name
        local = self._container.registry.split(":")[0] in ("localhost", "127.0.0.1")
        self._registry = _Registry(insecure=local)
        self._registry.session.headers["Connection"] = "close"  # few requests, and nobody to close it later
        for scheme in ("http://", "https://"):
            self._registry.session.mount(scheme, _Patient())
        self._added: list[dict[str, Any]] = []

    @classmethod
    def at(cls, address: str) -> "Artefact":
        """The one at `oci://registry/name:tag`; DeliveryError for an address that isn't one."""
        return cls(address.removeprefix(f"{SCHEME}://"))

    def versions(self) -> Mapping[Version, str]:
        """By the manifest's annotations."""
        return {_version_of(layer): layer["annotations"][_CONTRACT] for layer in self._layers() if _is_version(layer)}

    def configs(self) -> Mapping[str, str]:
        """From their layer."""
        for layer in self._layers():
            if not _is_version(layer):
                with self._downloaded(layer) as tar:
                    members = [each for each in tar if PurePosixPath(each.name).name == CONFIG_FILE]
                    return {PurePosixPath(each.name).parts[1]: _content(tar, each).decode() for each in members}
        return {}

    def fetch(self, version: Version, folder: Path) -> None:
        """Download the version's layer, and take its files out."""
        (layer,) = (each for each in self._layers() if _is_version(each) and _version_of(each) == version)
        prefix = f"{_ROOT}/{version.model}/{version.number}"
        with self._downloaded(layer) as tar:

            def extract(path: str) -> bytes:
                return _content(tar, tar.getmember(f"{prefix}/{path}"))

            fill(folder, extract(CONTRACT_FILE), lambda entry, target: _write(target, extract(entry.path)))

    def add(self, version: Version, folder: Path) -> None:
        """Upload the version's layer, unless the registry has it."""
        files = {
            f"{_ROOT}/{version.model}/{version.number}/{path.relative_to(folder).as_posix()}": path
            for path in folder.rglob("*")
            if path.is_file()
        }
        annotations = {
            _MODEL: version.model,
            _VERSION: str(version.number),
            _CONTRACT: sha256_of(folder / CONTRACT_FILE),
        }
        with tempfile.NamedTemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for name, path in sorted(files.items()):
                    with path.open("rb") as content:
                        tar.addfile(_entry(name, path.stat().st_size), content)
            file.flush()
            self._added.append(self._upload(Path(file.name), _LAYER) | {"annotations": annotations})

    def configure(self, configs: Mapping[str, str]) -> None:
        """Move the tag to a manifest of all versions and what is served of them."""
        versions = {_version_of(layer): layer for layer in self._layers() if _is_version(layer)}
        for layer in self._added:
            if versions.setdefault(_version_of(layer), layer)["digest"] != layer["digest"]:
                raise DeliveryError(f"{_version_of(layer)} came in meanwhile, from elsewhere: copy again")
        layers = list(versions.values())
        layers.append(self._send(_LAYER, lambda file: _write_configs(file, {**self.configs(), **configs})))
        image = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        config = self._send(_CONFIG, lambda file: _write(file, json.dumps(image, sort_keys=True).encode()))
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
        with self._explained():
            self._checked(self._registry.upload_manifest(manifest, self._container))

    def _layers(self) -> list[dict[str, Any]]:
        with self._explained():
            self._registry.auth.load_configs(self._container)
            url = f"{self._registry.prefix}://{self._container.manifest_url()}"
            answer = self._registry.do_request(url, "GET", headers={"Accept": _MANIFEST})
            if answer.status_code == requests.codes.not_found:
                return []
            return list(self._checked(answer).json()["layers"])

    def _upload(self, path: Path, media_type: str) -> dict[str, Any]:
        size = path.stat().st_size
        layer: dict[str, Any] = {"mediaType": media_type, "digest": f"sha256:{sha256_of(path)}", "size": size}
        how = {"do_chunked": size > _CHUNK_BYTES, "chunk_size": _CHUNK_BYTES}  # in one piece it would lie in memory
        with self._explained():
            self._registry.auth.load_configs(self._container)
            self._checked(self._registry.upload_blob(str(path), self._container, layer, **how))
        return layer

    def _send(self, media_type: str, write: Callable[[Path], None]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "blob")
            write(path)
            return self._upload(path, media_type)

    @contextmanager
    def _downloaded(self, layer: dict[str, Any]) -> Iterator[tarfile.TarFile]:
        """A layer that has its digest."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "layer.tar")
            with self._explained():
                self._registry.download_blob(self._container, layer["digest"], str(path))
            if f"sha256:{sha256_of(path)}" != layer["digest"]:
                raise DeliveryError(f"{self._address}: a layer isn't what its digest says; copy again")
            with tarfile.open(path) as tar:
                yield tar

    def _checked(self, answer: requests.Response) -> requests.Response:
        if answer.status_code not in (200, 201, 202):
            raise DeliveryError(f"{self._address}: the registry answered {answer.status_code}: {answer.text[:200]!r}")
        return answer

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (requests.RequestException, ValueError) as exc:
            raise DeliveryError(f"{self._address}: the registry can't be asked: {exc}") from exc


class _Registry(Registry):  # type: ignore[misc]
    """Without the library's own tries, which take two minutes to say that nobody listens; the adapter has others."""

    do_request = Registry.do_request.__wrapped__


class _Patient(HTTPAdapter):
    """Three tries, and a deadline for those who set none."""

    def __init__(self) -> None:
        super().__init__(max_retries=Retry(total=2, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504)))

    def send(self, request: Any, *args: Any, **options: Any) -> requests.Response:
        """Send."""
        return super().send(request, *args, **(options | {"timeout": options.get("timeout") or _TIMEOUT_S}))


def _is_version(layer: dict[str, Any]) -> bool:
    return _VERSION in layer.get("annotations", {})


def _version_of(layer: dict[str, Any]) -> Version:
    return Version(layer["annotations"][_MODEL], int(layer["annotations"][_VERSION]))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    """The same for the same file, whenever and by whomever it is made."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o644, 0
    return entry


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise DeliveryError(f"{member.name} in the layer is no plain file")
    return file.read()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _write_configs(path: Path, configs: Mapping[str, str]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for model, text in sorted(configs.items()):
            content = text.encode()
            tar.addfile(_entry(f"{_ROOT}/{model}/{CONFIG_FILE}", len(content)), io.BytesIO(content))
