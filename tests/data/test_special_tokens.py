"""Texts in which special tokens are written, and texts of every other kind, with every tokenizer of the zoo."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from harness.untrusted import ODD_TEXTS, examples, few_and_many, is_text
from harness.zoo import EVERY_MEMBER, ZOO, write_member
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers
from transformers import ByT5Tokenizer, CanineTokenizer, PreTrainedTokenizerFast

from ftloop import TrainConfig, UserError
from ftloop.data.special_tokens import count_special, encode_texts, framing_tokens
from ftloop.inference.__main__ import main as predict
from ftloop.inference.classifier import Classifier, classify, encode, load_classifier
from ftloop.job.fine_tune import fine_tune

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")

EVERY_TOKEN = sorted({str(token) for member in ZOO.values() for token in member.tokenizer().all_special_tokens})
WORDS = ["yes", "no", "word1", "pneumono" * 300, "\n", "\n\n", "\x07", "x" * 50, "$", *filter(is_text, ODD_TEXTS)]
PARTS = st.sampled_from([*EVERY_TOKEN, *map(str.lower, EVERY_TOKEN)]) | st.sampled_from(WORDS)
ANY_TEXTS = st.builds(
    lambda parts, between: between.join(parts), st.lists(PARTS, max_size=6), st.sampled_from(["", " "])
)


@functools.cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    return ZOO[name].tokenizer()


def special_ids(tokenizer: Any) -> set[int]:
    ids = {tokenizer.convert_tokens_to_ids(token) for token in framing_tokens(tokenizer)}
    return ids - {tokenizer.unk_token_id if tokenizer.unk_token_id != tokenizer.eos_token_id else None}


def counted(tokenizer: Any, ids: list[int]) -> list[int]:
    """How often each special token is there; the unknown one may be what a text's letters are."""
    return [ids.count(each) for each in sorted(special_ids(tokenizer))]


@few_and_many(15, 400)
@pytest.mark.parametrize("name", ZOO)
def test_what_frames_a_text_is_in_no_text(name: str, count: int) -> None:
    """And a text without a special token is tokenized as by a plain call."""
    tokenizer = tokenizer_of(name)
    settings: dict[str, Any] = {"truncation": True, "max_length": 60}

    @examples(count)
    @given(st.lists(ANY_TEXTS, min_size=1, max_size=4), st.booleans())
    def holds(texts: list[str], pair: bool) -> None:
        columns = [texts, texts[::-1]] if pair else [texts]
        plain = [["yes"] for _ in columns]
        inputs, cut, special = encode_texts(tokenizer, columns, **settings)
        whole, _, _ = encode_texts(tokenizer, columns)
        called = tokenizer(*columns, **settings)
        for row, ids in enumerate(inputs["input_ids"]):
            assert counted(tokenizer, ids) == counted(tokenizer, tokenizer(*plain)["input_ids"][0])
            assert cut[row] == (len(whole["input_ids"][row]) > len(ids))
            if not any(token.lower() in text.lower() for text in texts for token in framing_tokens(tokenizer)):
                assert ids == called["input_ids"][row]
                assert special == 0
        assert inputs.keys() == called.keys()

    holds()


def test_a_token_that_was_added_for_what_it_says_stays_one() -> None:
    for name in ("qwen2", "t5"):
        tokenizer = tokenizer_of(name)
        marker = tokenizer.extra_special_tokens[0]
        inputs, _, special = encode_texts(tokenizer, [[f"yes {marker} no {tokenizer.eos_token} no"]])
        assert special == 1
        assert inputs["input_ids"][0].count(tokenizer.convert_tokens_to_ids(marker)) == 1
        assert (
            tokenizer(f"yes {marker}")["input_ids"] == encode_texts(tokenizer, [[f"yes {marker}"]])[0]["input_ids"][0]
        )


def test_the_tokenizer_is_left_as_it_was() -> None:
    for name in ("bert", "t5", "llama"):
        tokenizer = ZOO[name].tokenizer()
        before = tokenizer.backend_tokenizer.to_str()
        text = f"a {tokenizer.unk_token} b"
        as_token = tokenizer(text)["input_ids"]
        encode_texts(tokenizer, [[text, "yes"]])
        assert tokenizer(text)["input_ids"] == as_token
        assert tokenizer.backend_tokenizer.to_str() == before
        assert len(pickle.loads(pickle.dumps(tokenizer))) == len(tokenizer)
        tokenizer.add_special_tokens({"mask_token": "<another>"})
        assert tokenizer.mask_token_id not in encode_texts(tokenizer, [["a <another> b"]])[0]["input_ids"][0]


