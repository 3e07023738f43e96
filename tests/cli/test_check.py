"""`captioner check` reports each fault once, and no fault that does not exist."""

import json
import shutil

import pytest
import yaml
from data_sets import encoded, huge_png, picture

CUT = "captions of more than 30 words, cut in training"


@pytest.fixture
def check(run):
    """Run the check; return its exit code and its JSON output."""

    def call(*arguments):
        code, out, err = run("check", *arguments, "--json")
        assert "Traceback" not in err
        return code, json.loads(out) if out else err

    return call


def found(report):
    return {
        (it["source"].rsplit("/", 1)[-1], it["kind"]): it["examples"] for it in report["problems"]
    }


def test_a_clean_data_set_has_no_problem(check, data_set):
    code, report = check(data_set.write())
    assert (code, report["found"], report["problems"]) == (0, 0, [])


def test_drawn_shapes_have_no_problem(check, tmp_path):
    config = tmp_path / "shapes.yaml"
    config.write_text(
        yaml.safe_dump(
            {"data": {"shapes": {"folder": str(tmp_path / "s"), "train": 60, "dev": 20}}}
        )
    )
    code, report = check(config)
    assert (code, report["problems"]) == (0, [])
    assert {name: split["captions"] for name, split in report["splits"].items()} == {
        "train": 300,
        "dev": 100,
    }


