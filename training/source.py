"""Where a data set's files come from: this machine first, their public address last, always held against a digest.

The digest is of the unpacked content, so a distribution's own compression of the same data is accepted and anything
else isn't, wherever it was found.
"""

import contextlib
import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.durable import write_atomically
from training.error import DataInvalid, DataNotFound, LockTimeout
from training.lock import exclusive

TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A file of a data set: its name when unpacked, the digest of that content, and where `<name>.gz` is public."""

    name: str
    sha256: str
    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data set's files; `package` is the Debian package that brings them below `/usr/share/datasets/<folder>`."""

    folder: str
    package: str
    files: tuple[DataFile, ...]

    def folders(self, data_dir: Path | None) -> list[Path]:
        """Where files are looked for, in order: the user's folder, the package's, earlier downloads."""
        found = [Path("/usr/share/datasets") / self.folder, cache_dir() / self.folder]
        return found if data_dir is None else [data_dir, *found]

    def read(self, data_dir: Path | None) -> dict[str, bytes]:
        """Unpacked content of every file by name.

        Raises DataNotFound when one can't be had or a given folder holds none, DataInvalid when one isn't the file the
        digest was taken of.
        """
        if data_dir is not None and not any(path.is_file() for file in self.files for path in _paths(data_dir, file)):
            raise DataNotFound(
                f"{data_dir}: expected files {', '.join(file.name for file in self.files)}, packed as .gz or not, got "
                "none of them: name a folder that holds the data, or leave --data out"
            )
        return {file.name: self._read(file, self.folders(data_dir)) for file in self.files}

    def digest(self) -> str:
        """SHA-256 over the names and digests of all files: the data set's own."""
        lines = "".join(f"{file.sha256}  {file.name}\n" for file in sorted(self.files, key=lambda f: f.name))
        return hashlib.sha256(lines.encode()).hexdigest()

    def _read(self, file: DataFile, folders: Sequence[Path]) -> bytes:
        for folder in folders:
            for path in _paths(folder, file):
                if path.is_file():
                    return _verified(file, path.read_bytes(), str(path))
        try:
            packed = _download(file.url)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise DataNotFound(
                f"{file.name}.gz is not in {', '.join(map(str, folders))}, and {file.url} can't be reached "
                f"({exc!s:.120}): run `apt-get install {self.package}`, or name a folder that holds it with --data"
            ) from exc
        content = _verified(file, packed, file.url)
        cache = cache_dir() / self.folder
        # Without a place for a copy, the next run downloads again.
        with contextlib.suppress(OSError, LockTimeout), exclusive(cache / "lock", f"the folder {cache}"):
            write_atomically(cache / f"{file.name}.gz", packed)
        return content


def _paths(folder: Path, file: DataFile) -> tuple[Path, Path]:
    return folder / f"{file.name}.gz", folder / file.name


def cache_dir() -> Path:
    """Where downloads are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tidegate" / "datasets"


def _download(url: str) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"expected an http address, got {url}")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - the scheme is checked above
        data = response.read()
    assert isinstance(data, bytes)
    return data


def _verified(file: DataFile, data: bytes, where: str) -> bytes:
    try:
        content = gzip.decompress(data) if where.endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as exc:
        raise DataInvalid(f"{where} is no complete gzip file ({exc}): delete it and get it again") from exc
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataInvalid(
            f"{where}: expected content with sha256 {file.sha256[:12]}..., got {digest[:12]}...: "
            "it is another file, or a damaged one"
        )
    return content
