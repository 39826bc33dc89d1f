"""Whether this worker is alive and ready, and which dependency it waits for."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from headrace.pipeline import metrics

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Health:
    """Live: the process can still do its work. Ready: it has joined the group and its dependencies answer."""

    started: bool = False
    joined: bool = False
    failure: BaseException | None = None
    _up: dict[str, bool] = field(default_factory=dict)

    def report(self, dependency: str, up: bool, detail: str = "") -> None:
        """Note whether a dependency answered; logged when that changes."""
        before = self._up.get(dependency)
        self._up[dependency] = up
        metrics.DEPENDENCY_UP.labels(dependency).set(up)
        if before is not False and not up:
            log.warning("waiting for %s: %s", dependency, detail or "it does not answer")
        elif before is False and up:
            log.info("%s answers again", dependency)

    @property
    def live(self) -> bool:
        return self.failure is None

    @property
    def ready(self) -> bool:
        return self.live and self.joined and all(self._up.values())

    @property
    def waiting_for(self) -> tuple[str, ...]:
        return tuple(name for name, up in self._up.items() if not up)
