"""What the guide says of ONNX: its own lines export a model whose logits are those of the model."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.command import CHECKOUT
from harness.zoo import write_member

from ftloop import load_classifier

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="the extra `onnx` is not installed: pip install 'ftloop[onnx]'")

GUIDE = (CHECKOUT / "docs" / "guides" / "share.md").read_text(encoding="utf-8")
EXPORT, RUN = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta"])
def test_the_guides_lines_export_a_model_with_the_same_logits_on_padded_batches_of_any_length(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_member(tmp_path / "runs" / "mine", name, num_labels=3)
    lines: dict[str, Any] = {}
    exec(EXPORT, lines)
    exec(RUN, lines)
    assert lines["logits"].shape == (1, 3)
    session, draw = lines["session"], random.Random(0)
    classifier = load_classifier("runs/mine")
    sizes = set()
    for longest in (1, 2, 5, 17, 40):
        words = [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(draw.randint(2, 9))]
        batch = classifier.tokenizer(words, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            wanted = classifier.model(**batch).logits.numpy()
        (found,) = session.run(["logits"], {name: values.numpy() for name, values in batch.items()})
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)  # other kernels sum in another order
        assert np.abs(wanted).max() > 0.01
        sizes.add(tuple(batch["input_ids"].shape))
        if longest > 2:
            assert not batch["attention_mask"].all(), "some of it is padding"
    assert len(sizes) == 5


WORDS = ["the", "cold", "waiter", "food", "was", "and", "again", "friendly", "came", "we"]
