"""Compare what two runs have left in their output_dirs, byte by byte but for timings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOLDS_TIMINGS = re.compile(r"(^|/)(trainer_state|\w+_results)\.json$")


def what_is_left(output_dir: Path) -> dict[str, str]:
    """Every file and folder with a digest of its bytes; from JSON files timings are left out, and from manifests the
    digests of files that hold timings. Trainer's pickled arguments are no part of its state."""
    paths = sorted(path for path in output_dir.rglob("*") if path.name != "training_args.bin")
    return {str(path.relative_to(output_dir)): "folder" if path.is_dir() else content(path) for path in paths}


def content(path: Path) -> str:
    if HOLDS_TIMINGS.search(path.name) or path.name == "ftloop_manifest.json":
        try:
            values = json.loads(path.read_text())
            values.pop("digest", None)  # a manifest's, of all that it says
            return json.dumps(without_timings(values), sort_keys=True)
        except (ValueError, AttributeError):
            return f"broken: {path.read_bytes()!r}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_timings(value: Any) -> Any:
    if isinstance(value, list):
        return [without_timings(each) for each in value]
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not k.endswith(("_runtime", "_per_second"))}
        return {k: "a digest" if HOLDS_TIMINGS.search(k) else without_timings(v) for k, v in kept.items()}
    return value


def difference(expected: dict[str, str], found: dict[str, str]) -> str | None:
    """All files that are too many, missing or other, of a folder only itself; None: there are none."""
    extra = [f"{name} is left over" for name in topmost(set(found) - set(expected))]
    missing = [f"{name} is missing" for name in topmost(set(expected) - set(found))]
    other = [
        f"{name} differs{where(expected[name], found[name])}"
        for name in expected
        if name in found and expected[name] != found[name]
    ]
    return "; ".join(extra + missing + other) or None


def where(expected: str, found: str) -> str:
    """Name the settings of a JSON file that differ, with both values; nothing of any other file."""
    try:
        sides = [dict(leaves(json.loads(each))) for each in (expected, found)]
    except ValueError:
        return ""
    names = [name for name in sides[0] | sides[1] if sides[0].get(name) != sides[1].get(name)]
    return " in " + ", ".join(f"{name} ({sides[0].get(name)!r}, {sides[1].get(name)!r})" for name in names[:5])


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{name}.{key}" if name else key)
    else:
        yield name, value


def topmost(names: set[str]) -> list[str]:
    return sorted(name for name in names if not any(str(above) in names for above in Path(name).parents))
