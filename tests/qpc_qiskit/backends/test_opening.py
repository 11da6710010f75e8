"""From what a user calls a backend to a destination; arguments without effect are refused."""

import itertools

import pytest
from fakes import FakeVendorBackend, recording
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, depolarizing_error
from qiskit_ibm_runtime.fake_provider import FakeManilaV2

from qpc_qiskit import EstimatorEngine
from qpc_qiskit.backends import opening
from qpc_qiskit.errors import BackendError, EngineError
from qpc_qiskit.options.engine import EngineOptions


def open_destination(backend, exact=False, **given):
    if exact:
        given["precision"] = 0
    return opening.open_destination(EngineOptions.of(backend, **given))


def noise():
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 2), ["cx"])
    return model


def ibm(name="ibm_manila"):
    return recording().backend(name)


BACKENDS = {
    "aer": lambda: "aer",
    "simulator": AerSimulator,
    "fake": lambda: "fake_manila",
    "fake object": FakeManilaV2,
    "ibm": ibm,
    "vendor": FakeVendorBackend,
    "generic": lambda: GenericBackendV2(5, seed=1),
    "simulated device": lambda: AerSimulator.from_backend(FakeManilaV2()),
}
ARGUMENTS = {
    "mode": "batch",
    "resilience": 1,
    "noise_model": noise(),
    "seed": 5,
    "device": "GPU",
    "service": object(),
    "use_fractional_gates": True,
    "exact": True,
    "qubits": (0, 1),
}
VENDORS = {"vendor", "generic", "simulated device"}
HAVE_EFFECT = {
    "mode": {"fake", "fake object", "ibm"},  # snapshots take what the device takes
    "resilience": {"aer", "simulator", "fake", "fake object", "ibm"},
    "noise_model": {"aer"},
    "seed": set(BACKENDS) - {"ibm"},
    "service": set(),  # of these: it is for names ibm_...
    "use_fractional_gates": set(),
    "qubits": set(BACKENDS) - {"aer", "simulator"},
    "exact": {"aer", "simulator", "fake", "fake object"},  # see from_backend for the others
}


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (kind, argument)
        for kind, argument in itertools.product(BACKENDS, HAVE_EFFECT)
        if not (argument == "exact" and kind in VENDORS | {"ibm"})
    ],
)
def test_every_argument_has_an_effect_or_is_refused(kind, argument):
    backend, given = BACKENDS[kind](), {argument: ARGUMENTS[argument]}
    if kind in HAVE_EFFECT[argument]:
        assert open_destination(backend, **given).name
    else:
        told = f"{argument} has no effect on .*; leave it out"
        if argument == "noise_model":
            told = "noise_model belongs to backend aer; .* has its own noise"
        with pytest.raises(ValueError, match=f"^{told}"):
            open_destination(backend, **given)


@pytest.mark.parametrize("kind", sorted(set(BACKENDS) - {"aer", "simulator"}))
def test_device_is_for_aer(kind):
    with pytest.raises(ValueError, match=r"^device has no effect on .*; leave it out"):
        open_destination(BACKENDS[kind](), device="GPU")


@pytest.mark.parametrize("kind", ["aer", "simulator"])
def test_a_device_that_is_not_there(kind):
    with pytest.raises(EngineError, match=r"Aer has no device 'GPU' here, only CPU.*aer-gpu"):
        open_destination(BACKENDS[kind](), device="GPU")
    with pytest.raises(ValueError, match="device has no effect on Aer with resilience"):
        open_destination(BACKENDS[kind](), device="GPU", resilience=1)


@pytest.mark.parametrize("kind", sorted(VENDORS | {"ibm"}))
def test_exact_values_of_what_gives_shots(kind):
    with pytest.raises(ValueError, match=r"precision=0 asks for exact values, and .* gives shots"):
        EstimatorEngine.from_backend(BACKENDS[kind](), precision=0)


@pytest.mark.parametrize("kind", sorted(BACKENDS))
def test_exact_values_with_resilience(kind):
    with pytest.raises(ValueError, match="precision=0 asks for exact values, which resilience"):
        open_destination(BACKENDS[kind](), exact=True, resilience=1)


