"""Shards in S3, as the package moto serves it on this machine: pip install 'moto[server]'."""

import multiprocessing

import pytest

from captioner.data.datasets import load_examples
from captioner.data.filesystems import write_file
from captioner.data.problems import Problems
from captioner.data.shard_examples import load_shards
from captioner.data.shard_writer import plan_shards, write_shards
from captioner.progress import Progress


@pytest.fixture
def bucket(monkeypatch):
    """The URI of an empty bucket."""
    pytest.importorskip("pyarrow")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    from pyarrow.fs import S3FileSystem

    store = S3FileSystem(
        allow_bucket_creation=True, endpoint_override=f"http://{host}:{port}", region="us-east-1"
    )
    store.create_dir(f"bucket-{port}")
    yield f"s3://bucket-{port}"
    server.stop()


def contents(examples):
    return [example.path.read() for example in examples]


@pytest.mark.slow
def test_shards_in_a_bucket_are_read_in_this_process_and_in_forked_ones(
    bucket, shapes, tmp_path, monkeypatch
):
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path / "cache"))
    examples = load_examples(shapes / "captions_dev.json", shapes / "dev")
    write_shards(examples, tmp_path / "tars", plan_shards(examples, size=3), Progress(""))
    for tar in (tmp_path / "tars").glob("*.tar"):
        write_file(f"{bucket}/train/{tar.name}", tar.read_bytes())
    problems = Problems("")
    of_store = load_shards([f"{bucket}/train/{{00000..00003}}.tar"], problems)
    [error] = problems.errors
    assert list(error.cases) == [f"{bucket}/train/00003.tar"]
    assert [each.captions for each in of_store] == [each.captions for each in examples]
    assert len([*(tmp_path / "cache" / "index").iterdir()]) == 3
    assert load_shards([f"{bucket}/train"], problems) == of_store
    expected = [each.path.read_bytes() for each in examples]
    assert contents(of_store) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(contents, [of_store, of_store]).get(60) == [expected, expected]
    write_file(f"{bucket}/train/00000.tar", (tmp_path / "tars" / "00002.tar").read_bytes())
    changed = load_shards([f"{bucket}/train/00000.tar"], problems)
    assert [each.captions for each in changed] == [each.captions for each in examples[6:]]
