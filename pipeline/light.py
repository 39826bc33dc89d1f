"""Dataclasses that are frozen to who reads or type-checks the code, and made in a fifth of the time at run time.

``dataclasses`` sets each field of a frozen instance through ``object.__setattr__``: with eight fields 1.6 µs instead of
0.3, and a record on its way makes a dozen of them, which was a tenth of a worker's time (see decision 019).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as light_dataclass
else:
    import dataclasses
    from collections.abc import Callable

    T = TypeVar("T")

    def light_dataclass(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
        """As ``dataclass(frozen=True, slots=True)``, but that a field may be set is left to the type checker."""
        assert frozen
        return dataclasses.dataclass(slots=slots, unsafe_hash=True)


__all__ = ["light_dataclass"]
