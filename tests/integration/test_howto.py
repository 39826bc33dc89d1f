"""The how-to pages: their programs, commands and settings are run as they stand on the page, addresses apart."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports these without saying so
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from headrace.connectors.embedded.artifacts import KAFKA_VERSION
from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.state import Endpoints
from tests.docs.pages import DOCS, Page, read
from tests.integration.avro_ends import event, image, output
from tests.integration.harness import Scene, WorkerProcess
from tests.integration.java_sources import MIN_JAVA, avro, link_libraries, no_jdk
from tests.integration.secured_kafka import ADMIN, ADMIN_PASSWORD, SecuredKafka

LANGUAGES, TRITON, KAFKA, GPU = (
    read(DOCS / "howto" / f"{name}.md") for name in ("other-language", "existing-triton", "existing-kafka", "gpu")
)
PHOTO = Path(__file__).parents[2] / "pipeline" / "demo" / "data" / "photos" / "coffee.jpg"
PROGRAM_SECONDS = 120
PASSWORD = "change-me"
"""Of the users on the page about Kafka."""


def commands(page: Page, program: str) -> list[list[str]]:
    """The page's console lines that run a program, as words."""
    lines = [line for block in page.blocks("console") for line in block.splitlines()]
    found = [shlex.split(line) for line in lines if line.split()[0] == program]
    assert found, f"{page.name} runs no {program}"
    return found


