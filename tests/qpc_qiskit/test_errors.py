import pickle

import pytest

from qpc_qiskit import errors


@pytest.mark.parametrize(
    "name",
    [n for n, v in vars(errors).items() if isinstance(v, type) and v.__module__ == errors.__name__],
)
def test_every_error_is_of_the_tree_and_survives_a_process_boundary(name):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.QPCError)
    error = pickle.loads(pickle.dumps(kind("what is wrong")))
    assert type(error) is kind
    assert str(error) == "what is wrong"


def test_value_errors():
    for kind in (errors.EncodingError, errors.AnsatzError):
        assert issubclass(kind, ValueError)
    assert not issubclass(errors.EngineError, ValueError)
