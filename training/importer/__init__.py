"""Models that others trained: what their graph says of itself becomes a contract, and a published version."""

from training.importer.error import ImportRefused
from training.importer.file import is_factory, read
from training.importer.image import Pixels
from training.importer.model import Derived, derive
from training.importer.publish import MIN_EMBEDDED, Origin, origin_of, publish, watched_embedding
from training.importer.wish import Wish

__all__ = [
    "MIN_EMBEDDED",
    "Derived",
    "ImportRefused",
    "Origin",
    "Pixels",
    "Wish",
    "derive",
    "is_factory",
    "origin_of",
    "publish",
    "read",
    "watched_embedding",
]
