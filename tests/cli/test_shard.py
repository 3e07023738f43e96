"""`captioner shard`, and shards where other commands read annotations."""

import json

import pytest


@pytest.fixture
def shard(run, shapes, tmp_path):
    def call(*arguments):
        source = shapes / "captions_dev.json"
        return run(
            *("shard", source, "--images", shapes / "dev", "--output", tmp_path / "out"), *arguments
        )

    return call


def test_shard_says_what_it_wrote_and_what_it_kept(shard, tmp_path):
    out = tmp_path / "out"
    assert shard("--size", 4)[:2] == (0, f"{out}: 2 tars, 8 images\n")
    assert shard("--size", 4)[:2] == (0, f"{out}: 2 tars, 8 images, 8 of them before\n")
    assert sorted(file.name for file in out.iterdir()) == [
        *("00000.tar", "00000.tar.index", "00001.tar", "00001.tar.index")
    ]


def test_two_sizes_exclude_each_other(shard):
    code, _, err = shard("--size", 4, "--megabytes", 3)
    assert code == 2
    assert "--size and --megabytes exclude each other" in err


def test_images_that_cannot_be_read_are_named_and_the_exit_code_is_3(run, data_set, tmp_path):
    data_set.write()
    broken, missing = sorted((data_set.folder / "images").iterdir())[:2]
    broken.write_bytes(b"")
    missing.unlink()
    annotations = data_set.folder / "train.json"
    code, _, err = run("shard", annotations, "--output", tmp_path / "out")
    assert code == 3
    assert f"{broken}: is empty (0 bytes)" in err
    assert f"{missing}: no such file" in err
    assert "2 of 4 images could not be read and are left out" in err


def test_a_check_of_shards_or_of_a_config_on_them_reads_their_images(run, shard, tmp_path):
    shard("--size", 4)
    tars = tmp_path / "out" / "{00000..00001}.tar"
    code, out, _ = run("check", tars, "--json")
    assert code == 0
    assert json.loads(out)["splits"][tars.name]["images"] == 8
    broken = tmp_path / "out" / "00001.tar"
    content = bytearray(broken.read_bytes())
    content[512:700] = bytes(188)
    broken.write_bytes(content)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"data": {"train": {"shards": str(tars)}}}))
    code, out, _ = run("check", config)
    assert code == 3
    assert f"{broken}/00000004.png: not an image" in out


@pytest.mark.slow
def test_shards_are_evaluated_as_their_files_are(run, shard, shapes, tmp_path, onnx_model):
    shard("--size", 4)
    common = ("--model", onnx_model, "--backend", "onnx", "--json")
    of_files = run(
        *("evaluate", "--annotations", shapes / "captions_dev.json"),
        *("--images", shapes / "dev", *common),
    )
    of_shards = run("evaluate", "--annotations", tmp_path / "out" / "{00000..00001}.tar", *common)
    assert of_files[0] == of_shards[0] == 0
    assert json.loads(of_files[1])["CIDEr"] == json.loads(of_shards[1])["CIDEr"]


def test_shards_have_no_split(run, shard, tmp_path):
    shard()
    code, _, err = run("shard", tmp_path / "out" / "00000.tar", "--split", "train", "--output", "x")
    assert code == 2
    assert "this format has no split" in err
