"""The command line, `qpc`: a thin shell that asks the package and prints what it says.

Everything heavy is imported inside the commands, so that `qpc --help` is quick.
"""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc_cli import run_report as cli_run_report
from qpc_cli.experiment import experiment_app
from qpc_cli.flags import Extra, Flags, Given, fields_of, usage_errors, with_flags
from qpc_cli.nets import nets_app
from qpc_cli.noise import noise_app
from qpc_cli.noisy import noisy_usage
from qpc_cli.report import report_app
from qpc_cli.run import SAVING, run_app
from qpc_cli.support import (
    EXIT_CODES,
    USAGE_ERROR,
    Usage,
    backend_errors,
    check_extras,
    device_table,
    device_text,
    fail,
    fitting,
    options_of,
    patch_text,
    refuse,
    reported,
    say,
)
from qpc_qiskit import __version__
from qpc_qiskit.backends.named import check_extra
from qpc_qiskit.common.extras import require
from qpc_qiskit.errors import MissingExtra
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.options.presets import PRESETS
from qpc_qiskit.options.records import OF_DATA, DataSource, NetConfig, TrainConfig

if TYPE_CHECKING:
    from qpc_qiskit.engines import EstimatorEngine, NoisyEngine
    from qpc_qiskit.layer import QuantumLayer
    from qpc_qiskit.nets import ImageClassifier
    from qpc_qiskit.training.checkpoint import Record

