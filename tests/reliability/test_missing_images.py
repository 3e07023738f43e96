"""Images that are missing or outside their folder are listed before training starts."""

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
    assert f"train.json: image names that lead out of their folder (1): {name!r}" in train(
        run, data_set
    )
    opened = []
    monkeypatch.setattr(
        "captioner.checkup.leakage.read_header", lambda path: opened.append(path) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run("check", data_set.folder / "train.json")
    assert opened
    assert {path.name for path in opened} <= {f"{number}.jpg" for number in (1, 2, 3, 4)}
