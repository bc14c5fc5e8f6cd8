"""Pods as nodes: the real Kubernetes client against a strict fake of the API server, and the manifests' schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool.errors import ConnectError
from distpool.node.statefolder import find_token
from distpool.provision.kubernetes import Kubernetes, KubernetesProvisioner
from distpool.provision.link import OperatorLink
from distpool.provision.registry import parse
from tests.provision.contract import ProvisionerContract, eventually
from tests.provision.programs import SPREAD
from tests.provision.test_local import address, link

client = pytest.importorskip("kubernetes.client", reason="not installed: the client of Kubernetes (the extra k8s)")
yaml = pytest.importorskip("yaml")
from tests.provision.kube import FakeKubernetes, unknown_fields  # noqa: E402

__all__ = ["address", "link"]

pytestmark = pytest.mark.watchdog(240)

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
MODELS = {"Role": "V1Role", "RoleBinding": "V1RoleBinding", "ServiceAccount": "V1ServiceAccount", "Job": "V1Job"}


def documents() -> list[tuple[str, Any]]:
    return [
        (path.name, document)
        for path in sorted(MANIFESTS.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[FakeKubernetes]:
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "XDG_STATE_HOME": str(tmp_path / "pods"),
        "DISTPOOL_SPARE_WORKERS": "0",
    }
    fake = FakeKubernetes(environment)
    yield fake
    fake.close()


def api_of(fake: FakeKubernetes) -> Any:
    return client.CoreV1Api(client.ApiClient(client.Configuration(host=fake.url)))


@pytest.fixture
def provisioner(address: str, harness: FakeKubernetes) -> Iterator[KubernetesProvisioner]:
    engine = Kubernetes(image="science:1", python=sys.executable, nodes=2, cpus=1.0, memory=1 << 30)
    provisioner = KubernetesProvisioner(engine, find_token(address), api_of(harness), "science")
    yield provisioner
    provisioner.close()
    assert harness.objects == {"pods": {}, "secrets": {}}


class TestKubernetesProvisioner(ProvisionerContract):
    def test_it_asks_for_no_more_than_the_role_allows(
        self, provisioner: KubernetesProvisioner, harness: FakeKubernetes, link: OperatorLink
    ) -> None:
        self.start(provisioner, "one", link)
        provisioner.list()
        provisioner.release("one")
        provisioner.close()
        [role] = [document for _, document in documents() if document["kind"] == "Role"]
        allowed = {
            (verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
        }
        assert harness.asked <= allowed

    def test_the_key_is_in_the_secret_alone(
        self, provisioner: KubernetesProvisioner, harness: FakeKubernetes, address: str
    ) -> None:
        provisioner.start("one", "k8s")
        secret = find_token(address).line()
        assert secret not in json.dumps(harness.objects["pods"])
        [made] = harness.objects["secrets"].values()
        assert made["stringData"] == {"token": secret}
        [pod] = harness.objects["pods"].values()
        assert pod["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]

    def test_what_kubernetes_says_of_a_pod_that_waits(
        self, provisioner: KubernetesProvisioner, harness: FakeKubernetes
    ) -> None:
        harness.hold()
        provisioner.start("one", "k8s")
        [pod] = harness.objects["pods"].values()
        full = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: Insufficient cpu."}
        pod["status"] = {"phase": "Pending", "conditions": [full]}
        eventually(lambda: "Insufficient cpu" in provisioner.list()["one"].reason)
        assert provisioner.list()["one"].phase.value == "queued"
        pod["status"]["containerStatuses"] = [
            {"name": "node", "image": "x", "imageID": "", "ready": False, "restartCount": 0,
             "state": {"waiting": {"reason": "InvalidImageName", "message": "no such thing"}}},
        ]  # fmt: skip
        eventually(lambda: provisioner.list()["one"].phase.value == "failed")
        assert provisioner.list()["one"].hopeless


def test_a_program(harness: FakeKubernetes, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    context = {"cluster": "c", "user": "u", "namespace": "science"}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "x",
                "clusters": [{"name": "c", "cluster": {"server": harness.url}}],
                "contexts": [{"name": "x", "context": context}], "users": [{"name": "u", "user": {}}],
            }
        )
    )  # fmt: skip
    program = tmp_path / "program.py"
    program.write_text(SPREAD)
    done = subprocess.run(
        [sys.executable, str(program), f"k8s://?image=science:1&nodes=2&cpus=1&python={sys.executable}"],
        capture_output=True,
        text=True,
        timeout=150,
        env={
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "XDG_STATE_HOME": str(tmp_path / "state"),
        },
    )
    assert (done.returncode, done.stdout) == (0, "ran on 2\n"), done.stderr
    assert harness.objects == {"pods": {}, "secrets": {}}
    for process in harness.processes.values():
        process.wait(60)


def test_an_image_must_be_given() -> None:
    with pytest.raises(ConnectError, match="which image"):
        parse("k8s://science")
    assert parse("k8s://science?image=a/b:1") == Kubernetes(namespace="science", image="a/b:1")


@pytest.mark.parametrize(("name", "document"), documents(), ids=[name for name, _ in documents()])
def test_manifests_are_what_the_schemas_say(name: str, document: dict[str, Any]) -> None:
    if document["kind"] == "Kustomization":
        assert all((MANIFESTS / resource).exists() for resource in document["resources"])
        return
    assert unknown_fields(document, MODELS[document["kind"]]) == []


def test_the_schema_check_finds_mistakes() -> None:
    role = {"apiVersion": "v1", "kind": "Role", "metadata": {"name": "x"}, "rules": [{"verb": ["get"]}]}
    assert any("rules[].verb is not known" in problem for problem in unknown_fields(role, "V1Role"))