app = typer.Typer(
    name="qpc",
    help="Quantum pointwise convolution: train networks, evaluate them on any engine, run them "
    "on IBM's devices, export their circuits.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

cli_run_report.register(run_app)
app.add_typer(run_app)
app.add_typer(noise_app)
app.add_typer(experiment_app)
app.add_typer(nets_app)
app.add_typer(report_app)


def main() -> None:
    """Entry point of `qpc`."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qpc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="QPC_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="And exit.")
    ] = False,
) -> None:
    # The environment, not a global, carries the flag to `reported`.
    if debug:
        os.environ["QPC_DEBUG"] = "1"


AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
]
Model = Annotated[
    Path, typer.Argument(help="Folder of a finished run (model.json and model.safetensors).")
]


@app.command(epilog=EXIT_CODES)
@with_flags
def train(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run.", show_default="runs/DATA-NET or -PRESET"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch of the run.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a run in the folder.")] = False,
    as_json: AsJson = False,
    data: Annotated[Given, Flags(DataSource, panel="Data")],
    preset: Annotated[
        str | None,
        typer.Option(
            help="Options of network and training to begin with; options that are given go before "
            f"it. ({', '.join(PRESETS)})",
            show_default=False,
        ),
    ] = None,
    net: Annotated[
        Given,
        Flags(NetConfig, panel="Network", without=OF_DATA),
        Extra("patch_size", int | None, typer.Option(hidden=True)),
    ],
    training: Annotated[Given, Flags(TrainConfig, panel="Training")],
) -> None:
    """Train a network and write a checkpoint.

    Ctrl-C stops cleanly: what was finished stays, and --resume goes on from there with the options
    that the run was begun with.
    """
    with reported():
        require("train", "Training")
        check_extras({name: training[name] for name in ("noise",) if name in training})
        if resume and force:
            refuse("--resume and --force contradict each other; give one.")
        if preset is not None and resume:
            refuse("--preset has no effect with --resume; leave it out.")
        if preset is not None and preset not in PRESETS:
            refuse(f"--preset must be one of {', '.join(PRESETS)}; got {preset!r}.")
        data_options = fields_of(DataSource, data)
        net_options, training_options = fields_of(NetConfig, net), fields_of(TrainConfig, training)
        if "patch_size" in net:
            typer.echo("qpc: --patch-size is called --kernel-size now.", err=True)
            net_options = {"kernel_size": net["patch_size"]} | net_options
        if preset is not None:
            net_options = PRESETS[preset].net | net_options
            training_options = PRESETS[preset].training | training_options
        if "noise" in training_options:
            from noise_models.words import resolved

            training_options["noise"] = resolved(training_options["noise"])
        if resume:
            from qpc_qiskit.training.runs import read_run

            if out is None:
                refuse("--resume needs --out, the folder of the run.")
            begun = read_run(out)
            if begun.data.source is not None:
                data_options = begun.data.source.model_dump() | data_options
            net_options = begun.net.model_dump() | net_options
            training_options = begun.training.model_dump() | training_options
        with usage_errors(refuse, DataSource):
            source = DataSource(**data_options)
        with usage_errors(refuse, TrainConfig):
            config = TrainConfig(**training_options)
        with usage_errors(refuse, NetConfig):
            net_config = NetConfig(**net_options)
        out = out or Path("runs") / f"{source.name}-{preset or net_config.name}"
        _train(source, net_config, config, out, resume, force, as_json)


def _train(
    source: DataSource,
    net_config: NetConfig,
    config: TrainConfig,
    out: Path,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    from qpc_qiskit.common.progress import busy
    from qpc_qiskit.data.images import load_source
    from qpc_qiskit.nets import build_net, config_for, quantum_layers
    from qpc_qiskit.training.processes import is_main_process
    from qpc_qiskit.training.trainer import train as run_training

    with busy(f"Loading {source.name}"):
        data = load_source(source)
    options = net_config.model_dump(exclude=set(OF_DATA))
    model = build_net(config_for(data, **options), seed=config.seed)
    engine = None
    if config.engine == "noisy":
        layers = quantum_layers(model).values()
        if not layers:
            fail("--net has no quantum layer, so --engine noisy has no effect.", USAGE_ERROR)
        engine = _open_noisy(EngineOptions(noise_model=config.noise), layers)
    started = time.perf_counter()
    history = run_training(model, data, config, out, resume=resume, force=force, engine=engine)
    seconds = time.perf_counter() - started
    if not is_main_process(config):
        return
    last = history[-1]
    result = {
        "out": str(out),
        "epochs": len(history),
        "history": [asdict(metrics) for metrics in history],
        "seconds": round(seconds, 3),
    }
    say(
        as_json,
        result,
        f"{out}: test accuracy {100 * last.test_accuracy:.2f} %, training accuracy "
        f"{100 * last.train_accuracy:.2f} % after {last.epoch} epoch{'s' * (last.epoch != 1)}; "
        f"{seconds:.1f} s",
    )


_ESTIMATOR = "With --engine estimator"


@app.command(epilog=EXIT_CODES)
@with_flags
def evaluate(
    model: Model,
    *,
    engine: Annotated[
        str,
        typer.Option(help="What evaluates the quantum layers.", metavar="exact|noisy|estimator"),
    ] = "exact",
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Test images to take, a random subset, the same every time."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images per step; each step is a job or several.",
            show_default="64; 4 where noise or mitigation is simulated",
        ),
    ] = None,
    as_json: AsJson = False,
    given: Annotated[
        Given,
        Flags(
            EngineOptions,
            (
                *("backend", "noise_model", "shots", "precision", "resilience", "mode", "seed"),
                *("dedupe_grid", "max_qpu_seconds"),
            ),
            _ESTIMATOR,
            {
                "resilience": "IBM's level: 0 none, 1 readout mitigation, 2 also zero-noise "
                "extrapolation; slow on a laptop.",
                "max_qpu_seconds": "Send nothing if all jobs are predicted to take longer.",
            },
        ),
        Extra(
            "yes",
            bool,
            typer.Option(
                "--yes",
                help="Send to a real device without --max-qpu-seconds.",
                rich_help_panel=_ESTIMATOR,
            ),
            False,
        ),
        *SAVING,
    ],
    data: Annotated[Given, Flags(DataSource, ("name", "data_dir"), "Data")],
) -> None:
    """Measure accuracy and loss of a finished network on its test images.

    On another engine than `exact` the predictions are also compared with the exact ones. The data
    are those of the training, unless others are named.

    For instance:

      qpc evaluate runs/digits

      qpc evaluate runs/digits --engine estimator --noise depolarizing:0.01 --images 64

      qpc evaluate runs/digits --engine estimator --backend fake_torino --shots 1024 --images 16

      qpc evaluate runs/digits --engine estimator --backend fake_torino --shots 1024 --images 16
        --economy best
    """
    with reported():
        check_extras(given)
        from qpc_qiskit.engines import ENGINES
        from qpc_qiskit.nets import quantum_layers
        from qpc_qiskit.training.checkpoint import load

        if engine not in ENGINES:
            refuse(f"Unknown engine {engine!r}; expected one of {', '.join(ENGINES)}.")
        options = options_of(engine, given)
        network, record = load(model)
        if engine != "exact" and not quantum_layers(network):
            refuse(f"{model} has no quantum layer, so --engine {engine} has no effect.")
        source = record.data.source.model_dump() if record.data and record.data.source else {}
        told = fields_of(DataSource, data)
        source = told if "name" in told else source | told
        if "name" not in source:
            refuse(f"{model} does not say which data it is for; give --data.")
        with usage_errors(refuse, DataSource):
            data_source = DataSource(**source)
        chosen: EstimatorEngine | NoisyEngine | None = None
        if engine != "exact":
            options = fitting(options, quantum_layers(network).values())
        if engine == "estimator":
            chosen = _open_estimator(options, quantum_layers(network).values())
        elif engine == "noisy":
            chosen = _open_noisy(options, quantum_layers(network).values())
        if batch_size is None:
            batch_size = 4 if engine == "estimator" and _is_slow(options) else 64
        asked = (given, options)
        _evaluate(network, record, data_source, chosen, asked, images, batch_size, as_json)


def _is_slow(options: EngineOptions) -> bool:
    """Whether noise or mitigation is simulated here, so that a step takes long."""
    is_simulated = options.backend.startswith("fake_") or options.noise_model is not None
    return is_simulated or bool(options.resilience and not options.is_paid)


def _open_estimator(options: EngineOptions, layers: "Iterable[QuantumLayer]") -> "EstimatorEngine":
    """The engine of the options; leave if the layers do not fit on its backend."""
    from qpc_qiskit.common.progress import busy
    from qpc_qiskit.engines import EstimatorEngine

    noise = None if options.noise_model is None else _parsed_noise(options.noise_model)
    named = ("--noise", noise) if isinstance(noise, str) else ("--backend", options.backend)
    with backend_errors(*named):
        engine = EstimatorEngine.from_backend(options.changed(noise_model=noise))
        with busy("Placing the circuits"):
            for layer in layers:
                engine.prepare(layer.spec)
        return engine


def _parsed_noise(word: str) -> Any:
    """What engines take for `--noise`."""
    from noise_models.words import parse_noise

    try:
        return parse_noise(word)
    except ValueError as error:
        refuse(f"--noise: {error}")


def _open_noisy(options: EngineOptions, layers: "Iterable[QuantumLayer]") -> "NoisyEngine":
    """The noisy engine of the options; leave if the layers do not fit on its device."""
    from qpc_qiskit.common.progress import busy
    from qpc_qiskit.engines import NoisyEngine

    noise = _parsed_noise(options.noise_model)
    with backend_errors("--noise", options.noise_model):
        engine = NoisyEngine(
            noise,
            encoder=options.encoder,
            shots=options.shots,
            seed=options.seed,
            absorb_tail=bool(options.absorb_tail),
        )
        with busy("Preparing the circuits"):
            for layer in layers:
                engine.prepare(layer.spec)
        return engine


def _evaluate(
    network: "ImageClassifier",
    record: "Record",
    source: DataSource,
    engine: "EstimatorEngine | NoisyEngine | None",
    asked: tuple[Given, EngineOptions],
    num_images: int | None,
    batch_size: int,
    as_json: bool,
) -> None:
    from qpc_qiskit.common.progress import busy
    from qpc_qiskit.connector import use_engine
    from qpc_qiskit.data.images import load_source
    from qpc_qiskit.engines import NoisyEngine
    from qpc_qiskit.nets import check_data, quantum_layers
    from qpc_qiskit.training.evaluation import accuracy_interval, compare, predict, score

    given, options = asked
    with busy(f"Loading {source.name}"):
        data = load_source(source)
    check_data(network.config, data)
    same_data = record.data is not None and record.data.sha256 == data.fingerprint()
    data = data.subset(None, num_images)
    images, labels = data.test_images, data.test_labels
    loss = record.training.loss if record.training else "cross-entropy"
    usage = Usage(network)
    started = time.perf_counter()
    with usage.counting_pixels(), busy("exact", len(labels), "images") as bar:
        logits = exact = predict(network, images, batch_size, bar.advance)
    name = "exact" if engine is None else _name(engine.name, given)
    if isinstance(engine, NoisyEngine):
        started = time.perf_counter()
        with use_engine(network, engine), busy(name, len(labels), "images") as bar:
            engine.on_fit = bar.fitting
            logits = predict(network, images, batch_size, bar.advance)
        told, words = noisy_usage(engine, quantum_layers(network))
    elif engine is not None:
        started = time.perf_counter()
        with engine, use_engine(network, engine), usage.collecting(engine):
            if options.is_paid:
                usage.announce(engine, options.max_qpu_seconds, "yes" in given)
            with busy(name, len(labels), "images") as bar:
                engine.on_fit = bar.fitting
                logits = predict(network, images, batch_size, bar.advance)
        told, words = usage.to_dict(engine), usage.text(engine, options.is_paid)
    seconds = time.perf_counter() - started
    found = score(logits, labels, loss)
    result: dict[str, Any] = {
        "engine": "exact" if engine is None else engine.name,
        "images": len(labels),
        "accuracy": found.accuracy,
        "loss": found.loss,
        "seconds": round(seconds, 3),
        "same_data_as_in_training": same_data,
    }
    interval = ""
    if engine is not None and engine.shots is not None:
        low, high = accuracy_interval(found.accuracy, len(labels))
        result["accuracy_interval"] = [low, high]
        interval = f" (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    text = (
        f"{name}: accuracy {100 * found.accuracy:.2f} %{interval}, loss {found.loss:.4f} on "
        f"{len(labels)} test images; {seconds:.1f} s"
    )
    if engine is not None:
        difference = compare(logits, exact)
        result |= asdict(difference) | {
            "exact_accuracy": score(exact, labels, loss).accuracy,
            "options": dict(given),
            "economy": options.to_dict(),
            **told,
            "last_report": engine.last_report.to_dict() if engine.last_report else None,
        }
        text += (
            f"\nexact: accuracy {100 * result['exact_accuracy']:.2f} %; "
            f"{100 * difference.agreement:.2f} % of the predictions agree, logits differ by "
            f"{difference.max_logit_difference:.2g} at most\n{words}"
        )
    if not same_data:
        text += "\nNote: these are not the data that the network was trained and tested on."
    say(as_json, result, text)


def _name(engine: str, given: Mapping[str, Any]) -> str:
    """The engine in words."""
    noise = f" with noise {given['noise']}" if "noise" in given else ""
    if engine != "estimator":
        return f"{engine}{noise}"
    return f"estimator on {given.get('backend', 'aer')}{noise}"


@app.command(epilog=EXIT_CODES)
def export(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", dir_okay=False, help="File to write.")],
    layer: Annotated[
        str | None, typer.Option(help="Quantum layer; needed where there are several.")
    ] = None,
    kernel: Annotated[int, typer.Option(min=0, help="Which of the layer's circuits.")] = 0,
    fmt: Annotated[
        str, typer.Option("--format", metavar="qasm3|qpy", help="OpenQASM 3 text, or Qiskit's QPY.")
    ] = "qasm3",
    free: Annotated[
        bool, typer.Option("--free", help="Leave the trained weights as parameters.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained kernel as a circuit; the angles that encode a pixel stay parameters."""
    with reported():
        from qpc_qiskit.nets import quantum_layers
        from qpc_qiskit.training.checkpoint import load

        if fmt not in ("qasm3", "qpy"):
            fail(f"Unknown format {fmt!r}; expected one of qasm3, qpy.", USAGE_ERROR)
        layers = quantum_layers(load(model)[0])
        if not layers:
            fail(f"{model} has no quantum layer, so there is no circuit.", USAGE_ERROR)
        if layer is None and len(layers) == 1:
            layer = next(iter(layers))
        if layer not in layers:
            fail(f"--layer must be one of {', '.join(layers)}; got {layer}.", USAGE_ERROR)
        chosen = layers[layer]
        if kernel >= chosen.spec.num_kernels:
            last = chosen.spec.num_kernels - 1
            fail(f"--kernel must be one of 0..{last} in {layer}; got {kernel}.", USAGE_ERROR)
        chosen.export(fmt, output, kernel=kernel, bound=not free)
        result = {
            "output": str(output),
            "format": fmt,
            "layer": layer,
            "kernel": kernel,
            "bound": not free,
            "num_qubits": chosen.spec.num_qubits,
        }
        say(as_json, result, f"{output}: kernel {kernel} of {layer} as {fmt}")


@app.command(epilog=EXIT_CODES)
def backends(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Devices to tell more of.", show_default=False),
    ] = None,
    ibm: Annotated[
        bool, typer.Option("--ibm", help="Also list the devices of your saved IBM account.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the backends of --engine estimator, or say what a layer would look like on some.

    Without names: aer, what other packages offer (their code is not run), and the snapshots of
    devices that come with IBM's client; errors are medians over what works. With names: also the
    best patch for layers of 2 to 7 qubits (strongly_entangling, 3 blocks, multiplexor) and the QPU
    time of 1,000 executions of 1,024 shots. Finding a patch takes seconds, but the first time only.

    For instance:

      qpc backends

      qpc backends fake_torino fake_fez
    """
    with reported():
        if names and ibm:
            fail("--ibm has no effect where backends are named; leave it out.", USAGE_ERROR)
        for name in ("ibm_...",) if ibm else names or ():
            check_extra(name)
        if names:
            _describe_backends(names, as_json)
        else:
            _list_backends(ibm, as_json)


def _list_backends(with_ibm: bool, as_json: bool) -> None:
    from qpc_qiskit.common.progress import busy

    with busy("Reading the snapshots of devices"):
        from qpc_qiskit.backends import survey

        found = survey.ibm_summaries() if with_ibm else []
        found += [survey.AER_SUMMARY, *survey.offered_summaries()]
        missing = ""
        try:
            found += survey.fake_summaries()
        except MissingExtra as error:
            missing = f"\n{error}"
    told = [asdict(device) for device in found]
    say(as_json, {"backends": told}, device_table(found) + missing)


def _describe_backends(names: list[str], as_json: bool) -> None:
    from qpc_qiskit.common.progress import busy

    found, texts = [], []
    with busy("Finding the devices"):
        from qpc_qiskit.backends import survey

        devices = []
        for name in names:
            with backend_errors("", name):
                devices.append(survey.find_summary(name))
    for device, backend in devices:
        with busy(f"Finding the best patches of {device.name}"):
            patches = [] if backend is None else list(survey.best_patches(backend))
        found.append(asdict(device) | {"patches": [asdict(patch) for patch in patches]})
        texts.append(f"{device_text(device)}\n{patch_text(patches)}".rstrip())
    layer = {
        "ansatz": "strongly_entangling",
        "num_layers": survey.NUM_LAYERS,
        "encoder": "multiplexor",
        "executions": survey.EXECUTIONS,
        "shots": survey.SHOTS,
    }
    say(as_json, {"backends": found, "layer": layer}, "\n\n".join(texts))


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def standin(context: typer.Context) -> None:
    """Run a stand-in of IBM's service on this machine, for trials without an account.

    In the foreground, until Ctrl-C; it prints the environment to export.
    """
    with reported():
        require("ibm", "The stand-in of IBM's service")
        from hardware_runs.standin.__main__ import serve

        served = typer.Typer(add_completion=False)
        served.command()(serve)
        served(args=context.args, prog_name="qpc standin")


@app.command(epilog=EXIT_CODES)
def info(as_json: AsJson = False) -> None:
    """Show versions and what there is to compute on."""
    with reported():
        from qpc_cli.environment import environment

        found = environment()
        lines = (f"{name}: {_plain(value)}" for name, value in found.items())
        say(as_json, found, "\n".join(lines))


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
