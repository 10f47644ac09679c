"""A stand-in for the Hugging Face hub: what its HTTP interface does when models are uploaded and downloaded.

Small text files are committed inline, weights by LFS, as the hub does. Each commit is a revision of `main`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_stand_in"


class StandIn(ThreadingHTTPServer):
    """Repositories in memory: name → revisions, each a mapping of paths to bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.private: set[str] = set()

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def head(self, name: str) -> str:
        """The newest revision of a repository."""
        return list(self.repositories[name])[-1]

    def files(self, name: str) -> dict[str, bytes]:
        """The files of its newest revision."""
        return self.repositories[name][self.head(name)]

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add a revision."""
        known = self.repositories.setdefault(name, {})
        sha = hashlib.sha1(f"{name}{len(known)}".encode()).hexdigest()
        known[sha] = files
        return sha


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing is printed."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", X_Error_Code=code, X_Error_Message="not found")

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def place(self) -> str:
        return unquote(urlsplit(self.path).path)

    def do_POST(self) -> None:
        body = self._read()
        self.server.requests.append(f"POST {self.place}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, b'{"error": "Invalid username or password."}', X_Error_Message="Invalid credentials")
            return
        if self.place == "/api/repos/create":
            self._create(json.loads(body))
        elif self.place == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.place):
            modes = [
                {"path": each["path"], "shouldIgnore": False, "uploadMode": _mode(each["path"])}
                for each in json.loads(body)["files"]
            ]
            self._json({"files": modes})
        elif self.place.endswith(".git/info/lfs/objects/batch"):
            actions = [
                {**each, "actions": {"upload": {"href": f"{self.server.endpoint}/objects/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._json({"objects": actions, "transfer": "basic"})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.place):
            self._commit(found[1], [json.loads(line) for line in body.splitlines() if line])
        else:
            self._missing("RepoNotFound")

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        status = 409 if name in self.server.repositories else 200
        if status == 200:
            self.server.commit(name, {})
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.server.private.add(name)
        self._json({"url": f"{self.server.endpoint}/{name}", "id": name, "name": name}, status)

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.server.files(name))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        sha = self.server.commit(name, files)
        address = f"{self.server.endpoint}/{name}/commit/{sha}"
        self._json({"commitUrl": address, "commitOid": sha, "success": True})

    def do_PUT(self) -> None:
        body = self._read()
        oid = self.place.rsplit("/", 1)[1]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self._answer(200)

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.place}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.place):
            self._describe(found[1], found[2])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", self.place):
            self._list(found[1], found[2], found[3] or "")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.place):
            self._send(found[1], found[2], found[3])
        else:
            self._missing("RepoNotFound")

    do_HEAD = do_GET

    def _revision(self, name: str, revision: str | None) -> str | None:
        """The commit of a revision; None where there is none, which has been answered then."""
        if name not in self.server.repositories:
            self._answer(401 if self.headers.get("Authorization") is None else 404, b"{}", X_Error_Code="RepoNotFound")
            return None
        sha = self.server.head(name) if revision in (None, "main") else revision
        if sha not in self.server.repositories[name]:
            self._missing("RevisionNotFound")
            return None
        return sha

    def _describe(self, name: str, revision: str | None) -> None:
        if sha := self._revision(name, revision):
            files = self.server.repositories[name][sha]
            self._json({"id": name, "modelId": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]})

    def _list(self, name: str, revision: str, folder: str) -> None:
        if sha := self._revision(name, revision):
            files = self.server.repositories[name][sha]
            found = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
                if path.startswith(folder)
            ]
            self._json(found) if found or not folder else self._missing("EntryNotFound")

    def _send(self, name: str, revision: str, path: str) -> None:
        if sha := self._revision(name, revision):
            content = self.server.repositories[name][sha].get(path)
            if content is None:
                self._answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
                return
            self._answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=sha)


def _mode(path: str) -> str:
    return "lfs" if Path(path).suffix == ".safetensors" else "regular"


@contextmanager
def stand_in(cache: Path, *, token: str | None = TOKEN) -> Iterator[StandIn]:
    """The real client of this process talks to a stand-in, as with HF_ENDPOINT, with a cache of its own.

    Args:
        cache: of the client.
        token: of the user; None = not logged in.
    """
    import transformers.utils.hub
    from huggingface_hub import constants, hf_api

    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("ENDPOINT", server.endpoint),
            ("HUGGINGFACE_CO_URL_TEMPLATE", f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_CACHE", str(cache)),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_TOKEN_PATH", str(cache / "no-token")),
        ):
            patch.setattr(constants, name, value)
        patch.setattr(hf_api.api, "endpoint", server.endpoint)  # has the address from when it was imported
        # made at its first use, with the address of that time: asked there, it would try again for most of a minute
        patch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            if hasattr(transformers.utils.hub, name):
                patch.setattr(transformers.utils.hub, name, str(cache))
        patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
