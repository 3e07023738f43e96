"""Sources of bulk runs: folders, globs, lists and tars, in order and in parts."""

import io
import json
import os
import tarfile
import tracemalloc

import pytest
from PIL import Image

from captioner.data import filesystems
from captioner.data.images import find_images, read_image
from captioner.data.shards import TarError, TarMember, expand_ranges, list_members
from captioner.data.sources import open_source
from captioner.errors import ImageError, MissingPackageError, UsageError


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")  # lossless: the colour is kept
    return buffer.getvalue()


RED, BLUE = (255, 0, 0), (0, 0, 255)


def colour_of(item):
    return read_image(item.image).getpixel((0, 0))


def names(*paths, **options):
    return [item.name for item in open_source([str(path) for path in paths], **options).items()]


@pytest.fixture
def tree(tmp_path):
    """Images in nested folders, with what is no image among them; the name sorts before "b/"."""
    files = ("b/2.jpg", "b/10.png", "b.jpg", "a/z/9.webp", "a/1.JPG", "b-.jpg")
    others = ("a/1.txt", ".hidden.jpg", ".cache/3.jpg", "c/photos.tar", "c/list.csv")
    for name in (*files, *others):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(RED))
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    return tmp_path / "tree"


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


# Folders, globs and files


def test_a_folder_gives_the_images_that_captioning_files_gives_in_the_same_order(tree):
    expected = [str(file) for file in find_images([str(tree)]).files]
    assert names(tree) == expected
    assert len(expected) == 6


def test_the_folder_of_the_output_is_left_out(tree):
    assert names(tree, exclude=str(tree / "a")) == [
        str(tree / name) for name in ("b/10.png", "b/2.jpg", "b-.jpg", "b.jpg")
    ]


def test_a_glob_takes_images_and_tars_and_lists_only_if_it_ends_like_them(tree):
    write_tar(tree / "c" / "photos.tar", [("1.jpg", jpeg(RED))])
    (tree / "c" / "list.csv").write_text("image\nx.jpg\n")
    assert names(tree / "?" / "*") == [
        str(tree / name) for name in ("a/1.JPG", "b/10.png", "b/2.jpg", "c/photos.tar/1.jpg")
    ]
    assert names(tree / "c" / "*.csv") == ["x.jpg"]


def test_paths_that_do_not_exist_are_problems_unless_there_is_no_image(tree):
    source = open_source([str(tree), str(tree / "gone.jpg"), str(tree / "*.gif")])
    assert len(list(source.items())) == 6
    assert source.problems == [
        f"{tree}/gone.jpg: no such file or folder",
        f"{tree}/*.gif: no image matches",
    ]
    with pytest.raises(UsageError, match=r"gone\.jpg: no such file or folder"):
        open_source([str(tree / "gone.jpg")])


def test_parts_have_the_images_in_order_and_only_those_that_are_wanted(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{number}\n" for number in range(10)))
    source = open_source([str(tmp_path / "list.txt")])

    def parts(*arguments):
        return [(p, [int(item.name) for item in items]) for p, items in source.parts(*arguments)]

    assert parts(4) == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7]), (2, [8, 9])]
    assert parts(5) == [(0, [0, 1, 2, 3, 4]), (1, [5, 6, 7, 8, 9])]
    assert parts(4, lambda part: part % 2 == 0) == [(0, [0, 1, 2, 3]), (2, [8, 9])]
    assert parts(4, lambda part: part == 7) == []


# Lists


