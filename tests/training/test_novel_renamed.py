import numpy as np
import pytest

from training.dataset.name_list import NUM_SURNAMES, Names, listed
from training.dataset.novel_name import Kind, Passage, Span
from training.dataset.novel_renamed import Renaming, ordinary

NAMES: Names = {
    "first": tuple(f"Given{chr(97 + i)}" for i in range(26)),
    "last": tuple(f"Family{chr(97 + i)}" for i in range(26)),
    "place": tuple(f"Town{chr(97 + i)}" for i in range(26)),
}


def passage(marked: str, kinds: dict[str, Kind]) -> Passage:
    """A text whose names are in brackets: of this kind, or a person's."""
    text, spans = "", []
    for i, part in enumerate(marked.replace("]", "[").split("[")):
        if i % 2:
            spans.append(Span(start=len(text), end=len(text) + len(part), kind=kinds.get(part, "person")))
        text += part
    return Passage(text=text, spans=tuple(spans))


TALK = passage(
    "Mr. [Knightley] saw [Emma] at [Donwell Abbey]; [Emma Woodhouse] and the [Westons] left [Highbury], said [Emma].",
    {"Donwell Abbey": "place", "Highbury": "place"},
)


def renamed(seed: int) -> tuple[Passage, list[str]]:
    other = Renaming(NAMES, np.random.default_rng(seed))(TALK)
    return other, [other.text[span.start : span.end] for span in other.spans]


def kept(each: Passage) -> list[str]:
    """What stands between the names."""
    bounds = [0, *(at for span in each.spans for at in (span.start, span.end)), len(each.text)]
    return [each.text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_names_are_others_and_nothing_else_is(seed: int) -> None:
    other, said = renamed(seed)
    assert kept(other) == kept(TALK)
    assert [span.kind for span in other.spans] == [span.kind for span in TALK.spans]
    knightley, emma, donwell, woodhouse, westons, highbury, again = said
    assert knightley in NAMES["last"]  # for the title
    assert emma in NAMES["first"] + NAMES["last"]
    assert emma == again == woodhouse.split()[0]
    assert woodhouse.split()[1] in NAMES["last"]
    assert westons.removesuffix("s") in NAMES["last"]
    assert donwell.split()[0] in NAMES["place"] + NAMES["last"]
    assert donwell.split()[1] == "Abbey"
    assert highbury in NAMES["place"] + NAMES["last"]


def test_a_seed_gives_the_same_names_and_another_one_others() -> None:
    assert renamed(1) == renamed(1)
    assert len({other.text for other, _ in map(renamed, range(10))}) == 10


def test_common_names_come_more_often_but_rare_ones_come() -> None:
    rename = Renaming(NAMES, np.random.default_rng(1))
    drawn = [rename(passage("Mr. [Knightley]", {})).text.split()[1] for _ in range(2_000)]
    counts = [drawn.count(name) for name in NAMES["last"]]
    assert min(counts) > 20
    assert sum(counts[:5]) > 1.3 * sum(counts[-5:])


def test_words_are_ordinary_unless_they_mostly_name() -> None:
    texts = [passage("[Rose] rose, and [Will] will; [May] may", {}), passage("a rose, and [May] will", {})]
    assert ordinary(texts) == {"rose", "and", "will", "a"}


def test_lists_are_of_single_words_the_commonest_first() -> None:
    names = listed(None)
    assert [each[0] for each in (names["first"], names["last"], names["place"])] == ["Mary", "Smith", "London"]
    assert len(names["last"]) == NUM_SURNAMES
    assert all(name.isalpha() and name == name.title() for each in (names["first"], names["last"]) for name in each)
    assert all(name.isalpha() for name in names["place"])
