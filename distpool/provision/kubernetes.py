"""``k8s://``: nodes as pods of a Kubernetes cluster.

The key lies in a Secret, from which pods have it as a variable. Pods belong to that Secret, and it belongs to the pod
in which the program runs if it runs in one: whatever is deleted, Kubernetes deletes what belongs to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from distpool.provision.address import Engine, duration, option
from distpool.provision.base import BaseProvisioner, agent_words
from distpool.provision.interface import Machine, Phase, ProvisionError
from distpool.wire.security import Token

#: How long a question may take, and how often one is asked at most.
_ANSWER_S, _ASK_S = 20.0, 0.5
#: Seconds that a node has to end.
_GRACE_S = 15
#: With these a container never starts.
_NEVER = ("InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError")
_FAILING = (*_NEVER, "ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff", "RunContainerError")
#: What to do about a status that the API server answers with.
_CURES = {
    401: "are your credentials still valid? kubectl auth whoami",
    403: "the account needs the rights in deploy/kubernetes: kubectl apply -k deploy/kubernetes -n NAMESPACE",
    404: "is that the name of a namespace there? kubectl get namespaces",
}
_IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, kw_only=True)
class Kubernetes(Engine):
    """Pods; ``image`` must be given."""

    scheme: ClassVar[str] = "k8s"
    target: ClassVar[str] = "namespace"

    namespace: str = option("", str, "the namespace of the pods; default: that of the context, or of the program's pod")
    image: str = option("", str, "the image of the pods, with distpool in it; must be given")
    python: str = option("python", str, "the Python to run there")
    context: str = option("", str, "the context of the kubeconfig; default: the current one, or the program's pod")
    service_account: str = option("", str, "the service account of the pods, whose token they do not see")
    pull_secret: str = option("", str, "the Secret with which the image is pulled")
    deadline: float = option(0.0, duration, "pods are ended after so long in any case (0: never)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.image:
            raise ValueError("which image? As in k8s://namespace?image=registry/name:tag")

    def near(self) -> str:
        """The API server's host."""
        with contextlib.suppress(ProvisionError):
            host: str = _client(self)[0].api_client.configuration.host
            return host.partition("://")[2].partition("/")[0].rpartition(":")[0] or host.partition("://")[2]
        return ""

    def provisioner(self, token: Token) -> KubernetesProvisioner:
        """See ``Engine``."""
        api, namespace = _client(self)
        return KubernetesProvisioner(self, token, api, namespace)


