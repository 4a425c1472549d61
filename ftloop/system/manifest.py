"""Manifests: the sizes and digests of the files of a folder, and their verification."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ftloop.errors import UserError, summarize
from ftloop.system.atomic import files_in, write_text

MANIFEST = "ftloop_manifest.json"
RUN_FACTS = "ftloop_run.json"
DECISION = "decision.json"  # how a finished model decides, where that was fitted


def file_digests(folder: Path, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return size in bytes and sha256 of the named files of a folder; by default of all in it but the manifest."""
    if names is None:
        names = [name for name in files_in(folder) if name != MANIFEST]
    return {name: _digest_of_file(folder / name) for name in sorted(names)}


def _digest_of_file(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write `facts`, with `files` among them, and a digest that tells whether the manifest itself is whole."""
    write_text(folder / MANIFEST, _canonical(facts | {"digest": _digest(facts)}))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder; None if there is none. Raises: UserError when it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    facts = read_json(path)
    if facts.pop("digest", None) != _digest(facts) or not isinstance(facts.get("files"), dict):
        raise UserError(f"{path}: is damaged (its digest differs)")
    return facts


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of ours. Raises: UserError when it cannot be read, or is no object of names and values."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not readable ({summarize(error)})") from error


def _canonical(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2, sort_keys=True) + "\n"


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(facts).encode()).hexdigest()


def verify_files(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Compare the files of a folder with the `files` of its manifest. Returns: what is wrong, one phrase each."""
    problems = []
    for name, expected in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected["size"]:
                problems.append(f"{name} has {size} bytes instead of {expected['size']}")
            elif _digest_of_file(path) != expected:
                problems.append(f"{name} is not what was written (its sha256 differs)")
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
    return problems
