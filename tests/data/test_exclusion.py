from __future__ import annotations

import hashlib
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from catdog.data.exclusion import Exclusion, Named, read_exclusion

SHA = hashlib.sha256(b"a cat").hexdigest()


def test_comments_blank_lines_and_repetitions_are_passed_over(tmp_path):
    path = tmp_path / "exclude.txt"
    lines = ["\ufeff# mine", "", "a/cat.1.jpg  # a fox", ".\\b\\cat#2.jpg", "./a/cat.1.jpg", SHA]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    assert read_exclusion(str(path)).lines == ("a/cat.1.jpg", "b/cat#2.jpg", SHA)


def test_none_excludes_nothing():
    assert read_exclusion("none") == Exclusion()
    assert Exclusion().digest is None


def test_the_order_of_lines_does_not_matter_to_the_digest():
    assert Exclusion(("a", "b")).digest == Exclusion(("b", "a")).digest
    assert Exclusion(("a", "b")).digest != Exclusion(("a",)).digest


def test_a_path_of_the_manifest_wins_over_the_same_path_of_the_source():
    pictures = [
        Named("training/cat/1.jpg", ("other/cat/1.jpg",), "0" * 64),
        Named("validation/cat/1.jpg", ("training/cat/1.jpg",), "1" * 64),
    ]
    assert Exclusion(("training/cat/1.jpg",)).choose(pictures) == ({"training/cat/1.jpg"}, [])
    assert Exclusion(("other/cat/1.jpg",)).choose(pictures) == ({"training/cat/1.jpg"}, [])


def test_a_line_names_what_macos_spells_with_its_accents_apart():
    apart = unicodedata.normalize("NFD", "cat/café.jpg")
    pictures = [Named("training/cat/1.jpg", (apart,), "0" * 64)]
    assert Exclusion(("cat/café.jpg",)).choose(pictures) == ({"training/cat/1.jpg"}, [])
    pictures.append(Named("training/cat/2.jpg", ("cat/café.jpg",), "1" * 64))
    assert Exclusion(("cat/café.jpg",)).choose(pictures) == ({"training/cat/2.jpg"}, [])


@given(st.integers(0, 64), st.booleans())
def test_twelve_digits_of_a_digest_name_a_picture_and_fewer_do_not(digits, upper):
    line = SHA[:digits].upper() if upper else SHA[:digits]
    chosen, unmatched = Exclusion((line,)).choose([Named("p", ("s",), SHA)])
    assert (chosen, unmatched) == (({"p"}, []) if digits >= 12 else (set(), [line]))
