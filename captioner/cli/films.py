"""The films of `captioner caption`: frames with their times, and files of their captions."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from captioner.captions import Caption
from captioner.config.schema import DecodingConfig, ImageEncoderConfig
from captioner.console import console, one_line
from captioner.data.animations import Animation, is_animation
from captioner.data.films import Film, changed_frames, check_av, format_time, is_film
from captioner.data.images import SUFFIXES, ReadableImage
from captioner.errors import ImageError, UsageError

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner
    from captioner.results.films import FilmResults

EVERY = 2.0
"""Seconds between frames, unless told otherwise."""

SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

Show = Callable[[str, Mapping[str, object], Caption], None]
"""Prints a caption, given the columns before it, and what the JSON line has before it."""


class FilmOptions(NamedTuple):
    """How films are captioned."""

    decoding: DecodingConfig
    every: float  # seconds between frames
    batch_size: int
    explain: bool


def parse_every(text: str | None) -> float:
    """Return the seconds that an option such as 2s, 500ms, 1m or 0.5 says.

    Raises:
        UsageError: it is no such time, or less than a millisecond.
    """
    if text is None:
        return EVERY
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+) ?([a-z]*)", text.strip().lower())
    seconds = float(match[1]) * SECONDS.get(match[2], math.nan) if match else math.nan
    if not 0.001 <= seconds < math.inf:
        raise UsageError(
            f"--every {one_line(text)[:40]}: give a time of at least 1ms, such as 2s, 500ms, 1m or "
            "0.5"
        )
    return seconds


def find_films(
    files: Sequence[Path], named: Sequence[str], *, animations: bool = False
) -> list[Path]:
    """Return the files that are films, by their content.

    A file with a suffix of an image is looked into only if it was named itself: a folder may hold
    a hundred thousand of them.

    Args:
        files: files of any kind.
        named: the arguments of the command.
        animations: take animated images that were named themselves as films too.
    """
    names = set(named)
    looked_into = [
        file for file in files if file.suffix.lower() not in SUFFIXES or str(file) in names
    ]
    return [file for file in looked_into if is_film(file) or (animations and is_animation(file))]


def check_films(
    films: Sequence[Path],
    files: Sequence[Path],
    *,
    output: Path | None,
    report: Path | None,
    annotations: Path | None,
    every: str | None,
) -> None:
    """Raise an error, before anything is read, if options do not fit the films among the files.

    Raises:
        UsageError: an option has no effect on films, or none on images.
        MissingPackageError: the package that decodes films is not installed.
    """
    if not films:
        if every is not None:
            raise UsageError(
                "--every has no effect without a film: leave it out, or name an animated image"
            )
        return
    for option, value in (("--report", report), ("--annotations", annotations)):
        if value:
            raise UsageError(
                f"{option} is for images, and {films[0]} is a film: leave out one of them"
            )
    if output:
        if len(films) < len(files):
            image = next(file for file in files if file not in films)
            raise UsageError(
                f"--output is of films or of images: {films[0]} is a film and {image} is none: "
                "caption them in two runs"
            )
        from captioner.results.films import check_destination

        check_destination(output, num_films=len(films))
    if any(is_film(film) for film in films):  # the others are animations
        check_av()


def caption_films(
    films: Sequence[Path],
    captioner: Captioner,
    options: FilmOptions,
    *,
    show: Show,
    output: Path | None,
    provenance: Callable[[], Mapping[str, object]],
) -> bool:
    """Caption films, and return whether all of them could be read completely.

    Args:
        films: the files.
        captioner: captions their frames.
        options: how.
        show: prints a caption.
        output: a file for all captions, of WebVTT or JSON lines.
        provenance: returns what the captions depend on, for the results in `output`.
    """
    num_broken = 0
    with _open_results(films, output, options.every, provenance) as results:
        for path in films:
            if results and str(path) in results.done:
                console.print(f"captioner: {path}: captioned by an interrupted run", markup=False)
                continue
            film = (Film if is_film(path) else Animation)(path, every=options.every)
            last, error = 0.0, None
            try:
                for time, caption in _captions(film, captioner, options):
                    last = time
                    named = {"film": str(path), "time": round(time, 3)}
                    show(f"{one_line(path)}\t{format_time(time)}", named, caption)
                    if results:
                        results.add(path, time, caption.shown)
            except ImageError as failure:
                error = failure
                num_broken += 1
                console.print(f"captioner: {one_line(error)}", markup=False)
            if results:
                # A film that does not say how long its last frame is shown.
                end = film.end if film.end > last else last + options.every
                results.end(path, end, complete=error is None)
    if num_broken:
        console.print(f"captioner: {num_broken} of {len(films)} films could not be read completely")
    return not num_broken


def _captions(
    film: Film | Animation, captioner: Captioner, options: FilmOptions
) -> Iterator[tuple[float, Caption]]:
    """Yield the time, in seconds, and the caption of each frame that differs from the last."""
    from captioner.data.transforms import build_transform

    encoder = cast(ImageEncoderConfig, captioner.config.encoder)
    transform = build_transform(encoder.transform, encoder.image_size)
    times: deque[float] = deque()  # of the frames that are read ahead

    def frames() -> Iterator[ReadableImage]:
        for frame in changed_frames(film, transform):
            times.append(frame.time)
            yield frame.image

    stream = captioner.stream(
        frames(),
        decoding=options.decoding,
        explain=options.explain,
        batch_size=options.batch_size,
    )
    with closing(stream) as captions:  # type: ignore[type-var]
        for caption in captions:
            time = times.popleft()
            if isinstance(caption, ImageError):
                raise ImageError(str(film.path), f"{caption.reason} at {format_time(time)}")
            yield time, caption


def _open_results(
    films: Sequence[Path],
    output: Path | None,
    every: float,
    provenance: Callable[[], Mapping[str, object]],
) -> AbstractContextManager[FilmResults | None]:
    if output is None:
        return nullcontext()
    from captioner.results.films import film_results

    return film_results(output, films, provenance={**provenance(), "every": every})
