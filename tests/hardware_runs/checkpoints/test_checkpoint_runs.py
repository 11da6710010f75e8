"""What a run keeps of its checkpoint."""

import hashlib
import json
from types import SimpleNamespace

from hardware_runs.checkpoints.checkpoint_runs import _identity
from qpc_qiskit.options.records import NetConfig

SHAPE = {"in_channels": 1, "image_size": 28, "num_classes": 10}


def identity(net):
    return _identity(SimpleNamespace(weights_sha256="ab", dtype="float32", net=net))


def test_runs_from_before_the_head_norm_go_on():
    net = NetConfig(name="paper-fig3a", head_norm="none", **SHAPE)
    written = json.loads(net.model_dump_json().replace('"kernel_size":', '"patch_size":'))
    assert written.pop("head_norm") == "none"
    text = f"ab float32 {json.dumps(written, separators=(',', ':'))}"
    assert identity(net) == hashlib.sha256(text.encode()).hexdigest()


def test_a_norm_is_another_architecture():
    nets = [NetConfig(name="paper-fig3a", head_norm=n, **SHAPE) for n in ("none", "batch", "layer")]
    assert len(set(map(identity, nets))) == 3
