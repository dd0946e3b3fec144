from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refold
from refold.interop._pickle import ADMITTED, read_arrays

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64")


RECONSTRUCT = import_module("numpy._core.multiarray")._reconstruct


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def named(name: str) -> Any:
    """A function that a pickle writes down under this name."""
    module, _, leaf = name.rpartition(".")
    return getattr(import_module(module), leaf)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state.pdparams"


def write(place: Path, held: Any, protocol: int = 4) -> Path:
    place.write_bytes(pickle.dumps(held, protocol))
    return place


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back_as_they_were(dtype: str, protocol: int, place: Path, rng: np.random.Generator) -> None:
    numbers = (rng.random((3, 4, 5)) * 200 - 100).astype(dtype)
    arrays = {
        "rows": numbers,
        "columns": np.asfortranarray(numbers),
        "every other": numbers[:, ::2],
        "foreign": numbers.astype(numbers.dtype.newbyteorder(">")),
        "empty": numbers[:0],
        "none": numbers.reshape(-1)[0].reshape(()),
        "scalar": numbers.reshape(-1)[0],
    }
    found = read_arrays(write(place, arrays, protocol))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert isinstance(found[name], np.ndarray)
        assert found[name].dtype == np.dtype(dtype)
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
        assert found[name].flags.writeable


def test_plain_containers_are_admitted(place: Path) -> None:
    held = OrderedDict(a=np.ones(2), names={"a": "conv2d_0.w_0"}, epoch=3, sizes=[(1, 2), None], pair=("w_0", np.zeros(3)))
    found = read_arrays(write(place, held))
    assert (found["names"], found["epoch"], found["sizes"]) == (held["names"], 3, [(1, 2), None])
    assert found["pair"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("os.system", ("touch {}",)),
        ("builtins.eval", ("open('{}', 'w')",)),
        ("builtins.exec", ("open('{}', 'w')",)),
        ("builtins.open", ("{}", "w")),
        ("builtins.getattr", ("{}", "join")),
        ("functools.partial", (print,)),
        ("types.SimpleNamespace", ()),
        ("numpy.fromfile", ("{}",)),
        ("numpy.load", ("{}",)),
    ],
)
def test_any_other_name_is_refused_and_said_and_not_called(name: str, arguments: tuple[Any, ...], place: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    given = tuple(one.format(mark) if isinstance(one, str) else one for one in arguments)
    function = named(name)
    written = f"{function.__module__}.{function.__qualname__}"
    write(place, {"w": np.ones(1), "bad": Call(function, *given)})
    with pytest.raises(
        refold.FoldError, match=rf"state\.pdparams names {written}, which is neither an array nor a plain container, so it was not read fur"
    ):
        read_arrays(place)
    assert not mark.exists()


def test_attributes_of_what_is_admitted_cannot_be_reached(place: Path) -> None:
    place.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.")
    with pytest.raises(refold.FoldError, match=r"names numpy\.ndarray\.__reduce__, which is neither"):
        read_arrays(place)


@pytest.mark.parametrize("name", sorted(ADMITTED))
@pytest.mark.parametrize("state", [b"}\x8c\x04make\x8c\x01xs", b"N}\x8c\x04make\x8c\x01xs\x86"])
def test_what_stands_in_for_a_name_cannot_be_changed(name: str, state: bytes, place: Path) -> None:
    module, _, leaf = name.rpartition(".")
    before = ADMITTED[name].make
    text = b"".join(b"\x8c" + bytes([len(one)]) + one.encode() for one in (module, leaf))
    place.write_bytes(b"\x80\x04" + text + b"\x93" + state + b"b.")
    with pytest.raises(refold.FoldError, match=r"is not a pickle of arrays .*a pickle must not change what it names"):
        read_arrays(place)
    assert ADMITTED[name].make is before


@pytest.mark.parametrize("held", [np.array([{"a": 1}], dtype=object), np.array(["text"]), np.array([(1, 2.0)], dtype="i4,f8")])
def test_arrays_of_anything_but_numbers_are_refused(held: Any, place: Path) -> None:
    write(place, {"w": held})
    with pytest.raises(refold.FoldError, match=r"holds an array of dtype '[OUV]\d+', where numbers alone are admitted; save the numbers"):
        read_arrays(place)


@pytest.mark.parametrize("held", [[np.ones(2)], np.ones(2), 3])
def test_a_file_that_is_not_a_dict_says_what_it_is(held: Any, place: Path) -> None:
    write(place, held)
    with pytest.raises(
        refold.FoldError, match=r"holds a (list|single array|int), not a dict of arrays; save the numbers alone, with paddle"
    ):
        read_arrays(place)


def test_a_damaged_file_is_an_error_of_ours(place: Path) -> None:
    whole = pickle.dumps({"w": np.arange(6.0).reshape(2, 3)}, 4)
    for length in range(len(whole)):
        place.write_bytes(whole[:length])
        with pytest.raises(refold.FoldError, match="is not a pickle of arrays"):
            read_arrays(place)
    for position in range(len(whole)):
        place.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            read_arrays(place)
        except refold.FoldError:
            continue


@pytest.mark.parametrize(
    "held",
    [
        Call(named("numpy.ndarray"), (2,)),
        Call(RECONSTRUCT, np.ndarray, (0,), b"b"),
        Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (3,), np.dtype("f4"), False, b"\0" * 8)),
        Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (-1, -2), np.dtype("f4"), False, b"\0" * 8)),
        Call(named("_codecs.encode"), "x", "zip"),
    ],
)
def test_an_array_that_is_not_whole_is_refused(held: Any, place: Path) -> None:
    write(place, {"w": held})
    with pytest.raises(refold.FoldError, match="is not a pickle of arrays"):
        read_arrays(place)


def test_a_file_that_is_not_there_is_said(place: Path) -> None:
    with pytest.raises(refold.FoldError, match=rf"{place.name} cannot be read: {os.strerror(2)}"):
        read_arrays(place)
