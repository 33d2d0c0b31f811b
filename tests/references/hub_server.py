"""A server of the part of the Hugging Face hub's protocol that uploads and downloads use.

The requests are those of huggingface_hub (its HfApi.create_repo, create_commit and
hf_hub_download). Weights are sent as Git LFS objects, other files in the commit. It has no Xet
storage, which HF_HUB_DISABLE_XET=1 tells the library.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
        token: the token that may write.
        repositories: the files of each repository, by name.
        private: names of the private repositories.
        messages: of the commits.
    """

    def __init__(self, token: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.endpoint = token, f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.messages: list[str] = []
        self.objects: dict[str, bytes] = {}  # of Git LFS, by SHA-256

    def environment(self, home: Any, token: str | None = None) -> dict[str, str]:
        """Returns the variables that make the library use it, with a home of its own."""
        variables = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return {**variables, "HF_TOKEN": self.token if token is None else token}


@contextlib.contextmanager
def serving(token: str = "hf_secret") -> Iterator[HubServer]:
    """Runs a server in a thread."""
    with HubServer(token) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)", path):
            name = match[1]
            if name not in self.server.repositories:
                return self._answer(404, X_Error_Code="RepoNotFound")
            return self._answer(200, {"id": name, "private": name in self.server.private})
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/(.*)", path)
        if match is None:
            return self._answer(404, {"error": f"there is no {path}"})
        name, file = match.groups()
        if name not in self.server.repositories:
            return self._answer(404, X_Error_Code="RepoNotFound")
        content = self.server.repositories[name].get(file)
        if content is None:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._answer(200, content, ETag=tag, X_Repo_Commit=COMMIT)

    def do_PUT(self) -> None:
        content, digest = self._body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.objects[digest] = content
        self._answer(200)

    def do_POST(self) -> None:
        body, server = self._body(), self.server
        if self.headers["Authorization"] != f"Bearer {server.token}":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---\n")[1]
            errors = [] if "license: " in head else [{"message": '"license" is required'}]
            return self._answer(400 if errors else 200, {"errors": errors, "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "others":
                return self._answer(403, {"error": "You don't have the rights."})
            new = name not in server.repositories
            if new:
                server.repositories[name] = {}
                if asked.get("visibility") == "private":
                    server.private.add(name)
            return self._answer(200 if new else 409, {"url": f"{server.endpoint}/{name}"})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{server.endpoint}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self._answer(200, {"objects": objects, "transfer": "basic"})
        pattern = r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main"
        name, action = re.fullmatch(pattern, self.path.partition("?")[0]).groups()
        if action == "preupload":
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                server.messages.append(value["summary"])
            elif line["key"] == "file":
                server.repositories[name][value["path"]] = base64.b64decode(value["content"])
            else:
                server.repositories[name][value["path"]] = server.objects[value["oid"]]
        url = f"{server.endpoint}/{name}/commit/{COMMIT}"
        return self._answer(200, {"commitUrl": url, "commitOid": COMMIT})
