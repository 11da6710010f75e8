"""A packed circuit, simulated patch by patch."""

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import (
    BaseEstimatorV2,
    DataBin,
    PrimitiveJob,
    PrimitiveResult,
    PubResult,
    StatevectorEstimator,
)
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.quantum_info import SparsePauliOp

from qpc_qiskit.backends.patchwise import PatchwiseEstimator, patch_by_patch
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import Template, make_pub


def part(gate):
    angles = ParameterVector("angle", 2)
    circuit = QuantumCircuit(2)
    circuit.ry(angles[0], 0)
    circuit.rx(angles[1], 1)
    getattr(circuit, gate)(0, 1)
    features = (SparsePauliOp("IZ"), SparsePauliOp("ZI"), SparsePauliOp("ZZ"))
    return Template(circuit, tuple(angles), features, ())


PREPARED = Prepared((part("cx"), part("swap"), part("cz")))


class Told(BaseEstimatorV2):
    """Returns what it is told, under the names it is told, and keeps its PUBs."""

    def __init__(self, number, names=("evs", "stds"), error=None):
        self.number, self.names, self.error, self.pubs = number, names, error, []

    def run(self, pubs, *, precision=None):
        self.pubs += [EstimatorPub.coerce(pub, precision) for pub in pubs]
        (pub,) = self.pubs[-1:]

        def work():
            if self.error is not None:
                raise self.error
            data = {
                name: np.full(pub.shape, 10.0 * self.number + i)
                for i, name in enumerate(self.names)
            }
            return PrimitiveResult([PubResult(DataBin(**data, shape=pub.shape))])

        job = PrimitiveJob(work)
        job._submit()
        return job


def run(estimator, rows, precision=0.0):
    return estimator.run([make_pub(PREPARED.template, rows, precision)]).result()[0].data


def test_equals_the_circuit_of_all_patches(rng):
    rows = rng.uniform(0, 6, (5, 6))
    patchwise = PatchwiseEstimator(PREPARED, [StatevectorEstimator() for _ in range(3)])
    found = run(patchwise, rows)
    expected = run(StatevectorEstimator(), rows)
    assert found.evs.shape == (9, 5)
    np.testing.assert_allclose(found.evs, expected.evs, rtol=0, atol=1e-12)
    assert found.stds.shape == (9, 5)


def test_what_each_patch_gets(rng):
    rows = rng.uniform(0, 6, (4, 6))
    each = [Told(j) for j in range(3)]
    found = run(PatchwiseEstimator(PREPARED, each), rows, precision=0.25)
    for j, estimator in enumerate(each):
        (pub,) = estimator.pubs
        assert pub.circuit is PREPARED.parts[j].circuit
        assert pub.precision == 0.25
        own = pub.parameter_values.as_array(PREPARED.parts[j].parameters)
        np.testing.assert_array_equal(own, rows[:, 2 * j : 2 * j + 2])
        assert (found.evs[3 * j : 3 * j + 3] == 10 * j).all()
        assert (found.stds[3 * j : 3 * j + 3] == 10 * j + 1).all()


def test_several_pubs(rng):
    rows = rng.uniform(0, 6, (3, 6))
    pubs = [make_pub(PREPARED.template, part, 0.0) for part in (rows[:1], rows[1:])]
    patchwise = PatchwiseEstimator(PREPARED, [StatevectorEstimator() for _ in range(3)])
    found = [each.data.evs for each in patchwise.run(pubs).result()]
    assert [each.shape for each in found] == [(9, 1), (9, 2)]
    expected = run(StatevectorEstimator(), rows).evs
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=0, atol=1e-12)


def test_precision_of_the_call(rng):
    each = [Told(j) for j in range(3)]
    pub = make_pub(PREPARED.template, rng.uniform(0, 6, (1, 6)))
    PatchwiseEstimator(PREPARED, each).run([pub], precision=0.5).result()
    assert {estimator.pubs[0].precision for estimator in each} == {0.5}


@pytest.mark.parametrize(
    "names", [("evs",), ("evs", "stds"), ("evs", "stds", "ensemble_standard_error")]
)
def test_fields_that_come_back(names, rng):
    each = [Told(j, names) for j in range(3)]
    found = run(PatchwiseEstimator(PREPARED, each), rng.uniform(0, 6, (2, 6)))
    assert set(found) == set(names)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(found[name][::3], [[i, i], [10 + i] * 2, [20 + i] * 2])


def test_a_patch_that_fails(rng):
    each = [Told(0), Told(1, error=RuntimeError("out of memory")), Told(2)]
    with pytest.raises(RuntimeError, match="out of memory"):
        run(PatchwiseEstimator(PREPARED, each), rng.uniform(0, 6, (2, 6)))


def test_one_estimator_for_each_patch():
    connected = []

    def connect(prepared):
        connected.append(prepared)
        return StatevectorEstimator()

    found = patch_by_patch(connect)(PREPARED)
    assert isinstance(found, PatchwiseEstimator)
    assert [each.parts for each in connected] == [(part,) for part in PREPARED.parts]
    assert found.estimators[0] is not found.estimators[1]
    alone = PREPARED.only(1)
    assert isinstance(patch_by_patch(connect)(alone), StatevectorEstimator)
    assert connected[-1] is alone
