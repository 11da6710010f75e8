import pytest
import torch

from qpc_qiskit.data.images import ImageData, load
from qpc_qiskit.errors import DataError
from qpc_qiskit.nets import BUILDERS, NetConfig, build_net, config_for, quantum_layers
from qpc_qiskit.options.records import ARCHITECTURES


def images_for(config, count=2):
    generator = torch.Generator().manual_seed(0)
    size = config.image_size
    return torch.rand(count, config.in_channels, size, size, generator=generator)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (2, 5)])
def test_logits_for_every_shape_of_data(name, channels, size):
    widths = {} if "width" in ARCHITECTURES[name].idle else {"width": 4}
    config = NetConfig(name=name, in_channels=channels, image_size=size, num_classes=7, **widths)
    logits = build_net(config)(images_for(config))
    assert logits.shape == (2, 7)
    logits.sum().backward()


def test_pixels_that_the_quantum_layer_sees():
    """One pooling for digits, two for larger images: 4x4, 7x7 and 8x8 pixels."""
    for size, expected in ((8, 4), (28, 7), (32, 8)):
        model = build_net(NetConfig(image_size=size, width=4))
        maps = model.layers.stem(images_for(model.config))
        assert maps.shape[2:] == (expected, expected)


def test_quantum_layer_has_the_options_of_the_configuration():
    config = NetConfig(width=8, quantum_channels=10, num_layers=2, ansatz="figure1", num_qubits=5)
    layers = quantum_layers(build_net(config))
    assert list(layers) == ["layers.pointwise"]
    layer = layers["layers.pointwise"]
    assert (layer.spec.num_qubits, layer.spec.num_kernels) == (5, 2)
    assert layer.weight.shape == (2, 2 * 5 * 2)
    assert layer.spec.ansatz.name == "figure1"
    biased = quantum_layers(build_net(NetConfig(width=8, bias_channel=True, init="normal")))
    assert biased["layers.pointwise"].spec.in_channels == 9
    assert float(biased["layers.pointwise"].weight.detach().abs().max()) < 1


def test_twin_has_no_quantum_layer_and_the_same_stem():
    quantum, twin = (build_net(NetConfig(name=name)) for name in ("small", "small-classical"))
    assert not quantum_layers(twin)
    for ours, theirs in zip(
        quantum.layers.stem.parameters(), twin.layers.stem.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def units_at_zero(norm):
    """Share of the hidden units that are zero for every image after ten steps at the paper's lr."""
    net = {"name": "paper-cnn", "in_channels": 3, "image_size": 32, "width": 8, "hidden": 64}
    model = build_net(NetConfig(**net, head_norm=norm, dropout=0))
    images, labels = images_for(model.config, 16), torch.arange(16) % 10
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    head = model.layers.head
    relu = next(at for at, layer in enumerate(head) if isinstance(layer, torch.nn.ReLU))
    hidden = head[: relu + 1](model.layers.stem(model.normalise(images)))
    return float((hidden == 0).all(0).float().mean())


def test_head_norm_keeps_hidden_units_alive_at_the_papers_learning_rate():
    assert units_at_zero("none") > 0.2
    assert units_at_zero("batch") == 0


@pytest.mark.parametrize("name", BUILDERS)
def test_a_batch_of_one_image_can_be_trained_on(name):
    widths = {} if "width" in ARCHITECTURES[name].idle else {"width": 4}
    model = build_net(NetConfig(name=name, hidden=6, **widths)).train()
    norm = model.layers.head[2]
    model(images_for(model.config, 5))
    model.layers.head[3:].eval()  # dropout
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    seen = []
    norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    model(images_for(model.config, 1)).sum().backward()
    assert all(torch.equal(norm.state_dict()[key], before[key]) for key in before)
    ((given, found),) = seen
    expected = (given - before["running_mean"]) / torch.sqrt(before["running_var"] + norm.eps)
    torch.testing.assert_close(found, expected)
    assert model.layers.head[1].weight.grad.abs().max() > 0


def test_head_norm_of_several_images_is_batch_norm():
    model = build_net(NetConfig(hidden=6)).train()
    features = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    expected = (features - features.mean(0)) / torch.sqrt(features.var(0, correction=0) + 1e-5)
    torch.testing.assert_close(model.layers.head[2](features), expected)


def test_seed_decides_the_weights_and_nothing_else_changes():
    state = torch.random.get_rng_state()
    first, same, other = (build_net(NetConfig(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert {"layers.stem.0.weight", "layers.pointwise.weight", "layers.head.2.weight"} <= changed


def test_normalisation_is_a_part_of_the_network():
    model = build_net(NetConfig(in_channels=2))
    model.normalise.set(torch.tensor([0.5, 0.25]), torch.tensor([2.0, 0.0]))
    images = images_for(model.config)
    expected = torch.stack([(images[:, 0] - 0.5) / 2, images[:, 1] - 0.25], 1)
    torch.testing.assert_close(model.normalise(images), expected)
    assert {"normalise.mean", "normalise.std"} <= model.state_dict().keys()


@pytest.mark.parametrize("shape", [(2, 1, 9, 9), (2, 3, 8, 8), (1, 8, 8)])
def test_images_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"Expected images of shape \(B, 1, 8, 8\), found"):
        build_net(NetConfig())(torch.zeros(shape))


def test_config_for_data():
    config = config_for(load("digits"), width=4)
    assert (config.in_channels, config.image_size, config.num_classes) == (1, 8, 10)
    assert config.width == 4
    labels = torch.tensor([0, 1])
    oblong = ImageData(
        "oblong", torch.zeros(2, 1, 4, 6), labels, torch.zeros(2, 1, 4, 6), labels, ("a", "b"), ""
    )
    with pytest.raises(DataError, match="oblong: expected square images, found 4x6"):
        config_for(oblong)
