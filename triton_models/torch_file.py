"""Reads the tensors of a PyTorch state dict in its legacy file format, without PyTorch.

Such a file is a run of pickles (magic, protocol version, system info, state dict, storage keys) followed by the
storages: an 8-byte little-endian element count each, then the elements. The unpickler below admits only what a
state dict needs, so a file cannot run code.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
}


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor before its storage is read: where in which storage it lies, counted in elements."""

    storage: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, elements: NDArray[Any]) -> NDArray[Any]:
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, strides).copy()


def _rebuild_tensor(storage: tuple[str, str], offset: int, shape: Any, strides: Any, *_: object) -> _View:
    kind, key = storage
    return _View(key, _DTYPES[kind], offset, tuple(shape), tuple(strides))


def _rebuild_parameter(view: _View, *_: object) -> _View:
    return view


class _StateDictUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[str, Callable[..., Any] | str] = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
            "torch._utils._rebuild_parameter": _rebuild_parameter,
            **{f"torch.{storage}": storage for storage in _DTYPES},
        }
        try:
            return allowed[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"a state dict needs no {module}.{name}") from None

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        _, kind, key, *_ = pid
        return kind, key


def load(content: bytes) -> dict[str, NDArray[Any]]:
    """Name to array, for every tensor in the file.

    Raises:
        ValueError: if it is no legacy PyTorch file.
        pickle.UnpicklingError: if it holds anything but tensors.
    """
    file = io.BytesIO(content)
    if _StateDictUnpickler(file).load() != _MAGIC:
        raise ValueError("not a PyTorch file in the legacy format")
    for _ in ("protocol version", "system info"):
        _StateDictUnpickler(file).load()
    views: dict[str, _View] = _StateDictUnpickler(file).load()
    keys: list[str] = _StateDictUnpickler(file).load()
    dtypes = {view.storage: view.dtype for view in views.values()}
    storages: dict[str, NDArray[Any]] = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    return {name: view.of(storages[view.storage]) for name, view in views.items()}
