"""Every annotation format gives the same examples, and all problems are reported at once."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captioner.data.datasets import Example, load_examples, load_references, load_with_problems
from captioner.data.problems import Problems
from captioner.errors import UsageError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def image(image_id: object, name: object = None) -> dict[str, Any]:
    return {"id": image_id, "file_name": name or f"{image_id}.jpg", "width": 1, "height": 1}


def annotation(
    annotation_id: object, image_id: object, caption: object = "a dog"
) -> dict[str, Any]:
    return {"id": annotation_id, "image_id": image_id, "caption": caption}


def coco(images: list[Any], annotations: list[Any]) -> dict[str, Any]:
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations}


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load_examples(*arguments, **options)
    return str(caught.value)


def plain(examples: list[Example], root: Path) -> list[tuple[int | str, str, tuple[str, ...]]]:
    return [(it.image_id, it.path.relative_to(root).as_posix(), it.captions) for it in examples]


# COCO

TWO = coco(
    [image(1), image(2)],
    [annotation(10, 2, "a cat"), annotation(11, 1), annotation(12, 1, "two dogs\n")],
)


def test_coco_gives_each_image_its_captions_in_order(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    examples = load_examples(write(tmp_path / "captions.json", TWO))
    assert examples == [
        Example(1, tmp_path / "1.jpg", ("a dog", "two dogs")),
        Example(2, tmp_path / "2.jpg", ("a cat",)),
    ]


@pytest.mark.parametrize("folder", [".", "images", "val2017", "../val2017"])
def test_coco_images_are_found_where_they_usually_are(tmp_path, folder):
    path = write(tmp_path / "annotations/captions_val2017.json", TWO)
    touch(path.parent / folder, "1.jpg", "2.jpg")
    assert all(example.path.is_file() for example in load_examples(path))


def test_coco_images_are_found_from_inside_the_annotations_folder(tmp_path, monkeypatch):
    path = write(tmp_path / "annotations/captions_val2014.json", TWO)
    touch(tmp_path / "val2014", "1.jpg", "2.jpg")
    monkeypatch.chdir(path.parent)
    assert [str(example.path) for example in load_examples(Path(path.name))] == [
        "../val2014/1.jpg",
        "../val2014/2.jpg",
    ]


def test_a_folder_of_images_that_is_given_is_used(tmp_path):
    path = write(touch(tmp_path, "1.jpg", "2.jpg") / "captions.json", TWO)
    other = touch(tmp_path / "other", "1.jpg", "2.jpg")
    assert [example.path.parent for example in load_examples(path, other)] == [other, other]
    assert refusal(path, tmp_path / "gone") == f"{tmp_path / 'gone'}: no such folder of images"


def test_reading_coco_prints_nothing(tmp_path, capsys):
    load_examples(write(touch(tmp_path, "1.jpg", "2.jpg") / "captions.json", TWO))
    assert capsys.readouterr().out == ""


def test_a_byte_order_mark_is_accepted(tmp_path):
    path = write(tmp_path / "captions.json", "\ufeff" + json.dumps(TWO))
    assert load_references(path) == {1: ["a dog", "two dogs"], 2: ["a cat"]}


def test_a_coco_file_with_categories_is_read(tmp_path):
    assert (
        len(load_references(write(tmp_path / "captions.json", TWO | {"categories": [{"id": 1}]})))
        == 2
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"images": [\n  {"id": 1 2}]}', "broken JSON in line 2, column 12: "),
        (json.dumps(TWO).encode()[:-20], "broken JSON in line 1, column "),
        (
            b'{"images": ["NaN",\n NaN], "annotations": []}',
            "broken JSON in line 2, column 2: NaN is not JSON",
        ),
        (b'{"images": [-Infinity]}', "broken JSON in line 1, column 13: -Infinity is not JSON"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[]", "unsupported annotation format"),
        (b'[{"image_id": 1, "caption": "a dog"}]', "unsupported annotation format"),
        (b'{"images": []}', "unsupported annotation format"),
        (b'{"images": {}, "annotations": []}', "unsupported annotation format"),
        (b'{"images": [], "annotations": []}', "holds no image with a caption"),
        (
            json.dumps(coco([image(1)], [annotation(1, 1, "café")]), ensure_ascii=False).encode(
                "latin-1"
            ),
            "lines not in UTF-8, to be saved as UTF-8 (1): line 1, column ",
        ),
        (json.dumps(TWO).encode("utf-16"), "is UTF-16, not UTF-8 (byte 0 is 0xff)"),
        (b"[" * 100_000, "broken JSON in line 1: cannot be parsed"),
        (
            b'{"images": [' + b"9" * 5000 + b"]}",
            "broken JSON in line 1: cannot be parsed",
        ),
    ],
)
def test_a_broken_file_is_named_with_position_and_reason(tmp_path, content, expected):
    path = tmp_path / "captions.json"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert expected in message


def test_a_missing_file_is_named(tmp_path):
    assert refusal(tmp_path / "gone.json") == f"{tmp_path / 'gone.json'}: no such file or directory"


def test_all_problems_are_reported_at_once_with_counts(tmp_path):
    images = [
        image(1),
        image(1),
        image(2, "../2.jpg"),
        image(3),
        image(4.5),
        {"id": 5},
        "six",
        image(True),
    ]
    annotations = [
        annotation(7, 1),
        annotation(7, 1),
        annotation(8, 99),
        annotation(9, "1"),
        annotation(10, 2),
        annotation(11, 3, 12),
        {"id": 12, "image_id": 1},
    ]
    annotations.append(annotation(13, 3))
    path = write(touch(tmp_path, "1.jpg") / "captions.json", coco(images, annotations))
    lines = refusal(path).splitlines()
    assert lines[0] == f"{path}: 12 problems, so nothing was started:"
    assert sorted(lines[1:]) == sorted(
        [
            "  image ids given more than once (1): 1",
            "  annotation ids given more than once (1): 7",
            "  annotations of an unknown image (2): 8 (image 99), 9 (image '1')",
            f"  images missing in {tmp_path} (2): "
            "'../2.jpg' (the name leads out of the folder), '3.jpg'",
            "  wrong `id` (2): images[4].id is 4.5, images[7].id is True",
            "  wrong `file_name` (1): images[5].file_name is missing",
            "  not a JSON object (1): images[6] is 'six'",
            "  wrong `caption` (2): annotations[5].caption is 12, "
            "annotations[6].caption is missing",
        ]
    )


def test_an_annotation_file_of_objects_is_refused_for_its_missing_captions(tmp_path):
    boxes = [{"id": n, "image_id": 1, "bbox": [0, 0, 1, 1]} for n in range(3)]
    path = write(tmp_path / "instances.json", coco([image(1)], boxes))
    assert "wrong `caption` (3): annotations[0].caption is missing" in refusal(path)


def test_missing_images_are_counted_and_the_first_twenty_named(tmp_path):
    images = [image(n, f"{n:03}.jpg") for n in range(50)]
    path = write(tmp_path / "captions.json", coco(images, [annotation(n, n) for n in range(50)]))
    message = refusal(path, touch(tmp_path / "photos", "007.jpg"))
    assert f"images missing in {tmp_path / 'photos'} (49): '000.jpg'" in message
    assert "'020.jpg' and 29 more" in message
    assert "'007.jpg'" not in message
    assert "'021.jpg'" not in message


@pytest.mark.parametrize(
    "name", ["../1.jpg", "a/../../1.jpg", "/etc/passwd", "..\\1.jpg", "\\1.jpg", "a/.."]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    path = write(
        touch(tmp_path, "1.jpg", "a/2.jpg") / "in/captions.json",
        coco([image(1, name)], [annotation(1, 1)]),
    )
    assert f"images missing in {path.parent} (1): {name!r}" in refusal(path)


@pytest.mark.parametrize("name", ["..hidden.jpg", "a..b.jpg", "sub/1.jpg", "1 #?%.jpg"])
def test_a_name_that_only_looks_odd_is_accepted(tmp_path, name):
    path = write(
        touch(tmp_path, name) / "captions.json", coco([image(1, name)], [annotation(1, 1)])
    )
    assert load_examples(path)[0].path == tmp_path / name


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000, "sub/", "."])
def test_a_name_that_no_file_can_have_is_missing(tmp_path, name):
    path = write(tmp_path / "captions.json", coco([image(1, name)], [annotation(1, 1)]))
    assert f"images missing in {tmp_path} (1): " in refusal(path)


def test_empty_captions_and_images_without_captions_are_dropped_and_counted(tmp_path, caplog):
    annotations = [
        annotation(1, 1),
        annotation(2, 1, ""),
        annotation(3, 1, " \n"),
        annotation(4, 2, None),
    ]
    path = write(tmp_path / "captions.json", coco([image(1), image(2), image(3)], annotations))
    touch(tmp_path, "1.jpg")
    with caplog.at_level(logging.WARNING, "captioner"):
        assert load_examples(path) == [Example(1, tmp_path / "1.jpg", ("a dog",))]
    assert caplog.messages == [
        f"{path}: empty captions, left out (3): 1 #2, 1 #3, 2 #1",
        f"{path}: images without a caption, left out (2): 2, 3",
    ]


@pytest.mark.parametrize(
    ("name", "content", "refused"),
    [
        (
            "coco.json",
            coco(
                [image(1), image(2), image(3), image(4)],
                [annotation(1, 1, 7), annotation(2, 1), annotation(3, 2, 7), annotation(4, 4)],
            ),
            ["2"],
        ),
        (
            "karpathy.json",
            {
                "images": [
                    {"imgid": n, "filename": f"{n}.jpg", "split": "train", "sentences": sentences}
                    for n, sentences in (
                        (1, [{"raw": 7}, {"raw": "a dog"}]),
                        (2, [{"raw": 7}]),
                        (3, []),
                        (4, [{"raw": "a cat"}]),
                    )
                ]
            },
            ["2"],
        ),
        (
            "captions.jsonl",
            "\n".join(
                json.dumps({"image": f"{n}.jpg", "caption": caption})
                for n, caption in ((1, 7), (1, "a dog"), (2, 7), (3, ""), (4, "a cat"))
            ),
            ["'2.jpg'"],
        ),
    ],
)
def test_images_left_without_a_caption_by_refused_ones_are_told_apart_from_those_without(
    tmp_path, name, content, refused
):
    path = write(tmp_path / name, content)
    problems = Problems(path)
    split = "train" if name == "karpathy.json" else None
    load_with_problems(path, None, split, restval=False, problems=problems)
    cases = {it.kind: list(it.cases) for it in problems}
    assert cases["images left without a caption, since theirs are refused"] == refused
    [without] = cases["images without a caption, left out"]
    assert without.strip("'").removesuffix(".jpg") == "3"


def test_string_ids_are_kept_as_strings(tmp_path):
    path = write(tmp_path / "captions.json", coco([image("a7")], [annotation("x", "a7")]))
    assert load_references(path) == {"a7": ["a dog"]}


def test_references_need_no_images(tmp_path):
    path = write(tmp_path / "captions.json", coco([image(1, "../gone.jpg")], [annotation(1, 1)]))
    assert load_references(path) == {1: ["a dog"]}


def test_references_are_validated_all_the_same(tmp_path):
    path = write(tmp_path / "captions.json", coco([image(1), image(1)], [annotation(1, 1)]))
    with pytest.raises(UsageError, match=r"image ids given more than once \(1\): 1"):
        load_references(path)


def test_options_of_other_formats_are_refused(tmp_path):
    path = write(tmp_path / "captions.json", TWO)
    assert "leave out split=val" in refusal(path, split="val")
    assert "leave out restval=True" in refusal(path, restval=True)


# Karpathy's splits


def karpathy(number: int, split: str, **more: Any) -> dict[str, Any]:
    sentences = [{"raw": f"dog {number}", "tokens": ["dog"]}, {"raw": f"cat {number}"}]
    return {
        "imgid": number,
        "filename": f"{number}.jpg",
        "split": split,
        "sentences": sentences,
    } | more


FLICKR = {
    "dataset": "flickr8k",
    "images": [karpathy(0, "train"), karpathy(1, "val"), karpathy(2, "test")],
}
COCO = {
    "images": [
        karpathy(0, "train", cocoid=100, filepath="train2014"),
        karpathy(1, "restval", cocoid=101, filepath="val2014"),
        karpathy(2, "test", cocoid=102, filepath="val2014"),
    ]
}


@pytest.mark.parametrize(("split", "number"), [("train", 0), ("val", 1), ("test", 2)])
def test_karpathys_split_is_picked(tmp_path, split, number):
    path = write(tmp_path / "dataset_flickr8k.json", FLICKR)
    touch(tmp_path / "images", f"{number}.jpg")
    examples = load_examples(path, split=split)
    assert plain(examples, tmp_path) == [
        (number, f"images/{number}.jpg", (f"dog {number}", f"cat {number}"))
    ]


def test_karpathys_coco_has_coco_ids_and_two_folders(tmp_path):
    path = write(tmp_path / "dataset_coco.json", COCO)
    touch(tmp_path, "train2014/0.jpg", "val2014/1.jpg", "val2014/2.jpg")
    assert [it.image_id for it in load_examples(path, split="train")] == [100]
    joined = load_examples(path, split="train", restval=True)
    assert plain(joined, tmp_path) == [
        (100, "train2014/0.jpg", ("dog 0", "cat 0")),
        (101, "val2014/1.jpg", ("dog 1", "cat 1")),
    ]
    assert load_references(path, "test") == {102: ["dog 2", "cat 2"]}


def test_karpathys_splits_are_listed_if_none_or_a_wrong_one_is_named(tmp_path):
    path = write(tmp_path / "dataset_coco.json", COCO)
    assert (
        refusal(path)
        == f"{path}: holds several splits: choose one of restval (1), test (1), train (1)"
    )
    assert refusal(path, split="dev").startswith(
        f"{path}: has no split 'dev': choose one of restval (1)"
    )
    assert "restval can only join train" in refusal(path, split="test", restval=True)


def test_all_problems_of_a_karpathy_file_are_reported_at_once(tmp_path):
    images = [
        karpathy(0, "train"),
        karpathy(0, "train"),
        karpathy(3, "train", sentences=[{"raw": 3}]),
        karpathy(4, "train", sentences=None),
        karpathy(5, "train", imgid=None),
    ]
    message = refusal(
        write(touch(tmp_path, "0.jpg") / "dataset.json", {"images": images}), split="train"
    )
    assert "image ids given more than once (1): 0" in message
    assert "wrong `raw` (1): 3.jpg[0].raw is 3" in message
    assert "wrong `sentences` (1): images[3].sentences is None" in message
    assert "wrong `imgid` (1): 5.jpg.imgid is None" in message


# Flickr8k's token file, CSV, JSON lines: images are known by their names

EXPECTED = [("1.jpg", "1.jpg", ("a dog", "a dog, running")), ("2.jpg", "2.jpg", ("a cat",))]

TOKEN = "1.jpg#0\ta dog\n1.jpg#1\ta dog, running\r\n\n2.jpg#0\ta cat\n"
TABLE = 'image,caption\n1.jpg,a dog\n1.jpg,"a dog, running"\n2.jpg,a cat\n'
LINES = (
    '{"image": "1.jpg", "captions": ["a dog", "a dog, running"]}\n\n'
    '{"image": "2.jpg", "caption": "a cat"}\n'
)
SINGLE = "\n".join(
    json.dumps({"image": name, "caption": caption})
    for name, caption in (("1.jpg", "a dog"), ("2.jpg", "a cat"), ("1.jpg", "a dog, running"))
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Flickr8k.token.txt", TOKEN),
        ("results.token", TOKEN),
        ("captions.txt", TABLE),
        ("captions.csv", TABLE),
        ("captions.csv", "\ufeff" + TABLE.replace("\n", "\r\n")),
        (
            "my.csv",
            'Caption , number,IMAGE\na dog,0,1.jpg\n"a dog, running",1,1.jpg\na cat,0,2.jpg\n',
        ),
        ("captions.jsonl", LINES),
        ("captions.jsonl", SINGLE),
    ],
)
@pytest.mark.parametrize("folder", [".", "images", "Images", "Flicker8k_Dataset"])
def test_every_format_gives_the_same_list(tmp_path, name, content, folder):
    path = write(tmp_path / name, content)
    root = touch(tmp_path / folder, "1.jpg", "2.jpg")
    assert plain(load_examples(path), root) == EXPECTED
    assert load_references(path) == {"1.jpg": ["a dog", "a dog, running"], "2.jpg": ["a cat"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [("captions.txt", TOKEN), ("captions.csv", TABLE), ("captions.jsonl", LINES)],
)
def test_a_split_is_a_file_that_lists_names(tmp_path, name, content):
    path = write(touch(tmp_path, "2.jpg") / name, content)
    listed = write(tmp_path / "dev.txt", "2.jpg\r\n\n")
    assert plain(load_examples(path, split=str(listed)), tmp_path) == EXPECTED[1:]
    assert load_references(path, str(listed)) == {"2.jpg": ["a cat"]}


def test_names_in_a_split_without_captions_are_reported(tmp_path):
    path = write(touch(tmp_path, "1.jpg") / "captions.csv", TABLE)
    listed = write(tmp_path / "dev.txt", "1.jpg\n7.jpg\n")
    assert f"names in {listed} without captions (1): '7.jpg'" in refusal(path, split=str(listed))
    assert "split train: no such file" in refusal(path, split="train")


def test_names_in_json_lines_may_lead_into_folders(tmp_path):
    path = write(tmp_path / "captions.jsonl", {"image": "photos/a/1.jpg", "captions": ["a dog"]})
    touch(tmp_path, "photos/a/1.jpg")
    assert plain(load_examples(tmp_path), tmp_path) == [
        ("photos/a/1.jpg", "photos/a/1.jpg", ("a dog",))
    ]
    assert path.is_file()


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv", "captions.txt"])
def test_a_folder_is_read_by_its_one_annotation_file(tmp_path, name):
    write(touch(tmp_path, "1.jpg", "2.jpg") / name, LINES if name.endswith("jsonl") else TABLE)
    assert plain(load_examples(tmp_path), tmp_path) == EXPECTED


def test_a_folder_with_no_annotation_file_or_with_two_is_refused(tmp_path):
    assert "holds none of captions.jsonl, captions.csv, captions.txt" in refusal(tmp_path)
    write(tmp_path / "captions.csv", TABLE)
    write(tmp_path / "captions.txt", TABLE)
    assert "holds captions.csv and captions.txt" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", TOKEN + "no number\n", "lines that are not name#number<TAB>caption (1): line 5"),
        ("a.txt", TOKEN + "1.jpg#1\tx\n", "captions given more than once (1): '1.jpg' #1 (line 5)"),
        (
            "a.csv",
            TABLE + "1.jpg,a dog, a cat\nonly\n",
            "rows without exactly 2 columns (2): line 5, line 6",
        ),
        ("a.csv", TABLE + '1.jpg,"never closed\n', "broken CSV (1): line 5: "),
        ("a.jsonl", LINES + '{"image": "3.jpg",}', "broken JSON (1): line 4, column "),
        (
            "a.jsonl",
            LINES + '{"image": "3.jpg", "caption": NaN}',
            "broken JSON (1): line 4, column 31: NaN is not JSON",
        ),
        ("a.jsonl", LINES + "[]", "not a JSON object (1): line 4 is []"),
        ("a.jsonl", LINES + '{"captions": ["a"]}', "wrong `image` (1): line 4.image is missing"),
        ("a.jsonl", LINES + '{"image": "3.jpg"}', "wrong or missing captions (1): line 4"),
        (
            "a.jsonl",
            LINES + '{"image": "3.jpg", "captions": "a dog"}',
            "wrong or missing captions (1): line 4",
        ),
        (
            "a.jsonl",
            LINES + '{"image": "3.jpg", "captions": [1]}',
            "wrong or missing captions (1): line 4",
        ),
        (
            "a.jsonl",
            LINES + '{"image": "1.jpg", "captions": ["b"]}',
            "image ids given more than once (1): '1.jpg'",
        ),
        ("a.csv", "file,text\n1.jpg,a dog\n", "unsupported annotation format"),
        ("a.txt", "1.jpg\n2.jpg\n", "unsupported annotation format"),
        ("a.xml", "<annotation/>", "unsupported annotation format"),
    ],
)
def test_problems_in_a_file_of_lines_are_reported_with_the_line(tmp_path, name, content, expected):
    path = write(touch(tmp_path, "1.jpg", "2.jpg") / name, content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert expected in message


def test_an_unsupported_file_is_answered_with_all_supported_formats(tmp_path):
    message = refusal(write(tmp_path / "a.xml", "<annotation/>"))
    for word in ("COCO", "Karpathy", ".jsonl", "image,caption", "token", "captions.csv"):
        assert word in message


def test_strange_line_ends_stay_in_their_caption(tmp_path):
    path = write(tmp_path / "a.txt", "1.jpg#0\ta\u2028dog\x0bruns\x85fast\n")
    assert load_references(path) == {"1.jpg": ["a\u2028dog\x0bruns\x85fast"]}


def test_reading_data_sets_does_not_import_torch():
    imports = "import sys, captioner.data.datasets, captioner.data.images"
    program = f"{imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Real data sets


@pytest.fixture
def data():
    folder = os.environ.get("CAPTIONER_DATA")
    if not folder:
        pytest.skip("CAPTIONER_DATA does not name the research data")
    return Path(folder)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "images", "captions"),
    [
        ("flickr8k/captions_train.json", 5999, 29995),
        ("flickr8k/captions_dev.json", 1000, 5000),
        ("flickr8k/Flickr8k.token.txt", 6999, 34995),
        ("coco/captions_mini_train2017.json", 80, None),
        ("coco/captions_mini_val2017.json", 59, None),
        ("rsicd/captions_train.jsonl", 1200, None),
        ("rsicd/captions_dev.jsonl", 300, None),
    ],
)
def test_the_real_files_are_read(data, name, images, captions):
    examples = load_examples(data / name)
    assert len(examples) == images
    assert captions in (None, sum(len(example.captions) for example in examples))
    assert examples[0].path.is_file()
    assert load_references(data / name) == {
        example.image_id: list(example.captions) for example in examples
    }


@pytest.mark.data
def test_flickr8ks_own_files_and_the_coco_files_hold_the_same_captions(data):
    flickr = data / "flickr8k"
    ours = load_examples(flickr / "Flickr8k.token.txt", split=str(flickr / "dev_images.txt"))
    coco = load_examples(flickr / "captions_dev.json")
    assert {it.path: it.captions for it in ours} == {it.path: it.captions for it in coco}


@pytest.mark.data
def test_cocos_own_val2017_is_valid(data):
    references = load_references(data / "coco/captions_val2017.json")
    assert len(references) == 5000
    assert sum(map(len, references.values())) == 25014
