"""What goes wrong with a bucket, by S3's own protocol: one sentence that says what to mend, and no endless wait."""

import re
import socket
from pathlib import Path

import pytest

from tests.conftest import MakeVersion
from tests.port import free_ports
from tidegate.bucket import Bucket
from tidegate.delivery import sync
from tidegate.store import DeliveryError, Version

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A repository that isn't there yet."""
    return str(tmp_path / "models")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIANOBODY", "InvalidAccessKeyId: The AWS Access Key Id you provided does not exist"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch: The request signature we calculated does not match"),
    ],
)
def test_wrong_credentials(
    variable: str, value: str, sentence: str, s3: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(DeliveryError) as caught:
        sync(s3, folder)
    assert re.fullmatch(f"{s3}: the store answered {sentence} .*", str(caught.value))


def test_a_refusal_without_a_text(
    s3: str, folder: str, make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is how HEAD is answered: the request by which an upload begins."""
    make_version(Path(folder))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")

    with pytest.raises(DeliveryError) as caught:
        Bucket.at(s3).add(Version("tiny", 1), Path(folder, "tiny/1"))
    assert re.fullmatch(f"{s3}: the store answered 403 Forbidden", str(caught.value))


def test_no_credentials(s3: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")  # where a machine asks its role

    with pytest.raises(DeliveryError) as caught:
        sync(s3, folder)
    assert re.fullmatch(f"{s3}: no credentials: expected AWS_ACCESS_KEY_ID and .*", str(caught.value))


def test_a_missing_bucket(s3: str, folder: str) -> None:
    sentence = "s3://none/models: the store answered NoSuchBucket: The specified bucket does not exist"

    with pytest.raises(DeliveryError) as reading:
        sync("s3://none/models", folder)
    with pytest.raises(DeliveryError) as writing:
        Bucket.at("s3://none/models").configure({"tiny": ""})
    assert str(reading.value) == str(writing.value) == sentence


def test_nobody_listens(s3: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

    with pytest.raises(DeliveryError) as caught:
        sync(s3, folder)
    assert str(caught.value) == f"{s3}: no answer from {endpoint}: Connection refused"


def test_the_server_says_nothing(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

        with pytest.raises(DeliveryError) as caught:
            Bucket.at(s3, silence_s=0.1).versions()
    assert str(caught.value) == f"{s3}: no answer from {endpoint}: TimedOut"


def test_the_endpoint_has_no_tls(s3: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")

    with pytest.raises(DeliveryError, match=r"AWS_ENDPOINT_URL is http://.*, without TLS: set AWS_ALLOW_HTTP=true"):
        sync(s3, folder)


@pytest.mark.parametrize(
    "endpoint", ["", "127.0.0.1:9000", "localhost:9000", "http://", "http://127.0.0.1:port", "ftp://127.0.0.1"]
)
def test_the_endpoint_is_none(endpoint: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)

    with pytest.raises(DeliveryError) as caught:
        sync("s3://models", folder)
    expected = "expected an address like https://s3.example.com in AWS_ENDPOINT_URL_S3"
    assert str(caught.value) == f"{expected}, got {endpoint!r}"
