"""Inference: the same as transformers' pipeline, in the rows' order, of files with anything in them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from harness.command import CHECKOUT
from harness.models import ARCHITECTURES, TWO_TOKEN_TYPES, build, tiny_bert
from harness.rows import tiny_tokenizer
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, pipeline

from ftloop import UserError
from ftloop.config.command_line import parse_args
from ftloop.config.problem_type import ProblemType
from ftloop.data.readers import read_chunks
from ftloop.data.sources import Source, find_source
from ftloop.errors import ExitCode, TrainingError
from ftloop.inference.__main__ import HINTS, _parser, main
from ftloop.inference.classifier import BatchBudget, Classifier, classify, compute_logits, encode, load_classifier
from ftloop.inference.writers import Output, _opened_to_write, find_output, make_table, writing
from ftloop.system.atomic import remove_partial_saves
from ftloop.system.manifest import write_manifest

Rows = list[dict[str, Any]]
# Lengths of 3 to 60 tokens, in no order.
PAIRS = [(" ".join(f"word{(7 * i + k) % 90}" for k in range(1 + 11 * i % 29)), f"yes word{i}") for i in range(41)]
TEXTS = [first for first, _ in PAIRS]


def decided(model: Any) -> Any:
    """Make weights so large, and a head so placed, that a model decides now for one class and now for another."""
    tokens = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
        logits = model.eval()(**inputs).logits
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        assert len(head.bias) == model.config.num_labels
        scale = 0.3 / logits.std(dim=0)  # the less, the less it multiplies what rounding does
        head.weight.mul_(scale[:, None])
        head.bias.copy_(-scale * (logits.mean(dim=0) - head.bias))
    return model


def made(folder: Path, num_labels: int = 2, problem_type: str | None = None, **config: Any) -> Path:
    """A model folder."""
    names = dict(enumerate(["no", "yes", "perhaps"][:num_labels] if num_labels > 1 else ["LABEL_0"]))
    model = decided(tiny_bert(num_labels, problem_type=problem_type, id2label=names, **config))
    tiny_tokenizer().save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("model"))


@pytest.fixture
def predict(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """The command with these words; gives what it printed."""

    def run(*words: Any, code: int = ExitCode.DONE, model: Path = folder) -> tuple[str, str]:
        capfd.readouterr()
        assert main(["--model", str(model), *map(str, words)]) == code
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        assert not list(tmp_path.rglob(".*.writing"))
        return printed.out, printed.err

    return run


def pairs_file(path: Path, rows: Rows | None = None) -> Path:
    rows = [{"sentence1": a, "sentence2": b} for a, b in PAIRS] if rows is None else rows
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_back(path: Path) -> Rows:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


# The same as the pipeline


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=[] if name in ("bert", "deberta-v2") else [pytest.mark.slow]) for name in ARCHITECTURES],
)
def test_predictions_are_those_of_the_pipeline_on_every_architecture(architecture: str) -> None:
    """They agree to 1e-6: it computes one row at a time, and sums of another shape round otherwise."""
    model, tokenizer = decided(build(architecture, num_labels=3)), tiny_tokenizer()
    if architecture not in TWO_TOKEN_TYPES:
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    theirs = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    ours = Classifier(model, tokenizer)
    of_pairs = theirs([{"text": a, "text_pair": b} for a, b in PAIRS], truncation=True)
    for found, expected in ((ours(PAIRS), of_pairs), (ours(TEXTS), theirs(TEXTS, truncation=True))):
        assert [each.label for each in found] == [each["label"] for each in expected]
        assert [each.score for each in found] == pytest.approx([each["score"] for each in expected], abs=1e-6)
    assert len({each.label for each in ours(PAIRS)}) > 1, "nothing to tell apart"


@pytest.mark.parametrize(("num_labels", "problem_type"), [(3, "multi_label_classification"), (1, "regression")])
def test_several_labels_and_numbers_are_those_of_the_pipeline(
    num_labels: int, problem_type: str, tmp_path: Path
) -> None:
    """They agree to 1e-6 of the largest, for the same reason."""
    path = made(tmp_path / "model", num_labels, problem_type)
    found = load_classifier(path)(PAIRS)
    theirs = pipeline("text-classification", model=str(path), device="cpu")
    best = theirs([{"text": a, "text_pair": b} for a, b in PAIRS])
    assert [each.label for each in found] == [each["label"] for each in best]
    assert [each.score for each in found] == pytest.approx([each["score"] for each in best], rel=1e-5, abs=1e-6)
    every = theirs([{"text": a, "text_pair": b} for a, b in PAIRS], top_k=None)
    for each, expected in zip(found, every, strict=True):
        above = {score["label"] for score in expected if score["score"] > 0.5}
        if num_labels > 1:
            assert each.probabilities == pytest.approx({s["label"]: s["score"] for s in expected}, abs=1e-6)
            assert set(each.labels) == above
        else:
            assert (each.labels, each.probabilities) == (("LABEL_0",), {})
    if num_labels > 1:
        assert len({each.labels for each in found}) > 2, "nothing to tell apart"


# Batches


def test_texts_in_any_form_are_classified_or_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = load_classifier(folder)
    texts = [pair[0] for pair in PAIRS]
    expected, of_pairs = classifier(texts), classifier(PAIRS)
    frame = pd.DataFrame(PAIRS, columns=["a", "b"])
    forms = [frame["a"], frame["a"].to_numpy(), np.array(texts), (text for text in texts), iter(texts), tuple(texts)]
    forms += [frame.index.map(lambda row: texts[row]), datasets.Dataset.from_pandas(frame)["a"]]
    for form in forms:
        assert classifier(form) == expected, form
    assert classifier(frame[["a", "b"]].to_numpy()) == classifier(zip(frame["a"], frame["b"], strict=True)) == of_pairs
    assert classifier(np.array(texts)[0]) == classifier(texts[0]) == classify(*classifier, texts[0])
    for wrong, said in (
        (frame, "a DataFrame is no list of texts"),
        ({"a": texts}, "a dict is no list of texts"),
        (set(texts), "a set is no list of texts"),
        (5, "texts are wanted, in a list, and not 5"),
        (pd.Series([texts[0], float("nan")]), "text 2 is not a text"),
        (PAIRS[0], r"a tuple of two texts: one pair is \[\(text, other\)\]"),
    ):
        with pytest.raises(UserError, match=said):
            classifier(wrong)
    for takes_pairs, same in ((True, [PAIRS[0]]), (False, [*PAIRS[0]])):
        classifier.takes_pairs = takes_pairs
        assert classifier(PAIRS[0]) == classifier(same)
    assert not capsys.readouterr().err
    for takes_pairs, given, told in ((True, texts, "pairs, and these are single"), (False, PAIRS, "single texts, and")):
        classifier = load_classifier(folder)
        classifier.takes_pairs = takes_pairs
        assert classifier(given) == classifier(given) == (expected if takes_pairs else of_pairs)
        said = capsys.readouterr().err
        assert said.count(f"Warning   the model was trained on {told}") == 1, "once"
    model, tokenizer = classifier
    assert classify(model, tokenizer, []) == []
    shutil.copytree(folder, tmp_path / "run")
    for columns in (["a"], ["a", "b"]):
        (tmp_path / "run" / "ftloop_run.json").write_text(json.dumps({"data": {"text_columns": columns}}))
        assert load_classifier(tmp_path / "run").takes_pairs is (len(columns) == 2)


def test_batch_composition_changes_only_the_rounding_of_scores(folder: Path) -> None:
    """Absolute 1e-6 of probabilities: each batch is a product of another shape, which sums in another order."""
    model, tokenizer = load_classifier(folder)
    alone = [classify(model, tokenizer, [pair])[0] for pair in PAIRS]
    assert len({each.label for each in alone}) == 2
    for max_tokens in (1, 100, 333, 10**6):
        found = classify(model, tokenizer, PAIRS, max_tokens=max_tokens)
        assert [each.label for each in found] == [each.label for each in alone]
        assert [each.score for each in found] == pytest.approx([each.score for each in alone], abs=1e-6)


def test_batches_hold_texts_of_one_length_within_the_budget_longest_first(folder: Path) -> None:
    model, tokenizer = load_classifier(folder)
    encoded = encode(tokenizer, PAIRS, None)
    batches = [rows for rows, _ in compute_logits(model, tokenizer, encoded, BatchBudget(200, padding=20))]
    assert sorted(row for rows in batches for row in rows) == list(range(len(PAIRS)))
    computed = [len(rows) * encoded.lengths[rows].max() for rows in batches]
    assert max(computed) <= 200
    padding = [size - encoded.lengths[rows].sum() for size, rows in zip(computed, batches, strict=True)]
    assert 0 < max(padding) <= 20
    for rows, after in pairwise(batches):  # filled: with one row more it would be too much
        lengths = encoded.lengths[[*rows, after[0]]]
        assert len(lengths) * lengths[0] > 200 or (lengths[0] - lengths).sum() > 20
    assert encoded.lengths[batches[0]].max() == encoded.lengths.max()


class SmallMemory:
    """A model that has no memory for more than so many tokens at once."""

    def __init__(self, model: nn.Module, tokens: int) -> None:
        self.tokens, self.failures = tokens, 0
        model.get_input_embeddings().register_forward_pre_hook(self._refuse)  # type: ignore[operator]

    def _refuse(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].numel() > self.tokens:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_batch_that_does_not_fit_is_halved_and_so_are_those_after_it(folder: Path) -> None:
    plain = load_classifier(folder)(PAIRS)
    model, tokenizer = load_classifier(folder)
    memory = SmallMemory(model, 150)
    encoded, budget = encode(tokenizer, PAIRS, None), BatchBudget(1000, padding=10**6)
    labels = {
        row: int(best)
        for rows, logits in compute_logits(model, tokenizer, encoded, budget)
        for row, best in zip(rows, logits.argmax(1), strict=True)
    }
    assert memory.failures == 3, "about 1000, 500 and 250 tokens, and then no more"
    assert budget.tokens <= 150
    assert [model.config.id2label[labels[row]] for row in range(len(PAIRS))] == [each.label for each in plain]
    memory.tokens = 10
    with pytest.raises(TrainingError, match=r"one text of \d+ tokens did not fit into memory"):
        classify(model, tokenizer, PAIRS)


def test_a_model_is_left_in_the_mode_it_was_in(folder: Path) -> None:
    model, tokenizer = load_classifier(folder)
    first = classify(model.train(), tokenizer, PAIRS)
    assert model.training
    assert classify(model, tokenizer, PAIRS) == first, "dropout was on"


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token_and_is_left_as_it_was(side: str) -> None:
    sizes = {"vocab_size": len(tiny_tokenizer()), "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model, tokenizer = GPT2ForSequenceClassification(GPT2Config(**sizes)).eval(), tiny_tokenizer()
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side = "[PAD]", None, side
    before = dict(tokenizer.init_kwargs)
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in ("word1", "word2 word3 word4")]
    alone = [float(each.softmax(-1).max()) for each in logits]
    found = classify(model, tokenizer, ["word1", "word2 word3 word4"], max_tokens=100)
    assert [each.score for each in found] == pytest.approx(alone, abs=1e-6)
    assert (tokenizer.pad_token, tokenizer.padding_side, dict(tokenizer.init_kwargs)) == (None, side, before)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"^classify: the tokenizer of the model has no padding token, and no end"):
        classify(model, tokenizer, ["word1"])


def test_one_text_is_a_list_of_one_and_none_is_none(folder: Path) -> None:
    classifier = load_classifier(folder)
    assert classifier("yes word1") == classifier(["yes word1"])
    assert classifier([]) == []
    (found,) = classifier([["yes word1", "word2"]])
    assert found.probabilities[found.label] == found.score == max(found.probabilities.values())
    assert sum(found.probabilities.values()) == pytest.approx(1)
    for texts, told in (
        (["a", ("b", "c")], "text 2 is not a text as the first is"),
        ([("a", "b"), "cd"], "text 2 is not a pair of texts"),
        ([("a", "b"), ("a", "b", "c")], "text 2 is not a pair"),
        (["a", None], "text 2 is not a text"),
        ([5, "a"], "text 1 is neither a text nor a pair of texts: 5"),
        (
            ["a", {"id": 1, "review": "b"}],
            r"2 is a mapping of 'id', 'review'; .* classifier\(\[row\['review'\] for row in",
        ),
        ([{"text": "a", "text_pair": "b"}], r"classifier\(\[\(row\['text'\], row\['text_pair'\]\) for row in rows\]\)"),
        ([{"premise": "a", "hypothesis": "b"}], r"classifier\(\[\(row\['premise'\], row\['hypothesis'\]\) for row in"),
        ([{"lyrics": "a"}], r"classifier\(\[row\['...'\] for row in rows\]\)"),
        ({"id": "1", "sentence": "b"}, r"of a row give its texts: classifier\(\[row\['sentence'\]\]\)"),
    ):
        with pytest.raises(UserError, match=told):
            classifier(texts)  # type: ignore[arg-type]


def test_models_that_cannot_be_asked_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="predicts 2 numbers a row"):
        load_classifier(made(tmp_path / "two", 2, "regression"))
    classifier = load_classifier(made(tmp_path / "nan"))
    with torch.no_grad():
        classifier.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="what the model gives is not finite"):
        classifier(["a"])


# Files


def test_every_row_of_every_format_keeps_its_place_and_its_columns(
    predict: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """jsonl to each, and each of those to jsonl; over several chunks, with a last one that is not full."""
    monkeypatch.setattr("ftloop.data.readers.CHUNK_ROWS", 16)
    rows = [{"id": i, "sentence1": a, "sentence2": b, "share": i / 4} for i, (a, b) in enumerate(PAIRS)]
    source = pairs_file(tmp_path / "in.jsonl", rows)
    expected = load_classifier(folder)(PAIRS)
    assert len({each.label for each in expected}) == 2
    for ending in ("csv", "tsv", "parquet", "jsonl"):
        there, back = tmp_path / f"there.{ending}", tmp_path / "back.jsonl"
        predict("--input", source, "--output", there, "--all_probabilities")
        found = read_back(there)
        assert list(found[0])[:6] == ["id", "sentence1", "sentence2", "share", "label", "score"]
        assert [each["label"] for each in found] == [each.label for each in expected]
        assert [float(each["score"]) for each in found] == pytest.approx([e.score for e in expected], abs=1e-6)
        for each, wanted in zip(found, expected, strict=True):
            names = {name: each[f"probability_{name}"] for name in ("no", "yes")} if ending != "jsonl" else {}
            names = names or each["probabilities"]
            assert {name: float(value) for name, value in names.items()} == pytest.approx(
                wanted.probabilities, abs=1e-6
            )
        assert all(not each.get("error") for each in found)
        assert ("error" in found[0]) == (ending != "jsonl")
        typed = ending in ("jsonl", "parquet")
        assert [each["id"] for each in found] == [i if typed else str(i) for i in range(len(PAIRS))]
        assert found[3]["share"] == (0.75 if typed else "0.75")

        predict("--input", there, "--output", back)
        again = read_back(back)
        assert [each["sentence1"] for each in again] == TEXTS
        assert [each["predicted_label"] for each in again] == [each.label for each in expected]
        assert [each["label"] for each in again] == [each.label for each in expected]


TRICKY = [
    '"quoted", and\tmore',
    "line\nend",
    "carriage\rreturn",
    "",
    " ",
    "é שלום 😀 \u2028",
    "\x00",
    "'",
    '"',
    "a,b",
    "NaN",
]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_whatever_a_text_holds_comes_back(ending: str, tmp_path: Path) -> None:
    rows = [{"text": text, "other": text[::-1]} for text in TRICKY]
    source = pairs_file(tmp_path / "in.jsonl", rows)
    for start, target in ((source, tmp_path / f"a.{ending}"), (tmp_path / f"a.{ending}", tmp_path / f"b.{ending}")):
        with find_source(str(start), None, read_twice=False) as found:
            (chunk,) = read_chunks(found)
            table = make_table(ending, chunk, ProblemType.SINGLE_LABEL)
            with writing(find_output(str(target), None, [found]), table) as write:
                write(chunk, {"label": ["x"] * len(rows), "score": [0.5] * len(rows), "error": [None] * len(rows)})
        assert [row.error for row in chunk.rows] == [None] * len(rows)
        assert [(row.values["text"], row.values["other"]) for row in chunk.rows] == [(t, t[::-1]) for t in TRICKY]
    assert [each["text"] for each in read_back(tmp_path / f"b.{ending}")] == TRICKY


def test_parquet_keeps_what_it_is_given_and_other_formats_get_it_as_text(predict: Any, tmp_path: Path) -> None:
    columns = {
        "text": ["yes", "no word1"],
        "when": pa.array([1, 1_500_000_000_000_000_001], pa.timestamp("ns")),  # beyond what Python's have
        "bytes": [b"\xff", None],
        "many": [[1, 2], []],
        "gap": [math.nan, 2.0],
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "user": [{"id": 2**63 - 1, "tags": ["a"]}, None],
    }
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), source)
    _, err = predict("--input", source, "--output", tmp_path / "out.parquet")
    assert "as text" not in err
    kept = pq.read_table(tmp_path / "out.parquet")
    assert kept.column_names == [*columns, "label", "score", "error"]
    given = pq.read_table(source)
    assert kept.select(list(columns)).schema.types == given.schema.types
    assert kept.column("when").equals(given.column("when"))
    predict("--input", source, "--output", tmp_path / "out.jsonl")
    first, second = read_back(tmp_path / "out.jsonl")
    assert (first["many"], first["gap"], second["gap"], second["bytes"]) == ([1, 2], None, 2.0, None)
    assert second["when"].startswith("2017-07-14")
    _, err = predict("--input", tmp_path / "out.jsonl", "--output", tmp_path / "back.parquet")
    assert "Columns   written to parquet as text, lists and mappings as JSON: many, user; jsonl keeps values" in err
    assert json.loads(pq.read_table(tmp_path / "back.parquet").column("user")[0].as_py())["id"] == 2**63 - 1


def test_a_text_within_mappings_is_read_by_its_dotted_name_and_its_row_kept(predict: Any, tmp_path: Path) -> None:
    rows: Rows = [{"data": {"text": text}, "id": number} for number, text in enumerate(TEXTS[:5])]
    flat = pairs_file(tmp_path / "flat.jsonl", [{"text": row["data"]["text"]} for row in rows])
    predict("--input", flat, "--output", tmp_path / "flat_out.jsonl")
    source = pairs_file(tmp_path / "in.jsonl", [*rows, {"data": {}, "id": 5}])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    for path in (source, tmp_path / "in.parquet"):
        predict("--input", path, "--output", tmp_path / "out.jsonl", "--text_column_names", "data.text")
        found = read_back(tmp_path / "out.jsonl")
        assert [(row["data"], row["id"]) for row in found[:5]] == [(row["data"], row["id"]) for row in rows]
        assert [row["label"] for row in found[:5]] == [row["label"] for row in read_back(tmp_path / "flat_out.jsonl")]
        assert [row["error"] for row in found[5:]] in ([], ["line 6: column data.text has no value"])
    _, err = predict("--input", source, code=ExitCode.USER_ERROR)
    assert f"data.text could; {source} has the columns data, id, data.text; name one or two with --text" in err


def test_standard_input_and_output_are_json_lines_or_what_is_asked_for(
    predict: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pairs_file(tmp_path / "in.jsonl")
    expected = [each.label for each in load_classifier(folder)(PAIRS)]
    for ending in ("jsonl", "csv", "tsv", "parquet"):
        predict("--input", source, "--output", tmp_path / f"in.{ending}x", "--output_format", ending)
        content = (tmp_path / f"in.{ending}x").read_bytes()
        for strict in ([], ["--strict"]):
            stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))  # type: ignore[arg-type]
            monkeypatch.setattr(sys, "stdin", stdin)
            out, err = predict("--input", "-", "--input_format", ending, *strict)
            found = [json.loads(line) for line in out.splitlines()]
            assert [each["predicted_label"] for each in found] == expected
            assert "into standard output" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(source.read_bytes()))))  # type: ignore[arg-type]
    out, _ = predict("--input", "-", "--output_format", "csv")
    assert [row["label"] for row in csv.DictReader(io.StringIO(out))] == expected


def test_a_json_list_is_read_from_standard_input_and_from_a_name_without_its_ending(
    predict: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in pairs_file(tmp_path / "in.jsonl").read_text().splitlines()]
    source = tmp_path / "in.txt"
    source.write_text(json.dumps(rows, indent=1))
    expected = [each.label for each in load_classifier(folder)(PAIRS)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(source.read_bytes()))))  # type: ignore[arg-type]
    for words in (["--input", "-"], ["--input", source]):
        out, _ = predict(*words, "--input_format", "json")
        assert [json.loads(line)["label"] for line in out.splitlines()] == expected


def test_texts_alone_are_a_row_a_line_whatever_they_hold(
    predict: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ['word1 "word2', "word3, word4", "", "word5\tword6", '{"no": json', "word1", " word2 \r word3"]
    source = tmp_path / "in.txt"
    source.write_bytes("\ufeff".encode() + "\n".join(texts).encode() + b"\n")
    expected = [each.label for each in load_classifier(folder)(texts)]
    for words in (["--input", source], ["--input", "-", "--input_format", "text"]):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(source.read_bytes())))  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "stdin", stdin)
        out, err = predict(*words)
        found = [json.loads(line) for line in out.splitlines()]
        assert [each["text"] for each in found] == texts
        assert [each["label"] for each in found] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"a\n"))))  # type: ignore[arg-type]
    _, err = predict("--input", "-", code=ExitCode.USER_ERROR)
    assert "standard input, line 1: not JSON (Expecting value, character 1); for a text a line --input_format" in err


def test_parquet_is_written_to_a_pipe(folder: Path, tmp_path: Path) -> None:
    source, kept = pairs_file(tmp_path / "in.jsonl"), tmp_path / "kept.parquet"
    reader, writer = os.pipe()
    child = subprocess.Popen(["cat"], stdin=reader, stdout=kept.open("wb"))
    os.close(reader)
    os.set_inheritable(writer, True)
    words = ["--model", str(folder), "--input", str(source), "--output", f"/dev/fd/{writer}"]
    assert main([*words, "--output_format", "parquet"]) == ExitCode.DONE
    os.close(writer)
    assert child.wait(30) == 0
    assert pq.read_table(kept).num_rows == len(PAIRS)


BAD_JSONL = b"""{"sentence1": "yes", "sentence2": "word1"}
{"sentence1": "yes"
\xff\xfe
{"sentence1": "no", "sentence2": null}

{"sentence1": "no"}
[1, 2]
{"sentence1": ["no"], "sentence2": "b"}
{"sentence1": "\\ud83d", "sentence2": "b"}
{"sentence1": "yes", "sentence2": "word2", "n": 1e999}
"""
WESTERN = "not UTF-8 but, it seems, windows-1252: give --encoding windows-1252, or save the file as UTF-8"
BAD_CSV = b"""id,sentence1,sentence2
1,yes,word1
2,yes
3,yes,word1,more

4,caf\xe9,word2
5,"a "b" c",d
6,"two
lines",word3
7,yes,"never closed
8,yes,word4
"""


def test_bad_rows_are_named_by_line_and_do_not_stop_the_rest(predict: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(BAD_JSONL)
    (tmp_path / "bad.csv").write_bytes(BAD_CSV)
    for name, faults in {
        "bad.jsonl": {
            2: "not JSON (Expecting ',' delimiter, character 1)",
            3: "not UTF-8 but, it seems, windows-1251: give --encoding windows-1251, or save the file as UTF-8",
            4: "column sentence2 has no value",
            6: "column sentence2 has no value",
            7: "expected an object of columns, found list",
            8: "column sentence1 holds a list, not a text or a number; "
            "pandas' .str.join(' ') makes texts of a column of lists of words",
            9: "column sentence1 holds half a surrogate pair, which is not text",
        },
        "bad.csv": {
            3: "2 fields where the header has 3",
            4: "4 fields where the header has 3",
            6: f"column 'sentence1' is {WESTERN}",
            7: "',' expected after '\"': inside quotes a quote is written twice, or in all rows behind a backslash",
            10: "a quote is opened here and never closed: the rest of the file is taken for this row",
        },
    }.items():
        for ending in ("jsonl", "csv", "parquet"):
            out = tmp_path / f"out.{ending}"
            _, err = predict("--input", tmp_path / name, "--output", out)
            told = [line for line in err.splitlines() if line.startswith("Bad row")]
            places = {fault: [line for line, each in faults.items() if each == fault] for fault in faults.values()}
            assert told == [
                f"Bad row   {tmp_path / name}, line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))}: {fault}"
                for fault, lines in places.items()
            ]
            found = read_back(out)
            good = [row for row in found if row["label"]]
            errors = [f"line {line}: {fault}" for line, fault in faults.items()]
            assert [row.get("error") for row in found if not row["label"]] == errors
            assert len(good) == 2
            assert f"Predicted 2 of {len(found)} rows into {out} in " in err
            assert f"the reason for the other {len(faults)} is in error" in err
            assert all(float(row["score"]) > 0.5 and not row.get("error") for row in good)
    places = [bool(row["label"]) for row in read_back(tmp_path / "out.jsonl")]
    assert places == [True, False, False, False, False, True, False]
    assert read_back(tmp_path / "out.csv")[3]["sentence1"] == "caf�"


def test_strict_stops_at_bad_rows_before_anything_is_predicted(predict: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(BAD_JSONL)
    (tmp_path / "out.jsonl").write_text("as it was")
    words = ("--input", tmp_path / "bad.jsonl", "--strict")
    for output in ((), ("--output", tmp_path / "out.jsonl")):
        out, err = predict(*words, *output, code=ExitCode.USER_ERROR)
        assert out == ""
        assert err.count("error: ") == 7
        assert f"error: {tmp_path / 'bad.jsonl'}, lines 4, 6: column sentence2 has no value\n" in err
        assert f"error: {tmp_path / 'bad.jsonl'}: 7 bad rows in all\n" in err
        assert f"error: {tmp_path / 'bad.jsonl'}, line 3: not UTF-8 but, it seems, windows-1251: " in err
    assert (tmp_path / "out.jsonl").read_text() == "as it was"


def test_many_bad_rows_are_counted_and_only_bad_ones_are_an_error(predict: Any, tmp_path: Path) -> None:
    rows: Rows = [{"text": None}] * 70
    source = pairs_file(tmp_path / "in.jsonl", [*rows, {"text": "yes"}])
    _, err = predict("--input", source, "--output", tmp_path / "out.csv")
    assert f"{source}, lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 60 more: column text has no value\n" in err
    assert "the reason for the other 70 is in error" in err
    _, err = predict("--input", source, "--strict", code=ExitCode.USER_ERROR)
    assert err.count("column text has no value") == 1
    assert f"{source}: 70 bad rows in all" in err
    source = pairs_file(tmp_path / "in.jsonl", rows)
    _, err = predict("--input", source, "--output", tmp_path / "none.csv", code=ExitCode.USER_ERROR)
    assert "not one of its 70 rows could be predicted" in err
    assert not (tmp_path / "none.csv").exists()
    lines = [f"yes{',' * number}" for number in range(2, 27)]
    (tmp_path / "in.csv").write_text("\n".join(["text,n", "yes,1", *lines, *lines]))
    _, err = predict("--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")
    assert err.count("Bad row") == 21
    assert (
        "in.csv, lines 22, 47: 22 fields where the header has 2\nBad row   and others, which are only counted\n" in err
    )
    pq.write_table(pa.table({"text": [b"yes", b"no"]}), tmp_path / "bytes.parquet")
    _, err = predict("--input", tmp_path / "bytes.parquet", code=ExitCode.USER_ERROR)
    told = (
        "rows 1, 2: column text holds bytes, not a text or a number; pandas' .str.decode('utf-8') makes texts of a col"
    )
    assert err.count(told) == err.count("Bad row") == 1


def test_several_files_are_predicted_as_training_finds_them(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows in order, with their own columns; and what does not go together is told before a model is loaded."""
    monkeypatch.setattr("ftloop.data.readers.CHUNK_ROWS", 2)
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS[:9])]
    predict("--input", pairs_file(tmp_path / "all.jsonl", rows), "--output", tmp_path / "whole.jsonl")
    expected = [(row["id"], row["text"], row["label"]) for row in read_back(tmp_path / "whole.jsonl")]
    parts = tmp_path / "parts"
    for ending in ("csv", "jsonl", "parquet"):
        for number in range(3):
            part = parts / ending / f"{number}.{ending}"
            part.parent.mkdir(parents=True, exist_ok=True)
            pairs_file(tmp_path / "part.jsonl", rows[3 * number : 3 * number + 3])
            if ending == "jsonl":
                shutil.copy(tmp_path / "part.jsonl", part)
            else:
                frame = pd.read_json(tmp_path / "part.jsonl", lines=True)
                getattr(frame, f"to_{ending}")(part, index=False)
        files = sorted((parts / ending).iterdir())
        for given in ([parts / ending], [f"{parts / ending}/*.{ending}"], files):
            for out in ("csv", "jsonl", "parquet"):
                _, err = predict("--input", *given, "--output", tmp_path / f"out.{out}")
                found = read_back(tmp_path / f"out.{out}")
                assert [(int(row["id"]), row["text"], row["label"]) for row in found] == expected
                assert f"Predicted 9 rows into {tmp_path / 'out'}.{out} in " in err
                assert ("Files     input" in err) == (len(given) == 1)
    first, second, third = sorted((parts / "csv").iterdir())
    _, err = predict("--input", parts / "csv", "--output", second, code=ExitCode.USER_ERROR)
    assert f"output: {second} is the input; name another file" in err
    second.write_text(second.read_text() + "9,yes,no\n" * 2)
    _, err = predict("--input", parts / "csv", "--output", tmp_path / "out.csv")
    assert err.count("Bad row") == 1, "told once, though it comes again in the next chunk"
    assert read_back(tmp_path / "out.csv")[6]["error"] == f"{second}, line 5: 3 fields where the header has 2"
    _, err = predict("--input", parts / "csv", "--strict", code=ExitCode.USER_ERROR)
    assert f"error: {second}, line 5: 3 fields where the header has 2\n" in err
    second.write_text("8,a text of some words\n")
    third.write_text("id,words\n1,yes\n")
    plain, texts = parts / "1.txt", parts / "2.txt"
    plain.write_text("yes\nno\n")
    texts.write_text("perhaps")
    pq.write_table(pa.table({"text": ["a"], "id": ["b"]}), parts / "parquet" / "3.parquet")
    for words, told in {
        (first, second): "1.csv: line 1 seems to be a row, not a header ('8', 'a text of some words');",
        (first, third): f"{third} has the columns id, words, and {first} id, text; predict files with other columns by",
        (
            first,
            parts / "parquet",
        ): f"{first} is csv, and {parts / 'parquet' / '0.parquet'} is parquet; predict the files",
        (parts / "parquet", "--output", tmp_path / "o.parquet"): "column text of ",
        (
            f"{parts}/*.txt",
        ): "is each of several files one text, or each line of it? --input_format text reads a text a line",
        (plain, texts): f"{plain}: is each of several files one text",
        (first, first): f"{first} is there twice",
        (f"{parts}/*.tsv",): "input: no file matches",
        (first, "-"): "input: no such file: -",
    }.items():
        assert told in predict("--input", *words, code=ExitCode.USER_ERROR)[1]
    out, _ = predict("--input", f"{parts}/*.txt", "--input_format", "text")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["yes", "no", "perhaps"]
    for label, text in {"pos": "yes", "neg": "no\nnot yes"}.items():
        (tmp_path / "folders" / label).mkdir(parents=True)
        (tmp_path / "folders" / label / "0_9.txt").write_text(f"{text}\n")
    (tmp_path / "flat" / "all").mkdir(parents=True)
    for part in (plain, texts):
        shutil.copy(part, tmp_path / "flat" / "all")
    out, _ = predict("--input", tmp_path / "flat")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["yes\nno", "perhaps"]
    out, err = predict("--input", tmp_path / "folders")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(row["text"], row["label"], row["file"]) for row in found] == [
        ("no\nnot yes", "neg", "neg/0_9.txt"),
        ("yes", "pos", "pos/0_9.txt"),
    ]
    assert all(row["predicted_label"] for row in found)
    assert f"Files     input {tmp_path / 'folders'}: a folder for each class, a text a file: neg (1), pos (1)" in err


