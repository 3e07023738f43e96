"""Compare the service with a plain FastAPI handler under load: python -m benchmarks.serve --help.

Every system is a server in a process of its own. All run on the same cores, with the load
generator, and take turns: while one is measured, the others idle.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import typer
from fastapi import FastAPI, File

from benchmarks.backends import ROOT, describe, on_cores
from benchmarks.load import Closed, Loop, Measured, Open, new_client, run_turn
from benchmarks.one_backend import Backend
from captioner.cli.options import ModelOption
from captioner.data.images import find_images
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import resolve
from captioner.storage import atomic_file
from experiments.command import new_app, run_app
from experiments.reporting import markdown_table

PORT = "{port}"  # in arguments
START_TIMEOUT = 120.0  # seconds until a server answers
WARM_UP = Closed(4)

Systems = Mapping[str, Sequence[str]]
"""Each system, and the arguments of Python that start its server; `{port}` is its port."""

Results = list[tuple[str, str, Measured]]
"""The load, the system, and what was measured."""

app = new_app()


@app.command(epilog="Example: python -m benchmarks.serve --clients 1,16 --requests 200 --rate 10")
def serve(
    model: ModelOption = None,
    images: Annotated[
        str, typer.Option(metavar="GLOB_OR_FOLDER", help="Photographs.", show_default="examples/")
    ] = str(ROOT / "examples"),
    clients: Annotated[
        str, typer.Option(metavar="N,...", help="Clients of closed loops.")
    ] = "1,16",
    rate: Annotated[
        str, typer.Option(metavar="R,...", help="Requests a second of open loops.")
    ] = "",
    requests: Annotated[
        int, typer.Option(min=1, help="Requests to each system, in all its turns together.")
    ] = 200,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each system in a loop.")] = 4,
    cores: Annotated[int, typer.Option(min=1, help="Cores of the servers and the clients.")] = 2,
    options: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTIONS", help="Also a service with these options; repeat it."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--json", help="Also write JSON.")] = None,
) -> None:
    """Print throughput and latency of each system, for each number of clients and each rate."""
    loops: list[Loop] = [Closed(int(each)) for each in parse_numbers(clients, "clients")]
    loops += [Open(each) for each in parse_numbers(rate, "rate")]
    folder, found = resolve(model).resolve(), find_images([images]).files
    photos = [path.read_bytes() for path in found]
    facts = describe(
        folder, photographs=len(photos), requests=requests, turns=turns, cores=cores
    ) | {"load before": "/".join(f"{each:.1f}" for each in os.getloadavg())}
    typer.echo("# " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    with on_cores(cores), servers(systems(folder, options or ())) as urls:
        results = asyncio.run(measure(urls, photos, loops, requests=requests, turns=turns))
    check_captions(results)
    typer.echo(table(results))
    if file is not None:
        values = [{"load": load, "system": name, **each.summary()} for load, name, each in results]
        with atomic_file(file) as output:
            output.write(json.dumps({**facts, "results": values}, indent=2) + "\n")


def parse_numbers(text: str, name: str) -> list[float]:
    """Return the positive numbers of a list with commas.

    Raises:
        UsageError: it is not such a list.
    """
    try:
        numbers = [float(each) for each in text.split(",")] if text else []
    except ValueError:
        numbers = [0.0]
    whole = name == "clients"
    if any(not 0 < number < 10_000 or (whole and number % 1) for number in numbers):
        raise UsageError(f"--{name} {text} is no list of positive numbers: write it as in 1,16")
    return numbers


def systems(folder: Path, options: Sequence[str]) -> Systems:
    """Return the plain handler with both backends, and the service with each of the options."""
    plain = "import sys; from benchmarks.serve import serve_plain; serve_plain(*sys.argv[1:])"
    found: dict[str, Sequence[str]] = {
        f"plain handler, {backend}": ["-c", plain, str(folder), backend, PORT]
        for backend in ("torch", "onnx")
    }
    model = ["--model", str(folder), "--device", "cpu", "--port", PORT]
    for each in ("--max-batch 1", "", *options):
        found[f"service {each}".strip()] = ["-m", "captioner", "serve", *model, *shlex.split(each)]
    return found


async def measure(
    urls: Mapping[str, str],
    photos: Sequence[bytes],
    loops: Sequence[Loop],
    *,
    requests: int,
    turns: int,
) -> Results:
    """Run each loop against each system. They take turns, and another one begins each time."""
    measured = {(loop, name): Measured() for loop in loops for name in urls}
    async with new_client() as client:
        for url in urls.values():
            await run_turn(client, url, photos, WARM_UP, 2 * len(photos), Measured())
        for loop in loops:
            for turn in range(turns):
                first = turn % len(urls)
                count = requests // turns + (turn < requests % turns)
                for name in [*urls][first:] + [*urls][:first]:
                    typer.echo(f"serve: {loop}, {turn + 1} of {turns}, {name}", err=True)
                    result = measured[loop, name]
                    await run_turn(client, urls[name], photos, loop, count, result)
    return [(str(loop), name, result) for (loop, name), result in measured.items()]


def check_captions(results: Results) -> None:
    """Check that all systems wrote the same captions.

    Raises:
        CaptionerError: names two that did not.
    """
    expected: dict[int, tuple[str, str]] = {}
    for _, name, measured in results:
        for photo, caption in measured.captions.items():
            other, first = expected.setdefault(photo, (name, caption))
            if caption != first:
                raise CaptionerError(
                    f"photograph {photo} is '{caption}' by {name} and '{first}' by {other}: "
                    "their times cannot be compared"
                )


def table(results: Results) -> str:
    """Return a Markdown table, with the gain in throughput over the first system of each load."""
    base: dict[str, float] = {}
    rows = []
    for load, name, measured in results:
        speed, *times, failed = measured.summary().values()
        gain = speed / base.setdefault(load, speed)
        shown = (f"{each:.0f}" for each in (*times, failed))
        rows.append((load, name, f"{speed:.1f}", f"{gain:.2f}", *shown))
    head = ("load", "system", "requests a second", "gain", "p50 ms", "p95 ms", "p99 ms", "failed")
    return markdown_table([head, *rows])


@contextmanager
def servers(chosen: Systems) -> Iterator[dict[str, str]]:
    """Start a server of each system, and yield its address when all answer.

    Raises:
        CaptionerError: one does not start.
    """
    urls: dict[str, str] = {}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, arguments in chosen.items():
            port = free_port()
            urls[name] = f"http://127.0.0.1:{port}"
            command = [sys.executable, *(each.replace(PORT, str(port)) for each in arguments)]
            processes[name] = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        for name, process in processes.items():
            _wait_until_ready(name, urls[name], process)
        yield urls
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(name: str, url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/ready", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    arguments = shlex.join(map(str, process.args))  # type: ignore[arg-type]
    raise CaptionerError(f"{name} does not start: see what this prints: {arguments}")


def serve_plain(folder: str, backend: Backend, port: str) -> None:
    """Serve the plain handler: the process of its own that `systems` names."""
    import uvicorn

    from captioner import Captioner

    captioner = Captioner.from_pretrained(folder, device="cpu", backend=backend)
    plain = FastAPI()

    @plain.get("/ready")
    def ready() -> None:
        pass

    @plain.post("/v1/caption")  # not `async`: FastAPI calls it in one of 40 threads
    def caption(file: bytes = File()) -> dict[str, list[dict[str, str]]]:
        return {"results": [{"caption": captioner.caption(file).text}]}

    uvicorn.run(plain, port=int(port), access_log=False)


if __name__ == "__main__":
    run_app(app, "benchmarks.serve")
