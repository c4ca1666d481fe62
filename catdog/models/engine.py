"""The frozen backbone at the speed of the device: pictures in, features out.

On a CPU that is OpenVINO, some eight times as fast as PyTorch's eager mode, else ONNX
Runtime; either is used only when its features agree with PyTorch's. On a GPU it is PyTorch.

What the engines of a CPU run is a `Portable`: the same bytes compute the features that the
head learns from, travel in the registered model, and compute there.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:  # whoever runs a portable backbone need not wait for timm
    from catdog.models.network import Network

logger = logging.getLogger(__name__)

Features = NDArray[np.float32]

TOLERANCE = 1e-3
"""The largest difference between an engine's feature and PyTorch's that is let pass."""

CHECKED = 4
"""Pictures of noise on which an engine is compared with PyTorch."""


@dataclass(frozen=True)
class Portable:
    """A frozen backbone that runs without its Python code.

    `onnx` takes `images`, `(N, 3, S, S) uint8`, and gives `features`, `(N, D) float32`;
    `expected`, `(CHECKED, D)`, is what PyTorch gives for `noise(size_px)`.
    """

    onnx: bytes
    expected: Features
    size_px: int


@dataclass(frozen=True)
class Engine:
    """A way to compute features.

    `compute` takes `(N, 3, S, S) uint8` on the CPU and returns `(N, D) float32`; up to
    `callers` threads may call it at once. `batch` is the number of pictures it likes.
    """

    name: str
    compute: Callable[[Tensor], Features]
    callers: int
    batch: int
    precision: str = "float32"
    portable: Portable | None = None


def pick_engine(network: Network, *, cores: int) -> Engine:
    """The fastest engine for the device that `network` is on, checked on one batch."""
    device = next(network.parameters()).device
    if device.type == "cuda":
        return cuda_engine(network)
    if device.type == "cpu":
        engine = _portable_engine(network, cores)
        if engine is not None:
            return engine
        logger.info("Features are computed by PyTorch, which takes several times as long.")
    return torch_engine(network)


def fastest(portable: Portable, *, cores: int) -> Engine | None:
    """The fastest of a CPU's engines that gives PyTorch's features here; None when none does."""
    for name, make in (("OpenVINO", openvino_engine), ("ONNX Runtime", onnx_engine)):
        try:
            engine = make(portable, cores=cores)
            difference = largest_difference(portable, engine)
        except Exception as error:  # whatever the runtime stumbles on
            logger.info(f"{name} can't run this backbone ({_first_line(error)}).")
            continue
        if difference <= TOLERANCE:
            return engine
        logger.info(f"{name} is not used: its features differ from PyTorch's by {difference:.1e}.")
    return None


def openvino_engine(portable: Portable, *, cores: int) -> Engine:
    """The backbone in OpenVINO, compiled for one picture at a time, a core for each.

    One at a time is faster than any batch on a core's own cache, and makes a feature the same
    in whatever company the picture comes.
    """
    core = _openvino()
    model = core.read_model(portable.onnx)
    model.reshape([1, 3, portable.size_px, portable.size_px])
    compiled = core.compile_model(
        model,
        "CPU",
        {
            # Left to itself it computes in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
        },
    )
    requests: SimpleQueue[Any] = SimpleQueue()
    for _ in range(cores):
        requests.put(compiled.create_infer_request())

    def compute(images: Tensor) -> Features:
        request = requests.get()
        try:
            # The output belongs to the request, which writes its next answer over it.
            rows = [request.infer([image], share_inputs=True)[0].copy() for image in _ones(images)]
        finally:
            requests.put(request)
        return np.concatenate(rows)

    return Engine("openvino", compute, callers=cores, batch=8, portable=portable)


@functools.cache
def _openvino() -> Any:
    """OpenVINO's core, kept as long as the process lives.

    When it goes, it frees the stack that it has set for signal handlers and leaves it set: the
    next signal, of Ctrl-C or of a child that ends, is then a segmentation fault.
    """
    import openvino

    return openvino.Core()


def onnx_engine(portable: Portable, *, cores: int) -> Engine:
    """The backbone in ONNX Runtime, one thread for each call, a call for each core.

    Several single-threaded calls side by side beat one call on all cores (121 against 88
    pictures a second on two cores), and decoding fits between them.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        portable.onnx, options, providers=["CPUExecutionProvider"]
    )

    def compute(images: Tensor) -> Features:
        features: Features = session.run(None, {"images": images.numpy()})[0]
        return features

    return Engine("onnxruntime", compute, callers=cores, batch=8, portable=portable)


