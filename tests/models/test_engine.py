from __future__ import annotations

import copy
import dataclasses
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from catdog.models import engine as module
from catdog.models.backbone import PACKAGED
from catdog.models.device import pick_device
from catdog.models.engine import (
    Portable,
    export,
    fastest,
    largest_difference,
    onnx_engine,
    openvino_engine,
    pick_engine,
    torch_engine,
)
from catdog.models.network import Network, build_network


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(PACKAGED).eval()


@pytest.fixture(scope="module")
def portable(network) -> Portable:
    return export(network)


def _images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8)


@pytest.mark.parametrize("make", [openvino_engine, onnx_engine])
def test_a_runtime_gives_pytorchs_features(network, portable, make):
    engine = make(portable, cores=2)
    assert engine.portable is portable
    assert largest_difference(portable, engine) < module.TOLERANCE
    images = _images(5)  # another number than the example of the export
    expected = network.features(images).numpy()
    assert np.abs(engine.compute(images) - expected).max() < module.TOLERANCE


def test_a_feature_is_the_same_to_the_last_bit_in_whatever_company(portable):
    engine = openvino_engine(portable, cores=2)
    images = _images(6)
    together = engine.compute(images)
    alone = np.concatenate([engine.compute(image[None]) for image in images])
    assert np.array_equal(together, alone)


def test_calls_side_by_side_do_not_mix_their_answers(portable):
    engine = openvino_engine(portable, cores=2)
    chunks = _images(24).split(2)
    expected = [engine.compute(chunk) for chunk in chunks]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.compute, chunks))
    assert np.array_equal(np.concatenate(found), np.concatenate(expected))


def test_on_a_cpu_openvino_is_picked(said, network):
    assert pick_engine(network, cores=2).name == "openvino"
    assert said == []


def test_onnx_runtime_stands_in_where_openvino_is_not_installed(said, network, monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'openvino'")

    monkeypatch.setattr(module, "_openvino", absent)
    assert pick_engine(network, cores=2).name == "onnxruntime"
    assert len(said) == 1
    assert said[0].startswith("OpenVINO can't run this backbone (")


def test_pytorch_is_picked_with_a_line_when_the_export_fails(said, network, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", broken)
    engine = pick_engine(network, cores=2)
    assert engine.name == "pytorch-cpu"
    assert said == [
        "ONNX can't hold this backbone (no such operator).",
        "Features are computed by PyTorch, which takes several times as long.",
    ]
    images = _images(2)
    assert np.array_equal(engine.compute(images), network.features(images).numpy())


def test_an_engine_is_not_used_when_its_features_differ(said, network, portable, monkeypatch):
    right = openvino_engine(portable, cores=1)
    wrong = dataclasses.replace(right, compute=lambda images: right.compute(images) + 0.01)
    monkeypatch.setattr(module, "openvino_engine", lambda *_args, **_options: wrong)
    assert pick_engine(network, cores=2).name == "onnxruntime"
    assert said[0].startswith("OpenVINO is not used: its features differ from PyTorch's by 1.0e-02")


def test_a_portable_backbone_of_another_machine_is_checked_here_too(said, portable):
    assert fastest(portable, cores=1).name == "openvino"
    elsewhere = dataclasses.replace(portable, expected=portable.expected + 0.01)
    assert fastest(elsewhere, cores=1) is None
    assert len(said) == 2


def test_openvinos_core_outlives_every_engine(portable):
    # One that goes leaves a freed stack to the handlers of signals.
    core = weakref.ref(module._openvino())
    engine = openvino_engine(portable, cores=1)
    del engine
    gc.collect()
    assert module._openvino() is core()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_backbones_of_every_kind_are_exported(name):
    network = build_network(name, weights="none").eval()
    assert pick_engine(network, cores=1).name == "openvino"


def test_a_backbone_whose_way_depends_on_the_picture_is_computed_by_pytorch(said):
    class Fickle(nn.Module):
        def forward(self, pixels):
            # The export is made with a black picture, and follows only the way that it takes.
            return pixels.mean((2, 3)) + (1.0 if float(pixels.std()) > 0.1 else 0.0)

    network = build_network("test_resnet", weights="none")
    network.backbone = Fickle()
    assert pick_engine(network.eval(), cores=1).name == "pytorch-cpu"
    assert len(said) == 3


def test_pytorch_keeps_cudnn_and_computes_convolutions_exactly(network):
    pick_device("cpu")
    seen = []

    def note(*_args):
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))

    with network.backbone.register_forward_pre_hook(note):
        torch_engine(network).compute(_images(1))
    assert seen == [(True, False)]


class _Elsewhere(Network):
    """A network that says it is on another device, which rounds what it computes there."""

    @classmethod
    def of(cls, network: Network) -> Network:
        twin = copy.deepcopy(network)
        twin.__class__ = cls
        twin.moved = False
        return twin

    def parameters(self, recurse=True):
        if self.moved:
            return super().parameters(recurse)
        return iter([torch.nn.Parameter(torch.zeros(1, device="meta"))])

    def cpu(self):
        self.moved = True
        return self

    def features(self, images):
        features = super().features(images.to("cpu"))
        return features if self.moved else features + 0.016


def test_an_export_says_what_a_cpu_computes_wherever_the_network_is(network):
    there = _Elsewhere.of(network)
    expected = network.features(module.noise(224)).numpy()
    assert np.array_equal(export(there).expected, expected)
    assert not there.moved  # it is a copy that moves


def test_a_network_on_any_other_device_is_exported_too(network):
    engine = pick_engine(_Elsewhere.of(network), cores=1)
    assert engine.name == "pytorch-meta"
    assert largest_difference(engine.portable, fastest(engine.portable, cores=1)) < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_features_are_those_of_a_cpu(network):
    pick_device("cuda")
    images = _images(4)
    expected = torch_engine(network).compute(images)
    engine = pick_engine(copy.deepcopy(network).to("cuda"), cores=1)
    assert np.abs(engine.compute(images) - expected).max() < module.TOLERANCE
    assert largest_difference(engine.portable, engine) < module.TOLERANCE
