"""The container: Dockerfile and compose.yaml, as far as they can be tested without Docker.

The slow test runs the commands of the Dockerfile in a fresh environment, and the service in it.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml

from captioner import Captioner
from captioner.config.service import ServiceConfig

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "boat.jpg"
PREFIX = "/opt/captioner"  # of the environment in the image
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Stage(NamedTuple):
    """A stage of a Dockerfile: what it is from, its name, and (instruction, rest) of its lines."""

    base: str
    name: str | None
    lines: list[tuple[str, str]]

    def all(self, wanted):
        return [rest for instruction, rest in self.lines if instruction == wanted]

    def one(self, wanted):
        [rest] = self.all(wanted)
        return rest


def read_stages(text):
    """Return the arguments before the first stage, and the stages."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    arguments, stages = {}, []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name or None, []))
        elif stages:
            stages[-1].lines.append((instruction, rest.strip()))
        else:
            assert instruction == "ARG"
            name, _, value = rest.partition("=")
            arguments[name] = value
    return arguments, stages


ARGUMENTS, STAGES = read_stages((ROOT / "Dockerfile").read_text())
BY_NAME = {stage.name: stage for stage in STAGES}
LAST = STAGES[-1]
HEALTH = json.loads(LAST.one("HEALTHCHECK").partition("CMD ")[2])
COMMAND = json.loads(LAST.one("ENTRYPOINT")) + json.loads(LAST.one("CMD"))
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["captioner"]


def in_image(ignore_file):
    """The paths that the image is built from; everything else is ignored."""
    patterns = [line for line in ignore_file.read_text().splitlines() if line[:1] not in ("", "#")]
    first, *others, caches = patterns
    assert (first, caches) == ("*", "**/__pycache__")
    assert all(other.startswith("!") for other in others)
    return {other[1:] for other in others}


def environment_of(stage):
    return dict(each.split("=", 1) for line in stage.all("ENV") for each in shlex.split(line))


def test_every_command_of_the_dockerfile_installs_into_the_environment_or_adds_the_user():
    into = ["pip", "--python", PREFIX, "install"]
    commands = [shlex.split(rest) for stage in STAGES for rest in stage.all("RUN")]
    venv, *installs, user = commands
    assert venv == ["python", "-m", "venv", "--without-pip", PREFIX]
    assert all(command[:4] == into for command in installs)
    assert user[0] == "useradd"
    assert not any(re.search(r"[;&|$`<>]", word) for word in [*venv, *user])
    assert environment_of(BY_NAME["packages"])["PIP_NO_CACHE_DIR"] == "1"


def test_the_default_image_installs_what_captioning_and_the_service_need_without_torch():
    packages = shlex.split(BY_NAME["packages"].all("RUN")[1])
    assert packages[4:] == [
        *("-r", "requirements-caption.txt"),
        *PROJECT["optional-dependencies"]["serve"],
    ]
    assert shlex.split(BY_NAME["onnx"].one("RUN"))[4:] == ["--no-deps", "."]
    assert ARGUMENTS["BACKEND"] == "onnx"
    assert BY_NAME["onnx"].base == BY_NAME["torch"].base == "packages"
    assert BY_NAME["installed"].base == "${BACKEND}"


def test_the_image_with_torch_takes_the_build_for_cpus_first():
    torch, rest = map(shlex.split, BY_NAME["torch"].all("RUN"))
    needed = [each for each in PROJECT["dependencies"] if each.startswith("torch")]
    assert torch[4:] == ["--index-url", "https://download.pytorch.org/whl/cpu", *needed]
    assert rest[4:] == [".[serve]"]


def test_the_last_stage_has_no_build_tools_and_no_root():
    slim = [stage.base for stage in STAGES if stage.base.startswith("python:")]
    assert slim == ["python:${PYTHON}-slim"] * 2  # the packages, and the last stage
    assert LAST.base == slim[-1]
    assert LAST.one("COPY") == f"--from=installed {PREFIX} {PREFIX}"
    assert [line.partition(" ")[0] for line in LAST.all("RUN")] == ["useradd"]
    assert environment_of(LAST)["PATH"] == f"{PREFIX}/bin:$PATH"
    names = [name for name, _ in LAST.lines]
    assert LAST.one("USER") == "10001:10001"
    assert "--uid 10001" in LAST.one("RUN")
    assert names.index("USER") > max(names.index("RUN"), names.index("COPY"))


def test_the_python_of_the_image_is_one_that_the_package_supports():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, ARGUMENTS["PYTHON"].split("."))) >= tuple(map(int, oldest.split(".")))


def test_only_what_is_needed_is_sent_to_the_build():
    paths = in_image(ROOT / ".dockerignore")
    assert paths == {
        *("captioner", "configs"),
        *("pyproject.toml", PROJECT["readme"], "LICENSE", "requirements-caption.txt"),
    }
    assert all((ROOT / path).exists() for path in paths)


