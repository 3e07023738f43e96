"""The index of a tar: what it holds, when it is built again, and where it is stored."""

import io
import json
import os
import stat
import tarfile

import pytest

from captioner.data import tar_index
from captioner.data.problems import Problems
from captioner.data.shard_examples import find_tars, load_shards
from captioner.data.tar_index import open_index
from captioner.errors import UsageError

SAMPLES = {"000001": ["a dog", "a brown dog"], "000002": ["a cat"]}


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def of_img2dataset(samples):
    """The members that img2dataset writes: its caption is the first one here."""
    for key, captions in samples.items():
        about = {"key": key, "status": "success", "caption": captions[0], "url": "http://x/1.jpg"}
        yield f"{key}.jpg", f"image {key}".encode()
        yield f"{key}.txt", captions[0].encode()
        yield f"{key}.json", json.dumps(about).encode()


def load(*patterns, **options):
    problems = Problems("shards")
    return load_shards([str(each) for each in patterns], problems, **options), problems


def kinds(problems):
    return {problem.kind: problem.examples for problem in problems}


def captions_of(tmp_path, *members):
    tar = write_tar(tmp_path / "x.tar", [("1.jpg", b"x"), *members])
    return [list(example.captions) for example in load(tar)[0]]


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "00000.tar", of_img2dataset(SAMPLES))


def count_builds(monkeypatch):
    built = []
    build = tar_index.build_index
    monkeypatch.setattr(tar_index, "build_index", lambda tar: built.append(tar) or build(tar))
    return built


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_tars_of_img2dataset_give_ids_captions_and_images(tmp_path, form):
    write_tar(tmp_path / "00007.tar", of_img2dataset(SAMPLES), form)
    for _ in ("built", "stored"):
        examples, problems = load(tmp_path / "00007.tar")
        assert [(each.image_id, each.captions) for each in examples] == [
            ("00007/000001", ("a dog",)),
            ("00007/000002", ("a cat",)),
        ]
        assert [each.path.read() for each in examples] == [b"image 000001", b"image 000002"]
        assert str(examples[0].path) == f"{tmp_path}/00007.tar/000001.jpg"
        assert not list(problems)


def test_captions_are_those_of_the_json_file_or_else_the_lines_of_the_text(tmp_path):
    text, many = ("1.txt", b" one \ntwo\n\n"), json.dumps({"captions": ["a", "b "], "caption": "c"})
    assert captions_of(tmp_path, text) == [["one", "two"]]
    assert captions_of(tmp_path, text, ("1.json", b'{"url": "x"}')) == [["one", "two"]]
    assert captions_of(tmp_path, text, ("1.json", b'{"caption": "a\\nb"}')) == [["a\nb"]]
    assert captions_of(tmp_path, ("1.json", many.encode()), text) == [["a", "b"]]
    assert captions_of(tmp_path, ("1.txt", b"\xef\xbb\xbfwith a BOM")) == [["with a BOM"]]


def test_a_key_ends_at_the_first_dot_of_the_last_part_and_its_members_may_be_apart(tmp_path):
    tar = write_tar(
        tmp_path / "x.tar",
        [
            ("./a.b/1.JPG", b"image"),
            ("./a.b/1.seg.png", b"another file of the sample, and no image"),
            ("./a.b/._1.jpg", b"hidden"),
            ("./2.png", b"image"),
            ("./a.b/1.txt", b"first"),
            ("./2.txt", b"second"),
        ],
    )
    examples, problems = load(tar)
    assert [(each.image_id, each.captions) for each in examples] == [
        ("x/a.b/1", ("first",)),
        ("x/2", ("second",)),
    ]
    assert not list(problems)


def test_what_is_wrong_in_a_tar_is_a_problem_of_its_kind(tmp_path):
    tar = write_tar(
        tmp_path / "x.tar",
        [
            *[("1.jpg", b"x"), ("1.txt", b"\n \na dog")],
            *[("2.jpg", b"x"), ("2.txt", b"")],
            ("3.jpg", b"x"),
            ("4.txt", b"no image"),
            *[("5.jpg", b"x"), ("5.json", b'{"caption": ')],
            *[("6.jpg", b"x"), ("6.json", b'{"captions": [1]}')],
            *[("7.jpg", b"x"), ("7.txt", b"\xff")],
            *[("8.jpg", b"x"), ("8.png", b"x"), ("8.txt", b"a cat")],
        ],
    )
    examples, problems = load(tar, skip_damaged=True)
    assert [each.image_id for each in examples] == ["x/1", "x/8"]
    found = kinds(problems)
    assert found["empty captions, left out"] == ["x/1", "x/2"]
    assert found["images without a caption, left out"] == ["x/2", "x/3", "x/5", "x/6", "x/7"]
    assert found["captions without an image, left out"] == ["x/4"]
    assert found["several images of a key"] == ["x/8"]
    assert [case.split(" (")[0] for case in found["broken texts"]] == [
        *("x/5.json", "x/6.json", "x/7.txt")
    ]
    assert not problems.errors
    _, problems = load(tar)
    assert [each.kind.split(" (")[0] for each in problems.errors] == [
        *("broken texts", "several images of a key")
    ]


