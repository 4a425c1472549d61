"""Groups of rows of similar lengths: every token has a cell, and gets its gradient back."""

from __future__ import annotations

import random

import pytest
import torch

from ftloop.models.row_groups import LONGER, MOST_WEIGHTS, MULTIPLE, RowGroups


def some_lengths(seed: int) -> tuple[int, ...]:
    draw = random.Random(seed)
    return tuple(min(600, int(draw.lognormvariate(3.5, 1)) + 1) for _ in range(draw.randint(1, 32)))


@pytest.mark.parametrize("seed", range(10))
def test_each_token_is_in_a_cell_of_its_row_and_each_other_cell_is_masked(seed: int) -> None:
    lengths = some_lengths(seed)
    groups = RowGroups.of(lengths)
    row_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    rows = groups.first_tokens.source
    assert rows.sort().values.tolist() == list(range(len(lengths)))
    spread = groups.tokens.spread(torch.arange(sum(lengths)))
    for count, mask, cells, ids in zip(
        groups.rows, groups.masks, spread, groups.first_tokens.spread(torch.arange(len(lengths))), strict=True
    ):
        cells = cells.view(count, -1)
        assert (row_of[cells] == ids[:, None]).all(), "a row's cells are of its tokens alone"
        own = [lengths[row] for row in ids]
        is_token = torch.ones_like(cells, dtype=torch.bool) if mask is None else mask[:, 0, 0]
        assert is_token.sum(dim=1).tolist() == own
        for row, (all_cells, used) in zip(ids, zip(cells, is_token, strict=True), strict=True):
            first = sum(lengths[:row])
            assert all_cells[used].tolist() == list(range(first, first + lengths[row]))
        assert max(own) <= LONGER * min(own)
        assert count == 1 or count * cells.shape[1] ** 2 <= MOST_WEIGHTS
        assert cells.shape[1] % MULTIPLE == 0
        assert 0 <= cells.shape[1] - max(own) < MULTIPLE


@pytest.mark.parametrize("seed", range(5))
def test_numbers_and_gradients_come_back_where_they_were(seed: int) -> None:
    lengths = some_lengths(seed)
    groups = RowGroups.of(lengths)
    for places, count in ((groups.tokens, sum(lengths)), (groups.first_tokens, len(lengths))):
        x = torch.randn(count, 2, 3, requires_grad=True)
        back = places.gather([2 * part for part in places.spread(x)])
        assert torch.equal(back, 2 * x)
        weight = torch.randn_like(x)
        (gradient,) = torch.autograd.grad((back * weight).sum(), x)
        assert torch.equal(gradient, 2 * weight)


def test_rows_of_one_length_have_no_mask_where_none_is_padded() -> None:
    assert RowGroups.of((MULTIPLE,) * 6).masks == [None]
    (mask,) = RowGroups.of((7,) * 6).masks
    assert mask is not None


def test_a_training_may_use_what_a_prediction_has_made() -> None:
    lengths = (5, 7, 9)
    RowGroups.of.cache_clear()
    with torch.inference_mode():
        RowGroups.of(lengths)
    places = RowGroups.of(lengths).tokens
    x = torch.randn(21, 2, requires_grad=True)
    places.gather(list(places.spread(x))).sum().backward()
    assert x.grad is not None
