"""The command line: output, exit codes, wrong usage, help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from captioner import Captioner, __version__
from captioner.cli.app import COMMANDS
from captioner.errors import UsageError
from captioner.models.folder import BUNDLED

ROOT = Path(__file__).parents[2]


def test_json_prints_one_object_per_line(run, tiny_model, photo):
    code, out, _ = run(
        "caption",
        photo,
        photo.parent,
        "--model",
        tiny_model,
        "--json",
        "--device",
        "cpu",
        "--beam",
        1,
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len(lines) == 8  # the photo named twice is captioned once
    caption = Captioner.from_pretrained(tiny_model, device="cpu").caption(
        photo, decoding={"beam": 1}
    )
    assert lines[0] == {
        "image": str(photo),
        "caption": caption.text,
        "log_prob": pytest.approx(caption.log_prob, abs=1e-4),
        "words": [
            {"word": word.text, "log_prob": pytest.approx(word.log_prob, abs=1e-4)}
            for word in caption.words
        ],
    }


def test_a_hostile_name_stays_on_its_line_and_json_has_it_as_it_is(
    run, tiny_model, photo, tmp_path
):
    hostile = tmp_path / "a\nb\x1b[2J.png"
    hostile.write_bytes(photo.read_bytes())
    _, out, _ = run("caption", hostile, "--model", tiny_model, "--device", "cpu")
    assert out.count("\n") == 1
    assert "\x1b" not in out
    _, out, _ = run("caption", hostile, "--model", tiny_model, "--device", "cpu", "--json")
    assert json.loads(out)["image"] == str(hostile)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_output_is_a_results_file_by_its_ending(run, tiny_model, photo, tmp_path, ending):
    file = tmp_path / f"results.{ending}"
    _, out, _ = run("caption", photo, "--model", tiny_model, "--output", file, "--device", "cpu")
    text = file.read_text()
    entries = (
        json.loads(text) if ending == "json" else [json.loads(line) for line in text.splitlines()]
    )
    assert entries == [{"image_id": str(photo), "caption": out.rstrip("\n").split("\t")[1]}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caption", "nothing.jpg"], "nothing.jpg"),
        (["caption", "*.nothing"], "*.nothing"),
        (["caption", "x.jpg", "--beam", "0"], "--beam"),
        (["caption", "x.jpg", "--output", "captions.txt"], ".json"),
        (["caption", "x.jpg", "--output", "no/such/folder/captions.json"], "create it first"),
        (["caption"], "PATH"),
        (["frobnicate"], "frobnicate"),
        (["train", "nothing.yaml"], "nothing.yaml"),
        (
            ["train", str(ROOT / "configs" / "shapes.yaml"), "decoder.cell=lsmt"],
            "'lstm', 'gru', 'rnn'",
        ),
        (["caption", "x.jpg", "--report", "page.pdf"], ".html"),
        (["caption", "x.jpg", "--report", "no/such/folder/page.html"], "create it first"),
        (["caption", "x.jpg", "--explain"], "--report or --json"),
        (["caption", "x.jpg", "--top-p", "0"], "--top-p"),
        (["score"], "name one image"),
        (["score", "x.jpg", "--annotations", "y.json"], "name one image"),
        (["score", "nothing.jpg", "--caption", "a dog"], "nothing.jpg"),
        (["score", "x.jpg", "--captions", "nothing.txt"], "nothing.txt"),
        (["calibrate"], "--annotations"),
        (["calibrate", "--annotations", "nothing.json"], "--model"),
        (
            ["calibrate", "--annotations", "nothing.json", "--model", str(BUNDLED)],
            "--model",
        ),
        (
            ["compare", "nothing.json", "nothing.json", "--annotations", "nothing.json"],
            "nothing.json",
        ),
        (["evaluate"], "--annotations"),
        (
            ["evaluate", "--annotations", "x.json", "--results", "y.json", "--report", "z.html"],
            "add --model or --images",
        ),
        (
            ["evaluate", "--annotations", "x.json", "--results", "y.json", "--beam", "5"],
            "add --model or --images",
        ),
        (
            ["evaluate", "--annotations", "nothing.json", "--results", "nothing.json"],
            "nothing.json: no such results",
        ),
        (["defaults", "beam=3"], "--model"),
        (["defaults", "--reset", "--model", "bundled"], "--model"),
        (["defaults", "beam=3", "--model", str(BUNDLED)], "--model"),
        (["check"], "CONFIG|ANNOTATIONS"),
        (["check", "nothing.json"], "nothing.json"),
        (["check", "nothing.yaml"], "nothing.yaml"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_usage_errors_end_with_an_example(run):
    assert (
        run("caption", "--beam", "0", "x")[2]
        .splitlines()[-1]
        .startswith("Example: captioner caption")
    )
    assert run("train")[2].splitlines()[-1].startswith("Example: captioner train")
    assert run("evaluate")[2].splitlines()[-1].startswith("Example: captioner evaluate")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: captioner {command}" in out


def test_help_lists_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_version_prints_name_and_version(run):
    assert run("--version") == (0, f"captioner {__version__}\n", "")


def test_no_file_of_another_command_is_imported():
    program = (
        "import sys\n"
        "from captioner.cli.app import main\n"
        "try: main(['defaults', '--help'])\n"
        "finally: print(*sorted(m for m in sys.modules if m.startswith('captioner.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    others = {f"captioner.cli.{command}" for command in COMMANDS} - {"captioner.cli.defaults"}
    assert "captioner.cli.defaults" in loaded
    assert not loaded & others


def test_a_device_that_is_not_available_is_named_by_its_option(run, photo):
    code, _, err = run("caption", photo, "--device", "mps")
    assert code == 2
    assert err.startswith("captioner: --device 'mps' is not available")
    with pytest.raises(UsageError, match=r"^device 'mps' is not available.*: use 'cpu' or 'auto'"):
        Captioner.from_pretrained(device="mps")


def test_a_missing_model_is_a_failure_with_a_hint(run, photo, tmp_path):
    code, _, err = run("caption", photo, "--model", tmp_path)
    assert code == 1
    assert "is not a model folder" in err


def test_evaluating_a_model_writes_results_that_score_the_same(run, tiny_model, shapes, tmp_path):
    results, annotations = tmp_path / "results.json", shapes / "captions_dev.json"
    asked = ["--annotations", annotations, "--json"]
    code, out, _ = run(
        "evaluate",
        *asked,
        "--model",
        tiny_model,
        "--images",
        shapes / "dev",
        "--results",
        results,
        "--device",
        "cpu",
    )
    assert code == 0
    scores = json.loads(out)
    assert scores["Bleu_4"] >= 0
    assert {entry["image_id"] for entry in json.loads(results.read_text())} == {
        image["id"] for image in json.loads(annotations.read_text())["images"]
    }
    assert json.loads(run("evaluate", *asked, "--results", results)[1]) == scores


def test_perfect_results_score_one_and_the_table_names_what_was_measured(run, shapes, tmp_path):
    annotations = shapes / "captions_dev.json"
    first = {
        note["image_id"]: note["caption"]
        for note in json.loads(annotations.read_text())["annotations"]
    }
    results = tmp_path / "results.json"
    results.write_text(
        json.dumps([{"image_id": image, "caption": caption} for image, caption in first.items()])
    )
    code, out, _ = run("evaluate", "--annotations", annotations, "--results", results)
    assert code == 0
    assert "100.0" in out
    assert "images:8" in out
    assert "refs:5" in out


def test_the_scripts_are_the_same_commands():
    for name in ("caption", "train", "evaluate"):
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert f"captioner {name}" in shown.stdout
