"""The modules of the page in Node, and the page in a browser."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from importlib.resources import files
from pathlib import Path

import pytest

from captioner.export.site import build_site
from captioner.storage import write_checksums

WEB = files("captioner") / "web"
PRETRAINED = files("captioner") / "pretrained"
PHOTOS = Path(__file__).parents[2] / "examples"
EXAMPLES = ("boat", "camera", "cat", "coffee", "dock", "motorcycles", "plane", "raft")
READY = 60_000  # milliseconds: the first start compiles 14 MB of WebAssembly


@pytest.fixture(scope="session")
def node():
    """Run a script of JavaScript on `data`: its `respond(value)` gives the result."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node is not on the path")

    def run(script, data):
        prelude = f"""
            import {{ readFileSync }} from "node:fs";
            const data = JSON.parse(readFileSync(0, "utf8"));
            const respond = (value) => console.log(JSON.stringify(value));
            const load = (name) => import({json.dumps(Path(str(WEB)).as_uri())} + "/" + name);
        """
        done = subprocess.run(
            [program, "--input-type=module", "--eval", prelude + script],
            input=json.dumps(data),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def ort():
    """The folder of onnxruntime-web."""
    folder = os.environ.get("CAPTIONER_ORT")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CAPTIONER_ORT does not name a folder of npm's onnxruntime-web")
    return Path(folder)


@pytest.fixture(scope="session")
def site(ort, tmp_path_factory):
    """The page with the bundled model."""
    pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    from captioner.export.onnx import write_graphs

    folder = tmp_path_factory.mktemp("site")
    model = folder / "model"
    shutil.copytree(str(PRETRAINED), model)
    write_graphs(model)
    write_checksums(model)
    build_site(model, folder / "site", ort, examples=PHOTOS)
    return folder / "site"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def serve():
    """Serve a folder: the result is its URL."""
    servers = []

    def start(folder):
        handler = functools.partial(_Handler, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture(scope="session")
def url(site, serve):
    return serve(site)


@pytest.fixture
def opened(chromium, url):
    """Open the page; after the test, check its requests and its error messages."""
    requests, messages, contexts = [], [], []

    def open_page(*, wait=True, width=1280, height=900, setup=None, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        if setup:
            setup(page)
        page.goto(url)
        if wait:
            page.locator("body[data-ready]").wait_for(timeout=READY)
        return page

    open_page.messages = messages
    yield open_page
    for context in contexts:
        context.close()
    assert all(request.startswith((url, "blob:" + url)) for request in requests)
    assert messages == []


@pytest.fixture
def examples(site):
    return {name: site / "examples" / f"{name}.jpg" for name in EXAMPLES}
