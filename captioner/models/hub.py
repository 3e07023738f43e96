"""Model folders on the Hugging Face hub: the download of one, and the upload.

Only the files of a model folder are transferred, never others, such as pickles. Their hashes are
those of `checksums.json`, which is checked before an upload and after each download.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from captioner.console import console
from captioner.errors import CaptionerError, UsageError
from captioner.hub_names import HubName, check_hub_package, hub_error, is_unreachable, progress_bars
from captioner.storage import CHECKSUMS, verify_checksums, write_checksums

CARD, USAGE = "README.md", "ONNX.md"  # the model card; the page that `captioner export` writes
FILES = (
    *("config.json", "model.safetensors", "vocab.json", "source_vocab.json", CHECKSUMS),
    *("first_decoding.json", "graphs.json", "encoder.onnx", "step.onnx", "greedy.onnx"),
    *(CARD, "MODEL_CARD.md", USAGE),
)
"""The files of a model folder. No others are downloaded or uploaded."""

_MIB = 2**20


def download_model(model: HubName) -> Path:
    """Return the folder of a model of the hub in the cache of huggingface_hub.

    Files that are not in the cache are downloaded, after a line on stderr that says so. A commit
    that is in the cache, or HF_HUB_OFFLINE, asks for no network. If the hub cannot be reached, a
    copy in the cache is used, and a line says so.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
        CaptionerError: there is no such model, it may not be read, the download broke off, or a
            file is not the one that `checksums.json` names.
    """
    check_hub_package(model)
    from huggingface_hub import constants

    if model.is_commit or constants.HF_HUB_OFFLINE:
        cached = _cached(model)
        if cached is not None and (constants.HF_HUB_OFFLINE or _damage(cached) is None):
            return _checked(cached, model)
        if constants.HF_HUB_OFFLINE:
            raise CaptionerError(
                f"{model.not_found}, and it is not in the cache {constants.HF_HUB_CACHE}, "
                "while HF_HUB_OFFLINE is set: unset it once, or name a folder"
            )
    try:
        is_new = _announce(model)
    except CaptionerError:
        raise
    except Exception as error:  # of the library, its HTTP client, the network or the disk
        if is_unreachable(error) and (cached := _cached(model)) is not None:
            console.print(
                f"captioner: the hub cannot be reached: {model} is the copy in {cached}",
                markup=False,
            )
            return _checked(cached, model)
        raise hub_error(error, model, doing="the download") from error
    folder = _snapshot(model)
    if not is_new and _damage(folder) is not None:  # of the cache: the hub may have a good file
        folder = _snapshot(model, force_download=True)
    return _checked(folder, model)


def _cached(model: HubName) -> Path | None:
    """Return the folder of a model in the cache if it is complete, without the network."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot_download(model, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    # a broken download leaves a folder in which files are missing
    return folder if (folder / CHECKSUMS).is_file() else None


def _snapshot(model: HubName, *, force_download: bool = False) -> Path:
    try:
        return _snapshot_download(model, force_download=force_download)
    except Exception as error:  # as above
        found = model._replace(is_certain=True)
        raise hub_error(error, found, doing="the download") from error


def _snapshot_download(
    model: HubName, *, local_files_only: bool = False, force_download: bool = False
) -> Path:
    from huggingface_hub import snapshot_download, utils

    with progress_bars(utils):
        folder = snapshot_download(
            model.name,
            revision=model.revision,
            allow_patterns=list(FILES),
            local_files_only=local_files_only,
            force_download=force_download,
        )
    return Path(folder)


