"""NVIDIA Triton Inference Server from the wheel nvidia-pytriton, with its python backend."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from headrace.connectors.embedded.extras import Extra
from headrace.connectors.embedded.http import answers_ok, call
from headrace.connectors.embedded.owners import SHARED_MEMORY, owner_tag
from headrace.connectors.embedded.paths import check_path
from headrace.connectors.embedded.ports import LOOPBACK
from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.server import Server
from headrace.connectors.embedded.state import ModelState
from headrace.connectors.embedded.triton_env import TritonInterpreter, clean_environment
from headrace.connectors.embedded.triton_reasons import failures_in_log, reason_in_answer, reason_in_log
from headrace.connectors.embedded.user_models import UserModels
from headrace.pipeline.errors import StackError

_READY_SECONDS = 120.0
_LOAD_SECONDS = 600.0
"""For one model of the user's, which keeps nothing else waiting meanwhile."""
_UNLOAD_SECONDS = 5.0
"""Triton answers at once, and unloads when the requests in flight have their answers."""
_FIRST_LOADS_SECONDS = 60.0
_POLL_SECONDS = 0.05
_EXIT_SECONDS = 3
"""For requests in flight and unloading; there is nothing to save, and the guard ends what is left."""
_PACKAGES_VARIABLE = "HEADRACE_MODEL_PACKAGES"
"""As ``triton_models/serving/packages.py`` reads it."""
_instances = itertools.count()
_SHARED_FOLDER = b"/tmp/python_env_"
_OWN_FOLDER = b"backends/python_"
"""The python backend makes a folder whose name begins so, and a killed Triton leaves it behind. The place is fixed in
its library (``pb_env.cc``), so our copy gets another of the same length, below the working folder: gone with it."""


