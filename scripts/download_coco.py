"""Download the captions and images of COCO. After an interruption, the same command continues.

A file that is not complete ends in `.part`. COCO publishes no checksums: a download is checked by
its size, and each file that is extracted from an archive by the CRC in the archive.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from downloads import Archive, fetch_all, new_app, report, run_app

from captioner.errors import CaptionerError, UsageError

OFFICIAL = "http://images.cocodataset.org"
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
EXAMPLE = "Example: python scripts/download_coco.py --year 2017 --splits train,val"

app = new_app()


@app.command(epilog=EXAMPLE)
def download_coco(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of all files.")] = Path(
        "data/coco"
    ),
    year: Annotated[int, typer.Option(metavar="2014|2017", help="Release of COCO.")] = 2017,
    splits: Annotated[
        str, typer.Option(metavar="SPLITS", help="train, val or both, separated by a comma.")
    ] = "train,val",
    no_images: Annotated[bool, typer.Option("--no-images", help="Only the captions.")] = False,
    karpathy: Annotated[
        bool, typer.Option("--karpathy", help="Also Karpathy's splits (of the 2014 images).")
    ] = False,
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="A mirror of COCO's files.")
    ] = OFFICIAL,
    karpathy_url: Annotated[
        str, typer.Option(metavar="URL", help="A mirror of Karpathy's zip.")
    ] = KARPATHY,
) -> None:
    """Download the captions and images of COCO.

    Captions take about 0.3 GB, images 19 GB, and their archives as much again until unpacked.
    """
    if year not in (2014, 2017):
        raise UsageError(f"--year is {year}: choose 2014 or 2017")
    wanted = splits.replace(",", " ").split()
    if not wanted or not set(wanted) <= {"train", "val"}:
        raise UsageError(f"--splits is {splits!r}: choose train, val or train,val")
    if karpathy and year != 2014:
        raise UsageError("--karpathy splits the images of 2014: add --year 2014")
    for url in (base_url, karpathy_url):
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not a URL: it must begin with http:// or https://")
    base, annotations = base_url.rstrip("/"), folder / "annotations"
    captions = {split: annotations / f"captions_{split}{year}.json" for split in wanted}
    names = frozenset(path.name for path in captions.values())
    archives = [Archive(f"{base}/annotations/annotations_trainval{year}.zip", annotations, names)]
    if karpathy:
        archives.append(Archive(karpathy_url, folder, frozenset({"dataset_coco.json"})))
    fetch_all(archives, folder)
    if not no_images:
        images = {f"{split}{year}": image_names(path) for split, path in captions.items()}
        fetch_all(
            [
                Archive(f"{base}/zips/{name}.zip", folder / name, names)
                for name, names in images.items()
            ],
            folder,
        )
    report(f"complete: {folder}")


def image_names(path: Path) -> frozenset[str]:
    """Read the file names of the images in an annotation file.

    Raises:
        CaptionerError: it is not a file of COCO's captions, or a name is a path.
    """
    try:
        names = frozenset(image["file_name"] for image in json.loads(path.read_bytes())["images"])
        if bad := [
            name
            for name in names
            if name != PurePosixPath(name).name or "\\" in name or name in ("", "..")
        ]:
            raise ValueError(f"{bad[0]!r} is not the name of a file in a folder")
    except (ValueError, KeyError, TypeError) as error:
        raise CaptionerError(
            f"{path} is not a file of COCO's captions ({error}): remove it and run again"
        ) from error
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_app(app, arguments, name="download_coco", example=EXAMPLE)


if __name__ == "__main__":
    main()
