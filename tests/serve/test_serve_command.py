"""`captioner serve` names what it cannot serve before it loads a model."""

import asyncio
import socket

import pytest

from captioner.cli import serve
from captioner.serve.lifecycle import open_socket


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
    for option, value in (("--max-batch", 0), ("--deadline", 0), ("--explain", "maybe")):
        assert run("serve", option, value)[0] == 2


def test_a_missing_package_is_named_with_the_extra(run, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    code, _, err = run("serve")
    assert code == 1
    assert err.startswith("captioner: captioner serve needs uvicorn: pip install uvicorn")


def test_only_this_machine_is_served_unless_told(run):
    assert "[default: 127.0.0.1]" in " ".join(run("serve", "--help")[1].split())


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

    assert asyncio.run(delay_is_off())