def test_exact_values_of_a_snapshot_take_no_options_of_the_estimator():
    with pytest.raises(ValueError, match="options has no effect on exact values"):
        open_destination("fake_manila", exact=True, options={"max_execution_time": 3})


@pytest.mark.parametrize("kind", sorted(BACKENDS))
def test_unknown_modes_and_levels(kind):
    backend = BACKENDS[kind]()
    with pytest.raises(ValueError, match="mode must be one of job, batch, session; got 'queue'"):
        open_destination(backend, mode="queue")
    for level in (3, -1, "1", 0.5):
        with pytest.raises(ValueError, match=r"Unknown resilience level .* 0, 1 or 2"):
            open_destination(backend, resilience=level)


class TestNames:
    @pytest.mark.parametrize("backend", [None, 5, b"aer", FakeManilaV2, ["aer"]])
    def test_neither_a_name_nor_a_backend(self, backend):
        with pytest.raises(TypeError, match="Expected a backend's name or a qiskit BackendV2, got"):
            open_destination(backend)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("fake_torin", "Did you mean fake_torino"),
            ("torino", "Did you mean fake_torino"),
            ("fake_manilla", "Did you mean fake_manila"),
        ],
    )
    def test_unknown_with_a_hint(self, name, hint):
        with pytest.raises(BackendError, match=f"Unknown backend '{name}'.*{hint}.*qpc backends"):
            open_destination(name)

    @pytest.mark.parametrize("name", ["AER", "something_else"])
    def test_unknown_without(self, name):
        with pytest.raises(BackendError, match=rf"Unknown backend '{name}'.*'ibm_...'\. `qpc"):
            open_destination(name)

    def test_ibm_devices(self):
        service = recording()
        found = open_destination("ibm_manila", service=service, mode="session", resilience=2)
        assert found.name == "ibm_manila"
        assert (found.about["mode"], found.about["resilience"]) == ("session", 2)
        assert service.num_posts == 0
        assert service.sessions == []
        fractional = open_destination("ibm_fractional", service=service, use_fractional_gates=True)
        assert fractional.name == "ibm_fractional"
        with pytest.raises(BackendError, match=r"ibm_atlantis: .*No backend matches.*--ibm"):
            open_destination("ibm_atlantis", service=service)
        with pytest.raises(BackendError, match=r"ibm_manila.*does not support fractional gates"):
            open_destination("ibm_manila", service=service, use_fractional_gates=True)

    def test_no_account(self, monkeypatch, tmp_path):
        for name in ("QISKIT_IBM_TOKEN", "QISKIT_IBM_CHANNEL", "QISKIT_IBM_INSTANCE"):
            monkeypatch.delenv(name, raising=False)
        path = "qiskit_ibm_runtime.accounts.management._DEFAULT_ACCOUNT_CONFIG_JSON_FILE"
        monkeypatch.setattr(path, str(tmp_path / "none.json"))
        with pytest.raises(BackendError, match=r"No access to ibm_torino: Account.*save_account"):
            open_destination("ibm_torino")


