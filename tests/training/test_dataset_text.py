from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.dataset import sentiment, spam
from training.text import TextSplits, fingerprint

MAIL = b"""From: someone@example.com
Subject: a secret that only the header holds
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="cut"

--cut
Content-Type: text/%s; charset=%s
Content-Transfer-Encoding: %s

%s
--cut--
"""


@pytest.mark.parametrize("load", [sentiment.splits, spam.splits])
def test_no_text_is_in_two_splits(load: Callable[[Path | None], TextSplits]) -> None:
    splits = load(None)
    parts = [{fingerprint(text) for text in part.texts} for part in (splits.train, splits.validation, splits.test)]
    assert all(parts)
    assert (
        sum(map(len, parts))
        == len(set.union(*parts))
        == sum(map(len, (splits.train.texts, splits.validation.texts, splits.test.texts)))
    )
    for part in (splits.train, splits.validation, splits.test):
        assert set(part.labels) == {0, 1}
        assert len(part.labels) == len(part.texts)
        assert all(text == text.strip() != "" for text in part.texts)


def test_the_sentences_are_the_ones_that_were_rated() -> None:
    splits = sentiment.splits(None)
    assert [len(part.texts) for part in (splits.train, splits.validation, splits.test)] == [8466, 600, 1500]
    by_text = {
        text: sentiment.LABELS[label]
        for part in (splits.train, splits.validation, splits.test)
        for text, label in zip(part.texts, part.labels, strict=True)
    }
    assert by_text["Effective but too tepid biopic"] == "negative"
    assert by_text["By turns very dark and very funny."] == "positive"


def test_a_sentence_is_liked_as_much_as_it_was_rated() -> None:
    train = sentiment.splits(None).train
    assert train.shares is not None
    np.testing.assert_allclose(train.shares.sum(axis=1), 1, atol=1e-6)
    assert (train.shares.argmax(axis=1) == train.labels).all()
    rated = dict(zip(train.texts, train.shares[:, 1], strict=True))
    start = "If you sometimes like to go to the movies to have fun, Wasabi is a good place to start."
    assert rated[start] == pytest.approx(1 / (1 + np.exp(-22 / 15)))  # 15 people gave 22 points


def test_the_mails_of_one_campaign_are_in_one_split() -> None:
    splits = spam.splits(None)
    assert [len(part.texts) for part in (splits.train, splits.validation, splits.test)] == [3651, 500, 1500]
    begun = [
        {fingerprint(text)[: spam.FAMILY_LETTERS] for text in part.texts}
        for part in (splits.train, splits.validation, splits.test)
    ]
    assert sum(map(len, begun)) == len(set.union(*begun))
    assert not any("X-Spam" in text[:20] or text.startswith("Received:") for text in splits.train.texts)


@pytest.mark.parametrize(
    ("kind", "charset", "coding", "content"),
    [
        (b"plain", b"utf-8", b"quoted-printable", b"free caf=C3=A9"),
        (b"plain", b"iso-8859-1", b"8bit", b"free caf\xe9"),
        (b"plain", b"no-such-charset", b"8bit", b"free caf\xe9"),
        (b"plain", b"us-ascii", b"8bit", b"free \r\n\r\n caf\xe9 "),
        (b"plain", b"utf-8", b"base64", b"ZnJlZSBjYWbDqQ=="),
        (b"html", b"utf-8", b"7bit", b"<style>b {}</style><p>free<br>caf&eacute;<script>var a = 'no'</script>"),
        (b"html", b"utf-8", b"7bit", b"<p>fr<font color=red>ee<!-- hidden --></font><td>caf&#233;</td>"),
    ],
)
def test_a_body_is_what_a_reader_sees(kind: bytes, charset: bytes, coding: bytes, content: bytes) -> None:
    assert spam.body(MAIL % (kind, charset, coding, content)) == "free café"


@pytest.mark.parametrize("mail", [b"", b"Subject: hello\n\n", b"Content-Type: image/gif\n\nGIF89a"])
def test_a_mail_without_text_has_an_empty_body(mail: bytes) -> None:
    assert spam.body(mail) == ""


@pytest.mark.parametrize("html", ["<", "a<b", "<![if x]>a", "<!DOCTYPE", "&#999999999;", "<p", "<style>a", "a</"])
def test_broken_html_is_read_as_far_as_it_goes(html: str) -> None:
    assert isinstance(spam.text_of_html(html), str)
