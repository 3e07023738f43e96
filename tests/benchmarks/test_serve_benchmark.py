"""The load generator sends what it says, in the order it says, and the table shows the gain."""

import asyncio
import http.server
import json
import threading
import time
from contextlib import contextmanager

import pytest
from services import run_async
from typer.testing import CliRunner

from benchmarks import serve
from benchmarks.load import Closed, Measured, Open, new_client, run_turn
from captioner import CaptionerError
from captioner.models.folder import BUNDLED

PYTHON_SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Sender:
    """Answers after some seconds, and keeps which requests were in flight together."""

    def __init__(self, seconds):
        self.seconds, self.in_flight, self.most = seconds, 0, 0
        self.numbers, self.due = [], []

    async def __call__(self, number, due):
        self.numbers.append(number)
        self.due.append(due)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(self.seconds)
        self.in_flight -= 1


def test_a_closed_loop_has_one_request_of_each_client_in_flight():
    sender = Sender(0.002)
    run_async(Closed(3).run(sender, 10))
    assert (sender.most, sorted(sender.numbers)) == (3, [*range(10)])


def test_an_open_loop_sends_at_its_rate_whether_others_are_answered_or_not():
    sender = Sender(0.2)
    run_async(Open(100).run(sender, 6))
    assert (sender.most, sender.numbers) == (6, [*range(6)])
    assert [due - sender.due[0] for due in sender.due] == pytest.approx(
        [0, 0.01, 0.02, 0.03, 0.04, 0.05]
    )


def test_a_request_that_an_open_loop_sends_late_is_still_due_at_its_time(monkeypatch):
    monkeypatch.setattr("benchmarks.load.MAX_IN_FLIGHT", 1)
    waits = []

    async def send(_, due):
        waits.append(time.perf_counter() - due)
        await asyncio.sleep(0.05)

    run_async(Open(1000).run(send, 3))
    # The second and the third wait for one and two others, less the 1 and 2 ms before their time.
    assert waits[1] > 0.04
    assert waits[2] > 0.09


def test_the_percentiles_are_of_latencies_and_the_speed_counts_answers_only():
    latencies = [number / 1000 for number in range(101)]
    summary = Measured(seconds=2.0, latencies=latencies, failed=7).summary()
    assert summary == pytest.approx(
        {"requests a second": 50.5, "p50 ms": 50, "p95 ms": 95, "p99 ms": 99, "failed": 7}
    )


