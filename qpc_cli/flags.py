"""Options of commands, generated from the records of `qpc_qiskit.options`.

A parameter of a command that is annotated with `Flags` stands for many options: typer sees one for
each field, made of its type, text, default and `Flag`, and the command gets what was given, as it
was given, by the names on the command line. `fields_of` makes of that the fields of a record, and
`usage_errors` words whatever the record refuses with the flags.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from inspect import Parameter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import ValidationError

from qpc_qiskit.common.files import parse_json, read_file
from qpc_qiskit.options.economy import ALL_OR_NOTHING, BEST, PLAIN, Economy
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.options.fields import OptionError, Options, flag_of, option_error

Given = dict[str, Any]
"""What was given on the command line, by the names of options there."""


@dataclass(frozen=True)
class Flags:
    """Options for fields of a record.

    Args:
        model: the record.
        names: fields, in the order of the help.
        panel: heading in the help.
        texts: text in the help, where it is not that of the field.
        without: fields to leave out, where no names are given.
        is_required: whether they must be given.
    """

    model: type[Options]
    names: tuple[str, ...] = ()
    panel: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    is_required: bool = False

    def parameters(self) -> Iterator[Parameter]:
        """As typer takes them."""
        for name in self.names or [n for n in self.model.model_fields if n not in self.without]:
            yield self._parameter(name)

    def _parameter(self, name: str) -> Parameter:
        flag = flag_of(self.model, name)
        kind = bool if flag.switch else _plain(self.model.model_fields[name].annotation)[0]
        if flag.is_path:
            kind = Path
        elif flag.metavar is not None:  # read by `fields_of` or checked by the record
            kind = str
        option = option_of(
            self.model,
            name,
            self.panel,
            text=self.texts.get(name),
            is_required=self.is_required,
        )
        is_open = not flag.switch and not self.is_required
        return Parameter(
            _called(self.model, name).replace("-", "_"),
            Parameter.KEYWORD_ONLY,
            default=None if is_open else False if flag.switch else Parameter.empty,
            annotation=Annotated[(kind | None) if is_open else kind, option],
        )


def option_of(
    model: type[Options],
    name: str,
    panel: str | None,
    *,
    text: str | None = None,
    is_required: bool = False,
) -> Any:
    """A command line option for a field: text, choices and default are those of the field.

    Args:
        model: the record.
        name: the field.
        panel: heading in the help.
        text: instead of the field's.
        is_required: whether it must be given, so that no default counts.

    Returns:
        What `typer.Option` returns, for a parameter whose own default is None.
    """
    flag, info = flag_of(model, name), model.model_fields[name]
    kind, choices = _plain(info.annotation)
    note = flag.note
    if note is None:
        is_hidden = is_required or flag.switch or info.default is None or info.default is False
        told = "" if is_hidden else f"default {info.default}"
        note = "; ".join(filter(None, (", ".join(choices), told)))
    called = f"--{_called(model, name)}"
    no = f"/--no-{called[2:]}" if flag.has_no else ""
    return typer.Option(
        *([called + no] if flag.switch or kind is bool or flag.name else []),
        help=f"{text or info.description} ({note})" if note else text or info.description,
        metavar=flag.metavar,
        min=flag.low if flag.word is None else None,
        max=flag.high,
        show_default=False,
        rich_help_panel=panel,
    )


@dataclass(frozen=True)
class Extra:
    """An option that is no field of a record: as a parameter of the command would have it."""

    name: str
    annotation: Any
    option: Any
    default: Any = None

    def parameters(self) -> Iterator[Parameter]:
        """As typer takes it."""
        yield Parameter(
            self.name,
            Parameter.KEYWORD_ONLY,
            default=self.default,
            annotation=Annotated[self.annotation, self.option],
        )


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options that its parameters of `Flags` and `Extra` stand for."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[Parameter] = []
    gathered: dict[str, list[Parameter]] = {}
    for each in inspect.signature(command).parameters.values():
        hint = hints[each.name]
        sources = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Flags | Extra)]
        if sources:
            gathered[each.name] = [made for source in sources for made in source.parameters()]
            parameters += gathered[each.name]
        else:
            parameters.append(each.replace(annotation=hint, kind=Parameter.KEYWORD_ONLY))

    @wraps(command)
    def told(**values: Any) -> None:
        for name, options in gathered.items():
            given = {option.name: values.pop(option.name) for option in options}
            defaults = {option.name: option.default for option in options}
            values[name] = {
                key: value
                for key, value in given.items()
                if value is not None and (value is not False or defaults[key] is not False)
            }
        command(**values)

    shown: Any = told
    shown.__signature__ = inspect.Signature(parameters)
    shown.__annotations__ = {each.name: each.annotation for each in parameters}
    return told


def fields_of(model: type[Options], given: Given) -> dict[str, Any]:
    """Fields of a record, of what was given on the command line; what is none is left out.

    Raises:
        OptionError: a value that cannot be meant.
    """
    found: dict[str, Any] = {}
    for name in model.model_fields:
        flag = flag_of(model, name)
        called = _called(model, name).replace("-", "_")
        if called in given:
            value = given[called]
            if flag.is_path:
                found[name] = str(value.resolve())
            elif flag.is_json:
                found[name] = parse_options(value)
            else:
                found[name] = flag.value(name, value)
    return found


def parse_options(text: str) -> dict[str, Any]:
    """Options of what runs the circuits: a JSON object, or @ and the name of a file with one.

    Raises:
        OptionError: neither.
    """

    def problem(reason: str) -> OptionError:
        return OptionError(
            "{options} must be a JSON object, or @FILE with one: {reason}", reason=reason
        )

    content: str | bytes = text
    if text.startswith("@"):
        try:
            content = read_file(Path(text[1:]), problem)
        except OSError as error:
            raise OptionError(
                "{options}: cannot read {file}: {reason}.", file=text[1:], reason=error.strerror
            ) from error
    found = parse_json(content, text[:50], problem)
    if not isinstance(found, dict):
        raise problem(f"got {text[:50]!r}.")
    return found


def engine_options(given: Given, usual: Economy = PLAIN) -> EngineOptions:
    """The options of an engine that runs circuits.

    Args:
        given: `economy` is `best` or `plain`; what else is given goes before it.
        usual: how QPU time is saved where `economy` is not given.

    Raises:
        ValidationError: options that contradict each other.
        OptionError: a value that cannot be meant.
    """
    word = given.get("economy")
    if word not in (None, *ALL_OR_NOTHING):
        raise OptionError(
            f"{{economy}} must be one of {', '.join(ALL_OR_NOTHING)}; got {{got!r}}.", got=word
        )
    saving = usual if word is None else {"best": BEST, "plain": PLAIN}[word]
    return EngineOptions(**saving.model_dump() | fields_of(EngineOptions, given))


def names_of(model: type[Options]) -> set[str]:
    """The names of a record's options on the command line."""
    return {_called(model, name).replace("-", "_") for name in model.model_fields}


