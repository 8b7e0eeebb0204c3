"""Asking a gateway for one bright image, and who answered."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from PIL import Image

Route = Callable[..., Any]
IMAGE = np.full((1, 8, 8, 1), 250, np.uint8)


def tensor() -> Any:
    made = triton.InferInput("image", IMAGE.shape, "UINT8")
    made.set_data_from_numpy(IMAGE)
    return made


def png() -> str:
    file = io.BytesIO()
    Image.fromarray(IMAGE[0, :, :, 0]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def body(**parameters: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": IMAGE.shape, "datatype": "UINT8", "data": IMAGE.ravel().tolist()}
    return {"inputs": [tensor]} | ({"parameters": parameters} if parameters else {})


async def infer(gateway: Any, name: str = "tiny", *, headers: Any = None, **parameters: Any) -> Any:
    return await gateway.client.post(f"/v2/models/{name}/infer", json=body(**parameters), headers=headers)


async def who(gateway: Any, name: str = "tiny", **headers: str) -> str:
    answer = await infer(gateway, name, headers=headers)
    assert answer.status_code == 200, answer.text
    return f"{answer.json()['model_name']}/{answer.json()['model_version']}"
