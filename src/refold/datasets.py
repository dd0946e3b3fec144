"""Samples of a real data set in batches: an `.npz` whose first axis is the samples, or a folder of `.npy` files and images.

Nothing is resized or normalized: what a model is trained on only its author knows. Images come as (channels, height, width) from 0 to 1.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refold.errors import FoldError

Array: TypeAlias = NDArray[Any]
Batch: TypeAlias = tuple[Array, ...] | dict[str, Array]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
NAMED = 3
"""How many unreadable files an error names."""


@dataclass(slots=True)
class Dataset:
    """A data set that is read as it is gone through.

    `samples` is how many there are, `batch` how many are given at a time, the last time fewer. Files that cannot be read are passed over
    where `skip_bad` says so, and stand in `skipped` then.
    """

    path: Path
    batch: int = 32
    skip_bad: bool = False
    channels: int | None = None
    samples: int = field(init=False)
    skipped: dict[str, str] = field(init=False, default_factory=dict)
    _files: tuple[Path, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise FoldError(f"a batch (={self.batch}) must hold at least 1 sample")
        if self.path.is_dir():
            self._files = tuple(sorted(one for one in self.path.rglob("*") if one.suffix.lower() in (".npy", *IMAGES) and one.is_file()))
            self.samples = len(self._files)
            if not self._files:
                raise FoldError(f"{self.path} holds no sample; put .npy files or images ({', '.join(IMAGES)}) in it")
        elif self.path.suffix.lower() == ".npz":
            self.samples = self._samples_in_archive()
        else:
            there = "is neither a folder nor an .npz" if self.path.exists() else "does not exist"
            raise FoldError(f"the data {self.path} {there}; give a folder of .npy files and images, or an .npz that numpy.savez wrote")

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order.

        Raises `FoldError` where a file cannot be read, or samples are not all of one shape.
        """
        self.skipped.clear()
        return self._from_folder() if self._files else self._from_archive()

    def _samples_in_archive(self) -> int:
        with self._archive() as archive:
            shapes = {name: _Member(archive, name, self.path).shape for name in _members(archive, self.path)}
        lengths = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
        if len(set(lengths.values())) > 1 or not min(lengths.values()):
            told = ", ".join(f"{name} {_sizes(shape)}" for name, shape in shapes.items())
            raise FoldError(f"the first axis of every array in {self.path} is the samples, at least one and equally many; found {told}")
        return next(iter(lengths.values()))

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise FoldError(f"{self.path} cannot be read as an .npz of arrays: {error}; write it with numpy.savez") from error

    def _from_archive(self) -> Iterator[Batch]:
        with self._archive() as archive:
            members = [_Member(archive, name, self.path) for name in _members(archive, self.path)]
            in_order = [f"arr_{position}" for position in range(len(members))]
            members.sort(key=lambda one: in_order.index(one.name) if one.name in in_order else 0)
            for start in range(0, self.samples, self.batch):
                arrays = {one.name: one.read(min(self.batch, self.samples - start)) for one in members}
                yield tuple(arrays.values()) if list(arrays) == in_order else arrays

    def _from_folder(self) -> Iterator[Batch]:
        held: list[Array] = []
        first: tuple[str, tuple[int, ...]] | None = None
        for position, file in enumerate(self._files):
            name = str(file.relative_to(self.path))
            try:
                sample = _read_sample(file, self.channels)
            except (OSError, ValueError, EOFError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
                self.skipped[name] = _one_line(error)
                if not self.skip_bad:
                    raise self._unreadable(position + 1) from error
                continue
            if first is None:
                first = name, sample.shape
            if sample.shape != first[1]:
                raise FoldError(
                    f"{name} in {self.path} is {_sizes(sample.shape)} where {first[0]} is {_sizes(first[1])}; bring all to one shape"
                )
            held.append(sample)
            if len(held) == self.batch:
                yield (np.stack(held),)
                held = []
        if held:
            yield (np.stack(held),)
        if first is None:
            raise self._unreadable(len(self._files))

    def _unreadable(self, position: int) -> FoldError:
        """All that cannot be read, from this file on too."""
        for file in self._files[position:]:
            try:
                _read_sample(file, self.channels)
            except (OSError, ValueError, EOFError, SyntaxError) as error:
                self.skipped[str(file.relative_to(self.path))] = _one_line(error)
        return FoldError(f"{told_of(self.skipped, self.samples)} in {self.path}; mend them, or pass them over with --skip-bad")


def told_of(skipped: Mapping[str, str], samples: int) -> str:
    """The files that could not be read: how many of how many, and the names of the first.

    >>> told_of({"a.png": "cut off"}, 10)
    '1 of 10 files cannot be read: a.png (cut off)'
    """
    first = ", ".join(f"{name} ({why})" for name, why in list(skipped.items())[:NAMED])
    more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    return f"{len(skipped)} of {samples} files cannot be read: {first}{more}"


class _Member:
    """One array of an `.npz`, read from its start on as its samples are asked for."""

    def __init__(self, archive: zipfile.ZipFile, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        try:
            self._file: IO[bytes] = archive.open(f"{name}.npy")
            version = np.lib.format.read_magic(self._file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._by_columns, self._dtype = read(self._file)
            if self._dtype.hasobject:
                raise ValueError("it holds Python objects")
        except (ValueError, OSError, zipfile.BadZipFile, KeyError) as error:
            raise FoldError(f"array `{name}` of {path} cannot be read: {_one_line(error)}; write it with numpy.savez") from error
        self._whole: Array | None = None
        self._position = 0

    def read(self, count: int) -> Array:
        """The next samples."""
        try:
            if self._by_columns and len(self.shape) > 1:  # samples do not lie one behind the other
                if self._whole is None:
                    data = np.frombuffer(self._file.read(), self._dtype)
                    self._whole = data.reshape(self.shape[::-1]).T
                self._position += count
                return np.ascontiguousarray(self._whole[self._position - count : self._position])
            shape = (count, *self.shape[1:])
            data = np.frombuffer(self._file.read(int(np.prod(shape)) * self._dtype.itemsize), self._dtype)
            return data.reshape(shape).copy()
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise FoldError(f"array `{self.name}` of {self._path} is cut off: {_one_line(error)}; write or copy it again") from error


def _members(archive: zipfile.ZipFile, path: Path) -> list[str]:
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if not names:
        raise FoldError(f"{path} holds no arrays; write one for each input with numpy.savez")
    return names


def _read_sample(file: Path, channels: int | None) -> Array:
    if file.suffix.lower() == ".npy":
        array = np.load(file, allow_pickle=False)
        assert isinstance(array, np.ndarray)
        return array
    try:
        from PIL import Image
    except ImportError as error:
        raise FoldError(f"{file.name} is an image, which needs Pillow; install it: pip install pillow") from error
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32) / np.float32(255)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:160] or type(error).__name__
