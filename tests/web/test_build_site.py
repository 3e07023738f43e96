"""`build_site` writes the page, the model and onnxruntime-web to a folder, or nothing."""

import json
import shutil
from html.parser import HTMLParser

import pytest

from captioner.errors import CaptionerError, UsageError
from captioner.export.site import build_site
from captioner.models.folder import weights_digest
from captioner.storage import verify_checksums, write_checksums


@pytest.fixture
def model(tiny_model, tmp_path):
    """A model folder whose graphs are there, but empty: nobody runs them."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    description = {"format": 1, "weights": weights_digest(folder), "updated_parts": 2}
    description |= {"function_words": [], "unspaced": [], "decoding": {}}
    (folder / "graphs.json").write_text(json.dumps(description))
    for name in ("encoder.onnx", "step.onnx"):
        (folder / name).write_bytes(b"graph")
    write_checksums(folder)
    return folder


def package(folder, version="1.30.0"):
    (folder / "dist").mkdir(parents=True)
    manifest = {"name": "onnxruntime-web", "version": version}
    (folder / "package.json").write_text(json.dumps(manifest))
    for name in (
        "ort.wasm.min.mjs",
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
        "ort.all.js",
    ):
        (folder / "dist" / name).write_text(name)
    return folder


@pytest.fixture
def installed(tmp_path):
    """What `npm install --prefix ort onnxruntime-web` makes."""
    package(tmp_path / "ort" / "node_modules" / "onnxruntime-web")
    return tmp_path / "ort"


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_site_holds_the_model_and_only_what_it_needs_of_onnxruntime(model, installed, tmp_path):
    site = tmp_path / "site"
    build_site(model, site, installed)
    assert names(site / "model") == [
        *("config.json", "encoder.onnx", "graphs.json", "model.safetensors", "step.onnx"),
        "vocab.json",
    ]
    for file in (site / "model").iterdir():
        assert file.read_bytes() == (model / file.name).read_bytes()
    assert names(site / "ort") == [
        *("LICENSE", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
        "ort.wasm.min.mjs",
    ]
    assert "MIT License" in (site / "ort" / "LICENSE").read_text()
    verify_checksums(site)


def test_site_lists_the_bytes_of_every_download(model, installed, tmp_path):
    site = tmp_path / "site"
    build_site(model, site, installed)
    listed = json.loads((site / "site.json").read_text())["files"]
    assert listed["ort/ort-wasm-simd-threaded.wasm"] == len("ort-wasm-simd-threaded.wasm")
    assert {name: (site / name).stat().st_size for name in listed} == listed


def test_site_offers_the_images_of_a_folder_as_examples(model, installed, tmp_path):
    examples = tmp_path / "photos"
    examples.mkdir()
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (examples / name).write_bytes(b"image")
    build_site(model, tmp_path / "site", installed, examples=examples)
    content = json.loads((tmp_path / "site" / "site.json").read_text())
    assert content["examples"] == ["a.PNG", "b.jpg"] == names(tmp_path / "site" / "examples")


@pytest.mark.parametrize("where", [".", "package"])
def test_unpacked_package_is_taken_too(where, model, tmp_path):
    package(tmp_path / "ort" / where)
    build_site(model, tmp_path / "site", tmp_path / "ort")
    assert (tmp_path / "site" / "ort" / "ort.wasm.min.mjs").is_file()


def test_without_onnxruntime_web_the_error_says_the_npm_command(model, tmp_path):
    ort = tmp_path / "no such"
    with pytest.raises(UsageError) as error:
        build_site(model, tmp_path / "site", ort)
    assert f'npm install --prefix "{ort}" onnxruntime-web@1.30.0' in str(error.value)
    assert not (tmp_path / "site").exists()


def test_another_version_of_onnxruntime_web_is_refused(model, tmp_path):
    ort = package(tmp_path / "ort", version="1.29.3")
    with pytest.raises(UsageError, match=r"is onnxruntime-web 1\.29\.3, but the page needs 1\.30"):
        build_site(model, tmp_path / "site", ort)


def test_incomplete_package_is_refused(model, tmp_path):
    ort = package(tmp_path / "ort")
    (ort / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(UsageError, match=r"lacks dist/ort-wasm-simd-threaded\.wasm: npm install"):
        build_site(model, tmp_path / "site", ort)


def test_model_without_graphs_is_refused(tiny_model, installed, tmp_path):
    with pytest.raises(CaptionerError, match=r"captioner export"):
        build_site(tiny_model, tmp_path / "site", installed)


def test_model_of_texts_is_refused(tiny_translator, installed, tmp_path):
    with pytest.raises(UsageError, match="reads text, but the page captions images"):
        build_site(tiny_translator, tmp_path / "site", installed)


def test_failed_build_keeps_the_site_that_is_there(model, installed, tmp_path):
    site = tmp_path / "site"
    build_site(model, site, installed)
    (model / "encoder.onnx").unlink()
    write_checksums(model)  # the folder itself is intact
    with pytest.raises(CaptionerError, match=r"encoder\.onnx is missing"):
        build_site(model, site, installed)
    verify_checksums(site)
    assert (site / "model" / "encoder.onnx").is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if "site" in path.name) == ["site"]


class _References(HTMLParser):
    """Collects what a page refers to, and its ids."""

    def __init__(self):
        super().__init__()
        self.files, self.ids, self.targets = [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.files += [values[name] for name in ("src", "href") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self.targets += [values["aria-labelledby"]] if "aria-labelledby" in values else []


def test_page_refers_only_to_files_of_the_site(model, installed, tmp_path):
    site = tmp_path / "site"
    build_site(model, site, installed)
    page = _References()
    page.feed((site / "index.html").read_text())
    assert page.files
    assert all((site / file).is_file() for file in page.files)
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.targets) <= set(page.ids)
