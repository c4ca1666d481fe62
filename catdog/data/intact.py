"""Whether a prepared folder still holds what was put there.

People look into it, and may move, edit or add a picture by hand. What is learned must be what
the manifest says, so a change is told before anything is computed from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from catdog import CatdogError
from catdog.data.images import is_image_name
from catdog.files import normal, sha256_of


def check_intact(folder: Path, digests: Mapping[str, str], *, below: Iterable[str]) -> None:
    """Raise CatdogError, naming the file, when a picture was changed, added or deleted.

    Args:
        folder: where the pictures are.
        digests: the SHA-256, in hex, of each picture by its path in `folder`, with `/`.
        below: the sub-folders that must hold no other picture.
    """
    check_unchanged(folder, digests, below=below)
    if lost := next(missing(folder, digests), None):
        raise CatdogError(
            f"{folder / lost} is gone since it was prepared: "
            "run scripts/prepare.py again, which makes it anew."
        )


def check_unchanged(folder: Path, digests: Mapping[str, str], *, below: Iterable[str]) -> None:
    """As `check_intact`, but for pictures that are gone."""
    paths = [folder / path for path in digests]
    with ThreadPoolExecutor() as pool:
        for path, found in zip(paths, pool.map(_digest, paths), strict=True):
            if found not in (None, digests[path.relative_to(folder).as_posix()]):
                raise CatdogError(
                    f"{path} is not the picture that was prepared, its digest differs: delete "
                    "it and run scripts/prepare.py again, which makes it anew. A change of yours "
                    "belongs into the source."
                )
    known = set(map(normal, digests))
    for path in _pictures(folder, below):
        if normal(path.relative_to(folder).as_posix()) not in known:
            raise CatdogError(
                f"{path} was put there after the folder was prepared: move it into the source, "
                "and run scripts/prepare.py again."
            )


def missing(folder: Path, paths: Iterable[str]) -> Iterator[str]:
    """Those of the paths where nothing is."""
    return (path for path in paths if not (folder / path).exists())


def _digest(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CatdogError(
            f"{path} can't be read ({error.strerror or error}): see that it can, or delete it and "
            "run scripts/prepare.py again, which makes it anew."
        ) from error


def _pictures(folder: Path, below: Iterable[str]) -> Iterator[Path]:
    for name in below:
        yield from (path for path in (folder / name).rglob("*") if is_image_name(path))
