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


SAID = ['"so dim a lamp', "@user it is, well; lit", "The lamp is lit", "A cat, a mat and so on", "", 'Tom "x" sat']
"""Texts of which some hold quotes and marks; none begins with its label."""


@pytest.mark.parametrize(
    ("names", "made"),
    [
        (("train_text.txt", "train_labels.txt"), "train_labelled.tsv"),
        (("texts.txt", "labels.txt"), "labelled.tsv"),
        (("it's x.train", "it's y.train"), "train_labelled.tsv"),
        (("train.texts", "train.labels"), "train_labelled.tsv"),
    ],
)
@pytest.mark.parametrize("labels", [["0", "1", "2"], ["very good", "bad", "bad"], ["1.5", "0.2", "1"]])
@pytest.mark.parametrize(("start", "end"), [(b"", "\n"), (b"\xef\xbb\xbf", "\r\n")])
def test_texts_and_labels_in_parallel_are_recognised_and_read_after_the_command(
    names: tuple[str, str], made: str, labels: list[str], start: bytes, end: str, tmp_path: Path
) -> None:
    texts = [f"{text} {number}" for number in range(4) for text in SAID]
    labels = labels * 8
    folder = tmp_path / "some data"
    paths = [put(folder / name, lines, start, end, "utf-8") for name, lines in zip(names, (texts, labels), strict=True)]
    put(folder / "README.md", ["x"] * 24)
    pattern = Path(f"{folder}/*{names[0][-5:]}") if names[0][-5:] == names[1][-5:] else folder
    told = fault(*paths)
    assert f"{names[0]} and {names[1]} in {folder} have the same number of lines and seem to be texts" in told
    for given in (paths[::-1], paths[:1], paths[1:], [folder], [pattern]):
        assert fault(*given) == told
    file = made_by(told, tmp_path)
    assert file.name == made
    rows = load(file).train.to_list()
    assert [(row["text"], row["label"]) for row in rows] == list(zip(texts, labels, strict=True))


def test_pairs_of_parallel_files_go_by_their_names_and_may_hold_two_texts(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        put(tmp_path / f"{name}_text.txt", [f"{text} of {name}" for text in [*SAID, "a\tlamp"] * 2])
        put(tmp_path / f"{name}_labels.txt", list(name[:2] * 7))
    put(tmp_path / "mapping.txt", ["0\tbad", "1\tgood"])
    told = fault(tmp_path)
    before, _, command = told.partition(", which are read: ")
    assert before.endswith("makes test_labelled.tsv, train_labelled.tsv, val_labelled.tsv of it")
    subprocess.run(["bash", "-ec", command], check=True)
    for name in ("train", "val", "test"):
        rows = load(tmp_path / f"{name}_labelled.tsv").train.to_list()
        assert rows == [
            {"text": f"{text} of {name}", "label": label}
            for text, label in zip([*SAID, "a lamp"] * 2, name[:2] * 7, strict=True)
        ]
    told = fault(tmp_path / "val_text.txt")
    assert told.startswith(f"train_file: val_text.txt and val_labels.txt in {tmp_path} have")
    pairs = tmp_path / "pairs"
    for name in ("s1", "s2"):
        put(pairs / f"{name}.dev", [f"{text} {name}" for text in SAID])
    put(pairs / "labels.dev", ["label", *["yes", "no"] * 3])
    assert "in parallel" not in fault(pairs / "labels.dev"), "a line more"
    put(pairs / "labels.dev", ["yes", "no"] * 3)
    (row, *_) = load(made_by(fault(pairs / "s1.dev"), pairs)).train.to_list()
    assert row == {"sentence1": f"{SAID[0]} s1", "sentence2": f"{SAID[0]} s2", "label": "yes"}


def test_a_header_in_parallel_files_is_kept_as_one(tmp_path: Path) -> None:
    put(tmp_path / "texts.txt", ["tweet", *SAID])
    put(tmp_path / "labels.txt", ["label", *"ab" * 3])
    loaded = load(made_by(fault(tmp_path), tmp_path))
    assert [row["tweet"] for row in loaded.train.to_list()] == SAID


def test_of_files_with_as_many_lines_those_with_like_names_are_in_parallel(tmp_path: Path) -> None:
    for name in ("laptops", "phones"):
        put(tmp_path / f"{name}.texts", [f"{text} {name}" for text in SAID])
        put(tmp_path / f"{name}.scores", [f"{number}.5" for number in range(6)])
    rows = load(made_by(fault(tmp_path / "phones.scores"), tmp_path), label_column_name="label").train.to_list()
    assert rows == [{"text": f"{text} phones", "label": f"{number}.5"} for number, text in enumerate(SAID)]


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (SAID, list("ab" * 4)),
        (SAID, list("ab " * 2)),
        (SAID, list("123456")),
        (list("abcd" * 2), list("ab" * 4)),
        (SAID, [f"the lamp is {each}" for each in "ab" * 3]),
    ],
)
def test_files_that_are_not_in_parallel_are_not_taken_for_it(
    texts: list[str], labels: list[str], tmp_path: Path
) -> None:
    put(tmp_path / "x_texts.txt", [*texts, ""])
    put(tmp_path / "x_labels.txt", [*labels, ""])
    for given in ([tmp_path], [tmp_path / "x_texts.txt"], [tmp_path / "x_labels.txt"]):
        assert "in parallel" not in fault(*given)
    put(tmp_path / "y" / "train_texts.txt", SAID)
    put(tmp_path / "y" / "test_labels.txt", list("ab" * 3))
    assert "in parallel" not in fault(tmp_path / "y"), "of two sets"


