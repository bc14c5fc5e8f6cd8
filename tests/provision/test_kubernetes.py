"""Pods as nodes: the real Kubernetes client against a strict fake of the API server, and the manifests' schemas."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool.errors import ConnectError
from distpool.node.statefolder import find_token
from distpool.provision.interface import ProvisionError
from distpool.provision.kubernetes import Kubernetes, KubernetesProvisioner
from distpool.provision.link import OperatorLink
from distpool.provision.registry import parse
from tests.provision.contract import ProvisionerContract, eventually
from tests.provision.programs import SPREAD, killed_at_the_end
from tests.provision.test_local import address, link

client = pytest.importorskip("kubernetes.client", reason="not installed: the client of Kubernetes (the extra k8s)")
yaml = pytest.importorskip("yaml")
from tests.provision.kube import FakeKubernetes, status_of, unknown_fields  # noqa: E402

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
        for reason, hopeless in (("ImagePullBackOff", False), ("InvalidImageName", True)):
            pod["status"]["containerStatuses"] = [
                {"name": "node", "image": "x", "imageID": "", "ready": False, "restartCount": 0,
                 "state": {"waiting": {"reason": reason, "message": "no such thing"}}},
            ]  # fmt: skip
            eventually(lambda reason=reason: f"{reason}: no such thing" in provisioner.list()["one"].reason)
            assert provisioner.list()["one"].phase.value == "failed"
            assert provisioner.list()["one"].hopeless is hopeless

    @pytest.mark.parametrize(
        ("code", "reason", "words", "hopeless", "cure"),
        [
            (401, "Unauthorized", "Unauthorized", True, "kubectl auth whoami"),
            (403, "Forbidden", "pods is forbidden: User x cannot create", True, "kubectl apply -k deploy/kubernetes"),
            (403, "Forbidden", "exceeded quota: small, used: pods=2, limited: pods=2", False, ""),
            (404, "NotFound", "namespaces 'science' not found", True, "kubectl get namespaces"),
            (409, "Conflict", "Operation cannot be fulfilled on resourcequotas 'small'", False, ""),
            (429, "TooManyRequests", "try again later", False, ""),
            (500, "InternalError", "etcdserver: request timed out", False, ""),
        ],
    )
    def test_what_the_api_server_refuses(
        self,
        provisioner: KubernetesProvisioner,
        harness: FakeKubernetes,
        code: int,
        reason: str,
        words: str,
        hopeless: bool,
        cure: str,
    ) -> None:
        harness.answers.append((code, status_of(code, words, reason)))
        with pytest.raises(ProvisionError, match=re.escape(f"refuses ({code}): {words}")) as caught:
            provisioner.start("one", "k8s")
        assert caught.value.hopeless is hopeless
        assert cure in str(caught.value)
        assert provisioner.list() == {}
        provisioner.start("one", "k8s")
        assert list(provisioner.list()) == ["one"]

    def test_answers_that_are_lost(
        self, provisioner: KubernetesProvisioner, harness: FakeKubernetes, link: OperatorLink
    ) -> None:
        harness.answers.append((0, {}))
        self.start(provisioner, "one", link)
        eventually(lambda: provisioner.list()["one"].phase.value == "running")
        # The API server is away for a while: what was known goes on to be.
        harness.answers += [(0, {})] * 4
        provisioner._asked_at = 0.0
        assert provisioner.list()["one"].phase.value == "running"
        assert not harness.answers
        # A request that was made again after its answer was lost
        harness.answers.append((409, status_of(409, "pods 'x' already exists", "AlreadyExists")))
        provisioner.start("two", "k8s")
        assert set(provisioner.list()) == {"one", "two"}
        eventually(lambda: "was deleted" in provisioner.list()["two"].reason)


@pytest.fixture
def environment(harness: FakeKubernetes, tmp_path: Path) -> dict[str, str]:
    """Of a program whose kubeconfig leads to the stand-in."""
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
    return {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def test_a_program(harness: FakeKubernetes, environment: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(SPREAD)
    words = [sys.executable, str(program), f"k8s://?image=science:1&nodes=2&cpus=1&python={sys.executable}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=150, env=environment)
    assert (done.returncode, done.stdout) == (0, "ran on 2\n"), done.stderr
    assert harness.objects == {"pods": {}, "secrets": {}}
    for process in harness.processes.values():
        process.wait(60)


def test_pods_end_with_a_program_that_is_killed(
    harness: FakeKubernetes, environment: dict[str, str], tmp_path: Path
) -> None:
    address = f"k8s://?image=science:1&nodes=2&cpus=1&python={sys.executable}"
    with killed_at_the_end(tmp_path, address, env=environment):
        assert len(harness.objects["pods"]) == 2
    eventually(lambda: harness.objects == {"pods": {}, "secrets": {}})
    for process in harness.processes.values():
        process.wait(60)


def test_a_right_that_is_missing_is_told_at_once(
    harness: FakeKubernetes, environment: dict[str, str], run_script: Callable[..., str]
) -> None:
    words = 'secrets is forbidden: User "x" cannot create resource "secrets" in the namespace "science"'
    harness.answers.append((403, status_of(403, words, "Forbidden")))
    source = """
import distpool
try:
    distpool.init("k8s://?image=science:1")
except distpool.ConnectError as error:
    print(error)
"""
    said = run_script(source, env=environment)
    assert f"Kubernetes refuses (403): {words} (the account needs the rights in deploy/kubernetes" in said


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="not installed: kubectl")
def test_kustomize_makes_what_is_written() -> None:
    command = ["kubectl", "kustomize", str(MANIFESTS)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    kinds = [document["kind"] for document in yaml.safe_load_all(made)]
    assert sorted(kinds) == ["Role", "RoleBinding", "ServiceAccount"]
    assert not any(unknown_fields(one, MODELS[one["kind"]]) for one in yaml.safe_load_all(made))


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
