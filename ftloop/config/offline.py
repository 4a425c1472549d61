"""Fall back to the local cache when the model hub does not answer."""

from __future__ import annotations

import os
from pathlib import Path

from ftloop.config.train_config import TrainConfig
from ftloop.system.hub import hub_answers, local_model_folder


def names_on_the_hub(config: TrainConfig) -> list[str]:
    """What this run would fetch from the hub, as a person would call it."""
    names = []
    if config.model_name_or_path is not None and local_model_folder(config.model_name_or_path) is None:
        names.append(f"the model {config.model_name_or_path}")
    if config.tokenizer_name is not None and local_model_folder(config.tokenizer_name, "tokenizer_name") is None:
        names.append(f"the tokenizer {config.tokenizer_name}")
    if config.train_file is None:
        if config.task_name not in (None, "demo"):
            names.append(f"the data set glue/{config.task_name}")
        elif config.dataset_name is not None and not Path(config.dataset_name).expanduser().is_dir():
            names.append(f"the data set {config.dataset_name}")
    return names


def use_cache_if_hub_is_silent(config: TrainConfig) -> None:
    """Set HF_HUB_OFFLINE when the hub is needed and does not answer. Call it before importing transformers."""
    if names_on_the_hub(config) and "HF_HUB_OFFLINE" not in os.environ and not hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"