def test_a_text_list_may_have_a_bom_crlf_blank_lines_spaces_and_repetitions(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa b.jpg\r\n\r\n\xe9.jpg\n \na b.jpg\n# c.jpg")
    assert names(path) == ["a b.jpg", "\udce9.jpg", "a b.jpg", "# c.jpg"]
    assert os.fsencode(names(path)[1]) == b"\xe9.jpg"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "id,path\n1,a.jpg\n\n2,b c.jpg\n"),
        ("list.csv", '\ufeffid;Image;caption\n1;a.jpg;"a;b\nc"\n2;b c.jpg;d\n'),
        ("list.csv", "filename\r\na.jpg\r\nb c.jpg\r\n"),
        ("list.tsv", "url\tcaption\na.jpg\ta, b\nb c.jpg\tc\n"),
        ("list.jsonl", '{"id": 1, "file_name": "a.jpg"}\n\n{"file_name": "b c.jpg"}\n'),
    ],
)
def test_the_column_of_images_is_found_by_its_usual_names(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert names(tmp_path / name) == ["a.jpg", "b c.jpg"]


def test_another_column_is_named_and_a_missing_one_is_an_error_that_lists_them(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("id,photo\n1,a.jpg\n")
    assert names(path, column="photo") == ["a.jpg"]
    with pytest.raises(UsageError, match=r"no column x: its columns are id, photo"):
        open_source([str(path)], column="x")
    with pytest.raises(
        UsageError, match=r"no column image, .* but id, photo: name one with column"
    ):
        open_source([str(path)])
    with pytest.raises(UsageError, match="column has no effect without a list"):
        open_source([str(tmp_path)], column="photo")
    path.write_text("")
    with pytest.raises(UsageError, match=r"list.csv is empty: give it a header"):
        open_source([str(path)])


def test_relative_paths_are_of_the_folder_of_the_list_then_of_the_working_folder(
    tmp_path, monkeypatch
):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "both.png").write_bytes(jpeg(RED))
    (tmp_path / "both.png").write_bytes(jpeg(BLUE))
    (tmp_path / "here.png").write_bytes(jpeg(BLUE))
    (tmp_path / "lists" / "list.txt").write_text(f"both.png\nhere.png\n{tmp_path}/here.png\n")
    monkeypatch.chdir(tmp_path)
    items = open_source(["lists/list.txt"]).items()
    assert [colour_of(item) for item in items] == [RED, BLUE, BLUE]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("list.txt", "gone.jpg\n", "no such file"),
        ("list.txt", "https://example.org/a.jpg\n", "is a URL: download it"),
        ("list.csv", "id,image\n1\n", "the row of the list has 1 of 2 columns"),
        ("list.csv", "id,image\n1,\n", "the path is empty"),
        ("list.jsonl", '{"image": "x"\n', "the line of the list is not JSON"),
        ("list.jsonl", '{"image": null}\n', "the line of the list has no text in image"),
    ],
)
def test_a_row_that_names_no_image_is_an_item_that_says_why(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    (item,) = open_source([str(tmp_path / name)]).items()
    with pytest.raises(ImageError, match=reason):
        read_image(item.image)


def test_a_list_that_is_missing_or_utf_16_is_an_error(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\n", encoding="utf-16")
    with pytest.raises(UsageError, match="UTF-16"):
        open_source([str(tmp_path / "list.txt")])
    with pytest.raises(UsageError, match="no such file"):
        open_source([str(tmp_path / "gone.txt")])


def test_a_long_list_is_read_without_holding_it(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"photos/{number:060}.jpg\n" for number in range(50_000)))
    source = open_source([str(path)])
    tracemalloc.start()
    total = sum(len(items) for _, items in source.parts(100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 50_000
    assert peak < 500_000  # bytes; the names alone have 3.5 million


# Tars


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_the_images_of_a_tar_are_read_where_they_are(tmp_path, form):
    long_name = "/".join(["folder" * 8] * (2 if form == tarfile.USTAR_FORMAT else 5)) + "/é.png"
    members = [("./1.png", jpeg(RED)), ("1.txt", b"a dog"), ("1.json", b"{}"), ("._1.png", b"x")]
    path = write_tar(tmp_path / "00000.tar", [*members, (long_name, jpeg(BLUE))], form)
    items = list(open_source([str(path)]).items())
    assert [item.name for item in items] == [f"{path}/./1.png", f"{path}/{long_name}"]
    assert [colour_of(item) for item in items] == [RED, BLUE]


def test_a_member_of_a_tar_has_the_place_that_tarfile_gives(tmp_path):
    path = str(write_tar(tmp_path / "0.tar", [("1.png", b"abc"), ("2.png", b"defg")]))
    with tarfile.open(path) as archive:
        expected = [TarMember(path, i.name, i.offset_data, i.size) for i in archive]
    assert list(list_members(path)) == expected
    assert [member.read() for member in expected] == [b"abc", b"defg"]


@pytest.mark.parametrize(
    ("left", "reason", "num_images"),
    [
        (1024 + 512 + 100, "truncated in the middle of 2.png", 1),
        (1024 + 100, "truncated: it ends in the middle of a header", 1),
        (512 + 100, "truncated in the middle of 1.png", 0),
        (0, "is empty, and no tar file", 0),
    ],
)
def test_the_images_before_the_end_of_a_truncated_tar_are_kept(tmp_path, left, reason, num_images):
    whole = write_tar(tmp_path / "a.tar", [("1.png", b"a" * 500), ("2.png", b"b" * 500)])
    broken = tmp_path / "b.tar"
    broken.write_bytes(whole.read_bytes()[:left])
    source = open_source([str(whole), str(broken)])
    assert len(list(source.items())) == 2 + num_images
    images = f"{num_images:,} images before are captioned"
    assert source.problems == [f"{broken}: {reason} ({images})"]


def test_a_tar_that_is_damaged_or_compressed_says_so(tmp_path):
    path = write_tar(tmp_path / "a.tar", [(f"{n}.png", b"a" * 500) for n in range(3)])
    data = bytearray(path.read_bytes())
    data[1024:1536] = b"x" * 512  # the header of the second member
    path.write_bytes(data)
    with pytest.raises(TarError, match="damaged at byte 1,024"):
        list(list_members(str(path)))
    with tarfile.open(tmp_path / "b.tar", "w:gz"):
        pass
    with pytest.raises(TarError, match="is compressed"):
        list(list_members(str(tmp_path / "b.tar")))


def test_a_tar_in_a_folder_is_not_looked_into(tmp_path):
    write_tar(tmp_path / "0.tar", [("1.png", jpeg(RED))])
    with pytest.raises(UsageError, match="no images"):
        open_source([str(tmp_path)])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{2..1}", ["2", "1"]),
        ("a{0..1}/{00..01}.tar", ["a0/00.tar", "a0/01.tar", "a1/00.tar", "a1/01.tar"]),
        ("{a,b}.tar", ["{a,b}.tar"]),
    ],
)
def test_brace_ranges_are_those_of_bash(pattern, expected):
    assert list(expand_ranges(pattern)) == expected


def test_a_range_of_tars_names_those_that_are_missing(tmp_path):
    for number in (0, 2):
        write_tar(tmp_path / f"{number:05}.tar", [("1.png", jpeg(RED))])
    source = open_source([f"{tmp_path}/{{00000..00002}}.tar"])
    assert len(list(source.items())) == 2
    assert source.problems == [f"{tmp_path}/00001.tar: no such file or folder"]


# Parquet


def write_parquet(path, values, row_group=2, **column):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"id": list(range(len(values))), "image": pa.array(values, **column)})
    pq.write_table(table, path, row_group_size=row_group)
    return path


