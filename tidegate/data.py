"""`tidegate data`: where the data sets of the recipes come from, under what licence, and whether they are here."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tidegate.terminal import JsonOption, console, progress

if TYPE_CHECKING:
    from training.package import Package


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRow:
    """A package that data sets come from; `place` is where it was found, empty where it wasn't."""

    package: str
    manager: str
    version: str
    licence: str
    place: str


def data(
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch what isn't on this machine yet.")] = False,
    json_: JsonOption = False,
) -> None:
    """List the packages that the recipes' data comes from, and fetch them ahead of time.

    Example: tidegate data --fetch
    """
    found = _packages()
    shown = progress(json_)
    for package in found if fetch else ():
        if package.place() is None:
            with shown.status(f"fetching {package.name}"):
                package.read(None)
    rows = [_row(package) for package in found]
    if json_:
        print(json.dumps([asdict(row) for row in rows], indent=1))  # noqa: T201 - JSON goes to stdout as it is
        return
    table = Table("package", "from", "version", "licence", "where", box=None)
    for row in rows:
        table.add_row(row.package, row.manager, row.version, row.licence, row.place or "not here yet")
    console.print(table)


def _packages() -> "list[Package]":
    from training.package import known

    return sorted(known(), key=lambda package: (package.manager, package.name))


def _row(package: "Package") -> DataRow:
    return DataRow(
        package=package.name,
        manager=package.manager,
        version=package.version,
        licence=package.licence,
        place=str(package.place() or ""),
    )
