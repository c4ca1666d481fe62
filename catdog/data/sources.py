"""Step 1: the name of a data set → an archive or a folder of pictures on this disk.

In: Kaggle's archive through Kaggle's own client, something of the user's own, or nothing
at all, when pictures are drawn. Out: one path. What is not verified whole is never taken
for complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import re
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from catdog import CatdogError
from catdog.data.archive import is_archive_name
from catdog.data.dataset import read_marker

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

logger = logging.getLogger(__name__)

DEFAULT_DATASET = "biaiscience/dogs-vs-cats"
SETTINGS_URL = "https://www.kaggle.com/settings"
RESERVED = re.compile(r"(features|runs|sample(-\d+)?|neither-.*|sweeps\..*)", re.IGNORECASE)
"""What catdog itself keeps in data_dir."""
TOKEN_FILES = ("access_token", "access_token.txt", "credentials.json")

SAMPLE_NOTICE = f"""\
*** THESE ARE DRAWINGS, NOT PHOTOS ***
catdog now trains on a small set of cats and dogs that it draws itself. It shows that
everything works, but its accuracy says nothing about photos.
For real photos do one of these, then run the same command again:
  - make a token at {SETTINGS_URL} (API), and save it as ~/.kaggle/access_token
    or set it as KAGGLE_API_TOKEN: the data set {DEFAULT_DATASET} is then downloaded
  - give an archive or a folder of photos: -P dataset=PATH"""


@dataclass(frozen=True)
class Source:
    """Where pictures come from, before any of them is here.

    `name` is that of the folder below data_dir, `path` the archive or the folder that
    `fetch` makes exist, `origin` what is remembered of it.
    """

    name: str
    kind: Literal["kaggle", "path", "sample"]
    path: Path
    origin: str


def locate(dataset: str, data_dir: Path, *, seed: int) -> Source:
    """Say where a data set comes from and where it will be; no network, nothing written.

    Args:
        dataset: "auto", "kaggle", "kaggle:OWNER/NAME", "sample", or a path.
        data_dir: for what is downloaded or drawn.
        seed: of the drawn sample.

    Raises:
        CatdogError: the path does not exist, or OWNER/NAME is malformed.
    """
    if dataset == "auto":
        dataset = "kaggle" if has_kaggle_credentials() else "sample"
    if dataset == "sample":
        name = f"sample-{seed}" if seed else "sample"
        return Source(name, "sample", data_dir / name / "raw", f"sample:seed={seed}")
    if dataset == "kaggle" or dataset.startswith("kaggle:"):
        return _kaggle_source(dataset.partition(":")[2] or DEFAULT_DATASET, data_dir)
    path = Path(dataset)
    if not path.exists():
        raise CatdogError(
            f"dataset={dataset} does not exist: give auto, kaggle, kaggle:OWNER/NAME, sample, "
            "or the path of an archive or a folder of pictures."
        )
    origin = str(path.resolve())
    return Source(_name_of(path, origin, data_dir), "path", path, origin)


def fetch(source: Source, *, seed: int) -> Path:
    """Make `source.path` exist and return it; what is there whole is not fetched again.

    Raises:
        CatdogError: Kaggle can't be reached or refuses, what came is damaged, or the
            folder can't be written.
    """
    if source.kind == "sample":
        from catdog.sample.dataset import draw_sample

        return draw_sample(source.path, seed=seed)
    if source.kind == "kaggle":
        _fetch_from_kaggle(source.origin.partition(":")[2], source.path)
    return source.path


def has_kaggle_credentials() -> bool:
    """Whether credentials stand in one of the places where Kaggle's client looks for them."""
    env, home = os.environ, Path.home()
    config = home / ".kaggle"
    if not config.exists():
        config = Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    files = [
        Path(env.get("KAGGLE_CONFIG_DIR") or config) / "kaggle.json",
        *(home / ".kaggle" / name for name in TOKEN_FILES),
    ]
    return bool(
        env.get("KAGGLE_API_TOKEN")
        or (env.get("KAGGLE_USERNAME") and env.get("KAGGLE_KEY"))
        or any(path.is_file() for path in files)
    )


def _kaggle_source(slug: str, data_dir: Path) -> Source:
    if not re.fullmatch(r"[\w-]+/[\w-]+", slug, re.ASCII):
        raise CatdogError(
            f"dataset=kaggle:{slug} is not the name of a Kaggle data set: write "
            f"kaggle:OWNER/NAME as in its address, kaggle:{DEFAULT_DATASET} for one."
        )
    name = slug.replace("/", "-")
    path = data_dir / name / "raw" / f"{slug.partition('/')[2]}.zip"
    return Source(name, "kaggle", path, f"kaggle:{slug}")


