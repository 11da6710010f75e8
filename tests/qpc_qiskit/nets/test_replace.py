"""Quantum layers into networks that know nothing of them."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune

from qpc_qiskit import QuantumPointwiseConv1d, QuantumPointwiseConv2d, QuantumPointwiseConv3d
from qpc_qiskit.data.images import load, unit_images
from qpc_qiskit.nets import (
    Bottleneck,
    MatchedConv2d,
    Subsample,
    mobilenet_tiny,
    quantum_layers,
    replace_pointwise,
    resnet_bottleneck_tiny,
)

BOTTLENECKS = [
    "block1.reduce", "block1.expand", "block1.shortcut.0",
    "block2.reduce", "block2.expand", "block2.shortcut.0",
]  # fmt: skip


def net(*layers):
    return nn.Sequential(*layers)


def test_only_the_1x1_convolutions_change():
    before = resnet_bottleneck_tiny()
    after, changes = replace_pointwise(before)
    assert [change.name for change in changes] == BOTTLENECKS
    ours, theirs = dict(before.named_modules()), dict(after.named_modules())
    added = {name: f"{name}.pointwise" for name in BOTTLENECKS}
    strided = "block2.shortcut.0"
    assert theirs.keys() - ours.keys() == {f"{strided}.pointwise", f"{strided}.subsample"}
    assert not ours.keys() - theirs.keys()
    for name, module in ours.items():
        if name in added:
            place = theirs[added[name]] if name == strided else theirs[name]
            assert type(place) is QuantumPointwiseConv2d
            assert (place.in_channels, place.out_channels) == (
                module.in_channels, module.out_channels,
            )  # fmt: skip
        else:
            assert type(theirs[name]) is type(module)
    for name, tensor in after.state_dict().items():
        if not any(name.startswith(changed) for changed in BOTTLENECKS):
            assert torch.equal(tensor, before.state_dict()[name])


@pytest.mark.parametrize("build", [mobilenet_tiny, resnet_bottleneck_tiny])
@pytest.mark.parametrize("size", [8, 28])
def test_shapes_of_every_module_are_kept(build, size):
    before = build(image_size=size)
    after, _ = replace_pointwise(before, num_layers=1)
    shapes = [{}, {}]
    for model, found in zip((before, after), shapes, strict=True):
        for name, module in model.named_modules():
            module.register_forward_hook(
                lambda _, __, maps, name=name, found=found: found.__setitem__(name, maps.shape)
            )
        model(torch.rand(2, 1, size, size))
    assert shapes[0].items() <= shapes[1].items()


def test_records_say_what_was_done():
    _, changes = replace_pointwise(resnet_bottleneck_tiny())
    last = changes[-1]
    assert (last.in_channels, last.out_channels, last.stride) == (32, 32, (2, 2))
    assert (last.num_qubits, last.num_kernels) == (5, 7)
    assert (last.parameters_before, last.parameters_after) == (1024, 7 * 45)
    text = str(changes)
    assert text.splitlines()[0].split("  ")[0] == "layer"
    assert "block2.shortcut.0  32 -> 32  5 x 7" in text
    assert "2x2" in text
    assert text.splitlines()[-1].split() == ["total", "2112", "->", "1377"]


def test_stride_is_taken_before_the_layer():
    """The circuits see what the strided convolution would have seen, and no more."""
    model, _ = replace_pointwise(net(nn.Conv2d(3, 4, 1, stride=(2, 3), bias=False)))
    images, seen = torch.rand(2, 3, 7, 8), []
    layer = model[0].pointwise
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    assert model(images).shape == (2, 4, 4, 3)
    assert torch.equal(seen[0], images[:, :, ::2, ::3])
    assert torch.equal(Subsample((2, 3))(images), images[:, :, ::2, ::3])


def test_a_dropped_bias_is_reported():
    model = net(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, bias=False))
    _, changes = replace_pointwise(model)
    assert [change.bias_dropped for change in changes] == [True, False]
    assert str(changes).count("bias dropped") == 1


def test_the_model_stays_as_it_was_unless_in_place():
    model = mobilenet_tiny()
    copied, _ = replace_pointwise(model)
    assert copied is not model
    assert not quantum_layers(model)
    changed, _ = replace_pointwise(model, inplace=True)
    assert changed is model
    assert list(quantum_layers(model)) == ["block1.pointwise", "block2.pointwise"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["block2.reduce", "block1.expand"], ["block1.expand", "block2.reduce"]),
        (lambda name, _: name.endswith("shortcut.0"), ["block1.shortcut.0", "block2.shortcut.0"]),
        (lambda _, conv: conv.in_channels == 32, ["block2.reduce", "block2.shortcut.0"]),
    ],
)
def test_chosen_by_name_and_by_predicate(where, expected):
    model, changes = replace_pointwise(resnet_bottleneck_tiny(), where=where)
    assert [change.name for change in changes] == expected
    assert len(quantum_layers(model)) == 2


def test_a_module_with_two_names_is_exchanged_once():
    conv = nn.Conv2d(4, 4, 1, bias=False)
    block = net(conv, nn.ReLU())
    model, changes = replace_pointwise(nn.ModuleDict({"a": block, "b": block, "c": conv}))
    assert len(changes) == 1
    assert (changes[0].name, changes[0].aliases) == ("a.0", ("b.0", "c"))
    assert model["a"][0] is model["b"][0] is model["c"]
    assert isinstance(model["c"], QuantumPointwiseConv2d)
    assert "also b.0, c" in str(changes)
    chosen, _ = replace_pointwise(nn.ModuleDict({"a": block, "c": conv}), where=["c"])
    assert chosen["a"][0] is chosen["c"]


def test_a_convolution_as_the_model():
    model, changes = replace_pointwise(nn.Conv2d(3, 4, 1, bias=False))
    assert isinstance(model, QuantumPointwiseConv2d)
    assert "(the model)" in str(changes)
    with pytest.raises(ValueError, match="itself a convolution and cannot be changed in place"):
        replace_pointwise(nn.Conv2d(3, 4, 1), inplace=True)


def test_one_and_three_dimensions():
    model, _ = replace_pointwise(nn.ModuleList([nn.Conv1d(3, 4, 1, 2), nn.Conv3d(3, 4, 1)]))
    assert isinstance(model[0].pointwise, QuantumPointwiseConv1d)
    assert model[0](torch.rand(2, 3, 5)).shape == (2, 4, 3)
    assert isinstance(model[1], QuantumPointwiseConv3d)


def test_dtype_mode_and_options():
    conv = net(nn.Conv2d(3, 4, 1)).double().eval()
    model, _ = replace_pointwise(conv, num_layers=2, ansatz="figure1", bias_channel=True)
    layer = model[0]
    assert layer.weight.dtype == torch.float64
    assert not layer.training
    assert (layer.spec.ansatz.name, layer.spec.in_channels) == ("figure1", 4)
    baseline, changes = replace_pointwise(conv, pointwise="conv")
    assert isinstance(baseline[0], MatchedConv2d)
    assert changes[0].num_qubits is None
    assert "none" in str(changes)


class Special(nn.Conv2d):
    """Does more than convolve."""


def tied():
    first, second = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
    second.weight = first.weight
    return net(first, second)


HOOKS = {
    "forward": "register_forward_hook",
    "forward pre": "register_forward_pre_hook",
    "backward": "register_full_backward_hook",
    "backward pre": "register_full_backward_pre_hook",
    "state": "register_state_dict_post_hook",
    "load": "register_load_state_dict_pre_hook",
}
PLAIN = (list, tuple, set, lambda modules: dict(enumerate(modules)))


def listed(kind):
    """A network that keeps its convolution a second time, where torch does not look."""
    model = nn.Module()
    model.conv = nn.Conv2d(4, 4, 1)
    model.steps = kind([model.conv])
    return model


def hooked(kind):
    conv = nn.Conv2d(3, 3, 1)
    getattr(conv, HOOKS[kind])(lambda *_: None)
    return net(conv)


@pytest.mark.parametrize(
    ("model", "options", "match"),
    [
        (net(nn.Conv2d(3, 4, 3)), {}, "has no 1x1 convolution"),
        (net(nn.Conv2d(4, 4, 1, groups=2)), {}, "'0' has groups=2"),
        (net(nn.Conv2d(4, 4, 1, padding=1)), {}, r"'0' has padding=\(1, 1\)"),
        (net(Special(4, 4, 1)), {}, "'0' is a Special, which may do more"),
        (tied(), {"where": ["0"]}, "'0' shares its weights with '1'"),
        *((hooked(kind), {}, "'0' has hooks") for kind in HOOKS),
        *((listed(kind), {}, "'conv' is also in 'steps', a plain list") for kind in PLAIN),
        (net(listed(list)), {}, "'0.conv' is also in '0.steps'"),
        (net(nn.Conv2d(2, 3, 1)), {"where": None}, r"where=None: expected 'all', .*\['0'\], or"),
        (net(nn.Conv2d(2, 3, 1)), {"where": 3}, "where=3: expected 'all'"),
        (net(nn.Conv2d(2, 3, 1)), {"where": [nn.ReLU()]}, "expected 'all', a list of names"),
        (mobilenet_tiny(), {"where": ["stem.0"]}, "'stem.0': no such 1x1 .* block1.pointwise, "),
        (mobilenet_tiny(), {"where": []}, "where names no convolution"),
        (mobilenet_tiny(), {"where": "block1"}, r"expected 'all', a list of names such as \['b"),
        (mobilenet_tiny(), {"where": lambda *_: False}, "chose none of .*: block1.pointwise, "),
        (mobilenet_tiny(), {"num_qubits": 4}, "'block2.pointwise' cannot be exchanged: 32 chan"),
        (net(nn.Conv2d(2, 2, 1).bfloat16()), {}, "'0' cannot be exchanged: .*bfloat16"),
        (mobilenet_tiny(), {"pointwise": "spline"}, "Unknown pointwise layer 'spline'"),
        (net(nn.Conv1d(2, 2, 1)), {"pointwise": "conv"}, "'0' is no Conv2d"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_changes(model, options, match):
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=match):
        replace_pointwise(model, inplace=True, **options)
    assert dict(model.named_modules()) == before


# Stand-ins of their names: the real ones are slow to import, and recurse before they are set up.
SHARDED = [type(name, (nn.Module,), {}) for name in ("FullyShardedDataParallel", "FSDPModule")]


@pytest.mark.parametrize("kind", [DistributedDataParallel, *SHARDED])
@pytest.mark.parametrize("inplace", [True, False])
def test_wrapped_networks_are_refused(kind, inplace):
    wrapped = kind.__new__(kind)  # without the processes that it needs
    nn.Module.__init__(wrapped)
    inner = mobilenet_tiny()
    wrapped.add_module("module", inner)
    match = rf"{{}} wrapped in {kind.__name__}, .* Replace before wrapping"
    with pytest.raises(ValueError, match=match.format("The model is")):
        replace_pointwise(wrapped, inplace=inplace)
    with pytest.raises(ValueError, match=match.format("'0' is")):
        replace_pointwise(net(wrapped), inplace=inplace)
    assert not quantum_layers(inner)


def test_padding_that_a_1x1_convolution_does_not_have():
    model, _ = replace_pointwise(net(nn.Conv2d(3, 4, 1, padding="same")))
    assert model(torch.rand(1, 3, 2, 2)).shape == (1, 4, 2, 2)


@pytest.mark.parametrize("build", [mobilenet_tiny, resnet_bottleneck_tiny])
def test_a_few_steps_on_real_digits(build):
    data = load("digits").subset(96, 10)
    images, labels = unit_images(data.train_images), data.train_labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, changes = replace_pointwise(build(), num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]
    assert len(changes) == len(quantum_layers(model)) > 0


def test_shortcut_without_a_convolution():
    block = Bottleneck(8, 4, 8)
    assert isinstance(block.shortcut, nn.Identity)
    assert block(torch.rand(2, 8, 4, 4)).shape == (2, 8, 4, 4)
    assert mobilenet_tiny(num_classes=None)(torch.rand(1, 1, 8, 8)).shape == (1, 32, 1, 1)


def test_the_function_sees_the_modules_that_were_given():
    model = net(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    changed, changes = replace_pointwise(model, where=lambda _name, module: module is model[2])
    assert [change.name for change in changes] == ["2"]
    assert isinstance(changed[0], nn.Conv2d)
    assert isinstance(model[2], nn.Conv2d)


def test_a_model_that_torch_does_not_copy():
    def pruned():
        model = net(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1))
        prune.l1_unstructured(model[0], "weight", 0.5)
        return model

    with pytest.raises(ValueError, match=r"'0' has hooks, which would be lost"):
        replace_pointwise(pruned())
    with pytest.raises(ValueError, match=r"cannot be copied .* change it with inplace=True"):
        replace_pointwise(pruned(), where=["1"])
    changed, _ = replace_pointwise(pruned(), where=["1"], inplace=True)
    assert isinstance(changed[1], QuantumPointwiseConv2d)


def test_a_strided_layer_needs_a_batch():
    model, _ = replace_pointwise(net(nn.Conv2d(4, 4, 1, stride=2)))
    with pytest.raises(ValueError, match=r"channels and 2 spatial axes, got shape \(4, 6, 6\)"):
        model(torch.rand(4, 6, 6))


def test_layers_of_all_dimensions_are_found():
    model, _ = replace_pointwise(net(nn.Conv1d(4, 8, 1), nn.Conv3d(8, 8, 1)))
    assert list(quantum_layers(model)) == ["0", "1"]
