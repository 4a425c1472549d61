"""Several labels a row, in the forms that people keep them: vectors, lists that are text, a column for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from harness.files import Files, labelled

from ftloop.config.command_line import parse_args
from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data.joined_labels import find_joined
from ftloop.data.label_forms import parse_list
from ftloop.data.load import TextData, load_text_data
from ftloop.system.text import short_repr

pytestmark = pytest.mark.usefixtures("own_cache")

ONE_LABEL, SEVERAL = "single_label_classification", "multi_label_classification"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def said(loaded: TextData) -> str:
    return "\n".join(f"{topic} {text}" for topic, text in loaded.remarks)


def hot(loaded: TextData, rows: Dataset) -> list[list[float]]:
    return [np.asarray(loaded.labels.encode(row)).tolist() for row in rows[loaded.label_column]]


VECTORS = [[0, 1, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("kind", [int, float, bool, str])
def test_vectors_of_zero_and_one_are_lists_of_labels(kind: Any, files: Files) -> None:
    rows = labelled(*([kind(bit) if kind is not str else f"{bit}.0" for bit in vector] for vector in VECTORS))
    loaded = files.load(rows, labelled(*VECTORS), labelled(*VECTORS[:1]))
    assert (loaded.labels.names, loaded.labels.multi_label) == (("LABEL_0", "LABEL_1", "LABEL_2"), True)
    assert said(loaded) == "Labels vectors of 0 and 1 are read as lists of 3 labels, LABEL_0 to LABEL_2"
    assert hot(loaded, loaded.train) == hot(loaded, loaded.validation["validation"]) == VECTORS
    assert hot(loaded, loaded.test["test"]) == VECTORS[:1]
    two = files.load(labelled([0, 1], [1, 0]))
    assert hot(two, two.train) == [[0, 1], [1, 0]]


def test_a_test_set_of_empty_lists_beside_vectors_is_without_labels(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = labelled(*VECTORS)
    for test in (labelled([], []), labelled([], None), labelled("[]", " [ ]")):
        for lists in (train, labelled(["a"], ["b", "a"]), labelled("['a', 'b']", "['b']")):
            assert files.load(lists, None, test).test["test"].column_names == ["sentence"]
    assert "the test set: column 'label' has no vector of 3 times 0 or 1 in row 2" in files.fault(
        train, None, labelled([0, 1, 0], [])
    )
    assert "the validation set: column 'label' has no vector of 3 times 0 or 1 in row 1" in files.fault(
        train, labelled([], [])
    ), "nothing to evaluate on"
    features = Features({"sentence": Value("string"), "label": List(Value("int64"))})
    hub = DatasetDict(
        train=Dataset.from_list(train, features=features), test=Dataset.from_list(labelled(None, None), features)
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: hub)
    named = load_text_data(TrainConfig(dataset_name="any/name", eval_strategy="no"))
    assert named.test["test"].column_names == ["sentence"]
    hub["validation"] = hub["test"]
    with pytest.raises(ValueError, match=r"the validation set: column 'label' has no value in rows 1, 2"):
        load_text_data(TrainConfig(dataset_name="any/name"))


def test_lists_of_zero_and_one_that_are_no_vectors_are_names(files: Files) -> None:
    loaded = files.load(labelled([0], [1], [0, 1], [1, 2]))
    assert loaded.labels.names == ("0", "1", "2")
    assert not loaded.remarks
    twice = "column 'label' names a label twice in the list of row 2; as vectors of 0 and 1 all lists would have"
    assert twice in files.fault(labelled([0, 1], [0, 0, 1]))
    assert f"the validation set: {twice}" in files.fault(labelled([0, 1, 2], [0]), labelled([0], [1, 1]))
    no_vector = "column 'label' has no vector of 3 times 0 or 1 in row 2"
    assert f"the validation set: {no_vector}" in files.fault(labelled(*VECTORS), labelled([0, 1, 0], [1, 0]))
    assert f"the validation set: {no_vector}" in files.fault(labelled(*VECTORS), labelled([0, 1, 0], [1, 0, 2]))


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("['a', \"it's\"]", ["a", "it's"]),
        ('["a", "b c"]', ["a", "b c"]),
        ("['a' 'b']", ["a", "b"]),
        ("[0 1\n 0]", ["0", "1", "0"]),
        (" [1., 0.] ", ["1.0", "0.0"]),
        ("[True, False]", ["true", "false"]),
        ("['\\u00e9,]', 'x']", ["é,]", "x"]),
        ("[ ]", []),
        ("['a'", None),
        ("['a''b']", None),
        ("['\\d']", ["\\d"]),
        ("['\\x']", None),
        ("[a, b]", None),
        ("['a', ['b']]", None),
        ("['a', 'a']", None),
        ("['']", None),
        ('["a\\/b", "\\ud83d\\ude00"]', ["a/b", "\U0001f600"]),
        ('["\\ud83d"]', None),
        ('{"choices": ["a", "b"]}', ["a", "b"]),
        ("{'choices': ['a' , 'b' ] }", ["a", "b"]),
        ('{"choices":[]}', []),
        ('{"choices": [1]}', None),
        ('{"choices": ["a"], "more": ["b"]}', None),
        ('{"choices": "a"}', None),
        ("['a', ...]", None),
        ("a", None),
        ("", None),
    ],
)
def test_lists_are_read_as_python_numpy_and_json_write_them(text: str, items: list[str] | None) -> None:
    assert parse_list(text) == items


def test_lists_that_pandas_wrote_as_text_are_lists(files: Files) -> None:
    rows = labelled("['late', 'dear']", "[]", "['late']")
    loaded = files.load(rows, labelled("['dear']", "[]"), labelled(["dear", "late"], []))
    assert loaded.labels.names == ("dear", "late")
    assert said(loaded) == "Labels texts such as \"['late', 'dear']\" are read as lists"
    assert hot(loaded, loaded.train) == [[1, 1], [0, 0], [0, 1]]
    assert hot(loaded, loaded.validation["validation"]) == [[1, 0], [0, 0]]
    assert hot(loaded, loaded.test["test"]) == [[1, 1], [0, 0]]
    as_they_are = files.load(rows, problem_type=ONE_LABEL)
    assert as_they_are.labels.names == ("['late', 'dear']", "['late']", "[]")
    vectors = files.load(labelled("[0, 1]", "[1, 0]", "[1, 1]", "[0, 0]"), labelled("[1. 1.]", "[0.0, 1.0]"))
    assert hot(vectors, vectors.train) == [[0, 1], [1, 0], [1, 1], [0, 0]]
    assert hot(vectors, vectors.validation["validation"]) == [[1, 1], [0, 1]]
    lists = files.load(labelled(["a"], ["a", "b"]), labelled("['b']"))
    assert hot(lists, lists.validation["validation"]) == [[0, 1]]
    told = files.fault(labelled("[1, 2]", "late"), problem_type=SEVERAL)
    assert told.startswith(
        "column 'label' holds 'late' in row 2, and lists as text in other rows; write it as a list of"
    )


MIXED = [["late"], ["late", "dear"], ["dear"], ["late"]]
ONE_IS_A_CLASS = f"; --problem_type {ONE_LABEL} makes a class of each text"


@pytest.mark.parametrize("listed", ['{"choices":["late","dear"]}', '["late", "dear"]', "['late', 'dear']"])
def test_names_beside_lists_of_names_are_lists_of_one(listed: str, files: Files) -> None:
    rows = labelled("late", listed, "dear", "late")
    loaded = files.load(rows, labelled("dear", "late"), labelled(listed, "late"))
    assert (loaded.labels.names, loaded.labels.multi_label, loaded.train["label"]) == (("dear", "late"), True, MIXED)
    assert loaded.validation["validation"]["label"] == [["dear"], ["late"]]
    assert loaded.test["test"]["label"] == [["late", "dear"], ["late"]]
    read = f"Labels texts such as {listed!r} are read as lists, and names beside them such as 'late' as lists of one"
    assert said(loaded) == read + ONE_IS_A_CLASS
    asked = files.load(rows, problem_type=SEVERAL)
    assert (said(asked), asked.train["label"]) == (read, MIXED)
    decided = files.load(rows, problem_type=ONE_LABEL)
    assert (said(decided), decided.labels.names) == ("", tuple(sorted(["late", "dear", listed])))
    secret = files.load(rows, None, labelled("?", "?"))
    assert secret.test["test"].column_names == ["sentence"]


@pytest.mark.parametrize("listed", [{"choices": ["late", "dear"]}, ["late", "dear"]])
@pytest.mark.parametrize("first", [True, False])
def test_lists_of_json_beside_names_are_lists_too(listed: Any, first: bool, files: Files) -> None:
    rows = labelled(*([listed, "late"] if first else ["late", listed]), "dear")
    loaded = files.load(rows, labelled("dear", listed), labelled(listed, "dear"))
    assert {tuple(row) for row in loaded.train["label"]} == {("late", "dear"), ("late",), ("dear",)}
    assert loaded.validation["validation"]["label"] == [["dear"], ["late", "dear"]]
    assert loaded.test["test"]["label"] == [["late", "dear"], ["dear"]]
    told = f"Labels texts such as {short_repr(json.dumps(listed))} are read as lists, and names beside them such as"
    assert said(loaded) == f"{told} 'late' as lists of one{ONE_IS_A_CLASS}"
    alone = files.load(labelled(listed, listed, {"choices": ["dear"]}))
    assert alone.train["label"] == [["late", "dear"], ["late", "dear"], ["dear"]]


def test_names_beside_lists_of_no_more_than_one_are_those_names(files: Files) -> None:
    rows = labelled('["late"]', "dear", "[]", '{"choices": ["dear"]}')
    told = said(files.load(rows))
    assert "as lists of one\n" in told
    assert "no training row has more than one" in told
    assert "no value in row 3; --drop_unlabelled leaves such rows out" in files.fault(rows, problem_type=ONE_LABEL)
    loaded = files.load(rows, problem_type=ONE_LABEL, drop_unlabelled=True)
    assert (loaded.train["label"], loaded.labels.multi_label) == (["late", "dear", "dear"], False)


@pytest.mark.parametrize(
    ("odd", "listed"),
    [
        ("['late', ['dear']]", "['late', 'dear']"),
        ('{"choices": {"late": 1}}', '["late", "dear"]'),
        ('["late", "late"]', '["late", "dear"]'),
        ('["late", "de', '["late", "dear"]'),
        ("[dear]", '["late", "dear"]'),
        ("late", "[0, 10]"),
    ],
)
def test_what_is_neither_a_name_nor_a_list_of_names_is_no_label(odd: str, listed: str, files: Files) -> None:
    rows = labelled("shut", listed, "dear", odd)
    loaded = files.load(rows)
    assert not loaded.labels.multi_label
    assert "classes that look like lists or JSON" in said(loaded)
    assert 'not every label is a name or a list of different names; write ["a", "b"] for several' in said(loaded)
    first = "shut" if odd == "late" else odd
    told = files.fault(rows, problem_type=SEVERAL)
    assert told.startswith(f"column 'label' holds {short_repr(first)} in row {1 if odd == 'late' else 4}, and lists as")
    assert told.endswith(f"write it as a list of different names too, such as {short_repr(listed)}")
    mended = [row | {"label": "dear" if row["label"] == odd else row["label"]} for row in rows]
    assert odd == "late" or files.load(mended).labels.multi_label


@pytest.mark.parametrize(
    ("label", "delimiter", "cut"),
    [
        ('["late","dear"]', ",", "leave it out, and such lists are read, and names beside them as lists of one"),
        ('{"choices":["late","dear"]}', ",", "leave it out, and such lists are read"),
        ('{"choices":["late","dear"]}', ":", "leave it out, and such lists are read"),
        ("['late' 'dear']", " ", "leave it out, and such lists are read"),
        ("[late, dear]", ",", "take such brackets out of the file"),
        ("[late],[dear]", ",", None),
        ("[0,1);[2,3)", ";", None),
        (":[,:]", ",", None),
    ],
)
def test_names_cut_out_of_a_list_stop_the_run(label: str, delimiter: str, cut: str | None, files: Files) -> None:
    rows = labelled("late", "dear", label)
    for settings in ({}, {"problem_type": SEVERAL}):
        if cut is None:
            assert files.load(rows, label_delimiter=delimiter, **settings).labels.count == 4
            continue
        told = files.fault(rows, label_delimiter=delimiter, **settings)
        assert f"line 3: column label holds {label!r}, which --label_delimiter cuts into pieces; {cut}" in told
        if cut.startswith("leave it out"):
            assert files.load(rows, **settings).labels.names == ("dear", "late")
    assert cut is None or find_joined(row["label"] for row in [*rows, *rows]) is None


COLUMNS = ["late", "dear", "shut"]


def toxic(*rows: list[Any]) -> list[dict[str, Any]]:
    return [{"text": f"t{i}"} | dict(zip(COLUMNS, bits, strict=True)) for i, bits in enumerate(rows)]


def test_a_column_of_zero_and_one_for_each_label(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    train = toxic([0, 1, 0], [1.0, 0.0, 0], [True, "1", False], [0, 0, 0])
    settings: dict[str, Any] = {"label_column_name": COLUMNS}
    loaded = files.load(train, train[:1], [{"text": "x"}], **settings)
    assert (loaded.labels.names, loaded.label_column) == (tuple(COLUMNS), "labels")  # shut too, which no row has
    assert hot(loaded, loaded.train) == [[0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert hot(loaded, loaded.validation["validation"]) == [[0, 1, 0]]
    assert loaded.test["test"].column_names == ["text"]
    unlabelled = toxic([-1, -1, -1], [0, 0, None])
    assert files.load(train, None, unlabelled, **settings).test["test"].column_names == ["text"]
    assert "'labels' has no value in rows 5, 6; --drop_unlabelled" in files.fault(train + unlabelled, **settings)
    assert len(files.load(train + unlabelled, drop_unlabelled=True, **settings).train) == 4
    told = files.fault(toxic([0, 1, 0], [0, 0.3, 1]), **settings)
    assert told.startswith(
        "the training set: column 'dear' holds '0.3' in row 2; of several label columns each has 0 or"
    )
    for value in ("NONE", "?", "NA", 2):
        secret = files.load(train, None, toxic([value] * 3, [value] * 3), **settings)
        assert secret.test["test"].column_names == ["text"]
        assert said(secret) == (
            f"Labels the test set holds {str(value)!r} in every label column of every row, so it is without labels"
        )
    way_out = "; of a test set without labels, leave these columns out of the file"
    for mixed in (["NONE", "NONE", 1], ["?"] * 3):
        assert files.fault(train, None, toxic(["NONE"] * 3, mixed), **settings).endswith(way_out)
    assert "holds 'NONE' in row 1" in files.fault(train, toxic(["NONE"] * 3), **settings)  # nothing to evaluate on
    assert len(files.load(train, None, toxic([1, 1, 1]), **settings).test["test"]["labels"]) == 1
    assert "no column 'closed'" in files.fault(train, label_column_name=["late", "closed"])
    assert "validation.jsonl: no column dear, shut" in files.fault(train, [{"text": "x", "late": 1}], **settings)
    assert "test.jsonl: no column dear, shut" in files.fault(train, None, [{"text": "x", "late": 1}], **settings)
    hub = DatasetDict(train=Dataset.from_list(toxic([0, 1, 0], [1, 0, 0], [0, 1, 1])))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: hub)
    named = load_text_data(TrainConfig(dataset_name="any/name", **settings))
    assert hot(named, named.train) == [[0, 1, 0], [1, 0, 0], [0, 1, 1]]


def test_label_columns_of_one_or_nothing_are_told_with_the_column_to_fill(files: Files) -> None:
    """As spreadsheets are filled, where a blank means 0."""
    settings: dict[str, Any] = {"label_column_name": COLUMNS, "eval_strategy": "no"}
    rows = toxic([0, 0, 0], [None, None, None], [1, "", 0], [None, 0, 1])
    told = "column 'dear' is empty in row 3, where 'late' has 1: write 0 for a label that a row does not have"
    assert f"the training set: {told}; if nobody" in files.fault(rows, **settings)
    assert f"the test set: {told}; if nobody" in files.fault(toxic([0, 1, 0], [1, 0, 0]), None, rows, **settings)
    left = files.load([*rows, *toxic([1, 0, 1])], drop_unlabelled=True, **settings)
    assert hot(left, left.train) == [[0, 0, 0], [1, 0, 1]]
    filled = toxic([0, 0, 0], [1, 0, 0], [0, 0, 1])
    assert hot(left, files.load(filled, **settings).train) == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_blanks_around_zero_and_one_are_no_part_of_them(files: Files, tmp_path: Path) -> None:
    (tmp_path / "spaced.csv").write_text("text,late,dear\na, 0, 1\nb, 1 ,0\nc, -1,-1\n")
    config = TrainConfig(
        train_file=str(tmp_path / "spaced.csv"),
        label_column_name=["late", "dear"],
        drop_unlabelled=True,
        eval_strategy="no",
    )
    loaded = load_text_data(config)
    assert hot(loaded, loaded.train) == [[0, 1], [1, 0]]


def test_clean_first_rows_of_a_test_set_are_labelled_and_a_whole_one_without_a_label_is_told(files: Files) -> None:
    train, test = toxic([0, 1, 0], [1, 1, 0]), toxic(*[[0, 0, 0]] * 3, [0, 1, 1])
    settings: dict[str, Any] = {"label_column_name": COLUMNS, "eval_strategy": "no"}
    loaded = files.load(train, None, test, max_predict_samples=3, **settings)
    assert hot(loaded, loaded.test["test"]) == [[0, 0, 0]] * 3
    assert not said(loaded)
    none = files.load(train, None, test[:3], **settings)
    assert none.test["test"].column_names == ["text"]
    assert said(none) == "Labels the test set: no row has any of the labels, so it is without labels"


def test_one_label_column_is_the_setting_that_it_was() -> None:
    for name in ("stars", ["stars"]):
        assert TrainConfig(label_column_name=name).label_column_name == "stars"
    assert parse_args(["--label_column_name", "a", "b"]).label_column_name == ["a", "b"]
    with pytest.raises(ValueError, match="label_column_name: 'a' is named twice"):
        TrainConfig(label_column_name=["a", "b", "a"])


def test_lists_of_one_are_one_label_where_that_is_asked_for(files: Files) -> None:
    loaded = files.load(labelled(["a"], ["b"], ["a"]), labelled(["b"]), labelled("a"), problem_type=ONE_LABEL)
    assert (loaded.labels.names, loaded.labels.problem_type) == (("a", "b"), ProblemType.SINGLE_LABEL)
    assert loaded.validation["validation"]["label"] == ["b"]
    numbers = files.load(labelled("[0.5]", "[2]"), problem_type="regression")
    assert [numbers.labels.encode(raw) for raw in numbers.train["label"]] == [0.5, 2.0]
    fault = files.fault(labelled(["a"], ["a", "b"]), problem_type=ONE_LABEL)
    assert fault == (
        "problem_type: the list of row 2 in column 'label' of the training set has several labels, which only "
        "multi_label_classification learns"
    )
    empty = labelled(["a"], [], ["b"])
    assert "no value in row 2; --drop_unlabelled leaves such rows out" in files.fault(empty, problem_type=ONE_LABEL)
    assert files.load(empty, problem_type=ONE_LABEL, drop_unlabelled=True).train["label"] == ["a", "b"]
    assert f"no training row has more than one; --problem_type {ONE_LABEL}" in said(files.load(empty))
    assert "no training row has more than one" not in said(files.load(labelled(["a"], ["a", "b"], [])))


def test_tuples_as_text_are_lists_and_intervals_are_classes(files: Files) -> None:
    """As pandas writes a column made with zip."""
    vectors = files.load(labelled("(0, 1, 0)", "(1, 0, 0)", "(1, 1, 1)"))
    assert vectors.labels.names == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert hot(vectors, vectors.train) == [[0, 1, 0], [1, 0, 0], [1, 1, 1]]
    names = files.load(labelled("('a', 'b')", "('c',)", "('b', \"it's\")"))
    assert names.labels.names == ("a", "b", "c", "it's")
    for interval in ("(18, 25)", "(0, 1]", "(1)"):
        loaded = files.load(labelled("(0, 1)", interval, "(0, 1)"))
        assert loaded.labels.names == tuple(sorted({"(0, 1)", interval}))


def test_a_column_for_each_class_is_one_class_a_row_where_that_is_asked_for(files: Files) -> None:
    """As pandas' get_dummies writes classes; the way that the line of what was read gives."""
    rows = [{"text": "a", "cat": n % 3 == 0, "dog": n % 3 == 1, "hen": n % 3 == 2} for n in range(6)]
    settings: dict[str, Any] = {"label_column_name": ["hen", "cat", "dog"]}
    assert f"no training row has more than one; --problem_type {ONE_LABEL}" in said(files.load(rows, **settings))
    loaded = files.load(rows, **settings, problem_type=ONE_LABEL)
    assert loaded.labels.names == ("hen", "cat", "dog")
    assert loaded.train["labels"] == ["cat", "dog", "hen"] * 2
    both = files.fault([*rows, {"text": "a", "cat": 1, "dog": 1, "hen": 0}], **settings, problem_type=ONE_LABEL)
    assert "row 7" in both
    assert "several labels, which only multi_label_classification learns" in both
    neither = [*rows, {"text": "a", "cat": 0, "dog": 0, "hen": 0}]
    assert "no value in row 7; --drop_unlabelled" in files.fault(neither, **settings, problem_type=ONE_LABEL)


