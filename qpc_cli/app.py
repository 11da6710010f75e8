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
from pydantic import BaseModel

from qpc_cli import run_report as cli_run_report
from qpc_cli.experiment import experiment_app
from qpc_cli.nets import nets_app
from qpc_cli.noise import noise_app
from qpc_cli.noisy import noisy_usage
from qpc_cli.report import report_app
from qpc_cli.run import (
    AbsorbTail,
    EconomyOption,
    Encoder,
    Gap,
    NoCalibrate,
    Patches,
    References,
    run_app,
)
from qpc_cli.support import (
    EXIT_CODES,
    USAGE_ERROR,
    Usage,
    backend_errors,
    check_estimator_options,
    check_extras,
    device_table,
    device_text,
    fail,
    fitting_economy,
    option_from,
    patch_text,
    reported,
    say,
    usage_errors,
)
from qpc_qiskit import __version__
from qpc_qiskit.backends.named import check_extra
from qpc_qiskit.common.extras import require
from qpc_qiskit.errors import MissingExtra
from qpc_qiskit.options.economy import NAMES, Economy
from qpc_qiskit.options.presets import PRESETS
from qpc_qiskit.options.records import DataSource, NetConfig, TrainConfig

if TYPE_CHECKING:
    from qpc_qiskit.engines import EstimatorEngine, NoisyEngine
    from qpc_qiskit.layer import QuantumLayer
    from qpc_qiskit.nets import ImageClassifier
    from qpc_qiskit.training.checkpoint import Record

FLAGS = {("DataSource", "name"): "--data", ("NetConfig", "name"): "--net"}
"""Options that are not called as their field is."""

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


def _net(name: str, *flags: str) -> Any:
    return option_from(NetConfig, name, *flags, panel="Network")


def _training(name: str, *flags: str) -> Any:
    return option_from(TrainConfig, name, *flags, panel="Training")


def _data(name: str, *flags: str) -> Any:
    return option_from(DataSource, name, *flags, panel="Data")


AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
]
Model = Annotated[
    Path, typer.Argument(help="Folder of a finished run (model.json and model.safetensors).")
]


@app.command(epilog=EXIT_CODES)
def train(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run.", show_default="runs/DATA-NET or -PRESET"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch of the run.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a run in the folder.")] = False,
    as_json: AsJson = False,
    data: Annotated[str | None, _data("name", "--data")] = None,
    data_dir: Annotated[Path | None, _data("data_dir")] = None,
    train_images: Annotated[int | None, _data("train_images")] = None,
    test_images: Annotated[int | None, _data("test_images")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Options of network and training to begin with; options that are given go before "
            f"it. ({', '.join(PRESETS)})",
            show_default=False,
        ),
    ] = None,
    net: Annotated[str | None, _net("name", "--net")] = None,
    width: Annotated[int | None, _net("width")] = None,
    quantum_channels: Annotated[int | None, _net("quantum_channels")] = None,
    pointwise: Annotated[str | None, _net("pointwise")] = None,
    num_layers: Annotated[int | None, _net("num_layers")] = None,
    ansatz: Annotated[str | None, _net("ansatz")] = None,
    num_qubits: Annotated[int | None, _net("num_qubits")] = None,
    bias_channel: Annotated[bool | None, _net("bias_channel", "--bias-channel")] = None,
    init: Annotated[str | None, _net("init")] = None,
    norm_after: Annotated[str | None, _net("norm_after")] = None,
    patch_size: Annotated[int | None, _net("patch_size")] = None,
    hidden: Annotated[int | None, _net("hidden")] = None,
    head_norm: Annotated[str | None, _net("head_norm")] = None,
    dropout: Annotated[float | None, _net("dropout")] = None,
    epochs: Annotated[int | None, _training("epochs")] = None,
    batch_size: Annotated[int | None, _training("batch_size")] = None,
    test_batch_size: Annotated[int | None, _training("test_batch_size")] = None,
    optimizer: Annotated[str | None, _training("optimizer")] = None,
    lr: Annotated[float | None, _training("lr")] = None,
    weight_decay: Annotated[float | None, _training("weight_decay")] = None,
    momentum: Annotated[float | None, _training("momentum")] = None,
    schedule: Annotated[str | None, _training("schedule")] = None,
    eta_min: Annotated[float | None, _training("eta_min")] = None,
    loss: Annotated[str | None, _training("loss")] = None,
    augment: Annotated[str | None, _training("augment")] = None,
    seed: Annotated[int | None, _training("seed")] = None,
    dtype: Annotated[str | None, _training("dtype")] = None,
    device: Annotated[str | None, _training("device")] = None,
    devices: Annotated[int | None, _training("devices")] = None,
    num_nodes: Annotated[int | None, _training("num_nodes")] = None,
    engine: Annotated[str | None, _training("engine")] = None,
    noise: Annotated[str | None, _training("noise")] = None,
) -> None:
    """Train a network and write a checkpoint.

    Ctrl-C stops cleanly: what was finished stays, and --resume goes on from there with the options
    that the run was begun with.
    """
    given = locals()

    def options(model: type[BaseModel], **renamed: str) -> dict[str, Any]:
        flags = {name: given.get(renamed.get(name, name)) for name in model.model_fields}
        return {name: value for name, value in flags.items() if value is not None}

    with reported():
        require("train", "Training")
        check_extras(noise=noise)
        if resume and force:
            fail("--resume and --force contradict each other; give one.", USAGE_ERROR)
        if preset is not None and resume:
            fail("--preset has no effect with --resume; leave it out.", USAGE_ERROR)
        if preset is not None and preset not in PRESETS:
            fail(f"--preset must be one of {', '.join(PRESETS)}; got {preset!r}.", USAGE_ERROR)
        data_options = options(DataSource, name="data")
        if data_dir is not None:
            data_options["data_dir"] = str(data_dir.resolve())
        net_options, training_options = options(NetConfig, name="net"), options(TrainConfig)
        if preset is not None:
            net_options = PRESETS[preset].net | net_options
            training_options = PRESETS[preset].training | training_options
        if noise is not None:
            from noise_models.words import resolved

            training_options["noise"] = resolved(noise)
        if resume:
            from qpc_qiskit.training.runs import read_run

            if out is None:
                fail("--resume needs --out, the folder of the run.", USAGE_ERROR)
            begun = read_run(out)
            if begun.data.source is not None:
                data_options = begun.data.source.model_dump() | data_options
            net_options = begun.net.model_dump() | net_options
            training_options = begun.training.model_dump() | training_options
        with usage_errors(FLAGS):
            source, config = DataSource(**data_options), TrainConfig(**training_options)
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
    options = net_config.model_dump(exclude={"in_channels", "image_size", "num_classes"})
    model = build_net(config_for(data, **options), seed=config.seed)
    engine = None
    if config.engine == "noisy":
        layers = quantum_layers(model).values()
        if not layers:
            fail("--net has no quantum layer, so --engine noisy has no effect.", USAGE_ERROR)
        engine = _open_noisy(str(config.noise), layers)
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


