"""Sources of data: one mapping or a list of them, with images or text, in a file or as options."""

from pathlib import Path

import pytest

from captioner.config.loading import apply_overrides
from captioner.config.run import Config, DataConfig, SourceConfig, source_names
from captioner.errors import UsageError

IMAGES, TEXT = {"annotations": "a.json"}, {"text": "t.txt"}
PAIRS = {"source": "a.en", "target": "a.de"}
GENERATED = {"task": "addition", "folder": "x"}


def parse(**data):
    return Config.parse({"data": data}, source="x.yaml").data


def overridden(train, *pairs):
    return parse(**apply_overrides({"data": {"train": train}}, pairs)["data"]).train


def test_a_source_is_a_list_of_one():
    assert parse(train=IMAGES) == parse(train=[IMAGES])
    assert parse(train=IMAGES, dev=None).dev == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": {}}, "data.train: no file is given: name one of annotations (with images), "),
        ({"train": [IMAGES | TEXT]}, "data.train.0: annotations and text are given: name one"),
        (
            {"train": [IMAGES, TEXT | {"images": "x"}]},
            "data.train.1: text is captions alone: leave out images",
        ),
        ({"train": [IMAGES, TEXT | {"repeat": 2}]}, "leave out repeat"),
        ({"train": [IMAGES, TEXT | {"captions_per_image": 2}]}, "leave out captions_per_image"),
        ({"train": IMAGES | {"share": 0.5}}, "data.train: share is for text: set repeat"),
        ({"train": [IMAGES, TEXT | {"share": 1}]}, "data.train.1.share is 1"),
        ({"train": IMAGES, "dev": TEXT}, "dev has text, which has no images to caption"),
        ({"train": IMAGES, "dev": IMAGES | {"repeat": 2}}, "dev has repeat"),
        ({"train": TEXT}, "train has text only: add a source with images"),
        ({"train": [IMAGES, TEXT, TEXT]}, "train has several texts: set the share of each"),
        (
            {"train": [IMAGES, TEXT | {"share": 0.5}, TEXT | {"share": 0.5}]},
            "the shares of text in train sum to 1 or more",
        ),
        ({"train": IMAGES | {"name": "mean"}}, "name is mean, which stands for all sources"),
        (
            {"train": [IMAGES | {"name": "a"}, IMAGES | {"name": "a"}]},
            "data.train: two sources have the name 'a'",
        ),
        ({"train": {"target": "a.de"}}, "data.train: no file is given"),
        ({"train": IMAGES | {"target": "a.de"}}, "target belongs to source"),
        ({"train": IMAGES | PAIRS}, "annotations and source are given"),
        ({"train": TEXT | PAIRS}, "text and source are given"),
        ({"train": PAIRS | {"images": "x"}}, "source has no images: leave out images"),
        ({"train": PAIRS | {"split": "x"}}, "source has no images: leave out split"),
        ({"train": PAIRS | {"restval": True}}, "source has no images: leave out restval"),
        ({"train": PAIRS | {"share": 0.5}}, "share is for text"),
        ({"train": [PAIRS, IMAGES]}, "some sources are texts to translate and others are not"),
        ({"train": [PAIRS, TEXT]}, "some sources are texts to translate and others are not"),
        ({"train": PAIRS, "dev": IMAGES}, "some sources are texts to translate and others are"),
        ({"train": PAIRS}, "data has texts, but the encoder reads images: set encoder.kind=text"),
        ({"generated": GENERATED}, "data has texts, but the encoder reads images"),
        ({"generated": GENERATED | {"task": "sums"}}, "data.generated.task is 'sums': choose"),
        ({"train": IMAGES, "tokenizer": {"kind": "bpe"}}, "data.tokenizer.kind is 'bpe': choose"),
        ({"train": {"anotations": "x"}}, "'data.train.anotations': did you mean 'data.train.anno"),
        ({"train": [{"anotations": "x"}]}, "did you mean 'data.train.0.annotations'?"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused_with_the_way_out(data, message):
    with pytest.raises(UsageError) as caught:
        parse(**data)
    assert message in str(caught.value)


def test_the_only_text_has_half_of_an_epoch_and_several_have_what_they_say():
    assert DataConfig.share_of(SourceConfig(text="t.txt")) == 0.5
    assert DataConfig.share_of(SourceConfig(text="t.txt", share=0.2)) == 0.2


@pytest.mark.parametrize("train", [IMAGES, [IMAGES]])
def test_an_option_without_a_number_sets_the_only_source(train):
    [source] = overridden(train, "data.train.repeat=3", "data.train.annotations=b.json")
    assert (source.repeat, source.annotations) == (3, Path("b.json"))


@pytest.mark.parametrize("train", [None, []])
@pytest.mark.parametrize("key", ["data.train.annotations", "data.train.0.annotations"])
def test_an_option_makes_the_first_source(train, key):
    assert overridden(train, f"{key}=b.json") == parse(train={"annotations": "b.json"}).train


@pytest.mark.parametrize("train", [IMAGES, [IMAGES]])
def test_an_option_with_the_next_number_adds_a_source(train):
    first, second = overridden(train, "data.train.1.text=t.txt", "data.train.0.repeat=2")
    assert (first.path, first.repeat, second.text) == (Path("a.json"), 2, Path("t.txt"))


def test_an_option_without_a_number_is_refused_where_there_are_several_sources():
    with pytest.raises(UsageError, match=r"has 2 sources: write data\.train\.0\.repeat, or"):
        overridden([IMAGES, TEXT], "data.train.repeat=3")
    with pytest.raises(UsageError, match="no such section or list item"):
        overridden([IMAGES, TEXT], "data.train.5.repeat=3")


def test_names_come_from_the_files_and_from_their_folders_where_files_have_the_same():
    sources = [
        SourceConfig(annotations=path, split=split, name=name)
        for path, split, name in (
            ("coco/dev.json", None, None),
            ("flickr8k/dev.json", None, None),
            ("flickr8k/dev.json", None, None),
            ("cub.json", None, None),
            ("dataset.json", "val", None),
            ("x/dataset.json", "test", None),
            ("coco/dev.json", None, "mine"),
        )
    ]
    names = source_names(sources)
    here = Path.cwd().name
    assert names == [
        "coco-dev",
        "flickr8k-dev",
        "flickr8k-dev-2",
        "cub",
        f"{here}-dataset-val",
        "x-dataset-test",
        "mine",
    ]


def test_no_source_is_called_mean_which_stands_for_all_of_them(tmp_path):
    [name] = source_names([SourceConfig(annotations=tmp_path / "photos" / "mean.jsonl")])
    assert name == "photos-mean"
