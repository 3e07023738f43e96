"""A model folder with ONNX graphs, which is published only if both backends give equal captions."""

from __future__ import annotations

from pathlib import Path
from string import Template

from captioner.config.schema import ImageEncoderConfig
from captioner.errors import UsageError, parameter
from captioner.export.greedy import GREEDY, write_greedy
from captioner.export.onnx import stored_tensors, write_graphs
from captioner.export.verify import Comparison, compare_backends
from captioner.locking import Lock
from captioner.models.build import LoadedModel
from captioner.models.folder import (
    SOURCE_VOCABULARY,
    VOCABULARY,
    WEIGHTS,
    read_model,
    resolve,
    write_model,
)
from captioner.runtime.graphs import GRAPHS
from captioner.storage import atomic_folder, write_checksums

_TEMPLATES = Path(__file__).parent
_TITLES = ("# Captions with ONNX graphs", "# Translation with ONNX graphs")  # of the templates
_BOXES = {  # what `Squash` and `CentreCrop` of captioner/data/transforms.py read
    "squash": "box = None  # the whole image",
    "crop": "x, y, side = image.width / 2, image.height / 2, min(image.size) * 7 / 8\n"
    "box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)  # the centre of the image",
}


def export_model(
    model: str | Path | None, output: Path, *, greedy: bool = False, half: bool = False
) -> Comparison:
    """Write a copy of a model folder with ONNX graphs, after comparing them with PyTorch.

    Args:
        model: a model folder; None: the bundled model.
        output: the folder to write. An earlier export is replaced when all is done, and a model
            folder that is exported onto itself gets its graphs.
        greedy: also write one graph that returns the token ids of greedy captions.
        half: store the weights as float16; the graphs compute in float32.

    Raises:
        CaptionerError: the graphs do not compute what PyTorch computes: nothing is written.
        UsageError: `output` holds another model, or another process exports to it.
    """
    source = resolve(model)
    _check_output(source, output, half=half)
    lock = output.with_name(f".{output.name}.lock")  # beside it, for it is replaced as a whole
    with Lock(lock, what=f"the folder {output}"), atomic_folder(output) as new:
        loaded, comparison = write_with_graphs(source, new, greedy=greedy, half=half)
        if card := _model_card(source):
            (new / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        (new / "README.md").write_text(_usage(loaded, greedy=greedy), encoding="utf-8")
    return comparison


def write_with_graphs(
    source: Path, new: Path, *, greedy: bool = False, half: bool = False
) -> tuple[LoadedModel, Comparison]:
    """Write the model in `source` with its graphs into the folder `new`, and compare them.

    Raises:
        CaptionerError: the graphs do not compute what PyTorch computes.
    """
    write_model(new, **read_model(source)._asdict(), half=half)
    write_checksums(new)  # what reads a model folder checks them
    loaded = write_graphs(new)
    if greedy:
        write_greedy(new, loaded)
    write_checksums(new)
    return loaded, compare_backends(new, loaded)


def _check_output(source: Path, output: Path, *, half: bool) -> None:
    """Raise a UsageError if an export would replace the only copy of some weights."""
    if not (output / WEIGHTS).is_file():
        return
    if output.resolve() != source.resolve():
        if not (output / GRAPHS).is_file():
            raise UsageError(
                f"{output} is a model folder that captioner export has not written, and it would "
                "be replaced: name another folder"
            )
    elif half and any(each.dtype == "F32" for each in stored_tensors(output / WEIGHTS).values()):
        raise UsageError(
            f"{output} would keep its weights as float16 only: name another folder, or leave out "
            f"{parameter('half')}"
        )


def _model_card(source: Path) -> str | None:
    """Return what a model folder says of its model, or None; the page of an export is no card."""
    for name in ("MODEL_CARD.md", "README.md"):
        file = source / name
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            return None if text.startswith(_TITLES) else text
    return None


def _usage(loaded: LoadedModel, *, greedy: bool) -> str:
    """Return the page that shows how to use the graphs from Python, JavaScript and C++."""
    encoder, parts = loaded.config.encoder, loaded.model.state_parts
    reads = "pixels" if isinstance(encoder, ImageEncoderConfig) else "source"
    row = (
        f"| `{GREEDY}` | `{reads}` and `max_length` () int64 to `token_ids` (B, T) of greedy "
        "search, filled with 2 (`<eos>`) |\n"
    )
    values: dict[str, object] = {
        "cell": loaded.config.decoder.cell,
        "words": len(loaded.vocabulary),
        "greedy": row if greedy else "",
        "num_parts": parts,
        "state_names": ", ".join(f'"state_{index}"' for index in range(parts)),
    }
    if isinstance(encoder, ImageEncoderConfig):
        box = _BOXES[encoder.transform]
        values |= {"encoder": encoder.trunk, "size": encoder.image_size, "box": box}
    else:
        own = loaded.source_vocabulary != loaded.vocabulary
        name = SOURCE_VOCABULARY if own else VOCABULARY
        values |= {"encoder": encoder.cell, "source_vocabulary": name}
    template = (_TEMPLATES / f"usage_{encoder.kind}.md").read_text(encoding="utf-8")
    return Template(template).substitute(values)
