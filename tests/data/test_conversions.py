"""Lines of text with their labels in a form that is not read: recognised, with a command that makes one that is."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ftloop.config.train_config import TrainConfig
from ftloop.data.load import load_text_data
from ftloop.data.set_files import find_files
from ftloop.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

QUESTIONS = {
    "DESC:manner": "How did the lamp, once lit, burn on ?",
    "ENTY:word": "What caf\xe9 is meant by it ?",
    "NUM:date": "When was the bridge built ?",
}
TEXTS = {
    "pos": ["the lamp is fine", "a caf\xe9, and no mistake; we sat", "lovely"],
    "neg": ["the lamp is dim", "a bad one"],
}


def put(path: Path, lines: list[str], start: bytes = b"", end: str = "\n", encoding: str = "latin-1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start + (end.join(lines)).encode(encoding))  # no line end behind the last
    return path


def load(*files: Path, **settings: Any) -> Any:
    config = TrainConfig(train_file=[str(file) for file in files], eval_strategy="no", **settings)
    return load_text_data(config)


def fault(*files: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*files, **settings)
    return str(caught.value)


def made_by(told: str, folder: Path) -> Path:
    """Run the command in a message as it is, and return the file that it makes."""
    before, _, command = told.partition(", which is read: ")
    subprocess.run(["bash", "-ec", command.strip()], check=True)
    (made,) = folder.rglob(before.rpartition("this makes ")[2].removesuffix(" of it"))
    return made


@pytest.mark.parametrize("name", ["questions 5.label", "questions.txt", "questions", "questions.csv"])
@pytest.mark.parametrize(("start", "end"), [(b"", "\n"), (b"\xef\xbb\xbf", "\r\n")])
def test_labels_in_front_of_texts_are_recognised_and_read_after_the_command(
    name: str, start: bytes, end: str, tmp_path: Path
) -> None:
    encoding = "utf-8" if start else "latin-1"
    lines = [f"{label} {text}" for label, text in QUESTIONS.items()] * 5
    path = put(tmp_path / "my data" / name, [*lines, ""], start, end, encoding)
    told = fault(path)
    assert (
        "the first word of each line seems to be its label ('DESC:manner', 'ENTY:word', 'NUM:date'); in a shell" in told
    )
    made = made_by(told, tmp_path)
    settings = {"encoding": encoding}
    loaded = load(made, **settings)
    assert loaded.labels.names == tuple(QUESTIONS)
    expected = [{"label": label, "text": text} for label, text in QUESTIONS.items()] * 5
    assert sorted(map(str, loaded.train.to_list())) == sorted(
        str({"text": each["text"], "label": each["label"]}) for each in expected
    )


def test_labels_in_front_in_a_set_to_be_predicted_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path / "questions.txt", [f"{label} {text}" for label, text in QUESTIONS.items()] * 5)
    for flag in ("test_file", "input"):
        find_files(str(path), flag)
        assert f"Warning   {path}: the first word of each line seems to be its label (" in capsys.readouterr().out
    plain = put(tmp_path / "plain.txt", ["The lamp is in the hall", "A cat sat on a mat", "It rains and it pours"] * 3)
    find_files(str(plain), "test_file")
    assert "Warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "lines",
    [
        ["The lamp is in the hall", "A cat sat on a mat", "It rains and it pours"] * 3,
        ["one two", "three four", "five six", "seven eight"],
        ["x is here", "x is there"] * 2,
        ["a,b c", "b;c d", "c d", "b d"] * 3,
        ['0\tthe "lamp\t1 x', "0\ta cat\t2", "1\tit\t1\t4"] * 3,
    ],
)
def test_other_lines_have_no_labels_in_front(lines: list[str], tmp_path: Path) -> None:
    assert "seems to be its label" not in fault(put(tmp_path / "lines.txt", lines))
    assert "seems to be its label" not in fault(put(tmp_path / "lines.any", lines))


@pytest.mark.parametrize(
    "names",
    [
        ("rt-polarity.pos", "rt-polarity.neg"),
        ("rt-polarity.pos.txt", "rt-polarity.neg.txt"),
        ("pos.txt", "neg.txt"),
        ("it's_pos_5 .txt", "it's_neg_5 .txt"),
    ],
)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_file_for_each_class_is_recognised_and_read_after_the_command(
    names: tuple[str, str], start: bytes, tmp_path: Path
) -> None:
    encoding = "utf-8" if start else "latin-1"
    paths = [
        put(tmp_path / "some data" / name, [*lines, " ", *lines], start, encoding=encoding)
        for name, lines in zip(names, TEXTS.values(), strict=True)
    ]
    folder = put(paths[0].parent / "README", ["polarity", "data"]).parent
    expected = sorted((text, label) for label, texts in TEXTS.items() for text in texts * 2)
    pattern = Path(f"{folder}/{names[0].partition('pos')[0]}*")
    for given in ([folder], paths, [paths[1]], [pattern]):
        told = fault(*given)
        assert "seem to be a file for each class with a text a line; in a shell, this makes " in told
        made = made_by(told, tmp_path)
        loaded = load(made, encoding=encoding)
        assert sorted((row["text"], row["label"]) for row in loaded.train.to_list()) == expected
        made.unlink()


@pytest.mark.parametrize(
    "names", [("train.a", "test.a"), ("part-1.a", "part-2.a"), ("x.pos", "y.neg"), ("x.pos", "x.pos.old")]
)
def test_files_that_are_no_classes_are_not_taken_for_them(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        put(tmp_path / name, TEXTS["pos"])
    assert "file for each class" not in fault(tmp_path)
    assert "file for each class" not in fault(*(tmp_path / name for name in names))
    assert "no such file" in fault(tmp_path / "x.neg")


def test_class_folders_with_one_file_of_lines_each_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my reviews"
    for label, texts in TEXTS.items():
        put(root / label / f"{label[0]}.txt", texts)
    assert len(load(root, encoding="latin-1").train) == 2
    out = capsys.readouterr().out
    told = f"{root}: each class has one file, of several lines, which is one row; if each line is a text, in a shell"
    assert f"Warning   {told}, this makes my reviews.fasttext.txt of it" in out
    line = next(line for line in out.splitlines() if line.startswith("Warning"))
    loaded = load(made_by(line, tmp_path), encoding="latin-1")
    assert sorted((row["text"], row["label"]) for row in loaded.train.to_list()) == sorted(
        (text, label) for label, texts in TEXTS.items() for text in texts
    )
    put(root / "pos" / "other.txt", ["x", "y"])
    load(root, encoding="latin-1")
    assert "Warning" not in capsys.readouterr().out, "a text a file"
    odd = tmp_path / "odd"
    put(odd / "no, never" / "a", TEXTS["neg"])
    put(odd / "yes" / "a", TEXTS["pos"])
    load(odd, encoding="latin-1")
    assert "if each line is a text, write them as a csv with columns text and label\n" in capsys.readouterr().out
