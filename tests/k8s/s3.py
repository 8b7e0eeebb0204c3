"""A server that speaks S3's protocol and holds every request against its signature: moto's, in `.venv-s3`.

It lets everyone in until there are a bucket, a user and a key, and from then on those who have the key.
Source: https://docs.getmoto.org/en/latest/docs/iam.html
"""

import os
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.port import free_ports

PYTHON = Path(__file__).resolve().parents[2] / ".venv-s3" / "bin" / "python"
BUCKET = "models"

_START_TIMEOUT_S = 60.0  # it isn't compiled before the first time
_REGION = "eu-central-1"
_POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'


@dataclass(frozen=True, kw_only=True, slots=True)
class S3:
    """Where the server is, and the key of a user who may do everything there."""

    endpoint: str
    key: str
    secret: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What a user sets, for a store of their own without TLS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": _REGION,
            "AWS_ALLOW_HTTP": "true",
        }


@contextmanager
def s3_server(log: Path) -> Iterator[S3]:
    """The server on loopback, with the bucket `models`; it lists two objects a page, so that every list has several."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    command = [str(PYTHON), "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": "2"}
        )
    try:
        pause, deadline = threading.Event(), time.monotonic() + _START_TIMEOUT_S
        while not _is_up(endpoint):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            pause.wait(0.1)
        yield _prepared(endpoint)
    finally:
        process.terminate()
        process.wait(10)


def _is_up(endpoint: str) -> bool:
    try:
        _ask(f"{endpoint}/moto-api/")
    except urllib.error.URLError:
        return False
    return True


def _prepared(endpoint: str) -> S3:
    place = f"<CreateBucketConfiguration><LocationConstraint>{_REGION}</LocationConstraint></CreateBucketConfiguration>"
    _ask(f"{endpoint}/{BUCKET}", "PUT", place, service="s3")
    _identity(endpoint, Action="CreateUser", UserName="tidegate")
    answer = _identity(endpoint, Action="CreateAccessKey", UserName="tidegate")
    key, secret = (answer.findtext(f".//{{*}}{name}", "") for name in ("AccessKeyId", "SecretAccessKey"))
    _identity(endpoint, Action="PutUserPolicy", UserName="tidegate", PolicyName="all", PolicyDocument=_POLICY)
    _ask(f"{endpoint}/moto-api/reset-auth", "POST", "0")  # requests that are let in unasked
    return S3(endpoint=endpoint, key=key, secret=secret)


def _identity(endpoint: str, **parameters: str) -> ElementTree.Element:
    body = urllib.parse.urlencode(parameters | {"Version": "2010-05-08"})
    kind = "application/x-www-form-urlencoded"
    return ElementTree.fromstring(_ask(f"{endpoint}/", "POST", body, kind=kind, service="iam"))


def _ask(url: str, method: str = "GET", body: str = "", *, kind: str = "text/plain", service: str = "") -> bytes:
    headers = {"Content-Type": kind}
    if service:  # by which the server knows whom of its services is asked; nobody looks at the signature yet
        scope = f"nobody/20260101/{_REGION}/{service}/aws4_request"
        headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
    request = urllib.request.Request(url, body.encode() or None, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())
