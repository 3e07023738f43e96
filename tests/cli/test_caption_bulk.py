"""`captioner caption` over lists, tars and shards, into folders and tables."""

import csv
import io
import json
import tarfile

import pytest

from captioner import Captioner
from captioner.cli.bulk import without_captions


@pytest.fixture
def bulk(run, onnx_model):
    """Caption sources with the tiny model."""

    def call(*arguments):
        return run("caption", *arguments, "--model", onnx_model, "--backend", "onnx")

    return call


@pytest.fixture
def expected(shapes, onnx_model):
    """The caption of each development image, by its path."""
    files = sorted(str(file) for file in (shapes / "dev").iterdir())
    captioner = Captioner.from_pretrained(onnx_model, backend="onnx")
    captions = captioner.stream(files)
    return {file: caption.text for file, caption in zip(files, captions, strict=True)}


def rows_of(folder):
    parts = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.open()]


def test_a_folder_is_captioned_in_shards_without_lines_on_stdout(bulk, shapes, expected, tmp_path):
    out = f"{tmp_path}/out/"
    for shard in ("1/2", "2/2"):
        code, printed, err = bulk(
            *(shapes / "dev", "--output", out, "--shard", shard, "--part-size", 3)
        )
        assert (code, printed, err) == (0, "", "")
    assert len(list((tmp_path / "out").iterdir())) == 3 + 1  # parts of 3 of 8 images, .run.json
    rows = rows_of(tmp_path / "out")
    assert {row["image"]: row["caption"] for row in rows} == expected
    assert all(row["error"] is None and 0 < row["confidence"] < 1 for row in rows)
    code, _, err = bulk(shapes / "dev", "--output", out, "--part-size", 3)
    assert (code, err) == (0, "captioner: 8 of 8 images were captioned by an earlier run\n")


def test_a_list_is_captioned_and_its_broken_rows_are_rows(bulk, expected, tmp_path):
    file, text = next(iter(expected.items()))
    listed = tmp_path / "list.csv"
    listed.write_text(f"name\n{file}\ngone.jpg\nhttp://localhost/a.jpg\n{file}\n")
    code, printed, err = bulk(listed, "--column", "name", "--output", f"{tmp_path}/out/")
    assert (code, printed) == (3, "")
    rows = rows_of(tmp_path / "out")
    assert [row["caption"] for row in rows] == [text, None, None, text]
    assert rows[1]["error"] == "no such file"
    assert "is a URL" in rows[2]["error"]
    assert "captioner: gone.jpg: no such file\n" in err
    assert "captioner: 2 of 4 images could not be read\n" in err


def test_without_an_output_a_list_and_a_tar_are_printed(bulk, expected, tmp_path):
    file, text = next(iter(expected.items()))
    (tmp_path / "list.txt").write_text(f"{file}\n")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        archive.add(file, "a.png")
        info = tarfile.TarInfo("a.txt")
        archive.addfile(info, io.BytesIO())
    for source, name in (("list.txt", file), ("0.tar", f"{tmp_path}/0.tar/a.png")):
        code, printed, _ = bulk(tmp_path / source)
        assert code == 0
        assert printed.rstrip("\n").split("\t")[:2] == [name, text]
        assert json.loads(bulk(tmp_path / source, "--json")[1])["image"] == name


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl"])
def test_a_table_or_coco_results_of_a_list_are_written_at_the_end(bulk, expected, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / "list.txt").write_text("\n".join(expected))
    output = tmp_path / f"out.{suffix}"
    code, printed, _ = bulk(tmp_path / "list.txt", "--output", output, "--part-size", 3)
    assert (code, printed) == (0, "")
    assert captions_in(output) == expected
    assert sorted(each.name for each in tmp_path.iterdir()) == ["list.txt", output.name]


def captions_in(path):
    match path.suffix:
        case ".csv":
            return {row["image"]: row["caption"] for row in csv.DictReader(path.open())}
        case ".parquet":
            import pyarrow.parquet as pq

            return {row["image"]: row["caption"] for row in pq.read_table(path).to_pylist()}
        case ".json":
            results = json.loads(path.read_text())
        case ".jsonl":
            results = map(json.loads, path.open())
    return {result["image_id"]: result["caption"] for result in results}


def test_an_interrupted_table_is_continued(bulk, expected, shapes, tmp_path, monkeypatch):
    from captioner.bulk.parts import PartFolder

    written = []

    def interrupt(self, number, rows, write=PartFolder.write):
        if number == 2:
            raise KeyboardInterrupt
        written.append(write(self, number, rows))

    command = (shapes / "dev", "--output", tmp_path / "out.csv", "--part-size", 3)
    with monkeypatch.context() as patch:
        patch.setattr(PartFolder, "write", interrupt)
        code, _, err = bulk(*command)
    assert code == 130
    assert f"captioner: 2 parts are kept in {tmp_path}/out.csv.parts: run the same command" in err
    assert not (tmp_path / "out.csv").exists()
    code, _, err = bulk(*command)
    assert (code, err) == (0, "captioner: 6 of 8 images were captioned by an earlier run\n")
    assert captions_in(tmp_path / "out.csv") == expected


