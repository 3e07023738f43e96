"""Runs over Ray Data: what its processes do, the options, and real runs (slow)."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from captioner.bulk import actors, ray_data
from captioner.bulk.actors import Job, PartCaptioner, PartSummary, list_parts
from captioner.bulk.parts import ALL, PartFolder
from captioner.bulk.ray_data import Pool, run_on_ray
from captioner.bulk.run import run_shard
from captioner.captions import Caption
from captioner.cli.cluster import RayOptions, with_address
from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.data.sources import open_source
from captioner.errors import CaptionerError, ImageError, MissingPackageError, UsageError
from captioner.progress import Progress

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

RUN = {"weights": ["abc"], "part_size": 4}


class FakeCaptioner:
    """Captions "7.jpg" with "image 7"; names with an x cannot be read."""

    def prepare(self, image):
        import numpy as np

        name = os.path.basename(os.fspath(image))
        if "x" in name:
            raise ImageError(name, "is broken")
        return np.array([int(name.removesuffix(".jpg"))])

    def caption_pixels(self, pixels, *, decoding):
        return [Caption(f"image {n}", (), -1.0, abstained=n == 3) for (n,) in pixels.tolist()]


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    """Describe a run over a list of images by their names, which a fake captioner captions."""
    monkeypatch.setattr(actors, "_load", lambda job: FakeCaptioner())
    monkeypatch.setattr(actors, "_is_replacement", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that it is restored
    monkeypatch.chdir(tmp_path)

    def make(names, output="out"):
        (tmp_path / "list.txt").write_text("".join(f"{name}.jpg\n" for name in names))
        folder = PartFolder.open(str(tmp_path / output), "jsonl", RUN)
        job = Job(
            source=open_source([str(tmp_path / "list.txt")]),
            folder=folder,
            done=frozenset(folder.numbers()),
            run=(tmp_path / output / ".run.json").read_bytes(),
            local_paths=[str(tmp_path / "list.txt")],
            working_folder=str(tmp_path),
            models=[],
            weights=[],
            inference=InferenceConfig(batch_size=3),
            decoding=DecodingConfig(),
            part_size=4,
            cpus=1,
        )
        return pickle.loads(pickle.dumps(job))  # as a process of Ray gets it

    return make


def listed(job):
    """What the listing emits: the summaries, and the names of the images."""
    rows = list(list_parts(job))
    return [
        (PartSummary(**json.loads(row["summary"])), [i.name for i in pickle.loads(row["items"])])
        for row in rows
    ]


def captioned(job):
    """Caption all parts in this process, as an actor does, and return their summaries."""
    actor = PartCaptioner(job)
    tables = [pa.table({name: [value] for name, value in row.items()}) for row in list_parts(job)]
    return [PartSummary(**json.loads(actor(table)["summary"][0].as_py())) for table in tables]


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_parts_that_are_done_are_skipped_and_the_end_counts_all(make_job, tmp_path):
    captioned(make_job(range(10)))
    (tmp_path / "out" / "part-00000001.jsonl").unlink()
    (part, names), (end, none) = listed(make_job(range(10)))
    assert (part.part, part.skipped) == (1, 4)
    assert names == ["4.jpg", "5.jpg", "6.jpg", "7.jpg"]
    assert (end.part, end.skipped, end.num_parts, end.fatal) == (-1, 2, 3, None)
    assert none == []


def test_actors_write_the_bytes_of_a_run_in_one_process(make_job, tmp_path):
    names = [0, "x", 2, 3, 4]
    first, second, end = captioned(make_job(names))
    assert (first.captioned, first.failed, first.abstained) == (3, 1, 1)
    assert first.errors == [["x.jpg", "is broken"]]  # as JSON has it
    assert (second.captioned, second.failed, end.num_parts) == (1, 0, 2)
    job = make_job(names, "plain")
    with Progress("captioning") as progress:
        run_shard(
            job.source,
            job.folder,
            FakeCaptioner(),
            shard=ALL,
            part_size=4,
            decoding=DecodingConfig(),
            batch_size=3,
            progress=progress,
        )
    assert content(tmp_path / "out") == content(tmp_path / "plain")


def test_what_a_list_cannot_give_is_told_at_the_end(make_job, tmp_path):
    job = make_job(range(3))
    job.source.paths.append(str(tmp_path / "missing.jpg"))
    assert listed(job)[-1][0].problems == [f"{tmp_path / 'missing.jpg'}: no such file or folder"]


def test_an_error_of_an_actor_is_a_row_with_the_node_and_its_exit_code(make_job, monkeypatch):
    def load(job):
        raise CaptionerError("no model")

    job = make_job(range(3))
    monkeypatch.setattr(actors, "_load", load)
    monkeypatch.setattr(actors.platform, "node", lambda: "node7")
    part, end = captioned(job)
    assert (part.fatal, part.exit_code) == ("on node7: no model", 1)
    assert end.fatal is None


def test_a_bug_in_an_actor_keeps_its_traceback(make_job, monkeypatch):
    job = make_job(range(3))
    monkeypatch.setattr(actors, "_load", lambda job: 1 / 0)
    part, _ = captioned(job)
    assert part.exit_code is None
    assert part.fatal.startswith("Traceback")
    assert "ZeroDivisionError" in part.fatal


def test_a_source_that_has_changed_ends_the_listing(make_job):
    captioned(make_job(range(8)))
    [(end, _)] = listed(make_job([9, *range(1, 8)]))
    assert "the source has changed since" in end.fatal
    assert end.exit_code == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("output", "is not the folder that it is where the run was started: share it with all"),
        ("source", "list.txt is not there: share it with all nodes, or use a store"),
    ],
)
def test_a_node_without_the_folders_ends_the_run(make_job, tmp_path, change, message):
    job = make_job(range(3))
    if change == "output":  # the node has another disk there, with an older run
        (tmp_path / "out" / ".run.json").write_text("{}")
    else:
        (tmp_path / "list.txt").unlink()
    [(end, _)] = listed(job)
    assert message in end.fatal
    assert end.exit_code == 1


def test_an_actor_computes_in_as_many_threads_as_it_has_cpus(make_job):
    PartCaptioner(make_job(range(3))._replace(cpus=5))
    assert os.environ["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("arguments", "completed"),
    [
        ("caption photos --ray", "caption photos --ray=local"),
        ("caption photos --ray --output out/", "caption photos --ray=local --output out/"),
        ("caption --ray photos --output out/", "caption --ray=local photos --output out/"),
        ("caption photos --ray auto", "caption photos --ray auto"),
        ("caption --ray ray://head:10001 photos", "caption --ray ray://head:10001 photos"),
        ("caption --ray 10.0.0.7:6379 photos", "caption --ray 10.0.0.7:6379 photos"),
        ("caption --ray=auto photos", "caption --ray=auto photos"),
        ("caption -- --ray", "caption -- --ray"),
        ("caption --ray -- auto", "caption --ray=local -- auto"),
        ("caption auto", "caption auto"),
    ],
)
def test_the_address_of_ray_may_be_left_out(arguments, completed):
    assert with_address(arguments.split()) == completed.split()


def pool(address="local", actors=None, cpus=None, gpus=None, device="auto", **others):
    return RayOptions(address, actors, cpus, gpus).check(InferenceConfig(device=device), others)


@pytest.fixture
def with_ray(monkeypatch):
    monkeypatch.setattr(ray_data, "find_spec", lambda name: name)


@pytest.mark.usefixtures("with_ray")
def test_the_options_describe_a_pool():
    assert pool() == Pool("local", None, None, 1, 0.0)
    assert pool("auto", "2") == Pool("auto", 2, 2, 1, 0.0)
    assert pool("auto", "2-8", 4, 0.5, "cuda") == Pool("auto", 2, 8, 4, 0.5)
    assert pool(None) is None


@pytest.mark.usefixtures("with_ray")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": None, "actors": "2"}, "--actors has no effect without --ray"),
        ({"address": None, "gpus": 0.0}, "--gpus-per-actor has no effect without --ray"),
        ({"address": "photos/"}, "--ray=photos/ is no address of a cluster"),
        ({"address": "ray://head:10001"}, "is of the Ray Client, which Ray Data does not support"),
        ({"actors": "0"}, "--actors 0: give a number"),
        ({"actors": "3-2"}, "--actors 3-2: give a number"),
        ({"actors": "two"}, "--actors two: give a number"),
        ({"device": "cuda"}, "--device cuda needs GPUs for the actors: add --gpus-per-actor 1"),
        ({"--sidecar": "txt"}, "--sidecar has no effect with --ray"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        pool(**options)


@pytest.mark.parametrize("missing", ["ray", "pandas", "pyarrow"])
def test_a_missing_package_is_named(missing, monkeypatch):
    monkeypatch.setattr(ray_data, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(MissingPackageError, match=rf"{missing}, .*pip install 'captioner\[ray\]'"):
        pool()


@pytest.mark.usefixtures("with_ray")
def test_ray_needs_an_output(run, photo):
    code, _, err = run("caption", photo, "--ray")
    assert code == 2
    assert "--ray needs a folder for the output: add --output FOLDER/" in err


# Real runs.


@pytest.fixture
def ray_command(onnx_model):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")

    def start(*arguments):
        model = ("--model", onnx_model, "--backend", "onnx", "--part-size", 5)
        command = [sys.executable, "-m", "captioner", "caption", *model, *arguments]
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=280
        )

    return start


@pytest.mark.slow
def test_a_run_over_ray_writes_the_bytes_of_the_plain_one(ray_command, shapes, tmp_path):
    images = tmp_path / "photos"
    images.mkdir()
    for image in sorted((shapes / "train").iterdir()):
        os.link(image, images / image.name)
    (images / "zz.jpg").write_bytes(b"no image")
    sources = (images, tmp_path / "missing.tar")
    plain = ray_command(*sources, "--output", f"{tmp_path}/plain/")
    over_ray = ray_command(*sources, "--output", f"{tmp_path}/ray/", "--ray", "--actors", "1-2")
    assert (over_ray.returncode, over_ray.stdout) == (plain.returncode, plain.stdout) == (3, "")
    messages = [line for line in over_ray.stderr.splitlines() if "a second" not in line]
    assert messages == plain.stderr.splitlines()
    assert content(tmp_path / "ray") == content(tmp_path / "plain")
    table = tmp_path / "rows.csv"  # merged from parts, of which an earlier run has left some
    assert ray_command(*sources, "--output", table, "--ray").returncode == 3
    assert len(table.read_text().splitlines()) == len(list(images.iterdir())) + 1


@pytest.mark.slow
def test_an_actor_that_cannot_load_the_model_ends_the_run_in_one_line(make_job, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")
    monkeypatch.undo()  # actors are other processes, where nothing is patched
    job = make_job(range(9))._replace(models=["/nowhere/model"])
    with pytest.raises(CaptionerError, match=r"^on \S+: .*/nowhere/model") as caught:
        run_on_ray(job, Pool(min_actors=1, max_actors=1), lambda part: None)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["auto", "localhost:1", "nowhere.:70000"])
def test_no_cluster_at_an_address_is_one_line(ray_command, shapes, tmp_path, address):
    output = ("--output", f"{tmp_path}/out/")
    run = ray_command(shapes / "dev", *output, "--ray", address)
    assert run.returncode == 2
    assert f"there is no cluster of Ray at {address} that can be used" in run.stderr
    assert "Traceback" not in run.stderr