class TritonServer(Server):
    """A Triton server on fixed ports.

    Args:
        data_dir: output and its backend folder; made if missing.
        interpreter: the environment its models run in.
        repository: the model repository.
        http_port, grpc_port, metrics_port: where it listens.
        gpu_metrics: also collect the metrics of the machine's GPUs.
        extras: optional models.
        models: the user's own model repositories; one of their models that cannot be loaded keeps nothing else from
            serving.
        options: further ones of its command line.
    """

    def __init__(
        self,
        data_dir: Path,
        interpreter: TritonInterpreter,
        repository: Path,
        *,
        http_port: int,
        grpc_port: int,
        metrics_port: int,
        gpu_metrics: bool = False,
        extras: Sequence[Extra] = (),
        models: Sequence[Path] = (),
        options: Sequence[str] = (),
    ) -> None:
        self._data_dir = data_dir
        self._options = options
        self._interpreter = interpreter
        self._repositories = [repository, *(extra.repository for extra in extras)]
        self._packages = [extra.packages for extra in extras]
        self._http_port = http_port
        self._grpc_port = grpc_port
        self._metrics_port = metrics_port
        self._gpu_metrics = gpu_metrics
        self._own_names = sorted(path.parent.name for own in self._repositories for path in own.glob("*/config.pbtxt"))
        self._user_models = UserModels(models, data_dir / "models", self._own_names) if models else None
        self._region_prefix = f"headrace-{owner_tag()}-triton{next(_instances)}-"
        super().__init__(ServerProcess("Triton", data_dir / "triton.log", str(SHARED_MEMORY / self._region_prefix)))

    @property
    def grpc(self) -> str:
        """``host:port`` of the gRPC endpoint."""
        return f"{LOOPBACK}:{self._grpc_port}"

    @property
    def http(self) -> str:
        """``host:port`` of the HTTP endpoint."""
        return f"{LOOPBACK}:{self._http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self._metrics_port}/metrics"

    @property
    def user_models(self) -> tuple[ModelState, ...]:
        """The user's models as ``sync_models`` left them."""
        return self._user_models.states() if self._user_models else ()

    def spawn(self) -> None:
        """Start without waiting. Raises StackError."""
        for path in (self._data_dir, *self._repositories, *self._packages):
            check_path(path)
        package = self._interpreter.package
        folder = self._interpreter.folder
        environment = {
            **clean_environment(),
            # The stub takes the first python3 for its interpreter, whose libpython it needs.
            "PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{folder}:{package.parent / 'nvidia_pytriton.libs'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            _PACKAGES_VARIABLE: ":".join(map(str, self._packages)),
        }
        command = [
            str(package / "tritonserver" / "bin" / "tritonserver"),
            *(f"--model-repository={repository}" for repository in self._repositories),
            *self._model_control(),
            f"--backend-directory={self._backend_folder()}",
            f"--backend-config=python,shm-region-prefix-name={self._region_prefix}",
            *(f"--http-port={self._http_port}", f"--http-address={LOOPBACK}"),
            *(f"--grpc-port={self._grpc_port}", f"--grpc-address={LOOPBACK}"),
            *(f"--metrics-port={self._metrics_port}", f"--metrics-address={LOOPBACK}"),
            f"--allow-gpu-metrics={str(self._gpu_metrics).lower()}",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={_EXIT_SECONDS}",
            "--log-format=ISO8601",
            *self._options,
        ]
        self._process.spawn(command, environment, self._data_dir)

    def _model_control(self) -> list[str]:
        """Triton loads headrace's models by itself, and must; the user's when it is told to, and may fail."""
        if self._user_models is None:
            return []
        self._user_models.begin()
        return [
            f"--model-repository={self._user_models.staging}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self._own_names),
            "--strict-readiness=false",
        ]

    def _backend_folder(self) -> Path:
        """The python backend together with its Python's stub, made anew: the wheel keeps them apart."""
        folder = self._data_dir / "backends"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._interpreter.package / "tritonserver" / "backends" / "python", folder / "python")
        shutil.copy(self._interpreter.stub, folder / "python")
        library = folder / "python" / "libtriton_python.so"
        library.write_bytes(library.read_bytes().replace(_SHARED_FOLDER, _OWN_FOLDER))
        return folder

    def wait_ready(self) -> None:
        """Wait until headrace's models are ready, and begin to load the user's.

        Raises:
            StackError: with the models that could not be loaded, and the end of its log.
        """
        try:
            self._process.wait_until(lambda: answers_ok(self._http_port, "/v2/health/ready"), _READY_SECONDS)
        except StackError as error:
            failed = "\n".join(failures_in_log(self._process.log_path.read_text(errors="replace")))
            raise StackError(f"{failed}\n{error}" if failed else str(error)) from error
        self.sync_models(at_once=True)

    def sync_models(self, *, at_once: bool = False) -> list[str]:
        """Bring the user's models up to date with their files; a line for each whose state is news.

        Does not wait for models that load: a later call has what became of them. A model is loaded when its files are
        the same in two calls, or ``at_once``. Does nothing if Triton is down.
        """
        if self._user_models is None or not self._process.running:
            return []
        return self._user_models.sync(self, at_once=at_once)

    def wait_for_models(self) -> None:
        """Wait until the user's models that are being loaded are, or cannot be; a minute at most."""
        deadline = time.monotonic() + _FIRST_LOADS_SECONDS
        while self._user_models and self._user_models.loading and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            self._user_models.collect()

    def load(self, name: str) -> str:
        """Load a model, or load it again: returns why it failed, or an empty string. Raises OSError if it is down."""
        try:
            status, body = call(self._http_port, "POST", f"/v2/repository/models/{name}/load", _LOAD_SECONDS)
        except TimeoutError:
            return f"it was not loaded in {_LOAD_SECONDS:.0f} s"
        if status == 200:
            return ""
        log = self._process.log_path.read_text(errors="replace")
        return reason_in_log(log, name) if b"failed to poll" in body else reason_in_answer(body)

    def unload(self, name: str) -> None:
        """Unload a model. Raises OSError if it is down."""
        call(self._http_port, "POST", f"/v2/repository/models/{name}/unload", _UNLOAD_SECONDS)

    def stop(self) -> None:
        """Shut down tidily: requests in flight get their answers."""
        self._process.stop(_EXIT_SECONDS + 3.0)
