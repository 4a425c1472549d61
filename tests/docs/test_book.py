"""The book: its sizes, its table of contents, what it makes out of the code, and the guide it follows."""

from __future__ import annotations

import re

import pytest
import yaml
from harness.command import CHECKOUT
from harness.pages import BOOK, README

import ftloop
from ftloop.config.recipe import SHIPPED, read_recipe
from ftloop.config.train_config import SETTINGS, TrainConfig

CONFIG = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")


def test_readme_and_chapters_are_each_of_one_sitting() -> None:
    assert len(README.encode()) <= 13_000
    chapters = {name: text for name, text in BOOK.items() if name.startswith("walkthrough/")}
    assert len(chapters) >= 10
    assert {name for name, text in chapters.items() if len(text.encode()) > 15_000} == set()
    at_scale = chapters.pop("walkthrough/at-scale.md")  # to look things up in, as its first lines say
    assert "for reference" in at_scale[:300]
    assert sum(len(text.split()) for text in chapters.values()) <= 12_000  # words, an hour's reading


def test_every_page_has_its_place_in_the_contents() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", CONFIG.split("\nnav:")[1]))
    made = {"reference/settings.md", "reference/api.md", "results/README.md"}
    assert listed == {*BOOK} | made


def test_the_site_lists_every_setting_and_every_public_name() -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    from docs import site_hooks

    page = site_hooks.settings()
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\| (.+) \|$", page, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(SETTINGS)
    assert ("learning_rate", "5e-05") in {(name, default) for name, default, _ in rows}
    names = set(re.findall(r"^::: [\w.]+\.(\w+)$", site_hooks.api(), re.MULTILINE))
    assert names == {*ftloop.__all__} - {"TrainConfig", "__version__"} | {"Recorder", "record", "replay"}


def test_links_to_the_checkout_lead_within_the_site_or_nowhere() -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    from types import SimpleNamespace

    from docs import site_hooks

    page = SimpleNamespace(file=SimpleNamespace(src_uri="guides/seeds.md"), meta={})
    results = "../../benchmarks/results"
    text = f"[a]({results}/README.md#b) ![c]({results}/d.png) [e](../../ftloop/loop.py) [f](tasks.md)"
    site = site_hooks.on_page_markdown(text, page)
    assert site == "[a](../results/README.md#b) ![c](../results/d.png) e [f](tasks.md)"


def test_the_recipe_guide_is_the_guides() -> None:
    """What the page says that the guide sets, the recipe sets; and each of its own settings is named there as that."""
    page = BOOK["guide.md"]
    table = page.split("## Its arguments")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| `(.+?)` \|$", table, re.MULTILINE)
    assert len(rows) == 8
    recipe = read_recipe(str(SHIPPED["guide"]))
    for name, guides, ours in rows:
        assert guides == ours == str(recipe[name]).lower(), name
    of_its_own = set(recipe) - {name for name, _, _ in rows} - {"model_name_or_path", "task_name", "sample_texts"}
    assert of_its_own == {"output_dir", "learning_rate", "seed", "save_total_limit", "logging_steps"}
    assert all(f"`{name}`" in table for name in of_its_own)
    default = TrainConfig()
    assert (default.learning_rate, default.seed) == (float(recipe["learning_rate"]), recipe["seed"])
    named = table.split("Of its tables")[1].split("TrainingArguments 5")[0]
    assert set(re.findall(r"`(\w+)`", named)) <= set(SETTINGS)


def test_the_workflow_and_the_contents_are_yaml() -> None:
    workflow = yaml.safe_load((CHECKOUT / ".github/workflows/docs.yml").read_text(encoding="utf-8"))
    assert [step.get("run") for step in workflow["jobs"]["publish"]["steps"]].count("make docs") == 1
