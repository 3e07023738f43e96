"""Captions as HTML: an `<img>` element for each image, with its caption as the alternative text."""

from __future__ import annotations

import os
from html import escape
from urllib.parse import quote


def image_tag(path: str, caption: str | None) -> str:
    """Return an `<img>` element, without an `alt` attribute if there is no caption to show.

    `src` is the path as it is given, encoded as a URL: relative to the page if the path is
    relative. The caption is not changed.
    """
    address = quote(os.fsencode(path.replace(os.sep, "/")))
    if address.startswith("//"):  # a URL would begin with the name of a machine
        address = "/" + address.lstrip("/")
    alternative = "" if caption is None else f' alt="{escape(caption)}"'
    return f'<img src="{escape(address)}"{alternative}>'
