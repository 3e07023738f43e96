"""Small films for tests, and files that look like one."""

import av
import numpy as np

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30))
"""Of the scenes of a film; each lasts two seconds."""


def draw(number, *, fps, size=(64, 48)):
    """Return a frame (H, W, 3): a white square moves to the right over the colour of the scene."""
    image = np.empty((size[1], size[0], 3), np.uint8)
    image[:] = COLOURS[number // (2 * fps) % len(COLOURS)]
    left = number % (size[0] - 12)
    image[4:16, left : left + 12] = 255
    return image


def write_film(path, *, seconds=6, fps=10, codec="mpeg4", size=(64, 48), times=None, **options):
    """Write a film of moving squares; `times` are those of its frames, in hundredths of a second.

    It has a key frame each second.
    """
    times = times or [round(100 * number / fps) for number in range(int(seconds * fps))]
    with av.open(str(path), "w", **options.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = int(options.get("g", fps))
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(number, fps=fps, size=size), format="rgb24")
            frame.pts = round(time * fps / 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path):
    """Write a file without video."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_all(path):
    """Return (time, image) of every frame, without any of the code that is tested."""
    with av.open(str(path)) as container:
        start = (container.start_time or 0) / 1e6
        return [
            (float(frame.pts * frame.time_base) - start, frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]


def damage(path, target, *, start, length):
    """Copy a film with `length` wrong bytes, from the share `start` of it on."""
    content = bytearray(path.read_bytes())
    first = int(len(content) * start)
    for place in range(first, first + length):
        content[place] ^= 0x5A
    target.write_bytes(content)
    return target


def truncate(path, target, *, share):
    """Copy the first part of a film."""
    content = path.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target
