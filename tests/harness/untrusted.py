"""Strategies and planted files for input nobody trusts."""

from __future__ import annotations

import io
import itertools
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def few_and_many(few: int, many: int) -> Any:
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def examples(count: int) -> Any:
    """The same examples every time, and as long as they take: this is no place for luck or clocks."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=quiet)


def fresh(folder: Path, name: str, content: bytes) -> Path:
    """Write a file newer than any earlier one of that name, so that no cache mistakes one example for another."""
    path = folder / name
    path.write_bytes(content)
    age = next(AGES)
    os.utime(path, ns=(age, age))
    return path


AGES = itertools.count(10**18)


ODD_TEXTS = [
    *("", " ", '"', '""', '"a" b', "a\tb", "a,b", "a\nb", "a\r\nb", "a\rb", "\0", "\ufeff", "\u2028", "\x85", "\x1c"),
    *(
        "NA",
        "nan",
        "null",
        "👩\u200d👧 😀",
        "שלום עולם",
        "\u202eabc",
        "e\u0301",
        "\ud83d",
        "\udcff",
        "[",
        "{",
        "#",
        "\\n",
    ),
]
ANY_TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(ODD_TEXTS)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**30, -(10**400), 2**63, 1e308, math.nan, math.inf, -0.0])
VALUES = ANY_TEXT | NUMBERS | st.booleans() | st.none()
KEYS = st.sampled_from(["text", "label", "", "a,b", "a.b", 'say "x"', "größe", "😀", " text", "a\tb", "\0", "idx"])


def is_text(value: Any) -> bool:
    """Whether it can be read at all; a lone surrogate and an infinite number cannot."""
    if isinstance(value, float):
        return not math.isinf(value)
    return not isinstance(value, str) or not any("\ud800" <= character <= "\udfff" for character in value)


def expected_text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)


SPLINTERS = st.binary(max_size=6) | st.sampled_from(
    [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b'"', b",", b"\t", b"{", b"}", b"[", b"]",
     b"\\ud800", b"NaN", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b'"text": 1,', b"\n\n\n", b"\xe2\x80\xa8"]
)  # fmt: skip
# Where, how much is cut out there, and what is put in its place.
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), SPLINTERS), min_size=1, max_size=3)


def planted(marker: Path, form: str) -> bytes:
    """A pickle that makes a folder when it is loaded, alone or in one of torch's two wrappings."""

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    if form == "pickle":
        return pickle.dumps(Trap())
    written = io.BytesIO()
    torch.save({"state": Trap()}, written, _use_new_zipfile_serialization=form == "zip")
    return written.getvalue()


FORMS = ("pickle", "zip", "legacy")
NAMES_IN_FOLDERS = [
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_config.json", "adapter_model.bin"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "vocab.pkl", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    *("chat_template.jinja", "preprocessor_config.json", "training_args.bin", "optimizer.pt", "optimizer.bin"),
    *("scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth", "trainer_state.json", "ftloop_state.json"),
    *("tf_model.h5", "flax_model.msgpack", "model.npy", "model.joblib", "ftloop_manifest.json", "README.md"),
]


def words_of(tiny_folder: Path, output_dir: Path) -> list[str]:
    files = [f"--{split}_file={tiny_folder / f'{split}.jsonl'}" for split in ("train", "validation")]
    options = ["--use_cpu", "--save_strategy", "steps", "--save_steps", "1", "--num_train_epochs", "1"]
    return [*options, "--model_name_or_path", str(tiny_folder / "model"), *files, "--output_dir", str(output_dir)]
