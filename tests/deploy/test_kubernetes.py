"""deploy/kubernetes: valid for the API, its parts refer to each other rightly, and it is as closed as it says."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml
from click import Context, Group

from sparrowmq import config
from sparrowmq.cli.main import root
from sparrowmq.core.assistant import Assistant, NodeReport
from sparrowmq.metrics import Reading, families
from sparrowmq.security import keyring
from sparrowmq.security.making import Tree
from sparrowmq.settings import AssistantSettings
from tests.support.manifests import COMPONENTS, KUBERNETES, ROOT, chosen, kustomization, load, of_kind, pods, resources

VERSIONS = ("1.29", "1.37")  # the oldest and the newest that are looked at
CONNECTING = {"worker": "worker", "assistant": "assistant", "cli": "client", "metrics": "client"}  # workload -> role
VALUES = {"prometheus-adapter.yaml"}  # of a chart of others
METRIC = "sparrowmq_queueing_delay_seconds"
DOCKER = config.load(ROOT / "config" / "docker.toml")


def generated() -> dict[str, list[str]]:
    """The Secrets that are made of files: their names, and the paths of the files below the directory."""
    return {row["name"]: row["files"] for row in kustomization()["secretGenerator"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("file", "manifest"), list(resources()), ids=lambda value: value["kind"] if isinstance(value, dict) else value
)
def test_every_manifest_is_valid(file: str, manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_there_is_not_would_be_found() -> None:
    manifest = copy.deepcopy(of_kind("Deployment")[0])
    manifest["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


def test_no_file_is_forgotten() -> None:
    for directory in (KUBERNETES, *(KUBERNETES / name for name in COMPONENTS)):
        there = {file.name for file in directory.glob("*.yaml")} - {"kustomization.yaml"} - VALUES
        assert there == set(kustomization(directory)["resources"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here to build with")
def test_kustomize_builds_it_with_the_autoscaler(tmp_path: Path) -> None:
    place = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, place)
    tree = Tree(place / "keys")
    with tree.changing():
        tree.complete("sq:")
    with (place / "kustomization.yaml").open("a") as file:
        file.write("\ncomponents: [autoscale]\n")
    built = subprocess.run(["kubectl", "kustomize", str(place)], capture_output=True, text=True, check=True).stdout
    manifests = [document for document in yaml.safe_load_all(built) if document is not None]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    assert {row["metadata"].get("namespace", "sparrowmq") for row in manifests} == {"sparrowmq"}
    worker = next(row for row in manifests if row["kind"] == "Deployment" and row["metadata"]["name"] == "worker")
    assert "replicas" not in worker["spec"]  # the autoscaler's to say
    secrets = {row["metadata"]["name"] for row in manifests if row["kind"] == "Secret"}
    used = re.findall(r"secretName: (\S+)", built)
    assert used
    assert set(used) <= secrets


def test_selectors_mean_the_pods_that_they_are_for() -> None:
    for workload in of_kind("Deployment", "StatefulSet"):
        assert chosen(workload["spec"]["selector"]) == {workload["metadata"]["name"]}
    for service in of_kind("Service"):
        assert chosen({"matchLabels": service["spec"]["selector"]}) == {service["metadata"]["name"]}
    budgets = {row["metadata"]["name"]: chosen(row["spec"]["selector"]) for row in of_kind("PodDisruptionBudget")}
    assert budgets == {name: {name} for name in ("scheduler", "worker", "assistant")}
    (autoscaler,) = of_kind("HorizontalPodAutoscaler")
    target = autoscaler["spec"]["scaleTargetRef"]
    assert target["name"] in [row["metadata"]["name"] for row in of_kind(target["kind"])]
    (redis,) = of_kind("StatefulSet")
    assert redis["spec"]["serviceName"] in [row["metadata"]["name"] for row in of_kind("Service")]


def test_the_store_is_where_the_service_is() -> None:
    (service,) = [row for row in of_kind("Service") if row["metadata"]["name"] == "redis"]
    assert DOCKER.store.url == f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/0"


def allowed(source: str, target: str, port: int) -> bool:
    """Whether both ends' policies let a connection through."""
    ends = {"Ingress": (target, source, "from"), "Egress": (source, target, "to")}
    for direction, (subject, other, word) in ends.items():
        rules = [
            rule
            for policy in of_kind("NetworkPolicy")
            if subject in chosen(policy["spec"]["podSelector"]) and direction in policy["spec"]["policyTypes"]
            for rule in policy["spec"].get(direction.lower(), [])
        ]
        if not any(
            port in [row["port"] for row in rule["ports"]]
            and any(other in chosen(peer["podSelector"]) for peer in rule[word] if "namespaceSelector" not in peer)
            for rule in rules
        ):
            return False
    return True


def test_only_those_who_have_business_there_reach_schedulers_and_redis() -> None:
    workers, clients = (
        int(url.rpartition(":")[2]) for url in (DOCKER.scheduler.bind_workers, DOCKER.scheduler.bind_clients)
    )
    wanted = {("worker", "scheduler", workers)}
    wanted |= {(name, "scheduler", clients) for name in ("cli", "assistant")}
    wanted |= {(name, "redis", 6379) for name in ("scheduler", "worker", "assistant", "cli", "metrics")}
    names = set(pods())
    possible = {
        (source, target, port)
        for source in names
        for target in names
        for port in (workers, clients, 6379, 9464, 80)
        if allowed(source, target, port)
    }
    assert possible == wanted
    everybody = [row for row in of_kind("NetworkPolicy") if row["spec"]["podSelector"] == {}]
    assert any(set(row["spec"]["policyTypes"]) == {"Ingress", "Egress"} and len(row["spec"]) == 2 for row in everybody)


