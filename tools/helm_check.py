"""The Helm chart against the real Helm and Kubernetes' own schemas: ``make helm-check``.

Lints and renders the chart with each file in helm/headrace/ci, and validates every manifest for several versions of
Kubernetes; those of KEDA and of Prometheus' operator, which Kubernetes has no schemas for, are counted and told.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "headrace"
VERSIONS = ("1.27", "1.30", "1.33")
EXTENSIONS = {("keda.sh/v1alpha1", "ScaledObject"), ("monitoring.coreos.com/v1", "ServiceMonitor")}
HOW_TO_GET_IT = "`go install helm.sh/helm/v3/cmd/helm@v3.19.0` builds it"


def find_helm() -> str | None:
    """On the path, or where ``go install`` puts it."""
    return shutil.which("helm", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / "go" / "bin")]))


def run(helm: str, *words: str) -> str:
    """What helm prints. Raises RuntimeError if it fails."""
    done = subprocess.run([helm, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"helm {' '.join(words)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def rendered(helm: str, values: Path, version: str = VERSIONS[-1]) -> list[dict[str, Any]]:
    """Every manifest of a release named ``release``, in the namespace ``inference``. Raises RuntimeError."""
    told = run(
        helm, "template", "release", str(CHART), "--namespace", "inference", "--kube-version", f"{version}.0",
        "--values", str(values),
    )  # fmt: skip
    return [each for each in yaml.safe_load_all(told) if each]


def values_files() -> Sequence[Path]:
    """The matrix."""
    return sorted((CHART / "ci").glob("*-values.yaml"))


def problems(manifest: dict[str, Any]) -> Iterator[str]:
    """What is wrong with it, by version of Kubernetes."""
    import kubernetes_validate

    if (manifest["apiVersion"], manifest["kind"]) in EXTENSIONS:
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            yield f"{version}: {manifest['kind']} {manifest['metadata']['name']}: {error}"


def main() -> int:
    helm = find_helm()
    if helm is None:
        print(f"helm-check: there is no helm: {HOW_TO_GET_IT}", file=sys.stderr)
        return 1
    manifests = invalid = 0
    for values in values_files():
        run(helm, "lint", "--strict", str(CHART), "--values", str(values))
        for manifest in rendered(helm, values):
            manifests += 1
            found = list(problems(manifest))
            invalid += bool(found)
            for line in found:
                print(f"{values.name}: {line}", file=sys.stderr)
    print(f"helm-check: values={len(values_files())} manifests={manifests} invalid={invalid}")
    return 1 if invalid else 0


if __name__ == "__main__":
    sys.exit(main())
