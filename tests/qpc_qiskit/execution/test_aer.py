import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp

from qpc_qiskit.execution.aer import AerExactEstimator

CIRCUIT = QuantumCircuit(2)
CIRCUIT.rx(Parameter("a"), 0)
CIRCUIT.ry(Parameter("b"), 1)
CIRCUIT.cx(0, 1)
SUM = SparsePauliOp(["ZI", "XX"], [1, 0.5])


@pytest.mark.parametrize(
    ("observables", "shape"),
    [
        ([[SUM], ["IZ"]], (5,)),  # as the engine sends them: (2, 1) against (5,)
        ("ZZ", (2, 5)),
        ([SUM, "IZ", "YX"], (3,)),
        (["ZZ"], ()),
    ],
)
def test_equals_statevector(observables, shape):
    values = np.random.default_rng(3).uniform(0, 6, (*shape, 2))
    pub = (CIRCUIT, observables, values)
    found, expected = (
        estimator.run([pub]).result()[0].data.evs
        for estimator in (AerExactEstimator(), StatevectorEstimator())
    )
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_several_pubs_and_none_of_parameters():
    bound = CIRCUIT.assign_parameters([0.3, 0.4])
    pubs = [(bound, ["ZZ", "XY"]), (CIRCUIT, "ZI", [[0.1, 0.2]])]
    found = AerExactEstimator().run(pubs).result()
    expected = StatevectorEstimator().run(pubs).result()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.data.evs, theirs.data.evs, atol=1e-12)
        assert not ours.data.stds.any()


def test_precision_is_refused():
    with pytest.raises(ValueError, match="AerExactEstimator is exact"):
        AerExactEstimator().run([(CIRCUIT, "ZZ", [0.1, 0.2])], precision=0.1)