def _client(engine: Kubernetes) -> tuple[Any, str]:
    """The API, and the namespace to work in."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise ProvisionError("k8s:// needs the Kubernetes client: pip install 'distpool[k8s]'", hopeless=True) from None
    configuration = client.Configuration()
    try:
        if _IN_POD.exists() and not engine.context:
            config.load_incluster_config(client_configuration=configuration)
            namespace = _IN_POD.read_text().strip()
        else:
            config.load_kube_config(context=engine.context or None, client_configuration=configuration)
            contexts, active = config.list_kube_config_contexts()
            chosen = next((one for one in contexts if one["name"] == engine.context), active)
            namespace = chosen["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as error:
        raise ProvisionError(f"no way to a Kubernetes cluster is known here: {error}", hopeless=True) from error
    return client.CoreV1Api(client.ApiClient(configuration)), engine.namespace or namespace


class NoAnswer(ProvisionError):
    """Whether what was asked for was done is not known."""


class _Pod(NamedTuple):
    name: str
    #: when it was asked for
    since: float


class KubernetesProvisioner(BaseProvisioner[_Pod]):
    """Creates and deletes pods.

    :param api: ``kubernetes.client.CoreV1Api``.
    :raises ProvisionError: when the Secret cannot be created.
    """

    def __init__(self, engine: Kubernetes, token: Token, api: Any, namespace: str) -> None:
        super().__init__(engine.node_type(start_s=30.0))
        self._engine, self._api, self._namespace = engine, api, namespace
        self._cluster = f"distpool-{secrets.token_hex(5)}"
        self._labels = {"app.kubernetes.io/managed-by": "distpool", "distpool/cluster": self._cluster}
        self._last = 0
        self._known: dict[str, Any] = {}
        self._asked_at = 0.0
        made = self._call(api.create_namespaced_secret, namespace, self._secret(token))
        self._owner = {"apiVersion": "v1", "kind": "Secret", "name": self._cluster, "uid": made.metadata.uid}

    def request(self, node: str) -> _Pod:
        """See ``BaseProvisioner``."""
        self._last += 1  # a pod of the same name may not have ended yet
        pod = _Pod(f"{self._cluster}-{self._last}", time.monotonic())
        with contextlib.suppress(NoAnswer):  # it may have been created all the same: the next look says so
            self._call(self._api.create_namespaced_pod, self._namespace, self._manifest(pod.name, node))
        return pod

    def refresh(self) -> None:
        """See ``BaseProvisioner``."""
        now = time.monotonic()
        if not self.handles or now < self._asked_at + _ASK_S:
            return
        with contextlib.suppress(ProvisionError):  # the API server is away: what was known goes on to be
            selector = f"distpool/cluster={self._cluster}"
            pods = self._call(self._api.list_namespaced_pod, self._namespace, label_selector=selector)
            self._known = {pod.metadata.name: pod for pod in pods.items}
            self._asked_at = now

    def look(self, node: str, pod: _Pod) -> Machine | None:
        """See ``BaseProvisioner``."""
        known = self._known.get(pod.name)
        if known is None and pod.since >= self._asked_at:
            return self.seen(Phase.QUEUED, "in Kubernetes")
        if known is None:
            return self.failed(f"pod {pod.name} was deleted")
        return None if known.status.phase == "Succeeded" else self._read(known)

    def end(self, node: str, pod: _Pod) -> None:
        """See ``BaseProvisioner``."""
        delete = self._api.delete_namespaced_pod
        with contextlib.suppress(ProvisionError):  # it may be gone
            self._call(delete, pod.name, self._namespace, grace_period_seconds=_GRACE_S)

    def close(self) -> None:
        """Delete the Secret, and with it what belongs to it."""
        super().close()
        with contextlib.suppress(ProvisionError):
            self._call(self._api.delete_namespaced_secret, self._cluster, self._namespace)
        self._api.api_client.close()

    # -- within -------------------------------------------------------------------------------------------------

    def _read(self, pod: Any) -> Machine:
        status = pod.status
        states = [one.state for one in status.container_statuses or () if one.state is not None]
        waiting = next((state.waiting for state in states if state.waiting is not None), None)
        if status.phase == "Failed":
            ended = next((state.terminated for state in states if state.terminated is not None), None)
            said = (ended.message or "").strip().splitlines()[-1:] if ended is not None else []
            code = f"exit status {ended.exit_code}" if ended is not None else ""
            words = ", ".join(filter(None, [status.reason, status.message, code, *said]))
            return self.failed(f"pod {pod.metadata.name}: {words}")
        if waiting is not None and waiting.reason in _FAILING:
            why = f"{waiting.reason}: {waiting.message or ''}"
            return self.failed(f"pod {pod.metadata.name}: {why}", waiting.reason in _NEVER)
        if status.phase == "Running":
            return self.seen(Phase.RUNNING)
        unscheduled = [
            one.message or one.reason
            for one in status.conditions or ()
            if one.type == "PodScheduled" and one.status == "False"
        ]
        if unscheduled:
            return self.seen(Phase.QUEUED, f"in Kubernetes ({unscheduled[0]})")
        return self.seen(Phase.STARTING if states else Phase.QUEUED, "in Kubernetes")

    def _secret(self, token: Token) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": self._cluster, "labels": self._labels}
        own, uid = os.environ.get("POD_NAME"), os.environ.get("POD_UID")
        if own and uid:
            metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": own, "uid": uid}]
        return {
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "immutable": True,
            "stringData": {"token": token.line()},
        }  # fmt: skip

    def _manifest(self, name: str, node: str) -> dict[str, Any]:
        engine = self._engine
        given = {"cpu": engine.cpus, "nvidia.com/gpu": engine.gpus, "memory": engine.memory}
        amounts = {resource: f"{value:.15g}" for resource, value in given.items() if value}
        secret = {"secretKeyRef": {"name": self._cluster, "key": "token"}}
        container = {
            "name": "node",
            "image": engine.image,
            "command": [engine.python, *agent_words(node, engine.capacity())],
            "env": [{"name": "DISTPOOL_TOKEN", "valueFrom": secret}, {"name": "XDG_STATE_HOME", "value": "/tmp/state"}],
            "resources": {"requests": amounts, "limits": amounts},
            # The end of the log becomes the reason, so no right to read logs is needed.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": "memory", "mountPath": "/dev/shm"}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
        spec: dict[str, Any] = {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": _GRACE_S,
            "automountServiceAccountToken": False,
            "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
        }
        if engine.service_account:
            spec["serviceAccountName"] = engine.service_account
        if engine.pull_secret:
            spec["imagePullSecrets"] = [{"name": engine.pull_secret}]
        if engine.deadline:
            spec["activeDeadlineSeconds"] = int(engine.deadline)
        metadata = {"name": name, "labels": self._labels, "ownerReferences": [self._owner]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def _call(self, method: Any, *arguments: Any, **options: Any) -> Any:
        """One call of the API.

        :raises ProvisionError: when it fails, with the server's own words.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return method(*arguments, _request_timeout=_ANSWER_S, **options)
        except ApiException as error:
            words, reason = f"{error.status} {error.reason}", ""
            with contextlib.suppress(TypeError, ValueError, AttributeError):
                said = json.loads(error.body)
                words, reason = said.get("message") or words, said.get("reason", "")
            if reason == "AlreadyExists":
                raise NoAnswer("Kubernetes has it already, from a request whose answer was lost") from None
            lasting = error.status in (401, 403, 404, 422) and "quota" not in words
            cure = next((f" ({cure})" for status, cure in _CURES.items() if status == error.status and lasting), "")
            raise ProvisionError(f"Kubernetes refuses ({error.status}): {words}{cure}", hopeless=lasting) from None
        except (HTTPError, OSError) as error:
            raise NoAnswer(f"Kubernetes does not answer: {error}") from None
