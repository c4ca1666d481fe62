from __future__ import annotations

import copy
import importlib.util
import io
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from catdog import NEITHER, CatdogError
from catdog.data.images import to_tensor
from catdog.data.transforms import evaluation_transform
from catdog.inference.classifier import Classifier, ScoringHead
from catdog.inference.prediction import Options
from catdog.serving.export import PILLOW_LIMIT, check, export
from tests.conftest import encoded, tiny_picture


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "card.md").write_text("# A card\n")
    return export(classifier, folder / "new", card=folder / "card.md")


@pytest.fixture(scope="module")
def example(exported) -> ModuleType:
    """The example that the export carries, as a module."""
    spec = importlib.util.spec_from_file_location("example", exported / "example.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _photo(name: str = "dog", size: tuple[int, int] = (320, 230)) -> Image.Image:
    return tiny_picture(name, 7).resize(size, Image.Resampling.BICUBIC)


def _half_transparent() -> Image.Image:
    photo = _photo().convert("RGBA")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    return photo


def _grey(kind: type[np.generic], white: float) -> Image.Image:
    grey = np.asarray(_photo().convert("L")) * (white / 255)
    return Image.fromarray(grey.astype(kind))


def _rotated(orientation: int, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x9204] = -0.5
    odd = encoded(_photo(), form, quality=95, exif=exif)
    # The exposure becomes a fraction of nought.
    odd = odd.replace(bytes.fromhex("9204000c00000001"), bytes.fromhex("9204000a00000001"))
    return odd.replace(bytes.fromhex("bfe0000000000000"), bytes.fromhex("ffffffff00000000"))


KINDS = {
    "plain.jpg": encoded(_photo("cat"), quality=95),
    "cmyk.jpg": encoded(_photo().convert("CMYK"), quality=95),
    "tall.png": encoded(_photo(size=(200, 333)), "PNG"),
    "transparent.png": encoded(_half_transparent(), "PNG"),
    "palette-transparent.png": encoded(_photo().quantize(32), "PNG", transparency=3),
    "16-bit.png": encoded(_grey(np.uint16, 65_535), "PNG"),
    "12-bit.png": encoded(_grey(np.uint16, 4_095), "PNG"),
    "float.tif": encoded(_grey(np.float32, 1), "TIFF"),
    "strip.png": encoded(_photo(size=(1200, 100)), "PNG"),
    "tall-strip.jpg": encoded(_photo(size=(100, 1200)), quality=95),
    "moving.gif": encoded(_photo(), "GIF", save_all=True, append_images=[_photo("cat")]),
    "rotated.jpg": _rotated(6),
    "rotated.tif": _rotated(6, "TIFF"),
}


def _pixels(classifier: Classifier, contents: list[bytes]) -> np.ndarray:
    transform = evaluation_transform(classifier.preprocessing)
    return torch.stack([transform(to_tensor(content)) for content in contents]).numpy()


def test_the_graph_gives_the_classifiers_answers_on_the_same_pixels(classifier, example):
    contents = list(KINDS.values())
    found = example.SESSION.run(None, {"images": _pixels(classifier, contents)})
    expected = classifier.predict(contents)
    assert [out.dtype for out in found] == [np.float32, np.float32]
    assert found[0] == pytest.approx([one.p_positive for one in expected], abs=1e-4)
    assert found[1] == pytest.approx([one.familiarity for one in expected], abs=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_the_example_answers_as_the_classifier_does_from_the_same_pixels_but_for_rounding(
    classifier, example, name, tmp_path
):
    (tmp_path / name).write_bytes(KINDS[name])
    with Image.open(tmp_path / name) as photo:
        found = example.prepare(example.upright(photo))
    difference = np.abs(found.astype(int) - _pixels(classifier, [KINDS[name]])[0])
    assert found.dtype == np.uint8
    assert difference.max() <= 1
    assert difference.mean() < 0.005
    answer, (expected,) = example.classify(tmp_path / name), classifier.predict([KINDS[name]])
    assert answer["p_dog"] == pytest.approx(expected.p_positive, abs=PILLOW_LIMIT)
    assert answer["familiarity"] == pytest.approx(expected.familiarity, abs=PILLOW_LIMIT)


@pytest.mark.parametrize("crop_mode", ["squash", "border"])
@pytest.mark.parametrize("name", ["plain.jpg", "tall.png", "strip.png"])
def test_the_example_resizes_as_other_backbones_want_it(
    classifier, example, monkeypatch, crop_mode, name
):
    monkeypatch.setitem(example.WANTED, "crop_mode", crop_mode)
    with Image.open(io.BytesIO(KINDS[name])) as photo:
        found = example.prepare(photo)
    preprocessing = replace(classifier.preprocessing, crop_mode=crop_mode)
    expected = evaluation_transform(preprocessing)(to_tensor(KINDS[name])).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_example_calls_a_photo_neither_below_the_same_familiarity(
    classifier, example, tmp_path, monkeypatch
):
    (tmp_path / "photo.jpg").write_bytes(KINDS["plain.jpg"])
    (certain,) = classifier.predict([KINDS["plain.jpg"]], Options(reject=False))
    for threshold, label in ((0.0, certain.label), (1.0, NEITHER)):
        monkeypatch.setitem(example.WANTED, "reject_below", threshold)
        assert example.classify(tmp_path / "photo.jpg")["label"] == label


def test_the_folder_needs_nothing_of_ours(exported, tmp_path):
    assert sorted(path.name for path in exported.iterdir()) == [
        *("catdog", "example.py", "model.onnx", "model_card.md", "preprocessing.json"),
    ]
    assert (exported / "model_card.md").read_text() == "# A card\n"
    (tmp_path / "cat.jpg").write_bytes(KINDS["plain.jpg"])
    # A finder before all others, which knows only what a bare interpreter would have.
    code = (
        "import importlib.abc, runpy, sys\n"
        "class Bare(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'timm', 'mlflow', 'catdog'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Bare())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(exported / "example.py"), "cat.jpg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.startswith("cat.jpg {'label': 'cat', 'p_dog': "), ended.stderr


def test_an_export_passes_its_check_and_that_of_another_model_is_removed(
    classifier, exported, monkeypatch, tmp_path
):
    from catdog.serving import export as module

    monkeypatch.setattr(module, "neither_pictures", lambda: list(KINDS.items()))
    assert check(classifier, exported)[0] < 1e-4
    head = classifier.head
    other = copy.copy(classifier)
    other.head = ScoringHead(head.weight, head.bias + 1, head.novelty)
    wrong = Path(shutil.copytree(exported, tmp_path / "wrong"))
    with pytest.raises(CatdogError, match="would not answer as the model does"):
        check(other, wrong)
    assert not wrong.exists()


def test_a_folder_with_something_in_it_is_left_alone_and_a_file_in_its_place_is_told(
    classifier, tmp_path
):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CatdogError, match=r"mine.txt can't be written: File exists\.$"):
        export(classifier, tmp_path / "mine.txt")
    with pytest.raises(CatdogError, match="is not empty: name a new folder with --to"):
        export(classifier, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
