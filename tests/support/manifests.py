"""The files that say how the cluster is deployed, as data: manifests, docker-compose.yml, docker/stack.yml."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPONENTS = ("autoscale",)
WORKLOADS = ("Deployment", "StatefulSet")

Doc = dict[str, Any]


@cache
def load(file: Path) -> list[Doc]:
    """Return the documents of a YAML file, which are everybody's: copy them before a change."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document is not None]


def kustomization(directory: Path = KUBERNETES) -> Doc:
    """Return a directory's kustomization."""
    (found,) = load(directory / "kustomization.yaml")
    return found


def resources() -> Iterator[tuple[str, Doc]]:
    """Yield (file, manifest) of everything that is deployed, components included."""
    for directory in (KUBERNETES, *(KUBERNETES / name for name in COMPONENTS)):
        for name in kustomization(directory)["resources"]:
            for document in load(directory / name):
                yield str((directory / name).relative_to(KUBERNETES)), document


def of_kind(*kinds: str) -> list[Doc]:
    """Return the manifests of these kinds."""
    return [document for _, document in resources() if document["kind"] in kinds]


def pods() -> dict[str, Doc]:
    """Return the pod template of each workload, by its name."""
    return {document["metadata"]["name"]: document["spec"]["template"] for document in of_kind(*WORKLOADS)}


def chosen(selector: Doc) -> set[str]:
    """Return the workloads whose pods a label selector means."""
    found = set()
    for name, pod in pods().items():
        labels = pod["metadata"]["labels"]
        if all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
            labels.get(row["key"]) in row["values"] for row in selector.get("matchExpressions", []) if _is_in(row)
        ):
            found.add(name)
    return found


def _is_in(row: Doc) -> bool:
    assert row["operator"] == "In", "no other operator is understood here"
    return True
