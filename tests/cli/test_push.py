"""`captioner push`: the model folder and its card, uploaded to a hub on this machine."""

import shutil

import pytest
import yaml
from hubs import model_folder

from captioner.models.folder import BUNDLED
from captioner.storage import write_checksums


@pytest.fixture
def folder(tmp_path):
    """A model folder with the settings of the bundled model, and small made-up weights."""
    made = model_folder(tmp_path / "model")
    for name in ("config.json", "vocab.json"):
        shutil.copy(BUNDLED / name, made)
    write_checksums(made)
    return made


def header(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_push_prints_the_address_of_the_commit_and_writes_the_card(run, hub, hub_token, folder):
    code, out, err = run(
        "push", folder, "kim/dogs", "--license", "mit", "--message", "First", "--private"
    )
    repository = hub.repositories["kim/dogs"]
    assert (code, out, err) == (0, f"{hub.url}/kim/dogs/commit/{repository.refs['main']}\n", "")
    assert repository.private
    assert repository.messages[-1] == "First"
    card = repository.files()["README.md"].decode()
    assert header(card)["license"] == "mit"
    assert "captioner caption --model kim/dogs photo.jpg" in card


def test_a_dry_run_prints_the_card_and_asks_the_hub_nothing(run, hub, folder):
    code, out, _ = run("push", folder, "kim/dogs", "--dry-run", "--dataset", "kim/photos")
    assert code == 0
    assert header(out)["datasets"] == ["kim/photos"]
    assert hub.asked == []


def test_without_a_license_the_push_says_that_the_card_states_none(run, hub, hub_token, folder):
    code, _, err = run("push", folder, "kim/dogs")
    assert code == 0
    assert "the card states no license: add --license ID" in err
    assert "license" not in header(hub.repositories["kim/dogs"].files()["README.md"].decode())


def test_the_page_of_an_export_becomes_onnx_md(run, hub, hub_token, folder):
    page = "# Captions with ONNX graphs\n\nUse them so.\n"
    (folder / "README.md").write_text(page)
    assert run("push", folder, "kim/dogs", "--license", "mit")[0] == 0
    files = hub.repositories["kim/dogs"].files()
    assert files["ONNX.md"].decode() == page
    assert "Use them so." not in files["README.md"].decode()


def test_a_branch_is_an_option(run, hub, hub_token, folder):
    assert run("push", folder, "kim/dogs", "--revision", "v2", "--license", "mit")[0] == 0
    files = hub.repositories["kim/dogs"].files
    assert "config.json" in files("v2")
    assert "config.json" not in files("main")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["kim"], 2, "kim is no name on the hub: write owner/name"),
        (["kim/dogs@v2"], 2, "kim/dogs@v2: name the branch with --revision v2"),
        (["kim/dogs", "--scores", "none.json"], 2, "none.json: no such file of scores"),
        (["kim/dogs", "--license", "mit"], 2, "no token to push kim/dogs with"),
    ],
)
def test_wrong_arguments_are_one_line(run, hub, folder, arguments, code, message):
    result, _, err = run("push", folder, *arguments)
    assert result == code
    assert message in err
    assert hub.asked == []


def test_a_folder_that_is_no_model_is_named(run, hub, tmp_path):
    code, _, err = run("push", tmp_path / "nowhere", "kim/dogs")
    assert code == 1
    assert "nowhere is not a model folder" in err


def test_commands_take_the_name_of_a_model_of_the_hub(run, hub, folder, hub_token):
    run("push", folder, "kim/dogs", "--license", "mit")
    code, out, err = run("defaults", "--model", "kim/dogs")
    assert code == 0
    assert "beam=" in out
    assert "captioner: downloading kim/dogs" in err


def test_a_path_with_a_dot_is_never_a_model_of_the_hub(run, hub):
    code, _, err = run("defaults", "--model", "./kim/dogs")
    assert code == 1
    assert "kim/dogs is not a model folder" in err
    assert hub.asked == []


def test_a_model_of_the_hub_is_not_changed_in_the_cache(run, hub):
    code, _, err = run("defaults", "--model", "kim/dogs", "beam=2")
    assert code == 2
    assert "hf download kim/dogs --local-dir FOLDER" in err
    assert hub.asked == []
