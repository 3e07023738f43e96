"""A service in a process of its own, for tests of sockets, signals and memory."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

SLOW = Path(__file__).with_name("slow_service.py")


class ServiceProcess:
    """`captioner serve` on a free port; `url` is known when it listens."""

    def __init__(self, model, *options, slow=(0, 0), env=None):
        command = [sys.executable, str(SLOW), *map(str, slow), "serve", "--model", str(model)]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--device", "cpu", *map(str, options)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
        )
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        self.lines.extend(self.process.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def wait_until(self, path="/ready", seconds=60):
        """Wait until a path is answered with 200."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.stderr
            try:
                if httpx.get(self.url + path, timeout=5).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} is not answered: {self.stderr}")

    @property
    def stderr(self):
        return "".join(self.lines)

    def rss(self):
        """The resident memory, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000

    def metric(self, name):
        """The value of a metric, such as captioner_queue_depth."""
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def connect(self):
        """Return a connected socket."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post_request(content, path="/v1/caption", *headers):
    """Return the bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def run_async(work):
    """Return the result of a coroutine. Playwright keeps a loop running in a test's own thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