def _name_of(path: Path, origin: str, data_dir: Path) -> str:
    """What the prepared folder is called: as the path, unless that name is taken."""
    name = path.resolve().name
    if is_archive_name(name):
        name = re.sub(r"(\.tar)?\.\w+$", "", name)
    name = re.sub(r"[^\w.-]", "_", name).strip(".") or "pictures"
    if (
        RESERVED.fullmatch(name)
        or (read_marker(data_dir / name) or {}).get("origin", origin) != origin
    ):
        return f"{name}-{hashlib.sha256(os.fsencode(origin)).hexdigest()[:8]}"
    return name


def _fetch_from_kaggle(slug: str, archive: Path) -> None:
    """Download a data set's archive, unless it is there whole; a part of it is gone on with."""
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(archive.with_name(f".{archive.name}.lock")):
            if not archive.exists():
                _download_verified(slug, archive)
    except OSError as error:  # requests' errors are OSErrors, too
        raise CatdogError(_explanation(error, slug, archive)) from error


def _download_verified(slug: str, archive: Path) -> None:
    # The client resumes what it finds here; it gets its final name when verified.
    part = archive.parent / "incoming" / archive.name
    client = _authenticated_client(slug)
    # The client can take an error page for the first bytes and go on from there: so once more.
    for start_over in (False, True):
        _download(client, slug, part, force=start_over)
        damage = _damage(part)
        if not damage:
            part.replace(archive)
            return
        logger.warning(f"{part} came damaged ({damage})")
    raise CatdogError(
        f"Kaggle's archive of {slug} came damaged twice ({damage}): "
        f"try again later, or give an archive of your own with -P dataset=PATH."
    )


def _authenticated_client(slug: str) -> KaggleApi:
    """Kaggle's client, logged in. It prints its help and calls exit() when it has no login."""
    if not has_kaggle_credentials():
        raise CatdogError(
            f"dataset=kaggle:{slug} needs a Kaggle token and none was found: make one at "
            f"{SETTINGS_URL} (API), and save it as ~/.kaggle/access_token or set KAGGLE_API_TOKEN."
        )
    with contextlib.redirect_stdout(io.StringIO()):
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        try:
            api.authenticate()
        except SystemExit as error:
            raise CatdogError(
                "Kaggle did not accept the token that was found, it may have expired, or it is a "
                "string in kaggle.json, which holds a username and a key: make another at "
                f"{SETTINGS_URL} (API), and save it as ~/.kaggle/access_token."
            ) from error
    return api


def _download(api: KaggleApi, slug: str, target: Path, *, force: bool) -> None:
    target.parent.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for answers
        try:
            api.dataset_download_files(slug, path=str(target.parent), force=force, quiet=False)
        except ValueError as error:
            # A file of the wrong size: what is there is looked at, and fetched anew.
            logger.warning(f"download of {slug}: {error}")


def _damage(archive: Path) -> str | None:
    """What is wrong with a zip archive; None when each member has the sum it should have."""
    try:
        with zipfile.ZipFile(archive) as opened:
            broken = opened.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, FileNotFoundError) as error:
        return str(error)
    return f"{broken} has a wrong checksum" if broken else None


def _explanation(error: OSError, slug: str, archive: Path) -> str:
    """What went wrong with a download, and what to do, in one sentence."""
    page = f"https://www.kaggle.com/datasets/{slug}"
    own = "give an archive of your own with -P dataset=PATH"
    status = getattr(getattr(error, "response", None), "status_code", None)
    by_status = {
        401: f"Kaggle refused the token (401) for {slug}: make another at {SETTINGS_URL} (API), "
        "and save it as ~/.kaggle/access_token.",
        403: f"Kaggle does not let you download {slug} (403): open {page} while logged in, "
        f"accept its rules, and run this again, or {own}.",
        404: f"Kaggle knows no data set {slug} (404): check the name, as in {page}.",
        429: f"Kaggle was asked too often (429) for {slug}: wait some minutes and run this again.",
    }
    if status in by_status:
        return by_status[status]
    if status is not None:
        return f"Kaggle can't serve {slug} now ({status}): run this again later, or {own}."
    if error.errno == errno.ENOSPC:
        return (
            f"the disk is full, {slug} is not whole in {archive.parent}: free some space and run "
            "this again, it goes on where it stopped, or choose another folder with --data_dir."
        )
    if type(error).__module__.startswith(("requests", "urllib3")):
        return (
            f"Kaggle can't be reached to download {slug} ({type(error).__name__}): check the "
            f"network and run this again, it goes on where it stopped, or {own}."
        )
    return (
        f"{error.filename or archive.parent} can't be written ({error.strerror or error}): "
        "choose another folder with --data_dir."
    )