def torch_engine(network: Network) -> Engine:
    """The backbone in PyTorch as it stands, on whatever device it is, in single precision."""
    device = next(network.parameters()).device

    def compute(images: Tensor) -> Features:
        # A GPU would round the factors of convolutions to ten bits, and answer otherwise.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            return network.features(images.to(device)).float().cpu().numpy()

    return Engine(f"pytorch-{device.type}", compute, callers=1, batch=32)


def cuda_engine(network: Network) -> Engine:
    """The backbone in bfloat16 on the GPU, fed from pinned memory.

    For the features that the head learns from; what is evaluated and served is computed in
    float32, so that the answers are those of a CPU.
    """
    device = next(network.parameters()).device

    def compute(images: Tensor) -> Features:
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16):
            features = network.features(images.pin_memory().to(device, non_blocking=True))
            return features.float().cpu().numpy()

    return Engine("pytorch-cuda-bf16", compute, callers=2, batch=256, precision="bfloat16")


def largest_difference(portable: Portable, engine: Engine) -> float:
    """How far the engine's features are from PyTorch's on a batch of noise, at most."""
    return float(np.abs(engine.compute(noise(portable.size_px)) - portable.expected).max())


def noise(size_px: int) -> Tensor:
    """The pictures that engines are compared on, `(CHECKED, 3, size_px, size_px) uint8`."""
    generator = torch.Generator().manual_seed(0)
    shape = (CHECKED, 3, size_px, size_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def export(network: Network) -> Portable:
    """The backbone of `network` as it stands, in ONNX, with what PyTorch says to check it by.

    Raises:
        Exception: whatever the exporter stumbles on.
    """
    size_px = network.preprocessing.crop_px
    device = next(network.parameters()).device
    with torch.inference_mode():
        expected = network.features(noise(size_px).to(device)).cpu().numpy()
    return Portable(_to_onnx(network, size_px), expected, size_px)


def _portable_engine(network: Network, cores: int) -> Engine | None:
    try:
        portable = export(network)
    except Exception as error:  # the exporter knows as many ways to fail as there are models
        logger.info(f"ONNX can't hold this backbone ({_first_line(error)}).")
        return None
    return fastest(portable, cores=cores)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _ones(images: Tensor) -> list[NDArray[np.uint8]]:
    return [image[None] for image in images.contiguous().numpy()]


class _Backbone(nn.Module):
    """Uint8 pictures to features, so that normalising is part of the exported graph."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)


def _to_onnx(network: Network, size_px: int) -> bytes:
    device = next(network.parameters()).device
    example = torch.zeros(2, 3, size_px, size_px, dtype=torch.uint8, device=device)
    stream = io.BytesIO()
    silent = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silent):
        warnings.simplefilter("ignore")
        # The newer exporter takes 13 s where this one takes 0.6 s, for the same speed after.
        torch.onnx.export(
            _Backbone(network).eval(),
            (example,),
            stream,  # type: ignore[arg-type]  # the older exporter takes a stream, too
            input_names=["images"],
            output_names=["features"],
            dynamic_axes={"images": {0: "count"}, "features": {0: "count"}},
            opset_version=17,
            dynamo=False,
        )
    return stream.getvalue()
