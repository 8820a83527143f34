"""Labels in any form are the same classes, and what is no label is never a class."""

import numpy as np
import pytest
import torch

from unlabeled.data import from_images
from unlabeled.data.labels import in_order, label_column, numbered


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [
        ([-1, 1, 1, -1], [0, 1, 1, 0], ["-1", "1"]),
        ([-1, 0, 1], [-1, 0, 1], ["0", "1"]),
        ([-2, -1, 0], [0, 1, 2], ["-2", "-1", "0"]),
        ([-1, 5, 7], [0, 1, 2], ["-1", "5", "7"]),
        ([True, False], [1, 0], ["False", "True"]),
        ([0.0, 1.0, float("nan")], [0, 1, -1], ["0", "1"]),
        (["0.0", "1.0", ""], [0, 1, -1], ["0", "1"]),
        (["10", "9", "2"], [2, 1, 0], ["2", "9", "10"]),
        (["007", "7"], [0, 1], ["007", "7"]),
        ([10**30, 5], [1, 0], ["5", str(10**30)]),
        (["b", " a ", None, "nan"], [1, 0, -1, -1], ["a", "b"]),
        (["caf\u00e9", "cafe\u0301", "z"], [0, 0, 1], ["caf\u00e9", "z"]),
        ([b"b", b"a"], [1, 0], ["a", "b"]),
        ([np.int64(3), torch.tensor(9), [3]], [0, 1, 0], ["3", "9"]),
        ([np.True_, np.False_], [1, 0], ["False", "True"]),
        (["cat"] * 3, [0, 0, 0], ["cat"]),
        (["1", 1, "x"], [0, 0, 1], ["1", "x"]),
    ],
)
def test_each_distinct_label_is_a_class_and_empty_ones_are_none(values, labels, classes):
    assert numbered(values)[:2] == (labels, classes)


@pytest.mark.parametrize("values", [[], [None, None], [-1, -1], ["", "nan"], [float("nan")], [[]]])
def test_samples_without_a_label_have_no_labels(values):
    assert numbered(values).labels is None


def test_numbers_point_into_the_names_of_classes_and_others_are_no_label():
    found = numbered([2, 0, -1, 3, None, "b"], ["a", "b", "c"])
    assert found.labels == [2, 0, -1, -1, -1, 1] and found.classes == ["a", "b", "c"]
    assert found.notes == ["2 labels are not among the 3 classes"]


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (["0", "1", "2", "10"], ["0", "1", "10", "2"], [0, 1, 3, 2]),
        (["1", "2"], ["1", "2"], [0, 1]),
        (["2", "0", "3"], ["1", "2", "3"], [1, -1, 2]),
        (["0.5", "1.5"], ["0.5", "1.5"], [0, 1]),
        (["nan", "null", "x"], ["nan", "null", "x"], [0, 1, 2]),
        (["1", "0"], ["a", "b"], [1, 0]),
        ([1, 0], ["3", "5"], [1, 0]),
    ],
)
def test_text_that_is_the_name_of_a_class_is_that_class_and_no_index(values, names, labels):
    assert numbered(values, names).labels == labels


@pytest.mark.parametrize(
    "rows", [[[0, 1, 0], [0, 0, 1]], [(0.0, 1.0), (1.0, 0.0)], list(torch.eye(3)[[1, 0]])]
)
def test_rows_with_a_single_one_are_the_place_of_that_one(rows):
    assert numbered(rows).labels == [
        int(np.argmax(row)) - min(int(np.argmax(row)) for row in rows) for row in rows
    ]


@pytest.mark.parametrize(
    "rows", [[[0, 1], [1, 0, 0]], [[0, 0], [0, 1]], [[0, 2], [1, 0]], [["a", 1], [1, "b"]]]
)
def test_rows_with_none_or_several_ones_are_several_labels(rows):
    assert numbered(rows).labels is None


@pytest.mark.parametrize("text", ["N/A", "NULL", "#n/a", "<NA>"])
def test_texts_that_tables_have_where_there_is_no_label_are_none(text):
    assert numbered(["a", text, "b"]).labels == [0, -1, 1]


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ([0.25, 1.0, 2.0], "labels such as 0.25 are quantities, not classes"),
        (["0.25", "1"], "labels such as 0.25 are quantities, not classes"),
        ([[1, 2], [1]], "several labels for one sample are not supported, got [1, 2]"),
        ([np.array([0, 1, 1])], "several labels for one sample are not supported, got [0, 1, 1]"),
        ([-1, 0, 1], "label -1 beside class indices means no label"),
    ],
)
def test_what_is_no_class_is_said(values, note):
    assert numbered(values).notes == [note]


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        (["image", "Label"], "Label"),
        (["category", "image"], "category"),
        (["Class ID", "x"], "Class ID"),
        (["coarse_label", "fine_label"], "fine_label"),
        (["category", "label"], "label"),
        (["y", "x"], "y"),
        (["image_label", "id"], "image_label"),
        (["left_label", "right_label"], None),
        (["classified_by", "labelled"], None),
        ([], None),
    ],
)
def test_columns_of_labels_are_known_by_usual_names_in_any_case(columns, column):
    assert label_column(columns) == column


def test_a_column_that_is_asked_for_is_taken_or_the_columns_are_listed():
    assert label_column(["label", "Breed of dog"], "breed_of_dog") == "Breed of dog"
    with pytest.raises(ValueError, match=r"label must be a column of x\.csv, which has a, b, got c"):
        label_column(["a", "b"], "c", "x.csv")


def test_classes_that_are_numbers_count_by_their_value():
    assert in_order(["10", "9", "-1"]) == ["-1", "9", "10"] and in_order(["10", "9", "a"]) == ["10", "9", "a"]


def test_names_of_classes_stand_in_for_numbers_where_there_are_any():
    labels = torch.tensor([1, 0, -1, 2])
    data = from_images(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), labels, classes=["cat", "dog"])
    assert data.class_names() == ["dog", "cat", None, "2"]
    assert data.class_names(slice(1, 3)) == ["cat", None]
    data.classes = None
    assert data.class_names() == ["1", "0", None, "2"]
    data.labels = None
    assert data.class_names(slice(2, 9)) == [None, None]
