from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Iterator

import pytest

from headrace.pipeline.config import Settings, WorkerSettings
from headrace.pipeline.errors import FatalError
from headrace.pipeline.hosting import run_worker


@pytest.fixture(autouse=True)
def same_interpreter() -> Iterator[None]:
    """A worker sets its whole process."""
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    yield
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)


def test_http_port_in_use_is_told_in_one_line_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(FatalError, match=rf"127\.0\.0\.1 port {port} \(Address already in use\).*--http-port"):
            run_worker(Settings(worker=WorkerSettings(http_port=port)))


def test_http_host_that_does_not_exist_is_told_the_same_way() -> None:
    settings = Settings(worker=WorkerSettings(http_host="no-such-host.invalid", http_port=0))
    with pytest.raises(FatalError, match=r"cannot serve .* on no-such-host\.invalid"):
        run_worker(settings)
