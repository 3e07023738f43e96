"""Models of the hub: huggingface_hub itself talks to a server on this machine."""

import json
import shutil
from pathlib import Path

import pytest
from hubs import TOKEN, files_of, model_folder

from captioner import Captioner, CaptionerError, UsageError
from captioner.export.greedy import GREEDY
from captioner.hub_names import parse_hub_name
from captioner.models.folder import BUNDLED, resolve
from captioner.models.hub import CARD, FILES, upload_model
from captioner.storage import write_checksums

CARD_TEXT = "---\nlicense: mit\n---\n# Dogs\n"


def push(folder, name="kim/dogs", **options):
    return upload_model(folder, parse_hub_name(f"hf://{name}"), files={CARD: CARD_TEXT}, **options)


@pytest.fixture
def with_graphs(tmp_path):
    return model_folder(tmp_path / "with_graphs")


@pytest.fixture
def plain(tmp_path):
    """Another model, without graphs."""
    return model_folder(tmp_path / "plain", seed=2, graphs=False)


@pytest.fixture
def pushed(hub, hub_token, with_graphs):
    """The repository of a small model with graphs."""
    push(with_graphs)
    hub.asked.clear()
    return hub.repositories["kim/dogs"]


@pytest.mark.slow
def test_a_model_that_was_pushed_captions_as_its_folder_does(hub, hub_token, photo):
    push(BUNDLED)
    loaded = Captioner.from_pretrained("kim/dogs", backend="onnx")
    assert loaded.caption(photo) == Captioner.from_pretrained(backend="onnx").caption(photo)


def test_what_was_pushed_is_loaded_byte_for_byte(pushed, with_graphs):
    assert files_of(resolve("kim/dogs")) == files_of(with_graphs)
    assert (resolve("kim/dogs") / CARD).read_text() == CARD_TEXT


def test_a_download_is_announced_once_with_its_size_and_commit(pushed, with_graphs, capsys):
    commit = pushed.refs["main"]
    resolve("kim/dogs")
    (line,) = capsys.readouterr().err.splitlines()
    size = sum(len(content) for name, content in pushed.files().items() if name in FILES)
    assert line.startswith(
        f"captioner: downloading kim/dogs (main, commit {commit[:8]}): 8 files, "
    )
    assert f"{size / 2**20:.1f} MiB" in line
    resolve("kim/dogs")
    assert capsys.readouterr().err == ""


def test_a_folder_that_exists_wins_and_nothing_is_asked(pushed, hub, plain):
    shutil.copytree(plain, "kim/dogs")
    assert resolve("kim/dogs") == Path("kim/dogs")
    with pytest.raises(CaptionerError, match="cats is not a model folder"):
        resolve("kim/cats")
    assert hub.asked == []


def test_a_revision_is_a_branch_or_a_commit(pushed, with_graphs, plain):
    first = pushed.refs["main"]
    push(plain, "kim/dogs")
    assert not (resolve("kim/dogs") / "graphs.json").exists()
    for folder in (
        resolve("kim/dogs", revision=first),
        resolve(f"kim/dogs@{first}"),
        resolve(f"hf://kim/dogs@{first}"),
    ):
        assert files_of(folder) == files_of(with_graphs)
    with pytest.raises(UsageError, match=r"kim/dogs@v1 and revision differ"):
        resolve("kim/dogs@v1", revision="v2")


def test_a_revision_of_a_folder_is_wrong_usage(plain):
    with pytest.raises(UsageError, match=r"revision is for a model of the hub"):
        Captioner.from_pretrained(plain, revision="main")


def test_a_commit_in_the_cache_asks_for_no_network(pushed, hub):
    commit = pushed.refs["main"]
    resolve("kim/dogs")
    hub.asked.clear()
    assert resolve("kim/dogs", revision=commit) == resolve(f"kim/dogs@{commit}")
    assert hub.asked == []


def test_offline_the_cache_is_used_or_one_line_says_that_it_lacks_the_model(
    pushed, hub, hub_offline
):
    folder = resolve("kim/dogs")
    hub.asked.clear()
    hub_offline()
    assert resolve("kim/dogs") == folder
    with pytest.raises(CaptionerError, match=r"no such folder here, .* HF_HUB_OFFLINE is set") as e:
        resolve("kim/cats")
    assert "\n" not in str(e.value)
    assert hub.asked == []


