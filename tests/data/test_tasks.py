"""Every kind of task, from files to a model that has learned it: a tiny random model, rows made on the spot.

Each is held against what a constant answer scores. What is to be learned shows in the words, so that a model of this
size can learn it in seconds; that it does shows that nothing on the way mixes up rows, texts or labels.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
    set_seed,
)

from ftloop import TrainConfig
from ftloop.job.fine_tune import fine_tune
from ftloop.report.outcome import read_finished_run, read_predictions
from ftloop.run.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]

Row = dict[str, Any]
KEYS = [f"key{i}" for i in range(160)]
FILLERS = [f"word{i}" for i in range(80)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# One layer with weights large enough to learn from the first update on; as drawn by default, it would need thousands.
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.15,
}


def words() -> tuple[PreTrainedTokenizerFast, PreTrainedConfig]:
    """A BERT whose tokens are whole words."""
    vocabulary = [*SPECIAL, *KEYS, *FILLERS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)
    return wrapped, BertConfig(vocab_size=len(vocabulary), **SIZE)


class Tried:
    """A folder with a model, its rows and what became of them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.out, self.capsys = folder, folder / "out", capsys

    def build(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> None:
        set_seed(1)
        tokenizer.save_pretrained(self.folder / "model")
        AutoModelForSequenceClassification.from_config(config).save_pretrained(self.folder / "model")

    def write(self, split: str, rows: list[Row]) -> str:
        path = self.folder / f"{split}.jsonl"
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
        return str(path)

    def rows(self, split: str) -> list[Row]:
        return [json.loads(line) for line in (self.folder / f"{split}.jsonl").read_text("utf-8").splitlines()]

    def learn(self, make: Callable[[random.Random], Row], rows: int = 320, **settings: Any) -> dict[str, float]:
        """Train on made rows, and evaluate on others. Returns: eval_results.json, without its prefix."""
        if not (self.folder / "model").exists():
            self.build(*words())
        draws = random.Random(1), random.Random(2)
        defaults = {
            "output_dir": str(self.folder / "out"),
            "model_name_or_path": str(self.folder / "model"),
            "train_file": self.write("train", [make(draws[0]) for _ in range(rows)]),
            "validation_file": self.write("validation", [make(draws[1]) for _ in range(150)]),
            "per_device_train_batch_size": 16,
            "per_device_eval_batch_size": 64,
            "learning_rate": 5e-3,
            "warmup_ratio": 0.1,
            "num_train_epochs": 4,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        config = TrainConfig(**defaults | settings)
        self.run, self.out = fine_tune(config), Path(config.output_dir)
        self.said = self.capsys.readouterr().out
        told = re.search(r"^Baseline .*", self.said, re.MULTILINE)
        assert told is not None
        numbers = re.findall(r"(\w+(?:\(\w+\))?)=(-?[\d.]+|nan)", told[0])
        self.baseline = {name: float(value) for name, value in numbers}
        results: dict[str, float] = json.loads((self.out / "eval_results.json").read_text())
        return {name.removeprefix("eval_"): value for name, value in results.items()}

    run: Run | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Of the model that was saved."""
        saved: dict[str, Any] = json.loads((self.out / "config.json").read_text())
        return saved


@pytest.fixture
def tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tried:
    return Tried(tmp_path, capsys)


def fill(draw: random.Random, *given: str) -> str:
    """A sentence with these words somewhere in it."""
    sentence = [*given, *draw.choices(FILLERS, k=draw.randint(0, 4))]
    draw.shuffle(sentence)
    return " ".join(sentence)


def opinion(draw: random.Random) -> Row:
    """As SST-2: one word of eight tells."""
    good = draw.random() < 0.5
    return {"sentence": fill(draw, draw.choice(KEYS[:4] if good else KEYS[4:8])), "label": int(good)}


def test_single_sentences_are_told_apart(tried: Tried) -> None:
    found = tried.learn(opinion)
    assert tried.baseline["accuracy"] < 0.6
    assert found["accuracy"] > 0.9


def test_pairs_are_told_by_what_both_say(tried: Tried) -> None:
    def row(draw: random.Random) -> Row:
        first, second = draw.choice(KEYS[:2]), draw.choice(KEYS[:2])
        return {"sentence1": first, "sentence2": second, "label": "same" if first == second else "other"}

    found = tried.learn(row, num_train_epochs=8)
    assert tried.baseline["accuracy"] < 0.65
    assert found["accuracy"] > 0.9
    assert tried.config["id2label"] == {"0": "other", "1": "same"}


def test_a_hundred_and_fifty_classes_with_names_are_learned(tried: Tried) -> None:
    def row(draw: random.Random) -> Row:
        intent = draw.randrange(150)
        return {"text": fill(draw, KEYS[intent]), "label": f"ask for: {intent}"}

    found = tried.learn(row, rows=1500, per_device_train_batch_size=32, learning_rate=1e-2)
    assert len(tried.config["id2label"]) == 150
    assert "150 classes" in tried.said
    assert tried.baseline["accuracy"] < 0.05
    assert found["accuracy"] > 0.9


def test_numbers_are_learned(tried: Tried) -> None:
    def row(draw: random.Random) -> Row:
        """As STS-B: 0 to 5, of the words that two sentences have in common."""
        same = draw.randint(0, 4)
        first, second = fill(draw, *KEYS[:same]), fill(draw, *KEYS[:same])
        return {"sentence1": first, "sentence2": second, "score": 1.25 * same}

    found = tried.learn(row, num_train_epochs=6)
    assert found["mse"] < tried.baseline["mse"] / 4
    assert min(found["pearson"], found["spearmanr"]) > 0.8
    assert tried.config["problem_type"] == "regression"


def topics(draw: random.Random) -> list[int]:
    """Any number of six, the last ones rarely."""
    return [topic for topic in range(6) if draw.random() < (0.4, 0.4, 0.3, 0.3, 0.2, 0.1)[topic]]


def several(draw: random.Random) -> Row:
    there = topics(draw)
    return {"text": fill(draw, *(KEYS[topic] for topic in there)) or "none", "labels": [f"topic {t}" for t in there]}


def test_several_labels_a_row_are_learned_and_predicted(tried: Tried) -> None:
    test = tried.write("test", [{"text": KEYS[0], "labels": None}, {"text": "word1"}, {"text": f"{KEYS[1]} {KEYS[3]}"}])
    settings = {"test_file": test, "eval_strategy": "epoch", "metric_for_best_model": "f1_macro"}
    settings |= {"save_strategy": "epoch", "load_best_model_at_end": True, "label_column_name": "labels"}
    found = tried.learn(several, rows=480, learning_rate=1e-2, num_train_epochs=6, **settings)
    assert "any number of 6 labels: 0=topic 0, 1=topic 1" in tried.said
    assert tried.baseline["f1(micro)"] < 0.6
    assert found["f1"] > 0.9
    assert found["f1_macro"] > 0.7
    assert found["accuracy"] > tried.baseline["accuracy"] + 0.3
    assert tried.config["problem_type"] == "multi_label_classification"
    with (tried.out / "test_predictions.tsv").open(newline="") as file:
        header, *lines = csv.reader(file, delimiter="\t")
    assert header == ["index", "prediction", "score"]
    assert [line[1] for line in lines] == ["topic 0", "", "topic 1|topic 3"]
    assert [line[2].count(".") for line in lines] == [1, 0, 2]
    assert all(0.5 < float(score) <= 1 for line in lines if line[2] for score in line[2].split("|"))
    left = read_finished_run(tried.out)
    assert left.facts["data"]["problem_type"] == "multi_label_classification"
    rows = tried.rows("train")
    counted = left.facts["data"]["sets"]["train"]["labels"]
    assert counted == {name: sum(name in row["labels"] for row in rows) for name in counted}
    assert left.facts["data"]["contradictions"]["rows"] == 0
    said = read_predictions(left.predictions["validation"]).to_pylist()
    assert [row["label"] for row in said] == [row["labels"] for row in tried.rows("validation")]
    assert sum(row["label"] == row["prediction"] for row in said) / len(said) == found["accuracy"]


def test_several_labels_of_a_csv_file_are_learned_in_two_goes_as_in_one(tried: Tried) -> None:
    def row(draw: random.Random) -> Row:
        made = several(draw)
        return {"text": made["text"], "label": ", ".join(made["labels"])}

    settings = {"label_delimiter": ",", "save_strategy": "epoch", "num_train_epochs": 2, "class_weights": "balanced"}
    whole = tried.learn(row, **settings, output_dir=str(tried.folder / "whole"), save_total_limit=2)
    del whole["runtime"]
    resumed = {"resume_from_checkpoint": str(tried.folder / "whole" / "checkpoint-20")}
    again = tried.learn(row, **settings, **resumed)
    assert {name: again[name] for name in ("loss", "accuracy", "f1")} == {
        name: whole[name] for name in ("loss", "accuracy", "f1")
    }
    assert whole["f1"] > tried.baseline["f1(micro)"] + 0.05
    assert re.search(r"^Weights   topic 0 [\d.]+, topic 1 ", tried.said, re.MULTILINE)


# Words for good and for bad in four scripts.
SCRIPTS = {
    "Latin": (["great", "lovely", "süß"], ["awful", "boring", "öde"], ["film", "music", "the", "was", "year"]),
    "Cyrillic": (["отлично", "прекрасно"], ["ужасно", "скучно"], ["фильм", "музыка", "было", "очень"]),
    "Chinese": (["精彩", "好看"], ["糟糕", "无聊"], ["电影", "音乐", "今天", "非常"]),
    "Arabic": (["رائع", "جميل"], ["سيئ", "ممل"], ["فيلم", "كتاب", "كان", "هذا"]),
}


def in_any_script(draw: random.Random) -> Row:
    script = draw.choice([*SCRIPTS])
    good = draw.random() < 0.5
    told = [draw.choice(SCRIPTS[script][not good]), *draw.choices(SCRIPTS[script][2], k=draw.randint(1, 4))]
    draw.shuffle(told)
    return {"text": ("" if script == "Chinese" else " ").join(told), "label": "pos" if good else "neg"}


FRAME = processors.TemplateProcessing(
    single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
)
FRAME_TOKENS = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}


def like_xlm_roberta() -> tuple[PreTrainedTokenizerFast, PreTrainedConfig]:
    """Pieces of sentences as SentencePiece makes them, in the frame of XLM-R, which has no token types."""
    draw = random.Random(0)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([in_any_script(draw)["text"] for _ in range(400)], trainer)
    tokenizer.post_processor = FRAME
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
        unk_token="<unk>",
        mask_token="<mask>",
        **FRAME_TOKENS,
    )
    return wrapped, XLMRobertaConfig(
        vocab_size=len(wrapped), pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1, **SIZE
    )


def of_bytes() -> tuple[PreTrainedTokenizerFast, PreTrainedConfig]:
    """Bytes, joined where they often meet, as of RoBERTa and GPT-2: no text is unknown to it."""
    draw = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([in_any_script(draw)["text"] for _ in range(400)], trainer)
    tokenizer.post_processor = FRAME
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
        **FRAME_TOKENS,
    )
    return wrapped, RobertaConfig(
        vocab_size=len(wrapped), pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1, **SIZE
    )


@pytest.mark.parametrize("kind", [like_xlm_roberta, of_bytes])
def test_texts_of_four_scripts_are_learned_together(kind: Any, tried: Tried) -> None:
    tokenizer, config = kind()
    tried.build(tokenizer, config)
    found = tried.learn(in_any_script, rows=640)
    assert tried.baseline["accuracy"] < 0.6
    assert found["accuracy"] > 0.85  # which pieces the trainer finds is not the same each time
    assert tried.run is not None
    row = tried.run.train_dataset[0]
    assert row.keys() == {"input_ids", "attention_mask", "label"}, "no token types"
    for good, bad, _ in SCRIPTS.values():
        pieces = [tokenizer(text)["input_ids"] for text in (good[0], bad[0])]
        assert pieces[0] != pieces[1], "both are unknown words"


def rare(draw: random.Random) -> Row:
    """One row in twelve is an alarm; some words say so, but of all rows with one of them most are none."""
    alarm = draw.random() < 1 / 12
    likely = draw.random() < (0.9 if alarm else 0.15)
    return {"text": fill(draw, KEYS[0] if likely else KEYS[1]), "label": "alarm" if alarm else "none"}


def test_weights_make_a_rare_class_be_found(tried: Tried) -> None:
    """By the odds alone, rows with the word are most often no alarm, so that the plain loss never says alarm."""
    settings = {"num_train_epochs": 3, "label_column_name": "label", "learning_rate": 3e-3}

    def found_alarms() -> float:
        """Share of the validation set's alarms that are called one."""
        from ftloop.evaluation import predict

        assert tried.run is not None
        predicted = predict(tried.run, tried.run.eval_dataset)  # type: ignore[arg-type]
        alarms = predicted.label_ids == 0
        return float((predicted.predictions.argmax(-1)[alarms] == 0).mean())

    tried.learn(rare, rows=480, **settings, output_dir=str(tried.folder / "plain"))
    plain = found_alarms()
    tried.learn(rare, rows=480, **settings, class_weights="balanced")
    weighted = found_alarms()
    assert plain < 0.3
    assert weighted > 0.7
    assert re.search(r"^Weights   alarm \d\.\d+, none 0\.\d+$", tried.said, re.MULTILINE)


def test_with_parts_frozen_and_other_dropout_it_learns_too(tried: Tried) -> None:
    tokenizer, config = words()
    config.num_hidden_layers = 2
    tried.build(tokenizer, config)
    settings = {"freeze_embeddings": True, "freeze_layers": 1, "hidden_dropout": 0.05, "classifier_dropout": 0.1}
    found = tried.learn(opinion, **settings, gradient_checkpointing=True)
    frozen = r"^Frozen    the embeddings and the 1 lowest layer; [\d.]+ of [\d.]+ M parameters are trained$"
    assert re.search(frozen, tried.said, re.MULTILINE)
    assert found["accuracy"] > 0.85
    assert (tried.config["hidden_dropout_prob"], tried.config["classifier_dropout"]) == (0.05, 0.1)
    assert tried.config["attention_probs_dropout_prob"] == 0.0
