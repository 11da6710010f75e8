import torch

from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import multiplexor_angles
from qpc_qiskit.pauli.angle_tree import by_directions, by_pixels


def test_equals_autograd_where_that_is_defined(generator):
    for n, channels in ((1, 2), (2, 3), (3, 8), (4, 11)):
        pixels = torch.randn(5, channels, generator=generator, dtype=torch.float64)
        pixels[1, 0] = 0
        outer = torch.randn(5, 2**n - 1, generator=generator, dtype=torch.float64)
        directions = canonical_directions(pixels)
        leaf = pixels.clone().requires_grad_()
        signs = torch.where((pixels * directions).sum(1, keepdim=True) < 0, -1.0, 1.0)
        units = signs * leaf / leaf.norm(dim=1, keepdim=True)
        # Pairs of missing channels would be NaN in autograd; a tiny constant stands for them.
        padded = torch.cat([units, units.new_full((5, 2**n - channels), 1e-200)], 1)
        (multiplexor_angles(padded, n) * outer).sum().backward()
        slopes = by_directions(directions, n, outer)
        torch.testing.assert_close(
            by_pixels(pixels, directions, slopes), leaf.grad, rtol=1e-9, atol=1e-9
        )


def test_a_subtree_of_zeros_has_no_derivative(generator):
    directions = torch.tensor([[0.6, 0.8, 0, 0], [1.0, 0, 0, 0]], dtype=torch.float64)
    outer = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    slopes = by_directions(directions, 2, outer)
    assert torch.equal(slopes[:, 2:], torch.zeros(2, 2, dtype=torch.float64))
    assert bool((slopes[:, 1] != 0).all())


def test_zero_pixels_have_none(generator):
    pixels = torch.tensor([[0.0, 0.0], [3.0, -4.0]])
    directions = canonical_directions(pixels)
    found = by_pixels(pixels, directions, torch.ones(2, 2, dtype=torch.float64))
    assert found.dtype == torch.float32
    assert torch.equal(found[0], torch.zeros(2))
    assert abs(float((found[1] * pixels[1]).sum())) < 1e-6
    assert float(found[1].norm()) > 0.01
