from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog import CatdogError
from catdog.data.metadata import OWN_COLUMNS, Metadata, read_metadata


def _read(text: str | bytes, name: str = "pets/metadata.csv") -> Metadata:
    content = text.encode() if isinstance(text, str) else text
    return read_metadata([(name, content)])


def test_names_are_relative_to_the_folder_of_the_table():
    found = _read("file_name,camera,place\ncat/1.jpg,old,home\n.\\cat\\2.jpg,new,\n")
    assert found.columns == ("camera", "place")
    assert found.of("pets/cat/1.jpg") == ("old", "home")
    assert found.of("pets/cat/2.jpg") == ("new", "")
    assert found.of("cat/1.jpg") == ("", "")
    found = _read("file_name,camera\ncafé.jpg,old\n", "metadata.csv")
    apart = unicodedata.normalize("NFD", "café.jpg")
    assert found.of(apart) == ("old",)


def test_what_a_spreadsheet_saves_is_read():
    assert _read("path,camera\n1.jpg,old\n").known == {"pets/1.jpg": {"camera": "old"}}
    assert _read('\ufefffile_name , camera\r\n1.jpg,"a, b"\r\n\r\n2.jpg\r\n').known == {
        "pets/1.jpg": {"camera": "a, b"},
        "pets/2.jpg": {"camera": ""},
    }
    padded = _read("file_name,camera\n1.jpg,old,,\n,\n\n2.jpg\n,,,\n3.jpg,\n", "metadata.csv")
    assert [padded.of(f"{n}.jpg") for n in range(1, 4)] == [("old",), ("",), ("",)]
    assert len(padded.known) == 3


def test_tables_of_several_folders_share_their_columns():
    tables = [
        ("a/metadata.csv", b"file_name,camera\n1.jpg,old\n"),
        ("b/metadata.csv", b"file_name,place,camera\n1.jpg,home,new\n"),
    ]
    found = read_metadata(tables)
    assert found.columns == ("camera", "place")
    assert (found.of("a/1.jpg"), found.of("b/1.jpg")) == (("old", ""), ("new", "home"))


def test_a_table_of_something_else_is_said_and_not_used(said):
    found = read_metadata([("metadata.csv", b"id;name\n1;x\n")])
    assert (found, said) == (
        Metadata(),
        ["metadata.csv has no column file_name and is not used."],
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"file_name,camera\n1.jpg,\xff\n", "not UTF-8"),
        ("file_name,camera\n1.jpg,a,b\n", "a row has more fields"),
        ('file_name,camera\n1.jpg,"a', "unexpected end of data"),
        ("file_name,camera\n1.jpg," + 200_000 * "x", "field larger"),
    ],
)
def test_a_table_that_can_not_be_used_is_one_sentence(text, said):
    with pytest.raises(CatdogError, match=r"^pets/metadata.csv ") as caught:
        _read(text)
    assert said in str(caught.value)


def test_columns_that_the_manifest_has_are_left_out_and_said(said):
    content = b"file_name,label,camera,width\n1.jpg,cat,old,7\n"
    found = read_metadata([("metadata.csv", content)])
    assert found.columns == ("camera",)
    assert found.of("1.jpg") == ("old",)
    assert said == ["metadata.csv: width is not used, the manifest has its own."]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(content):
    try:
        found = read_metadata([("metadata.csv", content)])
    except CatdogError as error:
        assert str(error).startswith("metadata.csv ")
    else:
        assert not set(found.columns) & set(OWN_COLUMNS)
