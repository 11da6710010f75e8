"""Canonical directions and what counts as a zero pixel."""

import math

import pytest
import torch
from cases import pixels_of
from hypothesis import given
from hypothesis import strategies as st

from qpc_qiskit.circuits.directions import canonical_directions, check_finite, largest_magnitudes
from qpc_qiskit.errors import EncodingError


@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=6).filter(any),
    st.floats(1e-290, 1e290),
    st.booleans(),
)
def test_invariant_under_scale_and_sign(numbers, factor, negative):
    pixel = torch.tensor([numbers], dtype=torch.float64)
    other = pixel * (-factor if negative else factor)
    torch.testing.assert_close(
        canonical_directions(other), canonical_directions(pixel), rtol=0, atol=5e-15
    )


@given(st.integers(0, 2**31), st.integers(-100, 100), st.booleans())
def test_powers_of_two_change_not_a_bit(seed, exponent, negative):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    factor = (-1 if negative else 1) * 2.0**exponent
    assert torch.equal(canonical_directions(factor * pixels), canonical_directions(pixels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_vectors_along_the_pixel(dtype, generator):
    pixels = pixels_of(5, generator, dtype)
    before = pixels.clone()
    directions = canonical_directions(pixels)
    assert torch.equal(pixels, before)
    assert directions.dtype == torch.float64
    torch.testing.assert_close(
        directions.norm(dim=1), torch.ones(len(pixels), dtype=torch.float64), rtol=0, atol=5e-15
    )
    _, is_zero = largest_magnitudes(pixels)
    scaled = pixels.double() / pixels.double().abs().amax(1, keepdim=True)
    along = (scaled * directions).sum(1).abs() / scaled.norm(dim=1)
    torch.testing.assert_close(along[~is_zero], torch.ones_like(along[~is_zero]))
    assert torch.equal(
        directions[is_zero], torch.eye(1, 5, dtype=torch.float64).expand(int(is_zero.sum()), 5)
    )


@pytest.mark.parametrize(
    ("pixel", "lead"),
    [
        ([1.0, -3.0, 2.0], 1),
        ([-3.0, 3.0, 0.0], 0),
        ([3.0, -3.0, 0.0], 0),
        ([-1.0, 1.0 + 2**-30, 0.0], 0),  # within the tolerance: the first counts
        ([-1.0, 1.0 + 2**-10, 0.0], 1),
        ([0.0, 0.0, -1e-300], 2),
    ],
)
def test_sign(pixel, lead):
    for sign in (1, -1):
        direction = canonical_directions(sign * torch.tensor([pixel], dtype=torch.float64))[0]
        assert direction[lead] > 0
    assert torch.equal(
        canonical_directions(torch.tensor([pixel], dtype=torch.float64)),
        canonical_directions(-torch.tensor([pixel], dtype=torch.float64)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_counts_as_zero(dtype):
    tiny = torch.finfo(dtype).tiny
    pixels = torch.tensor(
        [[0, 0], [-0.0, 0], [tiny / 2, -tiny / 4], [tiny, 0], [0, -2 * tiny], [tiny / 2, 1]],
        dtype=torch.float64,
    ).to(dtype)
    scale, is_zero = largest_magnitudes(pixels)
    assert is_zero.tolist() == [True, True, True, False, False, False]
    assert scale.tolist() == [1, 1, 1, tiny, 2 * tiny, 1]


def test_no_pixels():
    assert canonical_directions(torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value):
    pixels = torch.zeros(4, 3)
    pixels[2, 1] = pixels[3, 0] = value
    with pytest.raises(
        EncodingError, match=rf"Pixel 2 of 4 is not finite \(channel 1 is {value}\)"
    ) as caught:
        check_finite(pixels)
    assert caught.value.pixel == 2


def test_infinities_of_both_signs_are_found():
    with pytest.raises(EncodingError, match="Pixel 0 of 1"):
        check_finite(torch.tensor([[math.inf, -math.inf]]))


def test_finite_pixels_whose_sum_overflows_are_fine():
    check_finite(torch.full((3, 4), torch.finfo(torch.float32).max))
    check_finite(torch.empty(0, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_negative_zeros(dtype):
    """An encoder's angles would differ in sign, and noise tells them apart."""
    pixels = torch.tensor(
        [[-1, 0, 0.5], [-0.0, 3, 0], [0, -0.0, -2], [-0.0, -0.0, -0.0], [1, -0.0, 0]], dtype=dtype
    )
    for directions in (canonical_directions(pixels), canonical_directions(-pixels)):
        zeros = directions == 0
        assert int(zeros.sum()) == 9
        assert not bool(torch.signbit(directions[zeros]).any())
    assert torch.equal(canonical_directions(pixels), canonical_directions(-pixels))
