"""Make the notebooks of the course from their sources: python scripts/notebooks.py [CHAPTER ...].

Each docs/course/N_NAME.md becomes N_NAME.ipynb beside it, executed, with its outputs. Give names
such as `1_pixels` to make only these. Needs the extra `docs`.
"""

from __future__ import annotations

import base64
import io
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.console import program
from captioner.errors import CaptionerError, UsageError

COURSE = Path(__file__).parents[1] / "docs" / "course"
TIMEOUT = 600  # seconds that one cell may take
COLOURS = 256  # of a picture: enough for charts and heat maps, in half the bytes
# the same on every machine, so that a notebook changes only where its source or its outputs do
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def find_sources(names: list[str]) -> list[Path]:
    """Return the sources of the named chapters, or of all chapters.

    Raises:
        UsageError: there is no such chapter.
    """
    sources = {path.stem: path for path in sorted(COURSE.glob("[0-9]*.md"))}
    for name in names:
        if name not in sources:
            raise UsageError(f"no chapter '{name}': choose from {', '.join(sources)}")
    return [sources[name] for name in names or sources]


def make_notebook(source: Path) -> None:
    """Convert a source to a notebook, execute it, and write it beside the source.

    Raises:
        CaptionerError: a cell fails, or a package of the extra `docs` is missing.
    """
    try:
        import jupytext
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError
    except ImportError as error:
        raise CaptionerError(f'{error.name} is missing: pip install -e ".[docs]"') from None
    notebook = jupytext.read(source, fmt="md:myst")
    notebook.metadata = nbformat.from_dict(METADATA)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        resources={"metadata": {"path": str(source.parent)}},  # where the kernel starts
        record_timing=False,  # timestamps would change with every run
        coalesce_streams=True,  # one output for all that a cell prints
    )
    try:
        client.execute()
    except CellExecutionError as error:
        failed = next(cell.source for cell in notebook.cells if _has_error(cell))
        raise CaptionerError(
            f"{source.name}: {error.ename}: {error.evalue}, in\n{failed}"
        ) from None
    except CellTimeoutError as error:
        raise CaptionerError(f"{source.name}: {error}") from None
    _remove_what_varies(notebook)
    _shrink_pictures(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def _has_error(cell: Any) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def _remove_what_varies(notebook: Any) -> None:
    """Give cells fixed ids, and keep no metadata of the kernel that ran them."""
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"


def _shrink_pictures(notebook: Any) -> None:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for data in (output.data for output in outputs if "image/png" in output.get("data", {})):
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        file = io.BytesIO()
        picture.quantize(COLOURS).save(file, "png", optimize=True)
        data["image/png"] = base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Make the notebooks, and print a table of the seconds that each took."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="by default all")
    options = parser.parse_args()
    sources = find_sources(options.chapters)
    print("| chapter | seconds |\n|---|---:|")
    for source in sources:
        start = time.perf_counter()
        make_notebook(source)
        print(f"| {source.stem} | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    with program("notebooks"):
        main()
