"""Which strings mean a repository of the hub, and which a path."""

from pathlib import Path

import pytest

from captioner.errors import UsageError
from captioner.hub_names import HubName, parse_hub_name


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_owner_and_name_is_a_repository_only_if_no_such_path_and_no_such_first_folder_exist():
    assert parse_hub_name("kim/dogs") == HubName("kim/dogs", None, is_certain=False)
    Path("kim").mkdir()
    assert parse_hub_name("kim/dogs") is None  # a path that is mistyped
    Path("kim/dogs").mkdir()
    assert parse_hub_name("kim/dogs") is None


def test_a_link_to_nowhere_is_a_path():
    Path("kim").mkdir()
    Path("kim/dogs").symlink_to("nowhere")
    Path("a").symlink_to("kim")
    assert parse_hub_name("a/dogs") is None


@pytest.mark.parametrize(
    "path",
    [
        *("./kim/dogs", "../kim/dogs", "/kim/dogs", "~/dogs", "kim/dogs/", "kim//dogs", "kim"),
        *("kim/dogs/best", "kim\\dogs", "C:/dogs", "kim/do gs", "kim/.dogs", "kim/a--b", ""),
        *("kim/a..b", "https://huggingface.co/kim/dogs", "s3://kim/dogs", "kim/dogs@", "kïm/dogs"),
        *("kim/" + "d" * 97, "kim/dogs\n"),
    ],
)
def test_anything_else_is_a_path_and_never_goes_to_the_network(path):
    assert parse_hub_name(path) is None


def test_a_path_object_is_a_path_for_it_has_lost_its_dot():
    assert str(Path("./kim/dogs")) == "kim/dogs"
    assert parse_hub_name(Path("./kim/dogs")) is None


def test_the_prefix_makes_it_a_repository_whatever_exists():
    Path("kim/dogs").mkdir(parents=True)
    assert parse_hub_name("hf://kim/dogs") == HubName("kim/dogs", None, is_certain=True)
    assert parse_hub_name("hf:/kim/dogs") == parse_hub_name("hf://kim/dogs")  # as Path writes it


def test_a_revision_follows_an_at_sign():
    assert parse_hub_name("kim/dogs@v1.0") == HubName("kim/dogs", "v1.0", is_certain=False)
    assert parse_hub_name("hf://kim/dogs@refs/pr/1").revision == "refs/pr/1"
    assert parse_hub_name("kim/dogs@" + "0f" * 20).is_commit
    assert not parse_hub_name("kim/dogs@" + "0f" * 19).is_commit


@pytest.mark.parametrize("name", ["hf://", "hf://kim", "hf://datasets/kim/dogs", "hf://kim/dogs@"])
def test_the_prefix_with_another_form_is_wrong_usage(name):
    with pytest.raises(UsageError, match=r"write hf://owner/name or hf://owner/name@revision"):
        parse_hub_name(name)
