"""Networks around the quantum layer, built from a `NetConfig`.

A network takes raw images, floats in [0, 1], and gives one output (logit) per class. The constants
that normalise the images are buffers of the network, so that a checkpoint needs nothing beside it.

    architectures.py   the networks: the paper's, stronger ones, twins, references
    pointwise.py       the quantum layer, and baselines with as many parameters in its place
    quanvolution.py    the quantum layer on windows
    replace.py         quantum layers into any network
    reference.py       two small networks for that
    counts.py          parameters, layer by layer
    classifier.py      normalisation and checks around a network

May import the layer and all below it; knows no training.
"""

from qpc_qiskit.nets.architectures import BUILDERS
from qpc_qiskit.nets.classifier import (
    ImageClassifier,
    Normalise,
    build_net,
    check_data,
    config_for,
    quantum_layers,
)
from qpc_qiskit.nets.counts import LayerCount, ParameterTable, parameter_table
from qpc_qiskit.nets.pointwise import (
    FrozenPointwiseConv2d,
    MatchedConv2d,
    NormalisedConv2d,
    QuadraticConv2d,
    UnentangledPointwiseConv2d,
    make_pointwise,
    matched_rank,
    quantum_parameters,
)
from qpc_qiskit.nets.quanvolution import QuanvolutionLayer
from qpc_qiskit.nets.reference import Bottleneck, mobilenet_tiny, resnet_bottleneck_tiny
from qpc_qiskit.nets.replace import (
    Replaced,
    Replacement,
    Replacements,
    Subsample,
    replace_pointwise,
)
from qpc_qiskit.options.records import NetConfig

__all__ = [
    "BUILDERS",
    "Bottleneck",
    "FrozenPointwiseConv2d",
    "ImageClassifier",
    "LayerCount",
    "MatchedConv2d",
    "NetConfig",
    "Normalise",
    "NormalisedConv2d",
    "ParameterTable",
    "QuadraticConv2d",
    "QuanvolutionLayer",
    "Replaced",
    "Replacement",
    "Replacements",
    "Subsample",
    "UnentangledPointwiseConv2d",
    "build_net",
    "check_data",
    "config_for",
    "make_pointwise",
    "matched_rank",
    "mobilenet_tiny",
    "parameter_table",
    "quantum_layers",
    "quantum_parameters",
    "replace_pointwise",
    "resnet_bottleneck_tiny",
]
