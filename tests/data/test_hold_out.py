"""A validation set cut out of the training rows, or named among a data set's splits."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pytest
from harness.command import weights
from harness.files import Files, labelled

from ftloop.config.command_line import parse_args
from ftloop.config.train_config import TrainConfig
from ftloop.data.load import TextData, load_text_data
from ftloop.errors import ExitCode, UserError
from ftloop.system.manifest import MANIFEST
from ftloop.system.row_numbers import row_numbers
from ftloop.train import main


@pytest.fixture
def files(tmp_path: Path, own_cache: None, quiet_data: None) -> Files:
    return Files(tmp_path)


def rows_of(data: TextData) -> tuple[list[str], list[str]]:
    return list(data.train["sentence"]), list(data.validation["validation"]["sentence"])


def numbered(*labels: Any) -> list[dict[str, Any]]:
    return [{"sentence": f"row {i}", "label": label} for i, label in enumerate(labels)]


def test_each_class_has_its_share_and_none_its_last_row_held_out(files: Files) -> None:
    labels = ["a", "b", "a", "a", "c", "a"] * 20 + ["alone"]
    settings: dict[str, Any] = {"validation_split": 0.1, "eval_strategy": "epoch"}
    data = files.load(numbered(*labels), **settings)
    train, held_out = rows_of(data)
    assert Counter(data.validation["validation"]["label"]) == {"a": 8, "b": 2, "c": 2}
    assert data.labels.names == ("a", "alone", "b", "c")
    assert sorted(train + held_out) == sorted(f"row {i}" for i in range(121))
    for part in (train, held_out):
        assert part == sorted(part, key=lambda text: int(text.split()[1])), "in the file's order"
    assert (data.rows_read["train"], data.rows_read["validation"]) == (109, 12)
    # These and no others, in every release: a run that goes on must go on with them.
    assert held_out == [f"row {i}" for i in PINNED]

    assert rows_of(files.load(numbered(*labels), seed=7, **settings)) == (train, held_out), "whatever the seed"
    assert rows_of(files.load(numbered(*labels), data_seed=7, **settings))[1] != held_out
    few = files.load(numbered(*labels), max_train_samples=50, max_eval_samples=5, **settings)
    assert rows_of(few) == (train[:50], held_out[:5])


PINNED = [25, 38, 42, 62, 70, 71, 79, 107, 112, 114, 117, 119]


@pytest.mark.parametrize(
    ("labels", "share", "held_out"),
    [
        ([i / 7 for i in range(1, 31)], 0.2, 6),  # numbers: each row has one of its own
        ([0.5, 1.5], 0.9, 1),
        (["a", "b"] * 2, 0.01, 1),
        (["a", "b"] * 10, 0.9, 18),
        (["a"] * 10 + list("bcdefghijk"), 0.5, 5),  # of a class with one row, none
        ([["x", "y"], ["x"], []] * 10 + [["rare"], ["rare", "x"]], 0.25, 8),
    ],
)
def test_numbers_and_several_labels_are_held_out_too(
    labels: list[Any], share: float, held_out: int, files: Files
) -> None:
    data = files.load(numbered(*labels), validation_split=share)
    assert len(data.validation["validation"]) == held_out
    assert len(data.train) == len(labels) - held_out
    if isinstance(labels[0], list):
        assert {name for names in data.train["label"] for name in names} == {"x", "y", "rare"}


def test_the_rows_held_out_are_kept_on_disk_as_other_sets_are(files: Files) -> None:
    config = files.config(numbered(*"ab" * 20), validation_split=0.1)
    first, second = load_text_data(config), load_text_data(config)
    for one, other in ((first.train, second.train), (first.validation["validation"], second.validation["validation"])):
        assert one._indices is None
        assert one.cache_files == other.cache_files != []


def test_a_split_that_cannot_be_is_refused(files: Files) -> None:
    assert files.fault(numbered("a", "b", "c"), validation_split=0.5) == (
        "validation_split: each of the 3 training rows is the only one with its label, so none can be held out; give "
        "more rows, or a validation set"
    )
    assert "column 'label' has no value in row 2" in files.fault(numbered("a", None, "b"), validation_split=0.5)
    both = labelled("a", "b")
    told = "validation_split: there is a validation set already; leave it, or --validation_split, out"
    assert files.fault(both, both, validation_split=0.1) == told
    for share in (0, 1, -0.1):
        with pytest.raises(UserError, match="validation_split: "):
            TrainConfig(train_file="x.csv", validation_split=share)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def serve(*splits: str) -> None:
        rows = {name: datasets.Dataset.from_list(numbered(*[name[:1], "b"] * 10)) for name in splits}
        monkeypatch.setattr(datasets, "load_dataset", lambda *names: datasets.DatasetDict(rows))

    return serve


def by_name(**settings: Any) -> TextData:
    return load_text_data(TrainConfig(dataset_name="some/data", eval_strategy="epoch", **settings))


def test_splits_are_found_by_the_names_that_the_user_gives(served: Any, quiet_data: None) -> None:
    served("train", "test", "try", "tail")
    with pytest.raises(UserError) as caught:
        by_name()
    assert caught.value.problems == (
        "eval_strategy is epoch, but there is no validation set: name the split to use with --validation_split_name "
        "(test, try, tail), hold out a tenth of the training rows with --validation_split 0.1, or evaluate never with "
        "--eval_strategy no",
    )
    data = by_name(validation_split_name="test")
    assert (list(data.validation), data.validation["validation"]["label"][0], data.test) == (["validation"], "t", {})
    data = by_name(validation_split_name="try", test_split_name="tail")
    assert (len(data.validation["validation"]), list(data.test)) == (20, ["test"])
    data = by_name(validation_split=0.1)
    assert (len(data.train), len(data.validation["validation"]), len(data.test["test"])) == (18, 2, 20)
    for settings, told in (
        ({"validation_split_name": "dev"}, "validation_split_name: the data set some/data has no split 'dev', only "),
        ({"test_split_name": "train", "validation_split": 0.1}, "test_split_name: train is what is trained on"),
        ({"validation_split_name": "test", "validation_split": 0.1}, "there is a validation set already"),
    ):
        with pytest.raises(UserError, match=told):
            by_name(**settings)
    served("train", "validation")
    with pytest.raises(UserError, match=r"the data set has a validation set \(validation\); leave it out"):
        by_name(validation_split=0.1)
    with pytest.raises(UserError, match="validation_split_name: only together with --dataset_name"):
        TrainConfig(train_file="x.csv", validation_split_name="dev")


def test_the_advice_works_when_it_is_followed(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stderr_of: Callable[..., str]
) -> None:
    words = ["guide", "--train_file", str(tiny_folder / "train.jsonl"), "--use_cpu", "--num_train_epochs", "2"]
    words += ["--model_name_or_path", str(tiny_folder / "model"), "--save_total_limit", "9"]
    told = stderr_of(main, [*words, "--output_dir", str(tmp_path / "none")])
    assert told.startswith("error: eval_strategy is epoch, but there is no validation set: give --validation_file, ")
    never = re.findall(r"evaluate never with (.*)", told)[0].split()
    assert main([*words, *never, "--output_dir", str(tmp_path / "never")]) == ExitCode.DONE
    assert "Unscored  no validation or test set has labels" in capsys.readouterr().out

    out = tmp_path / "out"
    split = re.findall(r"with (--validation_split 0.1),", told)[0].split()
    words += [*split, "--output_dir", str(out), "--resume_from_checkpoint", "last"]
    assert main(words) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "Data      train 26, validation 3 rows\n" in said
    assert "Unscored" not in said
    assert "Split     validation: 3 of the training rows, class by class, by seed 42\n" in said
    whole = weights(out)
    for name in (MANIFEST, "model.safetensors", "checkpoint-4/trainer_state.json"):
        (out / name).unlink()
    assert main(words) == ExitCode.DONE
    assert "Changed" not in capsys.readouterr().out
    assert weights(out) == whole
    assert main(words) == ExitCode.DONE
    assert "Finished  already" in capsys.readouterr().out
    assert json.loads((out / MANIFEST).read_text())["config"]["validation_split"] == 0.1


def test_runs_of_several_seeds_are_judged_by_the_same_rows() -> None:
    seeds = [parse_args(["guide", "--validation_split", "0.1", "--seed", str(seed)]).split_seed for seed in (1, 2)]
    assert seeds == [42, 42]
    assert parse_args(["guide", "--seed", "1", "--data_seed", "7"]).split_seed == 7


# --- folds -----------------------------------------------------------------------------------------------------------


def folds_of(files: Files, labels: list[Any], folds: int, **settings: Any) -> list[TextData]:
    return [files.load(numbered(*labels), folds=folds, fold=fold, **settings) for fold in range(1, folds + 1)]


def held_out_of(parts: list[TextData]) -> list[list[int]]:
    return [[int(text.split()[1]) for text in rows_of(part)[1]] for part in parts]


def test_each_row_is_held_out_by_one_fold_and_each_fold_has_its_share_of_each_class(files: Files) -> None:
    labels = ["a", "b", "a", "a", "c", "a"] * 20 + ["b", "a", "a"]
    parts = folds_of(files, labels, 4)
    held_out = held_out_of(parts)
    assert sorted(chain(*held_out)) == list(range(123))
    assert {len(rows) for rows in held_out} == {30, 31}
    for part, rows in zip(parts, held_out, strict=True):
        assert rows == sorted(rows), "in the file's order"
        train = [int(text.split()[1]) for text in rows_of(part)[0]]
        assert train == [row for row in range(123) if row not in rows]
        counts = Counter(part.validation["validation"]["label"])
        assert counts["a"] in (20, 21)
        assert counts["b"] in (5, 6)
        assert counts["c"] == 5
        assert part.labels == parts[0].labels
        assert part.remarks == parts[0].remarks
        assert row_numbers(part.validation["validation"], range(len(rows))) == [row + 1 for row in rows]
    assert held_out[0] == PINNED_FOLD
    assert held_out_of(folds_of(files, labels, 4, seed=7)) == held_out, "whatever the seed"
    assert held_out_of(folds_of(files, labels, 4, data_seed=7)) != held_out
    first = folds_of(files, labels, 4, max_train_samples=50)
    assert sorted(chain(*held_out_of(first))) == list(range(50))
    assert (first[0].rows_read["train"], len(first[0].train)) == (123 - 13, 37)


PINNED_FOLD = [
    6,
    12,
    17,
    18,
    19,
    23,
    24,
    26,
    30,
    33,
    41,
    46,
    49,
    51,
    60,
    61,
    62,
    64,
    69,
    74,
    75,
    77,
    82,
    91,
    94,
    98,
    100,
    109,
]
PINNED_FOLD += [110, 113, 114]


def test_of_numbers_each_fold_has_its_share_of_each_quantile(files: Files) -> None:
    parts = folds_of(files, [((7 * i) % 60) / 10 for i in range(60)], 3)
    held_out = held_out_of(parts)
    assert sorted(chain(*held_out)) == list(range(60))
    for part in parts:
        tenths = Counter(int(float(value) * 10) // 6 for value in part.validation["validation"]["label"])
        assert tenths == dict.fromkeys(range(10), 2)
    assert sorted(chain(*held_out_of(folds_of(files, [1.5, 2.5, 3.25], 2)))) == [0, 1, 2]


def test_of_several_labels_a_row_none_leaves_with_its_last(files: Files) -> None:
    labels = [["x", "y"], ["x"], []] * 10 + [["rare"], ["rare", "x"]]
    parts = folds_of(files, labels, 4)
    assert len({*chain(*held_out_of(parts))}) == sum(len(rows) for rows in held_out_of(parts)) >= 31
    for part in parts:
        assert {name for names in part.train["label"] for name in names} == {"x", "y", "rare"}
        assert Counter(map(tuple, part.validation["validation"]["label"]))[("x", "y")] in (2, 3)


def test_small_classes_are_named_and_a_single_row_is_always_trained_on(files: Files) -> None:
    parts = folds_of(files, ["a"] * 20 + ["b", "b", "alone"], 5)
    assert sorted(chain(*held_out_of(parts))) == list(range(22))
    for part in parts:
        assert "alone" in part.train["label"]
        assert part.labels.names == ("a", "alone", "b")
        told = [text for topic, text in part.remarks if topic == "Warning"]
        assert "fewer rows than folds, so that some have none of it: 'alone' 1, 'b' 2" in told
        assert "1 row is trained on in every fold and never predicted: else a label would be lost" in told


def test_more_folds_than_rows_are_refused_in_every_fold(files: Files) -> None:
    for fold in (1, 2):
        assert files.fault(numbered("a", "a", "b", "b"), folds=5, fold=fold) == (
            "folds: 4 training rows: of 5 folds 5 would have none; give fewer folds, or more rows"
        )
    told = files.fault(numbered("a", "b", "c"), folds=2, fold=1)
    assert told.startswith("folds: 3 training rows, of which 3 cannot be held out without the loss of a label: of 2 fo")


def test_a_validation_set_that_the_data_have_is_left_out_of_folds(served: Any, quiet_data: None) -> None:
    served("train", "validation", "test")
    data = by_name(folds=4, fold=1)
    assert (len(data.train), len(data.validation["validation"]), len(data.test["test"])) == (15, 5, 20)
    assert ("Left out", "the validation set (validation): each fold has its own") in data.remarks


def test_rows_are_numbered_as_in_the_file_where_some_were_dropped(files: Files) -> None:
    rows = numbered("a", None, "b", "a", None, "b", "a", "b")
    parts = [files.load(rows, folds=2, fold=fold, drop_unlabelled=True) for fold in (1, 2)]
    numbers = [row_numbers(part.validation["validation"], range(3)) for part in parts]
    assert sorted(chain(*numbers)) == [1, 3, 4, 6, 7, 8]
    for part, found in zip(parts, numbers, strict=True):
        assert [f"row {number - 1}" for number in found] == rows_of(part)[1]


def test_what_the_labels_are_is_settled_by_the_rows_of_all_folds(files: Files) -> None:
    """Without the one broken number, the others would pass for classes."""
    parts = folds_of(files, [*[1, 2] * 15, 2.5], 3)
    assert sorted(chain(*held_out_of(parts))) == list(range(31))
    assert [part.labels.regression for part in parts] == [True] * 3
