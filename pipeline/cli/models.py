"""``headrace models``: what Triton serves, and what of it routes can use."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.pipeline.cli.completion_values import models
from headrace.pipeline.cli.options import config_option, json_option, settings_option
from headrace.pipeline.errors import HeadraceError, PoisonError, RetriableError
from headrace.pipeline.exit_codes import ExitCode, epilog

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.config import Settings
    from headrace.pipeline.model_check import Found, ModelReport
    from headrace.pipeline.overviews import ModelCatalog, ModelCounts, ServedModel
    from headrace.pipeline.ports import TensorSpec


@click.group(invoke_without_command=True, epilog=epilog("models"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
@click.pass_context
def command(context: click.Context, config_file: Path | None, as_json: bool) -> None:
    """Show what Triton serves, and whether the routes can use it.

    Every version in the server's repository: its state, what it takes, its batching, the routes that use it, and how
    many rows it inferred, in how many calls, since it was loaded.
    """
    if context.invoked_subcommand is None:
        from headrace.connectors.discovery import settings_in_force

        context.exit(_list(settings_in_force(config_file), as_json))


@command.command("show", short_help="Show all there is to say of one model.", epilog=epilog("models show"))
@click.argument("name", shell_complete=models)
@json_option("Print JSON.")
@settings_option
def show(settings: Settings, name: str, as_json: bool) -> int:
    """Show all there is to say of one model: inputs, outputs, batching, instances, statistics."""
    found = [report for report in _reports(settings) if report.served.name == name]
    if not found:
        raise HeadraceError(
            f"Triton at {settings.triton.url} has no model {name}: `headrace models` shows those it has"
        )
    if as_json:
        click.echo(json.dumps([_fields(report) for report in found], indent=2))
    else:
        for report in found:
            for title, fact in _facts(report):
                click.echo(f"{title:<12} {fact}")
    return ExitCode.OK if any(report.config is not None for report in found) else ExitCode.FAILED


def _list(settings: Settings, as_json: bool) -> int:
    from headrace.pipeline.cli.terminal import print_table
    from headrace.pipeline.model_check import problems
    from headrace.pipeline.shadow_feed import as_dispatched

    found = _reports(settings)
    shadows = problems(found, [as_dispatched(route) for route in settings.routes if route.shadow])
    wrong = problems(found, [route for route in settings.routes if not route.match.explicit])
    notes = problems(found, [route for route in settings.routes if route.match.explicit])
    if as_json:
        fields: dict[str, Any] = {"url": settings.triton.url, "models": [_fields(report) for report in found]}
        fields |= {"problems": wrong, "notes": [*notes, *shadows]}
        click.echo(json.dumps(fields, indent=2))
    else:
        titles = (
            "model",
            "version",
            "state",
            "takes",
            "max batch",
            "batching",
            "routes",
            "rows",
            "calls",
            "mean batch",
        )
        bad = [report.config is None for report in found]
        print_table(titles, [_row(report) for report in found], bad=bad, right=(4, 7, 8, 9))
        for report in found:
            if report.refusal is not None and not report.routes:
                click.echo(f"{report.served.name}: cannot be a route's model: {report.refusal}")
        for line in notes:
            click.echo(f"{line} (only events that name it miss it)")
        for line in shadows:
            click.echo(f"{line} (events go without their shadow)")
        for line in wrong:
            click.echo(line, err=True)
    return ExitCode.FAILED if wrong else ExitCode.OK


def _reports(settings: Settings) -> tuple[ModelReport, ...]:
    from headrace.connectors.triton import TritonInferenceClient
    from headrace.pipeline.model_check import reports
    from headrace.pipeline.shadow_feed import as_dispatched

    async def ask() -> tuple[list[Found], Any]:
        client = TritonInferenceClient.of(settings.triton)
        try:
            return [await _with_config(client, served) for served in await client.index()], await client.counts()
        finally:
            await client.close()

    found, counts = asyncio.run(ask())
    shadows = [as_dispatched(route) for route in settings.routes if route.shadow]
    return reports(found, counts, [*settings.routes, *shadows])


async def _with_config(client: ModelCatalog, served: ServedModel) -> Found:
    if not served.ready:
        return served, None
    try:
        return served, await client.model_config(served.name, served.version)
    except (PoisonError, RetriableError):  # unloaded since the index was made; a server that is gone fails in `counts`
        return served, None


def _row(report: ModelReport) -> tuple[str, ...]:
    from headrace.pipeline.model_check import takes

    served, config, counts = report.served, report.config, report.counts
    routes = ", ".join(report.routes)
    if config is None:
        state = f"{served.state.lower() or 'not loaded'}{f': {served.reason}' if served.reason else ''}"
        return (served.name, served.version, state, "", "", "", routes, "", "", "")
    done = ("", "", "") if counts is None else _numbers(counts)
    return (
        served.name,
        served.version,
        "ready",
        takes(config),
        str(config.signature.max_batch_size),
        config.scheduling,
        routes,
        *done,
    )


def _numbers(counts: ModelCounts) -> tuple[str, str, str]:
    mean = f"{counts.mean_batch:.1f}" if counts.executions else ""
    return f"{counts.inferences:,}", f"{counts.executions:,}", mean


def _facts(report: ModelReport) -> list[tuple[str, str]]:
    from headrace.pipeline.present import moment

    served, config, counts = report.served, report.config, report.counts
    facts = [("model", f"{served.name} {served.version}".strip())]
    facts.append(("state", f"{served.state.lower() or 'not loaded'} {served.reason}".strip()))
    facts.append(("routes", ", ".join(report.routes) or "none"))
    facts.append(("usable", "yes" if report.refusal is None else f"no: {report.refusal}"))
    if config is not None:
        signature = config.signature
        facts.append(("platform", config.platform))
        facts += [("input", _tensor(spec)) for spec in signature.inputs]
        facts += [("output", _tensor(spec)) for spec in signature.outputs]
        facts.append(("max batch", str(signature.max_batch_size) if signature.max_batch_size else "0: does not batch"))
        preferred = ", ".join(map(str, config.preferred_batch_sizes))
        delay = (
            f", waits at most {config.max_queue_delay_seconds * 1000:g} ms" if config.max_queue_delay_seconds else ""
        )
        facts.append(("batching", config.scheduling + (f", prefers {preferred}" if preferred else "") + delay))
        facts.append(("instances", ", ".join(config.instances) or "as Triton chooses"))
    if counts is not None:
        rows, calls, mean = _numbers(counts)
        facts.append(("inferred", f"{rows} rows in {calls} calls{f', {mean} a call' if mean else ''}"))
        facts.append(("failed", f"{counts.failures:,}"))
        if counts.inferences:
            queue, compute = (
                1000 * spent / counts.inferences for spent in (counts.queue_seconds, counts.compute_seconds)
            )
            facts.append(("time a row", f"{queue:.1f} ms in the queue, {compute:.1f} ms computing"))
            facts.append(("last", moment(counts.last_inference_ms)))
    return facts


def _tensor(spec: TensorSpec) -> str:
    from headrace.pipeline.codecs.tensor import describe

    return f"{spec.name} {describe(spec.datatype, spec.shape)}"


def _fields(report: ModelReport) -> dict[str, Any]:
    served, config, counts = report.served, report.config, report.counts
    fields: dict[str, Any] = {
        "name": served.name,
        "version": served.version,
        "ready": config is not None,
        "state": served.state,
        "reason": served.reason,
        "routes": list(report.routes),
        "usable": report.refusal is None,
        "refusal": report.refusal,
    }
    if config is not None:
        fields |= {
            "platform": config.platform,
            "inputs": [_tensor_fields(spec) for spec in config.signature.inputs],
            "outputs": [_tensor_fields(spec) for spec in config.signature.outputs],
            "max_batch_size": config.signature.max_batch_size,
            "scheduling": config.scheduling,
            "preferred_batch_sizes": list(config.preferred_batch_sizes),
            "max_queue_delay_seconds": config.max_queue_delay_seconds,
            "decoupled": config.decoupled,
            "instances": list(config.instances),
        }
    if counts is not None:
        fields["counts"] = {
            "inferences": counts.inferences,
            "executions": counts.executions,
            "mean_batch": counts.mean_batch,
            "failures": counts.failures,
            "last_inference_ms": counts.last_inference_ms,
            "queue_seconds": counts.queue_seconds,
            "compute_seconds": counts.compute_seconds,
        }
    return fields


def _tensor_fields(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
