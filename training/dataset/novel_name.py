"""Names of people and places in Jane Austen's novels, marked by the capitals that the reader of the text doesn't see.

Nobody marked these novels by hand. Austen's spelling does it: what begins with a capital inside a sentence is a name
unless the gazetteer says otherwise, and a person's unless it is listed as a place or stands before a word for one, as
in "Milsom Street". Titles are no part of a name. The network gets the text in lower case, so it has to know a name by
how it is spelt and what stands around it; validation and test are other novels, with mostly other people.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Literal

from training.dataset.novel import books
from training.dataset.novel_gazetteer import OTHER, PLACE_TAILS, PLACES, TITLES

TRAIN = ("emma", "mansfieldpark", "prideprejudice")
VALIDATION = ("northangerabbey",)
TEST = ("persuasion", "sensesensibility")

Kind = Literal["person", "place"]

MAX_WORDS = 40  # of a passage: as many as fit the network with nearly all of their pieces

_NO_NAMES = OTHER | TITLES | PLACE_TAILS
WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")
_SENTENCE_END = re.compile(r"(?<![A-Z])(?<!Mr)(?<!Mrs)(?<!Dr)(?<!St)(?<!Esq)[.!?][\"'_)]*\s+(?=[\"'_(]*[A-Z])")
_HEADING = re.compile(r"\s*(CHAPTER|VOLUME|Chapter|Volume|FINIS|Finis|THE END|The End|END)\b.*")
_INSIDE = re.compile(r"[A-Za-z,'] \Z")  # what stands before a word inside a sentence
TITLED = re.compile(rf"\b({'|'.join(sorted(TITLES))})\.? \Z")
_BETWEEN = (" ", " de ")  # between the words of one name
_MIN_COUNT = 2  # a capital that was seen once may be a printer's


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A name: the characters from `start` up to `end`."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A sentence or a few, and the names in it, in order."""

    text: str
    spans: tuple[Span, ...]


@lru_cache(maxsize=1)
def passages(data_dir: Path | None) -> dict[str, tuple[Passage, ...]]:
    """The passages of every novel, by the novel's name; raises DataNotFound or DataInvalid."""
    texts = {book: list(_sentences(lines)) for book, lines in books(data_dir).items()}
    names = _Names([text for book in texts.values() for text in book])
    return {
        book: tuple(Passage(text=text, spans=tuple(names.spans(text))) for text in _packed(sentences))
        for book, sentences in texts.items()
    }


class _Names:
    """Which words are names, as far as all six novels' capitals tell."""

    def __init__(self, texts: Sequence[str]) -> None:
        capital, small, titled = Counter[str](), Counter[str](), Counter[str]()
        for text in texts:
            for word in WORD.finditer(text):
                before = text[max(0, word.start() - 12) : word.start()]
                if word.group().islower():
                    small[word.group()] += 1
                elif _is_capitalised(word.group()):
                    titled[word.group()] += bool(TITLED.search(before))
                    capital[word.group()] += bool(_INSIDE.search(before))
        sure = {w for w, n in capital.items() if n >= _MIN_COUNT and n > 2 * small[w.lower()]}
        self._anywhere = {w for w in sure if not small[w.lower()]} - _NO_NAMES | PLACES
        self._inside = sure - _NO_NAMES | self._anywhere
        self._titled = {w for w, n in titled.items() if n} - _NO_NAMES

    def spans(self, text: str) -> Iterator[Span]:
        """The names in a text: words of one kind with nothing but a space between them are one name."""
        words = list(WORD.finditer(text))
        found: list[Span] = []
        for word, after in zip(words, [*words[1:], None], strict=True):
            followed = after is not None and text[word.end() : after.start()] == " " and after.group() in PLACE_TAILS
            kind = self._kind(text, word, followed=followed, in_place=_continues(text, found, word, "place"))
            if kind is None:
                continue
            if _continues(text, found, word, kind):
                found[-1] = Span(start=found[-1].start, end=word.end(), kind=kind)
            else:
                found.append(Span(start=word.start(), end=word.end(), kind=kind))
        yield from found

    def _kind(self, text: str, word: re.Match[str], *, followed: bool, in_place: bool) -> Kind | None:
        name, before = word.group(), text[: word.start()]
        titled = bool(TITLED.search(before[-12:]))
        if not _is_capitalised(name):
            return None
        if name in PLACE_TAILS:
            return "place" if in_place else None
        inside = bool(_INSIDE.search(before[-2:]))
        if not (name in self._anywhere or (inside and name in self._inside) or (titled and name in self._titled)):
            return "place" if followed and inside and name not in _NO_NAMES else None
        return "place" if not titled and (followed or name in PLACES) else "person"


def _continues(text: str, found: Sequence[Span], word: re.Match[str], kind: Kind) -> bool:
    return bool(found) and found[-1].kind == kind and text[found[-1].end : word.start()] in _BETWEEN


def _is_capitalised(word: str) -> bool:
    return word[0].isupper() and not word.isupper()


def _sentences(lines: Iterable[str]) -> Iterator[str]:
    """The sentences of a novel, without its headings."""
    for filled, paragraph in groupby(lines, key=lambda line: bool(line.strip()) and not _HEADING.fullmatch(line)):
        if filled:
            text = " ".join(" ".join(paragraph).split())
            start = 0
            for end in _SENTENCE_END.finditer(text):
                yield text[start : end.end()].strip()
                start = end.end()
            yield text[start:]


def _packed(sentences: Sequence[str]) -> Iterator[str]:
    """Neighbouring sentences together, up to `MAX_WORDS` words; a longer sentence is parted at a comma or a space."""
    held: list[str] = []
    for words in (part for sentence in sentences for part in _parts(sentence.split())):
        if len(held) + len(words) > MAX_WORDS and held:
            yield " ".join(held)
            held = []
        held = [*held, *words]
    if held:
        yield " ".join(held)


def _parts(words: list[str]) -> Iterator[list[str]]:
    while len(words) > MAX_WORDS:
        pauses = [i for i in range(MAX_WORDS // 2, MAX_WORDS + 1) if words[i - 1][-1] in ",;:"]
        at = pauses[-1] if pauses else MAX_WORDS
        yield words[:at]
        words = words[at:]
    yield words
