"""The pages that are read: README.md, the book in docs/, and the results of the benchmarks."""

from __future__ import annotations

import re

from harness.command import CHECKOUT

DOCS = CHECKOUT / "docs"
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BOOK = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
"""The book's pages by their names below docs/."""
WALKTHROUGH = "\n".join(
    text for name, text in BOOK.items() if name.startswith("walkthrough/") or name == "why-not-trainer.md"
)
PAGES = {"README.md": README} | {f"docs/{name}": text for name, text in BOOK.items()}


def blocks(text: str, language: str = "") -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
