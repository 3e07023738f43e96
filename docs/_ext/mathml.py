"""Formulas as MathML, which browsers show without a script: the site needs no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

# docutils does not know \dots, and puts the index of \hat{y}_t below the y: it needs a group.
DOTS = re.compile(r"\\dots\b")
INDEXED_ACCENT = re.compile(r"(\\(?:hat|tilde|vec|dot|overline)\s*(?:\{[^{}]*\}|\\?\w+))(?=\s*_)")


def to_mathml(formula: str, *, as_block: bool = False) -> str:
    """Return a formula of LaTeX as MathML.

    Raises:
        MathError: names what is not known.
    """
    formula = INDEXED_ACCENT.sub(r"{\1{}}", DOTS.sub(r"\\ldots", formula))
    return latex2mathml.tex2mathml(formula, as_block=as_block)


def _formula(node: nodes.Element, *, as_block: bool) -> str:
    try:
        return to_mathml(node.astext(), as_block=as_block)
    except MathError as error:
        LOGGER.warning("formula cannot be shown: %s", error, location=node)
        return ""


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_formula(node, as_block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{_formula(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