def test_a_newer_model_replaces_that_of_the_cache(pushed, plain):
    resolve("kim/dogs")
    push(plain)
    assert files_of(resolve("kim/dogs")) == files_of(plain)


def test_only_the_files_of_a_model_folder_are_downloaded(hub, with_graphs):
    others = {"training.pt": b"a pickle", "pytorch_model.bin": b"a pickle", "run.py": b"import os"}
    hub.add("kim/dogs", files_of(with_graphs) | others)
    assert files_of(resolve("kim/dogs")) == files_of(with_graphs)
    assert not any("training" in line or ".bin" in line or ".py" in line for line in hub.asked)


def test_the_training_state_of_a_checkpoint_is_not_uploaded(hub, hub_token, plain, tmp_path):
    checkpoint = tmp_path / "checkpoint-3"
    shutil.copytree(plain, checkpoint)
    (checkpoint / "training.pt").write_bytes(b"a pickle")
    (checkpoint / "notes.txt").write_text("private")
    write_checksums(checkpoint)
    push(checkpoint)
    assert files_of(resolve("kim/dogs")) == files_of(plain)


def test_a_push_is_one_commit_and_removes_the_files_of_the_model_before(pushed, plain, hub_token):
    address = push(plain, message="without graphs")
    assert address.endswith(pushed.refs["main"])
    assert pushed.messages == ["", "Upload a model of captioner", "without graphs"]
    names = {file.name for file in plain.iterdir()} | {CARD, ".gitattributes"}
    assert pushed.files().keys() == names


def test_a_branch_is_made_and_main_stays(pushed, plain):
    before = pushed.refs["main"]
    push(plain, "kim/dogs@v2")
    assert pushed.refs["main"] == before
    assert files_of(resolve("kim/dogs@v2")) == files_of(plain)


def test_a_private_model_needs_a_token_to_be_read(hub, hub_token, plain, monkeypatch):
    push(plain, private=True)
    assert hub.repositories["kim/dogs"].private
    assert resolve("kim/dogs").is_dir()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CaptionerError, match=r"if it is private, log in with `hf auth login`"):
        resolve("kim/dogs", revision="v2")


def test_a_public_repository_is_not_taken_for_a_private_one(pushed, plain):
    with pytest.raises(UsageError, match="kim/dogs exists and is public"):
        push(plain, private=True)
    assert len(pushed.messages) == 2


def test_without_a_token_nothing_is_sent(hub, plain):
    with pytest.raises(UsageError, match=r"no token .*hf auth login.*HF_TOKEN"):
        push(plain)
    assert hub.asked == []


def test_a_wrong_token_is_refused_in_one_line(hub, plain, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    with pytest.raises(CaptionerError, match=r"does not allow the upload of kim/dogs") as caught:
        push(plain)
    assert "\n" not in str(caught.value)
    assert hub.repositories == {}


def test_a_folder_that_has_changed_is_not_pushed(hub, hub_token, plain, tmp_path):
    shutil.copytree(plain, tmp_path / "damaged")
    (tmp_path / "damaged" / "vocab.json").write_text("[]")
    with pytest.raises(CaptionerError, match=r"vocab.json is corrupt"):
        push(tmp_path / "damaged")
    assert hub.asked == []


def test_a_repository_of_another_library_is_not_downloaded(hub):
    hub.add("kim/cats", {"config.json": b"{}", "model.safetensors": bytes(99)})
    with pytest.raises(CaptionerError, match=r"no model of captioner|is not a model of captioner"):
        resolve("kim/cats")
    assert not any("resolve" in line for line in hub.asked)


def test_without_the_package_the_line_says_that_the_folder_is_missing_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("captioner.hub_names.find_spec", lambda name: None)
    with pytest.raises(CaptionerError) as caught:
        resolve("runs/first")
    assert str(caught.value) == (
        "runs/first: no such folder here, and to load it from the Hugging Face hub needs the "
        "package huggingface_hub: pip install huggingface_hub"
    )


def test_the_files_of_every_export_are_among_those_that_are_transferred():
    exported = {file.name for file in BUNDLED.iterdir()}
    assert exported | {GREEDY, "source_vocab.json", "first_decoding.json"} <= set(FILES)
    assert not any(name.endswith((".pt", ".bin", ".pkl", ".py")) for name in FILES)


def test_checksums_of_the_pushed_model_are_those_of_the_folder(pushed, with_graphs):
    sums = json.loads(pushed.files()["checksums.json"])
    assert sums == json.loads((with_graphs / "checksums.json").read_text())
