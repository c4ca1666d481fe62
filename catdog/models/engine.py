"""The frozen backbone at the speed of the device: pictures in, float32 features out.

On a CPU that is OpenVINO, some eight times as fast as PyTorch's eager mode, else ONNX
Runtime; either is used only when its features agree with PyTorch's. On a GPU it is PyTorch.

There is one precision, float32, for what the head learns from, what is judged and what is
served: so each picture is computed once, and a model answers elsewhere as it did here. What the
engines of a CPU run is a `Portable`; it is made on every device and travels with the model.
"""

from __future__ import annotations

import copy
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

from catdog import parallel
from catdog.models.device import pick_device

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
    `expected`, `(CHECKED, D)`, is what PyTorch gives on a CPU for `noise(size_px)`.
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
    portable: Portable | None = None


def pick_engine(network: Network, *, cores: int) -> Engine:
    """The fastest engine for the device that `network` is on, checked on one batch."""
    portable = export(network)
    if next(network.parameters()).device.type == "cpu":
        if portable is not None and (engine := fastest(portable, cores=cores)):
            return engine
        logger.info("Features are computed by PyTorch, which takes several times as long.")
    return torch_engine(network, portable)


def engine_for(portable: Portable | None, network: Callable[[], Network], asked: str) -> Engine:
    """The engine that answers on the device that was asked for as the training process did.

    `auto` is the CPU where the backbone is portable: starting a GPU takes seconds, and decoding
    the photos bounds what it could save. It is to be asked for by name.
    """
    cores = parallel.cores()
    if portable is not None and asked in ("auto", "cpu"):
        engine = fastest(portable, cores=cores)
        if engine is not None:
            return engine
    device, _ = pick_device(asked)
    engine = torch_engine(network().to(device), portable)
    if portable is None or device.type == "cpu":
        return engine
    if largest_difference(portable, engine) <= TOLERANCE:
        return engine
    logger.info(f"{device.type} is not used: its features differ from those of the training.")
    return fastest(portable, cores=cores) or torch_engine(network().cpu(), portable)


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
    # Left to itself it computes in bfloat16 where the processor can.
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": cores,
        "INFERENCE_NUM_THREADS": cores,
    }
    compiled = core.compile_model(model, "CPU", settings)
    requests: SimpleQueue[Any] = SimpleQueue()
    for _ in range(cores):
        requests.put(compiled.create_infer_request())

    def compute(images: Tensor) -> Features:
        request = requests.get()
        try:
            # The output belongs to the request, which writes its next answer over it.
            rows = [
                request.infer([image[None]], share_inputs=True)[0].copy()
                for image in images.contiguous().numpy()
            ]
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
    """The backbone in ONNX Runtime, for a processor or a graph that OpenVINO does not take.

    Several single-threaded calls side by side beat one call on all cores, and decoding fits
    between them.
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


def torch_engine(network: Network, portable: Portable | None = None) -> Engine:
    """The backbone in PyTorch as it stands, on whatever device it is."""
    device = next(network.parameters()).device

    def compute(images: Tensor) -> Features:
        images = images.pin_memory() if device.type == "cuda" else images
        with torch.inference_mode():
            features = network.features(images.to(device, non_blocking=True))
            return features.float().cpu().numpy()

    # Two callers keep a GPU busy: one's pictures are on their way while the other's are computed.
    callers, batch = (2, 64) if device.type == "cuda" else (1, 32)
    return Engine(f"pytorch-{device.type}", compute, callers, batch, portable)


def largest_difference(portable: Portable, engine: Engine) -> float:
    """How far the engine's features are from PyTorch's on a batch of noise, at most."""
    return float(np.abs(engine.compute(noise(portable.size_px)) - portable.expected).max())


def noise(size_px: int) -> Tensor:
    """The pictures that engines are compared on, `(CHECKED, 3, size_px, size_px) uint8`."""
    generator = torch.Generator().manual_seed(0)
    shape = (CHECKED, 3, size_px, size_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def export(network: Network) -> Portable | None:
    """The backbone of `network` in ONNX, with what a CPU says to check it by.

    None, with a line that says why, for a backbone that ONNX can't hold.
    """
    if next(network.parameters()).device.type != "cpu":
        network = copy.deepcopy(network).cpu()
    size_px = network.preprocessing.crop_px
    try:
        onnx = to_onnx(_Backbone(network).eval(), size_px, ["features"])
    except Exception as error:  # the exporter knows as many ways to fail as there are models
        logger.info(f"ONNX can't hold this backbone ({_first_line(error)}).")
        return None
    with torch.inference_mode():
        return Portable(onnx, network.features(noise(size_px)).numpy(), size_px)


class _Backbone(nn.Module):
    """Uint8 pictures to features, so that normalising is part of the exported graph."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)


def to_onnx(module: nn.Module, size_px: int, outputs: list[str]) -> bytes:
    """A module on the CPU that takes `(N, 3, size_px, size_px) uint8`, as an ONNX graph.

    Raises:
        Exception: whatever the exporter stumbles on.
    """
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The newer exporter takes 13 s where this one takes 0.6 s, for the same speed after.
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, size_px, size_px, dtype=torch.uint8),),
            stream,  # type: ignore[arg-type]  # the older exporter takes a stream, too
            input_names=["images"],
            output_names=outputs,
            dynamic_axes={name: {0: "count"} for name in ("images", *outputs)},
            opset_version=17,
            dynamo=False,
        )
    return stream.getvalue()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