def test_no_secret_is_in_the_image_and_compose_refuses_to_start_without_a_token():
    names = {name for stage in STAGES for name in environment_of(stage)} | {*ARGUMENTS}
    names |= {each.partition("=")[0] for stage in STAGES for each in stage.all("ARG")}
    assert not [name for name in names if re.search("token|secret|password|key", name, re.I)]
    assert COMPOSE["environment"]["CAPTIONER_TOKEN"].startswith("${CAPTIONER_TOKEN:?")
    assert not any("token" in word for word in COMPOSE["command"])


def test_compose_limits_what_the_container_may_use_and_change():
    assert {"mem_limit", "cpus", "pids_limit"} <= set(COMPOSE)
    # one thread for each core that it may use
    assert COMPOSE["cpus"] == COMPOSE["environment"]["OMP_NUM_THREADS"]
    assert COMPOSE["read_only"] is True
    assert COMPOSE["cap_drop"] == ["ALL"]
    assert COMPOSE["security_opt"] == ["no-new-privileges:true"]
    [volume] = COMPOSE["volumes"]
    assert volume["read_only"] is True
    assert not {"privileged", "network_mode", "pid", "user"} & set(COMPOSE)


def test_compose_starts_what_the_image_does_with_the_model_of_the_volume():
    [volume] = COMPOSE["volumes"]
    assert ["captioner", *COMPOSE["command"]] == [*COMMAND, "--model", volume["target"]]
    default = re.fullmatch(r"\$\{CAPTIONER_MODEL:-(.*)\}", volume["source"])[1]
    assert (ROOT / default / "graphs.json").is_file()  # it needs no torch


def test_the_service_is_reached_from_this_machine_only_and_on_the_port_of_the_image():
    assert COMMAND == ["captioner", "serve", "--host", "0.0.0.0"]
    [port] = COMPOSE["ports"]
    assert port.startswith("127.0.0.1:")
    assert port.endswith(f":{LAST.one('EXPOSE')}")
    assert f":{LAST.one('EXPOSE')}/ready" in HEALTH[-1]


def test_compose_checks_health_as_the_image_does():
    check = COMPOSE["healthcheck"]
    assert check["test"] == ["CMD", *HEALTH]
    given = dict(re.findall(r"--([a-z-]+)=(\S+)", LAST.one("HEALTHCHECK")))
    assert {name.replace("-", "_"): value for name, value in given.items()} == {
        name: str(value) for name, value in check.items() if name != "test"
    }


def test_the_container_is_stopped_after_the_grace_of_the_service():
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > ServiceConfig().grace


def install(environment, source):
    """Run the commands of the stages `packages` and `onnx`, with another prefix."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = os.environ | environment_of(BY_NAME["packages"]) | {"PATH": path}
    for stage in (BY_NAME["packages"], BY_NAME["onnx"]):
        for command in stage.all("RUN"):
            done = subprocess.run(
                command.replace(PREFIX, shlex.quote(str(environment))),
                shell=True, cwd=source, env=variables, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if "connection broken" in done.stderr:
                pytest.skip("pip reaches no package index")
            assert done.returncode == 0, done.stderr


def is_healthy(environment, port, variables):
    code = HEALTH[-1].replace(LAST.one("EXPOSE"), str(port))
    command = [str(environment / "bin" / HEALTH[0]), *HEALTH[1:-1], code]
    return subprocess.run(command, env=variables, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_the_commands_of_the_dockerfile_give_a_service_that_captions(tmp_path):
    source, environment = tmp_path / "source", tmp_path / "environment"
    source.mkdir()
    for name in in_image(ROOT / ".dockerignore"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    install(environment, source)
    shutil.rmtree(source)
    names = {path.name for path in environment.glob("lib/*/site-packages/*")}
    assert "captioner" in names
    assert not {"torch", "pip", "pytest"} & names
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        "PATH": f"{environment}/bin",
        "HOME": str(tmp_path / "none"),  # the user of the image has none
        "PYTHONDONTWRITEBYTECODE": "1",
        "http_proxy": "http://127.0.0.1:9",  # as Docker gives to containers behind a proxy
    }
    assert environment_of(LAST)["PYTHONDONTWRITEBYTECODE"] == "1"
    before = sorted(tmp_path.rglob("*"))
    assert not is_healthy(environment, port, variables)
    server = subprocess.Popen(
        [environment / "bin" / COMMAND[0], *COMMAND[1:], "--port", str(port)],
        env=variables, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not is_healthy(environment, port, variables):
            assert server.poll() is None, server.stderr.read()
            assert time.monotonic() < end
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/ready", trust_env=False).status_code == 200
        reply = httpx.post(
            f"{url}/v1/caption", content=PHOTO.read_bytes(), trust_env=False, timeout=60
        )
        expected = Captioner.from_pretrained(backend="onnx").caption(PHOTO).text
        assert reply.json()["results"][0]["caption"] == expected
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
        server.stderr.close()
    assert sorted(tmp_path.rglob("*")) == before  # the root of the container is read-only
