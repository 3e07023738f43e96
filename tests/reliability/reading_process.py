"""A process of its own that reads images, so that its crash is something a test can see, and so is its memory."""

import multiprocessing
import resource
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Self

from captioner.data.images import read_image
from captioner.errors import ImageError

PATIENCE = 10  # seconds that one image may take


class ReadingProcess:
    """Reads what it is sent, one image at a time."""

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # a fork would begin with this process's memory
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_read_all, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the line
        assert self.line.recv() == "ready"

    def read(self, data: bytes, at_least: int | None = None) -> str:
        """Give "RGB", or the name and text of what was raised."""
        return self._ask((data, at_least))

    def peak_memory(self) -> int:
        """Give the most memory (bytes) that it has ever held."""
        return int(self._ask(None))

    def _ask(self, question: object) -> str:
        try:
            self.line.send(question)
            if self.line.poll(PATIENCE):
                return self.line.recv()
        except (EOFError, OSError):
            self.process.join()
        self.process.kill()
        ended = self.process.exitcode
        self._start()  # the next image finds a process again
        raise AssertionError(
            f"no answer within {PATIENCE} s" if ended is None else f"it has crashed with {ended}"
        )


def _read_all(line: Connection) -> None:
    warnings.simplefilter("ignore")  # Pillow's, of broken EXIF blocks
    line.send("ready")
    while True:
        question = line.recv()
        line.send(str(_peak()) if question is None else _outcome(*question))


def _outcome(data: bytes, at_least: int | None) -> str:
    try:
        return read_image(data, at_least=at_least).mode
    except ImageError as error:
        return f"ImageError: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
