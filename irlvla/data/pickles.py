"""Pickles of plain values and NumPy arrays, read such that a hostile file runs nothing, and takes time and memory in proportion to its size.

Two guards. Before anything is unpickled a kernel walks the opcodes with a stack of kinds: what an argument declares has to be in the file,
memo numbers stay below its size, keys are strings or small numbers (tuples and large numbers can be made to hash for ever), lists grow
as lists and dictionaries as dictionaries, and only names are called. Then the only names there are, are the few that NumPy pickles
arrays with, and each is a function of ours: NumPy's own trust the sizes and types that a file gives.

Objects of foreign classes come out as `Made`: what was called with what, and the state that was set; nothing of those classes is
imported, and none can be named that the caller did not list.

Source: CPython 3.11, Lib/pickletools.py (opcodes); NumPy 2.4, numpy/_core/src/multiarray/methods.c (states of arrays and types).
"""

import io
import math
import pickle
import re
from collections.abc import Callable, Collection
from typing import Any, no_type_check

import numpy as np
from numba import njit

from irlvla.files import short

_NONE, _LINE, _LINES, _COUNT_1, _COUNT_4, _COUNT_8, _REFUSED = 0, -1, -2, -3, -4, -5, -6
_OTHER, _KEY, _LIST, _DICT, _TUPLE, _NAME, _MADE = range(7)
_COMPLAINTS = (
    "",
    "ends in the middle of a value",
    "an opcode that no log needs",
    "takes from an empty stack",
    "a memo number that is not in use or larger than the file",
    "a key that is neither text nor a small number",
    "an item for what is no list or dictionary",
    "a call of, or a state for, what is not listed",
    "lacks its end",
)
_ARGUMENTS = np.full(256, _REFUSED, np.int64)
"""What follows an opcode: so many bytes, lines of text, or a count of 1, 4 or 8 bytes and so many bytes."""
for _codes, _argument in (
    (b"(.01NRabde})l]stu2\x81\x85\x86\x87\x88\x89\x93\x94", _NONE), (b"Khq", 1), (b"M", 2), (b"Jjr", 4), (b"G\x95", 8), (b"\x80", 1),
    (b"FILSVgp", _LINE), (b"c", _LINES), (b"CU\x8a\x8c", _COUNT_1), (b"BTX\x8b", _COUNT_4), (b"\x8d\x8e\x96", _COUNT_8),
):  # fmt: skip
    _ARGUMENTS[list(_codes)] = _argument
_PUSHED = np.full(256, -1, np.int64)
"""Kind of the value that an opcode without other effect leaves."""
for _codes, _kind in (
    (b"NFILGBC\x88\x89\x8a\x8b\x8e\x96", _OTHER), (b"JKMSTUVX\x8c\x8d", _KEY), (b"]", _LIST), (b"}", _DICT), (b")", _TUPLE), (b"c", _NAME),
):  # fmt: skip
    _PUSHED[list(_codes)] = _kind


def unpickled(content: bytes, classes: Collection[str] = ()) -> Any:
    """The value in a pickle: None, numbers, text, bytes, lists, tuples, dictionaries with keys of text or small numbers, NumPy arrays.

    Args:
        content: The pickle.
        classes: Full names of foreign classes (and functions) whose objects may be in it; each comes out as a `Made`.

    Raises:
        pickle.UnpicklingError: The content is damaged, or asks for what is not listed; other errors of `BAD_PICKLE` for damaged values.
    """
    code, place = _complaint(np.frombuffer(content, np.uint8))
    if code:
        raise pickle.UnpicklingError(f"byte {place}: {_COMPLAINTS[code]}")
    return _Unpickler(content, classes).load()


BAD_PICKLE = (
    pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError, RecursionError,
)  # fmt: skip
"""What reading a damaged pickle can raise."""


