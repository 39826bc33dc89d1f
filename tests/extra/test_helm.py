"""What the chart renders, started: the worker with a manifest's own arguments, environment and files, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from headrace.connectors.embedded.http import answers_ok
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from tools.helm_check import CHART, HOW_TO_GET_IT, VERSIONS, find_helm, problems, rendered, run, values_files

HELM = find_helm()
pytestmark = pytest.mark.skipif(HELM is None, reason=f"NOT CHECKED, for there is no helm: {HOW_TO_GET_IT}")
READY_SECONDS = 60.0
COMMAND_SECONDS = 90


@pytest.fixture(scope="module")
def stack() -> Iterator[Endpoints]:
    with Stack() as embedded:
        yield embedded.endpoints


def of_kind(manifests: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    (found,) = (each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(name))
    return found


@pytest.fixture
def manifests(stack: Endpoints, tmp_path: Path) -> list[dict[str, Any]]:
    """Of a release whose servers are those of the stack."""
    assert HELM is not None
    values = tmp_path / "values.yaml"
    pipeline = {
        "name": "from-helm",
        "kafka": {"bootstrap_servers": stack.bootstrap_servers},
        "registry": {"url": stack.registry_url},
        "triton": {"url": stack.triton_grpc},
        "topics": {"requests": ["helm.in"], "results": "helm.out", "dead_letters": "helm.dead", "partitions": 4},
    }
    values.write_text(yaml.safe_dump({"pipeline": pipeline, "topics": {"apply": True}}))
    return rendered(HELM, values)


def environment_of(container: dict[str, Any], pipeline: str, folder: Path) -> dict[str, str]:
    """With the ConfigMap's file where this machine has it, and a temporary folder for the pod's."""
    file = folder / "pipeline.yaml"
    file.write_text(pipeline)
    given = {each["name"]: each["value"] for each in container["env"]}
    assert given["HEADRACE_CONFIG"] == "/etc/headrace/pipeline.yaml"
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    assert {"/etc/headrace/pipeline.yaml", "/tmp"} <= mounted
    written = [name for name, value in given.items() if value.startswith("/tmp")]
    return {**os.environ, **given, **{name: str(folder / name) for name in written}, "HEADRACE_CONFIG": str(file)}


def test_worker_of_the_manifest_answers(manifests: list[dict[str, Any]], tmp_path: Path) -> None:
    """The job before it makes the topics; a pod's host name gives its slot, which is said here instead."""
    job = of_kind(manifests, "Job")
    (tool,) = job["spec"]["template"]["spec"]["containers"]
    config = of_kind(manifests, "ConfigMap", "-topics")["data"]["pipeline.yaml"]
    made = headrace(tool["args"], environment_of(tool, config, tmp_path))
    assert made.count(": done") == 4
    pod = of_kind(manifests, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pipeline = next(each for each in manifests if each["kind"] == "ConfigMap" and "annotations" not in each["metadata"])
    environment = environment_of(container, pipeline["data"]["pipeline.yaml"], tmp_path)
    assert environment["HEADRACE_WORKER__SLOT"] == "hostname"
    assert environment["HEADRACE_WORKER__HTTP_PORT"] == str(container["ports"][0]["containerPort"])
    with PortReservation() as ports:
        port = ports.take()
        environment |= {"HEADRACE_WORKER__SLOT": "0", "HEADRACE_WORKER__HTTP_PORT": str(port)}
        worker = subprocess.Popen([sys.executable, "-m", "headrace", *container["args"]], env=environment)
        try:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                wait_until_ok(port, container[probe]["httpGet"]["path"])
            assert "EMBEDDING FP32[384]" in headrace(["send", "a river", "--wait"], environment)
            began = time.monotonic()
            worker.terminate()
            assert worker.wait(pod["terminationGracePeriodSeconds"]) == 0
            assert time.monotonic() - began < pod["terminationGracePeriodSeconds"]
        finally:
            if worker.poll() is None:
                for child in psutil.Process(worker.pid).children(recursive=True):
                    child.kill()
                worker.kill()
            worker.wait()


def headrace(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_until_ok(port: int, path: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not answers_ok(port, path):
        assert time.monotonic() < deadline, path
        time.sleep(0.1)


def test_tests_of_the_chart_run_commands_that_there_are(manifests: list[dict[str, Any]], tmp_path: Path) -> None:
    pod = of_kind(manifests, "Pod")["spec"]
    config = next(each for each in manifests if each["kind"] == "ConfigMap" and "annotations" not in each["metadata"])
    for container in (*pod["initContainers"], *pod["containers"]):
        environment = environment_of(container, config["data"]["pipeline.yaml"], tmp_path)
        assert headrace(container["args"], environment)


@pytest.mark.parametrize("values", values_files(), ids=lambda path: path.stem)
def test_pods_are_restricted(values: Path) -> None:
    """As the Pod Security Standard of that name wants it, and no secret stands in a manifest."""
    assert HELM is not None
    pods = []
    for manifest in rendered(HELM, values):
        assert manifest["kind"] != "Secret"
        spec = (
            manifest["spec"] if manifest["kind"] == "Pod" else manifest.get("spec", {}).get("template", {}).get("spec")
        )
        if spec:
            pods.append(spec)
    assert pods
    for spec in pods:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"workers": {"replicas": -1}}, "replicas"),
        ({"wrokers": {}}, "wrokers"),
        ({"topics": {"acls": {"apply": True}}}, "topics.acls.principal: whose rights?"),
        ({"triton": {"enabled": True, "modelRepository": {"kind": "claim"}}}, "which one?"),
        ({"triton": {"enabled": True, "modelRepository": {"kind": "s3"}}}, "where is it?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any], problem: str, tmp_path: Path) -> None:
    assert HELM is not None
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(RuntimeError, match=problem.replace("?", r"\?")):
        run(HELM, "template", "release", str(CHART), "--kube-version", f"{VERSIONS[0]}.0", "--values", str(file))


def test_workers_are_never_more_than_partitions() -> None:
    assert HELM is not None
    scaled = of_kind(rendered(HELM, CHART / "ci" / "autoscaled-values.yaml"), "ScaledObject")["spec"]
    assert (scaled["maxReplicaCount"], len(scaled["triggers"])) == (6, 2)


def test_check_finds_what_is_wrong() -> None:
    pytest.importorskip("kubernetes_validate")
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}
    assert any("prots" in problem for problem in problems(wrong))
