"""Further header rows, as surveys are exported with them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pandas
import pytest

from ftloop.config.train_config import TrainConfig
from ftloop.data.header_rows import head_of, marked_headers
from ftloop.data.load import load_text_data
from ftloop.data.readers import read_chunks
from ftloop.data.sources import find_source
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")

COLUMNS = ["id", "text", "label"]
QUALTRICS = [
    ["Response ID", "Describe it,\nplease", "Would you come again?"],
    [json.dumps({"ImportId": name}, separators=(",", ":")) for name in ("_recordId", "QID1_TEXT", "QID2")],
]
SURVEYMONKEY = [["", "Open-Ended Response", "Response"]]
ANSWERS = [[str(number), f"the lamp is {number}", ("good", "bad")[number % 2]] for number in range(8)]


def load(*files: Path, **settings: Any) -> Any:
    config = TrainConfig(train_file=[str(file) for file in files], eval_strategy="no", **settings)
    return load_text_data(config)


def put(path: Path, rows: list[list[str]], **style: Any) -> Path:
    pandas.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False, **style)
    return path


def run_the_way_out(told: str) -> None:
    subprocess.run(told.split("`")[1], shell=True, check=True)


@pytest.mark.parametrize(
    ("headers", "lines", "style"),
    [
        (QUALTRICS, "lines 2 to 4 are", {}),
        (QUALTRICS, "lines 2 to 4 are", {"sep": "\t", "encoding": "utf-16"}),
        (QUALTRICS[1:], "line 2 is", {}),
        (SURVEYMONKEY, "line 2 is", {"lineterminator": "\r\n"}),
    ],
    ids=["Qualtrics", "Qualtrics' tsv", "the questions are deleted", "SurveyMonkey"],
)
def test_header_rows_with_the_marks_of_a_survey_tool_are_refused_with_a_way_out(
    headers: list[list[str]], lines: str, style: dict[str, str], tmp_path: Path
) -> None:
    clean = put(tmp_path / "clean.csv", ANSWERS)
    path = put(tmp_path / "my survey.csv", headers + ANSWERS, **style)
    message = ""
    for files, other in [([path], {}), ([clean, path], {}), ([clean], {"test_file": str(path)})]:
        with pytest.raises(UserError) as caught:
            load(*files, **other)
        message = str(caught.value)
        assert message.startswith(f"{path}: {lines} no data, but the header's, as survey tools write them; `sed ")
    run_the_way_out(message)
    data = load(tmp_path / "my survey_rows.csv")
    assert [list(row.values()) for row in data.train] == [answer[1:] for answer in ANSWERS]
    assert data.labels.names == ("bad", "good")
    packed = put(tmp_path / "packed.csv.gz", headers + ANSWERS)
    with pytest.raises(UserError, match=r"the header's, as survey tools write them; leave (it|them) out of the file$"):
        load(packed)
    parquet = tmp_path / "rows.parquet"
    pandas.read_csv(packed, dtype=str).to_parquet(parquet)
    with pytest.raises(UserError, match=r"rows? 1( to 2)? (is|are) no data, but the header's"):
        load(parquet)


def test_a_header_row_among_texts_to_predict_is_named(tmp_path: Path) -> None:
    for headers, told in (([], None), (SURVEYMONKEY, "line 2 is no data, but the header's")):
        path = put(tmp_path / "in.csv", headers + ANSWERS)
        with find_source(str(path), None, read_twice=False) as source:
            found = marked_headers(source, head_of(next(read_chunks(source)).rows, ["text"]))
        assert told in (found or "") if told else found is None


def the_warning(capsys: pytest.CaptureFixture[str]) -> str:
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "perhaps no data" in line]
    return warning


@pytest.mark.parametrize(
    ("headers", "answers", "told"),
    [
        (
            [["Id", "Why?", "Answer"]],
            ANSWERS,
            "line 2 is perhaps no data, but the header's: no other row has the label ",
        ),
        (
            [["a", "b", "Q2"], *QUALTRICS[:1]],
            ANSWERS,
            "lines 2 to 4 are perhaps no data, but the header's: no other row",
        ),
        (
            [["Id", "Why?", "Answer"]],
            [[*row[:2], f"{row[0]}.5"] for row in ANSWERS],
            "no other row has the label 'Answer'",
        ),
    ],
    ids=["one", "two", "numbers"],
)
def test_labels_of_the_first_rows_alone_are_warned_of(
    headers: list[list[str]],
    answers: list[list[str]],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, other = put(tmp_path / "wave1.csv", headers + answers), put(tmp_path / "wave2.csv", headers + answers)
    for files in ([path], [path, other], [path]):
        load(*files)
        warning = the_warning(capsys)
        assert warning.startswith(f"Warning   {path}: ")
        assert told in warning
        assert "; if so, `sed 2" in warning
    run_the_way_out(warning)
    assert len(load(tmp_path / "wave1_rows.csv").train) == len(answers)
    assert "perhaps no data" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "headers", "place"),
    [
        ([], [["Id", "Why?", "Answer"]], "line 2 is"),
        ([], [["a", "b", "Q2"], *QUALTRICS[:1]], "lines 2 to 4 are"),
        ([["Id", "Why?", "Q0"]], [["a", "b", "Q2"], *QUALTRICS[:1]], "lines 2 to 4 are"),
    ],
    ids=["one below a file without rows", "two below a file without rows", "two below a file of one row"],
)
def test_labels_of_the_first_rows_are_told_with_the_first_file_that_has_as_many(
    first: list[list[str]],
    headers: list[list[str]],
    place: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [put(tmp_path / "part-0.csv", first), put(tmp_path / "part-1.csv", headers + ANSWERS)]
    load(*files)
    warning = the_warning(capsys)
    assert warning.startswith(f"Warning   {files[1]}: {place} perhaps no data, but the header's: no other row has the ")
    run_the_way_out(warning)
    assert len(load(files[0], tmp_path / "part-1_rows.csv").train) == len(first + ANSWERS)
    assert "perhaps no data" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "labels",
    ["abcabcab", "abababcd", "abacadae", "cababdba", "abbbbbbb", "12345678", "ababab"],
    ids=["all again", "last", "some", "first, but not alone", "one other class", "numbers", "two"],
)
def test_other_labels_are_not_taken_for_headers(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(put(tmp_path / "rows.csv", [["1", f"text {place}", label] for place, label in enumerate(labels)]))
    assert "perhaps no data" not in capsys.readouterr().out
