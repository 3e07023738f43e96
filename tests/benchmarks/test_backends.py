"""Both backends are measured in turn, in processes of their own, and the table shows the gain."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks import backends, equal_captions, one_backend
from captioner import CaptionerError
from captioner.captions import Caption
from captioner.models.folder import BUNDLED
from captioner.runtime.graphs import Graphs

EXAMPLES = Path(__file__).parents[2] / "examples"


def invoke(app, *options):
    return CliRunner().invoke(app, [*map(str, options)])


@pytest.fixture
def photos(tmp_path):
    """Three photographs, which are too small to take time."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (20, 30), (40 * ord(name) % 256, 80, 120)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def measured(monkeypatch):
    """What was measured: (backend, files, threads), while the costs are made up."""
    calls = []

    def measure(backend, folder, files, threads):
        calls.append((backend, files, threads))
        number = sum(each[0] == backend for each in calls)
        return {"ms": {"torch": 10.0, "onnx": 5.0}[backend] * number, "images a second": number}

    monkeypatch.setattr(backends, "measure", measure)
    return calls


def test_the_gain_is_a_ratio_of_costs_and_of_speeds_the_other_way_round():
    costs = {
        "torch": {"peak MB": 953.4, "100 photographs: images a second": 40.0},
        "onnx": {"peak MB": 212.0, "100 photographs: images a second": 90.0},
    }
    _, _, *rows = backends.table(costs).splitlines()
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
        ["peak MB", "953", "212", "4.5"],
        ["100 photographs: images a second", "40", "90", "2.2"],
    ]


def test_the_backends_take_turns_and_each_goes_first_in_every_other_repeat(photos, measured):
    answer = invoke(backends.app, "--images", photos, "--repeats", 3)
    assert answer.exit_code == 0, answer.output
    order = [backend for backend, *_ in measured]
    assert order == ["onnx", "torch", "torch", "onnx", "onnx", "torch"]


def test_the_command_prints_medians_and_writes_them(photos, measured, tmp_path):
    result = tmp_path / "backends.json"
    given = ["--images", photos, "--count", 4, "--repeats", 3, "--threads", 2, "--json", result]
    answer = invoke(backends.app, *given)
    assert answer.exit_code == 0, answer.output
    a, b, c = sorted(photos.iterdir())
    assert all(call[1:] == ([a, b, c, a], 2) for call in measured)
    facts, _, _, ms, _ = answer.stdout.splitlines()
    assert facts.startswith("# cpu ")
    assert "trunk efficientnet_lite2, input 224, beam 4" in facts
    assert facts.endswith("photographs 3, threads 2, repeats 3")
    assert ms == "| ms | 20 | 10 | 2.0 |"  # of 10, 20, 30 and of 5, 10, 15
    values = json.loads(result.read_text())
    assert (values["torch"]["ms"], values["onnx"]["ms"]) == (20, 10)
    assert {"torch", "onnxruntime", "numpy"} <= set(facts.replace(",", "").split())


def test_one_photograph_and_all_are_captioned_in_processes_of_their_own(photos, monkeypatch):
    commands = []

    def run(command, threads):
        commands.append([*command, threads])
        return backends.Run('{"load": 7}', seconds=1, cpu_seconds=2, megabytes=3)

    monkeypatch.setattr(backends, "run", run)
    first, second = photos / "a.png", photos / "b.png"
    costs = backends.measure("onnx", Path("model"), [first, second], 2)
    assert list(costs.values()) == [1, 2, 3, 7]
    one, many = commands
    assert one == [
        "captioner", "caption", str(first), "--model", "model", "--backend", "onnx", 2,
    ]  # fmt: skip
    assert many == ["benchmarks.one_backend", "onnx", "model", str(first), str(second), 2]


def test_a_process_runs_on_as_many_cores_as_threads_and_its_cost_is_returned():
    before = os.sched_getaffinity(0)
    shown = "import os; print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])"
    work = "sum(range(3_000_000))"
    done = backends.run(["timeit", "-n", "1", "-r", "1", "-s", shown, work], 1)
    assert done.output.startswith("1 1\n")
    assert os.sched_getaffinity(0) == before
    assert 0.01 < done.cpu_seconds < 60
    assert done.seconds > 0.01
    assert 3 < done.megabytes < 30_000


def test_a_process_that_fails_is_an_error():
    with pytest.raises(CaptionerError, match=r"json\.tool nowhere failed with code"):
        backends.run(["json.tool", "nowhere"], 1)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_backend_is_measured_from_its_load_to_a_step(backend, photos, monkeypatch):
    monkeypatch.setattr(one_backend, "REPEATS", {"encoder": 1, "step": 2})
    steps, step = [], Graphs.step

    def record(self, token_ids, state):
        steps.append([len(token_ids), *map(len, state)])
        return step(self, token_ids, state)

    monkeypatch.setattr(Graphs, "step", record)
    costs = one_backend.measure_backend(backend, BUNDLED, sorted(photos.iterdir()))
    assert [*costs] == [
        one_backend.LOAD,
        "3 photographs: images a second",
        "3 photographs: CPU ms an image",
        "3 photographs: peak MB",
        one_backend.ENCODER,
        one_backend.STEP,
    ]
    assert min(costs.values()) > 0
    assert 30 < costs["3 photographs: peak MB"] < 30_000
    assert steps[-3:] == ([[64] * 4] * 3 if backend == "onnx" else [])  # four beams of 16 images


def test_both_backends_caption_the_examples_equally(tmp_path):
    annotations = tmp_path / "captions.jsonl"
    names = sorted(path.name for path in EXAMPLES.glob("*.jpg"))
    lines = (json.dumps({"image": name, "captions": ["a photograph"]}) for name in names)
    annotations.write_text("\n".join(lines))
    given = ["--annotations", annotations, "--images", EXAMPLES, "--first", 3]
    answer = invoke(equal_captions.app, *given)
    assert answer.exit_code == 0, answer.output
    assert answer.stdout == ""
    assert answer.stderr == "3 of 3 captions are equal, 0 of the others are as likely\n"


def test_captions_that_differ_are_listed_with_their_log_probabilities(
    photos, tmp_path, monkeypatch
):
    captions = {
        "torch": [("a", -1.0), ("b", -2.0), ("c", -3.0)],
        "onnx": [("a", -1.0), ("x", -2.00009), ("y", -3.0002)],
    }

    class Canned:
        @classmethod
        def from_pretrained(cls, folder, *, backend, **options):
            made = cls()
            made.captions = [Caption(text, (), log_prob) for text, log_prob in captions[backend]]
            return made

        def caption(self, images):
            assert [path.name for path in images] == ["a.png", "b.png", "c.png"]
            return self.captions

    monkeypatch.setattr("captioner.Captioner", Canned)
    lines = (json.dumps({"image": f"{name}.png", "captions": ["a photograph"]}) for name in "abc")
    (photos / "captions.jsonl").write_text("\n".join(lines))
    answer = invoke(equal_captions.app, "--annotations", photos / "captions.jsonl")
    assert answer.exit_code == 0, answer.output
    assert [json.loads(line) for line in answer.stdout.splitlines()] == [
        {"image": str(photos / "b.png"), "torch": ["b", -2.0], "onnx": ["x", -2.00009]},
        {"image": str(photos / "c.png"), "torch": ["c", -3.0], "onnx": ["y", -3.0002]},
    ]
    assert answer.stderr == "1 of 3 captions are equal, 1 of the others are as likely\n"
