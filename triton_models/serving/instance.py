"""A model's instance, and the joining and splitting of the requests that Triton batches together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Instance:
    """What Triton tells an instance of a model when it starts it."""

    folder: Path
    kind: str
    device_id: int
    parameters: dict[str, str]

    @classmethod
    def of(cls, arguments: dict[str, str]) -> Self:
        """From the arguments of ``initialize``. Every model goes through here, so numpy is checked here.

        Raises:
            RuntimeError: with numpy 2, with which this stub hands out zeros for every input and says nothing.
        """
        if int(np.__version__.split(".", 1)[0]) >= 2:
            raise RuntimeError(f"numpy {np.__version__}: Triton's python backend needs numpy < 2 (1.26.4 is pinned)")
        config = json.loads(arguments["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        folder = Path(arguments["model_repository"], arguments["model_version"])
        return cls(folder, arguments["model_instance_kind"], int(arguments["model_instance_device_id"]), parameters)


def join(batches: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The rows of several requests as one batch."""
    return batches[0] if len(batches) == 1 else np.concatenate(batches)


def row_slices(batches: Sequence[NDArray[Any]]) -> Iterator[slice]:
    """Where each request's rows are in the joined batch."""
    start = 0
    for batch in batches:
        yield slice(start, start + len(batch))
        start += len(batch)


def column(values: Sequence[bytes]) -> NDArray[np.object_]:
    """A BYTES tensor of one element a row."""
    array = np.empty((len(values), 1), np.object_)
    array[:, 0] = values
    return array