def test_the_rows_of_several_captions_have_all_of_them(bulk, shapes, tmp_path):
    options = ("--output", f"{tmp_path}/out/", "--num-captions", 2)
    assert bulk(shapes / "dev", *options)[0] == 0
    for row in rows_of(tmp_path / "out"):
        assert len(row["captions"]) == 2
        assert row["captions"][0] == row["caption"]


def test_other_settings_are_refused_for_the_same_folder(bulk, shapes, tmp_path):
    options = ("--output", f"{tmp_path}/out/", "--beam")
    bulk(shapes / "dev", *options, 1)
    code, _, err = bulk(shapes / "dev", *options, 2)
    assert code == 2
    assert "has parts of another run: decoding was beam=1, and is beam=2: choose another" in err


def test_an_output_in_the_folder_of_the_images_holds_no_images(bulk, shapes, expected, tmp_path):
    for file in expected:
        (tmp_path / file.rpartition("/")[2]).symlink_to(file)
    for _ in range(2):
        assert bulk(tmp_path, "--output", f"{tmp_path}/")[0] == 0
        assert bulk(tmp_path, "--output", tmp_path / "table.csv")[0] == 0
    assert len(rows_of(tmp_path)) == len(captions_in(tmp_path / "table.csv")) == 8


def test_a_truncated_tar_is_captioned_as_far_as_it_goes(bulk, expected, tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as archive:
        for number, file in enumerate(expected):
            archive.add(file, f"{number}.png")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, _, err = bulk(path, "--output", f"{tmp_path}/out/")
    assert code == 3
    num_rows = len(rows_of(tmp_path / "out"))
    assert 1 <= num_rows < 8
    assert "0.tar: truncated" in err
    assert f"({num_rows} images before are captioned)" in err


def test_progress_and_messages_can_be_json_lines(bulk, shapes, tmp_path):
    (tmp_path / "list.txt").write_text("gone.jpg\n")
    for output in ((), ("--output", f"{tmp_path}/out/")):
        code, _, err = bulk(tmp_path / "list.txt", shapes / "dev", "--log-json", *output)
        assert code == 3
        lines = [json.loads(line) for line in err.splitlines()]
        (last,) = (line for line in lines if "done" in line)
        assert (last["done"], last["total"], last["failed"]) == (9, 9, 1)
        assert lines[0] == {"message": "captioner: gone.jpg: no such file"}
    code, _, err = bulk(shapes / "dev", "--log-json")
    assert json.loads(err)["done"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "1/2"], "--shard needs a folder for the output: add --output FOLDER/"),
        (["--shard", "3/2", "--output", "out/"], "--shard 3/2: give i/n with i from 1 to n"),
        (["--shard", "1/2", "--output", "out.csv"], "--shard needs a folder, and out.csv is a"),
        (["--format", "jsonl"], "--format has no effect without a list, a tar or an output folder"),
        (["--part-size", "5"], "--part-size has no effect without"),
        (["--part-size", "0", "--output", "out/"], "--part-size"),
        (["--column", "x", "--output", "out/"], "--column has no effect without a list"),
        (["--format", "parquet", "--output", "x.csv"], "--format parquet and x.csv differ"),
        (["--output", "out/", "--report", "x.html"], "--report has no effect with a folder or"),
        (["--output", "out/", "--json"], "--json has no effect with a folder or a table"),
        (["--output", "x.txt", "--shard", "1/2", "--every", "2s"], "--every has no effect"),
        (["--output", "gone/x.csv"], "there is no folder gone"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_a_model_is_loaded(
    run, shapes, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("caption", shapes / "dev", "--model", "no-such-model", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_list_without_a_slash_at_the_end_of_the_output_says_what_an_output_is(run, tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\n")
    code, _, err = run("caption", tmp_path / "list.txt", "--output", tmp_path / "out")
    assert code == 2
    assert "end a file in .csv, .parquet, .json or .jsonl, and a folder in a slash" in err


def test_a_text_beside_a_named_image_is_its_caption_and_no_list():
    given = ["a/1.jpg", "a/1.txt", "a/2.txt", "b/1.txt", "a/1.csv"]
    assert without_captions(given) == ["a/1.jpg", "a/2.txt", "b/1.txt", "a/1.csv"]


def test_an_output_folder_that_is_a_file_is_refused(run, shapes, tmp_path):
    (tmp_path / "taken").write_text("text")
    code, _, err = run("caption", shapes / "dev", "--output", f"{tmp_path}/taken/")
    assert code == 2
    assert "taken is a file: name another folder" in err
