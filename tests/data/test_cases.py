"""Files as people have them, whole folders of them: each is read as a person means it, which is said where it is in
doubt, or refused with a way out that works.

`FTLOOP_CASES` names the folder with the files. What each kind is made of is tested beside, on rows made on the spot.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.pages import BOOK

from ftloop.errors import ExitCode
from ftloop.train import main

CASES = os.environ.get("FTLOOP_CASES")


@dataclass(frozen=True)
class Case:
    folder: str
    files: str
    """Name the training set, then the validation set."""
    said: str
    """What the console has to say."""
    flags: str = ""
    way_out: str | None = None
    """Flags of the refusal's message with which it is read; None where it is read at once."""


TWO_CLASSES = "(0=bad, 1=good)"
READ_AT_ONCE = [
    Case("spam-windows-1252", "train.csv dev.csv", "v2 -> v1 (0=ham, 1=spam)"),
    Case("other-delimiters", "train.csv dev.csv", "is read with --delimiter ';'"),
    Case("other-delimiters", "train_pipe.csv dev_pipe.csv", "is read with --delimiter '|'"),
    Case("compressed", "train.csv.gz dev.csv.gz", TWO_CLASSES),
    Case("json-shapes", "data.json data.json", TWO_CLASSES),
    Case("class-names-in-parquet", "train-*.parquet validation-*.parquet", "(0=worse, 1=better)"),
    Case("usual-columns", "train_imdb.csv dev_imdb.csv", "review -> sentiment"),
    Case("usual-columns", "train_food.csv dev_food.csv", "Text -> Score (0=1, 1=2, 2=3, 3=4, 4=5)"),
    Case("usual-columns", "train_rest.tsv dev_rest.tsv", "Review -> Liked"),
    Case("classes-as-floats", "train.csv dev.csv", "a few whole numbers written as"),
    Case("quantities", "train.csv dev.csv", "--problem_type regression learns them as numbers"),
    Case("quantities", "train.csv dev.csv", "text -> score (a number)", flags="--problem_type regression"),
    Case("label-vectors", "train2.jsonl dev2.jsonl", "vectors of 0 and 1 are read as lists of 2 labels"),
    Case("label-vectors", "train2f.jsonl dev2f.jsonl", "vectors of 0 and 1 are read as lists of 2 labels"),
    Case("label-vectors", "train3.jsonl dev3.jsonl", "vectors of 0 and 1 are read as lists of 3 labels"),
    Case("lists-in-quotes", "train.csv dev.csv", """texts such as "['late']" are read as lists"""),
    Case("lists-in-quotes", "train_hot.csv dev_hot.csv", "vectors of 0 and 1 are read as lists of 4 labels"),
    Case("case-and-spaces", "train.csv dev.csv", "classes that differ only by case or spaces: ' bad' and 'BAD'"),
    Case("empty-texts", "train.csv dev.csv", "2 of train (rows 4, 10); --drop_empty_texts"),
    Case("empty-texts", "train.jsonl dev.csv", "2 of train (rows 4, 10); --drop_empty_texts"),
    Case("special-token-in-a-text", "train.csv dev.csv", TWO_CLASSES),
    Case("head-with-its-own-order", "train.csv dev.csv", "(0=negative, 1=neutral, 2=positive)"),
]
REFUSED_FIRST = [
    Case(
        "spam-windows-1252",
        "train_cp1252.csv dev_cp1252.csv",
        "column 'v2' is not UTF-8 but, it seems, windows-1252",
        way_out="--encoding windows-1252",
    ),
    Case("no-header", "sms.tsv sms.tsv", "a row, not a header", way_out="--column_names label text"),
    Case("no-header", "news_train.csv news_test.csv", "a row, not a header", way_out="--column_names label title text"),
    Case("other-delimiters", "train.txt dev.txt", "a row, not a header", way_out="--column_names text label"),
    Case("json-shapes", "columns.json columns.json", """pandas' orient="columns", and a list of objects is wanted"""),
    Case("no-gold-label", "train.jsonl dev.jsonl", "the label '-' in rows 8, 28, 48", way_out="--drop_unlabelled"),
    Case("no-gold-label", "train_ids.jsonl dev_ids.jsonl", "the label '-1' in rows", way_out="--drop_unlabelled"),
    Case("one-file-only", "train.csv", "there is no validation set", way_out="--validation_split 0.1"),
    Case(
        "a-column-per-label",
        "train.csv dev.csv",
        "which column holds the label?",
        way_out="--label_column_name late dear noisy closed",
    ),
]


def test_the_book_counts_them() -> None:
    readme = BOOK["guides/stop-and-resume.md"]
    assert (
        f"| {len(READ_AT_ONCE) + len(REFUSED_FIRST)} situations | {len(READ_AT_ONCE)} read as they are meant" in readme
    )
    assert f"; {len(REFUSED_FIRST)} refused with a way out" in readme


def name(case: Case) -> str:
    return f"{case.folder}, {case.files} {case.flags}".strip()


@pytest.mark.slow
@pytest.mark.skipif(CASES is None, reason="FTLOOP_CASES does not name a folder with files as people have them")
@pytest.mark.parametrize("case", [*READ_AT_ONCE, *REFUSED_FIRST], ids=name)
def test_files_as_people_have_them(
    case: Case, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert CASES is not None
    files = [str(Path(CASES) / case.folder / file) for file in case.files.split()]
    words = ["guide", "--model_name_or_path", str(tiny_folder / "model"), "--output_dir", str(tmp_path / "out")]
    words += ["--max_steps", "2", "--use_cpu", "--train_file", files[0], *shlex.split(case.flags)]
    words += ["--validation_file", files[1]] if len(files) > 1 else []
    if case in REFUSED_FIRST:
        assert main(words) == ExitCode.USER_ERROR
        said = capsys.readouterr().err
        assert case.said in said
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.safetensors"))
        if case.way_out is None:
            return
        for flag in (word for word in case.way_out.split() if word.startswith("--")):
            assert flag in said
        words += shlex.split(case.way_out)
    assert main(words) == ExitCode.DONE
    assert case in REFUSED_FIRST or case.said in capsys.readouterr().out