def test_each_fault_is_reported_once_and_nothing_else(check, data_set):
    images, good = data_set.folder / "images", data_set.file(1)
    train, dev = data_set.content["train"], data_set.content["dev"]
    data_set.image("train", 10, "gone.jpg", b"")
    data_set.image("train", 11, "../out.jpg", b"")
    data_set.image("train", 12, "hollow.jpg", b"")
    (images / "hollow.jpg").touch()
    data_set.image("train", 13, "page.jpg", b"<!doctype html><title>404</title>")
    data_set.image("train", 14, "cut.jpg", good[: len(good) // 2])
    data_set.image("train", 15, "huge.png", huge_png())
    data_set.image("train", 16, captions=())
    train["images"] += [train["images"][0], {"id": 17}]
    train["annotations"].append(train["annotations"][1] | {"caption": "a cat"})
    data_set.caption("train", 99, "a dog of nobody")
    data_set.caption("train", 2, 12)
    data_set.caption("train", 3, " ")
    data_set.caption("train", 3, "...")
    data_set.caption("train", 4, "very " * 30 + "long")
    data_set.caption("train", 4, "a cafÃ©")
    dev["images"].append({"id": 2, "file_name": "2.jpg"})
    data_set.caption("dev", 2, "a dog runs")
    data_set.image("dev", 103, data=data_set.file(3))
    data_set.image("dev", 104, data=encoded(picture(4).resize((64, 48)), quality=50))
    config = data_set.write()
    path = data_set.folder / "dev.json"
    path.write_bytes(path.read_bytes().replace(b"a dog runs", "a café".encode("latin-1"), 1))

    code, report = check(config)
    problems = found(report)
    near = "near-duplicates in both splits, by dHash and thumbnail"
    assert problems.pop(("train and dev", near))[0].startswith("4 and 104 (")
    [wrong] = problems.pop(("dev.json", "lines not in UTF-8, to be saved as UTF-8"))
    assert wrong.startswith("line 1, column ")
    unreadable = "images that cannot be read: "
    limit = "10,000 x 10,000 pixels, the limit is 50,000,000 in all"
    assert problems == {
        ("train.json", f"images missing in {images}"): [
            "'gone.jpg'",
            "'../out.jpg' (the name leads out of the folder)",
        ],
        ("train.json", unreadable + "is empty"): [f"{images}/hollow.jpg: is empty (0 bytes)"],
        ("train.json", unreadable + "not an image"): [
            f"{images}/page.jpg: not an image (looks like an HTML page)"
        ],
        ("train.json", unreadable + "truncated"): [
            f"{images}/cut.jpg: truncated: the file ends too early"
        ],
        ("train.json", unreadable + "too large"): [f"{images}/huge.png: too large: {limit}"],
        ("train.json", "image ids given more than once"): ["1"],
        ("train.json", "annotation ids given more than once"): ["1"],
        ("train.json", "annotations of an unknown image"): [
            f"{len(train['annotations']) - 6} (image 99)"
        ],
        ("train.json", "wrong `file_name`"): [
            f"images[{len(train['images']) - 1}].file_name is missing"
        ],
        ("train.json", "wrong `caption`"): [
            f"annotations[{len(train['annotations']) - 5}].caption is 12"
        ],
        ("train.json", "empty captions, left out"): ["3 #2"],
        ("train.json", "images without a caption, left out"): ["16"],
        ("train.json", "captions without a word, kept"): ["3: '...'"],
        ("train.json", CUT): [f"4: '{('very ' * 12)}...' (31 words)"],
        ("train.json", "captions with a wrong encoding, kept"): ["4: 'a cafÃ©'"],
        ("train and dev", "images in both splits, by id"): ["2"],
        ("train and dev", "images in both splits, by content"): ["3 and 103"],
    }
    assert (code, report["found"]) == (3, len(report["problems"]) + 1)  # two images are missing


def test_many_faults_of_a_kind_are_counted_and_twenty_shown(check, run, data_set):
    for number in range(100, 150):
        data_set.image("train", number, f"{number}.jpg", b"")
    config = data_set.write()
    [problem] = check(config)[1]["problems"]
    assert (problem["count"], problem["examples"]) == (
        50,
        [f"'{number}.jpg'" for number in range(100, 120)],
    )
    shown = run("check", config)[1]
    assert "'119.jpg'" in shown
    assert "'120.jpg'" not in shown
    assert "and 30 more" in shown


def test_ids_counted_anew_in_each_split_are_no_fault(check, data_set):
    data_set.content["dev"] = {"images": [], "annotations": []}
    data_set.image("dev", 1, "another.jpg", data=data_set.file(8))
    assert check(data_set.write())[0] == 0


def test_statistics_count_what_there_is(check, data_set):
    data_set.caption("train", 1, "two dogs run fast")
    data_set.image("dev", 9, "9.png", encoded(picture(9, (30, 20)).convert("L"), "PNG"))
    report = check(data_set.write())[1]
    assert report["splits"]["train"] == {
        "images": 4,
        "captions": 5,
        "captions_per_image": {"1": 3, "2": 1},
        "words_per_caption": {"3": 4, "4": 1},
        "sizes": {"96 x 72": 4},
        "modes": {"RGB": 4},
    }
    assert report["splits"]["dev"]["modes"] == {"RGB": 4, "L": 1}
    assert report["splits"]["dev"]["sizes"] == {"96 x 72": 4, "30 x 20": 1}
    once, twice = report["vocabulary"][:2]
    assert once == {"min_count": 1, "words": 7, "shares": {"train": 1.0, "dev": 1.0}}
    assert twice == {"min_count": 2, "words": 3, "shares": {"train": 12 / 16, "dev": 1.0}}


def test_without_a_dev_split_the_share_that_training_holds_out_is_compared(check, data_set):
    for number in range(100, 120):
        data_set.image(
            "train", number, data=data_set.file(1)
        )  # the same photo 21 times: some of it is held out
    code, report = check(data_set.write(), "data.dev=null", "data.holdout=0.5")
    assert code == 3
    assert [it["kind"] for it in report["problems"]] == ["images in both splits, by content"]
    assert {name: split["images"] for name, split in report["splits"].items()} == {
        "train": 12,
        "dev": 12,
    }


def test_an_annotation_file_is_checked_alone_with_images_elsewhere(check, data_set):
    data_set.write()
    moved = shutil.move(data_set.folder / "images", data_set.folder.parent / "photos")
    assert check(data_set.folder / "train.json", "--images", moved)[0] == 0
    code, report = check(data_set.folder / "train.json")
    assert (code, report["found"]) == (3, 4)


def test_karpathys_splits_are_checked_against_each_other(check, data_set):
    images = [
        {
            "imgid": number,
            "filename": f"{number}.jpg",
            "split": split,
            "sentences": [{"raw": "a dog"}],
        }
        for number, split in ((1, "train"), (2, "train"), (5, "val"), (6, "test"), (2, "test"))
    ]
    path = data_set.folder / "dataset.json"
    path.write_text(
        json.dumps({"images": [*images, {"imgid": 7, "split": "val", "sentences": []}]})
    )
    code, report = check(path)
    assert code == 3
    assert {name: split["images"] for name, split in report["splits"].items()} == {
        "test": 2,
        "train": 2,
        "val": 1,
    }
    assert found(report) == {
        ("dataset.json", "wrong `filename`"): [
            "images[5].filename is missing"
        ],  # once, not for each split
        ("test and train", "images in both splits, by id"): ["2"],
    }


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl",
            '{"image": "1.jpg", "caption": "a"}\n{"image"\nnull\n',
            {"broken JSON", "not a JSON object"},
        ),
        (
            "a.csv",
            'image,caption\n1.jpg,a\n1.jpg\n1.jpg,"a\n',
            {"rows without exactly 2 columns", "broken CSV"},
        ),
        (
            "a.txt",
            "1.jpg#0\ta\nno\n1.jpg#0\ta\n",
            {"lines that are not name#number<TAB>caption", "captions given more than once"},
        ),
    ],
)
def test_every_format_is_read_to_its_end(check, data_set, name, content, expected):
    path = data_set.folder / name
    path.write_text(content)
    code, report = check(path)
    assert code == 3
    assert {it["kind"] for it in report["problems"]} == expected


def test_what_cannot_be_read_at_all_exits_with_2(check, data_set):
    config = data_set.write()
    assert check(data_set.folder / "gone.json")[0] == 2
    (data_set.folder / "dev.json").write_text('{"images": [')
    code, message = check(config)
    assert code == 2
    assert "dev.json: broken JSON in line 1, column " in message


def test_options_that_belong_elsewhere_are_refused(check, data_set):
    config = data_set.write()
    assert "data.train.images=FOLDER" in check(config, "--images", data_set.folder)[1]
    assert (
        "leave out data.min_count=1" in check(data_set.folder / "train.json", "data.min_count=1")[1]
    )
    assert "end its name in .html" in check(config, "--html", "page.pdf")[1]