class TestAer:
    @pytest.mark.parametrize("model", [{"cx": 0.1}, 3, AerSimulator])
    def test_no_noise_model(self, model):
        with pytest.raises(TypeError, match="Expected an Aer NoiseModel, a CircuitNoise"):
            open_destination("aer", noise_model=model)

    @pytest.mark.parametrize("settings", [{"method": "statevector"}, {"seed_simulator": 3}])
    def test_a_simulator_as_noise_has_no_other_settings(self, settings):
        (name,) = settings
        with pytest.raises(ValueError, match=f"^{name} of the AerSimulator would have no effect"):
            open_destination("aer", noise_model=AerSimulator(noise_model=noise(), **settings))
        found = open_destination("aer", noise_model=AerSimulator(noise_model=noise()))
        assert found.about["noise"] == "own NoiseModel"

    def test_a_simulator_without_noise_is_no_noise(self):
        for options in ({}, {"resilience": 1}):
            with pytest.raises(ValueError, match=r"AerSimulator .* noise_model has no noise"):
                open_destination("aer", noise_model=AerSimulator(), **options)

    @pytest.mark.parametrize(
        ("method", "is_noisy", "is_exact"),
        [
            ("statevector", False, True),
            ("density_matrix", False, True),
            ("density_matrix", True, True),
            ("statevector", True, False),  # samples the noise
            ("automatic", True, False),
            ("automatic", False, False),
            ("matrix_product_state", False, False),
            ("matrix_product_state", True, False),
            ("stabilizer", False, False),
        ],
    )
    def test_methods_that_are_not_exact_are_refused(self, method, is_noisy, is_exact):
        models = (noise(), "fake_manila") if is_noisy else (None,)
        for model in models:
            options = {"noise_model": model, "options": {"method": method}}
            if is_exact:
                assert open_destination("aer", **options).about["options"] == {"method": method}
            else:
                with pytest.raises(ValueError, match=f"method='{method}' .* not give exact values"):
                    open_destination("aer", **options)

    def test_qubits_are_those_of_a_device(self):
        with pytest.raises(ValueError, match="qubits has no effect on Aer; leave it out"):
            open_destination("aer", noise_model=noise(), qubits=(0, 1))
        for device in ("fake_manila", FakeManilaV2()):
            for options in ({}, {"resilience": 1}):
                open_destination("aer", noise_model=device, qubits=(0, 1), **options)

    @pytest.mark.parametrize("name", ["fake_atlantis", "depolarizing"])
    def test_unknown_device_as_noise(self, name):
        with pytest.raises(BackendError, match=f"Unknown backend '{name}'"):
            open_destination("aer", noise_model=name)

    def test_noise_is_told(self):
        assert "noise" not in open_destination("aer").about
        assert open_destination("aer", noise_model=noise()).about["noise"] == "own NoiseModel"
        for device in ("fake_manila", FakeManilaV2()):
            about = open_destination("aer", noise_model=device).about
            assert about["noise"] == "fake_manila"
            assert about["calibration_time"].startswith("20")

    def test_the_noise_of_a_simulator_is_taken(self):
        found = open_destination(AerSimulator(noise_model=noise()))
        assert found.name == "aer"
        assert found.about["noise"] == "own NoiseModel"
        assert found.is_transpiled
        assert not open_destination(AerSimulator()).is_transpiled

    @pytest.mark.parametrize(
        "settings",
        [{"method": "statevector"}, {"seed_simulator": 3}, {"shots": 5}, {"fusion_enable": False}],
    )
    def test_other_settings_of_a_simulator_are_refused(self, settings):
        (name,) = settings
        with pytest.raises(ValueError, match=f"^{name} of the AerSimulator would have no effect"):
            open_destination(AerSimulator(**settings))

    @pytest.mark.parametrize(
        ("option", "argument"),
        [
            ("seed", "seed"),
            ("seed_simulator", "seed"),
            ("noise_model", "noise_model"),
            ("shots", "shots"),
            ("device", "device"),
        ],
    )
    def test_options_that_are_arguments(self, option, argument):
        with pytest.raises(ValueError, match=f"^Give {argument}=..., not {option} in options"):
            open_destination("aer", options={option: 3})

    def test_options(self):
        with pytest.raises(ValueError, match="Options of AerSimulator: Invalid option colour"):
            open_destination("aer", options={"colour": 1})
        about = open_destination("aer", options={"max_parallel_threads": 1}).about
        assert about["options"] == {"max_parallel_threads": 1}
        with pytest.raises(ValueError, match="Option 'max_parallel_threads' of the Estimator"):
            open_destination("aer", resilience=1, options={"max_parallel_threads": 1})


def test_options_of_a_vendor():
    with pytest.raises(ValueError, match=r"Options of BackendEstimatorV2: .*'colour'"):
        open_destination(FakeVendorBackend(), options={"colour": 1})
    with pytest.raises(ValueError, match=r"Give seed=..., not seed_simulator in options"):
        open_destination(FakeVendorBackend(), options={"seed_simulator": 1})
    with pytest.raises(ValueError, match=r"Give precision=..., not default_precision in options"):
        open_destination(FakeVendorBackend(), options={"default_precision": 0.1})
    found = open_destination(FakeVendorBackend(), options={"abelian_grouping": True}, seed=3)
    assert found.about["options"] == {"abelian_grouping": True}
    assert found.default_shots == 4096
