"""A model of the hub that does not arrive: nothing half-written is used, and one line says why."""

import json
from pathlib import Path

import pytest
from hubs import files_of, model_folder

from captioner.errors import CaptionerError
from captioner.models.folder import resolve

pytestmark = pytest.mark.row(46)


def one_line(name="kim/dogs", **options):
    with pytest.raises(CaptionerError) as caught:
        resolve(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def content(tmp_path):
    return files_of(model_folder(tmp_path / "model"))


def test_a_download_that_is_cut_off_is_not_used_and_the_next_one_continues(hub, content):
    hub.add("kim/dogs", content)
    hub.break_after = 1000
    message = one_line()
    assert "the download of kim/dogs failed" in message
    assert "run it again" in message
    hub.down = True  # what has arrived must not be taken for the model
    assert "kim/dogs" in one_line()
    hub.down, hub.break_after = False, None
    assert files_of(resolve("kim/dogs")) == content


def test_offline_a_broken_download_is_no_model(hub, content, hub_offline):
    commit = hub.add("kim/dogs", content).refs["main"]
    hub.break_after = 1000
    one_line()
    hub_offline()
    for revision in (None, commit):  # which of the two lines depends on the version of the library
        message = one_line(revision=revision)
        assert "HF_HUB_OFFLINE is set" in message or "is not whole" in message


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.json"])
def test_a_file_that_is_not_the_one_of_the_checksums_is_refused_each_time(hub, content, name):
    hub.add("kim/dogs", content | {name: content[name][:-1] + b"\0"})
    for _ in range(2):
        message = one_line()
        assert name in message
        assert "its SHA-256 has changed" in message
        assert "push the model again" in message


def test_a_damaged_file_in_the_cache_is_downloaded_again(hub, content):
    commit = hub.add("kim/dogs", content).refs["main"]
    for revision in (None, commit):
        folder = resolve("kim/dogs")
        weights = (folder / "model.safetensors").resolve()
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
        assert files_of(resolve("kim/dogs", revision=revision)) == content


def test_a_file_that_the_hub_lacks_is_named(hub, content):
    hub.add("kim/dogs", {name: each for name, each in content.items() if name != "vocab.json"})
    assert "vocab.json is missing" in one_line()


def test_a_revision_that_is_gone_is_named(hub, content):
    hub.add("kim/dogs", content)
    for revision in ("v9", "0f" * 20):
        assert f"model kim/dogs has no revision '{revision}'" in one_line(revision=revision)


def test_a_name_that_is_neither_a_folder_nor_a_model_says_both(hub):
    message = one_line("runs/first")
    assert message.startswith("runs/first: no such folder here, and no such model that you may see")
    assert hub.url in message


def test_a_gated_model_says_where_to_ask(hub, content):
    hub.add("kim/dogs", content, gated=True)
    message = one_line()
    assert f"ask for access at {hub.url}/kim/dogs" in message
    assert "hf auth login" in message


def test_a_hub_that_is_down_or_unreachable_is_named_or_the_cache_used(hub, content, capsys):
    hub.add("kim/dogs", content)
    hub.down = True
    assert "answers 503" in one_line()
    hub.down = False
    folder = resolve("kim/dogs")
    hub.down = True
    capsys.readouterr()
    assert resolve("kim/dogs") == folder
    assert f"the hub cannot be reached: kim/dogs is the copy in {folder}" in capsys.readouterr().err


def test_a_hub_that_nobody_answers_for_is_one_line(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9" in one_line("runs/first")
    assert "runs/first: no such folder here" in one_line("runs/first")


def test_checksums_that_name_a_file_outside_do_not_let_it_in(hub, content, tmp_path):
    Path(tmp_path / "secret").write_text("secret")
    sums = json.loads(content["checksums.json"]) | {"../../../../secret": "0" * 64}
    hub.add("kim/dogs", content | {"checksums.json": json.dumps(sums).encode()})
    assert "is not whole" in one_line()


def test_a_full_disk_is_one_line(hub, content, monkeypatch):
    hub.add("kim/dogs", content)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    assert "No space left on device" in one_line()
