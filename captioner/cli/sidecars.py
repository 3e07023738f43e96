"""What `captioner caption` writes of each image by itself: sidecars, and alternative texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import typer

from captioner.captions import Caption
from captioner.cli.bulk import Run
from captioner.cli.options import with_option_names
from captioner.console import console, one_line
from captioner.data.lists import BrokenRow, ImageItem
from captioner.errors import ImageError, UsageError
from captioner.results.sidecars import Existing, NotWrittenError, Sidecars, Suffix

SidecarOption = Annotated[
    Suffix | None,
    typer.Option(
        help="Write the caption of each image to a text file beside it: photo.txt, or "
        "photo.caption.",
        show_default=False,
    ),
]
SidecarFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--sidecar-dir",
        metavar="FOLDER",
        help="Write the files of --sidecar to this folder, with the subfolders of the images.",
        show_default="beside the images",
    ),
]
PrefixTextOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Text before each caption in the files of --sidecar, such as a trigger word: "
        "'sks dog, '.",
        show_default=False,
    ),
]
SuffixTextOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Text after each caption in the files of --sidecar.",
        show_default=False,
    ),
]
ExistingOption = Annotated[
    Existing | None,
    typer.Option(
        help="What --sidecar and --xmp do about images that have a text already: `error` captions "
        "nothing, `skip` leaves these images out, `append` adds a line.",
        show_default="error",
    ),
]
XmpOption = Annotated[
    bool,
    typer.Option(
        "--xmp",
        help="Write captions into the image files, as the alternative text (IPTC) of XMP; needs "
        "exiftool.",
    ),
]
AltHtmlOption = Annotated[
    bool,
    typer.Option("--alt-html", help="Print an HTML element <img> for each image instead."),
]


class TextOptions(NamedTuple):
    """The options above, as given."""

    sidecar: Suffix | None
    sidecar_dir: Path | None
    prefix_text: str | None
    suffix_text: str | None
    existing: Existing | None
    xmp: bool
    alt_html: bool

    def check(self, *, output: object, report: object, as_json: bool) -> None:
        """Raise an error, before anything is read, if options do not fit each other.

        Args:
            output: the value of --output.
            report: the value of --report.
            as_json: whether --json is given.

        Raises:
            UsageError: names the option.
        """
        of_sidecars = {
            "--sidecar-dir": self.sidecar_dir,
            "--prefix-text": self.prefix_text,
            "--suffix-text": self.suffix_text,
        }
        for option, text in of_sidecars.items():
            if text is not None and not self.sidecar:
                raise UsageError(f"{option} has no effect without --sidecar: add --sidecar txt")
            if isinstance(text, str) and text.splitlines() not in ([text], []):
                raise UsageError(f"{option} has a line break: a caption is one line")
        if self.existing and not (self.sidecar or self.xmp):
            raise UsageError("--existing has no effect without --sidecar or --xmp: add one of them")
        for option, value in (("--output", output), ("--report", report)):
            if value and self.existing == "skip":
                raise UsageError(
                    f"{option} would lack the images that --existing skip leaves out: leave out "
                    "one of them"
                )
        if self.alt_html and as_json:
            raise UsageError("--alt-html and --json both say what is printed: leave out one")

    def refuse_films(self, films: Sequence[Path]) -> None:
        """Raise an error if there are films, which have no such texts.

        Raises:
            UsageError: names the option and a film.
        """
        given = {"--sidecar": self.sidecar, "--xmp": self.xmp, "--alt-html": self.alt_html}
        for option, value in given.items():
            if value and films:
                raise UsageError(
                    f"{option} is for images, and {films[0]} is a film: leave out one of them"
                )


class TextOutput(Protocol):
    """Writes a text of each image: `captioner.results.sidecars.Sidecars`, or `.xmp.AltTexts`."""

    def check(self, items: Sequence[ImageItem], *, may_exist: bool = False) -> None:
        """Raise an error, before these images are captioned, if a text must not be written."""

    def wants(self, item: ImageItem) -> bool:
        """Return whether an image is to be captioned."""

    def add(self, item: ImageItem, captions: Sequence[str]) -> None:
        """Write the captions of an image; raise a `NotWrittenError` if this one cannot be."""


class ImageTexts:
    """The texts of each image that a command writes; there may be none."""

    def __init__(self, outputs: Sequence[TextOutput] = ()) -> None:
        self._outputs = outputs
        self._reported: set[tuple[Path, str]] = set()
        self._num_failed = self._num_left_out = 0

    @property
    def are_written(self) -> bool:
        """Whether there are any texts."""
        return bool(self._outputs)

    def check(self, items: Sequence[ImageItem], *, may_exist: bool = False) -> None:
        """Check images, before the first is captioned; count those that are to be left out.

        Args:
            items: the images, or some of them.
            may_exist: whether they may have a text even with `--existing error`.

        Raises:
            UsageError: a text must not be written.
        """
        if self._outputs:
            readable = [item for item in items if not isinstance(item.image, BrokenRow)]
            for output in self._outputs:
                output.check(readable, may_exist=may_exist)
            self._num_left_out += len(items) - len(self.wanted(items))

    def wanted(self, items: Sequence[ImageItem]) -> list[ImageItem]:
        """Return the images to caption."""
        return [item for item in items if not self._outputs or self._wants(item)]

    def _wants(self, item: ImageItem) -> bool:
        # A row of a list that names no image is kept: it is to be reported.
        is_broken = isinstance(item.image, BrokenRow)
        return is_broken or any(output.wants(item) for output in self._outputs)

    def add(self, item: ImageItem, caption: Caption | ImageError) -> None:
        """Write the texts of an image that was read; what cannot be written is reported.

        Raises:
            CaptionerError: no text can be written: the disk is full.
        """
        if not self._outputs or isinstance(caption, ImageError):
            return
        for output in self._outputs:
            try:
                output.add(item, caption.shown)
            except NotWrittenError as error:
                self._num_failed += 1
                # Of a read-only folder with thousands of images, one line.
                place = (Path(error.name).parent, error.reason)
                if place not in self._reported:
                    self._reported.add(place)
                    message = one_line(with_option_names(error))
                    console.print(f"captioner: {message}", markup=False)

    def report(self) -> None:
        """Report how many images were left out, and how many texts could not be written.

        Raises:
            Exit: some texts could not be written.
        """
        if number := self._num_left_out:
            images = "image has" if number == 1 else "images have"
            console.print(f"captioner: {number:,} {images} a text already: left out")
        if number := self._num_failed:
            texts = "text" if number == 1 else "texts"
            console.print(f"captioner: {number:,} {texts} could not be written")
            raise typer.Exit(3)


def with_texts(run: Run, texts: ImageTexts) -> Run:
    """Return a bulk run of those images that are to have texts. All images are checked.

    Images of other shards, and of parts that are done, may have a text: this run wrote it.

    Raises:
        UsageError: a text must not be written.
    """
    if not texts.are_written:
        return run
    from captioner.bulk.parts import ALL, Shard

    shard = Shard.parse(run.shard) if run.shard else ALL
    done = run.done_parts()
    for number, items in run.source.parts(run.part_size):
        texts.check(items, may_exist=number in done or not shard.takes(number))
    return run._replace(source=run.source.filtered(texts.wanted))


@contextmanager
def open_texts(options: TextOptions, paths: Sequence[str]) -> Iterator[ImageTexts]:
    """Yield what writes the texts that options ask for, and report at the end what it did.

    Args:
        options: checked ones.
        paths: the arguments that name the images.

    Raises:
        MissingPackageError: exiftool is not installed.
        Exit: some texts could not be written.
    """
    outputs: list[TextOutput] = []
    existing = options.existing or "error"
    if options.sidecar:
        outputs.append(
            Sidecars(
                options.sidecar,
                paths,
                folder=options.sidecar_dir,
                before=options.prefix_text or "",
                after=options.suffix_text or "",
                existing=existing,
            )
        )
    with ExitStack() as stack:
        if options.xmp:
            from captioner.results.xmp import AltTexts

            outputs.append(stack.enter_context(AltTexts(existing=existing)))
        texts = ImageTexts(outputs)
        try:
            yield texts
        except typer.Exit:
            texts.report()
            raise
    texts.report()