def test_an_index_is_built_once_and_again_when_the_tar_changes(tar, monkeypatch, caplog):
    built = count_builds(monkeypatch)
    load(tar)
    load(tar)
    assert len(built) == 1
    write_tar(tar, of_img2dataset(SAMPLES | {"000003": ["a bird"]}))
    assert len(load(tar)[0]) == 3
    os.utime(tar, ns=(0, 0))
    load(tar)
    assert len(built) == 3
    assert caplog.text.count("00000.tar.index is of an earlier version of the tar") == 2


@pytest.mark.parametrize("place", [0, 1, 40, -1, -3])
def test_a_byte_that_is_changed_or_an_end_that_is_missing_breaks_an_index(
    tar, monkeypatch, caplog, place
):
    expected = load(tar)[0]
    built = count_builds(monkeypatch)
    file = tar.with_name("00000.tar.index")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    for broken in (content, content[:-1]):
        file.write_bytes(broken)
        assert load(tar)[0] == expected
    assert len(built) == 2
    assert "00000.tar.index is " in caplog.text


def test_an_index_that_cannot_be_written_beside_the_tar_is_in_the_cache(
    tar, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path / "cache"))
    write = tar_index._write
    monkeypatch.setattr(  # root may write to any folder
        tar_index, "_write", lambda path, data: path.parent != tmp_path and write(path, data)
    )
    built = count_builds(monkeypatch)
    assert load(tar)[0] == load(tar)[0]
    assert len(built) == 1
    [file] = (tmp_path / "cache" / "index").iterdir()
    assert file.name.endswith("-00000.tar.index")
    other = write_tar(tmp_path / "sub" / "00000.tar", of_img2dataset({"1": ["x"]}))
    monkeypatch.setattr(
        tar_index, "_write", lambda path, data: "cache" in str(path) and write(path, data)
    )
    load(other)
    assert len([*(tmp_path / "cache" / "index").iterdir()]) == 2
    monkeypatch.setattr(tar_index, "_write", lambda path, data: False)
    file.unlink()
    assert len(load(tar)[0]) == 2
    assert "cannot be stored" in caplog.text


def test_an_index_has_the_mode_that_the_umask_says(tar):
    load(tar)
    umask = os.umask(0)
    os.umask(umask)
    mode = tar.with_name("00000.tar.index").stat().st_mode
    assert stat.S_IMODE(mode) == 0o666 & ~umask


def test_a_disk_that_fails_for_a_moment_leaves_no_index(tar, monkeypatch):
    def fail(tar, file):
        raise tar_index.TarError("input/output error") from OSError(5, "input/output error")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "list_members", fail)
        with pytest.raises(OSError, match="input/output"):
            open_index(str(tar))
    assert len(load(tar)[0]) == 2


def test_a_truncated_tar_gives_what_is_before_and_says_where_it_ends(tar):
    tar.write_bytes(tar.read_bytes()[: 6 * 512 + 512 + 5])  # in the image of the second sample
    examples, problems = load(tar, skip_damaged=True)
    assert [each.image_id for each in examples] == ["00000/000001"]
    assert kinds(problems) == {
        "tars that cannot be read to their end": [
            f"{tar}: truncated in the middle of 000002.jpg; it has 3,589 bytes; images before: 1"
        ]
    }
    _, problems = load(tar)  # from the index
    [error] = problems.errors
    assert "data.on_bad_image=skip" in error.kind


def test_missing_empty_and_repeated_tars_are_problems(tar, tmp_path):
    (tmp_path / "00002.tar").touch()
    write_tar(tmp_path / "00003.tar", [])
    examples, problems = load(tmp_path / "{00000..00003}.tar", tar)
    assert len(examples) == 2
    found = kinds(problems)
    assert found["tars that are missing, of 4"] == [str(tmp_path / "00001.tar")]
    assert found["tars without a captioned image"] == [str(tmp_path / "00003.tar")]
    assert found["tars given more than once"] == [repr(str(tar))]
    [case] = next(cases for kind, cases in found.items() if "to their end" in kind)
    assert case.startswith(f"{tmp_path}/00002.tar: is empty, and no tar file")
    with pytest.raises(UsageError, match="holds no image with a caption"):
        load(tmp_path / "00003.tar")


def test_a_compressed_tar_says_what_to_do(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz"):
        pass
    assert "decompress it" in str(load(tmp_path / "x.tar")[1].errors[0])


def test_tars_are_named_by_ranges_globs_and_folders_in_order(tar, tmp_path):
    for name in ("00001.tar", "00002.tar"):
        write_tar(tmp_path / name, [])
    every = [str(tmp_path / f"0000{number}.tar") for number in range(3)]
    load(tar)  # its index is beside it
    for pattern in ("", "*.tar", "{00000..00002}.tar"):
        assert find_tars([str(tmp_path / pattern)]) == every
    assert find_tars([every[2], every[0]]) == [every[2], every[0]]
    for pattern in ("x*.tar", "sub", "x.jsonl"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="name tars as in"):
            find_tars([str(tmp_path / pattern)])


def test_image_ids_have_the_folder_if_tars_have_the_same_name(tmp_path):
    tars = [tmp_path / folder / "0.tar" for folder in ("a", "b/c")]
    for tar in tars:
        write_tar(tar, of_img2dataset({"1": ["x"]}))
    assert [each.image_id for each in load(*tars)[0]] == ["a/0/1", "b/c/0/1"]