def test_two_files_of_text_are_checked_and_the_faults_named_by_file_and_line(check, tmp_path):
    source, target = tmp_path / "a.en", tmp_path / "a.de"
    source.write_text("a dog\n\nthe end\nmore\n")
    target.write_bytes("ein Hund\nleer\ncafé\n".encode("latin-1"))
    code, report = check(source, "--target", target)
    assert code == 3
    both = f"{source} and {target}"
    assert [(it["source"], it["kind"], it["examples"]) for it in report["problems"]] == [
        (both, "lines not in UTF-8, to be saved as UTF-8", [f"{target}, line 3, column 4 is 0xe9"]),
        (
            both,
            "different numbers of lines, so that none can be trusted",
            [f"{source} has 4 and {target} has 3"],
        ),
        (both, "targets without a source, left out", ["line 2"]),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "a dog\tein Hund\ntwo\tzwei\n"),
        (
            "a.jsonl",
            '{"source": "a dog", "target": "ein Hund"}\n{"source": "two", "target": "z"}\n',
        ),
    ],
)
def test_a_file_of_both_sides_is_checked_as_pairs(check, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    code, report = check(tmp_path / name)
    assert (code, report["problems"]) == (0, [])
    assert report["splits"][name]["pairs"] == 2


def test_a_text_without_its_target_is_told_of_the_option(check, tmp_path):
    (tmp_path / "a.en").write_text("a dog\ntwo cats\n")
    code, message = check(tmp_path / "a.en")
    assert code == 2
    assert "add --target FILE" in message
    (tmp_path / "a.json").write_text("a dog\n")
    assert "--target" not in check(tmp_path / "a.json")[1]


def test_a_target_belongs_to_texts_and_images_do_not(check, data_set, tmp_path):
    (tmp_path / "a.tsv").write_text("a\tb\n")
    code, message = check(tmp_path / "a.tsv", "--images", tmp_path)
    assert code == 2
    assert "a.tsv is text and has no images: leave out --images" in message
    code, message = check(data_set.write(), "--target", "a.de")
    assert code == 2
    assert "set data.train.target=a.de instead of --target" in message
    (tmp_path / "a.en").write_text("a\n")
    code, message = check(tmp_path / "a.en", "--target", tmp_path / "gone.de")
    assert code == 2
    assert "gone.de: no such file" in message


def test_a_file_of_text_is_checked_line_by_line(check, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a dog runs\n\n" + "very " * 30 + "long\na cafÃ©\n...\na dog\n")
    code, report = check(path)
    assert code == 3
    assert found(report) == {
        ("text.txt", "empty captions, left out"): ["line 2"],
        ("text.txt", CUT): [f"line 3: '{('very ' * 12)}...' (31 words)"],
        ("text.txt", "captions with a wrong encoding, kept"): ["line 4: 'a cafÃ©'"],
        ("text.txt", "captions without a word, kept"): ["line 5: '...'"],
    }
    statistics = report["splits"]["text.txt"]
    assert (statistics["images"], statistics["captions"]) == (0, 5)
    assert statistics["words_per_caption"] == {"0": 1, "2": 2, "3": 1, "31": 1}
    path.write_bytes("a dog\na café\n".encode("latin-1"))
    code, report = check(path)
    assert found(report) == {
        ("text.txt", "lines not in UTF-8, to be saved as UTF-8"): ["line 2, column 6 is 0xe9"]
    }


def test_text_and_several_sources_of_a_config_are_checked_and_its_leaks_reported(
    check, run, data_set, tmp_path
):
    (tmp_path / "text.txt").write_text("a cat sleeps\nA dog runs.\n")
    data_set.image("train", 20, data=data_set.file(1))  # twice in train is no leak
    data_set.image("dev", 21, data=data_set.file(2))
    config = data_set.write()
    file = tmp_path / "more.jsonl"
    more = {"image": str(data_set.folder / "images" / "3.jpg"), "caption": "a bird"}
    shutil.copy(data_set.folder / "images" / "3.jpg", tmp_path / "3.jpg")
    file.write_text(json.dumps(more | {"image": "3.jpg"}))
    added = f"data.train.1.annotations={file}", f"data.train.2.text={tmp_path / 'text.txt'}"
    code, report = check(config, *added)
    assert code == 3
    assert found(report) == {
        ("train train and dev", "images in both splits, by content"): ["2 and 21"],
        ("train text and dev", "captions of text that are references, left out"): [
            "line 2: 'A dog runs.'"
        ],
    }
    assert {name: split["captions"] for name, split in report["splits"].items()} == {
        **{"train train": 5, "train more": 1, "train text": 2, "dev": 5}
    }
    words = report["vocabulary"][0]["words"]
    assert words == len({"a", "dog", "runs", "bird", "cat", "sleeps"})
    shown = run("check", config, *added)[1]
    assert "vocabulary of train train and train more and train text, and" in shown
    assert "images              none: text" in shown
