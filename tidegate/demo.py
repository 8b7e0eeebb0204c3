"""Real traffic for the demo: test images that training never saw, over HTTP and over gRPC."""

import io
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from tidegate.error import AskError
from tidegate.stack import Stack, addresses
from training.recipe import Recipe, find

NUM_IMAGES = 512
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one kind of traffic."""

    how: str
    num_images: int
    num_right: int
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Samples:
    """Test images `[N, height, width]` with their labels `[N]`."""

    images: NDArray[np.uint8]
    targets: NDArray[np.int64]
    labels: tuple[str, ...]


def show(stack: Stack, recipe_name: str, console: Console, data_dir: Path | None = None) -> None:
    """Send real images to a running stack, and say what came of it and where to look."""
    recipe = find(recipe_name)
    samples = load_samples(recipe, data_dir)
    stack.wait_for(recipe.model)
    paths = write_images(samples, stack.state / "demo")
    table = Table("sent", "images", "right", "p50", title="real test images", title_justify="left", box=None)
    with console.status("sending real test images over HTTP and gRPC"):
        for sent in (
            send_http(stack.url, recipe.model, samples),
            send_grpc(f"127.0.0.1:{stack.ports.grpc}", recipe.model, samples),
        ):
            right = sent.num_right / sent.num_images
            table.add_row(sent.how, str(sent.num_images), f"{right:.1%}", f"{sent.p50_ms:.1f} ms")
    console.print(table, addresses(stack), sep="\n")
    image = shlex.quote(str(paths[-1].absolute()))
    console.print("\nAsk it yourself:")
    # One line, whatever the terminal's width: it must work when pasted.
    console.out(f"  curl --noproxy '*' -F image=@{image} {stack.url}/v1/models/{recipe.model}/predict", highlight=False)
    console.print("\nCtrl-C stops everything.")


def load_samples(recipe: Recipe, data_dir: Path | None) -> Samples:
    """The first test images of a recipe whose input is a grey image."""
    test = recipe.load(data_dir).test
    labels: tuple[str, ...] = getattr(recipe.postprocess, "labels", ())
    return Samples(test.inputs["image"][:NUM_IMAGES, :, :, 0], np.asarray(test.targets[:NUM_IMAGES]), labels)


def write_images(samples: Samples, folder: Path) -> list[Path]:
    """Write the first image of each label as a PNG file named by it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, label in enumerate(samples.labels):
        first = int(np.argmax(samples.targets == index))
        path = folder / f"{label.lower().replace(' ', '-').replace('/', '-')}.png"
        path.write_bytes(_png(samples.images[first]))
        paths.append(path)
    return paths


def send_http(url: str, model: str, samples: Samples) -> Sent:
    """Send every image as a file of its own; raises AskError."""
    right, latencies_ms = 0, []
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as client:
        for image, target in zip(samples.images, samples.targets, strict=True):
            body = _png(image)
            started = time.perf_counter()
            try:
                answer = client.post(f"/v1/models/{model}/predict", content=body, headers={"content-type": "image/png"})
            except httpx.HTTPError as exc:
                raise AskError(f"the gateway stopped answering: {exc}") from exc
            latencies_ms.append((time.perf_counter() - started) * 1000)
            if answer.status_code != 200:
                raise AskError(f"the gateway answered {answer.status_code}: {answer.text:.200}")
            right += answer.json()["predictions"][0]["label"] == samples.labels[target]
    return Sent("HTTP, PNG files", len(samples.images), right, float(np.median(latencies_ms)))


def send_grpc(address: str, model: str, samples: Samples) -> Sent:
    """Send the same images as V2 tensors with NVIDIA's own client; raises AskError."""
    right, latencies_ms = 0, []
    client: Any = triton.InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)])
    try:
        for image, target in zip(samples.images, samples.targets, strict=True):
            tensor = triton.InferInput("image", (1, *image.shape, 1), "UINT8")
            tensor.set_data_from_numpy(image[None, :, :, None])
            started = time.perf_counter()
            answer = client.infer(model, [tensor], client_timeout=_TIMEOUT_S)
            latencies_ms.append((time.perf_counter() - started) * 1000)
            right += int(answer.as_numpy("logits").argmax() == target)
    except triton.InferenceServerException as exc:
        raise AskError(f"gRPC at {address}: {exc}") from exc
    finally:
        client.close()
    return Sent("gRPC, tensors", len(samples.images), right, float(np.median(latencies_ms)))


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
