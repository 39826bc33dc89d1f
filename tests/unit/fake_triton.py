"""A Triton that loads models as its model control does. A load has ended when it begins, unless a test holds it up."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path


class FakeTriton:
    """Loads every model whose files it can see through the staging folder, unless one of them says ``broken``."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging
        self.serving: dict[str, str] = {}
        self.loads: list[str] = []
        self.down = False
        self.held: dict[str, Future[str]] = {}
        """Models whose loads end when this says so."""

    def load(self, name: str) -> str:
        if self.down:
            raise ConnectionRefusedError
        self.loads.append(name)
        code = (self.staging / name / "1" / "model.py").read_text()
        if code == "broken":
            return f"RuntimeError in {self.staging / name}/1/model.py"
        self.serving[name] = code
        return ""

    def unload(self, name: str) -> None:
        if self.down:
            raise ConnectionRefusedError
        self.serving.pop(name, None)

    def start(self, call: Callable[[], str]) -> Future[str]:
        future: Future[str] = Future()
        try:
            trouble = call()
        except OSError as error:
            future.set_exception(error)
            return future
        if self.loads and self.loads[-1] in self.held:
            return self.held[self.loads[-1]]
        future.set_result(trouble)
        return future


def standing_still() -> float:
    return 0.0


def write(repository: Path, name: str, code: str = "good", config: str | None = "backend: python") -> Path:
    (repository / name / "1").mkdir(parents=True, exist_ok=True)
    (repository / name / "1" / "model.py").write_text(code)
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    return repository / name
