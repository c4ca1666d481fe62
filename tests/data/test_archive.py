from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catdog import CatdogError
from catdog.data import archive
from tests.conftest import encoded, tiny_picture

PHOTO = encoded(tiny_picture("cat", 0))


def _zip(members: Mapping[str, bytes], **options: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as opened:
        for name, content in members.items():
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it stands: ZipInfo() would clean it
            opened.writestr(info, content, options.get("compression"))
    return stream.getvalue()


def _tar(members: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _plain_tar(members: Mapping[str, bytes]) -> bytes:
    return _tar(members, "w")


def _read(tmp_path: Path, content: bytes, name: str = "pets.zip") -> dict[str, bytes]:
    path = tmp_path / name
    path.write_bytes(content)
    return dict(archive.members(path))


@pytest.mark.parametrize(("pack", "name"), [(_zip, "pets.zip"), (_tar, "pets.tar.gz")])
def test_the_pictures_of_an_archive_come_with_their_names(tmp_path, pack, name):
    content = pack({"cat/1.jpg": PHOTO, "notes.txt": b"no", "__MACOSX/cat/._1.jpg": b"no"})
    assert _read(tmp_path, content, name) == {f"{name}/cat/1.jpg": PHOTO}


def test_archives_in_an_archive_are_read_too(tmp_path):
    inner = _zip({"train/cat.0.jpg": PHOTO})
    assert list(_read(tmp_path, _zip({"train.zip": inner}))) == [
        "pets.zip/train.zip/train/cat.0.jpg"
    ]


def test_archives_in_a_folder_are_read_too(tmp_path):
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle" / "train.zip").write_bytes(_zip({"cat.0.jpg": PHOTO}))
    assert dict(archive.members(tmp_path / "kaggle")) == {"train.zip/cat.0.jpg": PHOTO}


HOSTILE = ["../1.jpg", "/etc/1.jpg", "a/../../1.jpg", "..\\1.jpg", "C:/1.jpg", "\\\\host\\1.jpg"]


def test_a_picture_of_absurd_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_PICTURE_BYTES", len(PHOTO) - 1)
    for content, name in ((_zip({"cat/1.jpg": PHOTO}), "a.zip"), (_tar({"1.jpg": PHOTO}), "a.tgz")):
        with pytest.raises(CatdogError, match="more than a picture has"):
            _read(tmp_path, content, name)


def test_a_member_that_lies_about_its_size_is_told_as_damage(tmp_path):
    content = bytearray(_zip({"cat/1.jpg": PHOTO}))
    header = content.index(b"PK\x01\x02")
    for at in (20, 24):  # compressed and real size in the central directory
        content[header + at : header + at + 4] = (len(PHOTO) // 2).to_bytes(4, "little")
    with pytest.raises(CatdogError, match="is not a whole zip or tar archive"):
        _read(tmp_path, bytes(content))


def test_a_tar_cut_between_two_members_is_told(tmp_path):
    content = _plain_tar({f"cat/{number}.jpg": PHOTO for number in range(3)})
    member = 512 + -(-len(PHOTO) // 512) * 512
    with pytest.raises(CatdogError, match=r"not a whole zip or tar archive \(it was cut off\)"):
        _read(tmp_path, content[: 2 * member], "pets.tar")


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(CatdogError, match=r"gone\.zip does not exist"):
        dict(archive.members(tmp_path / "gone.zip"))


names = st.text(st.sampled_from("ab./\\:~ é\x00\x01"), min_size=1, max_size=12)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names)
def test_a_name_is_refused_or_stays_below_any_folder(tmp_path, name):
    try:
        archive._check_name(name, "pets.zip")
    except CatdogError:
        return
    folder = tmp_path / "below"
    for spelled in (name, name.replace("\\", "/")):
        assert (folder / spelled).resolve().is_relative_to(folder.resolve())


@pytest.mark.parametrize(("pack", "name"), [(_zip, "pets.zip"), (_tar, "pets.tar.gz")])
def test_a_table_of_properties_comes_along_and_a_swollen_one_is_refused(
    tmp_path, monkeypatch, pack, name
):
    content = pack({"metadata.csv": b"file_name,x\n", "other.csv": b"", ".m/metadata.csv": b""})
    assert _read(tmp_path, content, name) == {f"{name}/metadata.csv": b"file_name,x\n"}
    monkeypatch.setattr(archive, "MAX_TABLE_BYTES", 5)
    with pytest.raises(CatdogError, match="12 bytes, more than a table has"):
        _read(tmp_path, content, name)


def test_a_table_in_a_folder_that_is_larger_than_tables_are_is_refused(tmp_path, monkeypatch):
    (tmp_path / "metadata.csv").write_bytes(b"file_name,x\n")
    assert dict(archive.members(tmp_path)) == {"metadata.csv": b"file_name,x\n"}
    monkeypatch.setattr(archive, "MAX_TABLE_BYTES", 5)
    with pytest.raises(CatdogError, match="more bytes than a table has"):
        list(archive.members(tmp_path))


members = st.lists(
    st.tuples(
        st.text(st.sampled_from("ab./\\:~ é\x00\x01\udcff"), min_size=1, max_size=8)
        | st.sampled_from(["cat/1.jpg", "a.jpg", "A.JPG", "../a.jpg", "/a.jpg", "b.zip", "a/"]),
        st.sampled_from([b"", PHOTO, PHOTO[:40], b"PK\x03\x04", bytes(2000)]),
    ),
    max_size=6,
)


def _packed(kind: str, chosen: list[tuple[str, bytes]]) -> bytes:
    try:
        return (_zip if kind == "zip" else _tar)(dict(chosen))
    except (UnicodeEncodeError, ValueError, tarfile.TarError):  # a name that no archive can have
        return b""


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    chosen=members,
    kind=st.sampled_from(["zip", "tar"]),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
)
def test_any_archive_is_read_or_refused_and_writes_nothing(tmp_path, chosen, kind, flips):
    content = bytearray(_packed(kind, chosen))
    for where, value in flips:
        if content:
            content[where % len(content)] = value
    shutil.rmtree(tmp_path / "given", ignore_errors=True)
    path = tmp_path / "given" / f"pets.{kind}"
    path.parent.mkdir()
    path.write_bytes(content)
    try:
        for name, _ in archive.members(path):
            assert ".." not in name.split("/")
    except CatdogError:
        pass
    assert [below.name for below in tmp_path.iterdir()] == ["given"]
    assert [below.name for below in path.parent.iterdir()] == [path.name]
