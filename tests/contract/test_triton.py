from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from contract import Repository
from contract.schema import AxisRange
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


def test_a_model_without_a_batch_axis_is_told_so(tiny_repository: Repository) -> None:
    contract = tiny_repository.contract("tiny", 1)
    alone = contract.model_copy(update={"batched": False, "batch": AxisRange(min=1, opt=1, max=1)})
    text_format.Parse(model_config(alone, "onnxruntime", [1]), config := model_config_pb2.ModelConfig())
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [warmup.batch_size for warmup in config.model_warmup] == [1]
    zeros_fail = contract.model_copy(update={"takes_zeros": False})
    text_format.Parse(model_config(zeros_fail, "onnxruntime", [1]), config := model_config_pb2.ModelConfig())
    assert not config.model_warmup


def test_a_name_says_nothing_but_itself(tiny_repository: Repository) -> None:
    """Names of tensors are the model's own: one must not write into the configuration."""
    hostile = 'x" } ] max_batch_size: 99 input [ { name: "\\é\n'
    contract = tiny_repository.contract("tiny", 1)
    outputs = (contract.outputs[0].model_copy(update={"name": hostile}),)
    text = model_config(contract.model_copy(update={"outputs": outputs}), "onnxruntime", [1])
    text_format.Parse(text, config := model_config_pb2.ModelConfig())
    assert (config.output[0].name, config.max_batch_size) == (hostile, 8)
