"""Giving rights on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports these without saying so
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from headrace.connectors.kafka.admin import REQUEST_SECONDS, admin_client, listed_topics, mapped
from headrace.pipeline.acls import Operation, Resource, Right

_RESOURCES = {
    Resource.TOPIC: ResourceType.TOPIC,
    Resource.GROUP: ResourceType.GROUP,
    Resource.TRANSACTIONAL_ID: ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS = {
    Operation.READ: AclOperation.READ,
    Operation.WRITE: AclOperation.WRITE,
    Operation.CREATE: AclOperation.CREATE,
    Operation.DELETE: AclOperation.DELETE,
    Operation.ALTER: AclOperation.ALTER,
    Operation.DESCRIBE: AclOperation.DESCRIBE,
    Operation.DESCRIBE_CONFIGS: AclOperation.DESCRIBE_CONFIGS,
    Operation.ALTER_CONFIGS: AclOperation.ALTER_CONFIGS,
}
EVERYWHERE = "*"


def grant(
    bootstrap_servers: str,
    client_config: Mapping[str, str | int | float | bool],
    principal: str,
    rights: Sequence[Right],
) -> None:
    """Let a principal, ``User:name``, do all this, from every host. Safe to repeat.

    Raises:
        UnavailableError: the cluster does not answer.
        FatalError: it refuses.
    """
    bindings = [
        AclBinding(
            _RESOURCES[right.resource],
            right.name,
            ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL,
            principal,
            EVERYWHERE,
            _OPERATIONS[right.operation],
            AclPermissionType.ALLOW,
        )
        for right in rights
    ]
    client = admin_client(bootstrap_servers, client_config)
    listed_topics(client, bootstrap_servers)  # which says what is wrong, if it is the user's own password
    futures = client.create_acls(bindings, request_timeout=REQUEST_SECONDS)
    for right, binding in zip(rights, bindings, strict=True):
        try:
            futures[binding].result(REQUEST_SECONDS + 1)
        except KafkaException as error:
            what = f"{principal} was not given {right.operation} on {right.resource} {right.name}"
            raise mapped(error, bootstrap_servers, what) from error