class Handler(http.server.BaseHTTPRequestHandler):
    """Captions a form whose photograph is `1` with `one`, and refuses others."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        form = self.rfile.read(int(self.headers["Content-Length"]))
        good = self.path == "/v1/caption" and b'name="file"' in form and b"\r\n1\r\n" in form
        content = json.dumps({"results": [{"caption": "one"}]}).encode()
        self.send_response(200 if good else 429)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_a_turn_posts_each_photograph_and_counts_what_is_refused():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    measured = Measured()

    async def run():
        async with new_client() as client:
            url = f"http://127.0.0.1:{server.server_port}"
            await run_turn(client, url, [b"0", b"1"], Closed(2), 5, measured)

    run_async(run())
    server.shutdown()
    server.server_close()
    assert (measured.failed, measured.captions) == (3, {1: "one"})
    assert len(measured.latencies) == 2
    assert max(measured.latencies) < measured.seconds


def test_the_gain_is_over_the_first_system_of_the_same_load():
    results = [
        ("1 client", "plain", Measured(1.0, [0.1] * 10)),
        ("1 client", "service", Measured(1.0, [0.05] * 20)),
        ("2 clients", "plain", Measured(1.0, [0.1] * 5)),
        ("2 clients", "service", Measured(1.0, [0.1] * 15, failed=1)),
    ]
    rows = serve.table(results).splitlines()[2:]
    assert [[cell.strip() for cell in row.strip("|").split("|")][2:] for row in rows] == [
        ["10.0", "1.00", "100", "100", "100", "0"],
        ["20.0", "2.00", "50", "50", "50", "0"],
        ["5.0", "1.00", "100", "100", "100", "0"],
        ["15.0", "3.00", "100", "100", "100", "1"],
    ]


def test_times_of_systems_with_other_captions_are_refused():
    first, second = Measured(captions={0: "a dog", 1: "a cat"}), Measured(captions={1: "a cow"})
    with pytest.raises(CaptionerError, match="photograph 1 is 'a cow' by B and 'a cat' by A"):
        serve.check_captions([("1 client", "A", first), ("1 client", "B", second)])


def test_the_systems_take_turns_and_another_one_begins_each_time(monkeypatch):
    turns = []

    async def run_turn(client, url, photos, loop, count, measured):
        turns.append((url, str(loop), count))

    monkeypatch.setattr(serve, "run_turn", run_turn)
    urls = {"plain": "P", "service": "S"}
    run_async(serve.measure(urls, [b""] * 8, [Closed(1)], requests=5, turns=2))
    assert turns[:2] == [("P", "4 clients", 16), ("S", "4 clients", 16)]  # the warm-up
    assert turns[2:] == [(url, "1 client", 3) for url in "PS"] + [
        (url, "1 client", 2) for url in "SP"
    ]


def test_the_systems_are_the_plain_handler_and_the_service_with_its_options(tmp_path):
    found = serve.systems(tmp_path, ["--workers 1"])
    assert [*found] == [
        "plain handler, torch",
        "plain handler, onnx",
        "service --max-batch 1",
        "service",
        "service --workers 1",
    ]
    assert found["plain handler, onnx"][2:] == [str(tmp_path), "onnx", serve.PORT]
    assert found["service --workers 1"][-2:] == ["--workers", "1"]


def test_servers_are_ended_and_one_that_does_not_start_is_named():
    command = ["-c", PYTHON_SERVER, serve.PORT]
    with serve.servers({"one": command, "two": command}) as urls:
        assert urls["one"] != urls["two"]
        ports = [int(url.rpartition(":")[2]) for url in urls.values()]
    for port in ports:
        with serve.socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    with (
        pytest.raises(CaptionerError, match=r"two does not start: .* -c 'exit\(1\)'"),
        serve.servers({"one": command, "two": ["-c", "exit(1)"]}),
    ):
        pass


@pytest.mark.parametrize("given", [["--clients", "0"], ["--clients", "1.5"], ["--rate", "x"]])
def test_a_load_that_is_no_positive_number_is_named(given):
    answer = CliRunner().invoke(serve.app, given)
    assert str(answer.exception) == (
        f"{given[0]} {given[1]} is no list of positive numbers: write it as in 1,16"
    )


def test_the_command_prints_each_load_and_writes_it(monkeypatch, tmp_path):
    calls = []

    @contextmanager
    def servers(chosen):
        yield dict.fromkeys(chosen, "http://nowhere")

    async def measure(urls, photos, loops, *, requests, turns):
        calls.append((len(photos), requests, turns))
        return [(str(loop), name, Measured(1.0, [0.1])) for loop in loops for name in urls]

    monkeypatch.setattr(serve, "servers", servers)
    monkeypatch.setattr(serve, "measure", measure)
    result = tmp_path / "serve.json"
    given = ["--clients", "2", "--rate", "5", "--requests", "9", "--turns", "3", "--json", result]
    answer = CliRunner().invoke(serve.app, [*map(str, given)])
    assert answer.exit_code == 0, answer.output
    assert calls == [(8, 9, 3)]
    facts, _, _, *rows = answer.stdout.splitlines()
    assert "photographs 8, requests 9, turns 3, cores 2, load before " in facts
    assert [row.split(" | ")[0] for row in rows] == ["| 2 clients"] * 4 + ["| 5 a second"] * 4
    written = json.loads(result.read_text())["results"]
    assert written[0] | {"p95 ms": 100} == {
        "load": "2 clients", "system": "plain handler, torch", "requests a second": 1.0,
        "p50 ms": 100, "p95 ms": 100, "p99 ms": 100, "failed": 0,
    }  # fmt: skip


@pytest.mark.slow
def test_the_plain_handler_and_the_service_caption_the_same():
    chosen = serve.systems(BUNDLED, ())
    with serve.servers(chosen) as urls:
        photos = [path.read_bytes() for path in sorted((serve.ROOT / "examples").glob("*.jpg"))]
        results = run_async(serve.measure(urls, photos, [Closed(4)], requests=8, turns=1))
    serve.check_captions(results)
    assert [len(measured.captions) for *_, measured in results] == [8] * len(chosen)
