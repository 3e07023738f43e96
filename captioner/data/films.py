"""Read frames of film files, at a regular distance in time; the package av (FFmpeg) decodes."""

from __future__ import annotations

import errno
import math
import os
import random
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from PIL import Image

from captioner.data.images import MAX_PIXELS, SIGNATURES
from captioner.data.pixels import UnreadableError, check_size
from captioner.errors import ImageError, MissingPackageError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from captioner.data.transforms import Transform

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".mkv", ".webm", ".avi", ".ogv", ".flv"),
    *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".wmv", ".asf"),
)
"""File name suffixes of films."""

FORMATS = "MP4, QuickTime, Matroska, WebM, AVI, Ogg, FLV, MPEG, ASF"

STARTS = (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"OggS", "ogg"),
    (b"FLV\x01", "flv"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"0&\xb2u\x8ef\xcf\x11", "asf"),
)
"""How files begin, and the demuxer of FFmpeg for it. FFmpeg's own probing is not used: some of its
demuxers read other files and URLs that a file names (playlists), and others accept any text."""

QUICKTIME_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
STILL_BRANDS = (b"avi", b"hei", b"hev", b"mif", b"msf", b"crx")  # of photographs: AVIF, HEIC, CR3

TRANSPOSE_OF_QUARTERS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}
"""How to turn a frame by quarters of a full turn counterclockwise."""

MAX_SAME = 2.0
"""Frames show the same if their mean absolute difference, of the encoder's input in 0..255, is at
most this. docs/films.md has the measurement: noise and compression of a camera that stands still
make 1.4, an object on 1.3 % of the picture 2.7."""

MAX_WAITING = 256  # compressed packets in memory that may not have to be decoded
TOLERANCE = 1e-6  # seconds, of rounding
JUMP_BACK = 1.0  # seconds by which times must not go back: streams that were joined do
MISSING_END = 1.0  # seconds by which a film may be shorter than its header says


class Frame(NamedTuple):
    """A frame of a film."""

    time: float  # in seconds from the beginning of the film
    image: Image.Image  # upright RGB


def format_time(seconds: float) -> str:
    """Return a time as WebVTT has it: 00:01:02.500."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    whole, rest = divmod(milliseconds, 1000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{whole:02}.{rest:03}"


def is_film(path: Path) -> bool:
    """Return whether a file is a film by its content; or by its name, and it is no image."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            return False
        with path.open("rb") as file:
            head = _head(file)
    except OSError:
        return False
    is_image = head.startswith(SIGNATURES) or head[8:12] == b"WEBP" or _is_still(head)
    return bool(_demuxer(head)) or (path.suffix.lower() in SUFFIXES and not is_image)


def check_av() -> None:
    """Raise a `MissingPackageError` if the package that decodes films is not installed."""
    if find_spec("av") is None:
        raise MissingPackageError(
            "captioning a film needs the package av, which is not installed: pip install 'av>=18'"
        )


def next_due(time: float, every: float) -> float:
    """Return the next multiple of `every` after the time of a frame; all in seconds."""
    return (math.floor((time + TOLERANCE) / every) + 1) * every


