"""Comparators of the user's own: functions that say a number, or some, of an answer, its baseline and its truth."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.answer import FIELDS, Answer, answer_of
from headrace.pipeline.evaluate.calibration import NAME as CALIBRATION_ERROR
from headrace.pipeline.evaluate.compare import Comparison, join_numbers
from headrace.pipeline.evaluate.distances import KEY_FIELDS, batch_rows
from headrace.pipeline.evaluate.measuring import METRICS, Metric, tensor_metrics
from headrace.pipeline.evaluate.percentiles import NAMES as PERCENTILES
from headrace.pipeline.evaluate.sql import ANSWER_KEY, quoted
from headrace.pipeline.evaluate.store import TableWriter

Said = Mapping[str, float] | float | None
Comparator = Callable[[Answer, Answer | None, str | None], Said]
"""Candidate, baseline (None if it has no answer) and what should have been answered (None if it is not known) → a
number, numbers by name, or None if it has nothing to say of these."""

MAX_NAMES = 100
"""Of numbers, of all comparators: a name is that of a measure, not of an event."""
_TABLE = "compared"
_ROWS = pa.schema([*KEY_FIELDS, ("name", pa.string()), ("value", pa.float64())])


def load_comparator(path: str) -> Comparator:
    """The function that a path ``package.module:function`` names.

    Raises:
        ConfigError: there is none.
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise ConfigError(f"comparator {path}: write package.module:function")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"comparator {path}: {module_name} cannot be imported: {_described(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"comparator {path}: {module_name} has no function {name}")
    comparator: Comparator = found
    return comparator


def run_comparators(comparison: Comparison, paths: Sequence[str], folder: Path) -> list[Metric]:
    """Have each comparator look at each answer; the metrics that come of it.

    A number's name is its comparator's; of several its own.

    Raises:
        ConfigError: a comparator is not there or fails, says what is no number, or uses the name of another measure.
    """
    if not paths:
        return []
    comparators = [_Named(path, comparison.tensors) for path in paths]
    path = folder / f"{_TABLE}.parquet"
    owners: dict[str, str] = {}
    with TableWriter(path, _ROWS) as table:
        for place, answers in _answers(comparison):
            for comparator in comparators:
                for name, value in comparator.numbers(place, *answers):
                    _claim(owners, name, comparator.path)
                    table.add(*place, name, value)
    join_numbers(comparison.database, _TABLE, path)
    return [Metric(name, "value", table=_TABLE, where=f"name = {quoted(name)}") for name in sorted(owners)]


def _claim(owners: dict[str, str], name: str, path: str) -> None:
    if owners.setdefault(name, path) != path:
        raise ConfigError(f"comparator {path}: {name!r} is a number of {owners[name]}, too: choose another name")
    if len(owners) > MAX_NAMES:
        raise ConfigError(f"comparator {path}: more than {MAX_NAMES} names of numbers: name what is measured")


_Answers = tuple[Answer, Answer | None, str | None]


def _answers(comparison: Comparison) -> Iterator[tuple[tuple[Any, ...], _Answers]]:
    """Each answer's key, and what a comparator is told of it."""
    database = comparison.database
    mine, theirs = (
        ", ".join(f"{side}.{name} AS {side}_{name}" for name in (*FIELDS, "tensors")) for side in ("c", "b")
    )
    batches = database.sql(f"""
        SELECT {ANSWER_KEY}, {mine}, {theirs}, p.truth
        FROM candidate c
        JOIN (SELECT {ANSWER_KEY}, truth FROM pairs) p USING ({ANSWER_KEY})
        LEFT JOIN baseline b USING ({ANSWER_KEY})
    """).to_arrow_reader(batch_rows(database))
    for batch in batches:
        tensors = {side: batch.column(f"{side}_tensors") for side in "cb"}
        for number, row in enumerate(batch.drop_columns(["c_tensors", "b_tensors"]).to_pylist()):
            candidate, baseline = (_answer(row, side, tensors[side][number]) for side in "cb")
            if candidate is not None:
                yield tuple(row[name] for name, _ in KEY_FIELDS), (candidate, baseline, row["truth"])


def _answer(row: Mapping[str, Any], side: str, tensors: Any) -> Answer | None:
    if row[f"{side}_model"] is None:
        return None
    arrays = {each["name"].as_py(): each["values"].values.to_numpy() for each in tensors if tensors.is_valid}
    return answer_of({name: row[f"{side}_{name}"] for name in FIELDS}, arrays)


class _Named:
    """A comparator, and what its numbers are called."""

    def __init__(self, path: str, tensors: Sequence[str]) -> None:
        self.path = path
        self._function = load_comparator(path)
        self._name = path.rpartition(":")[2]
        self._taken = {metric.name for metric in (*METRICS, *tensor_metrics(tensors))}
        self._taken |= {CALIBRATION_ERROR, *PERCENTILES}

    def numbers(
        self, place: Sequence[Any], candidate: Answer, baseline: Answer | None, truth: str | None
    ) -> Iterator[tuple[str, float]]:
        """Names and values."""
        try:
            said: Any = self._function(candidate, baseline, truth)  # the user's: it may be anything
        except Exception as error:
            raise self._wrong(place, f"it failed: {_described(error)}") from error
        if said is None:
            return
        for name, value in said.items() if isinstance(said, Mapping) else [(self._name, said)]:
            if not isinstance(name, str) or not isinstance(value, Real):
                raise self._wrong(place, f"it returned {said!r:.200}, not a number, numbers by name, or None")
            if name in self._taken:
                raise self._wrong(place, f"{name!r} is another measure's name: choose one of your own")
            yield name, float(value)

    def _wrong(self, place: Sequence[Any], problem: str) -> ConfigError:
        topic, partition, offset, part, _ = place
        return ConfigError(f"comparator {self.path}: {topic}:{partition}:{offset}, part {part}: {problem}")


def _described(error: BaseException) -> str:
    """The error, and where in the user's code it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
