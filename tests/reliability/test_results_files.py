"""Results files with errors, or of other images than the annotated ones, are refused."""

import json

import pytest

from captioner.errors import UsageError
from captioner.metrics.scorer import check_images
from captioner.results.files import read_results

pytestmark = pytest.mark.row(21)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("r.json", b"", "is empty"),
        ("r.json", b'[{"image_id": 1,\n "caption": "a"},\n {"image', "line 3: not JSON"),
        ("r.jsonl", b'{"image_id": 1, "caption": "a"}\n\n{"image_id": 2', "line 3: not JSON"),
        ("r.json", b'{"image_id": 1, "caption": "a"}', "not a list"),
        ("r.json", b'[{"image_id": 1, "caption": "\xe9"}]', "not UTF-8"),
        ("r.json", b"[" * 100_000, "not JSON: nested too deeply"),
        ("r.json", b'[{"image_id": 1' + b"0" * 5000 + b"}]", "not JSON: .*4300 digits"),
        ("r.json", b"[7]", r"1 invalid result \(result 1: not an object\)"),
        ("r.json", b'[{"image": 1}]', "no image_id and no caption"),
        ("r.json", b'[{"image_id": 1.5, "caption": "a"}]', "image_id is 1.5"),
        ("r.json", b'[{"image_id": true, "caption": "a"}]', "image_id is True"),
        ("r.json", b'[{"image_id": 1, "caption": null}]', "caption of image 1 is None"),
        (
            "r.jsonl",
            b'{"image_id": 1, "caption": "a"}\n{"image_id": 1, "caption": "b"}',
            "line 2: image 1 has a caption",
        ),
    ],
)
def test_a_malformed_file_is_named_with_place_and_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        read_results(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_every_wrong_result_is_counted_and_the_first_are_named(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps([{"image_id": 1, "caption": "a"}] * 9))
    with pytest.raises(
        UsageError, match=r"8 invalid results \(result 2: .*, result 6: [^,]*, \.\.\.\)"
    ):
        read_results(tmp_path / "r.json")


def test_results_of_the_annotated_images_are_accepted():
    check_images([7, "cat"], {"cat": "a cat", 7: "a dog"})


def test_unknown_images_are_counted_and_named_even_in_a_subset():
    for allow_partial in (False, True):
        with pytest.raises(UsageError, match=r"2 images \(8, 'bird'\) not in the annotations: "):
            check_images(
                [7, "cat"], {7: "a", "cat": "a", 8: "a", "bird": "a"}, allow_partial=allow_partial
            )


def test_missing_images_are_refused_unless_a_subset_is_allowed():
    with pytest.raises(UsageError, match=r"no caption for 1 image \('cat'\): .*allow_partial"):
        check_images([7, "cat"], {7: "a"})
    check_images([7, "cat"], {7: "a"}, allow_partial=True)


def test_no_result_at_all_is_no_subset():
    with pytest.raises(UsageError, match=r"no caption for 2 images \(7, 'cat'\): caption them$"):
        check_images([7, "cat"], {}, allow_partial=True)


@pytest.mark.parametrize("allow_partial", [False, True])
def test_ids_that_are_text_on_one_side_only_are_explained(allow_partial):
    with pytest.raises(UsageError, match="numbers on one side and text on the other"):
        check_images([42], {"42": "a dog"}, allow_partial=allow_partial)


def test_results_that_miss_an_image_are_refused_by_name(run, shapes, tmp_path):
    results = tmp_path / "results.json"
    results.write_text('[{"image_id": 424242, "caption": "a dog"}]')
    code, _, err = run(
        "evaluate", "--annotations", shapes / "captions_dev.json", "--results", results
    )
    assert code == 2
    assert "424242" in err
