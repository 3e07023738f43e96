"""Which names mean a repository of the Hugging Face hub, and what its failures mean in one line.

It needs the package huggingface_hub, which is imported only once a name of the hub is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

from captioner.errors import CaptionerError, MissingPackageError, UsageError

# "hf://" is unambiguous. A `Path` writes it with one slash.
_PREFIX = re.compile(r"hf:/{1,2}(?!/)")
# Letters, digits, and -, _, . between them, as the hub checks them; a revision follows an @.
_NAME = re.compile(
    r"(?P<name>[a-z0-9][\w.-]{0,95}/[a-z0-9][\w.-]{0,95})(?:@(?P<revision>\w[\w./+-]*))?",
    re.ASCII | re.IGNORECASE,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


class HubName(NamedTuple):
    """A repository of the hub, and one of its revisions."""

    name: str  # owner/name
    revision: str | None  # a branch, a tag or a commit; None: the main branch
    is_certain: bool  # written as hf://owner/name, which cannot be a path

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, whose content never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def not_found(self) -> str:
        """The beginning of an error: if it could have been a path, there is none."""
        return self.name + ("" if self.is_certain else ": no such folder here")

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def parse_hub_name(name: object) -> HubName | None:
    """Return the repository that a string names, or None if it is a path.

    `hf://owner/name` is always a repository. `owner/name` is one only if no such path exists, and
    no folder `owner`. Anything else, such as `./owner/name` or a `Path`, is a path. Both forms may
    end in `@revision`.

    Raises:
        UsageError: the string begins with hf:// and names no repository.
    """
    if not isinstance(name, str):  # Path("./owner/name") has lost its dot
        return None
    prefix = _PREFIX.match(name)
    match = _NAME.fullmatch(name[prefix.end() :] if prefix else name)
    is_legal = match is not None and not re.search(r"--|\.\.", match["name"])
    if prefix and not is_legal:
        raise UsageError(
            f"{name} names nothing on the hub: write hf://owner/name or hf://owner/name@revision"
        )
    if match is None or not is_legal:
        return None
    is_path = os.path.lexists(name) or os.path.isdir(match["name"].partition("/")[0])
    if is_path and not prefix:
        return None
    return HubName(match["name"], match["revision"], prefix is not None)


def check_hub_package(model: HubName) -> None:
    """Raise before anything is imported if huggingface_hub is not installed.

    Raises:
        MissingPackageError: it names the package and the folder that does not exist.
    """
    if find_spec("huggingface_hub") is None:
        raise MissingPackageError(
            f"{model.not_found}, and to load it from the Hugging Face hub needs the package "
            "huggingface_hub: pip install huggingface_hub"
            if not model.is_certain
            else f"{model.name} on the Hugging Face hub needs the package huggingface_hub: "
            "pip install huggingface_hub"
        )


@contextmanager
def progress_bars(utils: Any) -> Iterator[None]:
    """Let a library of Hugging Face show its bars within the block on a terminal only.

    Args:
        utils: `huggingface_hub.utils` or `datasets.utils`.
    """
    from captioner.console import console  # needs rich, which captioning alone does not

    if (console.is_terminal and not console.quiet) or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def is_unreachable(error: Exception) -> bool:
    """Return whether the hub gave no answer, or one that says that it does not work now."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return _status(error) >= 500
    return not isinstance(error, ValueError)


def hub_error(error: Exception, model: HubName, *, doing: str) -> CaptionerError:
    """Return the error for what huggingface_hub raised, on one line and with the way out.

    Args:
        error: of the library, of its HTTP client or of the disk.
        model: what was asked for.
        doing: what failed, as in "the download".
    """
    from huggingface_hub import constants, errors

    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = cast(Exception, error.__cause__)  # why it is not in the cache
    what = f"model {model.name}"
    hub = f"the hub ({constants.ENDPOINT})"
    match error:
        case errors.GatedRepoError():
            return CaptionerError(
                f"{what} is gated: ask for access at {constants.ENDPOINT}/{model.name}, "
                f"then {_LOGIN}"
            )
        case errors.RevisionNotFoundError():
            return CaptionerError(
                f"{what} has no revision {model.revision!r} on {hub}: name one of its branches, "
                "tags or commits"
            )
        case errors.RepositoryNotFoundError():
            return CaptionerError(
                f"{model.not_found}{' is no' if model.is_certain else ', and no'} such model "
                f"that you may see on {hub}: check the name, or, if it is private, {_LOGIN}"
            )
        case errors.HfHubHTTPError() if _status(error) in (401, 403):
            return CaptionerError(
                f"{hub} does not allow {doing} of {model.name} with this token: {_LOGIN} of a "
                "token that may do it"
            )
        case errors.HfHubHTTPError():
            reason = f"answers {_status(error)}"
        case _:
            reason = f"cannot be reached, or the connection broke ({_reason(error)})"
    missing = "" if model.is_certain else f"{model.not_found}; "
    return CaptionerError(
        f"{missing}{doing} of {model.name} failed: {hub} {reason}; nothing of it is used: check "
        "the name and the network, and run it again"
    )


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def _reason(error: Exception) -> str:
    """Return the type and the first words of an error: some messages have many lines."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:120]}".rstrip(": ")
