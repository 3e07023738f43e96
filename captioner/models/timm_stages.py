"""The stages of a model of timm, which training freezes or fine-tunes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from torch import nn


def find_stages(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the stages of a model, each a name and its modules, with every weight in one of them.

    A stage ends with a module of which timm's feature info lists the output, and has its name. The
    first is `stem`, as in all trunks; `head` are modules after the last of the list.
    """
    ends = _feature_modules(model)
    stages: dict[str, list[str]] = {}
    modules: list[str] = []  # of the stage that is being collected
    for name in _split(model, "", ends):
        is_block = name in ends and not name.startswith("stem") and _has_layers(model, name)
        if not stages and is_block and any(_has_layers(model, each, 0) for each in modules):
            stages["stem"], modules = modules, []
        modules.append(name)
        if name in ends and _has_weights(model, modules):
            stages[name if stages else "stem"], modules = modules, []
    if _has_weights(model, modules):
        stages["head" if stages else "stem"] = modules
    return {stage: tuple(names) for stage, names in stages.items()}


def _has_weights(model: nn.Module, names: Iterable[str]) -> bool:
    return any(True for name in names for _ in model.get_submodule(name).parameters())


def _has_layers(model: nn.Module, name: str, children: int = 1) -> bool:
    """Return whether a module is more than a norm, and has at least so many children."""
    module = model.get_submodule(name)
    is_matrix = any(weight.dim() > 1 for weight in module.parameters())
    return is_matrix and len([*module.children()]) >= children


def _feature_modules(model: nn.Module) -> set[str]:
    """Return the modules that timm's feature info names, or those of the model's containers."""
    known = {name for name, _ in model.named_modules()}
    infos = cast(Iterable[Mapping[str, Any]], getattr(model, "feature_info", None) or ())
    listed = {str(info["module"]) for info in infos}
    if listed and listed <= known:
        return listed
    # some lists name no modules
    return {
        f"{name}.{child}"
        for name, module in model.named_children()
        if isinstance(module, nn.ModuleList | nn.Sequential) and _has_weights(model, [name])
        for child, _ in module.named_children()
    } or {name for name, _ in model.named_children()}


def _split(module: nn.Module, prefix: str, ends: set[str]) -> Iterator[str]:
    """Yield the names of modules in the order they are listed; those that hold an end are split."""
    for child, part in module.named_children():
        name = f"{prefix}{child}"
        if name not in ends and any(end.startswith(f"{name}.") for end in ends):
            yield from _split(part, f"{name}.", ends)
        else:
            yield name
