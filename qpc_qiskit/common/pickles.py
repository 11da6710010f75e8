"""Pickles of other people, of which the plain values are read and nothing is called.

Python's unpickler is no reader for a file from anywhere: it calls what it is told to, takes memory
for sizes that are only claimed, and can be made to crash with tuples alone, by hashing one that is
nested deeply. Here the operations are gone through one by one, those that containers, numbers, text
and bytes need are done, and a call of one of a few names is recorded with its arguments.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

MAX_OPERATIONS = 10**6
"""In a pickle; a batch of CIFAR-10 has 5e4."""
_MAX_TUPLES = 20_000  # a tensor has four; nested in each other, so many can still be hashed


class PickleError(ValueError):
    """A pickle asks for something that is not done."""


@dataclass(frozen=True, eq=False)
class Name:
    """A reference to something importable; it is not imported."""

    name: str
    """`module.name`."""


@dataclass(eq=False)
class Call:
    """A call that was asked for, and not made."""

    name: str
    """`module.name` of what is called."""
    arguments: tuple[Any, ...]
    state: Any = None
    """That the result would be given."""


def recorded(content: bytes, names: Collection[str]) -> Any:
    """The plain values of a pickle.

    Time and memory are those of its bytes and operations: nothing is copied that it repeats.

    Args:
        content: the pickle, of any protocol.
        names: `module.name` of what it may refer to and ask to be called.

    Returns:
        None, numbers, `str`, `bytes`, tuples, lists and dictionaries (with keys that are text
        or bytes), `Name` and `Call`. Text of Python 2 is `bytes`.

    Raises:
        PickleError: it refers to another name, or asks for an operation of no use here.
        ValueError, IndexError: it is damaged.
    """
    machine = _Machine(len(content), names)
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if count >= MAX_OPERATIONS:
            raise PickleError(f"more than {MAX_OPERATIONS:,} operations")
        if operation.name in _VALUES:
            machine.stack.append(_VALUES[operation.name](argument))
        elif operation.name in _OPERATIONS:
            _OPERATIONS[operation.name](machine, argument)
        else:
            raise PickleError(f"the operation {operation.name}")
    return machine.stack[-1]


def check_for_torch(content: bytes, names: Collection[str]) -> None:
    """Refuse a pickle that torch's reader of plain tensors should not be given.

    That one calls what it knows and nothing else, which is more than a training's state needs; and
    it can be made to crash by the hash of a tuple that is nested deeply.

    Args:
        content: the pickle.
        names: `module.name` of what it may refer to.

    Raises:
        PickleError: it refers to another name, or is larger than any state.
        ValueError: it is damaged.
    """
    num_tuples = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        num_tuples += operation.name.startswith("TUPLE")
        if count >= MAX_OPERATIONS or num_tuples > _MAX_TUPLES:
            raise PickleError(f"more than {count:,} operations, {num_tuples:,} of them tuples")
        if operation.name == "GLOBAL" and str(argument).replace(" ", ".") not in names:
            raise PickleError(f"a reference to {str(argument)[:100]}")
        if operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise PickleError(f"the operation {operation.name}")


class _Machine:
    """Stack and memo of a pickle.

    Args:
        size: of the pickle, in bytes.
        names: see `recorded`.
    """

    def __init__(self, size: int, names: Collection[str]) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._unencoded, self._names = size, names

    def nothing(self, _: object) -> None:
        """Protocol, frame, end."""

    def mark(self, _: object) -> None:
        self._marks.append(len(self.stack))

    def _to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise PickleError(f"the entry {index} of the memo, which is empty")
        self.stack.append(self._memo[index])

    def make_list(self, _: object) -> None:
        self.stack.append(self._to_mark())

    def make_tuple(self, _: object) -> None:
        self.stack.append(tuple(self._to_mark()))

    def make_dict(self, _: object) -> None:
        items = self._to_mark()
        self.stack.append({})
        self._set(items)

    def tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def append(self, _: object) -> None:
        self._extend([self.stack.pop()])

    def extend(self, _: object) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not list:
            raise PickleError(f"a {type(into).__name__.lower()} that is appended to")
        into += items

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def set_items(self, _: object) -> None:
        self._set(self._to_mark())

    def _set(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not dict:
            raise PickleError(f"a {type(into).__name__.lower()} whose items are set")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes):  # the hash of a tuple is that of its parts
                raise PickleError(f"a {type(key).__name__.lower()} as a key")
            into[key] = value

    def refer(self, argument: str | None) -> None:
        if argument is None:
            name, module = self.stack.pop(), self.stack.pop()
        else:
            module, _, name = argument.partition(" ")
        found = f"{module}.{name}" if isinstance(name, str) and isinstance(module, str) else "?"
        if found not in self._names:
            raise PickleError(f"a reference to {found[:100]}")
        self.stack.append(Name(found))

    def call(self, _: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise PickleError("a call of what is no name")
        is_text = function.name == "_codecs.encode" and len(arguments) == 2
        if is_text and type(arguments[0]) is str and arguments[1] in ("latin1", "latin-1"):
            self.stack.append(self._encoded(arguments[0]))
        else:
            self.stack.append(Call(function.name, arguments))

    def _encoded(self, text: str) -> bytes:
        """Bytes, which Python 3 writes so where the protocol has none."""
        self._unencoded -= len(text)
        if self._unencoded < 0:  # a text of the memo, again and again
            raise PickleError("more bytes than it has")
        return text.encode("latin-1")

    def set_state(self, _: object) -> None:
        state, called = self.stack.pop(), self.stack[-1]
        if type(called) is not Call or called.state is not None:
            raise PickleError(f"the state of a {type(called).__name__.lower()}")
        called.state = state


def _itself(argument: Any) -> Any:
    return argument


def _latin(argument: str) -> bytes:
    return argument.encode("latin-1")


_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _itself),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _itself),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _itself),
    **dict.fromkeys(("STRING", "SHORT_BINSTRING", "BINSTRING"), _latin),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), bytes),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
}
"""Operations that put a value on the stack."""

_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.nothing),
    "MARK": _Machine.mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "LIST": _Machine.make_list,
    "TUPLE": _Machine.make_tuple,
    "DICT": _Machine.make_dict,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.refer),
    "REDUCE": _Machine.call,
    "BUILD": _Machine.set_state,
}
"""The others that are done."""