def run(words: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints; fails if it does."""
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}{done.stderr}"
    return done.stdout


def headrace(words: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
    )


# --- other languages


def exchange(stack: Endpoints, prefix: str, folder: Path, programs: list[list[str]]) -> None:
    """Run a producer and a consumer against a worker, and hold what they print against the page."""
    producer, consumer = programs
    (folder / "photo.jpg").write_bytes(PHOTO.read_bytes())
    with Scene(stack, prefix, folder) as scene:
        scene.worker()
        addresses = {
            "localhost:9092": stack.bootstrap_servers,
            "http://localhost:8081": stack.registry_url,
            "inference.requests": scene.requests,
            "inference.results": scene.results,
        }
        for words in programs:
            assert len(addresses.keys() & set(words)) == 3
        sent = run([addresses.get(word, word) for word in producer], folder)
        assert re.findall(r"^sent (\S+) to ", sent, re.MULTILINE) == ["sentence-1", "photo-1"]
        printed = run([addresses.get(word, word) for word in consumer], folder).splitlines()
        said, classified = next(LANGUAGES.blocks("text")).splitlines()
        assert said in printed
        labels = [line for line in printed if line.startswith("photo-1: ")]
        assert labels[0].rpartition(" ")[0] == classified.rpartition(" ")[0]  # the score may differ in its last digit
        assert len(labels) == 5
        assert len(printed) == 6
        scene.read_until(2)
        assert not any(each.dead for each in scene.answers)
        assert {each.key for each in scene.answers} == {b"mill-7"}
        assert all(each.header("traceparent") for each in scene.answers)  # only if the request's was a valid one


def test_java_programs_of_the_page_send_events_and_read_results(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    if reason := no_jdk():
        pytest.skip(f"THE JAVA PROGRAMS OF {LANGUAGES.name} WERE NOT RUN: {reason}; install a JDK {MIN_JAVA} or newer")
    for source in LANGUAGES.blocks("java"):
        (name,) = re.findall(r"^public class (\w+)", source, re.MULTILINE)
        assert not re.findall(r"^import .*headrace", source, re.MULTILINE)
        (tmp_path / f"{name}.java").write_text(source)
    link_libraries(tmp_path / "lib")
    exchange(stack, names("w"), tmp_path, commands(LANGUAGES, "java"))


def test_libraries_of_the_java_page_are_those_that_were_tried() -> None:
    project = ElementTree.fromstring(next(LANGUAGES.blocks("xml")))
    named = {each.findtext("artifactId"): each.findtext("version") for each in project.iter("dependency")}
    assert named == {"kafka-clients": KAFKA_VERSION, "avro": avro().version}


def test_python_programs_of_the_page_send_events_and_read_results(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    programs = commands(LANGUAGES, "python")
    for words, source in zip(programs, LANGUAGES.blocks("python"), strict=True):
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports
        assert not any("headrace" in ast.unparse(node) for node in imports)
        (tmp_path / words[1]).write_text(source)
        words[:1] = [sys.executable, "-W", "error"]
    exchange(stack, names("w"), tmp_path, programs)


# --- Triton, GPUs


@pytest.mark.parametrize("page", [TRITON, GPU], ids=lambda page: page.path.stem)
def test_model_configuration_of_a_page_is_one_to_triton(page: Page) -> None:
    (block,) = page.blocks("protobuf")
    config = text_format.Parse(block, model_config_pb2.ModelConfig())
    assert config.max_batch_size == 64


def test_worker_of_the_triton_page_answers(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> None:
    """And `headrace models` finds the page's model to be what the page says it is."""
    block, _ = TRITON.blocks("yaml")
    environment = stack.environment()
    with Scene(stack, names("w"), tmp_path, **yaml.safe_load(block)) as scene:
        worker = scene.worker()
        (sent,) = scene.send_events([event(image(PHOTO.read_bytes()))])
        assert output(scene.settle([sent])[sent.position])["labels"][0]["name"] == "espresso"
        checks = [words[1:] for words in commands(TRITON, "headrace") if words[1] != "worker"]
        assert len(checks) == 3
        for words in checks:
            done = headrace(words, tmp_path, environment)
            assert done.returncode == 0, done.stderr
        (declared,) = TRITON.blocks("protobuf")
        config = text_format.Parse(declared, model_config_pb2.ModelConfig())
        shown = {" ".join(line.split()) for line in done.stdout.splitlines()}
        datatypes = {model_config_pb2.TYPE_STRING: "BYTES", model_config_pb2.TYPE_FP32: "FP32"}
        for kind, tensors in (("input", config.input), ("output", config.output)):
            assert {line for line in shown if line.startswith(kind)} == {
                f"{kind} {each.name} {datatypes[each.data_type]}[{each.dims[0]}]" for each in tensors
            }
        named = set(re.findall(r"`((?:headrace|nv)_\w+)`", GPU.text)) - {
            "nv_gpu_utilization",
            "nv_gpu_memory_used_bytes",
        }
        served = _text(f"{worker.url}/metrics") + _text(stack.triton_metrics_url)
        assert len(named) == 7
        assert {name for name in named if not re.search(rf"^{name}(?:_bucket)?\{{", served, re.MULTILINE)} == set()


def _text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


@pytest.mark.parametrize(
    ("triton", "model", "symptom"),
    [
        ("stack", "photo_tags", "the server has no such model"),
        ("stack over HTTP", "image_jpeg", "Socket closed"),
        ("nobody", "image_jpeg", "Connection refused"),
        ("with a scheme", "image_jpeg", "triton.url: 'http://triton:8001' is not allowed"),
    ],
)
def test_models_command_says_what_the_triton_page_says_of_a_mistake(
    stack: Endpoints, tmp_path: Path, triton: str, model: str, symptom: str
) -> None:
    assert symptom in symptoms(TRITON)
    with PortReservation() as ports:
        urls = {
            "stack": stack.triton_grpc,
            "stack over HTTP": stack.triton_http,
            "nobody": f"127.0.0.1:{ports.take()}",
            "with a scheme": "http://triton:8001",
        }
        route = {"name": "photos", "model": model}
        (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump({"triton": {"url": urls[triton]}, "routes": [route]}))
        done = headrace(["models", "-c", "pipeline.yaml"], tmp_path, {})
    assert done.returncode in (1, 2)
    assert symptom in done.stderr


def symptoms(page: Page) -> list[str]:
    """The messages in the first column of the page's last table, up to where the page leaves something out."""
    (_, table) = page.text.split("## What goes wrong")
    cells = re.findall(r"^\| (`.+?`)", table, re.MULTILINE)
    return [max(cell.strip("`").split("…"), key=len).strip() for cell in cells]


# --- Kafka


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A broker with TLS, users and ACLs, on which nobody but the administrator may do anything yet."""
    classpath, folder = Downloads(cache_dir(), Progress()).kafka_classpath(), tmp_path_factory.mktemp("kafka")
    with PortReservation() as ports, SecuredKafka(folder, classpath, ports.take(), ports.take()) as server:
        yield server


def test_rights_of_the_kafka_page_are_what_a_worker_needs(
    stack: Endpoints, secured: SecuredKafka, tmp_path: Path
) -> None:
    """Its commands are run, then a worker with all the rights, then one with each of them taken away."""
    for block in KAFKA.blocks("sh"):
        secured.run_commands(on_one_broker(block, secured), tmp_path)
    block, _ = KAFKA.blocks("yaml")
    (tmp_path / "pipeline.yaml").write_text(block)
    app = block.replace("headrace-worker", "media-app")
    (tmp_path / "app.yaml").write_text(app)
    (tmp_path / "ca.pem").write_bytes(secured.ca_file.read_bytes())
    environment = {
        **stack.environment(),
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": secured.bootstrap_servers,
        "KAFKA_PASSWORD": PASSWORD,
    }
    with PortReservation() as ports:
        worker = WorkerProcess(0, tmp_path, tmp_path / "pipeline.yaml", environment, ports.take())
        worker.start()
        try:
            worker.wait_ready()
            good = headrace(["send", "a river", "--wait", "-c", "app.yaml"], tmp_path, environment)
            assert good.returncode == 0, good.stdout + good.stderr
            assert "EMBEDDING FP32[384]" in good.stdout
            bad = headrace(["send", "a river", "--model", "nobody", "--wait", "-c", "app.yaml"], tmp_path, environment)
            assert bad.returncode == 4, bad.stdout + bad.stderr
            dead = headrace(["dlq", "list", "-c", "app.yaml"], tmp_path, environment)
            assert dead.returncode == 0, dead.stderr
            assert "UNKNOWN_MODEL" in dead.stdout
            checks = [words[1:] for words in commands(KAFKA, "headrace") if words[1] != "worker"]
            assert len(checks) == 2
            for words in checks:
                done = headrace(words, tmp_path, environment)
                assert done.returncode in (0, 1)  # 1: one broker cannot have the replicas that the page wants
                assert done.stderr.count("replicas") == len(done.stderr.splitlines()), done.stderr
            assert worker.terminate() == 0
            assert PASSWORD not in worker.log

            admin = secured.admin()
            rights = acls_of(admin, "User:headrace-worker")
            assert len(rights) == 10
            for right in rights:
                take_away(admin, right)
                worker.start()
                assert worker.wait_ended(30) == 1, f"not needed: {right}"
                reason = worker.log.splitlines()[-1]
                assert any(symptom in generalised(reason) for symptom in symptoms(KAFKA)), reason
                give(admin, right)
        finally:
            worker.kill()


def on_one_broker(block: str, server: SecuredKafka) -> str:
    """The page's commands with this broker's address, and no more replicas than it can hold."""
    for there, here in (
        ("kafka-1.example.org:9093", server.bootstrap_servers),
        ("--replication-factor 3", "--replication-factor 1"),
        ("min.insync.replicas=2", "min.insync.replicas=1"),
    ):
        assert there in block or "--create" not in block
        block = block.replace(there, here)
    return block


def generalised(message: str) -> str:
    """A message with the page's topic in place of any other."""
    return re.sub(r"topic (?:media|captions)\.[\w-]+", "topic media.results", message)


def acls_of(admin: AdminClient, principal: str) -> list[AclBinding]:
    return list(admin.describe_acls(_anything(principal)).result())


def _anything(principal: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]  # any, which the client takes and its declaration forgets
        ResourcePatternType.ANY,
        principal,
        None,  # type: ignore[arg-type]
        AclOperation.ANY,
        AclPermissionType.ANY,
    )


