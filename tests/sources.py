"""Sources of tiny pictures, and what preparing them gives."""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from catdog.config import PrepareConfig
from catdog.data.dataset import PreparedDataset
from catdog.data.prepare import prepare
from catdog.data.sources import Source
from tests.conftest import encoded, tiny_picture


def fill(folder: Path, *names: str, start: int = 0) -> Path:
    """Draw a picture for each name, of the class in it; every picture has other bytes."""
    for number, name in enumerate(names, start):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        label = "dog" if "dog" in name.lower() else "cat"
        path.write_bytes(encoded(tiny_picture(label, number)))
    return folder


def kaggle_source(folder: Path, count: int = 5) -> Path:
    """Cats and dogs, named as in Kaggle's archive, and two pictures to label."""
    names = [f"train/{label}.{n}.jpg" for label in ("cat", "dog") for n in range(count)]
    return fill(folder, *names, "test/1.jpg", "test/2.jpg")


def insect_source(folder: Path) -> Path:
    """Two other kinds, in a folder for each."""
    for place, (name, parent) in enumerate(
        (name, parent)
        for name, parent in (("ant", "train/Ants"), ("bee", "train/bees"))
        for _ in range(5)
    ):
        path = folder / parent / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(tiny_picture(name, place)))
    return folder


def pack(folder: Path, packed: str) -> Path:
    """The same as an archive: "zip", "tar.gz", "zip of zips"; or as it is: "folder"."""
    if packed == "folder":
        return folder
    target = folder.parent / f"raw.{packed.split(maxsplit=1)[0]}"
    if packed == "tar.gz":
        with tarfile.open(target, "w:gz") as opened:
            for path in sorted(folder.iterdir()):
                opened.add(path, path.name)
        return target
    with zipfile.ZipFile(target, "w") as opened:
        for part in sorted(folder.iterdir()):
            if packed == "zip" or part.is_file():
                for path in [part, *sorted(part.rglob("*"))]:
                    opened.write(path, path.relative_to(folder))
            else:
                opened.writestr(f"{part.name}.zip", _zipped(part, folder))
    return target


def _zipped(part: Path, base: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as inner:
        for path in sorted(part.rglob("*")):
            inner.write(path, path.relative_to(base))
    return stream.getvalue()


def prepare_pictures(
    source: Path, folder: Path, *, origin: str = "", **options: Any
) -> PreparedDataset:
    """Prepare an archive or a folder of pictures in `folder`, as from its path where it lies."""
    config = PrepareConfig(data_dir=str(folder.parent), **{"val_fraction": 0.4} | options)
    return prepare(Source(folder.name, "path", source, origin or str(source.resolve())), config)


def rows_of(prepared: PreparedDataset) -> list[dict[str, str]]:
    with prepared.manifest.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def reasons_of(prepared: PreparedDataset) -> dict[str, str]:
    with prepared.quarantine.open(newline="", encoding="utf-8") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def exclude_file(folder: Path, *lines: str) -> str:
    path = folder / "exclude.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
