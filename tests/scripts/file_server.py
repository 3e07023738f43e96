"""An HTTP server on this machine that serves zip files, and misbehaves if it is told to."""

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Site:
    """The files of the server, how it misbehaves, and the requests it received."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    drop_after: int | None = None  # bytes of a body before the connection breaks
    promise: int = 0  # bytes by which Content-Length is too large
    busy: int = 0  # responses with 503 before it works
    no_head: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def fetched(self, path: str) -> list[str]:
        return [line for line in self.asked if line.startswith(f"GET {path}")]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        if self.site.no_head:
            self.send_error(405)
        else:
            self.answer(with_body=False)

    def do_GET(self) -> None:
        self.site.asked.append(f"GET {self.path} {self.headers['Range'] or ''}".strip())
        if self.site.busy:
            self.site.busy -= 1
            self.send_error(503)
        else:
            self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        body = self.site.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        wanted = (
            re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "") if self.site.ranges else None
        )
        start = int(wanted[1]) if wanted else 0
        if wanted and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body) - start + self.site.promise))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            self.wfile.write(body[start:][: self.site.drop_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(site: Site) -> Iterator[None]:
    """Serve the files of `site`, whose `url` is set, within the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHandler", (Handler,), {"site": site}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield
    server.shutdown()
    thread.join()
    server.server_close()
