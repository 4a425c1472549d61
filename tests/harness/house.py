"""Measure the layout of the package: `python tests/harness/house.py`, or `make house`.

Files, lines, imports between the wings, and what has to be read to own the loop. Nothing of ftloop is imported here but
in one process of its own, to see what `import ftloop.loop` loads.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ftloop"

# What each wing may import, beside itself, `errors` and `version`. Nothing here runs back up.
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "system": set(),
    "config": {"system"},
    "batching": set(),
    "data": {"config", "system"},
    "models": {"config", "data", "system"},
    "run": {"batching", "config", "data", "models", "system"},
    "loss": set(),
    "metrics": {"config", "data", "system"},
    "oom": {"run", "system"},
    "evaluation": {"loss", "oom", "run", "system"},
    "checkpoint": {"models", "run", "system"},
    "nonfinite": {"checkpoint", "loss", "run", "system"},  # it names the newest good checkpoint
    "logs": {"run", "system"},
    "loop": {"checkpoint", "evaluation", "logs", "loss", "models", "nonfinite", "oom", "run", "system"},
    "inference": {"config", "data", "metrics", "models", "system"},
    "report": {"config", "data", "system"},
    "seeds": {"config", "metrics", "report", "system"},
    "compare": {"loop", "report", "run", "system"},
    "explain": {"loop", "run", "system"},
    "job": {"*"},
    "train": {"config", "job", "system"},
    "__main__": {"config", "system"},
}
# What somebody reads who wants to own updates(), train() and prepare(), in this order.
CORE = [
    "loop.py",
    "loss.py",
    "run/micro_batches.py",
    "run/trainer_compat.py",
    "run/plan.py",
    "run/state.py",
    "run/run.py",
    "run/prepare.py",
    "batching/order.py",
    "evaluation.py",
]


@dataclass(frozen=True)
class Import:
    """One import of a file of ours by another; `lazy` within a function, `typing` for annotations alone."""

    file: str
    target: str
    lazy: bool
    typing: bool


def files() -> dict[str, Path]:
    """Every module of the package by its dotted name below `ftloop`; the package itself is ''."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> list[Import]:
    modules = files()
    return [each for name, path in modules.items() for each in _imports_of(name, path, modules)]


def _imports_of(name: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    def walk(nodes: list[ast.stmt], lazy: bool, typing: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ftloop":
                base = (node.module or "").removeprefix("ftloop").removeprefix(".")
                for alias in node.names:
                    full = f"{base}.{alias.name}".removeprefix(".")
                    yield Import(name, full if full in modules else base, lazy, typing)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "ftloop":
                        yield Import(name, alias.name.removeprefix("ftloop").removeprefix("."), lazy, typing)
            else:
                is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                is_lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                for field in ("body", "orelse", "handlers", "finalbody"):
                    yield from walk(getattr(node, field, []), lazy or is_lazy, typing or is_typing)

    return walk(ast.parse(path.read_text(encoding="utf-8")).body, False, False)


def wing(module: str) -> str:
    return module.split(".")[0]


def forbidden_imports() -> list[str]:
    """Imports that the table of wings does not allow, those for annotations left out."""
    wrong = []
    for each in imports():
        here, there = wing(each.file), wing(each.target)
        allowed = MAY_IMPORT.get(here)
        if each.typing or here in ("", there) or there in ("errors", "version"):
            continue
        if allowed is None or (there not in allowed and "*" not in allowed):
            wrong.append(f"{each.file} imports {each.target or 'the package itself'}")
    return wrong


def circles() -> list[str]:
    """Circles among the imports that run when a file is loaded."""
    graph: dict[str, list[str]] = {}
    for each in imports():
        if not each.lazy and not each.typing:
            graph.setdefault(each.file, []).append(each.target)
    found, done, path = [], set(), []

    def visit(module: str) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            path.append(module)
            for target in graph.get(module, []):
                visit(target)
            done.add(path.pop())

    for module in list(graph):
        visit(module)
    return found


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def loaded_by_the_loop() -> list[Path]:
    """The files of ours that `import ftloop.loop` loads."""
    code = (
        "import sys, ftloop.loop; print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'ftloop'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(Path(name) for name in done.stdout.split())


def main() -> int:
    every = {path: lines(path) for path in PACKAGE.rglob("*.py")}
    loaded = loaded_by_the_loop()
    largest = max(every, key=every.__getitem__)
    lazy = [each for each in imports() if each.lazy]
    print(f"ftloop          {len(every)} files, {sum(every.values())} lines")
    print(f"root            {len(list(PACKAGE.glob('*.py')))} files")
    print(f"largest file    {every[largest]} lines: {largest.relative_to(ROOT)}")
    print(f"import loop     {len(loaded)} files, {sum(map(lines, loaded))} lines")
    print(f"core to read    {len(CORE)} files, {sum(lines(PACKAGE / name) for name in CORE)} lines: {' '.join(CORE)}")
    print(f"imports         {len(imports())}, of them {len(lazy)} within functions")
    print(f"upward imports  {len(forbidden_imports())}")
    print(f"circles         {len(circles())}")
    for problem in [*forbidden_imports(), *circles()]:
        print(f"  {problem}")
    return int(bool(forbidden_imports() or circles()))


if __name__ == "__main__":
    sys.exit(main())