def _announce(model: HubName) -> bool:
    """Say what will be downloaded, and return whether something will.

    Raises:
        CaptionerError: the repository holds no model of captioner.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    info = HfApi().model_info(
        model.name,
        revision=model.revision,
        files_metadata=True,
        timeout=constants.HF_HUB_ETAG_TIMEOUT,  # else a network that drops packets hangs for long
    )
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    if missing := [name for name in ("config.json", CHECKSUMS) if name not in sizes]:
        raise CaptionerError(
            f"{model.name} on the hub is not a model of captioner (it has no {missing[0]}): name "
            "one that captioner push has written"
        )
    new = [
        size
        for name, size in sizes.items()
        if name in FILES
        and not isinstance(try_to_load_from_cache(model.name, name, revision=info.sha), str)
    ]
    if new:
        files = "1 file" if len(new) == 1 else f"{len(new)} files"
        console.print(
            f"captioner: downloading {model.name} ({model.revision or 'main'}, commit "
            f"{str(info.sha)[:8]}): {files}, {sum(new) / _MIB:.1f} MiB, from "
            f"{constants.ENDPOINT}",
            markup=False,
        )
    return bool(new)


def _damage(folder: Path) -> CaptionerError | None:
    """Return what is wrong with the files of a model, or None."""
    try:
        verify_checksums(folder)
    except CaptionerError as error:
        return error
    return None


def _checked(folder: Path, model: HubName) -> Path:
    """Return the folder of a model, whose files are those that were uploaded.

    Raises:
        CaptionerError: a file is missing, or is another one.
    """
    if damage := _damage(folder):
        reason = str(damage).rpartition(":")[0]
        raise CaptionerError(
            f"{model}, as the hub or the cache has it, is not whole ({reason}): run it again with "
            "a network; if that does not help, its owner has to push the model again"
        )
    return folder


def upload_model(
    folder: Path,
    repository: HubName,
    *,
    files: dict[str, str],
    private: bool = False,
    message: str | None = None,
) -> str:
    """Upload a model folder in one commit, and return the address of that commit.

    Files of an earlier model in the repository, such as graphs of other weights, are removed. The
    token is that of `hf auth login` or of HF_TOKEN.

    Args:
        folder: a model folder.
        repository: it is made if it does not exist, as is the branch that its revision names.
        files: the text of files that are added, such as the model card, by their names.
        private: only you may see a repository that is made.
        message: of the commit.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
        UsageError: there is no token, or the repository is public and `private` is set.
        CaptionerError: a file of the folder has changed, or the upload failed.
    """
    check_hub_package(repository._replace(is_certain=True))
    from huggingface_hub import HfApi, get_token, utils

    verify_checksums(folder)
    name, branch = repository.name, repository.revision
    if get_token() is None:
        raise UsageError(
            f"no token to push {name} with: log in with `hf auth login`, or set HF_TOKEN"
        )
    api = HfApi()
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UsageError(
                f"{name} exists and is public: make it private on its page, or leave out the option"
            )
        if branch is not None:
            api.create_branch(name, branch=branch, exist_ok=True)
        with progress_bars(utils), tempfile.TemporaryDirectory() as scratch:
            staged = _stage(folder, Path(scratch), files)
            commit: Any = api.upload_folder(
                repo_id=name,
                folder_path=staged,
                revision=branch,
                commit_message=message or "Upload a model of captioner",
                allow_patterns=[*FILES],
                delete_patterns=[*FILES],
            )
    except CaptionerError:
        raise
    except Exception as error:  # of the library, its HTTP client, the network or the disk
        certain = repository._replace(is_certain=True)
        raise hub_error(error, certain, doing="the upload") from error
    return str(commit.commit_url)


def _stage(folder: Path, staged: Path, files: dict[str, str]) -> Path:
    """Fill the folder `staged` with links to the files of a model, and with other files."""
    for name in FILES:
        if name in files:
            (staged / name).write_text(files[name], encoding="utf-8")
        elif (folder / name).is_file() and name not in (CARD, CHECKSUMS):
            try:
                (staged / name).symlink_to((folder / name).resolve())
            except OSError:  # a file system without links
                shutil.copyfile(folder / name, staged / name)
    write_checksums(staged)  # those of a checkpoint also name its training state, which stays
    return staged
