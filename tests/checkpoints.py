"""Checkpoints for what reads them: nothing is trained."""

from qpc_qiskit.data.images import load_source
from qpc_qiskit.nets import build_net, config_for
from qpc_qiskit.options.records import DataSource
from qpc_qiskit.training.checkpoint import DataRecord, make_record, save


def write_checkpoint(folder, **options):
    """A small network for the digits, with weights at random: its folder.

    Args:
        folder: to be made.
        options: of the network.
    """
    data = load_source(DataSource(train_images=60, test_images=20))
    tiny = {"width": 4, "quantum_channels": 4, "num_layers": 1}
    model = build_net(config_for(data, **tiny, **options), seed=3).eval()
    model.normalise.set(*data.channel_stats())
    save(folder, model, make_record(model, DataRecord.of(data)))
    return folder
