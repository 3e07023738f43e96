"""A separate process that reads images: a test can observe its crashes and its memory."""

import multiprocessing
import resource
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Self

from captioner.data.images import read_image
from captioner.errors import ImageError

TIMEOUT = 10  # seconds for one image


class ReadingProcess:
    """A process that reads one image at a time on request."""

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # a fork would start with the memory of this process
        self.connection, child_connection = context.Pipe()
        self.process = context.Process(target=_read_all, args=(child_connection,), daemon=True)
        self.process.start()
        child_connection.close()  # then the end of the process closes the connection
        assert self.connection.recv() == "ready"

    def read(self, data: bytes, min_side: int | None = None) -> str:
        """Return "RGB", or the name and message of the exception."""
        return self._request((data, min_side))

    def peak_memory(self) -> int:
        """Return the peak memory of the process in bytes."""
        return int(self._request(None))

    def _request(self, request: object) -> str:
        try:
            self.connection.send(request)
            if self.connection.poll(TIMEOUT):
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
        self.process.kill()
        exit_code = self.process.exitcode
        self._start()  # for the next image
        raise AssertionError(
            f"no answer within {TIMEOUT} s" if exit_code is None else f"crashed with {exit_code}"
        )


def _read_all(connection: Connection) -> None:
    warnings.simplefilter("ignore")  # Pillow's, of broken EXIF blocks
    connection.send("ready")
    while True:
        request = connection.recv()
        connection.send(str(_peak()) if request is None else _outcome(*request))


def _outcome(data: bytes, min_side: int | None) -> str:
    try:
        return read_image(data, min_side=min_side).mode
    except ImageError as error:
        return f"ImageError: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
