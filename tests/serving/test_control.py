import threading
from typing import Any

import grpc
import pytest
from tritonclient.grpc import model_config_pb2

from serving.control import Control
from serving.error import LoadFailed, TritonUnreachable


def config() -> Any:
    return model_config_pb2.ModelConfig(name="m", max_batch_size=8)


def test_serving_groups_versions_by_model(control: Control, stand_in: Any) -> None:
    stand_in.served = {"a": {1, 3}, "b": {2}}
    assert control.serving() == {"a": {1, 3}, "b": {2}}
    assert control.ready()


def test_load_names_exactly_the_given_versions(control: Control, stand_in: Any) -> None:
    given = config()
    given.version_policy.latest.num_versions = 1
    control.load("m", given, [1, 3], timeout_s=10)
    assert stand_in.calls == [("load", "m", (1, 3))]
    assert given.version_policy.WhichOneof("policy_choice") == "latest"  # the caller's config stays as it was


def test_a_refused_load_names_the_versions(control: Control, stand_in: Any) -> None:
    stand_in.faults = {("m", 1): "no; really\n\nAt:\n  /x/model.py(1): f\n", ("m", 3): "TritonModelException: neither"}
    with pytest.raises(LoadFailed) as caught:
        control.load("m", config(), [1, 2, 3], timeout_s=10)
    assert caught.value.versions == {1: "Internal: no; really", 3: "neither"}


def test_a_load_past_its_deadline_is_the_models_fault(control: Control, stand_in: Any) -> None:
    stand_in.delay_s = 60
    with pytest.raises(LoadFailed, match=r"not loaded within 0.3 s"):
        control.load("m", config(), [1], timeout_s=0.3)


def test_no_answer_is_unreachable(ports: Any) -> None:
    with Control(f"127.0.0.1:{ports.grpc}", timeout_s=5) as nobody:
        assert not nobody.ready()
        with pytest.raises(TritonUnreachable, match=f"Triton at 127.0.0.1:{ports.grpc} doesn't answer"):
            nobody.serving()
        with pytest.raises(TritonUnreachable):
            nobody.load("m", config(), [1], timeout_s=5)


def test_a_triton_that_is_going_down_is_unreachable(control: Control, stand_in: Any) -> None:
    stand_in.fault = (grpc.StatusCode.UNAVAILABLE, "Server is stopping")
    with pytest.raises(TritonUnreachable, match="Server is stopping"):
        control.load("m", config(), [1], timeout_s=5)


def test_stop_gives_up_the_call_in_flight(address: str, stand_in: Any) -> None:
    stand_in.delay_s = 60
    stop = threading.Event()
    with Control(address, stop=stop) as control:
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        with pytest.raises(TritonUnreachable, match="we are stopping"):
            control.load("m", config(), [1], timeout_s=60)
        timer.join()
