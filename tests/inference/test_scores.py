"""The labels of a file that is predicted are read as those of a test set in training, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from harness.files import Files, labelled

from ftloop.config.problem_type import ProblemType
from ftloop.config.train_config import TrainConfig
from ftloop.data.labels import Labels
from ftloop.data.load import TextData, load_text_data
from ftloop.data.readers import read_rows
from ftloop.data.sources import file_source
from ftloop.errors import UserError
from ftloop.inference.classifier import RunSettings
from ftloop.inference.scores import Scorer

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def scorer(labels: Labels, settings: RunSettings | None = None) -> Scorer:
    """Of a model that has learned these; without settings its run is not known."""
    config = SimpleNamespace(
        problem_type=labels.problem_type, num_labels=labels.count, id2label=dict(enumerate(labels.names))
    )
    return Scorer.of(config, settings or RunSettings(), ["label"])


def of_run(loaded: TextData, delimiter: str | None = None) -> Scorer:
    labels = loaded.labels
    by_number = "0" not in labels.names and "0" in labels.ids  # as in ftloop_run.json
    return scorer(labels, RunSettings(label_delimiter=delimiter, numbers_are_ids=by_number))


def read(scored: Scorer, path: Path) -> list[Any]:
    source = file_source(path)
    found = [scored.read(source, row) for row in read_rows(source)]
    return [None if value is None else np.asarray(value).tolist() for value in found]


def fault(scored: Scorer, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(scored, path)
    return str(caught.value)


ONE_LABEL = {"problem_type": "single_label_classification"}
STARS, SENTIMENT = ["1", "2", "3"] * 3, ["neg", "pos"] * 3
VECTORS = [[0, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]]
NAMES = [["a", "b"], ["c"], [], ["a", "c"]]


@pytest.mark.parametrize(
    ("train", "test", "settings"),
    [
        (VECTORS, VECTORS, {}),
        (VECTORS, [[bool(bit) for bit in row] for row in VECTORS], {}),
        (VECTORS, [[float(bit) for bit in row] for row in VECTORS], {}),
        (VECTORS, [json.dumps(row) for row in VECTORS], {}),
        (NAMES, [*NAMES, ["b"]], {}),
        (NAMES, [json.dumps(row) for row in NAMES], {}),
        ([["0", "1"], ["2"], ["1"]], [["1"], ["0", "1"], ["2", "0"], []], {}),
        (["a|b", "c", "a|c"], ["b|c", "", "a"], {"label_delimiter": "|"}),
        (["1,5", "2,25", "3"], ["1,5", "2", "-1,75"], {"problem_type": "regression"}),
        ([[1.5], [2.25], [3.0]], [[2.5], [1]], {"problem_type": "regression"}),
        ([["pos"], ["neg"], ["pos"]], [["neg"], ["pos"]], ONE_LABEL),
        (['["pos"]', '["neg"]'] * 2, ['["neg"]', '["pos"]'], ONE_LABEL),
        ([{"choices": ["pos"]}, {"choices": ["neg"]}], [{"choices": ["neg"]}], ONE_LABEL),
        (["True", "False"] * 3, [True, False, "true", 1, 0], {}),
        (STARS, ["3", 2.0, 1], {}),
        (STARS, [" 3", "2 "], {}),
        (SENTIMENT, ["pos", "neg"], {}),
    ],
)  # fmt: skip
def test_labels_mean_what_they_mean_as_a_test_set(train: Any, test: Any, settings: Any, files: Files) -> None:
    loaded = files.load(labelled(*train), test=labelled(*test), eval_strategy="no", **settings)
    rows = loaded.test["test"]["label"]
    wanted = [np.asarray(loaded.labels.encode(raw)).tolist() for raw in rows]
    assert len(wanted) == len(test)
    assert read(of_run(loaded, settings.get("label_delimiter")), files.folder / "test.jsonl") == wanted


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (VECTORS, [[0, 1]], "column label holds '[0, 1]', and a vector of 0 and 1 has one for each of the model's 3"),
        (VECTORS, [[1]], "write names, or a vector of that length"),
        (NAMES, [[0, 1]], "a vector of 0 and 1 has one for each of the model's 3 labels"),
        (NAMES, [[2]], "holds '2', which the model does not know: 'a', 'b', 'c'"),
        ([["0", "1"], ["2"]], [["0", "1", "1"]], "column label: '1' is there twice"),
        (STARS, ["0"], "holds '0', which the model does not know: '1', '2', '3'"),
        (["-1", "0", "1"] * 3, ["2"], "holds '2', which the model does not know: '-1', '0', '1'"),
        (SENTIMENT, ["1"], "holds '1', which the model does not know: 'neg', 'pos'"),
        (SENTIMENT, [["neg", "pos"]], "which the model does not know"),
        ([0.5, 1.5], ["1,250"], "'1,250': a decimal comma, or one between thousands?"),
        ([0.5, 1.5], ["1_0"], "holds '1_0', and the model predicts numbers"),
    ],
)
def test_what_a_test_set_may_not_hold_is_refused(train: Any, test: Any, told: str, files: Files) -> None:
    loaded = files.load(labelled(*train), eval_strategy="no")
    files.config([], test=labelled(*test))
    assert told in fault(of_run(loaded), files.folder / "test.jsonl")


def test_the_names_that_a_file_has_for_its_classes_are_read(files: Files) -> None:
    """As the same task is published twice, with the classes in another order."""
    nli = ["contradiction", "entailment", "neutral"]
    loaded = files.load(labelled(*nli * 2), eval_strategy="no")
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["entailment", "neutral", nli[0]])})
    path = files.folder / "test.parquet"
    rows = {"sentence": ["a"] * 4, "label": [0, 1, 2, -1]}
    Dataset.from_dict(rows, features=features).to_parquet(path)
    assert read(of_run(loaded), path) == read(scorer(loaded.labels), path) == [1, 2, 0, None]
    unnamed = scorer(Labels(("LABEL_0", "LABEL_1", "LABEL_2"), {}))
    assert read(unnamed, path) == [0, 1, 2, None], "the model has no other names for them"


def test_numbers_are_ids_where_the_run_had_them_or_is_not_known(files: Files, tmp_path: Path) -> None:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]}, features=features)
    rows.to_parquet(tmp_path / "train.parquet")
    loaded = load_text_data(TrainConfig(train_file=str(tmp_path / "train.parquet"), eval_strategy="no"))
    files.config([], test=labelled(1, "0", "1.0"))
    path = tmp_path / "test.jsonl"
    assert read(of_run(loaded), path) == [1, 0, 1]
    unknown = scorer(loaded.labels)
    assert read(unknown, path) == [1, 0, 1]
    unknown.add([1, 0], np.eye(2, dtype=np.float32), SimpleNamespace(labels=lambda kind, logits: logits.argmax(1)))  # type: ignore[arg-type]
    assert unknown.told().endswith("of 2 rows; read by the model's ids: 0 as 'no', 1 as 'yes', 1.0 as 'yes'")


@pytest.mark.parametrize("delimiter", [None, "|"])
def test_an_empty_cell_of_several_labels_is_no_label_or_none_of_them(delimiter: str | None, files: Files) -> None:
    path = files.folder / "test.csv"
    path.write_text('sentence,label\na,\nb,a\nc,"[""a"", ""b""]"\n')
    scored = scorer(Labels(("a", "b"), {}, ProblemType.MULTI_LABEL), RunSettings(label_delimiter=delimiter))
    assert read(scored, path) == [None if delimiter is None else [0, 0], [1, 0], [1, 1]]


def test_an_empty_list_for_one_label_is_no_label(files: Files) -> None:
    loaded = files.load(labelled(["pos"], ["neg"]), eval_strategy="no", problem_type="single_label_classification")
    files.config([], test=labelled([], ["pos"], "[]"))
    assert read(of_run(loaded), files.folder / "test.jsonl") == [None, 1, None]


def test_numbers_are_no_ids_of_classes_that_are_numbers_though_the_run_is_not_known(files: Files) -> None:
    files.config([], test=labelled(0))
    stars = scorer(Labels(("1", "2", "3"), {}))
    assert "holds '0', which the model does not know: '1', '2', '3'" in fault(stars, files.folder / "test.jsonl")
