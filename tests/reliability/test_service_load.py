"""More load than capacity, clients that hang up, deadlines, and the end of the service."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from services import ServiceProcess, free_port, post_request, run_async


def post(service, content, **options):
    return httpx.post(f"{service.url}/v1/caption", content=content, timeout=60, **options)


def wait_for_a_batch(service):
    """Wait until the model computes."""
    while not service.metric('captioner_stage_seconds_count{stage="queue"}'):
        time.sleep(0.02)


async def post_all(service, content, count):
    """Post so many requests at the same time; return their answers."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:
        return await asyncio.gather(
            *(client.post("/v1/caption", content=content) for _ in range(count))
        )


@pytest.mark.row(27)
@pytest.mark.slow
def test_overload_is_refused_at_once_and_everything_accepted_is_answered(onnx_model, photo):
    limits = ["--max-queue", 20, "--max-batch", 4, "--deadline", 20]
    with ServiceProcess(onnx_model, *limits, slow=(0.3, 0)) as service:
        service.wait_until()
        content, delays, done = photo.read_bytes(), [], threading.Event()

        def watch():
            while not done.is_set():
                begun = time.monotonic()
                assert httpx.get(f"{service.url}/health", timeout=10).status_code == 200
                delays.append(time.monotonic() - begun)

        watcher = threading.Thread(target=watch)
        watcher.start()
        answers = run_async(post_all(service, content, 200))
        done.set()
        watcher.join()
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 20
        captions = {each.json()["results"][0]["caption"] for each in answers if each.is_success}
        assert len(captions) == 1
        refused = [each for each in answers if each.status_code == 429]
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        assert sorted(delays)[len(delays) // 2] < 0.2
        assert service.metric("captioner_queue_depth") == 0
        assert post(service, content).status_code == 200


async def keep_asking(service, content, seconds, answers):
    """Post again and again, a moment after each refusal; add each status and its seconds."""
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        while time.monotonic() < end:
            begun = time.monotonic()
            response = await client.post("/v1/caption", content=content)
            answers.append((response.status_code, time.monotonic() - begun))
            if response.status_code == 429:
                await asyncio.sleep(0.1)  # sooner than Retry-After asks


async def ask_from_all(service, content, *, clients, seconds):
    answers = []
    asking = (keep_asking(service, content, seconds, answers) for _ in range(clients))
    await asyncio.gather(*asking)
    return answers


@pytest.mark.row(27)
@pytest.mark.slow
def test_what_64_clients_get_accepted_into_a_small_queue_is_answered_before_its_deadline():
    deadline = 5.0
    photo = min(Path(__file__).parents[2].glob("examples/*.jpg"))
    with ServiceProcess("bundled", "--max-queue", 16, "--deadline", deadline) as service:
        service.wait_until()
        content = photo.read_bytes()
        answers = run_async(ask_from_all(service, content, clients=64, seconds=20))
        accepted = sorted(seconds for status, seconds in answers if status == 200)
        refused = sum(status == 429 for status, _ in answers)
        p50, p99 = (accepted[int(part * len(accepted))] for part in (0.5, 0.99))
        print(
            f"64 clients, {len(answers)} requests in 20 s: {len(accepted)} accepted "
            f"(median {p50:.2f} s, p99 {p99:.2f} s), {refused} refused with 429"
        )
        assert {status for status, _ in answers} == {200, 429}
        assert refused > 64
        assert p99 < deadline


@pytest.mark.row(27)
@pytest.mark.slow
def test_requests_are_503_while_the_model_is_loaded_and_the_process_is_alive(onnx_model, photo):
    with ServiceProcess(onnx_model, slow=(0, 1.5)) as service:
        service.wait_until("/health")
        for response in (
            httpx.get(f"{service.url}/ready"),
            httpx.get(f"{service.url}/v1/model"),
            post(service, photo.read_bytes()),
        ):
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "not_ready"
        service.wait_until()
        assert post(service, photo.read_bytes()).status_code == 200


@pytest.mark.row(27)
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_service_when_all_that_it_accepted_is_answered(onnx_model, photo, number):
    with ServiceProcess(onnx_model, "--max-batch", 1, slow=(0.3, 0)) as service:
        service.wait_until()
        content = photo.read_bytes()
        answers = []
        clients = threading.Thread(
            target=lambda: answers.extend(run_async(post_all(service, content, 6)))
        )
        idle = service.connect()  # a connection that asks for nothing does not delay the end
        clients.start()
        while service.metric("captioner_queue_depth") < 4:
            time.sleep(0.02)
        service.process.send_signal(number)
        time.sleep(0.3)
        with pytest.raises(httpx.ConnectError):  # nothing new is accepted
            post(service, content)
        clients.join()
        assert [answer.status_code for answer in answers] == [200] * 6
        assert service.process.wait(10) == 0
        assert "Traceback" not in service.stderr
        idle.close()


@pytest.mark.row(27)
@pytest.mark.slow
def test_a_request_on_an_open_connection_is_503_while_the_service_ends(onnx_model, photo):
    with ServiceProcess(onnx_model, slow=(1.0, 0)) as service:
        service.wait_until()
        connection = service.connect()
        # The second request is on the connection when the first is answered.
        request = post_request(photo.read_bytes())
        connection.sendall(request + request)
        wait_for_a_batch(service)
        service.process.send_signal(signal.SIGTERM)
        received = b""
        while part := connection.recv(65536):
            received += part
        assert received.startswith(b"HTTP/1.1 200")
        assert received.count(b"HTTP/1.1 200") == 1
        assert service.process.wait(10) == 0


@pytest.mark.row(27)
@pytest.mark.slow
def test_a_second_signal_ends_the_service_at_once(onnx_model, photo):
    with ServiceProcess(onnx_model, slow=(30, 0)) as service:
        service.wait_until()
        connection = service.connect()
        connection.sendall(post_request(photo.read_bytes()))
        wait_for_a_batch(service)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(2) == 128 + signal.SIGTERM


@pytest.mark.row(27)
@pytest.mark.slow
def test_what_takes_longer_than_the_time_of_grace_is_dropped_and_told(onnx_model, photo):
    with ServiceProcess(onnx_model, "--grace", 1, slow=(30, 0)) as service:
        service.wait_until()
        connection = service.connect()
        connection.sendall(post_request(photo.read_bytes()))
        wait_for_a_batch(service)
        begun = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) == 1
        assert time.monotonic() - begun < 4
        assert "1 request took longer than 1 s: dropped" in service.stderr


