"""Images that are missing or outside their folder are listed before training starts."""

import json

import pytest

pytestmark = pytest.mark.row(20)


def train(run, data_set):
    code, _, err = run("train", data_set.write(), "--output", data_set.folder / "run")
    assert code == 2
    assert not (data_set.folder / "run").exists()
    return err


def test_missing_images_are_counted_and_twenty_of_them_named(run, data_set):
    for number in range(100, 150):
        data_set.image("train", number, data=b"")
    err = train(run, data_set)
    named = ", ".join(f"'{number}.jpg'" for number in range(100, 120))
    folder = data_set.folder / "images"
    assert f"train.json: images missing in {folder} (50): {named} and 30 more" in err


def test_a_missing_image_of_dev_stops_training_as_well(run, data_set):
    data_set.image("dev", 9, data=b"")
    assert "dev.json: images missing in " in train(run, data_set)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd", "..\\secret.jpg"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused_and_never_opened(
    run, data_set, name, monkeypatch
):
    (data_set.folder / "secret.jpg").write_bytes(data_set.file(1))
    data_set.image("train", 9, name, data=b"")
    assert f"images missing in {data_set.folder / 'images'} (1): {name!r}" in train(run, data_set)
    opened = []
    monkeypatch.setattr(
        "captioner.checkup.leakage.read_header", lambda path: opened.append(path) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run("check", data_set.folder / "train.json")
    assert opened
    assert {path.name for path in opened} <= {f"{number}.jpg" for number in (1, 2, 3, 4)}


def test_the_error_says_how_to_train_without_the_missing_images(run, data_set):
    data_set.image("train", 9, data=b"")
    assert (
        train(run, data_set)
        .rstrip()
        .endswith(
            "name their folder in `images` of this source, or train without the missing ones: "
            "data.on_bad_image=skip"
        )
    )


def test_missing_images_are_skipped_as_unreadable_ones_are(run, data_set, tmp_path):
    data_set.image("train", 9, data=b"")
    data_set.image("train", 10, "/home/x/10.jpg", data=b"")
    model = {
        "encoder.trunk": "resnet18",
        "encoder.weights": "none",
        "encoder.image_size": 32,
        "training.phases": "[{epochs: 1}]",
        "training.workers": 0,
        "data.on_bad_image": "skip",
        "output": tmp_path / "run",
    }
    settings = [f"{name}={value}" for name, value in model.items()]
    config = data_set.write()
    code, _, err = run("train", config, *settings)
    assert code == 1
    assert "2 of 6 images cannot be read, more than data.bad_images=0.01" in err
    code, _, err = run("train", config, *settings, "data.bad_images=0.4")
    assert code == 0
    assert "2 of 6 images of train cannot be read and are skipped" in err
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())["train"]
    assert [record["image_id"] for record in skipped] == [9, 10]
    assert all("no such file" in record["reason"] for record in skipped)


def test_the_check_knows_that_training_skips_images(run, data_set):
    data_set.image("train", 9, data=b"")
    data_set.image("train", 10, data=b"no image")
    config = data_set.write()
    for skip, stops in (("error", True), ("skip", False)):
        report = json.loads(run("check", config, f"data.on_bad_image={skip}", "--json")[1])
        assert [it["stops_training"] for it in report["problems"]] == [stops, stops]
