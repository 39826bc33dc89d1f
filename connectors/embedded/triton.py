"""NVIDIA Triton Inference Server from the wheel nvidia-pytriton, with its python backend."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from headrace.connectors.embedded.http import answers_ok
from headrace.connectors.embedded.owners import SHARED_MEMORY, owner_tag
from headrace.connectors.embedded.paths import check_path
from headrace.connectors.embedded.ports import LOOPBACK
from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.server import Server
from headrace.connectors.embedded.triton_env import TritonInterpreter, clean_environment

_READY_SECONDS = 120.0
_EXIT_SECONDS = 3
"""For requests in flight and unloading; there is nothing to save, and the guard ends what is left."""
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
    ) -> None:
        self._data_dir = data_dir
        self._interpreter = interpreter
        self._repository = repository
        self._http_port = http_port
        self._grpc_port = grpc_port
        self._metrics_port = metrics_port
        self._gpu_metrics = gpu_metrics
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

    def spawn(self) -> None:
        """Start without waiting. Raises StackError."""
        for path in (self._data_dir, self._repository):
            check_path(path)
        package = self._interpreter.package
        folder = self._interpreter.folder
        environment = {
            **clean_environment(),
            # The stub takes the first python3 for its interpreter, whose libpython it needs.
            "PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{folder}:{package.parent / 'nvidia_pytriton.libs'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [
            str(package / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._backend_folder()}",
            f"--backend-config=python,shm-region-prefix-name={self._region_prefix}",
            *(f"--http-port={self._http_port}", f"--http-address={LOOPBACK}"),
            *(f"--grpc-port={self._grpc_port}", f"--grpc-address={LOOPBACK}"),
            *(f"--metrics-port={self._metrics_port}", f"--metrics-address={LOOPBACK}"),
            f"--allow-gpu-metrics={str(self._gpu_metrics).lower()}",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={_EXIT_SECONDS}",
            "--log-format=ISO8601",
        ]
        self._process.spawn(command, environment, self._data_dir)

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
        """Wait until every model is ready. Raises StackError with the end of its log."""
        self._process.wait_until(lambda: answers_ok(self._http_port, "/v2/health/ready"), _READY_SECONDS)

    def stop(self) -> None:
        """Shut down tidily: requests in flight get their answers."""
        self._process.stop(_EXIT_SECONDS + 3.0)
