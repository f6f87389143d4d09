"""docker-compose.yml and docker/stack.yml as files: what must not stand there, and what each role is given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import ROOT, load

ROLES = ("scheduler", "worker", "assistant")
OWN = {**{role: role for role in ROLES}, "metrics": "client", "redis": "redis"}  # whose keys a service is given
# What Compose understands and `docker stack deploy` refuses, or ignores with a warning.
NOT_IN_SWARM = {
    "build", "container_name", "cpus", "depends_on", "mem_limit", "network_mode", "pids_limit", "privileged",
    "profiles", "pull_policy", "restart", "security_opt", "tmpfs",
}  # fmt: skip

(COMPOSE,) = load(ROOT / "docker-compose.yml")
(STACK,) = load(ROOT / "docker" / "stack.yml")


def every_service() -> list[Any]:
    return [
        pytest.param(service, id=f"{name}-{role}")
        for name, file in (("compose", COMPOSE), ("stack", STACK))
        for role, service in file["services"].items()
    ]


@pytest.mark.parametrize("service", every_service())
def test_every_container_is_closed(service: dict[str, Any]) -> None:
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["init"] is True
    assert not {"container_name", "privileged", "cap_add", "devices", "ipc", "pid"} & set(service)


def test_nothing_is_published_but_the_page_and_that_for_this_machine_only() -> None:
    published = {role: service["ports"] for role, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {"web": ["127.0.0.1:${PAGE_PORT-8787}:8787"]}
    assert not [role for role, service in STACK["services"].items() if "ports" in service]


@pytest.mark.parametrize("role", list(COMPOSE["services"]))
def test_compose_limits_every_container(role: str) -> None:
    service = COMPOSE["services"][role]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]


def test_one_service_builds_the_image_and_nobody_asks_a_registry_for_it() -> None:
    """Several that build under one tag have Compose v2 make every container anew at the next `up`."""
    ours = {role: service for role, service in COMPOSE["services"].items() if service["image"].startswith("sparrowmq:")}
    assert [role for role, service in ours.items() if "build" in service] == ["keys"]
    assert {service["pull_policy"] for service in ours.values()} == {"never"}


def test_the_stack_has_nothing_that_only_compose_understands() -> None:
    for service in STACK["services"].values():
        assert not NOT_IN_SWARM & set(service)
        assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}
    assert not {"profiles", "name"} & set(STACK)


def test_each_role_is_given_its_own_keys_to_read() -> None:
    for role, own in {**OWN, "cli": "client", "web": "client"}.items():
        volumes = [volume for volume in COMPOSE["services"][role]["volumes"] if isinstance(volume, str)]
        assert [volume for volume in volumes if "keys" in volume] == [f"keys-{own}:/keys/{own}:ro"]


def test_the_stack_hands_out_the_files_that_the_manifests_do() -> None:
    (kustomization,) = load(ROOT / "deploy" / "kubernetes" / "kustomization.yaml")
    files = {row["name"].removeprefix("keys-"): row["files"] for row in kustomization["secretGenerator"]}
    for role, own in OWN.items():
        handed = {secret["source"]: secret for secret in STACK["services"][role]["secrets"]}
        assert {Path(secret["target"]) for secret in handed.values()} == {Path("/") / file for file in files[own]}
        for source, secret in handed.items():
            declared = STACK["secrets"][source]
            assert declared["file"] == "${KEYS}" + secret["target"].removeprefix("/keys")
            assert f"-{source}-${{{own.upper()}_VERSION}}" in declared["name"]
            assert (secret["uid"], secret["mode"]) == ("10001", 0o400)


def test_the_stack_has_every_service_that_stays_and_a_version_of_all_its_keys() -> None:
    assert set(STACK["services"]) == set(COMPOSE["services"]) - {"keys", "cli", "web"}  # Swarm has no loopback
    assert STACK["services"]["metrics"]["command"] == COMPOSE["services"]["metrics"]["command"]
    wanted = set(re.findall(r"\b[A-Z]+_VERSION\b", (ROOT / "docker" / "stack.yml").read_text()))
    (exported,) = re.findall(r"^export ([A-Z_ ]+_VERSION)$", (ROOT / "docker" / "stack-up").read_text(), re.MULTILINE)
    assert set(exported.split()) == wanted
