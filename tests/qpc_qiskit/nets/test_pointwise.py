"""Baselines beside the quantum layer: what they compute, how many parameters they have."""

import itertools

import pytest
import torch
from qiskit.quantum_info import Statevector, partial_trace

from qpc_qiskit import QuantumPointwiseConv2d
from qpc_qiskit.nets import (
    BUILDERS,
    FrozenPointwiseConv2d,
    MatchedConv2d,
    NetConfig,
    NormalisedConv2d,
    QuadraticConv2d,
    UnentangledPointwiseConv2d,
    build_net,
    make_pointwise,
    matched_rank,
    parameter_table,
    quantum_layers,
    quantum_parameters,
)
from qpc_qiskit.nets.pointwise import KINDS, without_entanglers
from qpc_qiskit.options.records import ARCHITECTURES
from qpc_qiskit.training.checkpoint import load, make_record, save

MATCHED = ("conv", "conv-bn", "normalised", "quadratic")
EXCHANGED = [name for name, found in ARCHITECTURES.items() if "pointwise" not in found.idle]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def pixels(generator, channels=6):
    return torch.randn(3, channels, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias_channel", [False, True])
def test_shapes_and_gradients(kind, bias_channel, generator):
    layer = make_pointwise(kind, 6, 7, bias_channel=bias_channel, dtype=torch.float64)
    images = pixels(generator).requires_grad_()
    maps = layer(images)
    assert maps.shape == (3, 7, 4, 5)
    maps.square().sum().backward()
    assert float(images.grad.abs().max()) > 0
    for parameter in layer.parameters():
        expected = kind != "frozen"
        assert parameter.requires_grad == expected
        assert (parameter.grad is not None) == expected
        assert not expected or float(parameter.grad.abs().max()) > 0


def test_matched_convolution_is_a_linear_map(generator):
    layer = MatchedConv2d(6, 7, parameters=60, dtype=torch.float64)
    images = pixels(generator)
    matrix = layer.outer.weight[:, :, 0, 0] @ layer.inner.weight[:, :, 0, 0]
    expected = torch.einsum("oc,bchw->bohw", matrix, images)
    if layer.outer.bias is not None:
        expected = expected + layer.outer.bias[:, None, None]
    torch.testing.assert_close(layer(images), expected)


def test_normalised_convolution_sees_the_direction_and_its_sign(generator):
    layer = NormalisedConv2d(6, 7, parameters=60, dtype=torch.float64)
    images = pixels(generator)
    torch.testing.assert_close(layer(3.5 * images), layer(images))
    assert not torch.allclose(layer(-images), layer(images))
    plain = MatchedConv2d(6, 7, parameters=60, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(images), plain(images / images.norm(dim=1, keepdim=True)))
    assert torch.isfinite(layer(torch.zeros_like(images))).all()


def test_quadratic_convolution_is_a_quadratic_form(generator):
    layer = QuadraticConv2d(6, 7, parameters=60, dtype=torch.float64)
    images = pixels(generator)
    inner, outer = layer.inner.weight[:, :, 0, 0], layer.outer.weight[:, :, 0, 0]
    forms = torch.einsum("ri,or,rj->oij", inner, outer, inner)
    assert torch.equal(forms, forms.mT) or torch.allclose(forms, forms.mT)
    expected = torch.einsum("bihw,oij,bjhw->bohw", images, forms, images)
    if layer.outer.bias is not None:
        expected = expected + layer.outer.bias[:, None, None]
    torch.testing.assert_close(layer(images), expected)


def test_frozen_layer_is_the_quantum_layer_without_training(generator):
    frozen = FrozenPointwiseConv2d(6, 7, num_layers=2, dtype=torch.float64)
    layer = QuantumPointwiseConv2d(6, 7, num_layers=2, dtype=torch.float64)
    layer.load_state_dict(frozen.state_dict())
    images = pixels(generator)
    assert torch.equal(frozen(images), layer(images))
    optimizer = torch.optim.Adam(frozen.parameters(), 0.1, weight_decay=0.5)
    before = frozen.weight.clone()
    frozen(images.requires_grad_()).sum().backward()
    optimizer.step()
    assert torch.equal(frozen.weight, before)


@pytest.mark.parametrize("ansatz", ["strongly_entangling", "figure1", "circuit_centric"])
def test_circuit_without_entanglers_leaves_product_states_products(ansatz):
    circuit = without_entanglers(ansatz, 3, 2)
    assert all(len(instruction.qubits) == 1 for instruction in circuit.data)
    values = torch.linspace(0.3, 5.1, circuit.num_parameters).tolist()
    state = Statevector(circuit.assign_parameters(values))
    for qubit in range(3):
        others = [q for q in range(3) if q != qubit]
        assert partial_trace(state, others).purity().real == pytest.approx(1)


def test_unentangled_layer_has_the_rotations_of_the_quantum_layer(generator):
    """With one qubit there is nothing to leave out; with more, maps differ."""
    images = pixels(generator, 2)
    layer = QuantumPointwiseConv2d(2, 3, dtype=torch.float64)
    ours = UnentangledPointwiseConv2d(2, 3, dtype=torch.float64)
    ours.load_state_dict(layer.state_dict())
    torch.testing.assert_close(ours(images), layer(images))
    images = pixels(generator)
    layer = QuantumPointwiseConv2d(6, 7, dtype=torch.float64)
    ours = UnentangledPointwiseConv2d(6, 7, dtype=torch.float64)
    ours.load_state_dict(layer.state_dict())
    assert not torch.allclose(ours(images), layer(images), atol=0.01)
    assert count(ours) == count(layer) == 3 * 27
    for ansatz in ("figure1", "circuit_centric"):
        expected = quantum_parameters(6, 7, ansatz=ansatz)
        assert count(UnentangledPointwiseConv2d(6, 7, ansatz=ansatz)) == expected


def test_formula_of_the_quantum_count():
    """K*P with K = ceil(C_out/n), P = 3nL (2nL, 5nL): landscape A3 and A9."""
    assert quantum_parameters(64, 64) == 11 * 54
    assert quantum_parameters(64, 128) == 22 * 54
    assert quantum_parameters(64, 64, ansatz="figure1") == 11 * 36
    assert quantum_parameters(64, 64, ansatz="circuit_centric") == 11 * 90
    assert quantum_parameters(64, 64, bias_channel=True) == 10 * 63
    assert quantum_parameters(64, 64, num_qubits=8, num_layers=1) == 8 * 24


@pytest.mark.parametrize("kind", MATCHED)
@pytest.mark.parametrize("sizes", [(16, 32), (64, 64), (64, 128), (128, 64), (4, 4), (9, 16)])
def test_baselines_have_about_as_many_parameters(kind, sizes):
    layer = make_pointwise(kind, *sizes)
    wanted = quantum_parameters(*sizes)
    assert layer.wanted == wanted
    slack = sum(sizes) / 2
    assert abs(count(layer) - wanted) <= slack


@pytest.mark.parametrize("batch_norm", [False, True])
def test_rank_is_the_best_there_is(batch_norm):
    for inputs, outputs, wanted in itertools.product((3, 16, 64), (4, 50), (1, 77, 594)):
        rank, bias = matched_rank(inputs, outputs, wanted, batch_norm=batch_norm)
        assert not (bias and batch_norm)

        def miss(rank, bias, inputs=inputs, outputs=outputs, wanted=wanted):
            extra = 2 * outputs if batch_norm else outputs * bias
            return abs(rank * (inputs + outputs) + extra - wanted)

        options = itertools.product(range(1, 200), (False,) if batch_norm else (False, True))
        assert miss(rank, bias) == min(itertools.starmap(miss, options))


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("spline", {}, "Unknown pointwise layer 'spline'; expected one of quantum, frozen"),
        ("conv", {"init": "normal"}, "init would have no effect on 'conv'"),
        ("quadratic", {"num_qubits": 2}, "6 channels do not fit"),
    ],
)
def test_wrong_arguments(kind, options, match):
    with pytest.raises(ValueError, match=match):
        make_pointwise(kind, 6, 7, **options)


