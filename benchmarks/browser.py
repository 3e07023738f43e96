"""Time of the page in a browser: until it is ready, and for each caption. On one thread.

    python -m benchmarks.browser SITE

SITE is a folder that `captioner.export.site.build_site` wrote, with example images. Playwright and
Chromium are needed. The server is on this machine, so no time is spent on a network.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import json
import shutil
import statistics
import threading
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

_TIME_CAPTION = """async ({ url, settings }) => {
  const file = await (await fetch(url)).blob();
  const start = performance.now();
  await window.engine.caption(file, settings);
  return performance.now() - start;
}"""
_LOAD_ENGINE = """async () => {
  const { BrowserEngine } = await import("./engine.js");
  window.engine = new BrowserEngine();
  return (await window.engine.load(() => {})).values;
}"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Print nothing."""


def time_until_ready(page: Page, url: str) -> float:
    """Return the seconds until the page can caption."""
    start = time.perf_counter()
    page.goto(url)
    page.locator("body[data-ready]").wait_for(timeout=120_000)
    return time.perf_counter() - start


def caption_times(page: Page, names: list[str], repeats: int) -> list[float]:
    """Return the seconds for each caption, from the file to the text, after one to warm up."""
    settings = page.evaluate(_LOAD_ENGINE)
    times = [
        page.evaluate(_TIME_CAPTION, {"url": f"examples/{name}", "settings": settings}) / 1000
        for name in [names[0], *names * repeats]
    ]
    return times[1:]


def print_times(site: Path, repeats: int) -> None:
    """Print the size of the downloads and all times."""
    content = json.loads((site / "site.json").read_text(encoding="utf-8"))
    files = [path for path in site.rglob("*") if path.suffix in (".js", ".mjs", ".css", ".html")]
    files += [site / name for name in content["files"]]
    raw = sum(file.stat().st_size for file in files)
    packed = sum(len(gzip.compress(file.read_bytes(), 6)) for file in files)
    print(f"download: {raw / 1e6:.1f} MB, with gzip {packed / 1e6:.1f} MB")
    handler = functools.partial(_Handler, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        first, again = [], []
        for _ in range(repeats):
            page = browser.new_context().new_page()  # with an empty cache
            first.append(time_until_ready(page, url))
            again.append(time_until_ready(page, url))
        print(f"ready: {statistics.median(first):.1f} s, again {statistics.median(again):.1f} s")
        times = caption_times(page, content["examples"], repeats)
        print(f"caption: median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="a site with example images")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print_times(arguments.site, arguments.repeats)
