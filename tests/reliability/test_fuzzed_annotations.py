"""Annotation files of any bytes and values, in every format: examples or a clear error."""

import pytest
from fuzz import as_json, as_json_lines, changed, damaged, result_or_none
from hypothesis import given
from hypothesis import strategies as st

from captioner.data.datasets import load_examples, load_references

pytestmark = [pytest.mark.row(18), pytest.mark.timeout(3600)]

COCO = {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": "b", "file_name": "sub/2.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "a dog"},
        {"id": 2, "image_id": "b", "caption": "a cat"},
        {"id": 3, "image_id": "b", "caption": None},
    ],
}
KARPATHY = {
    "images": [
        {
            "filename": "1.jpg",
            "split": "train",
            "imgid": 1,
            "sentences": [{"raw": "a dog"}, {"raw": "a cat"}],
        },
        {
            "filename": "2.jpg",
            "filepath": "sub",
            "split": "restval",
            "cocoid": 2,
            "sentences": [{"raw": "a bird"}],
        },
    ]
}
LINES = [
    {"image": "1.jpg", "captions": ["a dog", "a cat"]},
    {"image": "sub/2.jpg", "caption": "a bird"},
    {"image": "sub/2.jpg", "caption": "a bird flies"},
]
CSV = b'image,caption\n1.jpg,a dog\nsub/2.jpg,"a cat, asleep"\n'
QUOTED = b'"1,image,caption,2"\n1.jpg,a dog\n'
TOKEN = b"1.jpg#0\ta dog\n1.jpg#1\ta cat\nsub/2.jpg#0\ta bird\n"

formats = st.one_of(
    st.tuples(st.just(".json"), damaged((changed(COCO) | changed(KARPATHY)).map(as_json))),
    st.tuples(st.just(".jsonl"), damaged(changed(LINES).map(as_json_lines))),
    st.tuples(st.sampled_from([".csv", ".txt"]), damaged(st.sampled_from([CSV, QUOTED, TOKEN]))),
    st.tuples(
        st.sampled_from([".json", ".jsonl", ".csv", ".txt"]),
        st.binary() | st.text().map(str.encode),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotations")
    (folder / "sub").mkdir()
    for name in ("1.jpg", "sub/2.jpg"):
        (folder / name).touch()
    return folder


@given(file=formats, split=st.none() | st.sampled_from(["train", "test"]), restval=st.booleans())
def test_fuzzed_annotations_are_read_or_refused(folder, file, split, restval):
    ending, data = file
    path = folder / f"captions{ending}"
    path.write_bytes(data)
    examples = result_or_none(lambda: load_examples(path, split=split, restval=restval))
    assert examples is None or all(
        example.path.is_file() and example.captions for example in examples
    )
    references = result_or_none(load_references, path, split)
    assert (
        examples is None
        or restval
        or {it.image_id: list(it.captions) for it in examples} == references
    )