@pytest.mark.parametrize("lines", [["1", "0", "1", "1"], ["17", "18", "3", "4"], ["good", "bad", "bad", "good"]])
def test_a_file_of_labels_is_no_file_of_a_class(lines: list[str], tmp_path: Path) -> None:
    put(tmp_path / "train_text.txt", SAID)
    put(tmp_path / "train_labels.txt", lines)
    assert "file for each class" not in fault(tmp_path)


@pytest.mark.parametrize(
    "first",
    [
        ["The", "A", "It"],
        ["I", "You"],
        ["@user", "@you"],
        ['"so', '"well'],
        ["'so", "'well"],
        ["#one", "#two"],
        ["the", "a", "it"],
        ["can't", "won't"],
        ["Note:", "Hint:"],
        [f"w{number}" for number in range(61)],
    ],
)
def test_the_beginnings_of_sentences_are_no_labels(first: list[str], tmp_path: Path) -> None:
    lines = [f"{word} was here, and the cat saw a lamp; it {number}" for number in range(20) for word in first]
    assert "seems to be its label" not in fault(put(tmp_path / "lines.txt", lines))


@pytest.mark.parametrize("labels", [["pos", "neg"], ["+1", "-1"], ["BookFlight", "PlayMusic"], ["sci.med", "NUM:date"]])
def test_words_that_look_like_labels_are_taken_for_them(labels: list[str], tmp_path: Path) -> None:
    lines = [f"{label} the lamp, 1 of {number}" for number in range(10) for label in labels]
    assert "seems to be its label" in fault(put(tmp_path / "lines.txt", lines))
    assert "seems to be its label" not in fault(put(tmp_path / "few.txt", lines[: 2 * len(labels)]))
    is_plain = all(map(str.isalpha, labels))
    assert ("seems to be its label" in fault(put(tmp_path / "more.txt", lines[: 6 * len(labels)]))) is not is_plain


def test_texts_alone_are_told_how_labels_come_to_them(tmp_path: Path) -> None:
    path = put(tmp_path / "my data" / "texts.txt", [text or "x" for text in SAID])
    told = fault(path, delimiter="\\t", column_names=("words",), text_column_names=("words",))
    assert told.startswith(f"which column holds the label? {path} has texts alone (words); give the labels in a column")
    put(tmp_path / "labels.txt", list("ab" * 3))
    names = shell_of(told, tmp_path, "it is read with --column_names ").split()
    loaded = load(path.with_name("texts_labelled.tsv"), column_names=tuple(names), text_column_names=("words",))
    assert [row["label"] for row in loaded.train.to_list()] == list("ab" * 3)

    path = put(tmp_path / "pairs.tsv", ["sentence1\tsentence2", *["a lamp\ta cat", "a mat\tno"] * 3])
    told = fault(path)
    assert "has texts alone (sentence1, sentence2)" in told
    put(tmp_path / "labels.txt", ["label", *"ab" * 3])
    shell_of(told, tmp_path, "line 1 of that file is label, a header")
    assert load(tmp_path / "pairs_labelled.tsv").labels.names == ("a", "b")

    (tmp_path / "rows.jsonl").write_text('{"text": "a lamp"}\n')
    assert fault(tmp_path / "rows.jsonl").endswith("(text); give the labels in a column of their own of the same file")


def shell_of(told: str, folder: Path, way: str) -> str:
    """Run the command in a message in a folder, and return what stands behind `way`."""
    command, _, behind = told.rpartition("beside it: ")[2].partition(f" ({way}")
    subprocess.run(["bash", "-ec", command], check=True, cwd=folder)
    return behind.removesuffix(")")