def spelled(name: str, *models: type[Options]) -> str:
    """A field, or a name on the command line, as its flag.

    Args:
        name: of either.
        models: the records that may have it, besides the options of engines.
    """
    known: tuple[type[Options], ...] = (*models, EngineOptions)
    for model in known:
        if name in model.model_fields:
            return f"--{_called(model, name)}"
    return f"--{name.replace('_', '-')}"


def worded(error: OptionError | ValidationError, *models: type[Options]) -> str:
    """What is wrong, with the flags of a command line; see `spelled`."""
    told = option_error(error) if isinstance(error, ValidationError) else error
    return told.worded(lambda name: spelled(name, *models))


@contextmanager
def usage_errors(refuse: Callable[[str], Any], *models: type[Options]) -> Iterator[None]:
    """Hand what records refuse to `refuse`, in the words of a command line; see `spelled`.

    Args:
        refuse: leaves, or raises.
        models: whose names count first.
    """
    try:
        yield
    except (ValidationError, OptionError) as error:
        refuse(worded(error, *models))


def _called(model: type[Options], field: str) -> str:
    return flag_of(model, field).name or field.replace("_", "-")


def _plain(annotation: Any) -> tuple[Any, tuple[str, ...]]:
    """The type of an option, and its choices: words are checked by the record."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (each for each in get_args(annotation) if each is not type(None))
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    return annotation, ()
