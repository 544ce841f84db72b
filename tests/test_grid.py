"""The factor grid against itertools, and its samples against their own frequencies."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.datasets.grid import FactorGrid
from tests.helpers import generator

GRID = FactorGrid(("a", "b", "c"), (2, 3, 4))
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


def named(sizes: tuple[int, ...]) -> FactorGrid:
    return FactorGrid(tuple("abcde"[: len(sizes)]), sizes)


@given(SIZES)
def test_rows_are_the_cartesian_product_in_order(sizes):
    grid = named(sizes)
    factors = grid.factors(torch.arange(len(grid)))
    assert [tuple(row) for row in factors.tolist()] == list(itertools.product(*map(range, sizes)))
    assert grid.index(factors).tolist() == list(range(len(grid)))


def test_one_row_worked_by_hand():
    assert GRID.strides == (12, 4, 1) and len(GRID) == 24
    assert GRID.index(torch.tensor([[1, 2, 3], [0, 1, 0]])).tolist() == [23, 4]


def test_empty_batches_pass():
    assert GRID.factors(torch.empty(0, dtype=torch.int64)).shape == (0, 3)
    assert GRID.index(torch.empty(0, 3, dtype=torch.int64)).shape == (0,)
    assert GRID.sample(0, torch.Generator()).shape == (0, 3)


def test_samples_are_uniform_and_reproducible():
    n = 24_000
    factors = GRID.sample(n, generator(3))
    assert factors.dtype == torch.int64 and factors.shape == (n, 3)
    counts = GRID.index(factors).bincount(minlength=24)
    # Pearson's χ² with 23 degrees of freedom exceeds 49.7 once in a thousand; one factor tied to another: > 1000
    assert ((counts - n / 24) ** 2 / (n / 24)).sum() < 49.7
    assert torch.equal(factors, GRID.sample(n, generator(3)))
    assert not torch.equal(factors, GRID.sample(n, generator(4)))


def test_restriction_lists_the_kept_rows():
    grid, kept = GRID.restrict({"a": 1, "c": range(3, 0, -2)})
    assert (grid.names, grid.sizes) == (("b", "c"), (3, 2))
    assert kept == [[1], [0, 1, 2], [3, 1]]
    assert GRID.restrict({}) == (GRID, [[0, 1], [0, 1, 2], [0, 1, 2, 3]])


def test_a_list_of_one_value_stays_in_the_grid():
    assert GRID.restrict({"a": [1]})[0].sizes == (1, 3, 4)


def test_on_another_device_values_are_not_read():
    factors = GRID.factors(torch.arange(24, device="meta"))  # reading a value of a meta tensor raises
    assert factors.is_meta and GRID.index(factors).is_meta


def long(*rows):
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: FactorGrid((), ()), ValueError, "one distinct name per size"),
        (lambda: FactorGrid(("a", "a"), (2, 2)), ValueError, "one distinct name per size"),
        (lambda: FactorGrid(("a",), (2, 2)), ValueError, "one distinct name per size"),
        (lambda: FactorGrid(("a",), (0,)), ValueError, "positive integer sizes"),
        (lambda: FactorGrid(("a",), (2.0,)), ValueError, "positive integer sizes"),
        (lambda: GRID.factors([1]), TypeError, "index: expected a torch.Tensor, got list"),
        (
            lambda: GRID.factors(torch.tensor([1.0])),
            TypeError,
            r"int64, got torch.float32; convert with .long",
        ),
        (lambda: GRID.factors(torch.tensor(1)), ValueError, r"1 dimension.*got shape \(\)"),
        (
            lambda: GRID.factors(long(24)),
            ValueError,
            "index: expected values from 0 to 23, got values from 24",
        ),
        (lambda: GRID.factors(long(-1)), ValueError, "index: expected values from 0 to 23"),
        (lambda: GRID.index(long(0, 1)), ValueError, "2 dimension"),
        (lambda: GRID.index(long([0, 1])), ValueError, r"\(N, 3\), one column for each of \('a', 'b', 'c'\)"),
        (lambda: GRID.index(long([0, 3, 0])), ValueError, "factor 'b': expected values from 0 to 2"),
        (lambda: GRID.sample(1, 0), TypeError, "torch.Generator, got int"),
        (lambda: GRID.sample(-1, torch.Generator()), ValueError, "number of points.*got -1"),
        (lambda: GRID.sample(2.0, torch.Generator()), ValueError, "number of points.*got 2.0"),
        (lambda: GRID.restrict({"z": 0}), ValueError, "only: no factor is called 'z'; choose from"),
        (lambda: GRID.restrict({"b": 3}), ValueError, "only: 'b' takes the integers 0 to 2, got 3"),
        (lambda: GRID.restrict({"b": [0, -1]}), ValueError, "only: 'b' takes the integers 0 to 2, got -1"),
        (lambda: GRID.restrict({"b": True}), ValueError, "only: 'b' takes the integers 0 to 2, got True"),
        (lambda: GRID.restrict({"b": "1"}), ValueError, "only: 'b' takes the integers 0 to 2, got '1'"),
        (lambda: GRID.restrict({"b": []}), ValueError, "at least one value of 'b'"),
        (lambda: GRID.restrict({"b": [1, 1]}), ValueError, r"none twice, got \[1, 1\]"),
        (
            lambda: GRID.restrict({"a": 0, "b": 0, "c": 0}),
            ValueError,
            "at least one factor that is left to vary",
        ),
    ],
)
def test_errors_say_what_was_expected(act, error, words):
    with pytest.raises(error, match=words):
        act()
