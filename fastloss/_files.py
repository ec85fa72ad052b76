"""Arrays in files, a range of rows at a time: what the command line reads and writes.

`FILE::NAME` is one of several arrays or columns in a file. Nothing is read whole; .npy files are
mapped anew for each range, so that what was read before leaves the memory.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
EXTRA = "pip install 'fastloss[{}]'"


class FileError(Exception):
    """What is wrong with a file, in one line."""


def needs(package: str, path: Any, extra: str = "cli") -> Any:
    """Import the package that reads or writes this file, or say which extra has it."""
    try:
        return __import__(package, fromlist=["_"])
    except ModuleNotFoundError as missing:
        name = (missing.name or package).partition(".")[0]
        raise FileError(f"{path}: needs {name}: {EXTRA.format(extra)}") from None


class Source:
    """An array in a file: `shape`, `dtype`, and `read` for the rows [start, stop)."""

    def __init__(self, spec: str, usual: Sequence[str], stack: contextlib.ExitStack) -> None:
        self.stack = stack  # closes what is opened
        path, _, name = spec.partition("::")
        self.spec, self.path, self.usual = spec, Path(path), usual
        kinds: dict[str, Callable[[str], None]] = {
            ".npy": self._npy,
            ".npz": self._npz,
            ".safetensors": self._safetensors,
            ".parquet": self._parquet,
            ".arrow": self._arrow,
            ".feather": self._arrow,
            ".zarr": self._zarr,
        }
        kind = kinds.get(self.path.suffix)
        if kind is None:
            raise FileError(f"{path}: expected one of {', '.join(kinds)}")
        if not self.path.exists():
            raise FileError(f"{path}: no such file")
        self.shape: tuple[int, ...]
        self.dtype: np.dtype[Any]
        self.read: Callable[[int, int], Array]
        try:
            kind(name)
        except FileError:
            raise
        except Exception as error:
            raise self.unreadable(error) from error
        if not self.shape:
            raise FileError(f"{spec}: expected an array, got a single number")

    def unreadable(self, error: Exception) -> FileError:
        """The error for what a library could not read."""
        line = str(error).strip().splitlines() or [type(error).__name__]
        return FileError(f"{self.spec}: {line[0]}")

    def rows(self, start: int, stop: int) -> Array:
        """The rows [start, stop)."""
        try:
            found = self.read(start, stop)
        except FileError:
            raise
        except Exception as error:
            raise self.unreadable(error) from error
        if len(found) != stop - start:
            raise FileError(f"{self.spec}: ends at row {start + len(found)} of {len(self)}")
        return found

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """The size of a row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def stamp(self) -> list[Any]:
        """What changes when the file does."""
        found = self.path.stat()
        return [self.spec, found.st_size, found.st_mtime_ns, list(self.shape), str(self.dtype)]

    def pick(self, name: str, names: Sequence[str]) -> str:
        """The array of this name, else the only one, else one with a usual name."""
        usual = [n for n in self.usual if n in names]
        if name in names:
            return name
        if not name and (len(names) == 1 or usual):
            return (usual or [*names])[0]
        raise FileError(
            f"{self.path}: has {', '.join(names)}; choose one by {self.path}::NAME"
            if not name
            else f"{self.path}: has no {name}, but {', '.join(names)}"
        )

    def _npy(self, name: str) -> None:
        with self.path.open("rb") as file:
            self.shape, fortran, self.dtype = _header(file)
            offset = file.tell()
        if fortran and len(self.shape) > 1:
            raise FileError(
                f"{self.spec}: is in Fortran order, where rows lie scattered; save it in C order"
            )
        size = offset + math.prod(self.shape) * self.dtype.itemsize
        if (there := self.path.stat().st_size) < size:
            raise FileError(f"{self.spec}: is truncated: {there} bytes of {size}")

        def read(start: int, stop: int) -> Array:
            at, shape = offset + start * self.row_bytes, (stop - start, *self.shape[1:])
            if not math.prod(shape):
                return np.empty(shape, self.dtype)
            return np.memmap(self.path, self.dtype, "r", at, shape)

        self.read = read

    def _npz(self, name: str) -> None:
        archive = self.stack.enter_context(zipfile.ZipFile(self.path))
        names = [n.removesuffix(".npy") for n in archive.namelist()]
        member = self.stack.enter_context(archive.open(self.pick(name, names) + ".npy"))
        self.shape, fortran, self.dtype = _header(member)
        offset = member.tell()
        if fortran and len(self.shape) > 1:
            raise FileError(f"{self.spec}: is in Fortran order, where rows lie scattered")

        def read(start: int, stop: int) -> Array:
            member.seek(offset + start * self.row_bytes)
            found = np.frombuffer(member.read((stop - start) * self.row_bytes), np.uint8)
            whole = len(found) // self.row_bytes if self.row_bytes else stop - start
            found = found[: whole * self.row_bytes]
            return found.view(self.dtype).reshape(whole, *self.shape[1:])

        self.read = read

    def _safetensors(self, name: str) -> None:
        module = needs("safetensors", self.path)
        file = self.stack.enter_context(module.safe_open(self.path, framework="numpy"))
        tensor = file.get_slice(self.pick(name, list(file.keys())))
        self.shape = tuple(tensor.get_shape())
        if tensor.get_dtype() == "BF16":
            needs("ml_dtypes", self.path)
        self.dtype = tensor[:0].dtype
        self.read = lambda start, stop: np.asarray(tensor[start:stop])

    def _zarr(self, name: str) -> None:
        zarr = needs("zarr", self.path)
        found = zarr.open(str(self.path), mode="r")
        if isinstance(found, zarr.Group):
            found = found[self.pick(name, list(found.array_keys()))]
        self.shape, self.dtype = tuple(found.shape), found.dtype
        self.read = lambda start, stop: np.asarray(found[start:stop])

    def _parquet(self, name: str) -> None:
        parquet = needs("pyarrow.parquet", self.path)
        file = self.stack.enter_context(parquet.ParquetFile(self.path, memory_map=True))
        column = self.pick(name, file.schema_arrow.names)
        rows = max(1, (32 << 20) // 8 // max(1, _width(file.schema_arrow.field(column).type, 1024)))

        def batches() -> Iterator[Any]:
            for batch in file.iter_batches(batch_size=rows, columns=[column]):
                yield batch.column(0)

        self._of_batches(batches, file.metadata.num_rows)

    def _arrow(self, name: str) -> None:
        pyarrow = needs("pyarrow", self.path)
        memory = self.stack.enter_context(pyarrow.memory_map(str(self.path)))
        file = needs("pyarrow.ipc", self.path).open_file(memory)
        column = file.schema.get_field_index(self.pick(name, file.schema.names))

        def batches() -> Iterator[Any]:
            for i in range(file.num_record_batches):
                yield file.get_batch(i).column(column)

        self._of_batches(
            batches, sum(file.get_batch(i).num_rows for i in range(file.num_record_batches))
        )

    def _of_batches(self, batches: Callable[[], Iterator[Any]], rows: int) -> None:
        """What comes in batches, one after the other; read in ascending order at best."""
        first = next((self._numpy(b) for b in batches()), np.zeros(0))
        self.shape, self.dtype = (rows, *first.shape[1:]), first.dtype
        position, stream, rest = 0, batches(), first[:0]

        def read(start: int, stop: int) -> Array:
            nonlocal position, stream, rest
            if start < position:
                position, stream, rest = 0, batches(), first[:0]
            parts: list[Array] = []
            while position < stop:
                if not len(rest):
                    batch = next(stream, None)
                    if batch is None:
                        break
                    rest = self._numpy(batch)
                    if rest.shape[1:] != self.shape[1:]:
                        raise FileError(f"{self.spec}: its lists have different lengths")
                    continue
                take = min(len(rest), (start if position < start else stop) - position)
                if position >= start:
                    parts.append(rest[:take])
                rest = rest[take:]
                position += take
            if len(parts) == 1:
                return parts[0]
            return np.concatenate(parts) if parts else first[:0]

        self.read = read

    def _numpy(self, column: Any) -> Array:
        """A column's numbers; of lists, which have one length, a row each."""
        types = needs("pyarrow.types", self.path)
        if column.null_count:
            raise FileError(f"{self.spec}: has nulls")
        kind = column.type
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            values = column.flatten()
            if values.null_count:
                raise FileError(f"{self.spec}: has nulls")
            numbers = values.to_numpy(zero_copy_only=False)
            lengths = set(column.value_lengths().unique().to_pylist())
            if len(lengths) > 1:
                raise FileError(f"{self.spec}: its lists have different lengths")
            return np.asarray(numbers.reshape(len(column), -1 if len(column) else 0))
        return np.asarray(column.to_numpy(zero_copy_only=False))


def _width(kind: Any, unknown: int) -> int:
    """How many numbers a row of this Arrow type has; `unknown` of lists of any length."""
    width: int = getattr(kind, "list_size", unknown) if "list" in str(kind) else 1
    return width


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape, whether it is Fortran's, and the dtype of an .npy file, which has no objects."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"unknown version {version} of the .npy format")
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("has Python objects, which are not loaded")
    return shape, fortran, dtype


class Records:
    """Records in an .npy file, appended in order, read again in blocks."""

    BLOCK = 1 << 16  # records at a time, and at most so many bytes
    BYTES = 16 << 20

    def __init__(self, file: Any, dtype: np.dtype[Any], count: int) -> None:
        self.file, self.dtype, self.count = file, dtype, count
        header = {"descr": dtype.descr, "fortran_order": False, "shape": (count,)}
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        self.offset = file.tell()

    def resume(self, group: int) -> int:
        """Keep what was written of complete groups of records; return how many records."""
        size = os.fstat(self.file.fileno()).st_size
        done: int = max(0, size - self.offset) // self.dtype.itemsize
        done = done if done >= self.count else done // group * group
        self.file.truncate(self.offset + done * self.dtype.itemsize)
        self.file.seek(0, os.SEEK_END)
        return min(done, self.count)

    def append(self, records: Array) -> None:
        """Write the next ones."""
        self.file.write(records.view(np.uint8).data)
        self.file.flush()

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        self.file.seek(self.offset)
        step = max(1, min(self.BLOCK, self.BYTES // self.dtype.itemsize))
        for start in range(0, self.count, step):
            n = min(step, self.count - start)
            data = self.file.read(n * self.dtype.itemsize)
            yield start, np.frombuffer(data, self.dtype)


def to_parquet(records: Records, path: Path) -> None:
    """Write the records' fields as columns."""
    arrow, parquet = needs("pyarrow", path), needs("pyarrow.parquet", path)
    writer = None
    names = records.dtype.names or ()
    blocks: Iterator[tuple[int, Array]] = iter(records)
    if not records.count:
        blocks = iter([(0, np.empty(0, records.dtype))])
    try:
        for _, block in blocks:
            columns = []
            for name in names:
                values = np.ascontiguousarray(block[name])
                column = arrow.array(values.reshape(-1))
                if values.ndim > 1:
                    column = arrow.FixedSizeListArray.from_arrays(column, values.shape[1])
                columns.append(column)
            table = arrow.table(columns, list(names))
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
