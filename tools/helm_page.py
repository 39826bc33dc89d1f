"""docs/helm.md: how to deploy, and every value of the chart, from its values.schema.json and values.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[1] / "helm" / "headrace"
_HEAD = """\
# Deploy on Kubernetes

The chart `helm/headrace` runs workers, and NVIDIA Triton if you want it to; Kafka and the registry are yours. It needs
Kubernetes 1.27 or newer and Helm 3; KEDA to scale by lag, and Prometheus' operator for its ServiceMonitors.

```yaml
# values.yaml
image: {repository: registry.example.org/headrace, tag: 0.1.0}
pipeline:
  name: captions
  kafka:
    bootstrap_servers: kafka-1.example.org:9093
    client:
      security.protocol: SASL_SSL
      sasl.mechanism: SCRAM-SHA-512
      sasl.username: headrace-worker
      sasl.password: "${env:KAFKA_PASSWORD}"
  registry: {url: "https://registry.example.org"}
  topics: {requests: [media.requests], partitions: 12, replication_factor: 3, min_insync_replicas: 2}
secrets:
  env: [{name: KAFKA_PASSWORD, secret: kafka, key: password}]
triton: {enabled: true, image: {repository: registry.example.org/models, tag: v3}}
topics: {apply: true}
```

```sh
helm install captions helm/headrace --namespace inference --values values.yaml
helm test captions --namespace inference
```

- **Workers are a StatefulSet**, for a worker's slot is its pod's ordinal
  ([why](decisions/021-statefulset.md)). An upgrade replaces one after the other, each once the one before is ready; the
  one that goes drains what is in flight first. A change of `pipeline` is such an upgrade. Of `kafka.assignment` it is
  not: stop all workers for that.
- **`pipeline` is pipeline.yaml** ([settings](settings.md)); the environment sets slot, address and log format. Secrets
  come from Secrets that are there already, as variables or files, and stand in `pipeline` by reference.
- **Probes**: `/livez` fails only when the process cannot go on, so Kafka or Triton being away restarts nothing;
  `/readyz` says that a worker has joined the group and reaches all it needs, and an upgrade waits for it.
- **Everything is restricted**: no root, no capabilities, a root file system that cannot be written, no token of the
  Kubernetes API. `networkPolicy` lets the pods reach what they need and nothing else.
- **Triton** has a service without an address of its own; `triton.gpus` asks for GPUs. Models come in its image, from a
  volume, or from a bucket.
- **Topics and rights** are made by a job before each install and upgrade, if `topics.apply` or `topics.acls.apply` say
  so; the same as [`headrace topics apply`](howto/topics.md) and `headrace acls --apply`.

`make helm-check` lints and renders the chart with a matrix of values, and validates the manifests. `make docs` writes
this page.

## Values

| value | default | |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    defaults: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return _HEAD + "".join(
        f"| `{name}` | {_shown(default)} | {described} |\n"
        for name, default, described in rows(schema["properties"], defaults)
        if name != "global"
    )


def rows(properties: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Each value's path, default and description; of sections their own description comes first."""
    for name, each in properties.items():
        path, default = f"{prefix}{name}", defaults.get(name)
        inner = each.get("properties")
        yield path, None if inner else default, each["description"]
        if inner:
            yield from rows(inner, default or {}, f"{path}.")
        elif items := each.get("items", {}).get("properties"):
            yield from ((f"{path}[].{key}", None, value["description"]) for key, value in items.items())


def _shown(default: Any) -> str:
    if default is None or default in ("", [], {}):
        return ""
    return f"`{json.dumps(default, ensure_ascii=False)}`"
