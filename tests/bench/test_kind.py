import json
from email.message import Message
from pathlib import Path

import numpy as np
import pytest

from bench.environment import PEERS
from bench.error import LoadError, WrongAnswer
from bench.kind import BINARY_HEADER, TITLES, compare, plain_json, predict, v2_binary, v2_grpc, v2_json
from bench.model import Model, make_model

URL = "http://127.0.0.1:1/"


@pytest.fixture
def tiny(tmp_path: Path) -> Model:
    return make_model("tiny", tmp_path, tmp_path)


def test_json_carries_short_numbers_and_is_read_back(tiny: Model) -> None:
    kind = v2_json("triton-json", URL, tiny)
    (tensor,) = json.loads(kind.bodies[0])["inputs"]
    assert np.array_equal(np.array(tensor["data"], np.float32), tiny.sample.ravel())
    assert max(len(str(value)) for value in tensor["data"]) <= 7
    kind.verify(json.dumps({"outputs": [{"data": tiny.scores.ravel().tolist()}]}).encode(), Message())
    with pytest.raises(WrongAnswer, match="expected the scores"):
        kind.verify(b'{"outputs": [{"data": [0, 0, 0, 0]}]}', Message())


def test_binary_carries_the_tensor_behind_its_description(tiny: Model) -> None:
    kind = v2_binary("triton-binary", URL, tiny)
    length = int(kind.headers[BINARY_HEADER])
    described = json.loads(kind.bodies[0][:length])
    assert described["inputs"][0]["parameters"] == {"binary_data_size": 64}
    assert kind.bodies[0][length:] == tiny.sample.tobytes()
    headers = Message()
    headers[BINARY_HEADER] = "2"
    kind.verify(b"{}" + tiny.scores.tobytes(), headers)
    with pytest.raises(WrongAnswer):
        kind.verify(b"{}" + (tiny.scores + 1).tobytes(), headers)


def test_grpc_carries_the_raw_tensor(tiny: Model) -> None:
    request = v2_grpc("triton-grpc", "127.0.0.1:1", tiny).request
    assert (request.model_name, list(request.inputs[0].shape)) == ("tiny", [1, 16])
    assert list(request.raw_input_contents) == [tiny.sample.tobytes()]


def test_predict_sends_the_files_and_wants_the_label(tmp_path: Path) -> None:
    photo = make_model("photo", tmp_path, tmp_path)
    kind = predict(URL, photo)
    assert kind.bodies == photo.files
    kind.verify(json.dumps({"predictions": [{"label": photo.label}]}).encode(), Message())
    with pytest.raises(WrongAnswer, match="expected 'label"):
        kind.verify(b'{"predictions": [{"label": "cat"}]}', Message())


@pytest.mark.parametrize("nested", [False, True])
def test_plain_json_is_flat_or_a_batch(tiny: Model, nested: bool) -> None:
    kind = plain_json("mosec", URL, tiny, lambda answer: answer, nested=nested)
    assert np.shape(json.loads(kind.bodies[0])["x"]) == ((1, 16) if nested else (16,))


@pytest.mark.parametrize("got", [[], [1.0], "nothing", [[1.0, 2.0, 3.0]]])
def test_scores_of_another_shape_or_kind_are_wrong(got: object) -> None:
    with pytest.raises((WrongAnswer, ValueError)):
        compare(got, np.array([[1.0, 2.0]]))


def test_a_server_that_isn_t_there_is_an_error_of_ours(tiny: Model) -> None:
    with pytest.raises(LoadError, match="expected an answer"):
        v2_json("triton-json", URL, tiny).check()
    with pytest.raises(LoadError, match="UNAVAILABLE"):
        v2_grpc("triton-grpc", "127.0.0.1:1", tiny).check()


def test_every_peer_is_pinned_and_has_a_title_a_module_and_ports_of_its_own() -> None:
    ports = [peer.port + i for peer in PEERS for i in range(3)]
    assert len(set(ports)) == len(ports)
    assert all(18000 <= port < 20000 for port in ports)
    for peer in PEERS:
        assert peer.id in TITLES
        assert peer.requirement.startswith(f"{peer.id}==")
        assert Path("bench/peer", f"{peer.id}.py").is_file()
