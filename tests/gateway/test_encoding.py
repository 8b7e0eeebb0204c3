import gzip
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.encoding import Decoder, decoder, encode
from gateway.error import BodyTooLarge, InvalidRequest, UnsupportedMedia

TEXT = b"tide and gate " * 500
LIMIT = 10_000


def bare(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


FORMS: list[tuple[str, Any]] = [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", bare)]


def decode(encoding: str, body: bytes, step: int = 10**9, limit_bytes: int = LIMIT) -> bytes:
    stream = decoder(encoding, limit_bytes)
    assert isinstance(stream, Decoder)
    parts = [stream.feed(body[start : start + step]) for start in range(0, len(body), step)]
    stream.finish()
    return b"".join(parts)


@given(st.sampled_from(FORMS), st.binary(max_size=300))
def test_bodies_come_back_however_they_are_cut(form: Any, data: bytes) -> None:
    encoding, compress = form
    for step in (1, 7, 10**9):
        assert decode(encoding, compress(data), step) == data


@pytest.mark.parametrize("encoding", ["identity", "", " Identity "])
def test_identity_needs_no_decoder(encoding: str) -> None:
    assert decoder(encoding, LIMIT) is None


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip;q=1", "x" * 1000])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia, match="expected the content encoding gzip, deflate or identity"):
        decoder(encoding, LIMIT)


def test_the_name_is_read_as_http_says() -> None:
    assert decode(" GZip ", gzip.compress(TEXT)) == TEXT
    assert decode("x-gzip", gzip.compress(TEXT)) == TEXT


def test_a_chain_of_members_is_one_body() -> None:
    body = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(TEXT)
    for step in (1, 5, 10**9):
        assert decode("gzip", body, step) == b"one " + TEXT
    with pytest.raises(InvalidRequest, match="goes on behind"):
        decode("gzip", gzip.compress(b"") * 5000, limit_bytes=10**6)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b""),
        ("gzip", b"\x1f"),
        ("gzip", gzip.compress(TEXT)[:-1]),
        ("gzip", gzip.compress(TEXT) + b"x"),
        ("gzip", gzip.compress(TEXT) + b"garbage"),
        ("gzip", gzip.compress(TEXT)[:-8] + b"\0" * 8),
        ("gzip", zlib.compress(TEXT)),
        ("gzip", TEXT),
        ("deflate", b""),
        ("deflate", b"\x78"),
        ("deflate", zlib.compress(TEXT)[:-1]),
        ("deflate", zlib.compress(TEXT) + b"x"),
        ("deflate", zlib.compress(TEXT) * 2),
        ("deflate", bare(TEXT)[:-1]),
        ("deflate", gzip.compress(TEXT)),
        ("deflate", TEXT),
    ],
)
def test_corrupt_cut_or_overlong_bodies_are_refused(encoding: str, body: bytes) -> None:
    for step in (1, 10**9):
        with pytest.raises(InvalidRequest):
            decode(encoding, body, step)


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=100))
def test_whatever_comes_is_decoded_or_refused(encoding: str, body: bytes) -> None:
    try:
        decode(encoding, body)
    except (InvalidRequest, BodyTooLarge):
        return


@pytest.mark.parametrize(("encoding", "compress"), FORMS)
def test_no_more_is_unfolded_than_the_limit(encoding: str, compress: Any) -> None:
    assert len(decode(encoding, compress(b"\0" * LIMIT))) == LIMIT
    bomb = compress(b"\0" * 5_000_000)
    assert len(bomb) < LIMIT
    stream = decoder(encoding, LIMIT)
    assert stream is not None
    with pytest.raises(BodyTooLarge, match=f"at most {LIMIT} bytes"):
        stream.feed(bomb)
    with pytest.raises(BodyTooLarge):
        decode(encoding, compress(b"\0" * (LIMIT + 1)), 1)


def test_no_more_is_read_than_the_limit() -> None:
    stored_nothing = b"\x00\x00\x00\xff\xff"  # a block of deflate that unfolds to nothing
    with pytest.raises(BodyTooLarge):
        decode("deflate", stored_nothing * LIMIT, 1000)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("GZIP ; Q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0, *", "deflate"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=0.5, identity", None),
        ("identity;q=0.5, gzip;q=1.0", "gzip"),
        ("br, zstd", None),
        ("", None),
        ("gzip;q=nan, deflate;q=-1, ;;,=", None),
    ],
)
def test_the_answer_is_in_the_encoding_liked_best(accepted: str, encoding: str | None) -> None:
    body, used = encode(TEXT, accepted)
    assert used == encoding
    if used is None:
        assert body == TEXT
    else:
        assert len(body) < len(TEXT)
        assert decode(used, body) == TEXT


def test_what_compressing_would_not_shorten_stays() -> None:
    assert encode(TEXT[:1024], "gzip") == (TEXT[:1024], None)
    noise = np.random.default_rng(0).bytes(5000)
    assert encode(noise, "gzip") == (noise, None)


@given(st.text(max_size=40))
def test_any_header_is_read(accepted: str) -> None:
    body, used = encode(TEXT, accepted)
    assert (body == TEXT) == (used is None)
