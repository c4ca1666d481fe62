from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog import CLASSES, CatdogError
from catdog.data.classes import (
    LONGEST,
    as_outside,
    classes_in,
    folded,
    label_of,
    probability_name,
    read_classes,
    split_of_folder,
)

INSECTS = ("ant", "bee")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("auto", None),
        ("bee,ant", ("bee", "ant")),
        (" Ant , BEE ", ("ant", "bee")),
        ("Golden Retriever,golden-eagle", ("golden_retriever", "golden_eagle")),
        ("Bär,Hündin", ("bär", "hündin")),
        ("0,1", ("0", "1")),
    ],
)
def test_two_words_name_the_classes_the_negative_one_first(typed, expected):
    assert read_classes(typed) == expected


@pytest.mark.parametrize(
    "typed",
    [
        *("ant", "ant,bee,wasp", "ant,", "../ant,bee", "ant/bee,wasp", "ant,_", "ant,neither"),
        *("train,bus", f"ant,{'b' * (LONGEST + 1)}", "ant,Ant", "big-ant,big_ant", "a,b,../c"),
    ],
)
def test_what_names_no_two_classes_is_one_sentence(typed):
    with pytest.raises(CatdogError, match=r"two classes.*-P classes=ant,bee") as refused:
        read_classes(typed)
    assert str(refused.value).startswith(f"classes={typed} ")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *((f"in/{folder}/1.jpg", "ant") for folder in ("ant", "ANT", "ants", "Ants")),
        *((f"train/{file}.jpg", "bee") for file in ("bee.0", "BEES (3)", "bee-4", "bee_12")),
        ("bees/ants/1.jpg", "ant"),
        ("bee/ant.1.jpg", "bee"),
        ("antelope.1.jpg", ""),
        ("been/1.jpg", ""),
        *((f"{file}.jpg", "") for file in ("ant.bee.1", "bees_and_ants (2)", "ant-vs-bee")),
        ("ant.bee-keeper.2.jpg", ""),
        ("ant.beech.2.jpg", "ant"),
        ("ant.zip/1.jpg", ""),
    ],
)
def test_the_nearest_folder_says_the_class_and_else_the_file(name, label):
    assert label_of(name, INSECTS) == label


@pytest.mark.parametrize(
    ("split", "folders"),
    [
        ("training", "train Training train-set TRAINING_SET train2017 train_images training.zip"),
        ("validation", "val valid Validation-Set validation_set val_set dev eval validate val.zip"),
        ("test", "test TEST test1 Test__Set test-set testing_set testset holdout held-out"),
        ("", "tests_of_mine pretrain value cat 2017 set trained_on best"),
    ],
)
def test_folders_of_splits_are_known_however_they_are_spelled(split, folders):
    for folder in folders.split():
        assert split_of_folder(folder.replace("__", " ")) == split, folder


def test_a_class_whose_name_begins_another_is_not_taken_for_it():
    classes = ("ant", "ant_lion")
    assert label_of("ant_lion.3.jpg", classes) == "ant_lion"
    assert label_of("Ant Lions/3.jpg", classes) == "ant_lion"
    assert label_of("ant.3.jpg", classes) == "ant"
    assert label_of("ants/3.jpg", ("ant", "ants")) == "ants"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/cat.1.jpg", "train/dog.1.jpg"], CLASSES),
        (["Cats/1.jpg", "Dogs/2.jpg", "fox/1.jpg"], CLASSES),
        (["hymenoptera/train/bees/1.jpg", "hymenoptera/val/Ants/2.jpg"], ("ants", "bees")),
        (["train/ant/1.jpg", "val/ants/1.jpg", "train/bee/2.jpg"], CLASSES),
        (["in.zip/ant/1.jpg", "in.zip/bee/2.jpg"], INSECTS),
        (["cat/1.jpg", "horse/1.jpg"], ("cat", "horse")),
        (["cat/1.jpg", "cat/2.jpg"], CLASSES),
        (["1.jpg", "train/2.jpg"], CLASSES),
        ([], CLASSES),
    ],
)
def test_the_names_in_a_source_say_which_classes_it_has(names, expected):
    assert classes_in(names) == expected
    assert classes_in(reversed(names)) == expected


def test_the_probability_is_called_after_class_1_and_stays_in_its_place():
    record = {"label": "bee", "p_positive": 0.9, "error": ""}
    assert probability_name(CLASSES) == "p_dog"
    assert list(as_outside(record, INSECTS).items())[1] == ("p_bee", 0.9)


@given(st.text(max_size=30))
def test_a_folded_name_holds_nothing_that_a_path_or_a_column_could_misread(name):
    made = folded(name)
    assert made == "" or made.isidentifier() or made.replace("_", "").isalnum()
    assert folded(made) == made
