"""Results files of any bytes and values: all captions or a clear error."""

import pytest
from fuzz import as_json, as_json_lines, changed, damaged, result_or_none
from hypothesis import given
from hypothesis import strategies as st

from captioner.metrics.scorer import check_images
from captioner.results.files import read_results

pytestmark = [pytest.mark.row(21), pytest.mark.timeout(3600)]

GOOD = [{"image_id": 1, "caption": "a dog runs"}, {"image_id": "b.jpg", "caption": "a cat"}]

files = damaged(changed(GOOD).map(as_json) | changed(GOOD).map(as_json_lines)) | st.binary()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@given(data=files, ending=st.sampled_from([".json", ".jsonl"]))
def test_fuzzed_results_are_read_or_refused(folder, data, ending):
    file = folder / f"results{ending}"
    file.write_bytes(data)
    results = result_or_none(read_results, file)
    if results is not None:
        assert all(isinstance(caption, str) for caption in results.values())
        result_or_none(check_images, [1, "b.jpg"], results)
