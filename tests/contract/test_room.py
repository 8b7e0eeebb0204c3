import threading
import time

import pytest

from contract.error import InputError
from contract.room import SMALL_BYTES, Room

SIZE = 10 * SMALL_BYTES


def test_more_than_there_ever_is_is_refused_at_once() -> None:
    with (
        pytest.raises(InputError, match="at most 10 MiB of memory, got what may need 11 MiB"),
        Room(SIZE).take(SIZE + SMALL_BYTES),
    ):
        pass


def test_who_comes_too_late_waits_until_there_is_enough_or_his_time_is_up() -> None:
    room = Room(SIZE)
    with room.take(SIZE - SMALL_BYTES):
        with pytest.raises(TimeoutError), room.take(2 * SMALL_BYTES, deadline=time.monotonic() + 0.02):
            pass
        with room.take(SMALL_BYTES, deadline=time.monotonic()):  # it is too little to wait for
            pass
    with room.take(SIZE, deadline=time.monotonic()):
        pass


def test_an_error_gives_back_what_was_taken() -> None:
    room = Room(SIZE)
    with pytest.raises(ZeroDivisionError), room.take(SIZE):
        raise ZeroDivisionError
    with room.take(SIZE, deadline=time.monotonic()):
        pass


def test_threads_never_have_more_together_and_nobody_is_overtaken() -> None:
    room = Room(SIZE)
    have = most = 0
    lock = threading.Lock()
    order: list[int] = []

    def work(number: int, num_bytes: int) -> None:
        nonlocal have, most
        with room.take(num_bytes, deadline=time.monotonic() + 10):
            with lock:
                order.append(number)
                have += num_bytes
                most = max(most, have)
            time.sleep(0.002)
            with lock:
                have -= num_bytes

    sizes = [2, 3, 9, 2, 2, 10, 4, 4, 3] * 5
    threads = [threading.Thread(target=work, args=(i, size * SMALL_BYTES)) for i, size in enumerate(sizes)]
    with room.take(SIZE):
        threads[0].start()
        time.sleep(0.05)  # it waits now, before all others
        for thread in threads[1:]:
            thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(order) == list(range(len(sizes)))
    assert order[0] == 0
    assert most <= SIZE