def test_a_later_row_for_which_there_is_no_column_is_a_bad_row(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftloop.data.readers.CHUNK_ROWS", 2)
    rows: Rows = [{"text": "yes", "n": 1}, {"text": "no", "n": None}]
    rows += [{"text": "yes", "label": "mine"}, {"text": "no", "new": 1}, {"text": "yes", "n": "word"}, {"text": "no"}]
    source = pairs_file(tmp_path / "in.jsonl", rows)
    for ending, bad in {"jsonl": [2], "csv": [2, 3], "parquet": [2, 3, 4]}.items():
        predict("--input", source, "--output", tmp_path / f"out.{ending}")
        found = read_back(tmp_path / f"out.{ending}")
        assert [i for i, row in enumerate(found) if row.get("error")] == bad
        assert [i for i, row in enumerate(found) if not row["label"]] == bad
    assert "is no int64 as in the rows before" in found[4]["error"]


def test_an_empty_file_gives_an_empty_file(predict: Any, tmp_path: Path) -> None:
    (tmp_path / "header.csv").write_text("text,n\n")
    (tmp_path / "none.jsonl").write_text("\n")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")
    for name in ("header.csv", "none.jsonl", "none.parquet"):
        for ending in ("csv", "jsonl", "parquet"):
            _, err = predict("--input", tmp_path / name, "--output", tmp_path / f"out.{ending}")
            assert read_back(tmp_path / f"out.{ending}") == []
            assert "Predicted 0 rows" in err
    predict("--input", tmp_path / "header.csv", "--output", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "text,n,label,score,error\n"
    (tmp_path / "nothing.csv").write_text("")
    _, err = predict("--input", tmp_path / "nothing.csv", code=ExitCode.USER_ERROR)
    assert "no rows, and not even a header" in err


def test_a_row_that_is_too_long_is_cut_counted_and_said(predict: Any, folder: Path, tmp_path: Path) -> None:
    source = pairs_file(tmp_path / "in.jsonl", [{"text": "yes " * 500}, {"text": "yes " * 62}, {"text": "yes " * 63}])
    _, err = predict("--input", source, "--output", tmp_path / "out.jsonl")
    assert "; 2 truncated to 64 tokens" in err
    found = read_back(tmp_path / "out.jsonl")
    assert [row["score"] for row in found] == pytest.approx([found[1]["score"]] * 3, abs=1e-6)  # all are cut to that
    _, err = predict("--input", source, "--output", tmp_path / "out.jsonl", "--max_seq_length", "10")
    assert "; 3 truncated to 10 tokens" in err


def test_the_columns_are_the_ones_named_or_the_runs_own_or_the_usual(
    predict: Any, tmp_path: Path, folder: Path
) -> None:
    rows = [{"title": "no", "body": "word1 word2", "text": "yes yes"}]
    source = pairs_file(tmp_path / "in.jsonl", rows)
    assert "Columns   text -> label, score" in predict("--input", source)[1]
    assert "Columns   title + body -> " in predict("--input", source, "--text_column_names", "title", "body")[1]
    assert "Columns   body -> " in predict("--input", source, "--text_column_names", "body")[1]
    _, err = predict("--input", source, "--text_column_names", "tilte", code=ExitCode.USER_ERROR)
    assert f"no column 'tilte': {source} has the columns title, body, text" in err

    of_a_run = made(tmp_path / "run")
    settings = {"text_column_names": ["title", "body"], "max_seq_length": 5, "task_name": None}
    write_manifest(of_a_run, {"config": settings, "files": {}})
    _, err = predict("--input", source, model=of_a_run)
    assert "Columns   title + body -> " in err
    assert "1 truncated to 5 tokens" in err
    assert load_classifier(of_a_run).tokenizer.model_max_length == 5
    assert "cut to" not in predict("--input", source, "--max_seq_length", "20", model=of_a_run)[1]
    assert "Columns   text -> " in predict("--input", source, "--text_column_names", "text", model=of_a_run)[1]
    other = pairs_file(tmp_path / "other.jsonl", [{"text": "a"}])
    _, err = predict("--input", other, code=ExitCode.USER_ERROR, model=of_a_run)
    assert f"the run in {of_a_run} read title, body: {other} has text; name with --text_column_names" in err
    write_manifest(of_a_run, {"config": {"task_name": "qnli"}, "files": {}})
    glue = pairs_file(tmp_path / "glue.jsonl", [{"sentence": "a", "question": "b"}])
    assert "Columns   question + sentence -> " in predict("--input", glue, model=of_a_run)[1]
    write_manifest(of_a_run, {"config": {}, "files": {}})
    facts = of_a_run / "ftloop_run.json"
    facts.write_text(json.dumps({"data": {"text_columns": ["body"]}}))
    assert "Columns   body -> " in predict("--input", source, model=of_a_run)[1], "found by its name among others"
    assert "Columns   text -> " in predict("--input", other, model=of_a_run)[1]
    (of_a_run / "ftloop_manifest.json").write_text("{damaged")
    assert "Columns   text -> " in predict("--input", source, model=of_a_run)[1]


def test_several_labels_are_a_list_in_json_and_joined_in_csv(predict: Any, tmp_path: Path) -> None:
    path = made(tmp_path / "model", 3, "multi_label_classification")
    source = pairs_file(tmp_path / "in.jsonl")
    expected = load_classifier(path)(PAIRS)
    sizes = {len(each.labels) for each in expected}
    assert {1, 2} <= sizes
    for ending in ("jsonl", "parquet", "csv"):
        predict("--input", source, "--output", tmp_path / f"out.{ending}", "--all_probabilities", model=path)
    for ending in ("jsonl", "parquet"):
        for row, each in zip(read_back(tmp_path / f"out.{ending}"), expected, strict=True):
            assert tuple(row["label"]) == each.labels
            assert row["score"] == pytest.approx([each.probabilities[name] for name in each.labels], abs=1e-6)
    for row, each in zip(read_back(tmp_path / "out.csv"), expected, strict=True):
        assert row["label"] == "|".join(each.labels)
        scores = [float(score) for score in row["score"].split("|") if score]
        assert scores == pytest.approx([each.probabilities[name] for name in each.labels], abs=1e-6)
    write_manifest(path, {"config": {"label_delimiter": "; "}, "files": {}})
    predict("--input", source, "--output", tmp_path / "out.csv", model=path)
    assert [row["label"] for row in read_back(tmp_path / "out.csv")] == ["; ".join(each.labels) for each in expected]


def test_a_predicted_number_is_the_label_and_has_no_score(predict: Any, tmp_path: Path) -> None:
    path = made(tmp_path / "model", 1, "regression")
    expected = [each.score for each in load_classifier(path)(PAIRS)]
    assert len(set(expected)) > 10
    source = pairs_file(tmp_path / "in.jsonl", [*({"sentence1": a, "sentence2": b} for a, b in PAIRS), {"text": "a"}])
    for ending in ("jsonl", "parquet", "csv"):
        predict("--input", source, "--output", tmp_path / f"out.{ending}", "--all_probabilities", model=path)
        *found, bad = read_back(tmp_path / f"out.{ending}")
        assert not bad["label"]
        assert [float(row["label"]) for row in found] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert not {"score", "probabilities", "probability_LABEL_0"} & found[0].keys()
    out, _ = predict("word1", model=path)
    assert json.loads(out).keys() == {"text", "label"}


def test_a_fault_in_the_middle_leaves_no_output_and_what_was_there(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parquet file whose second group of rows is overwritten."""
    monkeypatch.setattr("ftloop.data.readers.CHUNK_ROWS", 20)
    source, out = tmp_path / "in.parquet", tmp_path / "out.csv"
    pq.write_table(pa.table({"text": TEXTS}), source, row_group_size=20, compression="none", use_dictionary=False)
    place = pq.ParquetFile(source).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(source.read_bytes())
    content[place : place + 200] = b"\xff" * 200
    source.write_bytes(content)
    for before in (None, "as it was"):
        if before:
            out.write_text(before)
        _, err = predict("--input", source, "--output", out, code=ExitCode.USER_ERROR)
        assert "not readable as parquet after row 20" in err
        assert (out.read_text() if out.exists() else None) == before
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))] == ["out.csv"][
            : bool(before)
        ]


def test_what_is_wrong_with_files_and_flags_is_told_in_one_line_each(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pairs_file(tmp_path / "in.jsonl")
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "in.txt").write_text("a|b,c\nd|e,f\n")
    (tmp_path / "lines.csv").write_text("Great lamp\nit works\n")
    (tmp_path / "in.log").write_text("a")
    (tmp_path / "twice.csv").write_text("text,text\na,b\n")
    (tmp_path / "latin.csv").write_bytes("größe,text\na,b\n".encode("latin-1"))
    (tmp_path / "broken.jsonl").write_text("{\n{\n")
    (tmp_path / "names.jsonl").write_text('{"text": "a", "\\ud83d": 1}\n')
    (tmp_path / "list.json").write_text('[{"text": "a"},')
    (tmp_path / "no.parquet").write_text("PAR")
    (tmp_path / "strings.jsonl").write_text('"a"\n"b"\n')
    (tmp_path / "empty").mkdir()
    file = tmp_path / "file"
    file.write_text("")
    for words, told in {
        (): "what is to be predicted? Give texts, or a file of them with --input FILE, or a pipe with --input -",
        ("-",): "'-': a pipe is read by --input -, with --input_format text where each line is a text",
        ("a", "--input", source): "what is to be predicted?",
        ("a", "--output", "x.csv", "--strict"): "--strict, --output: only with --input",
        ("a", "--input_format", "csv"): "--input_format: only with --input",
        ("--input", source, "--pairs"): "--pairs: of a file the columns say it",
        ("--input", source, "--text_column_names", "a", "b", "c"): "one or two columns",
        ("--input", source, "--text_column_names", "a", "a"): "one column is named twice",
        ("--input", tmp_path / "none.csv"): "input: no such file",
        ("--input", "a\0b"): "holds a NUL",
        (
            "--input",
            tmp_path / "empty",
        ): f"the folder {tmp_path / 'empty'} holds no file with one of the endings csv, tsv, txt",
        ("--input", "n" * 300): "cannot be read (File name too long)",
        ("--input", "~no-such-person/x"): "no such home folder",
        ("--input", tmp_path / "in.txt"): "name it with --delimiter; for a text a line --input_format text",
        ("--input", tmp_path / "lines.csv"): "--text_column_names; for a text a line --input_format text",
        ("--input", tmp_path / "in.log"): "say which it is with --input_format (text for a text a line)",
        ("--input", tmp_path / "twice.csv"): "which columns hold the text? "
        f"{tmp_path / 'twice.csv'} has the columns text (column 1), text (column 2)",
        ("--input", source, "--encoding", "klingon"): "encoding: 'klingon' is none that Python knows",
        ("--input", source, "--delimiter", ':"'): "delimiter: ':\"' is not one character or several",
        ("a", "--delimiter", ";"): "--delimiter: only with --input",
        ("--input", tmp_path / "latin.csv"): "line 1: the header is unreadable: not UTF-8",
        ("--input", tmp_path / "broken.jsonl"): "broken.jsonl, line 1: not JSON",
        ("--input", tmp_path / "names.jsonl"): "half a surrogate pair",
        ("--input", tmp_path / "list.json"): "list.json, line 1: not JSON",
        ("--input", tmp_path / "no.parquet"): "not a parquet file",
        (
            "--input",
            source,
            "--output",
            tmp_path / "out.xls",
        ): "would be an Excel workbook, and none is written; name a csv file",
        ("--input", source, "--output", tmp_path / "out.doc"): ".bz2, .xz; say which it is with --output_format",
        (
            "--input",
            source,
            "--output",
            tmp_path / "o.json",
        ): "o.json would be one list, and is not written; .jsonl",
        ("--input", tmp_path / "strings.jsonl"): 'found str, and a text is {"text": "..."}\n',
        ("--input", source, "--output", source): "is the input; name another file",
        ("--input", source, "--output", tmp_path / "link.jsonl"): "is the input; name another file",
        ("--input", source, "--output", tmp_path): "is a folder; name a file in it",
        ("--input", source, "--output", file / "out.csv"): "cannot be written",
        ("--input", source, "--output", "/proc/none/out.csv"): "cannot be written",
        ("--input", source, "--max_seq_length", "0"): "leaves no room for text",
    }.items():
        out, err = predict(*words, code=ExitCode.USER_ERROR)
        assert told in err, words
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        assert out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, err = predict("--input", source, "--output_format", "parquet", code=ExitCode.USER_ERROR)
    assert "parquet is not for a terminal" in err


def test_files_in_other_forms_are_predicted_and_compressed_ones_written(predict: Any, tmp_path: Path) -> None:
    """The same predictions, from whatever form to whatever form; and what is to be done is said for the others."""
    rows = [{"text": text, "other": "é"} for text in TEXTS]
    lines = ["text;other", *(f"{row['text']};é" for row in rows)]
    (tmp_path / "in.csv").write_bytes("\n".join(lines).encode("windows-1252"))
    (tmp_path / "bare.txt.gz").write_bytes(gzip.compress("\n".join(lines[1:]).encode("utf-16")))
    source = pairs_file(tmp_path / "in.jsonl", rows)
    predict("--input", source, "--output", tmp_path / "plain.jsonl")
    expected = read_back(tmp_path / "plain.jsonl")
    for words in (
        ("in.csv", "--delimiter", ";", "--encoding", "windows-1252"),
        ("in.csv", "--encoding", "windows-1252"),
        ("bare.txt.gz", "--column_names", "text", "other"),
    ):
        for ending, opened in (("gz", gzip.open), ("bz2", bz2.open), ("xz", lzma.open)):
            out = tmp_path / f"out.jsonl.{ending}"
            _, err = predict("--input", tmp_path / words[0], "--output", out, *words[1:])
            assert ("is read with --delimiter ';'" in err) == ("--delimiter" not in words)
            with opened(out, "rt", encoding="utf-8") as file:
                assert [json.loads(line) for line in file] == expected
    for words, told in {
        (
            "--input",
            tmp_path / "in.csv",
        ): "9, 10, 11 and 31 more: column 'other' is not UTF-8 but, it seems, windows-1252",
        ("--input", tmp_path / "bare.txt.gz"): "line 1 seems to be a row, not a header (",
        (
            "--input",
            source,
            "--output",
            tmp_path / "o.csv.zip",
        ): "is not written; csv, tsv and jsonl are",
        ("--input", source, "--output", tmp_path / "o.parquet.gz"): "parquet is within itself",
    }.items():
        assert told in predict(*words, code=ExitCode.USER_ERROR)[1]


def test_a_json_list_is_read_as_in_training_and_a_new_folder_is_made(predict: Any, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps([{"text": "yes"}, 5, {"text": "no"}], indent=1))
    out = tmp_path / "new" / "folder" / "out.jsonl"
    _, err = predict("--input", tmp_path / "in.json", "--output", out)
    assert "in.json, row 2: expected an object of columns, found int" in err
    assert [bool(row["label"]) for row in read_back(out)] == [True, False, True]
    (tmp_path / "texts.json").write_text('["yes", "", "no"]')
    predict("--input", tmp_path / "texts.json", "--output", out)
    assert [(row["text"], bool(row["label"])) for row in read_back(out)] == [("yes", True), ("", True), ("no", True)]


def test_a_header_row_of_a_survey_is_predicted_and_warned_of(predict: Any, tmp_path: Path) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("id,text\n,Open-Ended Response\n1,yes\n")
    _, err = predict("--input", path, "--output", out)
    assert f"Warning   {path}: line 2 is no data, but the header's, as survey tools write them; `sed 2d " in err
    assert len(read_back(out)) == 2


def test_a_device_is_written_to_and_never_replaced(predict: Any, tmp_path: Path) -> None:
    source = pairs_file(tmp_path / "in.jsonl")
    before = os.stat("/dev/null")
    predict("--input", source, "--output", "/dev/null", "--output_format", "csv")
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    _, err = predict("--input", source, "--output", "/dev/full", "--output_format", "csv", code=ExitCode.USER_ERROR)
    assert "/dev/full could not be written (No space left on device)" in err


def test_bare_quotes_in_tsv_are_read_though_a_row_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    for lines, expected in {
        ('a "b" c\t1', "only one", '"x\t2', 'y "z\t3'): ['a "b" c', None, '"x', 'y "z'],
        ('"a\tb"\t1', "only one", '"c ""d"""\t2'): ["a\tb", None, 'c "d"'],
    }.items():
        path.write_text("\n".join(["text\tn", *lines]) + "\n")
        (chunk,) = read_chunks(Source(path, str(path), "tsv"))
        assert [row.values.get("text") for row in chunk.rows] == expected


def test_a_long_chunk_ends_early_and_the_number_of_rows_is_told_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftloop.data.readers.CHUNK_CHARACTERS", 1000)
    path = pairs_file(tmp_path / "in.jsonl", [{"text": "x" * 300}] * 400)
    found = list(read_chunks(Source(path, str(path), "jsonl")))
    assert [len(chunk.rows) for chunk in found] == [4] * 100
    # By the share that is read, of which a buffer is read ahead.
    assert all(330 <= (chunk.total_rows or 0) <= 400 for chunk in found[30:])
    assert [row.number for chunk in found for row in chunk.rows] == list(range(1, 401))


# The command line


def test_texts_are_answered_in_json_lines_and_to_a_person_in_words(
    predict: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = load_classifier(folder)([("yes word1", "word2")])
    out, err = predict("--pairs", "yes word1", "word2")
    assert err == ""
    assert json.loads(out) == {"text": ["yes word1", "word2"], "label": expected.label, "score": expected.score}
    out, _ = predict("--pairs", "yes word1", "word2", "--all_probabilities")
    assert json.loads(out)["probabilities"] == expected.probabilities
    several = made(tmp_path / "several", 3, "multi_label_classification")
    number = made(tmp_path / "number", 1, "regression")
    out, _ = predict(*TEXTS, model=several)
    found = [json.loads(line) for line in out.splitlines()]
    assert all(len(each["label"]) == len(each["score"]) for each in found)
    assert {len(each["label"]) for each in found} >= {1, 2}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out, _ = predict("--pairs", "yes word1", "word2")
    assert out == f"Predicted {expected.label} ({expected.score:.3f}): yes word1  |  word2\n"
    assert " of no 0." in predict("yes word1", "--all_probabilities")[0]
    assert "Predicted none: " in predict(*TEXTS, model=several)[0] + "Predicted none: "
    value = load_classifier(number)(["yes"])[0].score
    assert predict("yes", model=number)[0] == f"Predicted {value:.4g}: yes\n"


def test_a_word_that_is_a_file_is_not_taken_for_a_text(
    folder: Path, tmp_path: Path, stderr_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new.csv").write_text("text\nyes\n")
    told = stderr_of(main, ["--model", str(folder), "a text", "new.csv"])
    assert told == (
        "error: 'new.csv' is a file here: --input new.csv predicts its rows; a text of that name goes through a pipe: "
        "--input - --input_format text\n"
    )
    assert "a file" not in stderr_of(main, ["--model", "none", "other.csv", "x" * 5000])


def test_flags_of_training_and_a_folder_without_a_flag_are_answered_with_what_to_use(
    folder: Path, stderr_of: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"--model {folder} names a model" in stderr_of(main, [str(folder), "a text"])
    with pytest.raises(SystemExit) as ended:
        main(["--model_name_or_path", str(folder), "--input-file=x", "--batch-size", "8", "--zzz", "a", "--", "--b"])
    assert ended.value.code == ExitCode.USER_ERROR
    assert capsys.readouterr().err.splitlines() == [
        "error: --model_name_or_path: its name is --model",
        "error: --input-file: ftloop predict has no such flag; did you mean --input?",
        "error: --batch-size: batches are made of rows of nearly one length; leave it out",
        "error: --zzz: ftloop predict has no such flag; --help lists those it has",
    ]
    assert main(["--model", str(folder), "--good and bad--", "--", "--b"]) == ExitCode.DONE


def test_no_hint_names_a_flag_that_is_not_there() -> None:
    flags = _parser()._option_string_actions
    named = [word for hint in HINTS.values() for word in hint.split() if word.startswith("--")]
    assert set(named) <= flags.keys()
    assert not {f"--{name}" for name in HINTS} & flags.keys()


# In a process of its own


def command(folder: Path, *words: Any, **settings: Any) -> subprocess.Popen[bytes]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "ftloop", "predict", "--model", str(folder), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(whole, cwd=CHECKOUT, env=environment, **pipes | settings)


def made_csv(path: Path, rows: int) -> Path:
    lines = (f"{i},yes word{i % 90},{'word1 ' * (i % 9)}\n" for i in range(rows))
    path.write_text("id,sentence1,sentence2\n" + "".join(lines))
    return path


@pytest.mark.slow
def test_five_times_as_many_rows_take_the_same_memory(folder: Path, tmp_path: Path) -> None:
    """Peak memory of the process, from the kernel. The smaller file is more than one chunk already; a hundred thousand
    tokenized rows that were kept would be a hundred MB."""
    peaks = []
    for rows in (20_000, 100_000):
        out = tmp_path / "out.jsonl"
        process = command(folder, "--input", made_csv(tmp_path / "in.csv", rows), "--output", out)
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, process.stderr and process.stderr.read()
        peaks.append(used.ru_maxrss / 1024)
        with out.open() as file:
            assert sum(json.loads(line)["id"] == str(i) for i, line in enumerate(file)) == rows
    assert peaks[1] < peaks[0] + 20, peaks


def test_a_run_that_saves_in_the_same_folder_leaves_alone_what_is_being_written(tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    with _opened_to_write(Output(output, "rows.csv", "csv", is_stream=False)) as file:
        file.write(b"a row")
        remove_partial_saves(tmp_path)
    assert output.read_bytes() == b"a row"


@pytest.mark.slow
def test_a_process_that_is_ended_leaves_no_output(folder: Path, tmp_path: Path) -> None:
    """SIGTERM leaves not even what it had begun; SIGKILL that, beside its place, and the next one starts over."""
    out = tmp_path / "out.csv"
    for number, code in ((signal.SIGTERM, ExitCode.INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)):
        words = ("--input", "-", "--input_format", "csv", "--output", out)
        process = command(folder, *words, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(made_csv(tmp_path / "in.csv", 20_000).read_bytes())
        process.stdin.flush()
        partial, deadline = tmp_path / ".out.csv.writing", time.monotonic() + 100
        while not (partial.exists() and partial.stat().st_size > 100_000):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == code
        assert not out.exists()
        assert partial.exists() == (number == signal.SIGKILL)
    process = command(folder, "--input", made_csv(tmp_path / "in.csv", 3), "--output", out)
    assert process.wait(100) == 0
    assert len(read_back(out)) == 3
    assert not partial.exists()


@pytest.mark.slow
def test_whoever_reads_the_output_may_stop_reading(folder: Path, tmp_path: Path) -> None:
    process = command(folder, "--input", made_csv(tmp_path / "in.csv", 20_000))
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["id"] == "0"
    process.stdout.close()
    told = process.stderr.read().decode()
    assert process.wait(60) == ExitCode.DONE
    assert told == "Columns   sentence1 + sentence2 -> label, score\n"


@pytest.mark.slow
def test_a_wrong_flag_needs_no_torch_and_prediction_no_training(folder: Path) -> None:
    probe = """
import sys
from ftloop.inference.__main__ import main
try:
    main(["--mdoel", "x"])
except SystemExit as ended:
    assert ended.code == 2
assert "torch" not in sys.modules
assert main(["--model", sys.argv[1], "yes"]) == 0
print(sorted({"sklearn", "matplotlib", "tensorboard", "ftloop.loop", "ftloop.train"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", probe, str(folder)], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_single_texts_for_a_model_of_pairs_and_the_reverse_are_warned_of(
    predict: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    model = made(tmp_path / "model")
    assert "Warning" not in predict("one", model=model)[1]
    facts = model / "ftloop_run.json"
    facts.write_text(json.dumps({"data": {"text_columns": ["left", "right"]}}))
    assert "Warning" not in predict("--pairs", "one", "two", model=model)[1]
    told = f"Warning   the run in {model} learned from pairs of texts (left, right), and these are single texts"
    assert predict("one", "two", model=model)[1] == f"{told}: --pairs takes two and two\n"
    path = tmp_path / "single.jsonl"
    path.write_text('{"text": "one"}\n')
    assert f"{told}: --text_column_names names one or two columns\n" in predict("--input", path, model=model)[1]
    facts.write_text(json.dumps({"data": {"text_columns": ["text"]}}))
    told = f"Warning   the run in {model} learned from single texts (text), and these are pairs"
    assert predict("--pairs", "one", "two", model=model)[1] == f"{told}: without --pairs each is one of its own\n"
    assert (
        f"{told}: --text_column_names names one or"
        in predict("--input", pairs_file(tmp_path / "in.jsonl"), model=model)[1]
    )
    assert "Warning" not in predict("one", model=model)[1]


def test_a_folder_as_output_and_control_characters_are_one_line(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = pairs_file(tmp_path / "in.jsonl", [{"text": "yes", "\x1b[31mX": 1}])
    told = predict("--input", rows, "--output", ".", code=ExitCode.USER_ERROR)[1]
    assert told == "error: output: . is a folder; name a file in it\n"
    told = predict("--input", rows, "--text_column_names", "nope", code=ExitCode.USER_ERROR)[1]
    assert told == "error: no column 'nope': " + str(rows) + " has the columns text, \\x1b[31mX\n"


@pytest.mark.parametrize("kind", ["classes", "several labels", "numbers"])
def test_a_labelled_file_is_scored_as_a_run_scores_it(kind: str, predict: Any, tmp_path: Path) -> None:
    count, problem_type = {
        "classes": (3, None),
        "several labels": (3, "multi_label_classification"),
        "numbers": (1, None),
    }[kind]
    model = made(tmp_path / "model", count, problem_type)
    rows: Rows = [{"text": text} for text in TEXTS]
    predictions = load_classifier(model)(TEXTS)
    for number, (row, said) in enumerate(zip(rows, predictions, strict=True)):
        right: Any = said.label if kind == "classes" else list(said.labels) if count > 1 else said.score
        wrong: Any = "no" if kind == "classes" else ["no", "yes", "perhaps"] if count > 1 else 0.0
        row["gold"] = wrong if number % 4 == 0 else right
    data = pairs_file(tmp_path / "labelled.jsonl", rows)
    words = "--input", data, "--label_column_name", "gold"
    out, _ = predict(*words, "--output", tmp_path / "predicted.jsonl", model=model)
    line = next(line for line in out.splitlines() if line.startswith("Scores"))
    assert line.endswith(f"of {len(rows)} rows")
    assert "Scores" in predict(*words, model=model)[1], "rows go to standard output"
    if kind == "classes":
        share = np.mean([row["gold"] == said.label for row, said in zip(rows, predictions, strict=True)])
        assert f"accuracy={share:.4f}, f1(macro)=" in line
    elif kind == "several labels":
        share = np.mean([set(row["gold"]) == set(said.labels) for row, said in zip(rows, predictions, strict=True)])
        assert f"accuracy={share:.4f}, f1(micro)=" in line
        assert "f1(macro)=" in line
        texts = [row["gold"][0] if len(row["gold"]) == 1 else json.dumps(row["gold"]) for row in rows]
        assert {text[0] for text in texts} > {"["}, "names stand beside lists, as Label Studio writes them"
        as_text = [row | {"gold": text} for row, text in zip(rows, texts, strict=True)]
        words = "--input", pairs_file(tmp_path / "as_text.jsonl", as_text), "--label_column_name", "gold"
        assert line in predict(*words, "--output", tmp_path / "as_text_out.jsonl", model=model)[0]
    else:
        error = np.mean([(row["gold"] - said.score) ** 2 for row, said in zip(rows, predictions, strict=True)])
        assert f"mse={error:.4f}, pearson=" in line


def test_a_label_that_the_model_does_not_know_is_told_with_file_and_row(predict: Any, tmp_path: Path) -> None:
    data = pairs_file(tmp_path / "labelled.jsonl", [{"text": "a", "gold": "yes"}, {"text": "b", "gold": "maybe"}])
    words = "--input", data, "--output", tmp_path / "out.csv", "--label_column_name"
    err = predict(*words, "gold", code=ExitCode.USER_ERROR)[1]
    assert "labelled.jsonl, line 2: column gold holds 'maybe', which the model does not know: 'no', 'yes'" in err
    assert "has no column golden" in predict(*words, "golden", code=ExitCode.USER_ERROR)[1]
    assert not (tmp_path / "out.csv").exists()
    many = 20_000 * [{"text": "a", "gold": "yes"}] + [
        {"text": "a", "gold": gold} for gold in ("maybe", "never", "maybe")
    ]
    words = "--input", pairs_file(tmp_path / "late.jsonl", many), "--output", tmp_path / "out.csv"
    err = predict(*words, "--label_column_name", "gold", code=ExitCode.USER_ERROR)[1]
    known = "which the model does not know: 'no', 'yes'; write the label as the model has it, or take the row out"
    assert f"late.jsonl, lines 20001, 20003: column gold holds 'maybe', {known}\n" in err
    assert f"late.jsonl, line 20002: column gold holds 'never', {known}\n" in err
    assert "Columns" not in err, "before anything is predicted"
    numbers = [{"text": "a", "gold": " 1"}, {"text": "b", "gold": "0.0 "}]
    words = "--input", pairs_file(tmp_path / "numbers.jsonl", numbers), "--label_column_name", "gold"
    assert "of 2 rows" in predict(*words)[1], "as in training, where blanks around numbers are no part of them"


def test_rows_without_a_label_are_predicted_and_not_scored(predict: Any, tmp_path: Path) -> None:
    model = made(tmp_path / "model")
    gold: list[Any] = ["yes", None, "", "-1", -1, "-", "NaN", "no"]
    data = pairs_file(tmp_path / "some.jsonl", [{"text": "a b", "gold": label} for label in gold])
    out = tmp_path / "out.jsonl"
    told, _ = predict("--input", data, "--output", out, "--label_column_name", "gold", model=model)
    line = next(line for line in told.splitlines() if line.startswith("Scores"))
    assert line.startswith("Scores    accuracy=0.5000")
    assert line.endswith(" of 2 rows; 6 rows without a label not scored")
    assert len(out.read_text().splitlines()) == 8
    none = pairs_file(tmp_path / "none.jsonl", [{"text": "a b", "gold": None}])
    told, _ = predict("--input", none, "--output", out, "--label_column_name", "gold", model=model)
    assert "Scores    none: not one row has a label in gold" in told


def test_an_empty_cell_of_a_model_with_several_labels_is_predicted_and_not_scored(predict: Any, tmp_path: Path) -> None:
    model = made(tmp_path / "model", 3, "multi_label_classification")
    source = tmp_path / "in.csv"
    source.write_text("text,gold\na,\nb,yes\n")
    words = "--input", source, "--output", tmp_path / "out.csv", "--label_column_name", "gold"
    assert "of 1 rows; 1 row without a label not scored" in predict(*words, model=model)[0]


def test_of_a_column_for_each_label_minus_one_in_all_is_no_label(predict: Any, tmp_path: Path) -> None:
    """As in the test set of the toxic comments, whose labels were given later."""
    model = made(tmp_path / "model", 3, "multi_label_classification")
    bits: list[tuple[Any, ...]] = [(0, " 1", "0 "), (-1, -1, -1), (0, 0, 0)]
    rows = [{"text": "a b", **dict(zip(("no", "yes", "perhaps"), row, strict=True))} for row in bits]
    words = "--input", pairs_file(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl"
    told, _ = predict(*words, "--label_column_name", "no", "yes", "perhaps", model=model)
    assert "of 2 rows; 1 row without a label not scored" in told
    rows[1]["yes"] = 1
    words = "--input", pairs_file(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl"
    told = predict(*words, "--label_column_name", "no", "yes", "perhaps", model=model, code=ExitCode.USER_ERROR)[1]
    assert "line 2: column no holds '-1', neither 0 nor 1" in told
    del rows[1]["no"]
    words = "--input", pairs_file(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl"
    told = predict(*words, "--label_column_name", "no", "yes", "perhaps", model=model, code=ExitCode.USER_ERROR)[1]
    assert "line 2: column no has no value" in told


def test_what_would_evaluate_without_training_names_the_command_that_does(tmp_path: Path) -> None:
    way = "ftloop predict --model DIR --input FILE --output FILE --label_column_name NAME"
    for words in (["--do_eval"], ["--validation_file", "a.csv"], ["--test_file", "a.csv"]):
        with pytest.raises(UserError, match=way):
            parse_args([*words, "--model_name_or_path", "m", "--output_dir", str(tmp_path)])
