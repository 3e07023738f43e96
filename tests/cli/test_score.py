"""`captioner score`: log-probabilities of given captions."""

import json

import pytest

from captioner import Captioner


@pytest.fixture
def score(run, tiny_model):
    def call(*arguments):
        return run("score", *arguments, "--model", tiny_model, "--device", "cpu")

    return call


def test_captions_of_an_image_are_ranked_by_the_mean_log_probability_of_a_word(
    score, tiny_model, photo, tmp_path
):
    more = tmp_path / "more.txt"
    more.write_text("a blue circle above a red ring\n\nred\n")
    code, out, _ = score(photo, "--caption", "a red circle", "--captions", more)
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0
    assert {text for *_, text in rows} == {"a red circle", "a blue circle above a red ring", "red"}
    means = [float(mean) for mean, *_ in rows]
    assert means == sorted(means, reverse=True)
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    for mean, log_prob, image, text in rows:
        [[caption]] = captioner.score([photo], [[text]])
        assert image == str(photo)
        assert float(log_prob) == pytest.approx(caption.log_prob, abs=0.006)
        assert float(mean) == pytest.approx(caption.log_prob / (len(caption.words) + 1), abs=6e-4)


def test_of_a_data_set_the_least_likely_captions_come_first(score, shapes, tmp_path):
    annotations = json.loads((shapes / "captions_dev.json").read_text())
    annotations["annotations"][7]["caption"] = "zeppelin zeppelin zeppelin"
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(annotations))
    code, out, _ = score("--annotations", wrong, "--images", shapes / "dev", "--worst", 5, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len(rows) == 5
    assert [row["mean_log_prob"] for row in rows] == sorted(row["mean_log_prob"] for row in rows)
    everything = score(
        "--annotations", wrong, "--images", shapes / "dev", "--worst", 1000, "--json"
    )[1]
    unknown = [
        row["caption"] for row in map(json.loads, everything.splitlines()) if row["unknown_words"]
    ]
    assert unknown == ["zeppelin zeppelin zeppelin"]


def test_a_broken_image_of_a_data_set_costs_only_itself(score, shapes, tmp_path):
    for file in (shapes / "dev").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    sorted(tmp_path.iterdir())[0].write_bytes(b"<html>")
    code, out, err = score(
        "--annotations", shapes / "captions_dev.json", "--images", tmp_path, "--worst", 1000
    )
    assert code == 3
    assert len(out.splitlines()) == 35
    assert "HTML" in err


def test_a_broken_image_is_named(score, tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    code, out, err = score(tmp_path / "page.jpg", "--caption", "a dog")
    assert (code, out) == (3, "")
    assert "page.jpg" in err


def test_without_captions_there_is_nothing_to_score(score, photo):
    code, _, err = score(photo)
    assert code == 2
    assert "--caption" in err


def test_control_characters_are_not_printed_and_unknown_words_are_reported(score, shapes, tmp_path):
    annotations = json.loads((shapes / "captions_dev.json").read_text())
    annotations["annotations"][7]["caption"] = "a \x1b[2J\ud800 zeppelin\tabove"
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(annotations))
    code, out, err = score("--annotations", wrong, "--images", shapes / "dev", "--worst", 1000)
    assert code == 0
    assert "\x1b" not in out
    assert all(line.count("\t") == 3 for line in out.splitlines())
    assert "1 of these captions hold words that are not in the vocabulary" in err


def test_image_ids_keep_their_kind_in_json(score, shapes):
    _, out, _ = score(
        "--annotations", shapes / "captions_dev.json", "--images", shapes / "dev", "--json"
    )
    ids = {
        image["id"] for image in json.loads((shapes / "captions_dev.json").read_text())["images"]
    }
    assert {json.loads(line)["image_id"] for line in out.splitlines()} <= ids
