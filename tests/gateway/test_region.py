import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.region import PREFIX, Region, Slice, remove_leftovers

SIZE = 4096
# What each step asks for, and which of the slices in hand it gives back (none where there are fewer).
STEPS = st.lists(st.tuples(st.integers(1, SIZE // 2), st.integers(0, 8)), max_size=40)
OTHER = f"""
import sys; from pathlib import Path; from gateway.region import Region
region = Region({SIZE}, Path(sys.argv[1]))
print(region.name, flush=True)
sys.stdin.read()
"""


def test_what_is_written_is_what_others_read_and_the_file_goes_at_the_end(tmp_path: Path) -> None:
    region = Region(SIZE, tmp_path)
    file = tmp_path / region.name
    assert file.stat().st_size == SIZE
    assert file.stat().st_blocks * 512 >= SIZE  # its space is taken, so that no write can fail
    assert file.stat().st_mode & 0o777 == 0o600
    lent = region.lend(100)
    assert lent is not None
    lent.memory[:] = 7
    assert file.read_bytes()[lent.offset : lent.offset + 100] == b"\7" * 100
    region.close()
    assert list(tmp_path.iterdir()) == []
    lent.memory[:] = 8  # a call may still be under way


@given(STEPS)
def test_slices_never_overlap_and_all_room_is_found_again(steps: list[tuple[int, int]]) -> None:
    region = Region(SIZE)
    try:
        held: list[Slice] = []
        for size, which in steps:
            lent = region.lend(size)
            if lent is not None:
                assert len(lent.memory) >= size
                held.append(lent)
            else:
                assert held, "an empty region has room"
            owners = np.zeros(SIZE, int)
            for each in held:
                owners[each.offset : each.offset + len(each.memory)] += 1
            assert owners.max(initial=0) <= 1
            if which < len(held):
                region.take_back(held.pop(which))
        for each in held:
            region.take_back(each)
        assert region.lend(SIZE) is not None
    finally:
        region.close()


def test_a_region_that_cannot_be_had_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Region(SIZE, tmp_path / "missing")
    with pytest.raises(OSError, match=r"."):
        Region(2**62, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_regions_of_the_dead_are_leftovers(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        ours = Region(SIZE, tmp_path)
        (tmp_path / "else").touch()
        (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "else")
        remove_leftovers(tmp_path)
        assert {name, ours.name, "else"} <= {path.name for path in tmp_path.iterdir()}
        other.kill()
        other.wait(10)
    remove_leftovers(tmp_path)
    assert name not in {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / ours.name).exists()
    ours.close()
