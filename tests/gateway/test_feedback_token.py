"""The codec of tokens: what is signed comes back, and nothing else does."""

import base64
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.error import InvalidRequest
from gateway.key_ring import KeyRing
from gateway.prediction import (
    MAX_AGE_S,
    MAX_SKEW_S,
    MAX_TOKEN_CHARACTERS,
    ExpiredToken,
    FutureToken,
    MalformedToken,
    WrongSignature,
    sign,
    verify,
)

NOW = 1_800_000_000.5


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing.make(tmp_path_factory.mktemp("keys") / "keys")


@given(
    st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=63),
    st.integers(1, 2**63),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.floats(0, 2**32 - 1),
)
def test_what_is_signed_comes_back(
    keys: KeyRing, model: str, version: int, index: int, confidence: float, now: float
) -> None:
    token = sign(keys, model, version, index, confidence, now)
    assert len(token) <= 200
    said = verify(keys, token, now)
    assert (said.model, said.version, said.index, said.time_s) == (model, version, index, int(now))
    assert said.confidence == min(int(confidence * 10), 9)


@pytest.mark.parametrize(("confidence", "bin_"), [(-0.1, 0), (0.0, 0), (0.0999, 0), (0.1, 1), (1.0, 9), (7.0, 9)])
def test_confidence_falls_into_ten_bins(keys: KeyRing, confidence: float, bin_: int) -> None:
    assert verify(keys, sign(keys, "m", 1, 0, confidence, NOW), NOW).confidence == bin_


def test_two_predictions_have_two_tokens(keys: KeyRing) -> None:
    assert len({sign(keys, "m", 1, 0, 0.5, NOW) for _ in range(100)}) == 100


@given(st.data())
def test_no_byte_can_be_changed(keys: KeyRing, data: st.DataObject) -> None:
    token = sign(keys, "digits", 3, 7, 0.9, NOW)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    changed = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    with pytest.raises((MalformedToken, WrongSignature)):
        verify(keys, changed, NOW)


@given(st.one_of(st.text(max_size=600), st.binary(max_size=400).map(lambda b: base64.urlsafe_b64encode(b).decode())))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_whatever_comes_is_refused_with_a_sentence(keys: KeyRing, text: str) -> None:
    with pytest.raises((MalformedToken, WrongSignature)) as error:
        verify(keys, text, NOW)
    assert isinstance(error.value, InvalidRequest)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize("token", [None, 7, ["a"], "", "a", "AQ", "AQ==", "Ä" * 70, "A" * (MAX_TOKEN_CHARACTERS + 1)])
def test_what_is_no_token_is_malformed(keys: KeyRing, token: object) -> None:
    with pytest.raises(MalformedToken, match="expected a prediction's token"):
        verify(keys, token, NOW)


def test_only_the_rings_own_keys_count(keys: KeyRing, tmp_path: Path) -> None:
    other = KeyRing.make(tmp_path / "other")
    with pytest.raises(WrongSignature, match="a key that this gateway doesn't have"):
        verify(keys, sign(other, "m", 1, 0, 0.5, NOW), NOW)
    forged = tmp_path / "forged"
    forged.write_text(f"{keys.signing.id.decode()}:{'00' * 16}")
    forged.chmod(0o600)
    with pytest.raises(WrongSignature, match="signature is wrong"):
        verify(keys, sign(KeyRing(forged), "m", 1, 0, 0.5, NOW), NOW)


def test_a_token_lives_for_its_time(keys: KeyRing) -> None:
    token = sign(keys, "m", 1, 0, 0.5, NOW)
    verify(keys, token, int(NOW) + MAX_AGE_S)
    verify(keys, token, int(NOW) - MAX_SKEW_S)
    with pytest.raises(ExpiredToken, match="of the last 30 days"):
        verify(keys, token, NOW + MAX_AGE_S + 1)
    with pytest.raises(FutureToken, match="do the clocks"):
        verify(keys, token, NOW - MAX_SKEW_S - 1)


def test_a_rotation_costs_no_feedback(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = KeyRing.make(path)
    token = sign(keys, "m", 1, 0, 0.5, NOW)
    path.write_text("fresh:" + "ab" * 32 + "\n" + path.read_text())
    keys.refresh()
    assert keys.signing.id == b"fresh"
    verify(keys, token, NOW)
    verify(keys, sign(keys, "m", 1, 0, 0.5, NOW), NOW)
