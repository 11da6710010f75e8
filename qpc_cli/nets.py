"""`qpc nets`: the networks that `qpc train` knows, and where their parameters are."""

from typing import Annotated, Any

import typer

from qpc_cli.flags import usage_errors
from qpc_cli.support import EXIT_CODES, USAGE_ERROR, fail, refuse, reported, say
from qpc_qiskit.common.tables import table
from qpc_qiskit.options.presets import PRESETS
from qpc_qiskit.options.records import ARCHITECTURES, IMAGE_SHAPES, NetConfig

nets_app = typer.Typer()


@nets_app.command(epilog=EXIT_CODES)
def nets(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Networks or presets to count layer by layer.", show_default=False
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(help=f"For the images of: {', '.join(IMAGE_SHAPES)}.")
    ] = "digits",
    pointwise: Annotated[
        str | None,
        typer.Option(help="With this in the place of the quantum layers.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
    ] = False,
) -> None:
    """List the networks and presets with their numbers of parameters, or count some by layer.

    For instance:

      qpc nets --data cifar10

      qpc nets paper-fig3a paper-fig3b --data cifar10
    """
    with reported():
        if data not in IMAGE_SHAPES:
            fail(f"--data must be one of {', '.join(IMAGE_SHAPES)}; got {data!r}.", USAGE_ERROR)
        for name in names or ():
            if name not in ARCHITECTURES and name not in PRESETS:
                known = ", ".join(dict.fromkeys([*ARCHITECTURES, *PRESETS]))
                fail(f"NAME must be one of {known}; got {name!r}.", USAGE_ERROR)
        _count(names or [], data, pointwise, as_json)


def _config(name: str, data: str, pointwise: str | None) -> NetConfig:
    channels, size = IMAGE_SHAPES[data]
    options: dict[str, Any] = {"name": name} if name in ARCHITECTURES else dict(PRESETS[name].net)
    if pointwise is not None:
        options["pointwise"] = pointwise
    with usage_errors(refuse, NetConfig):
        return NetConfig(in_channels=channels, image_size=size, **options)


def _count(names: list[str], data: str, pointwise: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from qpc_qiskit.nets import build_net, parameter_table

    wanted = names
    if not names:  # those on which the option has no effect are left out
        wanted = [
            name
            for name, architecture in ARCHITECTURES.items()
            if pointwise is None or "pointwise" not in architecture.idle
        ]
    counts = {name: parameter_table(build_net(_config(name, data, pointwise))) for name in wanted}
    result = {
        name: {
            "text": (ARCHITECTURES if name in ARCHITECTURES else PRESETS)[name].text,
            "parameters": count.total,
            "trainable": count.trainable,
            "pointwise": count.pointwise,
            "layers": [asdict(layer) for layer in count.layers],
        }
        for name, count in counts.items()
    }
    if names:
        text = "\n\n".join(f"{name}\n{count}" for name, count in counts.items())
    else:
        rows = [
            (name, str(found["text"]), str(found["pointwise"]), str(found["parameters"]))
            for name, found in result.items()
        ]
        text = table([("network", "", "pointwise", "parameters"), *rows])
        presets = [(f"--preset {name}", preset.text) for name, preset in PRESETS.items()]
        text += "\n\n" + table(presets)
    say(as_json, {"data": data, "networks": result}, text)
