"""Features as columns: standardised, one-hot, and the same columns for other prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.dynamics.features import design_matrix

NAN, INF = float("nan"), float("inf")
TABLE: dict[str, Any] = {
    "length": [1.0, 2.0, NAN, 6.0],
    "subject": ["geometry", "algebra", "algebra", ""],
    "level": [3, 3, 3, 3],
}


def test_numbers_are_standardised_and_strings_one_hot() -> None:
    design = design_matrix(TABLE)
    assert design.names == ("length", "subject=", "subject=algebra", "subject=geometry", "level")
    known = np.array([1.0, 2.0, 6.0])
    scaled = (known - known.mean()) / known.std()
    expected = [
        [scaled[0], -0.25, -0.5, 0.75, 0],
        [scaled[1], -0.25, 0.5, -0.25, 0],
        [0.0, -0.25, 0.5, -0.25, 0],  # a missing length is taken to be the mean
        [scaled[2], 0.75, -0.5, -0.25, 0],
    ]
    np.testing.assert_allclose(design.matrix.numpy(), expected, atol=1e-12)
    assert design.matrix.dtype == torch.float64
    assert design.strings == {"length": None, "subject": ("", "algebra", "geometry"), "level": None}


@pytest.mark.parametrize("same", [[0.1] * 3, [NAN] * 3, [5.0, NAN, 5.0], ["one"] * 3, [1e300] * 3], ids=str)
def test_a_column_that_is_the_same_for_all_prompts_is_all_zeros(same: list[Any]) -> None:
    design = design_matrix({"same": same, "length": [1.0, 2.0, 3.0]})
    assert design.matrix.shape == (3, 2)
    assert design.matrix[:, 0].tolist() == [0, 0, 0]
    assert design.factor[0] == 0
    # Nothing was learned of it, and that another prompt is different does not change that.
    other: Any = "other" if isinstance(same[0], str) else 7.0
    assert design.apply({"same": [other], "length": [2.0]}).matrix.tolist() == [[0, 0]]


numbers = st.one_of(st.floats(-1e6, 1e6), st.just(NAN))
rows = st.tuples(numbers, st.sampled_from(["a", "b", "c"]), numbers)


@given(st.lists(rows, min_size=1, max_size=8), st.lists(rows, min_size=1, max_size=8))
def test_other_prompts_are_read_by_the_same_columns(mine: list[Any], others: list[Any]) -> None:
    def table(of: list[Any]) -> dict[str, Any]:
        return dict(zip(("x", "label", "y"), map(list, zip(*of, strict=True)), strict=True))

    design = design_matrix(table(mine))
    assert bool(design.matrix.isfinite().all())
    torch.testing.assert_close(design.apply(table(mine)).matrix, design.matrix, rtol=0, atol=0)
    both = design.apply(table(mine + others))
    assert (both.names, len(both.matrix)) == (design.names, len(mine + others))
    torch.testing.assert_close(both.matrix[: len(mine)], design.matrix, rtol=0, atol=0)
    again = both.apply(table(others)).matrix  # a design made by another's columns has the same columns
    torch.testing.assert_close(both.matrix[len(mine) :], again, rtol=0, atol=0)


def test_a_new_string_has_no_column_and_other_features_are_left_aside() -> None:
    design = design_matrix({"subject": ["algebra", "geometry"]})
    other = design.apply({"subject": ["geometry", "topology"], "colour": ["red", "blue"]})
    assert other.matrix.tolist() == [[-0.5, 0.5], [0, 0]]  # an unknown subject is taken to be average


def test_an_embedding_is_standardised_column_by_column() -> None:
    embedding = torch.tensor([[1.0, 10.0, 4.0], [3.0, 10.0, NAN], [5.0, 10.0, 8.0]])
    design = design_matrix(embedding)
    assert design.names == ("0", "1", "2")
    spread = 2 * (2 / 3) ** 0.5
    expected = torch.tensor([[-2 / spread, 0, -1], [0, 0, 0], [2 / spread, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(design.matrix, expected)
    torch.testing.assert_close(design.apply(embedding[1:]).matrix, expected[1:])
    # The same numbers as named columns
    table = {str(column): embedding[:, column].tolist() for column in range(3)}
    torch.testing.assert_close(design_matrix(table).matrix, expected)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "at least one, got none"),
        ({"x": []}, r"one value a prompt, got \[\]"),
        ({"x": 3.0}, "one value a prompt, got 3.0"),
        ({"x": [1.0, 2.0], "y": [1.0]}, "2 values of 'y'"),
        ({"x": [1.0, "two"]}, "'x' to be all numbers or all strings"),
        ({"x": [1.0, INF]}, "finite numbers"),
        ({"x": [str(k) for k in range(1001)]}, "at most 1,000 different strings of 'x', got 1,001"),
        (torch.ones(3), r"an embedding \[prompts, length\], got shape \(3,\)"),
        (torch.ones(3, 0), r"got shape \(3, 0\)"),
        (torch.tensor([[-INF]]), "finite numbers"),
    ],
)
def test_features_that_are_no_columns_are_refused(features: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"features: expected .*{message}"):
        design_matrix(features)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"subject": ["algebra"]}, "expected subject, length, got subject without length"),
        ({"subject": ["algebra"], "length": ["long"]}, "numbers of 'length', as before"),
        ({"subject": [1.0], "length": [1.0]}, "strings of 'subject', as before"),
        (torch.ones(2, 2), "names and columns, as before, got Tensor"),
    ],
    ids=str,
)
def test_columns_unlike_those_before_are_refused(features: Any, message: str) -> None:
    design = design_matrix({"subject": ["algebra", "geometry"], "length": [1.0, 2.0]})
    with pytest.raises(ValueError, match=f"features: .*{message}"):
        design.apply(features)


def test_an_embedding_of_another_length_is_refused() -> None:
    design = design_matrix(torch.randn(4, 3))
    with pytest.raises(ValueError, match="an embedding of length 3, got 2"):
        design.apply(torch.randn(4, 2))
    with pytest.raises(ValueError, match="an embedding, as before, got dict"):
        design.apply({"x": [1.0]})
