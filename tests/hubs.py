"""A server on this machine that answers as the Hugging Face hub does, and misbehaves if told to.

The fixtures at the end let huggingface_hub take it for the real one.

It has the routes that `snapshot_download`, `upload_folder`, `create_repo` and `create_branch` of
huggingface_hub call: the description of a repository, its tree, its files (small ones directly, and
large ones through a redirect to a store), the upload modes, the LFS batch with its PUTs, commits.
"""

import base64
import hashlib
import json
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from captioner.storage import write_checksums

TOKEN = "hf_of_this_test"
OWNER = "kim"
LARGE = (".safetensors", ".onnx")  # kept in the store, as the hub keeps them


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], branch: str = "main", message: str = "") -> str:
        self.messages.append(message)
        content = repr((sorted(files.items()), len(self.messages))).encode()
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit], self.refs[branch] = files, commit
        return commit

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.refs[branch]]


@dataclass
class Hub:
    """The repositories, how the server misbehaves, and the requests that it received."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    store: dict[str, bytes] = field(default_factory=dict)  # large files by their SHA-256
    break_after: int | None = None  # bytes of a large file before the connection breaks
    down: bool = False  # answers 503
    asked: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def store_url(self) -> str:
        """The store has another host, as that of the hub has: it must get no token."""
        return self.url.replace("127.0.0.1", "localhost")

    def add(self, name: str, files: dict[str, bytes], **options: bool) -> Repository:
        repository = self.repositories.setdefault(name, Repository(**options))
        repository.commit(files)
        self.store |= {sha256(content): content for content in files.values()}
        return repository


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.route("GET")

    def do_HEAD(self) -> None:
        self.route("HEAD")

    def do_POST(self) -> None:
        self.route("POST")

    def do_PUT(self) -> None:
        self.route("PUT")

    def route(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{method} {path}")
        if self.hub.down:
            self.fail(503, "")
            return
        for pattern, answer in (
            (r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.describe),
            (r"GET /api/models/([^/]+/[^/]+)/tree/(.+)", self.list_tree),
            (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"GET /store/(\w+)", self.read_store),
            (r"PUT /store/(\w+)", self.write_store),
            (r"POST /api/repos/create", self.create),
            (r"POST /api/models/([^/]+/[^/]+)/branch/(.+)", self.create_branch),
            (r"POST /api/validate-yaml", self.validate),
            (r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"POST /([^/]+/[^/]+).git/info/lfs/objects/batch", self.batch),
            (r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
        ):
            if match := re.fullmatch(pattern, f"{method} {path}"):
                answer(*match.groups())
                return
        self.fail(404, "NoRoute")

    # answers

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply(self, value: object, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status, Content_Type="application/json")

    def fail(self, status: int, code: str) -> None:
        self.send(b"{}", status, X_Error_Code=code, Content_Type="application/json")

    # reading

    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def find(self, name: str, revision: str | None) -> tuple[Repository, str] | None:
        """The repository and the commit, or None after the answer that the hub gives."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self.is_known()):
            # who has not logged in is not told whether it exists
            self.fail(404 if self.is_known() else 401, "RepoNotFound")
            return None
        revision = revision or "main"
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits and revision != "main":
            self.fail(404, "RevisionNotFound")
            return None
        return repository, commit

    def describe(self, name: str, revision: str | None) -> None:
        if found := self.find(name, revision):
            repository, commit = found
            files = repository.commits.get(commit, {})
            siblings = [{"rfilename": path, "size": len(files[path])} for path in files]
            values = {"id": name, "sha": commit, "private": repository.private, "gated": False}
            self.reply(values | {"siblings": siblings, "tags": [], "disabled": False})

    def list_tree(self, name: str, revision: str) -> None:
        if found := self.find(name, revision):
            repository, commit = found
            entries = []
            for path, content in repository.commits.get(commit, {}).items():
                entry: dict[str, object] = {"type": "file", "path": path, "size": len(content)}
                entry["oid"] = git_oid(content)
                if path.endswith(LARGE):
                    entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 9}
                entries.append(entry)
            self.reply(entries)

    def resolve(self, name: str, revision: str, path: str) -> None:
        if not (found := self.find(name, revision)):
            return
        repository, commit = found
        if repository.gated and not self.is_known():
            self.fail(401, "GatedRepo")
        elif path not in repository.commits[commit]:
            self.fail(404, "EntryNotFound")
        elif path.endswith(LARGE):
            content = repository.commits[commit][path]
            linked = {"X_Linked_Etag": f'"{sha256(content)}"', "X_Linked_Size": str(len(content))}
            location = f"{self.hub.store_url}/store/{sha256(content)}"
            self.send(b"", 302, Location=location, X_Repo_Commit=commit, **linked)
        else:
            content = repository.commits[commit][path]
            self.send(content, ETag=f'"{git_oid(content)}"', X_Repo_Commit=commit)

    def read_store(self, oid: str) -> None:
        assert "Authorization" not in self.headers
        content = self.hub.store[oid]
        if self.hub.break_after is None:
            self.send(content)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.hub.break_after])
        self.close_connection = True

    # writing

    def write_store(self, oid: str) -> None:
        assert sha256(self.body) == oid
        self.hub.store[oid] = self.body
        self.send(b"")

    def may_write(self) -> bool:
        if not self.is_known():
            self.fail(401, "")
        return self.is_known()

    def create(self) -> None:
        if not self.may_write():
            return
        values = json.loads(self.body)
        name = f"{values.get('organization') or OWNER}/{values['name']}"
        if name in self.hub.repositories:
            self.reply({"error": "exists", "url": f"{self.hub.url}/{name}"}, 409)
            return
        private = values.get("visibility") == "private" or bool(values.get("private"))
        self.hub.repositories[name] = Repository(private=private)
        self.hub.repositories[name].commit({".gitattributes": b"*.onnx filter=lfs\n"})
        self.reply({"url": f"{self.hub.url}/{name}", "name": name})

    def create_branch(self, name: str, branch: str) -> None:
        if self.may_write():
            refs = self.hub.repositories[name].refs
            existed = branch in refs
            refs.setdefault(branch, refs["main"])
            self.reply({}, 409 if existed else 201)

    def validate(self) -> None:
        header = json.loads(self.body)["content"]
        assert header.startswith("---\n")
        self.reply({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        if self.may_write() and self.find(name, revision):
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(self.body)["files"]
            ]
            self.reply({"files": files})

    def batch(self, name: str) -> None:
        if self.may_write():
            objects = [
                each
                | {"actions": {"upload": {"href": f"{self.hub.store_url}/store/{each['oid']}"}}}
                for each in json.loads(self.body)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": objects})

    def commit(self, name: str, branch: str) -> None:
        if not self.may_write():
            return
        repository, lines = self.hub.repositories[name], self.body.decode().splitlines()
        files, message = dict(repository.files(branch)), ""
        for line in map(json.loads, lines):
            value = line["value"]
            match line["key"]:
                case "header":
                    message = value["summary"]
                case "deletedFile":
                    del files[value["path"]]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.store[value["oid"]]
        commit = repository.commit(files, branch, message)
        self.reply({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})


@contextmanager
def serve(hub: Hub) -> Iterator[None]:
    """Answer for `hub`, whose `url` is set, within the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True  # a client may keep its connections open
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub, an empty cache, an empty current folder, and no token."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants, file_download

    made = Hub()
    with serve(made):
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its store has no public rules
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(file_download.time, "sleep", lambda _: None)  # between its attempts
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield made


@pytest.fixture
def hub_token(monkeypatch):
    """The token of who may write."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def hub_offline(monkeypatch):
    """Return a function that turns on HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def model_folder(folder, *, seed=1, graphs=True):
    """Write a folder with the files of a model; their content is made up."""
    names = ["config.json", "model.safetensors", "vocab.json"]
    names += ["encoder.onnx", "step.onnx", "graphs.json"] * graphs
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(random.Random(f"{seed} {name}").randbytes(5000))
    write_checksums(folder)
    return folder


def files_of(folder):
    """The content of each file of a folder, but for Markdown."""
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and file.suffix != ".md"
    }