def config(name, **options):
    if "width" not in ARCHITECTURES[name].idle:
        options["width"] = 4
    if "quantum_channels" not in ARCHITECTURES[name].idle:
        options["quantum_channels"] = 6
    return NetConfig(name=name, **options)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("paper-fig3a", kind) for kind in [*KINDS, "classical"]),
        *((name, "quantum") for name in EXCHANGED if name != "paper-fig3a"),
        *((name, "quadratic") for name in EXCHANGED if name != "paper-fig3a"),
        ("resnet-bottleneck-tiny", "classical"),
        ("mobilenet-tiny", "no-entanglement"),
    ],
)
def test_every_kind_in_every_network(name, kind, tmp_path, generator):
    """Built, evaluated, differentiated, saved and loaded."""
    model = build_net(config(name, pointwise=kind))
    images = torch.rand(2, 1, 8, 8, generator=generator)
    model(images).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (not parameter.requires_grad), parameter_name
    save(tmp_path, model, make_record(model))
    loaded, record = load(tmp_path)
    assert record.net == model.config
    assert torch.equal(loaded(images), model.eval()(images))
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    is_circuit = kind in ("quantum", "frozen", "no-entanglement")
    assert bool(quantum_layers(loaded)) == is_circuit
    for number, layer in enumerate(quantum_layers(loaded).values()):
        path = tmp_path / f"{number}.qpy"
        layer.export("qpy", path)
        assert path.stat().st_size > 0