def outcomes(path):
    """The name of each image, with its colour or its error."""
    for item in open_source([str(path)]).items():
        try:
            yield item.name.removeprefix(f"{path}:"), colour_of(item)
        except ImageError as error:
            yield item.name.removeprefix(f"{path}:"), error.reason


def test_a_parquet_column_of_paths(tmp_path):
    (tmp_path / "a.png").write_bytes(jpeg(BLUE))
    path = write_parquet(tmp_path / "list.parquet", ["a.png", None, "gone.png"])
    assert list(outcomes(path)) == [
        ("a.png", BLUE),
        ("2", "the row of the list has no image"),
        ("gone.png", "no such file"),
    ]


def test_a_parquet_column_of_bytes(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", [jpeg(RED), None, b"", jpeg(BLUE), jpeg(RED)])
    assert list(outcomes(path)) == [
        ("1", RED),
        ("2", "the row of the list has no image"),
        ("3", "is empty (0 bytes)"),
        ("4", BLUE),
        ("5", RED),
    ]


def test_a_parquet_column_of_images_as_datasets_writes_them(tmp_path):
    (tmp_path / "b.png").write_bytes(jpeg(BLUE))
    values = [
        {"bytes": jpeg(RED), "path": "x.png"},
        {"bytes": None, "path": "b.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": jpeg(BLUE), "path": None},
    ]
    path = write_parquet(tmp_path / "p.parquet", values)
    assert list(outcomes(path)) == [
        ("x.png", RED),
        ("b.png", BLUE),
        ("3", "the row of the list has no image"),
        ("4", "the row of the list has no image"),
        ("5", BLUE),
    ]


def test_a_parquet_column_of_numbers_and_a_file_that_is_no_parquet_are_errors(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", [1, 2])
    with pytest.raises(UsageError, match="the column image is int64"):
        open_source([str(path)])
    path.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"p\.parquet"):
        open_source([str(path)])


def test_parquet_without_pyarrow_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "p.parquet").write_bytes(b"")
    with pytest.raises(MissingPackageError, match=r"needs the package pyarrow.*pip install"):
        open_source([str(tmp_path / "p.parquet")])


# Stores


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A local folder as the bucket of s3://bucket."""
    fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install pyarrow")
    local = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(filesystems, "_file_system", lambda scheme, bucket: local)
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def test_folders_tars_and_lists_of_a_store_are_read_through_pyarrow(bucket):
    (bucket / "photos" / "b").mkdir(parents=True)
    (bucket / "photos" / "b" / "2.png").write_bytes(jpeg(BLUE))
    (bucket / "photos" / "1.png").write_bytes(jpeg(RED))
    write_tar(bucket / "0.tar", [("3.png", jpeg(BLUE)), ("4.png", jpeg(RED))])
    (bucket / "list.txt").write_text("photos/1.png\ns3://bucket/photos/b/2.png\ngone.png\n")
    source = open_source([f"s3://bucket/{name}" for name in ("photos/", "0.tar", "list.txt")])
    *items, gone = source.items()
    assert [item.name for item in items] == [
        "s3://bucket/photos/1.png",
        "s3://bucket/photos/b/2.png",
        "s3://bucket/0.tar/3.png",
        "s3://bucket/0.tar/4.png",
        "photos/1.png",
        "s3://bucket/photos/b/2.png",
    ]
    assert [colour_of(item) for item in items] == [RED, BLUE, BLUE, RED, RED, BLUE]
    with pytest.raises(ImageError, match=r"s3://bucket/gone\.png: no such file"):
        read_image(gone.image)
    assert source.problems == []


def test_json_lists_round_trip_names_that_are_not_utf_8(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"image": "\udce9.jpg"}))
    assert names(path) == ["\udce9.jpg"]
