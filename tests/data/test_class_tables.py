"""Tables that hold a class each: recognised, with a command that makes one table of them with labels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import load_text_data
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

TEXTS = {"it's Fake": ['a "lamp", a cat', "two\nlines", "NA"], "true": ["", "caf\xe9; so it is", "null"]}


def put(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
    return path


def load(given: str | list[str], **settings: Any) -> Any:
    return load_text_data(TrainConfig(train_file=given, eval_strategy="no", **settings))


def fault(given: str | list[str], **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(given, **settings)
    return str(caught.value)


def run(told: str) -> None:
    """Run the command in a message as it is."""
    command = told.partition(", which is read")[2].partition(": ")[2]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", command], check=True, env=os.environ | {"PATH": path})


def rows_of(data: Any) -> list[tuple[str, str]]:
    return [(row["text"], row["label"]) for row in data.train.to_list()]


@pytest.mark.parametrize("in_folders", [False, True])
@pytest.mark.parametrize(
    ("delimiter", "encoding", "ending"),
    [(",", "utf-8", "csv"), (",", "utf-8-sig", "csv"), (";", "latin-1", "csv"), ("\t", "utf-8", "tsv")],
)
def test_a_table_for_each_class_is_recognised_and_read_after_the_command(
    in_folders: bool, delimiter: str, encoding: str, ending: str, tmp_path: Path
) -> None:
    root = tmp_path / "my news"
    files = []
    for label, texts in TEXTS.items():
        rows = ['"{}"{}07'.format(text.replace('"', '""'), delimiter) for text in texts]
        name = f"{label}/rows.{ending}" if in_folders else f"{label}.{ending}"
        files.append(str(put(root / name, "\n".join([f"text{delimiter}day", *rows, ""]), encoding)))
    settings = {} if encoding.startswith("utf") else {"encoding": encoding}
    kind = "folder" if in_folders else "file"
    listing = f"which column holds the label? {files[0]} has the columns text, day; name it with --label_column_name"
    for given in (files, str(root)):
        told = fault(given, **settings)
        assert told.startswith(listing) or (in_folders and given == str(root) and f"the folder {root} holds" in told)
        assert f"; if each {kind} holds a class (\"it's Fake\", 'true'), this makes labelled.{ending} of them" in told
        run(told)
        loaded = load(str(root / f"labelled.{ending}"), **settings)
        assert rows_of(loaded) == [(text, label) for label, texts in TEXTS.items() for text in texts]
        (root / f"labelled.{ending}").unlink()


def test_tables_of_bare_quotes_with_backslashes_or_without_a_header_are_read_as_they_are(tmp_path: Path) -> None:
    bare = [str(put(tmp_path / f"{name}.tsv", f'text\tn\n"a {name}\t1\na "cat"\t2\n')) for name in ("pos", "neg")]
    run(fault(bare))
    pairs = [(text, name) for name in ("pos", "neg") for text in (f'"a {name}', 'a "cat"')]
    assert rows_of(load(str(tmp_path / "labelled.tsv"))) == pairs
    marked = [str(put(tmp_path / "x" / f"{name}.csv", 'text,n\n"a \\"cat\\", so",1\n')) for name in ("pos", "neg")]
    run(fault(marked))
    assert rows_of(load(str(tmp_path / "x" / "labelled.csv"))) == [('a "cat", so', "pos"), ('a "cat", so', "neg")]
    headless = [str(put(tmp_path / "y" / f"{name}.csv", "a cat,1\na lamp,2\n")) for name in ("pos", "neg")]
    told = fault(headless, column_names=("text", "n"))
    assert "which is read; leave out --column_names then: python" in told
    run(told)
    assert rows_of(load(str(tmp_path / "y" / "labelled.csv")))[1:3] == [("a lamp", "pos"), ("a cat", "neg")]


@pytest.mark.parametrize(
    ("names", "headers"),
    [
        (("train.csv", "test.csv"), ("text,n", "text,n")),
        (("part-1.csv", "part-2.csv"), ("text,n", "text,n")),
        (("pos.csv", "neg.csv"), ("text,n", "text,m")),
        (("pos.csv", "neg.tsv"), ("text,n", "text\tn")),
        (("pos.csv",), ("text,n",)),
        (("train/pos.csv", "test/pos.csv"), ("text,n", "text,n")),
        (("pos.csv", "neg.csv"), ("text,Stars,rating", "text,Stars,rating")),
    ],
)
def test_other_tables_are_not_taken_for_classes(
    names: tuple[str, ...], headers: tuple[str, ...], tmp_path: Path
) -> None:
    files = []
    for name, header in zip(names, headers, strict=True):
        cells = re.sub(r"\w+", "1", header).replace("1", "a cat", 1)
        files.append(str(put(tmp_path / name, f"{header}\n{cells}\n")))
    told = fault(files)
    assert "which column holds the label?" in told
    assert "holds a class" not in told
    assert "holds a class" not in fault(str(tmp_path))
    assert "no column 'x'" in fault(files, label_column_name="x")
    assert "holds a class" not in fault(files, label_column_name="x")
