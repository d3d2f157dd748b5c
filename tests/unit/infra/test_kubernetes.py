"""The example for KubeRay: that it is consistent in itself and with our settings. No cluster has run it here."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairlead.settings import AgentSettings

CLUSTER: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[3] / "infra" / "kubernetes" / "ray-cluster.yaml").read_text()
)
HEAD = CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]
WORKER = CLUSTER["spec"]["workerGroupSpecs"][0]["template"]["spec"]
CONTAINERS = {container["name"]: (pod, container) for pod in (HEAD, WORKER) for container in pod["containers"]}


def environment(name: str) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in CONTAINERS[name][1]["env"]}


def test_the_cluster_has_the_ray_that_we_have() -> None:
    assert CLUSTER["spec"]["rayVersion"] == version("ray")


def test_the_agent_gets_every_setting_it_needs_and_none_it_does_not_know() -> None:
    given = {name for name in environment("agent") if name.startswith("FAIRLEAD_")}
    fields = AgentSettings.model_fields.items()
    assert {f"FAIRLEAD_{name.upper()}" for name, field in fields if field.is_required()} <= given
    assert given <= {f"FAIRLEAD_{name.upper()}" for name, _ in fields}


def mounts(name: str) -> set[tuple[str, str]]:
    return {(entry["mountPath"], entry["name"]) for entry in CONTAINERS[name][1]["volumeMounts"]}


def test_the_agent_shares_with_the_head_what_a_driver_needs() -> None:
    shared = mounts("ray-head") & mounts("agent")
    assert {"/tmp/ray", "/dev/shm", "/srv/shared"} <= {path for path, _ in shared}
    assert HEAD["shareProcessNamespace"] is True


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_confined_and_mounts_what_its_pod_has(name: str) -> None:
    pod, container = CONTAINERS[name]
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_ray_nodes_do_not_hold_the_agents_token(name: str) -> None:
    assert "agent-token" not in {volume for _, volume in mounts(name)}
    assert not [entry for entry in environment(name) if "TOKEN" in entry and not entry.endswith("_PATH")]
