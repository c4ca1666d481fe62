from __future__ import annotations

import copy
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from catdog.models import engine as module
from catdog.models.device import pick_device
from catdog.models.engine import (
    TOLERANCE,
    Portable,
    engine_for,
    export,
    largest_difference,
    onnx_engine,
    openvino_engine,
    pick_engine,
)
from catdog.models.network import Network, build_network


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build_network("test_resnet", weights="none").eval()


@pytest.fixture(scope="module")
def portable(network) -> Portable:
    return export(network)


def _images(network: Network, count: int) -> torch.Tensor:
    side = network.preprocessing.crop_px
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("make", [openvino_engine, onnx_engine])
def test_a_runtime_gives_pytorchs_features(network, portable, make):
    engine = make(portable, cores=2)
    assert engine.portable is portable
    images = _images(network, 5)  # another number than the example of the export
    assert np.abs(engine.compute(images) - network.features(images).numpy()).max() < TOLERANCE


def test_a_feature_is_the_same_to_the_last_bit_in_whatever_company(network, portable):
    engine = openvino_engine(portable, cores=2)
    images = _images(network, 24)
    with ThreadPoolExecutor(4) as pool:
        side_by_side = np.concatenate(list(pool.map(engine.compute, images.split(2))))
    alone = np.concatenate([engine.compute(image[None]) for image in images])
    assert np.array_equal(side_by_side, alone)


def test_onnx_runtime_stands_in_where_openvino_is_not_installed(said, network, monkeypatch):
    assert pick_engine(network, cores=2).name == "openvino"
    assert said == []

    def absent():
        raise ModuleNotFoundError("No module named 'openvino'")

    monkeypatch.setattr(module, "_openvino", absent)
    assert pick_engine(network, cores=2).name == "onnxruntime"
    assert said == ["OpenVINO can't run this backbone (No module named 'openvino')."]


def test_pytorch_is_picked_with_a_line_when_the_export_fails(said, network, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", broken)
    engine = pick_engine(network, cores=2)
    assert (engine.name, engine.portable) == ("pytorch-cpu", None)
    assert said == [
        "ONNX can't hold this backbone (no such operator).",
        "Features are computed by PyTorch, which takes several times as long.",
    ]
    images = _images(network, 2)
    assert np.array_equal(engine.compute(images), network.features(images).numpy())


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_backbones_of_other_kinds_are_exported_too(name):
    assert pick_engine(build_network(name, weights="none").eval(), cores=1).name == "openvino"


def test_a_backbone_whose_way_depends_on_the_picture_is_computed_by_pytorch(said):
    class Fickle(nn.Module):
        def forward(self, pixels):
            # The export is made with a black picture, and follows only the way that it takes.
            return pixels.mean((2, 3)) + (1.0 if float(pixels.std()) > 0.1 else 0.0)

    network = build_network("test_resnet", weights="none")
    network.backbone = Fickle()
    assert pick_engine(network.eval(), cores=1).name == "pytorch-cpu"
    assert said[0].startswith("OpenVINO is not used: its features differ from PyTorch's by 1.0")
    assert len(said) == 3


@pytest.mark.parametrize(
    ("asked", "difference", "name"),
    [("auto", 0.0, "openvino"), ("cuda", 0.0, "gpu"), ("cuda", 0.1, "openvino")],
)
def test_a_saved_backbone_runs_on_the_cpu_unless_a_gpu_that_agrees_is_asked_for(
    network, portable, monkeypatch, asked, difference, name
):
    on_gpu = types.SimpleNamespace(name="gpu")
    monkeypatch.setattr(module, "pick_device", lambda _: (torch.device("meta"), "as asked"))
    monkeypatch.setattr(module, "torch_engine", lambda *_: on_gpu)
    monkeypatch.setattr(
        module, "largest_difference", lambda _, engine: difference if engine is on_gpu else 0.0
    )
    assert engine_for(portable, lambda: copy.deepcopy(network), asked).name == name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_features_are_those_of_a_cpu(network):
    pick_device("cuda")
    images = _images(network, 4)
    engine = pick_engine(copy.deepcopy(network).to("cuda"), cores=1)
    assert np.abs(engine.compute(images) - network.features(images).numpy()).max() < TOLERANCE
    assert largest_difference(engine.portable, engine) < TOLERANCE
