"""`captioner serve` names what it cannot serve before it loads a model."""

import asyncio
import os
import signal
import socket
from types import SimpleNamespace

import pytest
from services import run_async

from captioner.cli import serve
from captioner.config.schema import InferenceConfig
from captioner.config.service import ServiceConfig
from captioner.serve import lifecycle
from captioner.serve.app import build_app
from captioner.serve.engine import Engine
from captioner.serve.lifecycle import Server, open_socket


@pytest.fixture
def started(monkeypatch):
    """The arguments with which the server was started, in place of starting it."""
    calls = []
    monkeypatch.setattr("captioner.serve.lifecycle.run", lambda app, *_, **__: calls.append(app))
    return calls


def middleware(app):
    return {each.cls.__name__: each.kwargs for each in app.user_middleware}


def test_a_token_comes_from_a_file_or_the_environment(run, started, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    monkeypatch.setenv("CAPTIONER_TOKEN", "from-environment")
    for arguments in ([], ["--token-file", file]):
        assert run("serve", "--port", 0, *arguments)[0] == 0
    monkeypatch.delenv("CAPTIONER_TOKEN")
    run("serve", "--port", 0)
    found = [middleware(app).get("BearerToken") for app in started]
    assert found == [{"token": "from-environment"}, {"token": "from-file"}, None]


@pytest.mark.parametrize("content", ["", " \n", "two words", "ü", "two\nlines"])
def test_a_file_without_a_token_is_named(run, started, tmp_path, content):
    file = tmp_path / "token"
    file.write_text(content)
    code, _, err = run("serve", "--token-file", file)
    assert code == 2
    assert f"{file} holds no token" in err
    assert not started


def test_a_token_file_that_is_missing_is_named(run, started, tmp_path):
    code, _, err = run("serve", "--token-file", tmp_path / "none")
    assert code == 1
    assert "none cannot be read (no such file or directory)" in err


def test_no_option_takes_the_token_itself(run):
    assert "--token " not in run("serve", "--help")[1]
    assert run("serve", "--token", "secret")[0] == 2


def test_a_port_in_use_is_named(run, started):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("serve", "--port", taken.getsockname()[1])
    assert code == 1
    assert "cannot be opened (address already in use)" in err
    assert not started


def test_limits_are_options_with_the_ranges_of_the_schema(run, started):
    assert run("serve", "--port", 0, "--max-beam", 3, "--deadline", 2.5)[0] == 0
    config = started[0].state.service.config
    assert (config.max_beam, config.deadline) == (3, 2.5)
    for option, value in (
        *(("--max-batch", 0), ("--deadline", 0), ("--explain", "maybe")),
        *(("--deadline", "nan"), ("--grace", "inf"), ("--max-wait-ms", "nan")),
    ):
        code, _, err = run("serve", option, value)
        assert code == 2
        assert f"Invalid value for '{option}'" in " ".join(err.split())


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/", "https://Example.org", "", "null", "a b"]
)
def test_an_origin_that_no_browser_sends_is_refused(run, started, origin):
    code, _, err = run("serve", "--port", 0, "--cors-origin", origin)
    assert code == 2
    assert err.startswith(f"captioner: --cors-origin {origin}: give a scheme and a host")
    assert not started


def test_origins_that_browsers_send_are_taken(run, started):
    for origin in ("https://example.org", "http://localhost:3000", "http://[::1]:80", "*"):
        assert run("serve", "--port", 0, "--cors-origin", origin)[0] == 0
    assert len(started) == 4


def test_a_missing_package_is_named_with_the_extra(run, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    code, _, err = run("serve")
    assert code == 1
    assert err.startswith("captioner: captioner serve needs uvicorn: pip install uvicorn")


def test_only_this_machine_is_served_unless_told(run):
    assert "[default: 127.0.0.1]" in " ".join(run("serve", "--help")[1].split())


def test_a_service_for_other_machines_without_a_token_is_told(run, started, tmp_path):
    file = tmp_path / "token"
    file.write_text("s3cret")
    told = "captioner: whoever reaches 0.0.0.0 may use the service: --token-file asks for a token\n"
    assert run("serve", "--port", 0, "--host", "0.0.0.0")[2] == told
    assert run("serve", "--port", 0, "--host", "0.0.0.0", "--token-file", file)[2] == ""
    assert run("serve", "--port", 0, "--host", "127.0.0.1")[2] == ""


def test_replies_are_sent_without_waiting_for_more_to_send():
    async def delay_is_off():
        accepted = asyncio.get_running_loop().create_future()

        async def note(reader, writer):
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        bound = open_socket("127.0.0.1", 0)
        async with await asyncio.start_server(note, sock=bound):
            _, writer = await asyncio.open_connection(*bound.getsockname())
            writer.close()
            return await accepted

    assert run_async(delay_is_off())


@pytest.fixture
def exits(monkeypatch):
    """The codes with which the process would have ended at once."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_a_first_signal_takes_nothing_more_and_a_second_one_ends_at_once(exits):
    service = SimpleNamespace(draining=False)
    server = Server(lifecycle.uvicorn.Config(None), service)
    server.handle_exit(signal.SIGTERM, None)
    assert (service.draining, server.should_exit, exits) == (True, True, [])
    server.handle_exit(signal.SIGTERM, None)
    assert exits == [128 + signal.SIGTERM]


@pytest.mark.parametrize(("dropped", "codes"), [(0, []), (2, [1])])
def test_the_end_waits_for_the_time_of_grace_and_tells_what_was_dropped(
    onnx_model, exits, monkeypatch, capsys, dropped, codes
):
    app = build_app(Engine([onnx_model], InferenceConfig(), ServiceConfig()), ServiceConfig())
    seconds = []

    def end(server, sockets):
        seconds.append(server.config.timeout_graceful_shutdown)
        server.service.dropped = dropped

    monkeypatch.setattr(Server, "run", end)
    with open_socket("127.0.0.1", 0) as bound:
        lifecycle.run(app, bound, read_timeout=1, grace=2.5)
    assert seconds == [3]  # whole seconds
    assert exits == codes
    told = "captioner: 2 requests took longer than 2.5 s: dropped"
    assert (told in capsys.readouterr().err) == bool(dropped)