class Made:
    """Stands for an object of a listed foreign class: the class's full name, what it was made with, and its state."""

    __slots__ = ("arguments", "state")
    name = ""

    def __new__(cls, *arguments: Any) -> "Made":
        """Called by the unpickler, as the foreign class would be."""
        made = object.__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def state_of(value: Any, name: str) -> dict[str, Any]:
    """The attributes of an object of a foreign class, from `__dict__` and slots alike.

    Args:
        value: A `Made`.
        name: The last part of the class's name.

    Raises:
        ValueError: The value is of another class or has no attributes.
    """
    if not isinstance(value, Made) or value.name.rpartition(".")[2] != name:
        kind = value.name.rpartition(".")[2] if isinstance(value, Made) else short(value)
        raise ValueError(f"{kind} stands where a {name} belongs")
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:
        # Of a class with slots: those attributes come second.
        state = {**(state[0] if isinstance(state[0], dict) else {}), **(state[1] if isinstance(state[1], dict) else {})}
    if not isinstance(state, dict):
        raise ValueError(f"a {name} has no attributes")
    return state


def arguments_of(value: Any, name: str, count: int) -> tuple[Any, ...]:
    """What an object of a foreign class (or the value of an enum) was made with.

    Args:
        value: A `Made`.
        name: The last part of the class's name.
        count: How many arguments it takes at least; only these come back.

    Raises:
        ValueError: The value is of another class or was made with fewer arguments.
    """
    if not isinstance(value, Made) or value.name.rpartition(".")[2] != name:
        kind = value.name.rpartition(".")[2] if isinstance(value, Made) else short(value)
        raise ValueError(f"{kind} stands where a {name} belongs")
    if len(value.arguments) < count:
        raise ValueError(f"a {name} is made of {len(value.arguments)} values, not {count}")
    return value.arguments[:count]


