from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from catdog import engine as module
from catdog.engine import largest_difference, onnx_engine, pick_engine, torch_engine
from catdog.model import PACKAGED, Network, build_network


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(PACKAGED).eval()


def _images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8)


def test_onnx_runtime_gives_pytorchs_features(network):
    engine = onnx_engine(network, cores=2)
    assert largest_difference(network, engine) < module.TOLERANCE
    images = _images(5)  # another number than the example of the export
    expected = network.features(images).numpy()
    assert np.abs(engine.compute(images) - expected).max() < module.TOLERANCE


def test_on_a_cpu_onnx_runtime_is_picked(network):
    said: list[str] = []
    assert pick_engine(network, said.append, cores=2).name == "onnxruntime"
    assert said == []


def test_pytorch_is_picked_with_a_line_when_the_export_fails(network, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", broken)
    said: list[str] = []
    engine = pick_engine(network, said.append, cores=2)
    assert engine.name == "pytorch-cpu"
    assert said == ["ONNX Runtime can't run this backbone (no such operator): using PyTorch."]
    images = _images(2)
    assert np.array_equal(engine.compute(images), network.features(images).numpy())


def test_pytorch_is_picked_with_a_line_when_the_features_differ(network, monkeypatch):
    right = onnx_engine(network, cores=1)
    wrong = dataclasses.replace(right, compute=lambda images: right.compute(images) + 0.01)
    monkeypatch.setattr(module, "onnx_engine", lambda *_args, **_options: wrong)
    said: list[str] = []
    assert pick_engine(network, said.append, cores=2).name == "pytorch-cpu"
    assert said[0].startswith("ONNX Runtime's features differ by 1.0e-02")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_backbones_of_every_kind_are_exported(name):
    network = build_network(name, weights="none").eval()
    assert pick_engine(network, pytest.fail, cores=1).name == "onnxruntime"


def test_a_backbone_whose_way_depends_on_the_picture_is_computed_by_pytorch():
    class Fickle(nn.Module):
        def forward(self, pixels):
            # The export is made with a black picture, and follows only the way that it takes.
            return pixels.mean((2, 3)) + (1.0 if float(pixels.std()) > 0.1 else 0.0)

    network = build_network("test_resnet", weights="none")
    network.backbone = Fickle()
    said: list[str] = []
    assert pick_engine(network.eval(), said.append, cores=1).name == "pytorch-cpu"
    assert len(said) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_features_are_close_to_a_cpus(network):
    images = _images(4)
    expected = torch_engine(network).compute(images)
    engine = pick_engine(network.to("cuda"), pytest.fail, cores=1)
    assert engine.precision == "bfloat16"
    assert np.abs(engine.compute(images) - expected).max() < 0.2
    network.to("cpu")
