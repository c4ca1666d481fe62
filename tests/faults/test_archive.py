"""Archives"""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from catdog.data.dataset import load_dataset
from tests.conftest import encoded, tiny_picture

GOOD = {
    f"{name}/{number}.jpg": encoded(tiny_picture(name, number))
    for name in ("cat", "dog")
    for number in range(4)
}
PHOTO = encoded(tiny_picture("cat", 9))
OTHER = encoded(tiny_picture("cat", 10))
Members = list[tuple[str, bytes]]


def zipped(members: Members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)  # as the name stands: ZipInfo() would clean it
    return stream.getvalue()


def tarred(members: Members) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", errors="surrogateescape") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


BOTH = pytest.mark.parametrize(
    ("pack", "name"), [(zipped, "pets.zip"), (tarred, "pets.tar.gz")], ids=["zip", "tar"]
)


@pytest.fixture
def prepare(run, tmp_path, untouched):
    """A function that prepares an archive, given as bytes and name."""

    def prepare(content: bytes, name: str = "pets.zip"):
        given = tmp_path / "given"
        given.mkdir(exist_ok=True)
        (given / name).write_bytes(content)
        (given / "mine.jpg").write_bytes(b"mine")  # what an archive would like to overwrite
        untouched(given)
        return run("prepare", "--dataset", given / name, "--data_dir", tmp_path / "data")

    return prepare


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data" / "pets"


def _refused(ended, folder: Path, *said: str) -> None:
    """One sentence, status 2, and nothing that looks prepared."""
    assert ended.status == 2
    for words in said:
        assert words in ended.sentence
    assert [path.name for path in folder.iterdir() if path.name != ".lock"] == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@BOTH
def test_a_truncated_archive_is_refused(prepare, folder, share, pack, name):
    content = pack(list(GOOD.items()))
    ended = prepare(content[: int(share * len(content))], name)
    _refused(ended, folder, f"{name} is not a whole zip or tar archive", "get it again")


@pytest.mark.parametrize("member", ["../mine.jpg", "cat/../../mine.jpg", "..\\mine.jpg"])
@BOTH
def test_a_member_with_dots_in_its_name_is_refused(prepare, folder, member, pack, name):
    ended = prepare(pack([*GOOD.items(), (member, PHOTO)]), name)
    _refused(ended, folder, f"{name} is refused: its member", "outside of its folder")


@pytest.mark.parametrize("member", ["{given}/mine.jpg", "C:/mine.jpg", "\\\\host\\mine.jpg"])
@BOTH
def test_a_member_with_an_absolute_name_is_refused(prepare, folder, tmp_path, member, pack, name):
    member = member.format(given=tmp_path / "given")
    ended = prepare(pack([*GOOD.items(), (member, PHOTO)]), name)
    _refused(ended, folder, f"{name} is refused: its member", "outside of its folder")


def test_a_link_in_a_zip_is_refused(prepare, folder):
    stream = io.BytesIO(zipped(list(GOOD.items())))
    with zipfile.ZipFile(stream, "a") as archive:
        info = zipfile.ZipInfo("cat/link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    _refused(prepare(stream.getvalue()), folder, "cat/link.jpg", "is a link or a device")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_link_or_a_device_in_a_tar_is_refused(prepare, folder, kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("cat/link.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    ended = prepare(stream.getvalue(), "pets.tar")
    _refused(ended, folder, "cat/link.jpg", "is a link or a device")


def test_a_bomb_is_refused_before_it_is_unpacked(prepare, folder):
    content = zipped([*GOOD.items(), ("cat/bomb.jpg", bytes(50_000_000))])
    assert len(content) < 100_000
    _refused(prepare(content), folder, "cat/bomb.jpg", "swells to 50,000,000 bytes")


def test_a_third_level_of_archives_is_refused(prepare, folder):
    inner = zipped([("b.zip", zipped([("c.zip", zipped(list(GOOD.items())))]))])
    _refused(prepare(inner), folder, "is an archive in an archive in an archive: unpack it first")


def test_an_encrypted_archive_is_refused(prepare, folder):
    content = bytearray(zipped(list(GOOD.items())))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    _refused(prepare(bytes(content)), folder, "pets.zip is encrypted", "give the folder")


@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>"])
def test_what_is_no_archive_is_refused(prepare, folder, content):
    _refused(prepare(content), folder, "pets.zip is not a whole zip or tar archive")


def _kept(ended, folder: Path, contents: set[bytes]) -> None:
    """Both pictures are prepared, under names of their own."""
    assert ended.status == 0
    prepared = load_dataset(folder)
    rows = [*prepared.rows("training"), *prepared.rows("validation")]
    assert len({row["path"].casefold() for row in rows}) == len(rows) == len(GOOD) + len(contents)
    assert contents <= {(folder / row["path"]).read_bytes() for row in rows}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@BOTH
def test_of_two_members_of_the_same_name_both_are_kept(prepare, folder, pack, name):
    ended = prepare(pack([*GOOD.items(), ("cat/a.jpg", PHOTO), ("cat/a.jpg", OTHER)]), name)
    _kept(ended, folder, {PHOTO, OTHER})


@BOTH
def test_names_that_differ_only_in_case_are_kept_apart(prepare, folder, pack, name):
    ended = prepare(pack([*GOOD.items(), ("cat/a.jpg", PHOTO), ("cat/A.JPG", OTHER)]), name)
    _kept(ended, folder, {PHOTO, OTHER})


def test_names_that_are_not_utf8_are_kept(prepare, folder):
    foreign = b"cat/\xff\xfe\xe9.jpg".decode("utf-8", "surrogateescape")
    _kept(prepare(tarred([*GOOD.items(), (foreign, PHOTO)]), "pets.tar.gz"), folder, {PHOTO})


def test_names_in_a_zip_that_are_in_no_known_encoding_are_kept(prepare, folder):
    content = zipped([*GOOD.items(), ("cat/XX.jpg", PHOTO)]).replace(b"cat/XX", b"cat/\xe9\x81")
    _kept(prepare(content), folder, {PHOTO})