def test_empty_lists_beside_lists_of_one_are_counted_and_the_way_out_leaves_them_out(files: Files) -> None:
    """As doccano and Prodigy write rows that nobody has labelled yet."""
    one = f"though no training row has more than one; --problem_type {ONE_LABEL} learns one class a row"
    assert said(files.load(labelled(["a"], ["b"]))).endswith(one)
    rows, other = labelled(["a"], [], ["b"], [], ["a"], ["b"]), labelled([], ["a"])
    told = said(files.load(rows, other, labelled([], [])))
    assert f"{one}, and --drop_unlabelled beside it leaves out the rows whose list is empty: " in told
    assert ": 2 of train (rows 2, 4), 1 of validation (row 1); annotation tools write []" in told
    way: dict[str, Any] = {"problem_type": ONE_LABEL, "drop_unlabelled": True}
    loaded = files.load(rows, other, labelled([], []), **way)
    assert (loaded.train["label"], loaded.validation["validation"]["label"]) == (["a", "b", "a", "b"], ["a"])
    assert loaded.test["test"].column_names == ["sentence"]
    assert len(loaded.test["test"]) == 2
    as_text = files.load(labelled("['a']", "[]", "['b']"), **way)
    assert as_text.train["label"] == ["a", "b"]
    many = said(files.load(labelled(["a"], ["b"], *[[]] * 7)))
    assert "7 of train (rows 3, 4, 5, 6, 7, ... (7 in all));" in many