@pytest.mark.parametrize("name", sorted(pods()))
def test_nobody_is_root_or_can_become_it(name: str) -> None:
    spec = pods()[name]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert not any("hostPort" in port for port in container.get("ports", []))
    assert not any("hostPath" in volume for volume in spec["volumes"])


@pytest.mark.parametrize("name", sorted(pods()))
def test_volumes_are_mounted_and_secrets_are_there(name: str) -> None:
    pod = pods()[name]["spec"]
    claims = [row["metadata"]["name"] for row in of_kind("StatefulSet")[0]["spec"]["volumeClaimTemplates"]]
    volumes = {volume["name"]: volume for volume in pod["volumes"]} | dict.fromkeys(claims if name == "redis" else [])
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == set(volumes)
    role = CONNECTING.get(name, name)
    assert volumes["keys"]["secret"] == {"secretName": f"keys-{role}", "defaultMode": 0o440}
    assert mounts["keys"] == {"name": "keys", "mountPath": f"/keys/{role}", "readOnly": True}
    assert f"keys-{role}" in generated()


def test_each_role_is_given_what_it_reads_and_nothing_else(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "keys")
    with tree.changing():
        tree.complete("sq:")
    for secret, files in generated().items():
        role = secret.removeprefix("keys-")
        made = {str(file.relative_to(tmp_path)) for file in tree.made if file.parent.name == role}
        assert set(files) == made
        mounted = tmp_path / "mounted" / role
        mounted.mkdir(parents=True)
        for file in files:
            (mounted / Path(file).name).write_bytes((tmp_path / file).read_bytes())
            (mounted / Path(file).name).chmod(0o440)  # as a pod finds them
    directory = tmp_path / "mounted"
    trust = keyring.load_trust(directory)
    for role in CONNECTING.values():
        credentials = keyring.load_credentials(directory, role)
        assert trust.verify(credentials.public_key, role, "x", credentials.proof("x")) == ""
        assert keyring.redis_password(directory, role)


def test_probes_look_at_the_file_that_the_image_names() -> None:
    image = (ROOT / "docker" / "Dockerfile").read_text()
    for name in ("scheduler", "worker", "assistant", "metrics"):
        (container,) = pods()[name]["spec"]["containers"]
        for probe in ("livenessProbe", "startupProbe"):
            command = container[probe]["exec"]["command"]
            assert command[:2] == ["sh", "-c"]
            assert command[2] in image.replace('\\"', '"')


def test_the_metric_of_the_autoscaler_is_served_scraped_and_asked_for() -> None:
    (container,) = pods()["metrics"]["spec"]["containers"]
    command = root.get_command(Context(root), container["args"][0])
    assert isinstance(command, Group)
    context = command.commands[container["args"][1]].make_context("serve", container["args"][2:])
    host, port = context.params["listen"]
    assert host == "0.0.0.0"
    assert container["ports"] == [{"name": "metrics", "containerPort": port}]
    (service,) = [row for row in of_kind("Service") if row["metadata"]["name"] == "metrics"]
    assert service["spec"]["ports"] == [{"name": "metrics", "port": port, "targetPort": "metrics"}]
    assert service["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    (policy,) = [row for row in of_kind("NetworkPolicy") if row["metadata"]["name"] == "metrics"]
    (rule,) = policy["spec"]["ingress"]
    assert [row["port"] for row in rule["ports"]] == [port]
    assert all("namespaceSelector" in peer for peer in rule["from"])

    (autoscaler,) = of_kind("HorizontalPodAutoscaler")
    assert [row["external"]["metric"]["name"] for row in autoscaler["spec"]["metrics"]] == [METRIC]
    (values,) = load(KUBERNETES / "autoscale" / "prometheus-adapter.yaml")
    (asked,) = values["rules"]["external"]
    assert asked["seriesQuery"].partition("{")[0] == METRIC
    assert asked["resources"] == {"overrides": {"namespace": {"resource": "namespace"}}}
    busy = NodeReport("worker", "w", 1, "alive", 0.0, 0.0, 1, 0, 1, 1, 0, wait_ms=7.0)
    report = msgspec.structs.replace(
        Assistant(id="a", incarnation=1, settings=AssistantSettings()).report(0.0), nodes=[busy]
    )
    assert METRIC in {family.name for family in families(Reading(1, 1, True, report))}


def test_pods_have_time_to_drain() -> None:
    for name in ("scheduler", "worker"):
        drain_s = getattr(DOCKER, name).drain_timeout_s
        assert pods()[name]["spec"]["terminationGracePeriodSeconds"] > drain_s + 2.0


def test_redis_is_started_alike_everywhere() -> None:
    (container,) = pods()["redis"]["spec"]["containers"]
    for file in ("docker-compose.yml", "docker/stack.yml"):
        assert load(ROOT / file)[0]["services"]["redis"]["command"] == container["command"]