class _Name:
    """A name in a pickle, and what calling it does; it has no state that a pickle could set."""

    __slots__ = ("_made",)

    def __init__(self, made: Callable[..., Any]) -> None:
        self._made = made

    def __call__(self, *arguments: Any) -> Any:
        return self._made(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a function")


class _Type:
    """A NumPy type as a pickle gives it: letter and size, then the byte order as its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|i[1248]|u[1248]|f[248]|c8|c16|O8?|[SU][1-9][0-9]{0,5}", code):
            raise pickle.UnpicklingError(f"an array of the type {short(code)}")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("a NumPy type with fields or of an unknown order")
        self.order = state[1]


_PLAIN = (str, int, float, bool, type(None))


class _Array(np.ndarray):
    """An array from a pickle; until it is complete, `unpickler` counts for it what has been made."""

    __slots__ = ("unpickler",)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array whose state has another form")
        _, shape, kind, fortran, values = state
        unpickler, self.unpickler = self.unpickler, None
        dtype = unpickler.dtype(kind)
        if dtype.hasobject:
            # Only plain elements: arrays in arrays could be nested without end.
            if not isinstance(values, list) or not all(type(value) in _PLAIN or isinstance(value, Made) for value in values):
                raise pickle.UnpicklingError("an array of objects that are not numbers or text")
            unpickler.count(shape, 1, len(values))
        else:
            if not isinstance(values, bytes):
                raise pickle.UnpicklingError(f"an array whose values are {type(values).__name__}")
            unpickler.count(shape, dtype.itemsize, len(values))
        super().__setstate__((1, shape, dtype, fortran is True or fortran == 1, values))


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, classes: Collection[str]) -> None:
        super().__init__(io.BytesIO(content))
        # Protocols before 3 write the bytes of an array as text first.
        self._left = {"arrays": len(content), "text": len(content)}
        core = ("numpy.core", "numpy._core")
        names = {("_codecs", "encode"): self._encoded, ("numpy", "ndarray"): self._refused, ("numpy", "dtype"): self._type}
        names |= {(f"{room}.multiarray", "_reconstruct"): self._reconstructed for room in core}
        names |= {(f"{room}.multiarray", "scalar"): self._scalar for room in core}
        names |= {(f"{room}.numeric", "_frombuffer"): self._from_buffer for room in core}
        self._names: dict[tuple[str, str], Any] = {name: _Name(made) for name, made in names.items()}
        # What opcodes call has to be a class; that of a foreign name is made here, with a name and nothing else of its own.
        self._names |= {tuple(full.rsplit(".", 1)): type("Made", (Made,), {"__slots__": (), "name": full}) for full in classes}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"class {short(f'{module}.{name}')[1:-1]} is not allowed in this kind of file")
        return self._names[module, name]

    def count(self, shape: Any, itemsize: int, held: int) -> None:
        """Checks an array's shape against the bytes (or elements) that it was given, and those against the rest of the file."""
        whole = isinstance(shape, tuple) and len(shape) <= 8 and all(type(length) is int and 0 <= length < 2**40 for length in shape)
        if not whole or math.prod(shape) * itemsize != held:
            raise pickle.UnpicklingError(f"an array of the shape {short(shape) if whole else '?'} out of {held} bytes or elements")
        self._take("arrays", held)

    def _take(self, what: str, size: int) -> None:
        self._left[what] -= size
        if self._left[what] < 0:
            raise pickle.UnpicklingError(f"more bytes in {what} than the file has")

    def dtype(self, kind: Any) -> np.dtype:
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError(f"an array whose type is {type(kind).__name__}")
        return np.dtype(kind.order + kind.code)

    def _type(self, code: Any, *_: Any) -> _Type:
        return _Type(code)

    def _refused(self, *_: Any) -> None:
        raise pickle.UnpicklingError("an array made by its class")

    def _reconstructed(self, kind: Any, shape: Any, _code: Any) -> _Array:
        if kind is not self._names["numpy", "ndarray"] or shape != (0,):
            raise pickle.UnpicklingError(f"an array of another class or begun with the shape {short(shape)}")
        array = np.ndarray.__new__(_Array, (0,), np.int8)
        array.unpickler = self
        return array

    def _scalar(self, kind: Any, value: Any) -> np.generic:
        dtype = self.dtype(kind)
        if dtype.hasobject or not isinstance(value, bytes):
            raise pickle.UnpicklingError(f"a NumPy scalar of {dtype} out of {type(value).__name__}")
        self.count((), dtype.itemsize, len(value))
        return np.frombuffer(value, dtype)[0]

    def _from_buffer(self, values: Any, kind: Any, shape: Any, order: Any) -> _Array:
        dtype = self.dtype(kind)
        if dtype.hasobject or not isinstance(values, bytes | bytearray) or order not in ("C", "F"):
            raise pickle.UnpicklingError(f"an array of {dtype} out of {type(values).__name__}")
        self.count(shape, dtype.itemsize, len(values))
        return np.frombuffer(values, dtype).reshape(shape, order=order).view(_Array)

    def _encoded(self, text: Any, encoding: Any) -> bytes:
        """How protocols before 3 write bytes."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"{type(text).__name__} encoded as {short(encoding)}")
        self._take("text", len(text))
        return text.encode("latin1")


@no_type_check
@njit(cache=True, nogil=True)
def _complaint(content):
    """Number of a complaint (0: none) and its place, after following the opcodes without making a value."""
    size = len(content)
    kinds, marks = np.empty(size + 1, np.int8), np.empty(size + 1, np.int64)
    memo = np.full(size + 1, -1, np.int8)
    height, depth, stored, place = 0, 0, 0, 0
    while place < size:
        start = place
        code = np.int64(content[start])
        argument = _ARGUMENTS[code]
        place += 1
        if argument == _REFUSED:
            return 2, start
        value = 0
        if argument > 0:
            if place + argument > size:
                return 1, start
            for byte in range(min(argument, 4)):
                value += np.int64(content[place + byte]) << (8 * byte)
            place += argument
        elif argument <= _COUNT_1:
            width = 1 if argument == _COUNT_1 else 4 if argument == _COUNT_4 else 8
            if place + width > size:
                return 1, start
            for byte in range(width):
                if byte > 4 and content[place + byte]:
                    return 1, start
                value += np.int64(content[place + byte]) << (8 * byte)
            place += width
            if place + value > size:
                return 1, start
            place += value
        elif argument < 0:
            is_number = True
            for _ in range(-argument):
                while place < size and content[place] != 10:
                    digit = np.int64(content[place]) - 48
                    is_number = is_number and 0 <= digit <= 9 and value <= size
                    value = value * 10 + digit if is_number else 0
                    place += 1
                place += 1
            if place > size:
                return 1, start
            if not is_number and (code == 103 or code == 112):
                return 4, start
        fence = marks[depth - 1] if depth else 0
        if code == 46:  # STOP
            return (0, start) if height == 1 and depth == 0 else (3, start)
        if _PUSHED[code] >= 0:
            kinds[height] = _PUSHED[code]
            height += 1
        elif code == 40:  # MARK
            marks[depth] = height
            depth += 1
        elif code == 48:  # POP
            if depth and fence == height:
                depth -= 1
            elif height == fence:
                return 3, start
            else:
                height -= 1
        elif code == 50:  # DUP
            if height == fence:
                return 3, start
            kinds[height] = kinds[height - 1]
            height += 1
        elif code == 104 or code == 106 or code == 103:  # BINGET, LONG_BINGET, GET
            if value >= size or memo[value] < 0:
                return 4, start
            kinds[height] = memo[value]
            height += 1
        elif code == 113 or code == 114 or code == 112 or code == 148:  # BINPUT, LONG_BINPUT, PUT, MEMOIZE
            if height == fence:
                return 3, start
            value = stored if code == 148 else value
            if value >= size:
                return 4, start
            stored += memo[value] < 0
            memo[value] = kinds[height - 1]
        elif code == 133 or code == 134 or code == 135:  # TUPLE1, TUPLE2, TUPLE3
            if height - (code - 132) < fence:
                return 3, start
            height -= code - 133
            kinds[height - 1] = _TUPLE
        elif code == 116 or code == 108 or code == 100 or code == 49 or code == 101 or code == 117:  # up to a mark
            if depth == 0:
                return 3, start
            depth -= 1
            below = marks[depth - 1] if depth else 0
            if code == 100 or code == 117:  # DICT, SETITEMS
                if (height - fence) % 2:
                    return 5, start
                for key in range(fence, height, 2):
                    if kinds[key] != _KEY:
                        return 5, start
            height = fence
            if code == 101 or code == 117:  # APPENDS, SETITEMS
                if height == below or kinds[height - 1] != (_LIST if code == 101 else _DICT):
                    return 6, start
            elif code != 49:
                kinds[height] = _TUPLE if code == 116 else _LIST if code == 108 else _DICT
                height += 1
        elif code == 97 or code == 115:  # APPEND, SETITEM
            taken = 1 if code == 97 else 2
            if height - taken <= fence:
                return 3, start
            height -= taken
            if code == 115 and kinds[height] != _KEY:
                return 5, start
            if kinds[height - 1] != (_LIST if code == 97 else _DICT):
                return 6, start
        elif code == 82 or code == 98 or code == 129 or code == 147:  # REDUCE, BUILD, NEWOBJ, STACK_GLOBAL
            if height - 2 < fence:
                return 3, start
            height -= 1
            if (code == 82 or code == 129) and (kinds[height - 1] != _NAME or kinds[height] != _TUPLE):
                return 7, start
            if code == 98 and kinds[height - 1] != _MADE:
                return 7, start
            if code == 147 and (kinds[height - 1] != _KEY or kinds[height] != _KEY):
                return 7, start
            kinds[height - 1] = _MADE if code != 147 else _NAME
    return 8, size
