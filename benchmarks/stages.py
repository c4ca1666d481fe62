"""Decoding alone, the forward pass alone, and both overlapped, each against its limit.

    python benchmarks/stages.py ARCHIVE [--count 2000] [--repeats 3]

The limit of the overlapped pass is what the two parts would take on the same cores one after
the other. Every figure is the best of `repeats`, taken in turns so that a noisy machine is
noisy for all of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from chart import bars

from catdog.config import PrepareConfig
from catdog.data import images
from catdog.data.dataset import Picture
from catdog.data.images import to_tensor
from catdog.data.prepare import prepare
from catdog.data.sources import Source
from catdog.data.transforms import evaluation_transform
from catdog.models.engine import Engine, export, onnx_engine, openvino_engine, torch_engine
from catdog.models.network import Network, build_network
from catdog.training.feature_cache import FeatureCache
from catdog.training.features import extract


@dataclass(frozen=True)
class Options:
    """What to measure."""

    archive: tyro.conf.Positional[str]
    count: int = 2000
    repeats: int = 3
    picture: str = "docs/benchmark_stages.png"


def main(options: Options) -> None:
    """Measure every stage and print a table."""
    cores = os.cpu_count() or 1
    network = build_network("tf_efficientnet_lite0").eval()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(options.archive)
        prepared = prepare(Source("x", "path", source, ""), PrepareConfig(data_dir=scratch))
        pictures = prepared.pictures("training", "validation")[: options.count]
        stages = _stages(pictures, network, cores, Path(scratch))
        best = dict.fromkeys(stages, float("inf"))
        for _ in range(options.repeats):
            for name, stage in stages.items():
                best[name] = min(best[name], stage())
    _print_table(best, len(pictures), cores)
    speeds = {name: len(pictures) / seconds for name, seconds in best.items()}
    bars(speeds, Path(options.picture), title=f"Stages on {cores} cores", unit="pictures a second")


def _stages(
    pictures: list[Picture], network: Network, cores: int, scratch: Path
) -> dict[str, Callable[[], float]]:
    contents = [picture.path.read_bytes() for picture in pictures]
    plain = evaluation_transform(network.preprocessing)
    torch.set_num_threads(1)
    decoded = torch.stack([plain(to_tensor(content)) for content in contents])
    portable = export(network)
    openvino, onnx = openvino_engine(portable, cores=cores), onnx_engine(portable, cores=cores)
    eager = torch_engine(network)
    return {
        "decode + resize, Pillow, 1 core": lambda: _pillow(contents),
        "decode + resize, 1 core": lambda: _timed(
            lambda: [plain(to_tensor(content)) for content in contents]
        ),
        "decode + resize, all cores": lambda: _decode_on_all(contents, plain, cores),
        "forward, PyTorch eager": lambda: _eager(eager, decoded, cores),
        "forward, ONNX Runtime": lambda: _forward(onnx, decoded, cores),
        "forward, OpenVINO (catdog)": lambda: _forward(openvino, decoded, cores),
        "both overlapped (catdog)": lambda: _overlapped(pictures, network, openvino, scratch),
    }


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _pillow(contents: list[bytes]) -> float:
    def look(content: bytes) -> object:
        picture = images.decode(content)
        scale = 256 / min(picture.size)
        return picture.resize([round(side * scale) for side in picture.size], 3)

    return _timed(lambda: [look(content) for content in contents])


def _decode_on_all(contents: list[bytes], plain: Callable, cores: int) -> float:
    with ThreadPoolExecutor(cores) as pool:
        return _timed(lambda: list(pool.map(lambda c: plain(to_tensor(c)), contents)))


def _eager(engine: Engine, decoded: torch.Tensor, cores: int) -> float:
    torch.set_num_threads(cores)
    few = decoded[: max(64, len(decoded) // 8)]  # it is slow, and equally so for each picture
    seconds = _timed(lambda: [engine.compute(batch) for batch in few.split(engine.batch)])
    torch.set_num_threads(1)
    return seconds * len(decoded) / len(few)


def _forward(engine: Engine, decoded: torch.Tensor, cores: int) -> float:
    with ThreadPoolExecutor(cores) as pool:
        return _timed(lambda: list(pool.map(engine.compute, decoded.split(engine.batch))))


def _overlapped(pictures: list[Picture], network: Network, engine: Engine, scratch: Path) -> float:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        cache = FeatureCache(Path(folder))
        return _timed(lambda: extract(pictures, network, engine, cache))


def _print_table(seconds: dict[str, float], count: int, cores: int) -> None:
    print(f"| {count:,} pictures, {cores} cores | seconds | pictures/s |")
    print("|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.2f} | {count / value:.0f} |")
    forward = seconds["forward, OpenVINO (catdog)"]
    overlapped = seconds["both overlapped (catdog)"]
    decode = seconds["decode + resize, all cores"]
    inside = forward / (overlapped - decode)
    print(f"\nForward inside of the pipeline, decoding taken off: {inside:.2f} of its speed alone")
    print(f"Both overlapped take {overlapped / (forward + decode):.2f} of both added up")


if __name__ == "__main__":
    main(tyro.cli(Options, use_underscores=True))
