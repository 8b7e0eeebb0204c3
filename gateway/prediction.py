"""What a prediction's token says, and the signature that makes it worth believing.

A token is base64url, without padding, of a head (`_HEAD`), the key's id, the model's name, and the first 16 bytes of
HMAC-SHA256 (RFC 2104) over all that. It holds nothing of the input, and nothing secret.

InvalidRequest
├── MalformedToken   text that is no token
├── WrongSignature   a token that none of the keys signed as it is
├── ExpiredToken     older than tokens live
└── FutureToken      younger than now, by more than clocks differ
"""

import base64
import hmac
import os
import re
import struct
from dataclasses import dataclass

from gateway.error import InvalidRequest
from gateway.key_ring import KeyRing

MAX_AGE_S = 30 * 24 * 3600
MAX_SKEW_S = 60  # what the clocks of two replicas may differ by
MAX_TOKEN_CHARACTERS = 512
NUM_CONFIDENCE_BINS = 10  # of equal width

_FORMAT = 1
_HEAD = struct.Struct(">BQIBI8sB")  # format, version, class, confidence bin, time in s, nonce, length of the key's id
_NONCE_BYTES = 8
_MAC_BYTES = 16
_TOKEN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class MalformedToken(InvalidRequest):
    """Text that is no token."""


class WrongSignature(InvalidRequest):
    """A token that none of the keys signed as it is."""


class ExpiredToken(InvalidRequest):
    """Older than tokens live."""


class FutureToken(InvalidRequest):
    """Younger than now, by more than clocks differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a token says. `index` is that of the predicted label, `confidence` that of the bin it fell into.

    The nonce is random, so that two predictions have two tokens.
    """

    model: str
    version: int
    index: int
    confidence: int
    time_s: int
    nonce: bytes


def sign(keys: KeyRing, model: str, version: int, index: int, confidence: float, now: float) -> str:
    """A token for one prediction."""
    key = keys.signing
    bin_ = min(max(int(confidence * NUM_CONFIDENCE_BINS), 0), NUM_CONFIDENCE_BINS - 1)
    head = _HEAD.pack(_FORMAT, version, index, bin_, int(now), os.urandom(_NONCE_BYTES), len(key.id))
    message = b"".join((head, key.id, model.encode()))
    mac = hmac.digest(key.secret, message, "sha256")[:_MAC_BYTES]
    return base64.urlsafe_b64encode(message + mac).rstrip(b"=").decode()


def verify(keys: KeyRing, token: object, now: float, max_age_s: float = MAX_AGE_S) -> Prediction:
    """What a token says; raises MalformedToken, WrongSignature, ExpiredToken or FutureToken."""
    data = _decode(token)
    message, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    _, version, index, confidence, time_s, nonce, id_length = _HEAD.unpack_from(message)
    key_id, model = message[_HEAD.size : _HEAD.size + id_length], message[_HEAD.size + id_length :]
    key = keys.find(key_id)
    if key is None:
        raise WrongSignature("the token is signed with a key that this gateway doesn't have, or has no longer")
    if not hmac.compare_digest(hmac.digest(key.secret, message, "sha256")[:_MAC_BYTES], mac):
        raise WrongSignature("the token's signature is wrong; send the token as the prediction's answer had it")
    if time_s > now + MAX_SKEW_S:
        raise FutureToken("the token is from the future; do the clocks of the gateway's machines agree?")
    if time_s < now - max_age_s:
        raise ExpiredToken(f"expected a token of the last {max_age_s / 86400:g} days, got an older one")
    return Prediction(
        model=model.decode(), version=version, index=index, confidence=confidence, time_s=time_s, nonce=nonce
    )


def _decode(token: object) -> bytes:
    """The bytes of what has a token's form."""
    if not isinstance(token, str):
        raise MalformedToken(f"expected a prediction's token, got {type(token).__name__}")
    none = MalformedToken(f"expected a prediction's token, got {len(token)} characters that are none")
    if len(token) > MAX_TOKEN_CHARACTERS or len(token) % 4 == 1 or not _TOKEN.fullmatch(token):
        raise none
    data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    if len(data) < _HEAD.size + _MAC_BYTES or data[0] != _FORMAT:
        raise none
    return data
