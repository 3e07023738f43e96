"""Whom captions name, against whom the references name."""

import json

import pytest
from typer.testing import CliRunner

from experiments.gender import BOTH, NONE, app, count, group_of


@pytest.mark.parametrize(
    ("caption", "group"),
    [
        ("a man with his dog", "men"),
        ("two girls on a beach", "women"),
        ("a child in the snow", "people"),
        ("a woman and a child", "women"),
        ("a boy and a girl", BOTH),
        ("a dog runs", NONE),
    ],
)
def test_a_caption_names_one_group(caption, group):
    assert group_of(caption) == group


def test_the_group_of_an_image_is_that_of_most_references():
    references = ["a woman runs", "a man runs", "a lady jogs"]
    assert count([("a man runs", references)]) == {("women", "men"): 1}


def test_the_command_counts_every_image_of_the_results_once(tmp_path):
    results = [{"image_id": 1, "caption": "a man"}, {"image_id": 2, "caption": "a dog"}]
    about = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "annotations": [
            {"id": number, "image_id": number, "caption": "a girl"} for number in (1, 2)
        ],
    }
    (tmp_path / "r.json").write_text(json.dumps(results))
    (tmp_path / "a.json").write_text(json.dumps(about))
    paths = ["--results", str(tmp_path / "r.json"), "--annotations", str(tmp_path / "a.json")]
    output = CliRunner().invoke(app, paths).stdout
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines()}
    columns = rows.pop("references")
    assert dict(zip(columns, rows["women"], strict=True)) == {
        **dict.fromkeys(columns, "0"),
        "men": "1",
        NONE: "1",
    }
