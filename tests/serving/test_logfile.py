from pathlib import Path

from serving.logfile import LogFile


def test_tail_shows_the_last_lines_of_this_run_only(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "state" / "triton.log")
    with log.open() as file:
        file.write(b"an earlier run\n")
    with log.open() as file:
        file.write(b"".join(b"line %d\n" % i for i in range(30)))
    assert log.tail(2) == "line 28\nline 29"
    assert "earlier" not in log.tail(1000)


def test_tail_of_nothing_is_empty(tmp_path: Path) -> None:
    assert LogFile(tmp_path / "none.log").tail() == ""


def test_a_log_past_its_bound_moves_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "triton.log", max_size_bytes=1000)
    with log.open() as file:
        for i in range(500):
            file.write(b"line %03d\n" % i)
            file.flush()
        log.trim()
        assert log.path.stat().st_size == 0
        file.write(b"after\n")
        file.flush()
    previous = (tmp_path / "triton.log.1").read_bytes()
    assert len(previous) == 1000
    assert previous.endswith(b"line 499\n")
    assert log.path.read_bytes() == b"after\n"
    assert log.tail() == "after"


def test_a_log_within_its_bound_stays(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "triton.log", max_size_bytes=1000)
    with log.open() as file:
        file.write(b"short\n")
    log.trim()
    assert log.tail() == "short"
    assert not (tmp_path / "triton.log.1").exists()
