"""What the guide uploads to the hub: the model, and nothing of the rows or of the machine."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path

from harness.command import CHECKOUT
from huggingface_hub.utils import filter_repo_objects

from ftloop.errors import ExitCode
from ftloop.train import main

GUIDE = (CHECKOUT / "docs" / "guides" / "share.md").read_text(encoding="utf-8")


def uploaded(folder: Path) -> list[str]:
    """The files that the guide's command takes of a folder, as the hub's own library picks them."""
    command = GUIDE.partition("\nhf upload ")[2].partition("\n```")[0].replace("\\\n", "")
    words = shlex.split(command)
    excluded = [pattern for flag, pattern in pairwise(words) if flag == "--exclude"]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return list(filter_repo_objects(files, ignore_patterns=excluded))


def test_what_the_guide_uploads_holds_the_model_and_no_row_and_no_path(tiny_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home-of-a-person"
    home.mkdir()
    rows = [{"text": f"secret number {i}", "label": i % 2, "id": f"patient-{i}"} for i in range(24)]
    for name in ("train", "validation", "test"):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model_name_or_path", str(tiny_folder / "model"), "--output_dir", str(home / "run")]
    for name in ("train", "validation", "test"):
        words += [f"--{name}_file", str(home / f"{name}.jsonl")]
    words += ["--max_steps", "2", "--save_steps", "1", "--report", "true", "--report_to", "tensorboard"]
    assert main(words) == ExitCode.DONE
    left = {path.relative_to(home / "run").parts[0] for path in (home / "run").rglob("*") if path.is_file()}
    assert {"checkpoint-1", "report", "runs", "ftloop_run.json", "test_predictions.parquet"} <= left
    (home / "run" / "ftloop_base_config.json").write_text("{}")  # as beside an adapter, whose classes are in it
    taken = uploaded(home / "run")
    assert "ftloop_base_config.json" in taken
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "all_results.json"} <= {*taken}
    for name in taken:
        told = (home / "run" / name).read_bytes()
        for secret in ("home-of-a-person", "secret number", "patient-"):
            assert secret.encode() not in told, f"{name} holds {secret!r}"
