"""A thousand requests from many clients, a tenth of them broken, too large or hanging up."""

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from services import ServiceProcess, post_request, run_async

CLIENTS, REQUESTS = 32, 1000
PHOTOS = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))
TOO_LARGE = b"x" * (2 * 2**20)


def printed_captions():
    command = [sys.executable, "-m", "captioner", "caption", "--json", "--device", "cpu"]
    done = subprocess.run([*command, *map(str, PHOTOS)], capture_output=True, check=True)
    lines = map(json.loads, done.stdout.splitlines())
    return {Path(line["image"]).name: line["caption"] for line in lines}


async def hang_up(service, content):
    """Send a request, and go before it is answered."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(post_request(content))
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.close()


async def client(service, kinds, results):
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as session:
        while kinds:
            kind, photo = kinds.pop()
            content = photo.read_bytes()
            if kind == "hangs up":
                await hang_up(service, content)
                continue
            content = {"good": content, "broken": content[:3000], "too large": TOO_LARGE}[kind]
            begun = time.monotonic()
            response = await session.post("/v1/caption", files={"file": (photo.name, content)})
            results.append((kind, photo.name, response, time.monotonic() - begun))


async def run_clients(service, kinds):
    results = []
    await asyncio.gather(*(client(service, kinds, results) for _ in range(CLIENTS)))
    return results


def make_requests(count):
    rng = random.Random(17)
    bad = ["broken", "too large", "hangs up"]
    kinds = ["good"] * (count - count // 10) + [bad[i % 3] for i in range(count // 10)]
    rng.shuffle(kinds)
    return [(kind, rng.choice(PHOTOS)) for kind in kinds]


@pytest.mark.row(26)
@pytest.mark.row(27)
@pytest.mark.row(44)
@pytest.mark.slow
def test_every_good_request_of_a_thousand_is_answered_and_every_bad_one_has_its_status():
    expected = printed_captions()
    with ServiceProcess("bundled", "--max-request-mb", 1) as service:
        service.wait_until()
        run_async(run_clients(service, make_requests(200)))  # memory grows with the first ones
        before = service.rss()
        begun = time.monotonic()
        requests = make_requests(REQUESTS)
        results = run_async(run_clients(service, requests))
        seconds = time.monotonic() - begun
        after = service.rss()
        status_of = {"good": 200, "broken": 422, "too large": 413}
        for kind, name, response, _ in results:
            assert response.status_code == status_of[kind], (kind, response.text)
            if kind == "good":
                assert response.json()["results"][0]["caption"] == expected[name]
        assert sum(kind == "good" for kind, *_ in results) == 900
        times = sorted(took for kind, _, _, took in results if kind == "good")
        print(
            f"{REQUESTS} requests in {seconds:.0f} s; the good ones: median {times[450]:.2f} s, "
            f"p99 {times[890]:.2f} s; {before:.0f} MB before, {after:.0f} MB after"
        )
        assert after - before < 60
        assert service.metric("captioner_request_bytes") == 0
        assert service.metric("captioner_queue_depth") == 0
        assert "Traceback" not in service.stderr