@pytest.mark.parametrize("name", ["paper-fig3a", "strong", "small"])
@pytest.mark.parametrize("kind", MATCHED)
def test_networks_with_baselines_have_about_as_many_parameters(name, kind):
    quantum, baseline = (
        parameter_table(build_net(NetConfig(name=name, pointwise=each)))
        for each in ("quantum", kind)
    )
    assert abs(baseline.total - quantum.total) <= 0.1 * quantum.pointwise
    assert baseline.total - baseline.pointwise == quantum.total - quantum.pointwise


def test_norm_after_each_layer():
    model = build_net(
        NetConfig(name="paper-fig3a", width=4, quantum_channels=6, norm_after="batch")
    )
    assert isinstance(model.layers.block.pointwise1.norm, torch.nn.BatchNorm2d)
    assert list(quantum_layers(model)) == [
        "layers.block.pointwise1.layer", "layers.block.pointwise2.layer",
    ]  # fmt: skip


def test_classical_in_the_small_network_is_its_twin():
    ours, theirs = (
        build_net(NetConfig(pointwise="classical")),
        build_net(NetConfig(name="small-classical")),
    )
    for (name, mine), (other, their) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(mine, their)


def test_twins_have_the_stem_of_their_network():
    for quantum, twin in (("paper-fig3a", "paper-fig3b"), ("strong", "strong-classical")):
        stems = [
            build_net(NetConfig(name=name)).layers.stem.state_dict() for name in (quantum, twin)
        ]
        assert stems[0].keys() == stems[1].keys()
        assert all(torch.equal(stems[0][name], stems[1][name]) for name in stems[0])
        assert not quantum_layers(build_net(NetConfig(name=twin)))
    assert set(BUILDERS) >= {"paper-fig3a", "strong"}


def test_counts_of_the_papers_networks():
    """By hand, CIFAR-10: quantum 54 weights a circuit, classical C_in*C_out + C_out and 2*C_out."""
    head = 128 * 64 * 256 + 256 + 2 * 256 + 256 * 10 + 10
    stem = 3 * 9 * 64 + 64 + 128
    conv = 64 * 9 * 64 + 64
    for name, expected, pointwise in (
        ("paper-fig3a", stem + conv + head + 33 * 54, 33 * 54),
        (
            "paper-fig3b",
            stem + conv + 128 + head + (64 * 64 + 64 + 128) + (64 * 128 + 128 + 256),
            64 * 64 + 64 + 64 * 128 + 128,
        ),
    ):
        table = parameter_table(build_net(NetConfig(name=name, in_channels=3, image_size=32)))
        assert table.total == table.trainable == expected
        assert table.pointwise == pointwise
        assert f"pointwise layers{' ' * 10}" in str(table)


def test_positions_that_the_circuits_see():
    """As nets/architectures.py says for 32x32 images."""
    for name, expected in (("paper-fig3a", [(16, 16), (8, 8)]), ("strong", [(8, 8), (8, 8)])):
        model, seen = build_net(NetConfig(name=name, in_channels=3, image_size=32)), []
        for layer in quantum_layers(model).values():
            layer.register_forward_hook(lambda _, ins, __, seen=seen: seen.append(ins[0].shape[2:]))
        with torch.no_grad():
            model(torch.rand(1, 3, 32, 32))
        assert seen == expected


def test_frozen_weights_are_counted_apart():
    table = parameter_table(build_net(NetConfig(pointwise="frozen")))
    assert table.total - table.trainable == table.pointwise == 288
    assert "288 (frozen)" in str(table)


def test_a_shared_parameter_is_counted_once():
    layer = torch.nn.Linear(3, 3)
    assert parameter_table(torch.nn.Sequential(layer, torch.nn.ReLU(), layer)).total == 12
    tied = torch.nn.Linear(3, 3)
    tied.weight = layer.weight
    assert parameter_table(torch.nn.Sequential(layer, tied)).total == 15
