"""A tokenizer and a model that go together: padding token, padding side, end token; every architecture of the zoo."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from harness.models import tiny_bert
from harness.zoo import DECODERS, EVERY_MEMBER, ZOO, write_member
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    CanineConfig,
    CanineForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ftloop import TrainConfig, UserError, evaluate, prepare
from ftloop.inference.__main__ import main as predict
from ftloop.inference.classifier import classify, load_classifier
from ftloop.job.fine_tune import fine_tune
from ftloop.models.load import check_token_ids, load_tokenizer, longest_input
from ftloop.models.match import embedding_sizes, match

pytestmark = pytest.mark.usefixtures("own_cache", "quiet_data")
TEXTS = ["yes word1", "a few more words, which is said of a text", "no", "no word3 word44 and word1", "a"]
NEEDS_THE_LEFT = {"xlnet"}  # its head reads the last token
TAKES_BOTH = {"llama", "qwen2", "gemma"}  # they count positions from one token to another


def change_tokenizer(folder: Path, **settings: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("name", EVERY_MEMBER)
def test_company_changes_only_the_last_digits(name: str, tmp_path: Path) -> None:
    """It holds in `classify`, in a file's prediction and in evaluation, whichever side the tokenizer names."""
    folder = write_member(tmp_path / "model", name, num_labels=3)
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in TEXTS))
    for side, limit in (("left", 12), ("right", 40)):
        change_tokenizer(folder, padding_side=side)
        model, tokenizer = load_classifier(folder, max_seq_length=limit)
        assert tokenizer.padding_side == (side if name in TAKES_BOTH else "left" if name in NEEDS_THE_LEFT else "right")
        alone = [classify(model, tokenizer, [text])[0].score for text in TEXTS]
        assert max(alone) - min(alone) > 1e-3, "nothing to tell apart"
        together = [each.score for each in classify(model, tokenizer, TEXTS, max_tokens=10**6)]
        assert together == pytest.approx(alone, abs=1e-5)
        output = tmp_path / f"{side}.jsonl"
        words = ["--model", str(folder), "--input", str(tmp_path / "rows.jsonl"), "--output", str(output)]
        assert predict([*words, "--max_seq_length", str(limit)]) == 0
        of_a_file = [json.loads(line)["score"] for line in output.read_text().splitlines()]
        assert of_a_file == pytest.approx(alone, abs=1e-5)
        losses = [evaluated_in_batches_of(size, model, tokenizer, tmp_path) for size in (1, len(TEXTS))]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def evaluated_in_batches_of(rows: int, model: Any, tokenizer: Any, folder: Path) -> float:
    dataset = Dataset.from_dict(dict(tokenizer(TEXTS)) | {"label": [0, 1, 2, 0, 1]})
    config = TrainConfig(output_dir=str(folder), per_device_eval_batch_size=rows, use_cpu=True, disable_tqdm=True)
    return evaluate(prepare(config, model, None, dataset, processing_class=tokenizer))["eval_loss"]


def test_a_tokenizer_of_ones_own_may_pad_on_a_side_that_the_model_does_not_take(tmp_path: Path) -> None:
    model, tokenizer = load_classifier(write_member(tmp_path, "gpt2"))
    right = [each.score for each in classify(model, tokenizer, TEXTS, max_tokens=10**6)]
    tokenizer.padding_side = "left"
    assert [each.score for each in classify(model, tokenizer, TEXTS, max_tokens=10**6)] == right
    assert tokenizer.padding_side == "left", "it is the caller's"


