"""A Kafka broker as others run it: TLS, users with passwords, and nothing allowed that no ACL allows.

With Kafka's own administrative commands under the names that they have in its distribution, so that a page's commands
can be run as they stand.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.java import java_command
from headrace.connectors.embedded.ports import LOOPBACK
from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.server import Server
from tests.certificates import Authority

ADMIN, ADMIN_PASSWORD = "admin", "admin-secret"
_COMMANDS = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
}
_HEAP_MIB, _COMMAND_HEAP_MIB = 512, 128
_READY_SECONDS, _FORMAT_SECONDS, _COMMANDS_SECONDS = 60.0, 60.0, 180.0
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=SASL_SSL://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=SASL_SSL://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
inter.broker.listener.name=SASL_SSL
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required username="{admin}" password="{admin_password}";
ssl.keystore.type=PEM
ssl.keystore.location=broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=ca.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{admin};User:ANONYMOUS
log.dirs=log
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
message.max.bytes=33554432
"""
# ANONYMOUS is the broker to its own controller; the listener for clients knows only users with a password.


class SecuredKafka(Server):
    """A broker whose clients must come with TLS and SCRAM-SHA-512, and whose authorizer denies what no ACL allows.

    Args:
        data_dir: for its files; must not exist yet or be empty.
        classpath: the jars of the broker.
        port: of the clients' listener.
        controller_port: of the controller's.
    """

    def __init__(self, data_dir: Path, classpath: Sequence[Path], port: int, controller_port: int) -> None:
        self._data_dir = data_dir
        self._classpath = os.pathsep.join(map(str, classpath))
        self._ports = {"port": port, "controller_port": controller_port}
        self.bootstrap_servers = f"{LOOPBACK}:{port}"
        super().__init__(ServerProcess("Kafka with ACLs", data_dir / "kafka.log"))

    @property
    def ca_file(self) -> Path:
        """What clients verify the broker's certificate with."""
        return self._data_dir / "ca.pem"

    @property
    def log(self) -> str:
        """What the broker has written so far."""
        return self._process.log_path.read_text(errors="replace")

    def client(self, user: str, password: str) -> dict[str, str]:
        """librdkafka's properties of a user."""
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": password,
            "ssl.ca.location": str(self.ca_file),
        }

    def admin(self) -> AdminClient:
        """A client that may do everything."""
        return AdminClient(
            {"bootstrap.servers": self.bootstrap_servers, "log_level": 0, **self.client(ADMIN, ADMIN_PASSWORD)}
        )

    def write_certificate(self) -> None:
        """Make the broker's certificate, as ``spawn`` does."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        authority = Authority()
        self.ca_file.write_bytes(authority.certificate)
        (self._data_dir / "broker.pem").write_bytes(authority.issue("a broker under test").both)

    def spawn(self) -> None:
        self.write_certificate()
        names = {**self._ports, "host": LOOPBACK, "admin": ADMIN, "admin_password": ADMIN_PASSWORD}
        (self._data_dir / "server.properties").write_text(_PROPERTIES.format(**names))
        user = f"SCRAM-SHA-512=[name={ADMIN},password={ADMIN_PASSWORD}]"
        storage = ["kafka.tools.StorageTool", "format", "-t", str(uuid.uuid4()), "-c", "server.properties"]
        done = subprocess.run(
            self._java(_HEAP_MIB, *storage, "--add-scram", user),
            capture_output=True,
            text=True,
            timeout=_FORMAT_SECONDS,
            cwd=self._data_dir,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self._process.spawn(self._java(_HEAP_MIB, "kafka.Kafka", "server.properties"), os.environ, self._data_dir)

    def wait_ready(self) -> None:
        admin = self.admin()

        def answers() -> bool:
            try:
                return bool(admin.list_topics(timeout=1.0).brokers)
            except KafkaException:
                return False

        self._process.wait_until(answers, _READY_SECONDS)

    def stop(self) -> None:
        self.kill()

    def run_commands(self, script: str, folder: Path) -> str:
        """Run a shell script with Kafka's commands on its path and the administrator's ``admin.properties`` beside it.

        Returns what was printed; fails with the first command that does.
        """
        self._install_commands(folder)
        environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-eux"],
            input=script,
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_COMMANDS_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _install_commands(self, folder: Path) -> None:
        (folder / "bin").mkdir(exist_ok=True)
        for name, main in _COMMANDS.items():
            script = folder / "bin" / name
            script.write_text(f'#!/bin/sh\nexec {shlex.join(self._java(_COMMAND_HEAP_MIB, main))} "$@"\n')
            script.chmod(0o755)
        (folder / "admin.properties").write_text(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n"
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required "
            f'username="{ADMIN}" password="{ADMIN_PASSWORD}";\n'
            f"ssl.truststore.type=PEM\nssl.truststore.location={self.ca_file}\n"
        )

    def _java(self, heap_mib: int, *main: str) -> list[str]:
        flags = (
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.network.Selector=info",  # tells of a wrong password
        )
        return java_command(["-cp", self._classpath, *main], heap_mib, self._data_dir / "tmp", flags)
