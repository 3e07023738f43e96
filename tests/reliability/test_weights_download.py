"""Pretrained weights that cannot be downloaded: the message names URL, file and way out."""

import functools
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from captioner.errors import CaptionerError
from captioner.models.weights import IMAGENET_WEIGHTS, download_weights

pytestmark = pytest.mark.row(25)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch's; and no way out to the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # the server below
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def weights(tmp_path):
    """A good file."""
    torch.save({"conv1.weight": torch.ones(2)}, tmp_path / "good.pth")
    return (tmp_path / "good.pth").read_bytes()


@pytest.fixture
def served(monkeypatch, weights):
    """Serve the weights from a local server, or another response if a test asks for it."""

    class Handler(BaseHTTPRequestHandler):
        def __init__(self, body, *arguments):
            self.body = body
            super().__init__(*arguments)

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(weights)))
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *_):
            pass

    def serve(body):
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, body))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = f"resnet18-{hashlib.sha256(weights).hexdigest()[:8]}.pth"
        monkeypatch.setitem(
            IMAGENET_WEIGHTS, "resnet18", f"http://127.0.0.1:{server.server_port}/{name}"
        )
        servers.append(server)
        return name

    servers = []
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_without_a_network_the_url_the_cache_file_and_the_way_out_are_named(cache):
    with pytest.raises(CaptionerError) as caught:
        download_weights("resnet18")
    message = str(caught.value)
    assert "https://download.pytorch.org/models/resnet18-" in message
    assert str(cache / "resnet18-") in message
    assert "set encoder.weights to a state dict file, or to none" in message
    assert "\n" not in message
    assert not list(cache.iterdir())


def test_a_download_that_ends_too_early_or_is_another_file_leaves_nothing(cache, served, weights):
    for body in (weights[: len(weights) // 2], bytes(len(weights)), b""):
        served(body)
        with pytest.raises(CaptionerError, match=r"could not be downloaded.*put that file at"):
            download_weights("resnet18")
        assert not list(cache.iterdir())


def test_an_incomplete_file_in_the_cache_is_refused(cache, served, weights):
    cache.mkdir(parents=True)
    name = served(weights)
    (cache / name).write_bytes(weights[:-1])
    with pytest.raises(CaptionerError, match=rf"{name} is not the file at .*: delete it"):
        download_weights("resnet18")


def test_weights_are_downloaded_once(cache, served, weights, capsys):
    served(weights)
    assert torch.equal(download_weights("resnet18")["conv1.weight"], torch.ones(2))
    served(b"something else")
    (kept,) = cache.iterdir()
    assert kept.read_bytes() == weights
    assert capsys.readouterr().out == ""


def test_a_cache_that_cannot_be_written_is_named(tmp_path, cache):
    (tmp_path / "hub").touch()
    with pytest.raises(CaptionerError, match=r"put that file at .*hub"):
        download_weights("resnet18")