@pytest.mark.row(27)
@pytest.mark.row(44)
@pytest.mark.slow
def test_what_is_not_done_before_the_deadline_is_dropped(onnx_model, photo):
    options = ["--deadline", 0.5, "--max-batch", 1, "--workers", 1]
    with ServiceProcess(onnx_model, *options, slow=(1.0, 0)) as service:
        service.wait_until()
        answers = run_async(post_all(service, photo.read_bytes(), 4))
        assert [each.status_code for each in answers] == [504] * 4
        assert answers[0].json()["error"]["code"] == "deadline"
        time.sleep(1)
        assert service.metric("captioner_batch_size_count") == 1  # the others were not computed
        assert service.metric("captioner_queue_depth") == 0


@pytest.mark.row(27)
@pytest.mark.row(44)
def test_a_client_that_hangs_up_costs_nothing_more(onnx_model, photo):
    options = ["--max-batch", 1, "--workers", 1]
    with ServiceProcess(onnx_model, *options, slow=(0.5, 0)) as service:
        service.wait_until()
        request = post_request(photo.read_bytes())
        connections = [service.connect() for _ in range(5)]
        for connection in connections:
            connection.sendall(request)
        while service.metric("captioner_queue_depth") < 4:
            time.sleep(0.02)
        for connection in connections:
            connection.close()
        assert post(service, photo.read_bytes()).status_code == 200
        # the one that was computed when its client hung up, and that of the last
        assert service.metric("captioner_batch_size_count") <= 2
        assert service.metric("captioner_request_bytes") == 0


@pytest.mark.row(44)
@pytest.mark.slow
def test_clients_that_hang_up_leave_their_batch_mates_their_answers(onnx_model, photo):
    with ServiceProcess(onnx_model, "--max-batch", 6, slow=(0.5, 0)) as service:
        service.wait_until()
        request = post_request(photo.read_bytes(), "/v1/caption", "Connection: close")
        connections = [service.connect() for _ in range(6)]
        for connection in connections:
            connection.sendall(request)
        wait_for_a_batch(service)
        staying, leaving = connections[::2], connections[1::2]
        for connection in leaving:
            connection.close()
        for connection in staying:
            received = b"".join(iter(lambda each=connection: each.recv(65536), b""))
            assert received.startswith(b"HTTP/1.1 200")
        assert service.metric("captioner_queue_depth") == 0


@pytest.mark.row(27)
def test_a_model_that_cannot_be_loaded_ends_the_service_with_its_error(onnx_model, tmp_path):
    command = [sys.executable, "-m", "captioner", "serve", "--port", str(free_port()), "--model"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
