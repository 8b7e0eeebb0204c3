from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from contract import Repository
from contract.triton import model_config, plain_reason


def test_the_config_is_what_triton_would_read(tiny_repository: Repository) -> None:
    contract = tiny_repository.contract("tiny", 1)
    config = model_config_pb2.ModelConfig()
    text_format.Parse(model_config(contract, "onnxruntime", [3, 2]), config)
    assert config.name == "tiny"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 8
    assert (config.input[0].name, list(config.input[0].dims)) == ("image", [8, 8, 1])
    assert config.output[0].data_type == model_config_pb2.TYPE_FP32
    assert list(config.version_policy.specific.versions) == [2, 3]
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert [(w.batch_size, list(w.inputs["image"].dims)) for w in config.model_warmup] == [
        (1, [8, 8, 1]),
        (8, [8, 8, 1]),
    ]

    text_format.Parse(model_config(contract, "tensorrt", [1]), config := model_config_pb2.ModelConfig())
    assert config.platform == "tensorrt_plan"
    assert config.default_model_filename == "model.plan"


def test_a_reason_keeps_what_happened_and_drops_the_traceback() -> None:
    reason = "Internal: TritonModelException: m/1/model.onnx\n can't be loaded\n\nAt:\n  /srv/model.py(3): f\n"
    assert plain_reason(reason) == "m/1/model.onnx can't be loaded"
    assert len(plain_reason("x" * 10_000)) == 500
