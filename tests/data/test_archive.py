from __future__ import annotations

import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catdog import CatdogError
from catdog.data import archive
from tests.conftest import encoded, tiny_picture

PHOTO = encoded(tiny_picture("cat", 0))
GOOD = [
    (f"{name}/{n}.jpg", encoded(tiny_picture(name, n))) for name in ("cat", "dog") for n in "12"
]
Members = list[tuple[str, bytes]]


def zipped(members: Members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            opened.writestr(info, content)  # as the name stands: ZipInfo() would clean it
    return stream.getvalue()


def tarred(members: Members, mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, errors="surrogateescape") as opened:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return stream.getvalue()


BOTH = pytest.mark.parametrize(
    ("pack", "name"), [(zipped, "pets.zip"), (tarred, "pets.tar.gz")], ids=["zip", "tar"]
)


def _wanted(path: Path) -> dict[str, bytes]:
    return {
        name: read()
        for name, read in archive.members(path)
        if archive.is_image_name(name) or archive.is_table_name(name)
    }


def _read(tmp_path: Path, content: bytes, name: str = "pets.zip") -> dict[str, bytes]:
    path = tmp_path / name
    path.write_bytes(content)
    return _wanted(path)


@BOTH
def test_pictures_and_tables_come_with_their_names_and_what_systems_leave_does_not(
    tmp_path, pack, name
):
    shown = [("cat/1.jpg", PHOTO), ("metadata.csv", b"file_name,x\n")]
    hidden = ["notes.txt", "other.csv", ".m/metadata.csv"]
    hidden += [f"{one}/cat/1.jpg" for one in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "#recycle")]
    hidden += [f"cat/{one}/1.jpg" for one in (".ipynb_checkpoints", ".AppleDouble", "THMBNL")]
    hidden += ["cat/._1.jpg", "cat/~$1.jpg", "lost+found/1.jpg", "System Volume Information/1.jpg"]
    found = _read(tmp_path, pack([*shown, *((one, b"no") for one in hidden)]), name)
    assert found == {f"{name}/{one}": content for one, content in shown}


def test_archives_in_an_archive_or_a_folder_are_read_too(tmp_path):
    content = zipped([("train.zip", zipped([("train/cat.0.jpg", PHOTO)]))])
    assert _read(tmp_path, content) == {"pets.zip/train.zip/train/cat.0.jpg": PHOTO}
    (tmp_path / "pets.zip").unlink()
    (tmp_path / "train.zip").write_bytes(zipped([("cat.0.jpg", PHOTO)]))
    assert _wanted(tmp_path) == {"train.zip/cat.0.jpg": PHOTO}


def _encrypted() -> bytes:
    content = bytearray(zipped(GOOD))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _lying_about_its_size() -> bytes:
    content = bytearray(zipped([("cat/1.jpg", PHOTO)]))
    header = content.index(b"PK\x01\x02")
    for at in (20, 24):  # compressed and real size in the central directory
        content[header + at : header + at + 4] = (len(PHOTO) // 2).to_bytes(4, "little")
    return bytes(content)


def _cut_between_two_members() -> bytes:
    member = 512 + -(-len(PHOTO) // 512) * 512
    return tarred([(f"cat/{number}.jpg", PHOTO) for number in range(3)], "w")[: 2 * member]


def _deflate64() -> bytes:
    content = bytearray(zipped(GOOD))
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(mark) + at] = 9
    return bytes(content)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_deflate64, "compression method.*or unpack it and give the folder"),
        (lambda: b"7z\xbc\xaf\x27\x1c\0\4" + bytes(200), "or unpack it and give the folder"),
        (lambda: b"Rar!\x1a\x07\0" + bytes(200), "or unpack it and give the folder"),
        (lambda: b"", "pets.zip is not a whole zip or tar archive"),
        (lambda: b"<html>sign in</html>", "not a whole zip or tar archive"),
        (_lying_about_its_size, "not a whole zip or tar archive"),
        (_cut_between_two_members, r"not a whole zip or tar archive \(it was cut off\)"),
        (_encrypted, "pets.zip is encrypted: unpack it, and give the folder"),
        (lambda: zipped([("cat/b.jpg", bytes(50_000_000))]), "swells to 50,000,000 bytes"),
        (
            lambda: zipped([("b.zip", zipped([("c.zip", zipped(GOOD))]))]),
            "pets.zip/b.zip/c.zip is an archive in an archive in an archive: unpack it first",
        ),
    ],
)
def test_an_archive_that_can_not_be_trusted_or_read_is_refused(tmp_path, make, said):
    with pytest.raises(CatdogError, match=said):
        _read(tmp_path, make())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@BOTH
def test_a_truncated_archive_is_refused(tmp_path, share, pack, name):
    content = pack(GOOD)
    with pytest.raises(
        CatdogError, match=f"{name} is not a whole zip or tar archive.*get it again"
    ):
        _read(tmp_path, content[: int(share * len(content))], name)


@BOTH
def test_a_member_of_absurd_size_is_refused(tmp_path, monkeypatch, pack, name):
    monkeypatch.setattr(archive, "MAX_BYTES", 5)
    with pytest.raises(CatdogError, match="says it has 12 bytes, more than a picture has"):
        _read(tmp_path, pack([("metadata.csv", b"file_name,x\n")]), name)


def _link_in_a_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        info = zipfile.ZipInfo("cat/link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(info, "/etc/passwd")
    return stream.getvalue()


def _in_a_tar(kind: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for name in ("cat/link.jpg", "cat/link.zip"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            opened.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("make", "content"),
    [
        (_link_in_a_zip, b"/etc/passwd"),
        *((lambda kind=kind: _in_a_tar(kind), b"") for kind in (b"1", b"2", b"3")),
    ],
)
def test_a_link_or_a_device_is_never_followed(tmp_path, make: Callable[[], bytes], content):
    assert _read(tmp_path, make()) == {"pets.zip/cat/link.jpg": content}


members = st.lists(
    st.tuples(
        st.text(st.sampled_from("ab./\\:~ é\x00\x01\udcff"), min_size=1, max_size=8)
        | st.sampled_from(["cat/1.jpg", "a.jpg", "A.JPG", "../a.jpg", "/a.jpg", "b.zip", "a/"]),
        st.sampled_from([b"", PHOTO, PHOTO[:40], b"PK\x03\x04", bytes(2000)]),
    ),
    max_size=6,
)


def _packed(kind: str, chosen: Members) -> bytes:
    try:
        return (zipped if kind == "zip" else tarred)(chosen)
    except (UnicodeEncodeError, ValueError, tarfile.TarError):  # a name that no archive can have
        return b""


@pytest.mark.filterwarnings("ignore:Duplicate name")
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
        _wanted(path)
    except CatdogError as error:
        assert str(error).startswith("pets.")
    assert [below.name for below in tmp_path.iterdir()] == ["given"]
    assert [below.name for below in path.parent.iterdir()] == [path.name]