def take_away(admin: AdminClient, right: AclBinding) -> None:
    only = AclBindingFilter(
        right.restype,
        right.name,
        right.resource_pattern_type,
        right.principal,
        right.host,
        right.operation,
        right.permission_type,
    )
    (deleted,) = admin.delete_acls([only]).values()
    assert len(deleted.result()) == 1


def give(admin: AdminClient, right: AclBinding) -> None:
    (created,) = admin.create_acls([right]).values()
    created.result()


def test_client_says_why_a_connection_failed_when_asked_as_the_kafka_page_says(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    """A refused password and an authority that is not trusted: the page's words for both are the client's."""
    other = SecuredKafka(tmp_path / "other", (), 1, 2)
    other.write_certificate()
    right = secured.client(ADMIN, ADMIN_PASSWORD)
    reasons = re.findall(r"(?<=such as\n)`(.+?)` or `(.+?)`", KAFKA.text)
    wrongs = ({"sasl.password": "change-you"}, {"ssl.ca.location": str(other.ca_file)})
    for reason, wrong in zip(*reasons, wrongs, strict=True):
        kafka = {"bootstrap_servers": secured.bootstrap_servers, "client": {**right, **wrong, "log_level": 4}}
        (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump({"kafka": kafka}))
        done = headrace(["topics", "-c", "pipeline.yaml"], tmp_path, {})
        assert done.returncode == 1
        client, ours = done.stderr.split("headrace: ")
        assert reason in client
        assert reason in ours
