"""What every record of options is made of: fields that a command line is generated from.

A field says its name, type, default and text once. Where a command line has it otherwise than they
say, a `Flag` beside the type tells how; `qpc_cli.flags` makes the options of commands of both. What
is wrong with options is an `OptionError`, whose text names fields in braces: a command line, which
knows what it calls them, words it with its flags, and Python with the names of the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

_GIVEN = {"calibrate": "calibrate=False"}
"""What an error calls an argument whose default is not that nothing is done."""


class OptionError(ValueError):
    """An option that is wrong, contradicts another one or has no effect.

    Args:
        text: what is wrong; names of options, and of `values`, in braces.
        values: what came, by name.
    """

    def __init__(self, text: str, **values: object) -> None:
        self._text, self._values = text, values
        super().__init__(self.worded(lambda name: _GIVEN.get(name, name)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._text, self._values)

    def worded(self, name_of: Callable[[str], str]) -> str:
        """The text, with options called as `name_of` has it."""
        return self._text.format_map(_Words(self._values, name_of))


def _again(text: str, values: Mapping[str, object]) -> OptionError:
    return OptionError(text, **values)


class _Words(dict[str, object]):
    def __init__(self, values: Mapping[str, object], name_of: Callable[[str], str]) -> None:
        super().__init__(values)
        self._name_of = name_of

    def __missing__(self, name: str) -> str:
        return self._name_of(name)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """How a command line has a field, where its name, type and default do not say it."""

    name: str | None = None
    """Without dashes; None: as the field."""
    metavar: str | None = None
    low: int | None = None
    """The least number."""
    high: int | None = None
    word: str | None = None
    """That stands for None where a whole number of at least `low` is expected."""
    note: str | None = None
    """Behind the text, in parentheses; None: choices and default."""
    switch: tuple[Any, ...] = ()
    """What giving the option, which then takes no value, means: one value."""
    has_no: bool = False
    """Whether there is a `--no-...` as well."""
    is_path: bool = False
    is_json: bool = False

    def value(self, field: str, given: object) -> object:
        """What a value on the command line is for the field.

        Raises:
            OptionError: it is none.
        """
        if self.switch:
            return self.switch[0]
        if self.word is None:
            return given
        text, least = str(given), self.low or 0
        if text == self.word:
            return None
        if text.isascii() and text.isdecimal() and int(text) >= least:
            return int(text)
        raise OptionError(
            f"{{{field}}} must be a whole number of at least {least}, or {self.word}; got "
            "{got!r}.",
            got=text,
        )


class Options(BaseModel):
    """Base of the option records: frozen, and an unknown name is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def read(cls, **given: Any) -> Self:
        """The record of what a caller gives by keyword; what is wrong is told as to a caller.

        Raises:
            TypeError: there is no such option.
            OptionError: a value that is wrong, or options that contradict each other.
        """
        for name in given:
            if name not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                raise TypeError(f"unexpected keyword argument {name!r}; expected some of {known}")
        try:
            return cls(**given)
        except ValidationError as error:
            raise option_error(error) from None

    def changed(self, **changes: Any) -> Self:
        """The same with other values, which are not checked."""
        return self.model_copy(update=changes)

    def given(self, *without: str) -> dict[str, Any]:
        """What differs from the defaults, by name; without some."""
        names = (name for name in type(self).model_fields if name not in without)
        return {name: getattr(self, name) for name in names if self.is_given(name)}

    def is_given(self, name: str) -> bool:
        """Whether an option differs from its default."""
        value, default = getattr(self, name), type(self).model_fields[name].default
        if default is None:
            return value is not None and not (isinstance(value, Mapping) and not value)
        return bool(value != default)

    def _refuse_idle(self, names: tuple[str, ...], why: str) -> None:
        """Refuse options that differ from their defaults although nothing reads them."""
        idle = [name for name in names if self.is_given(name)]
        if idle:
            raise ValueError(f"{', '.join(idle)} would have no effect {why}; leave it out")


def option_error(error: ValidationError) -> OptionError:
    """What pydantic found first: the error of ours that it wraps, or its own words."""
    first = error.errors()[0]
    found = first.get("ctx", {}).get("error")
    if isinstance(found, OptionError):
        return found
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # several options contradict each other
        return OptionError("{message}", message=message)
    return OptionError(f"{{{first['loc'][0]}}}: {{message}}", message=message)


def flag_of(model: type[Options], field: str) -> Flag:
    """How a command line has a field."""
    found = (each for each in model.model_fields[field].metadata if isinstance(each, Flag))
    return next(found, Flag())
