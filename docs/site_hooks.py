"""What the site has beside the pages that lie here: settings and Python API out of the code, results of the benchmarks.

Pages link to files of the checkout as they do on any page that is read in it; in the site such a link leads to the
page of a result, and to nothing where a file is not a page.
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mkdocs.structure.files import File  # noqa: E402

from ftloop.config.train_config import SETTINGS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and the benchmarks' results."""
    for name, text in (("reference/settings.md", settings()), ("reference/api.md", api())):
        files.append(File.generated(config, name, content=text))
    for path in sorted(RESULTS.iterdir()):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files of the checkout into links within the site, or into words."""
    name = page.file.src_uri
    if 'class="beside"' in markdown:  # code and prose beside each other want the whole width
        page.meta["hide"] = ["navigation", "toc"]
    here = "benchmarks/results" if name.startswith("results/") else posixpath.dirname(f"docs/{name}")

    def linked(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        full = posixpath.normpath(posixpath.join(here, target))
        if "://" in target or target.startswith("#"):
            return match[0]
        if full.startswith("docs/"):
            place = full.removeprefix("docs/")
        elif full.startswith("benchmarks/results/"):
            place = full.removeprefix("benchmarks/")
        else:
            return text
        return f"{match['mark']}[{text}]({posixpath.relpath(place, posixpath.dirname(name) or '.')}{anchor})"

    return re.sub(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)", linked, markdown)


def settings() -> str:
    """Every setting, group by group, out of TrainConfig."""
    return "\n".join(["# Settings", "", INTRODUCTION, *_groups()]) + "\n"


INTRODUCTION = """\
As flags of `ftloop train`, lines of a recipe, and arguments of `TrainConfig`. Names, defaults and meaning are those of
`TrainingArguments` and the `run_glue` scripts, where these have them.
"""


def _groups() -> Iterator[str]:
    groups: dict[str, list[Any]] = {}
    for setting in SETTINGS.values():
        groups.setdefault(setting.group, []).append(setting)
    for group, members in groups.items():
        yield f"\n## {group.capitalize()}\n\n| setting | default | what it does |\n|---|---|---|"
        for setting in members:
            default = "" if setting.default is None else f"`{str(setting.default).lower()}`"
            kind = getattr(setting.kind, "__args__", ()) if "Literal" in str(setting.kind) else ()
            one_of = f" One of {', '.join(f'`{each}`' for each in kind)}." if kind else ""
            yield f"| `{setting.name}` | {default} | {(setting.help + one_of).replace('|', chr(92) + '|')} |"


def api() -> str:
    """Every public name, out of the stub that lists them."""
    stub = ast.parse((ROOT / "ftloop" / "__init__.pyi").read_text(encoding="utf-8"))
    names = [
        f"{node.module}.{each.name}" for node in stub.body if isinstance(node, ast.ImportFrom) for each in node.names
    ]
    names = [name for name in names if not name.endswith("__version__") and not name.endswith("TrainConfig")]
    names += ["ftloop.compare.recorder.Recorder", "ftloop.compare.recorder.record", "ftloop.compare.replayed.replay"]
    head = "`from ftloop import prepare, train, ...`; the fields of `TrainConfig` are the [settings](settings.md)."
    return "\n".join(["# Python API", "", head, "", *(f"::: {name}\n" for name in names)])