def test_a_mapping_of_names_to_0_or_1_is_the_list_of_those_with_1(files: Files) -> None:
    loaded = files.load(labelled({"good": 1.0, "bad": 0.0}, {"bad": True}, {"good": 1, "bad": 1}))
    assert loaded.train["label"] == [["good"], ["bad"], ["good", "bad"]]
    assert "column label maps 'bad' to '0.7'; 0 or 1 is wanted" in files.fault(labelled({"good": 1}, {"bad": 0.7}))
    assert "column label holds a mapping, not a text or a number" in files.fault(labelled("a", {"bad": 1}))


def test_a_decimal_comma_is_asked_about_and_read(files: Files) -> None:
    rows, more = labelled("3,5", "4", "1,25"), labelled("2,7")
    asked = files.fault(rows)
    assert asked.startswith("column 'label' holds '3,5' in row 1, and only such texts: --problem_type regression reads")
    numbers = files.load(rows, more, problem_type="regression")
    assert [numbers.labels.encode(raw) for raw in numbers.train["label"]] == [3.5, 4.0, 1.25]
    assert numbers.validation["validation"]["label"] == ["2.7"]
    assert "Labels numbers such as '3,5' are read with a decimal comma" in said(numbers)
    assert files.load(rows, problem_type=ONE_LABEL).labels.count == 3
    several = files.load(labelled("1,2", "2", "1,3"), label_delimiter=",")
    assert several.labels.names == ("1", "2", "3")
    assert "or one between thousands?" in files.fault(labelled("1,000", "20"), problem_type="regression")


def test_a_list_as_text_of_a_csv_file_may_lack_too(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,labels\na,\"['x', 'y']\"\nb,['x']\nc,\nd,[]\n")
    loaded = load_text_data(TrainConfig(train_file=str(tmp_path / "train.csv"), drop_unlabelled=True))
    assert hot(loaded, loaded.train) == [[1, 1], [1, 0], [0, 0]]
    assert "Dropped train: 1 of 4 rows (1 without a label)" in said(loaded)


def test_classes_that_are_others_joined_are_told(files: Files) -> None:
    rows = labelled("food", "sport", "food#sport", "food")
    joined = "classes that look like several joined: 'food#sport'; --label_delimiter \"#\" reads several labels a row"
    assert joined in said(files.load(rows))
    assert files.load(rows, label_delimiter="#").labels.names == ("food", "sport")
    assert "joined" not in said(files.load(labelled("and/or", "and", "yes/no")))
