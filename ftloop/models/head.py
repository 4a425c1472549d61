"""The classes of a head that has been trained before, and those of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ftloop.data.labels import Labels
from ftloop.models.load import load_config
from ftloop.system.text import join_some, short_repr

MAX_NAMED = 5


def saved_class_names(name_or_path: str) -> list[str]:
    """Return the names of a model's classes as they were saved; empty where it never had names of its own."""
    config = load_config(name_or_path)
    names = [str(config.id2label.get(id)) for id in range(config.num_labels)]
    return [] if names == [f"LABEL_{id}" for id in range(len(names))] else names


def keep_order_of_head(
    model: Any, head: Sequence[str], new_weights: Sequence[str], labels: Labels
) -> tuple[Labels, str]:
    """Give the labels the order that a trained head knows them in, where their names are the same but for case and
    spaces around; the model's config then names them in this order, as the data write them.

    With `trainer_compat` too: ids are a matter of the data, which whoever calls Trainer would choose to fit.
    Mirrors: run_glue's `label_to_id`.
    Returns: the labels, and what is to be said of them beside the head's, if anything.
    """
    is_new = any(".pooler." not in name for name in new_weights)
    if labels.regression or (is_new and len(head) in (0, labels.count)):
        return labels, ""
    if not head:
        known = labels.names == tuple(map(str, range(labels.count)))
        said = "the model's head has no names for its classes: each taken for the class of the same number, "
        return labels, "" if known else f"{said}{_listed(labels.names)}"
    ordered = _in_order_of(head, labels.names, str) or _in_order_of(head, labels.names, _folded)
    if ordered is None:
        what = "a new head for these" if is_new else "each taken for the class of the same number"
        return (
            labels,
            f"the model's head was trained on {_listed(head)}; the labels are {_listed(labels.names)}: {what}",
        )
    if ordered == labels.names:
        return labels, ""
    place = {name: id for id, name in enumerate(ordered)}
    model.config.id2label, model.config.label2id = dict(enumerate(ordered)), place
    ids = {raw: place[labels.names[id]] for raw, id in labels.ids.items()}
    labels = replace(labels, names=ordered, ids=ids)
    return labels, f"the classes keep the order of the model's head: {_listed(ordered)}{_whose_f1(labels)}"


def _whose_f1(labels: Labels) -> str:
    if not labels.is_binary:
        return ""
    return f"; F1 is that of {short_repr(labels.names[labels.positive])} (positive_label)"


def _in_order_of(head: Sequence[str], names: Sequence[str], spelled: Callable[[str], str]) -> tuple[str, ...] | None:
    """Return `names` in the order of the head's; None where these are not the same names."""
    ours = {spelled(name): name for name in names}
    ordered = tuple(ours[spelled(name)] for name in head if spelled(name) in ours)
    return ordered if len(ordered) == len(head) == len(ours) == len(names) == len(set(ordered)) else None


def _folded(name: str) -> str:
    return name.strip().casefold()


def _listed(names: Sequence[str]) -> str:
    return join_some([f"{id}={name}" for id, name in enumerate(names)], MAX_NAMED)
