import socket
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.launcher import Ports


def test_a_missing_binary_ends_with_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = main(["--repository", str(tmp_path), "--state-dir", str(tmp_path), "--binary", str(tmp_path / "none")])
    assert code == 1
    assert [record.message for record in caplog.records] == [
        f"expected Triton's binary at {tmp_path / 'none'}, there is no executable file"
    ]


def test_a_port_in_use_ends_with_one_sentence(tmp_path: Path, ports: Ports, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["--repository", str(tmp_path), "--state-dir", str(tmp_path), "--binary", "/bin/true"]
    arguments += ["--http-port", str(ports.http), "--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)]
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports.grpc))
        other.listen()
        assert main(arguments) == 1
    assert f"can't listen on 127.0.0.1:{ports.grpc}" in caplog.records[-1].message


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--http-port", "8001"], ["--stop-timeout", "-1"]])
def test_wrong_arguments_end_with_code_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--binary", "/bin/true", "--state-dir", str(tmp_path)])
    assert "python -m serving: error:" in capsys.readouterr().err