def test_a_token_that_is_found_after_lowering_is_found_in_no_text() -> None:
    words = {"[unk]": 0, "[sep]": 1, "a": 2, "[": 3, "]": 4, "sep": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[unk]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.BertNormalizer(), normalizers.Lowercase()])
    tokenizer.add_special_tokens([AddedToken("[SEP]", normalized=True)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, sep_token="[SEP]", unk_token="[unk]")
    found = fast("[sep]")["input_ids"]
    assert found == [fast.sep_token_id]
    assert encode_texts(fast, [["[sep]"]])[0]["input_ids"][0] != found


def test_a_padding_token_that_is_a_mark_or_a_word_is_no_special_token_of_a_text() -> None:
    tokenizer = ZOO["gpt2"].tokenizer()
    tokenizer.pad_token = "!"
    tokenizer.sep_token = "yes"
    assert framing_tokens(tokenizer) == ["<|endoftext|>"]
    assert encode_texts(tokenizer, [["yes!"]])[0]["input_ids"][0] == tokenizer("yes!")["input_ids"]


def test_what_frames_a_text_need_not_have_a_name() -> None:
    tokenizer = ZOO["t5"].tokenizer()
    tokenizer.eos_token = None
    assert "</s>" in framing_tokens(tokenizer)
    assert encode_texts(tokenizer, [["yes </s> no"]])[0]["input_ids"][0].count(1) == 1


@pytest.mark.parametrize("make", [CanineTokenizer, ByT5Tokenizer])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_that_a_tokenizer_in_python_cuts_is_known_to_be_cut(
    make: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says nothing of what it cut off."""
    tokenizer = make(truncation_side=side, model_max_length=8)
    own, of_pair = tokenizer.num_special_tokens_to_add(), tokenizer.num_special_tokens_to_add(pair=True)
    lengths = [0, 7 - own, 8 - own, 9 - own, 40]
    inputs, cut, _ = encode_texts(tokenizer, [["a" * length for length in lengths]], truncation=True)
    assert [len(ids) for ids in inputs["input_ids"]] == [own, 7, 8, 8, 8]
    assert cut == [False, False, False, True, True]
    _, cut, _ = encode_texts(tokenizer, [["a" * 5], ["b"]], truncation=True, max_length=6 + of_pair)
    assert cut == [False]
    pairs = [["a" * 5, "a" * 5, "", "aa"], ["b", "bb", "b" * 30, "b"]]
    assert encode_texts(tokenizer, pairs, truncation=True, max_length=6 + of_pair)[1] == [False, True, True, False]
    texts = [f"a{token}" for token in framing_tokens(tokenizer)] or ["a"]
    for text in texts:
        whole = len(encode_texts(tokenizer, [[text]])[0]["input_ids"][0])
        for limit in (whole - 1, whole):
            assert encode_texts(tokenizer, [[text]], truncation=True, max_length=limit)[1] == [limit < whole]
    assert encode(tokenizer, ["a" * 8, "a", "a" * 9], None).truncated == 2
    tokenizer.model_max_length = int(1e30)
    assert encode_texts(tokenizer, [["a" * 9]], truncation=True)[1] == [False]
    assert "longer than" not in caplog.text


def test_rows_with_a_special_token_are_counted() -> None:
    tokenizer = tokenizer_of("bart")
    rows = Dataset.from_dict({"a": ["x", "</S>y", "z", "<pad>"], "b": ["", "<s>", "< pad>", "a <mask> b"]})
    assert count_special(rows, ["a", "b"], tokenizer) == 2
    assert count_special(rows, ["a"], tokenizer) == 2
    assert count_special(rows.select([0, 2]), ["a", "b"], tokenizer) == 0


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def classifier_of(zoo: Path, name: str) -> Classifier:
    folder = zoo / name
    return load_classifier(folder if folder.is_dir() else write_member(folder, name), max_seq_length=40)


@few_and_many(5, 100)
@pytest.mark.parametrize("name", EVERY_MEMBER)
def test_any_text_is_predicted_or_told(name: str, count: int, zoo: Path) -> None:
    classifier = classifier_of(zoo, name)

    @examples(count)
    @given(st.lists(ANY_TEXTS, min_size=1, max_size=5), st.booleans())
    def holds(texts: list[str], pair: bool) -> None:
        asked: list[Any] = list(zip(texts, texts[::-1], strict=True)) if pair else texts
        if not encode(classifier.tokenizer, asked, None).lengths.all():  # GPT-2 frames an empty text with nothing
            with pytest.raises(UserError, match="has no tokens"):
                classify(*classifier, asked)
            return
        found = classify(*classifier, asked, max_tokens=10**6)
        alone = [classify(*classifier, [each])[0].score for each in asked]
        assert [each.score for each in found] == pytest.approx(alone, abs=1e-4)
        assert np.isfinite(alone).all()

    holds()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("bart", "gpt2") else [pytest.mark.slow]) for n in ZOO]
)
def test_texts_with_special_tokens_are_trained_on_told_and_predicted(
    name: str, tmp_path: Path, zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier_of(zoo, name)
    texts = [f"{'yes' if i % 2 else 'no'} {EVERY_TOKEN[i % len(EVERY_TOKEN)]} word1" for i in range(24)] + ["yes"] * 2
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    file, output = tmp_path / "train.jsonl", tmp_path / "predicted.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    quiet: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 1}
    quiet |= {"train_file": str(file), "output_dir": str(tmp_path / "run"), "max_seq_length": 40}
    fine_tune(TrainConfig(model_name_or_path=str(zoo / name), **quiet))
    tokens = framing_tokens(load_classifier(tmp_path / "run").tokenizer)
    held = sum(any(token in text for token in tokens) for text in texts)
    assert held >= 1
    said = capsys.readouterr().out
    assert f"Special   {', '.join(tokens)} are text where a text holds them, not the tokens: in {held} of train" in said
    assert predict(["--model", str(tmp_path / "run"), "--input", str(file), "--output", str(output)]) == 0
    assert f"{held} with a special token in a text, which is read as text" in capsys.readouterr().err
    assert len(output.read_text().splitlines()) == len(rows)
