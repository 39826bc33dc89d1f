"""``headrace acls``: the rights on Kafka that a role needs, as commands, as JSON, or given."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from headrace.pipeline.acls import Role, commands, rights
from headrace.pipeline.cli.options import json_option, settings_option
from headrace.pipeline.exit_codes import epilog

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.config import Settings

OPTIONS = "--bootstrap-server {servers} --command-config admin.properties"


@click.command("acls", epilog=epilog("acls"))
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.WORKER.value,
    show_default=True,
    help="Whose rights.",
)
@click.option("--principal", default="User:headrace", show_default=True, help="Who gets them.")
@click.option("--apply", "give", is_flag=True, help="Give them, with the rights of the settings' own user.")
@json_option("Print JSON.")
@settings_option
def command(settings: Settings, role: str, principal: str, give: bool, as_json: bool) -> int:
    """Print the rights on Kafka that a role needs, by the settings, and no others.

    As lines for kafka-acls.sh, which an administrator runs; or as JSON; or, with --apply, give them. Rights that are
    there already are left, also if they are more.
    """
    found = rights(settings, Role(role))
    if give:
        from headrace.connectors.kafka.granting import grant

        grant(settings.kafka.bootstrap_servers, settings.kafka.client, principal, found)
    if as_json:
        fields = [
            {
                "resource": right.resource.value,
                "name": right.name,
                "pattern": "prefixed" if right.prefixed else "literal",
                "operation": right.operation.value,
            }
            for right in found
        ]
        click.echo(json.dumps({"principal": principal, "role": role, "rights": fields}, indent=2))
    elif give:
        click.echo(f"{principal} has the {len(found)} rights of a {role}")
    else:
        options = OPTIONS.format(servers=settings.kafka.bootstrap_servers)
        click.echo("\n".join(commands(found, principal, options)))
    return 0
