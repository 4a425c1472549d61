"""Every test runs offline and quietly."""

from __future__ import annotations

import json
import os
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from killing import Ground
    from transformers import PreTrainedTokenizerFast

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models are faster on one thread, and two test processes then do not fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How often each value of the parity matrix ran, how many kills hit in each stage, and how many inputs were tried,
    whichever process of pytest-xdist did it."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in ("ran", "kills", "tried")}
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for name, counts in report.user_properties:
            if name in counted:
                counted[name].update(counts)
    ran, kills, tried = counted.values()
    if kills:
        from killing import table

        terminalreporter.section(f"killed by SIGKILL, {kills.total()} times")
        for line in table(kills):
            terminalreporter.write_line(line)
    if tried:
        terminalreporter.section("inputs nobody trusts: how many were tried")
        told = ", ".join(f"{kind} {count}" for kind, count in sorted(tried.items()))
        terminalreporter.write_line(f"{tried.total()}: {told}")
    if not ran:
        return
    terminalreporter.section("the parity matrix: how often each value ran")
    axes: dict[str, list[str]] = {}
    for name, count in ran.items():
        axis, _, value = name.partition("=")
        axes.setdefault(axis, []).append(f"{value} {count}".strip())
    for axis, values in axes.items():
        terminalreporter.write_line(f"{axis:<15} {', '.join(sorted(values))}")


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty cache of data sets, so that no test reads what an earlier run of the tests has left."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture
def word_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer with BERT's special tokens whose words are the letters a to z; at most 16 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **special)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny `model/` and its tokenizer, and `train`, `validation` and `test.jsonl` of pairs."""
    from tiny import tiny_bert, tiny_pairs, tiny_tokenizer

    root = tmp_path_factory.mktemp("tiny")
    tiny_tokenizer().save_pretrained(root / "model")
    tiny_bert().save_pretrained(root / "model")
    for split, count in (("train", 29), ("validation", 13), ("test", 11)):
        (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, tiny_pairs(count))) + "\n")
    return root


@pytest.fixture(scope="session")
def killing_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Where runs are killed and files made to fail."""
    from killing import ground

    with ground(tmp_path_factory.mktemp("killing")) as made:
        yield made
