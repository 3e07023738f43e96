"""Tables of images and captions are read as the programs that write them mean it."""

import csv
import io
import tracemalloc

import pytest

from captioner.data.datasets import load_references
from captioner.data.formats import UnsupportedFormatError, read_annotations
from captioner.data.problems import Problems
from captioner.data.tables import find_table, read_table

CAPTIONS = {
    "1.jpg": ["a dog, running", 'a "dog" says; woof', "two\nlines"],
    "2.jpg": ["a cat | asleep", "café"],
}
ROWS = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]


def read(text):
    """Return the captions of each image, and the problems by kind."""
    problems = Problems("x")
    table = find_table(text)
    assert table is not None
    return read_table(text, table, problems), {it.kind: list(it.cases) for it in problems}


def written(rows, **options):
    file = io.StringIO()
    csv.writer(file, **options).writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("index", [False, True])
def test_a_table_is_read_with_each_delimiter_quoting_and_line_end(delimiter, quoting, end, index):
    rows = [("image", "caption"), *ROWS]
    if index:  # as pandas and R write it: the first column has no name
        rows = [("", *rows[0]), *((number, *row) for number, row in enumerate(rows[1:]))]
    text = written(rows, delimiter=delimiter, quoting=quoting, lineterminator=end)
    assert read(text) == (CAPTIONS, {})


# What the programs wrote for two captions of 1.jpg and one of 2.jpg, where 2.jpg's is missing.
PANDAS = ',image,caption\n0,1.jpg,"a dog, running"\n1,1.jpg,"a ""dog"""\n2,2.jpg,\n'
PANDAS_TABS = '\timage\tcaption\n0\t1.jpg\ta dog, running\n1\t1.jpg\t"a ""dog"""\n2\t2.jpg\t\n'
R_CSV = (
    '"","image","caption"\n"1","1.jpg","a dog, running"\n"2","1.jpg","a ""dog"""\n"3","2.jpg",NA\n'
)
R_CSV2 = R_CSV.replace('","', '";"').replace('",NA', '";NA')
R_TABLE = R_CSV.replace('"",', "", 1)  # write.table: the header lacks the column of row names
EXCEL = 'image;caption;\r\n1.jpg;a dog, running;\r\n1.jpg;"a ""dog""";\r\n2.jpg;;\r\n;;\r\n'
EXCEL_SEP = "sep=;\r\n" + EXCEL


@pytest.mark.parametrize(
    "text",
    [PANDAS, PANDAS_TABS, R_CSV, R_CSV2, R_TABLE, EXCEL, EXCEL_SEP],
    ids=["pandas", "pandas, tabs", "R", "R csv2", "R write.table", "Excel", "Excel, sep="],
)
def test_what_pandas_r_and_excel_write_is_read(text):
    captions_of, problems = read(text)
    missing = captions_of.pop("2.jpg")
    assert missing in ([""], [None])
    assert captions_of == {"1.jpg": ["a dog, running", 'a "dog"']}
    assert problems == {}


def test_a_byte_order_mark_before_a_quoted_header_is_no_part_of_it(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_bytes(b'\xef\xbb\xbf"image";"caption"\r\n"1.jpg";"a dog"\r\n')
    assert load_references(path) == {"1.jpg": ["a dog"]}


def test_flickr30ks_results_are_read_with_the_row_that_lacks_a_bar(tmp_path):
    text = (
        "image_name| comment_number| comment\n"
        '1.jpg| 0| A man in a shirt that says " hi " , smiling .\n'
        '1.jpg| 1| " Hello " says a sign .\n'
        "1.jpg| 4   A dog runs across the grass .\n"
        "2.jpg| 0| A cat .\n"
        "2.jpg| one more\n"
    )
    captions_of, problems = read(text)
    assert captions_of["1.jpg"] == [
        ' A man in a shirt that says " hi " , smiling .',
        ' " Hello " says a sign .',
        "A dog runs across the grass .",
    ]
    assert problems == {
        'rows without a "|" after the number, read all the same': ["line 4"],
        "rows without exactly 3 columns": ["line 6"],
    }
    path = tmp_path / "results.csv"
    path.write_text("\n".join(text.splitlines()[:-1]))
    assert load_references(path)["2.jpg"] == ["A cat ."]  # without the spaces around it


def test_spaces_after_commas_may_come_before_quotes():
    text = 'image, caption\n1.jpg, "a dog, running"\n1.jpg, a cat\n'
    assert read(text) == ({"1.jpg": ["a dog, running", "a cat"]}, {})
    text = '"image", "caption"\n"1.jpg", "a dog, running"\n'
    assert read(text) == ({"1.jpg": ["a dog, running"]}, {})


@pytest.mark.parametrize("image", ["Image", "image_name", "file_name", "filename"])
@pytest.mark.parametrize("caption", ["Caption", "comment", "text"])
def test_columns_have_the_names_that_published_data_sets_use(image, caption):
    assert read(f"{caption},n,{image}\na dog,3,1.jpg\n")[0] == {"1.jpg": ["a dog"]}


@pytest.mark.parametrize(
    "text",
    [
        '"1,image,caption,2"\n1.jpg,a dog\n',  # one column, whose name has commas
        "a dog, an image, a caption\n",
        'image,"caption\n1.jpg,a dog\n',  # a quote that is never closed
        "image caption\n",
        "1.jpg#0\timage\tcaption of it\n",
        "",
    ],
)
def test_a_text_whose_first_row_has_no_such_columns_is_no_table(text):
    assert find_table(text) is None


@pytest.mark.parametrize(
    "header", ['"image","caption"', ' image , "caption"', 'image,"caption"', '"image";caption']
)
def test_the_parser_that_recognises_a_header_reads_it(header):
    row = "1.jpg;a dog" if ";" in header else "1.jpg,a dog"
    assert read(f"{header}\n{row}\n") == ({"1.jpg": ["a dog"]}, {})


def test_rows_are_numbered_by_their_lines_in_the_file_after_empty_lines():
    _, problems = read("\n \nimage,caption\n1.jpg,a dog\n\n1.jpg,a,b\n")
    assert problems == {"rows without exactly 2 columns": ["line 6"]}


def test_images_that_are_numbers_are_no_row_names():
    _, problems = read("image,caption\n17,a dog,brown\n3,a cat,black\n")
    assert problems == {"rows without exactly 2 columns": ["line 2", "line 3"]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_quote_that_is_not_closed_is_told_with_the_rows_that_it_swallows(delimiter):
    rows = ["image,caption", '1.jpg,"Open 24h', "2.jpg,a dog", '3.jpg,Closed"', "4.jpg,a cat"]
    captions_of, problems = read("\n".join(rows).replace(",", delimiter))
    assert list(captions_of) == ["1.jpg", "4.jpg"]
    kind = f"captions of several lines with {delimiter!r}: is a quote not closed?"
    assert problems == {kind: ["lines 2 to 4"]}


def test_a_caption_of_several_lines_is_no_sign_of_a_quote_that_is_not_closed():
    assert read('image,caption\n1.jpg,"a dog, running\non grass"\n')[1] == {}


@pytest.mark.parametrize("line", ["犬が走る\n", "image,caption\n"])
def test_recognising_a_table_does_not_copy_the_whole_text(line):
    text = line * 1_000_000
    tracemalloc.start()
    find_table(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 < len(text)  # bytes; the text has more characters


def test_a_file_without_a_header_is_refused_with_its_first_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\nfile;text_of_it\n1.jpg;a dog\n")
    with pytest.raises(UnsupportedFormatError, match="Its first line is 'file;text_of_it'"):
        read_annotations(path, None, False, Problems(path))
