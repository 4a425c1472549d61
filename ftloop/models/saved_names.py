"""Weights that transformers has saved under names other than the model's own: those that the hub has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils import logging


def with_own_names(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights as `from_pretrained` gives them to a model of this class and configuration.

    Some were saved under old names, such as the `LayerNorm.gamma` of bert-base-uncased. Others were split or joined:
    the experts of a mixture, and the queries, keys and values of Nomic's BERT, are one tensor here and several there.
    Names that nothing is known of stay as they are.
    """
    own, mapping = model.state_dict().keys(), get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    if len(renamings) == len(mapping):
        return {name if name in own else rename_source_key(name, renamings, [])[0]: w for name, w in weights.items()}
    with torch.random.fork_rng(devices=[]), _quiet():  # what the file lacks is drawn, and left out below
        fresh, report = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=weights,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    drawn = {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}
    kept = {name: weight for name, weight in weights.items() if name in own or name in report["unexpected_keys"]}
    return kept | {name: weight for name, weight in fresh.state_dict().items() if name in own and name not in drawn}


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what transformers says of weights that are not there: whoever loads them judges that."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
