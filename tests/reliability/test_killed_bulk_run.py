"""After a run over many images was killed, the next run captions the remaining images only."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time

import pytest

from captioner.cli import caption as command_of_caption
from captioner.errors import CaptionerError, UsageError
from captioner.results.files import read_results
from captioner.results.resumable import resumable_results

pytestmark = pytest.mark.row(31)

PROVENANCE = {"weights": ["abc"], "decoding": {"beam": 3}}


class KilledError(Exception):
    pass


@pytest.fixture
def killed(tmp_path):
    """The file of a run that was killed in the third of three images: two lines and a half."""
    path = tmp_path / "captions.jsonl"
    with (
        contextlib.suppress(KilledError),
        resumable_results(path, [1, 2, 3], provenance=PROVENANCE) as results,
    ):
        results.add(1, "a dog")
        results.add(2, "a cat\u2028")
        raise KilledError
    with (tmp_path / "captions.jsonl.part").open("a") as file:
        file.write('{"image_id": 3, "capt')
    return path


def test_each_caption_is_on_disk_after_it_is_added(tmp_path):
    with resumable_results(
        tmp_path / "captions.json", ["a", "b"], provenance=PROVENANCE
    ) as results:
        for number, image in enumerate(("a", "b"), 1):
            results.add(image, "a dog")
            assert len((tmp_path / "captions.json.part").read_text().splitlines()) == number + 1


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_the_results_file_replaces_the_part_file_when_all_captions_are_known(tmp_path, ending):
    path = tmp_path / f"said.{ending}"
    with resumable_results(path, [1, 2], provenance=PROVENANCE) as results:
        results.add(2, "a cat")
        results.add(1, "a dog")
        assert not path.exists()
    assert list(read_results(path).items()) == [
        (1, "a dog"),
        (2, "a cat"),
    ]  # in the order of the images
    assert os.listdir(tmp_path) == [path.name]


def test_the_next_run_keeps_complete_lines_and_writes_none_twice(killed):
    with resumable_results(killed, [1, 2, 3], provenance=PROVENANCE) as results:
        assert results.captions == {1: "a dog", 2: "a cat\u2028"}
        results.add(3, "a bird")
    assert [json.loads(line)["image_id"] for line in killed.read_text().splitlines()] == [1, 2, 3]


def test_captions_of_other_images_are_dropped(killed):
    with resumable_results(killed, [2, 4], provenance=PROVENANCE) as results:
        assert list(results.captions) == [2]
    assert list(read_results(killed)) == [2]


def test_captions_of_another_model_or_with_other_settings_are_refused(killed):
    with (
        pytest.raises(
            UsageError,
            match=r"captions\.jsonl\.part holds 2 captions .* other settings: .* delete that file",
        ),
        resumable_results(killed, [1, 2, 3], provenance=PROVENANCE | {"weights": ["abd"]}),
    ):
        pass


@pytest.mark.parametrize(
    "content", [b"{}\n7\n", b"not JSON\n", b"\xff\n", b"", b'{"weights": "abc"', b"{}\n{}\n"]
)
def test_a_part_file_that_no_run_wrote_is_refused_and_kept(killed, content):
    part = killed.with_name("captions.jsonl.part")
    part.write_bytes(content)
    with (
        pytest.raises(UsageError, match=r"captions\.jsonl\.part"),
        resumable_results(killed, [1], provenance=PROVENANCE),
    ):
        pass
    assert part.read_bytes() == content


def test_a_full_disk_is_reported_and_complete_lines_are_kept(tmp_path):
    def fill():
        with resumable_results(
            tmp_path / "captions.json", range(99), provenance=PROVENANCE
        ) as results:
            for image in range(99):
                results.add(image, "a dog")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            CaptionerError, match=r"captions\.json\.part cannot be written: File too large: free"
        ):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    whole = (tmp_path / "captions.json.part").read_text().count("\n") - 1
    with resumable_results(tmp_path / "captions.json", range(99), provenance=PROVENANCE) as results:
        assert list(results.captions) == list(range(whole))


def test_the_command_continues_an_interrupted_run_and_reports_that(
    run, shapes, tiny_model, tmp_path, monkeypatch
):
    command = [
        "caption",
        shapes / "dev",
        "--model",
        tiny_model,
        "--device",
        "cpu",
        "--output",
        tmp_path / "captions.json",
    ]
    _, whole, _ = run(*command)
    expected = (tmp_path / "captions.json").read_text()

    shown = []

    def interrupt(*arguments, **options):
        if len(shown) == 3:
            raise KeyboardInterrupt
        shown.append(print_caption(*arguments, **options))

    print_caption = command_of_caption._print
    with monkeypatch.context() as patch:
        patch.setattr(command_of_caption, "_print", interrupt)
        code, first, err = run(*command)
    assert code == 130
    assert "3 captions are kept in" in err
    assert (
        tmp_path / "captions.json"
    ).read_text() == expected  # the old file is kept until the end
    code, rest, err = run(*command)
    assert code == 0
    assert "an interrupted run captioned 3 of 8 images: continuing" in err
    assert first + rest == whole
    assert (tmp_path / "captions.json").read_text() == expected
    assert run(*command)[1] == whole  # a finished run starts anew


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_results_of_an_uninterrupted_run(
    shapes, tiny_model, tmp_path
):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        for image in (shapes / "train").iterdir():
            os.link(image, folder / f"{number}-{image.name}")

    def command(output):
        model = ["--model", tiny_model, "--device", "cpu", "--batch-size", "4"]
        return [sys.executable, "-m", "captioner", "caption", folder, *model, "--output", output]

    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    subprocess.run(command(whole), capture_output=True, check=True)
    part = tmp_path / "broken.jsonl.part"
    for kept in (1, 100, 250):
        process = subprocess.Popen(
            command(broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and (
            not part.exists() or part.read_text().count("\n") <= kept
        ):
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert not broken.exists()
    last = subprocess.run(command(broken), capture_output=True, text=True, check=True)
    assert "of 480 images: continuing" in last.stderr
    assert len(last.stdout.splitlines()) < 480 - 250
    assert broken.read_bytes() == whole.read_bytes()
    assert not part.exists()
