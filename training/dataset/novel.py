"""Jane Austen's six finished novels, line by line, as Project Gutenberg set them: 73,422 lines. Public domain.

The Debian package is an R package (MIT) that keeps each novel in R's lazy-load format: an index of offsets and lengths,
and behind each offset four bytes of length and a zlib stream of R's serialisation. Source:
https://cran.r-project.org/doc/manuals/r-release/R-ints.html#Lazy-loading
"""

import zlib
from pathlib import Path
from typing import Any

from training.package import Package

PACKAGE = Package(
    manager="debian",
    name="r-cran-janeaustenr",
    version="1.0.0-1",
    members=("usr/lib/R/site-library/janeaustenr/data/Rdata.rd[bx]",),
    sha256="8f520d83a481ad15ac9500edc594958d68c9356184d374cc928aa22ca7a628ed",
    licence="public domain (texts), MIT (package)",
)
BOOKS = ("emma", "mansfieldpark", "northangerabbey", "persuasion", "prideprejudice", "sensesensibility")


def books(data_dir: Path | None) -> dict[str, list[str]]:
    """Every line of every novel in `BOOKS`, by the novel's name, title page first; raises as Package.read does."""
    index_file, blob = (
        next(content for path, content in PACKAGE.read(data_dir).items() if path.endswith(ending))
        for ending in (".rdx", ".rdb")
    )
    places = {str(name): place for name, place in _parsed(index_file)["variables"].items()}
    return {book: _lines(blob, *map(int, places[book])) for book in BOOKS}


def _lines(blob: bytes, offset: int, length: int) -> list[str]:
    return [str(line) for line in _parsed(zlib.decompress(blob[offset + 4 : offset + length]))]


def _parsed(serialised: bytes) -> Any:
    import rdata

    return rdata.conversion.convert(rdata.parser.parse_data(serialised, extension=".rds"))