class Film:
    """The frames of a film at a regular distance in time, upright, read as they are asked for.

    They are the first frame, and the first at or after each later multiple of `every`, so a film
    without a constant frame rate gives no frame twice. Their times are the film's own.
    """

    def __init__(self, path: Path, *, every: float, max_pixels: int = MAX_PIXELS) -> None:
        """Read a frame each `every` seconds; frames of more than `max_pixels` are not decoded."""
        self.path = path
        self.every = every
        self.max_pixels = max_pixels
        self.end = 0.0  # in seconds: where what has been read so far ends

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            ImageError: the film cannot be read, or not from some time on, or frames of it are
                damaged, which are left out. The frames that can be read come first.
        """
        with _film_errors(self.path), self.path.open("rb") as file:
            import av

            options = {"max_pixels": str(self.max_pixels)}  # a later frame can have another size
            with av.open(
                _Seekable(file),
                mode="r",
                format=_checked_demuxer(_head(file)),
                options=options,
                **_tolerance_of_tags(),
                container_options={"protocol_whitelist": "none"},
            ) as container:
                stream = _video_stream(container)
                codec = stream.codec_context
                if not codec.width:  # FFmpeg itself has found more pixels than `max_pixels`
                    raise UnreadableError(
                        f"too large, or its size is not known: the limit is {self.max_pixels:,} "
                        "pixels"
                    )
                check_size(codec.width, codec.height, self.max_pixels)
                codec.options = options
                yield from _Sampler(self, container, stream)


def _tolerance_of_tags() -> dict[str, Any]:
    """Return what makes av read films whose tags (title, artist) are not UTF-8.

    av 18, the last one for Python 3.11, has a setting. av 19 always reads them, and has none.
    """
    import av

    before_19 = int(av.__version__.split(".")[0]) < 19
    return {"metadata_errors": "replace"} if before_19 else {}


class _Seekable:
    """A file that answers a seek to an impossible place as C does: av prints a traceback else."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.tell, self._seek = file.read, file.tell, file.seek

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Return the new place, or an error as a negative number."""
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


class _Sampler:
    """One pass over an opened film."""

    def __init__(self, film: Film, container: InputContainer, stream: VideoStream) -> None:
        self.film, self.container, self.stream = film, container, stream
        self.start = (container.start_time or 0) / 1e6  # in seconds; 1e6 is FFmpeg's AV_TIME_BASE
        self.next = -math.inf  # seconds: frames before it are passed over
        self.later_key: int | None = None  # pts of the second key frame
        self.can_drop = False  # key frames depend on nothing before them
        self.last = 0.0  # seconds: of the last decoded frame
        self.damaged: float | None = None  # seconds: of the first damaged packet or frame
        self.needs_key = False  # frames depend on a damaged one, until the next key frame
        self.last_dts = -math.inf  # seconds: of the last packet
        self.jumped = False  # times have gone back

    def __iter__(self) -> Iterator[Frame]:
        import av

        waiting: list[Packet[VideoStream]] = []
        failure: Exception | None = None
        try:
            for packet in self.container.demux():
                if packet.stream is not self.stream or not packet.size:
                    self._set_end(packet)
                    continue
                if self._goes_back(packet):
                    break
                yield from self._take(waiting, packet)
                self._set_end(packet)
        except av.FFmpegError as error:  # the frames before the break follow
            failure = error
        yield from self._sample(waiting)
        yield from self._sample([None])
        self._check(failure)

    def _take(self, waiting: list[Packet[VideoStream]], packet: Packet[Any]) -> Iterator[Frame]:
        """Yield frames that are due. A packet waits, as a key frame can make its decoding needless.

        What follows a key frame in time depends on nothing before it, if the decoder agrees that it
        is one. So all before the last key frame that is not after the next time of interest is
        dropped.
        """
        time = self._time(packet)
        if packet.is_keyframe and time is not None:
            if self.can_drop and time <= self.next:
                waiting.clear()
                self.stream.codec_context.flush_buffers()
            elif self.later_key is None and self.next > -math.inf:
                self.later_key = packet.pts
        waiting.append(packet)
        is_due = time is None or time >= self.next - TOLERANCE
        if is_due or not self.can_drop or len(waiting) >= MAX_WAITING:
            yield from self._sample(waiting)
            waiting.clear()

    def _sample(self, packets: Iterable[Packet[VideoStream] | None]) -> Iterator[Frame]:
        """Decode packets (None: the end), and yield the frames that are due."""
        for packet in packets:
            for frame in self._decode(packet):
                time = self._time(frame)
                if time is None:  # some old files have none: take the average rate
                    time = self.last + 1 / float(self.stream.average_rate or 25)
                self.last = time
                if self._is_sound(frame, time) and time >= self.next - TOLERANCE:
                    self.next = next_due(time, self.film.every)
                    yield Frame(time, self._to_image(frame))

    def _decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        import av

        try:
            return self.stream.codec_context.decode(packet)
        except av.FFmpegError:
            time = None if packet is None else self._time(packet)
            self._set_damaged(self.last if time is None else time)
            return []

    def _is_sound(self, frame: VideoFrame, time: float) -> bool:
        """Return whether a frame is as it was encoded. A decoder conceals most errors."""
        if frame.is_corrupt:
            self._set_damaged(time)
        elif frame.key_frame:
            self.needs_key = False
            if frame.pts is not None and frame.pts == self.later_key:
                # The decoder agrees that it is a key frame. With periodic intra refresh, packets
                # are marked at which a stream can be entered, and frames are complete only later.
                self.can_drop = True
        return not self.needs_key

    def _to_image(self, frame: VideoFrame) -> Image.Image:
        image = Image.fromarray(frame.to_ndarray(format="rgb24"))
        transpose = TRANSPOSE_OF_QUARTERS.get(round(frame.rotation / 90) % 4)
        return image if transpose is None else image.transpose(transpose)

    def _time(self, timed: Packet[Any] | VideoFrame) -> float | None:
        """Return when a packet or a frame is shown, in seconds from the beginning of the film."""
        if timed.pts is None or timed.time_base is None:
            return None
        return max(0.0, float(timed.pts * timed.time_base) - self.start)

    def _goes_back(self, packet: Packet[Any]) -> bool:
        """Return whether a packet begins another film, as in joined transport streams."""
        if packet.dts is None or packet.time_base is None:
            return False
        dts = float(packet.dts * packet.time_base)
        self.jumped = dts < self.last_dts - JUMP_BACK
        self.last_dts = dts
        return self.jumped

    def _set_damaged(self, time: float) -> None:
        self.damaged = time if self.damaged is None else self.damaged
        self.needs_key = True

    def _set_end(self, packet: Packet[Any]) -> None:
        time = self._time(packet)
        if time is not None:
            length = float((packet.duration or 0) * packet.time_base)
            self.film.end = max(self.film.end, time + length)

    def _check(self, failure: Exception | None) -> None:
        """Raise an `UnreadableError` if the film could not be read completely."""
        length = (self.container.duration or 0) / 1e6
        if failure:
            raise UnreadableError(f"breaks at {format_time(self.film.end)} ({_words(failure)})")
        if self.jumped:
            raise UnreadableError(
                f"its times jump back at {format_time(self.film.end)}: what follows is left out"
            )
        if self.film.end < length - MISSING_END:
            raise UnreadableError(
                f"truncated: ends at {format_time(self.film.end)} of {format_time(length)}"
            )
        if self.next == -math.inf:
            raise UnreadableError("holds no frame that can be decoded")
        if self.damaged is not None:
            raise UnreadableError(
                f"damaged at {format_time(self.damaged)}: frames that depend on this are left out"
            )


def changed_frames(frames: Iterable[Frame], transform: Transform) -> Iterator[Frame]:
    """Yield the frames that differ from the last one yielded by more than `MAX_SAME`.

    The difference is the mean absolute one of the pixels (3, size, size) that the encoder sees.
    """
    import numpy as np  # here: the command line shows its help without it

    last: np.ndarray | None = None
    for frame in frames:
        pixels = transform(frame.image, random.Random(0)).astype(np.int16)
        if last is None or np.abs(pixels - last).mean() > MAX_SAME:
            last = pixels
            yield frame


def _head(file: BinaryIO) -> bytes:
    """Return the first bytes of a file, and leave it at its beginning."""
    head = file.read(400)
    file.seek(0)
    return head


def _is_still(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:11] in STILL_BRANDS


def _demuxer(head: bytes) -> str | None:
    """Return FFmpeg's name of the format of a film, or None if it does not begin like one."""
    for start, name in STARTS:
        if head.startswith(start):
            return name
    if head[4:8] in QUICKTIME_BOXES and not _is_still(head):
        return "mov"
    if head.startswith(b"RIFF") and head[8:11] == b"AVI":
        return "avi"
    # A transport stream: packets of 188 bytes that begin with G, after 4 bytes on Blu-ray discs.
    if head[0:1] == head[188:189] == head[376:377] == b"G":
        return "mpegts"
    if head[4:5] == head[196:197] == head[388:389] == b"G":
        return "mpegts"
    return None


def _checked_demuxer(head: bytes) -> str:
    if not head:
        raise UnreadableError("is empty (0 bytes)")
    if name := _demuxer(head):
        return name
    raise UnreadableError(f"not a film in a supported format ({FORMATS})")


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the stream to show; a picture on the cover of a piece of music is none."""
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [each for each in container.streams.video if not each.disposition & cover]
    if not streams:
        raise UnreadableError("holds no video")
    best: Any = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise UnreadableError("its video is in a format that this build of av cannot decode")
    return stream


@contextmanager
def _film_errors(path: Path) -> Iterator[None]:
    """Turn an exception into an `ImageError` that names the film."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # FFmpeg's are of many types
        raise ImageError(os.fspath(path), _reason(error)) from error


def _reason(error: Exception) -> str:
    match error:
        case UnreadableError():
            return str(error)
        case MemoryError():
            return "not enough memory"
        case OSError() if not type(error).__module__.startswith("av."):
            return _words(error)
    return f"truncated, corrupt, or in a variant that is not supported ({_words(error)})"


def _words(error: Exception) -> str:
    """Return what FFmpeg or the system says of an error, without the repr of the open file."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).lower()
