import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring import BinaryNotFound, command, configuration, find_binary, write_configuration


def test_both_jobs_are_scraped_with_limits() -> None:
    read = yaml.safe_load(configuration(["127.0.0.1:18082", "[::1]:18083"], ["127.0.0.1:18002"], ["r.yml"], 5))

    jobs = {job["job_name"]: job for job in read["scrape_configs"]}
    assert read["global"] == {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "5s"}
    assert read["rule_files"] == ["r.yml"]
    assert jobs["gateway"]["static_configs"] == [{"targets": ["127.0.0.1:18082", "[::1]:18083"]}]
    assert jobs["triton"]["static_configs"] == [{"targets": ["127.0.0.1:18002"]}]
    for job in jobs.values():
        assert job["honor_labels"] is False
        assert min(job["sample_limit"], job["label_limit"], job["label_value_length_limit"]) > 0


def test_the_fast_lane_is_a_job_where_it_runs() -> None:
    *others, drift = yaml.safe_load(configuration(detectors=["127.0.0.1:19098"]))["scrape_configs"]

    assert (drift["job_name"], drift["static_configs"]) == ("drift", [{"targets": ["127.0.0.1:19098"]}])
    assert others == yaml.safe_load(configuration())["scrape_configs"]


def test_gpus_are_a_job_where_an_exporter_runs() -> None:
    *others, gpu = yaml.safe_load(configuration(devices=["127.0.0.1:9400"]))["scrape_configs"]

    assert (gpu["job_name"], gpu["static_configs"]) == ("gpu", [{"targets": ["127.0.0.1:9400"]}])
    assert others == yaml.safe_load(configuration())["scrape_configs"]


def test_alerts_go_to_every_alertmanager() -> None:
    read = yaml.safe_load(configuration(alertmanagers=["127.0.0.1:9093", "127.0.0.1:9094"]))

    targets = [{"targets": ["127.0.0.1:9093", "127.0.0.1:9094"]}]
    assert read["alerting"]["alertmanagers"] == [{"static_configs": targets}]
    assert "alerting" not in yaml.safe_load(configuration())


@pytest.mark.parametrize("interval_s", [1, 15, 60])
def test_a_scrape_never_takes_longer_than_its_interval(interval_s: int) -> None:
    times = yaml.safe_load(configuration(scrape_interval_s=interval_s))["global"]

    assert int(times["scrape_timeout"][:-1]) <= int(times["scrape_interval"][:-1])


@pytest.mark.parametrize("target", ["", "8082", "127.0.0.1", "host:0", "host:99999", "http://host:80/metrics", "h:1a"])
def test_a_target_that_is_no_host_and_port_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        configuration(gateways=[target])


def test_an_interval_under_a_second_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 s"):
        configuration(scrape_interval_s=0)


def test_promtool_accepts_what_is_written_into_a_run_folder(tmp_path: Path) -> None:
    config = write_configuration(tmp_path / "run", gateways=["127.0.0.1:1", "127.0.0.1:2"], tritons=[])

    done = subprocess.run(
        [find_binary("promtool"), "check", "config", config], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_the_command_bounds_the_data_and_opens_nothing(tmp_path: Path) -> None:
    line = command(Path("/bin/prometheus"), tmp_path / "p.yml", tmp_path / "data", "127.0.0.1:9999", retention_days=2)

    assert line[0] == "/bin/prometheus"
    assert "--web.listen-address=127.0.0.1:9999" in line
    assert "--storage.tsdb.retention.time=2d" in line
    assert "--storage.tsdb.retention.size=2048MB" in line
    assert not any("lifecycle" in flag or "admin" in flag or "remote-write" in flag for flag in line)


@pytest.mark.parametrize("address", ["0.0.0.0:9090", ":9090", "10.0.0.1:9090", "example.org:9090", "[::]:9090"])
def test_a_local_prometheus_listens_on_loopback_only(address: str) -> None:
    with pytest.raises(ValueError, match=r"loopback|host:port"):
        command(Path("prometheus"), Path("p.yml"), Path("data"), address)


@pytest.mark.parametrize("address", ["127.0.0.1:9090", "localhost:9090", "[::1]:9090"])
def test_every_spelling_of_loopback_is_fine(address: str) -> None:
    assert f"--web.listen-address={address}" in command(Path("prometheus"), Path("p.yml"), Path("data"), address)


def test_a_program_is_found_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "promtool").write_text("#!/bin/sh\n")
    (tmp_path / "promtool").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_binary("promtool") == tmp_path / "promtool"


def test_a_missing_program_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(
        BinaryNotFound, match=r"^promtool is not on PATH: run `make setup` .* `apt-get install prometheus`"
    ):
        find_binary("promtool")
    with pytest.raises(BinaryNotFound, match="`apt-get install prometheus-alertmanager`"):
        find_binary("amtool")