def _estimator(*flags: str, **options: Any) -> Any:
    panel = "With --engine estimator"
    return typer.Option(*flags, rich_help_panel=panel, show_default=False, **options)


@app.command(epilog=EXIT_CODES)
def evaluate(
    model: Model,
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
    backend: Annotated[
        str | None,
        _estimator(
            metavar="NAME",
            help="aer, a snapshot of a device such as fake_torino, ibm_... (paid), or what another "
            "package offers; `qpc backends` lists them. (default aer)",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        _estimator(
            metavar="SPEC",
            help="Noise on aer: a device's name, for its noise on its best patch; a channel such "
            "as depolarizing:0.01; a name of the catalog (`qpc noise list`); or a file, .toml or "
            ".json. (default none)",
        ),
    ] = None,
    shots: Annotated[
        int | None,
        _estimator(min=1, help="Per circuit execution. (default: exact on aer, else 4096)"),
    ] = None,
    precision: Annotated[
        float | None,
        _estimator(
            min=0, help="Standard error of every value, instead of shots; 0: exact, on simulators."
        ),
    ] = None,
    resilience: Annotated[
        int | None,
        _estimator(
            min=0,
            max=2,
            help="IBM's level: 0 none, 1 readout mitigation, 2 also zero-noise extrapolation; "
            "slow on a laptop. (default 0)",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        _estimator(metavar="job|batch|session", help="Of IBM's devices. (default job)"),
    ] = None,
    seed: Annotated[
        int | None, _estimator(min=0, help="Of shots and twirls; not for a real device.")
    ] = None,
    no_dedupe: Annotated[
        bool, _estimator("--no-dedupe", help="Run pixels of equal direction each on its own.")
    ] = False,
    economy: EconomyOption = None,
    encoder: Encoder = None,
    absorb_tail: AbsorbTail = None,
    patches: Patches = None,
    gap: Gap = None,
    references: References = None,
    no_calibrate: NoCalibrate = False,
    max_qpu_seconds: Annotated[
        float | None,
        _estimator(help="Send nothing if all jobs are predicted to take longer."),
    ] = None,
    yes: Annotated[
        bool, _estimator("--yes", help="Send to a real device without --max-qpu-seconds.")
    ] = False,
    data: Annotated[str | None, _data("name", "--data")] = None,
    data_dir: Annotated[Path | None, _data("data_dir")] = None,
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
    given: dict[str, Any] = {
        "backend": backend,
        "noise": noise,
        "shots": shots,
        "precision": precision,
        "resilience": resilience,
        "mode": mode,
        "seed": seed,
        "no_dedupe": no_dedupe or None,
        "economy": economy,
        "encoder": encoder,
        "absorb_tail": absorb_tail,
        "patches": patches,
        "gap": gap,
        "references": references,
        "no_calibrate": no_calibrate or None,
        "max_qpu_seconds": max_qpu_seconds,
        "yes": yes or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    with reported():
        check_extras(backend, noise, resilience)
        from qpc_qiskit.engines import ENGINES
        from qpc_qiskit.nets import quantum_layers
        from qpc_qiskit.training.checkpoint import load

        if engine not in ENGINES:
            expected = ", ".join(ENGINES)
            fail(f"Unknown engine {engine!r}; expected one of {expected}.", USAGE_ERROR)
        saving = check_estimator_options(engine, given)
        network, record = load(model)
        if engine != "exact" and not quantum_layers(network):
            fail(f"{model} has no quantum layer, so --engine {engine} has no effect.", USAGE_ERROR)
        source = record.data.source.model_dump() if record.data and record.data.source else {}
        if data is not None:
            source = {"name": data}
        if data_dir is not None:
            source["data_dir"] = str(data_dir.resolve())
        if "name" not in source:
            fail(f"{model} does not say which data it is for; give --data.", USAGE_ERROR)
        with usage_errors(FLAGS):
            data_source = DataSource(**source)
        chosen: EstimatorEngine | NoisyEngine | None = None
        if engine != "exact":
            saving = fitting_economy(saving, quantum_layers(network).values())
        if engine == "estimator":
            chosen = _open_estimator(given, saving, quantum_layers(network).values())
        elif engine == "noisy":
            options = {name: given[name] for name in ("shots", "seed") if name in given}
            chosen = _open_noisy(
                given["noise"], quantum_layers(network).values(), **options, **saving.for_engine()
            )
        if batch_size is None:
            batch_size = 4 if engine == "estimator" and _is_slow(given) else 64
        asked = (given, saving)
        _evaluate(network, record, data_source, chosen, asked, images, batch_size, as_json)


def _is_ibm(given: Mapping[str, Any]) -> bool:
    return str(given.get("backend", "")).startswith("ibm_")


def _is_slow(given: Mapping[str, Any]) -> bool:
    """Whether noise or mitigation is simulated here, so that a step takes long."""
    is_fake = str(given.get("backend", "")).startswith("fake_")
    return is_fake or "noise" in given or bool(given.get("resilience") and not _is_ibm(given))


def _open_estimator(
    given: Mapping[str, Any], economy: Economy, layers: "Iterable[QuantumLayer]"
) -> "EstimatorEngine":
    """The engine of the options that were given; leave if the layers do not fit on its backend."""
    from qpc_qiskit.common.progress import busy
    from qpc_qiskit.engines import EstimatorEngine

    backend, noise = given.get("backend", "aer"), None
    options = {
        name: value
        for name, value in given.items()
        if name not in ("backend", "noise", "no_dedupe", "yes", *NAMES)
    } | economy.for_engine()
    if "no_dedupe" in given:
        options["dedupe_grid"] = None
    if "noise" in given:
        noise = _parsed_noise(given["noise"])
    named = ("--noise", noise) if isinstance(noise, str) else ("--backend", backend)
    with backend_errors(*named):
        engine = EstimatorEngine.from_backend(backend, noise_model=noise, **options)
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
        fail(f"--noise: {error}", USAGE_ERROR)


def _open_noisy(word: str, layers: "Iterable[QuantumLayer]", **options: Any) -> "NoisyEngine":
    """The noisy engine for `--noise`; leave if the layers do not fit on its device."""
    from qpc_qiskit.common.progress import busy
    from qpc_qiskit.engines import NoisyEngine

    noise = _parsed_noise(word)
    with backend_errors("--noise", word):
        engine = NoisyEngine(noise, **options)
        with busy("Preparing the circuits"):
            for layer in layers:
                engine.prepare(layer.spec)
        return engine


def _evaluate(
    network: "ImageClassifier",
    record: "Record",
    source: DataSource,
    engine: "EstimatorEngine | NoisyEngine | None",
    asked: tuple[Mapping[str, Any], Economy],
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

    given, economy = asked
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
            if _is_ibm(given):
                usage.announce(engine, given.get("max_qpu_seconds"), "yes" in given)
            with busy(name, len(labels), "images") as bar:
                engine.on_fit = bar.fitting
                logits = predict(network, images, batch_size, bar.advance)
        told, words = usage.to_dict(engine), usage.text(engine, _is_ibm(given))
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
            "economy": economy.to_dict(),
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