ARGUMENTS: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
ARGUMENTS |= {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "report_to": "none"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("gpt2", "llama") else [pytest.mark.slow]) for n in DECODERS]
)
def test_a_decoder_is_trained_to_trainers_files_and_predicts(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_member(tmp_path / "model", name)
    rows = [{"text": f"{'yes' if i % 3 else 'no'} {'word1 ' * (i % 5)}", "label": int(i % 3 > 0)} for i in range(13)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ours, theirs = tmp_path / "ftloop", tmp_path / "trainer"
    files = {"train_file": str(tmp_path / "train.jsonl"), "output_dir": str(ours)}
    fine_tune(TrainConfig(model_name_or_path=str(folder), **files, **ARGUMENTS))
    said = capsys.readouterr().out
    trained_by_trainer(folder, rows, theirs)
    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes() or same_json(ours / file, theirs / file), file
    end = {"gpt2": "<|endoftext|>", "llama": "</s>"}.get(name)
    line = f"Padded    with the end token {end}, as the tokenizer has no padding token of its own"
    assert (line in said) == (end is not None)
    model, tokenizer = load_classifier(ours)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert end in (None, tokenizer.pad_token)
    assert len(classify(model, tokenizer, TEXTS)) == len(TEXTS)


def trained_by_trainer(folder: Path, rows: list[dict[str, Any]], output_dir: Path) -> None:
    """Train as Trainer's user writes it, padding with the end token where there is no other."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    set_seed(42)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1}
    )
    encoded = dict(tokenizer([row["text"] for row in rows])) | {"label": [row["label"] for row in rows]}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(output_dir), **ARGUMENTS),
        train_dataset=Dataset.from_dict(encoded),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    trainer.save_model()


def same_json(path: Path, other: Path) -> bool:
    return path.suffix == ".json" and json.loads(path.read_text()) == json.loads(other.read_text())


def test_what_a_tokenizer_pads_with_and_where_is_told(tmp_path: Path) -> None:
    folder = write_member(tmp_path, "gpt2")
    change_tokenizer(folder, padding_side="left")
    tokenizer = load_tokenizer(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert match(model.train(), tokenizer, "it", 64) == [
        "with the end token <|endoftext|>, as the tokenizer has no padding token of its own",
        "on the right: on the left, as the tokenizer does, it changes the answers",
    ]
    assert model.training
    assert model.config.pad_token_id == tokenizer.eos_token_id
    drawn = torch.random.get_rng_state()
    assert len(match(model, tokenizer, "it", 64)) == 1, "it is on the right now"
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_a_model_that_no_padding_suits_is_told(tmp_path: Path) -> None:
    model, tokenizer = load_classifier(write_member(tmp_path, "bert"))
    forward = model.forward
    model.forward = lambda input_ids, **_: forward(input_ids=input_ids)  # padding is read as text
    (told,) = match(model, tokenizer, "it", 64)
    assert "the rows that share a batch are not independent" in told


def test_without_a_padding_and_an_end_token_one_has_to_be_named(tmp_path: Path) -> None:
    folder = write_member(tmp_path, "gpt2")
    change_tokenizer(folder, eos_token=None)
    with pytest.raises(UserError, match=r'no padding token, and no end token to pad with; name one .* as "pad_token"'):
        load_tokenizer(str(folder))
    change_tokenizer(folder, pad_token="!")
    assert load_tokenizer(str(folder)).pad_token_id == 1


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_tokenizer_without_the_end_token_that_a_head_reads_is_told(name: str, tmp_path: Path) -> None:
    folder = write_member(tmp_path, name)
    tokenizer = load_tokenizer(str(folder))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B", [])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"reads its answer at the end token \(</s>, \d\), and the tokenizer of"):
        load_classifier(folder)
    tokenizer = ZOO[name].tokenizer()
    tokenizer.pad_token = "</s>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"at the end token \(</s>, \d\), and the tokenizer of .* pads with it"):
        load_classifier(folder)


def test_a_model_that_cannot_take_its_tokenizers_rows_is_told(tmp_path: Path) -> None:
    folder = write_member(tmp_path, "t5")
    classifier = load_classifier(folder)
    classifier.model.config.eos_token_id = classifier.tokenizer.convert_tokens_to_ids("a")
    with pytest.raises(UserError, match="the model cannot take what its tokenizer gives"):
        classifier(["aab c", "abc c"])
    change_tokenizer(folder, eos_token="w")  # which one text has, and another not
    with pytest.raises(
        UserError, match=r"the model cannot take what the tokenizer of .* gives \(ValueError: All examples must "
    ):
        load_classifier(folder)


def test_xlnet_has_no_limit_and_absurd_limits_are_none(tmp_path: Path) -> None:
    folder = write_member(tmp_path, "xlnet")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), load_tokenizer(str(folder))
    assert model.config.max_position_embeddings == -1
    assert longest_input(model, tokenizer, 3000) == 3000
    for limit, longest in ((-1, None), (0, None), (100, 100)):
        tokenizer.model_max_length = limit
        if longest is None:
            with pytest.raises(UserError, match="max_seq_length: this tokenizer has no limit of its own; give one"):
                longest_input(model, tokenizer, None)
        else:
            assert longest_input(model, tokenizer, None) == longest


def test_xlnet_is_trained_and_predicts(tmp_path: Path) -> None:
    folder = write_member(tmp_path / "model", "xlnet")
    rows = [{"a": f"{'yes' if i % 3 else 'no'}", "b": "word1 " * (i % 5 + 1), "label": i % 2} for i in range(13)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"train_file": str(tmp_path / "train.jsonl"), "output_dir": str(tmp_path / "run")}
    columns = {"text_column_names": ["a", "b"], "max_seq_length": 30}
    fine_tune(TrainConfig(model_name_or_path=str(folder), **files, **columns, **ARGUMENTS))
    classifier = load_classifier(tmp_path / "run")
    assert classifier.tokenizer.model_max_length == 30
    alone = [classifier([pair])[0].score for pair in [("yes", "word1"), ("no", "word1 word1 word1")]]
    both = classify(*classifier, [("yes", "word1"), ("no", "word1 word1 word1")], max_tokens=10**6)
    assert [each.score for each in both] == pytest.approx(alone, abs=1e-5)


def test_token_types_that_the_model_does_not_know_are_told(tmp_path: Path) -> None:
    """Pairs show it; single texts are all of type 0, which it knows."""
    folder = write_member(tmp_path / "model", "bert")
    config = json.loads((folder / "config.json").read_text()) | {"type_vocab_size": 1}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    name = "bert.embeddings.token_type_embeddings.weight"
    save_file(weights | {name: weights[name][:1].clone()}, folder / "model.safetensors", {"format": "pt"})
    change_tokenizer(folder, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    rows = [{"sentence1": "yes", "sentence2": f"word{i % 3}", "label": i % 2} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"train_file": str(tmp_path / "train.jsonl"), "output_dir": str(tmp_path / "run")}
    with pytest.raises(UserError, match="gives the train set token type 1, and the model knows only 1; take the tok"):
        fine_tune(TrainConfig(model_name_or_path=str(folder), **files, **ARGUMENTS))
    classifier = load_classifier(folder)
    with pytest.raises(UserError, match="the tokenizer gives token types beyond the 1 that the model knows"):
        classifier([("yes", "no")])
    assert classifier(["yes"])
    change_tokenizer(folder, model_input_names=["input_ids", "attention_mask"])  # as the message says
    fine_tune(TrainConfig(model_name_or_path=str(folder), **files, **ARGUMENTS))


def test_a_row_without_tokens_is_told_before_training(tmp_path: Path) -> None:
    folder = write_member(tmp_path / "model", "gpt2")
    rows = [{"text": "" if i == 5 else "yes", "label": i % 2} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"train_file": str(tmp_path / "train.jsonl"), "output_dir": str(tmp_path / "run")}
    with pytest.raises(UserError, match="the train set, row 6: no tokens; its text is empty"):
        fine_tune(TrainConfig(model_name_or_path=str(folder), **files, **ARGUMENTS))
    fine_tune(TrainConfig(model_name_or_path=str(folder), **files, **ARGUMENTS, drop_empty_texts=True))


def test_a_text_of_which_the_tokenizer_makes_nothing_is_quoted_and_not_called_empty(tmp_path: Path) -> None:
    texts = Dataset.from_dict({"text": ["yes", "\u4f60\u597d", ""]})
    encoded = Dataset.from_dict({"input_ids": [[1], [], []]})
    with pytest.raises(
        UserError, match="the train set, row 2: no tokens; this model's tokenizer makes none of its"
    ) as told:
        check_token_ids(tiny_bert(), None, {"train": encoded}, {"train": texts})  # type: ignore[arg-type]
    assert "'\u4f60\u597d': leave the row out of the file, or take a model" in str(told.value)
    assert "empty" not in str(told.value)
    encoded, texts = encoded.select([2]), texts.select([2])
    with pytest.raises(UserError, match=r"row 1: no tokens; its text is empty.* --drop_empty_texts"):
        check_token_ids(tiny_bert(), None, {"train": encoded}, {"train": texts})  # type: ignore[arg-type]


def test_rows_are_cut_on_the_side_that_is_asked_for_in_training_and_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What decides is the last word of a long text: cut on the right it is gone, and all rows are the same."""
    folder = write_member(tmp_path / "model", "bert")
    rows = [{"text": f"{'word1 ' * 20}{'yes' if i % 2 else 'no'}", "label": i % 2} for i in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files: dict[str, Any] = {"train_file": str(tmp_path / "train.jsonl"), "max_seq_length": 8}
    texts = [row["text"] for row in rows[:2]]
    scores = {}
    for side in (None, "right", "left"):
        output_dir = tmp_path / str(side)
        config = TrainConfig(
            model_name_or_path=str(folder), output_dir=str(output_dir), truncation_side=side, **files, **ARGUMENTS
        )
        fine_tune(config)
        assert "truncated: 40 of train" in capsys.readouterr().out
        classifier = load_classifier(output_dir)
        assert classifier.tokenizer.truncation_side == side or side is None
        scores[side] = [each.score for each in classifier(texts)]
    assert scores[None] == scores["right"]
    assert scores["right"][0] == scores["right"][1]
    assert scores["left"][0] != scores["left"][1]
    change_tokenizer(folder, truncation_side="left")
    config = TrainConfig(model_name_or_path=str(folder), output_dir=str(tmp_path / "own"), **files, **ARGUMENTS)
    fine_tune(config)
    assert [each.score for each in load_classifier(tmp_path / "own")(texts)] == scores["left"]


def test_the_side_that_is_padded_is_saved(tmp_path: Path) -> None:
    folder = write_member(tmp_path / "model", "gpt2")
    change_tokenizer(folder, padding_side="left")
    _, tokenizer = load_classifier(folder)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").padding_side == "right"


def test_a_model_without_a_table_of_tokens_knows_any() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    canine = CanineForSequenceClassification(CanineConfig(**sizes, max_position_embeddings=64, num_hash_buckets=64))
    assert embedding_sizes(canine) == (math.inf, 16)
    canine.another = torch.nn.Module()
    canine.another.token_type_embeddings = torch.nn.Embedding(2, 4)
    assert embedding_sizes(canine) == (math.inf, 2), "the smallest table is what a row has to fit into"


def test_an_attention_that_short_rows_would_switch_is_left_as_it_was(tmp_path: Path) -> None:
    """BigBird attends in full to all rows that come after a short one."""
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    tokenizer = ZOO["bert"].tokenizer()
    config = BigBirdConfig(**settings, vocab_size=len(tokenizer), block_size=4, num_random_blocks=1, pad_token_id=0)
    set_seed(1)
    model = BigBirdForSequenceClassification(config)
    parameters, state = list(model.parameters()), torch.get_rng_state()
    ids = torch.randint(5, 60, (1, 64), generator=torch.Generator().manual_seed(3))
    before = model.eval()(ids).logits
    model.train()
    match(model, tokenizer, "a model", 64)
    attention = model.bert.encoder.layer[0].attention.self
    assert (model.bert.attention_type, type(attention).__name__) == ("block_sparse", "BigBirdBlockSparseAttention")
    assert attention.training
    assert torch.equal(model.eval()(ids).logits, before)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
