"""A stand-in for a Kubernetes cluster: an API server that knows pods and Secrets, is strict about what is in them, and
runs the pods' commands as processes of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kubernetes import client

_LISTS = {"pods": "PodList", "secrets": "SecretList"}


def unknown_fields(document: Any, model: str, where: str = "") -> list[str]:
    """What in a document the schema of a kind does not know, or is of another type."""
    model = model.replace("List[", "list[").replace("Dict[", "dict(")  # versions of the client differ
    if model.startswith("list["):
        if not isinstance(document, list):
            return [f"{where} is no list"]
        return [one for item in document for one in unknown_fields(item, model[5:-1], f"{where}[]")]
    if model.startswith("dict("):
        return [] if isinstance(document, dict) else [f"{where} is no object"]
    schema = getattr(client, model, None)
    if schema is None:
        kinds = {"str": str, "int": int, "bool": bool}
        return [] if isinstance(document, kinds.get(model, object)) else [f"{where} is no {model}"]
    if not isinstance(document, dict):
        return [f"{where} is no {model}"]
    types = {schema.attribute_map[name]: kind for name, kind in schema.openapi_types.items()}
    found = []
    for name, value in document.items():
        if name in types:
            found += unknown_fields(value, types[name], f"{where}.{name}")
        else:
            found.append(f"{where}.{name} is not known")
    try:  # what must be there
        client.ApiClient()._ApiClient__deserialize(document, model)
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found


class FakeKubernetes:
    """See the module's description; a ``Harness`` of the contract.

    :ivar asked: verb and resource of each request.
    :ivar answers: statuses with which the next requests are answered; 0: they are done, and the answer is lost.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._lock = threading.RLock()
        self.objects: dict[str, dict[str, dict[str, Any]]] = {"pods": {}, "secrets": {}}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = tempfile.TemporaryDirectory()
        self.asked: set[tuple[str, str]] = set()
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self._refusal = ""
        self._held = False
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, answer = fake.answers.pop(0) if fake.answers else (200, {})
                if status in (0, 200):
                    served = fake.serve(self.command, self.path, body)
                    status, answer = served if status else (0, {})
                if not status:
                    self.close_connection = True
                    return
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _serve

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._logs.cleanup()

    # -- the harness ------------------------------------------------------------------------------------------------

    def refuse(self, words: str) -> None:
        self._refusal = words

    def hold(self) -> None:
        self._held = True

    def kill_held(self) -> None:
        with self._lock:
            for name, pod in self.objects["pods"].items():
                if name not in self.processes:
                    pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": "the machine was needed"}

    def go(self) -> None:
        with self._lock:
            self._refusal, self._held = "", False
            for pod in self.objects["pods"].values():
                if pod["status"]["phase"] == "Pending":
                    self._run(pod)

    def kill_node(self) -> None:
        list(self.processes.values())[-1].kill()

    # -- the API ------------------------------------------------------------------------------------------------------

    def serve(self, verb: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        parts = path.partition("?")[0].strip("/").split("/")
        assert parts[:4] == ["api", "v1", "namespaces", "science"], path
        kind, name = parts[4], parts[5] if len(parts) > 5 else ""
        with self._lock:
            known = self.objects[kind]
            self.asked.add(({"GET": "get" if name else "list", "POST": "create", "DELETE": "delete"}[verb], kind))
            if verb == "GET":
                for one in known.values():
                    self._look(one)
                return 200, {"kind": _LISTS[kind], "apiVersion": "v1", "metadata": {}, "items": list(known.values())}
            if verb == "DELETE":
                if name not in known:
                    return 404, status_of(404, f'{kind} "{name}" not found')
                self._delete(kind, name)
                return 200, status_of(200, "")
            wrong = unknown_fields(body, f"V1{body['kind']}")
            if wrong:
                return 422, status_of(422, f"strict decoding error: {'; '.join(wrong)}")
            if body["metadata"]["name"] in known:
                return 409, status_of(409, f"{kind} {body['metadata']['name']!r} already exists", "AlreadyExists")
            if self._refusal and kind == "pods":
                return 403, status_of(403, self._refusal)
            return 201, self._create(kind, body)

    def _create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        body["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": "science"}
        self.objects[kind][body["metadata"]["name"]] = body
        if kind == "pods":
            waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
            body["status"] = {"phase": "Pending", "containerStatuses": [_container(waiting)]}
            if not self._held:
                self._run(body)
        return body

    def _delete(self, kind: str, name: str) -> None:
        gone = self.objects[kind].pop(name)
        process = self.processes.get(name)
        if process is not None:
            process.terminate()
        # What belongs to it goes as well.
        for other in ("pods", "secrets"):
            for one in list(self.objects[other].values()):
                owners = one["metadata"].get("ownerReferences", [])
                if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                    self._delete(other, one["metadata"]["name"])

    def _run(self, pod: dict[str, Any]) -> None:
        [container] = pod["spec"]["containers"]
        environment = {**os.environ, **self._environment}
        for variable in container["env"]:
            if "value" in variable:
                continue  # of a container's own file system
            reference = variable["valueFrom"]["secretKeyRef"]
            secret = self.objects["secrets"][reference["name"]]
            environment[variable["name"]] = secret["stringData"][reference["key"]]
        name = pod["metadata"]["name"]
        with (Path(self._logs.name) / name).open("wb") as log:
            self.processes[name] = subprocess.Popen(container["command"], env=environment, stdout=log, stderr=log)
        pod["status"] = {"phase": "Running", "containerStatuses": [_container({"state": {"running": {}}})]}

    def _look(self, one: dict[str, Any]) -> None:
        name = one["metadata"]["name"]
        process = self.processes.get(name)
        code = process.poll() if process is not None else None
        if code is None:
            return
        log = (Path(self._logs.name) / name).read_text(errors="replace")
        ended = {"state": {"terminated": {"exitCode": code if code >= 0 else 128 - code, "message": log[-2000:]}}}
        one["status"] = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [_container(ended)]}


def _container(more: dict[str, Any]) -> dict[str, Any]:
    return {"name": "node", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, **more}


def status_of(code: int, message: str, reason: str = "") -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "message": message, "reason": reason}
