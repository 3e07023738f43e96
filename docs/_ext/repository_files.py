"""Links of pages to files outside docs/: each linked file or folder becomes a page of the site.

A page links to `../configs/coco.yaml` as it does on any host of the repository. The site knows no
host, so it has the text of the file, or the list of the folder, under `_files/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.highlighting import PygmentsBridge
from sphinx.transforms import SphinxTransform
from sphinx.util.osutil import relative_uri

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {".jpg", ".jpeg", ".png", ".gif", ".svg"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".sh": "bash", ".json": "json"}
KEY = "repository_files"  # of a page's metadata, which Sphinx keeps and drops with the page


class RepositoryLinks(SphinxTransform):
    """Point links that leave docs/ to the pages of the files."""

    default_priority = 200

    def apply(self, **_: Any) -> None:
        """Replace the nodes that MyST made for paths that are no page of the site."""
        for node in list(self.document.findall(nodes.Element)):
            is_link = isinstance(node, addnodes.pending_xref | addnodes.download_reference)
            if is_link and node.get("reftype") == "myst":
                self._resolve(node)

    def _resolve(self, node: nodes.Element) -> None:
        target, _, anchor = node["reftarget"].partition("#")
        if node["refdomain"] == "doc":  # Markdown, of docs/ or not
            target, anchor = f"{target}.md", node["reftargetid"] or ""
            path = Path(self.env.srcdir, target).resolve()
        else:
            path = (self._folder() / target).resolve()
        if not target or not path.is_relative_to(ROOT) or not path.exists():
            return  # MyST warns of it
        name = path.relative_to(ROOT).as_posix()
        pages = self.config.repository_pages
        docs = Path(self.env.srcdir)
        page = pages.get(name) or (path.is_relative_to(docs) and self.env.path2doc(path))
        if page in self.env.found_docs:
            reference: nodes.Element = addnodes.pending_xref(
                refdomain="doc",
                reftarget=page,
                reftargetid=anchor or None,
                refdoc=self.env.docname,
                reftype="myst",
                refexplicit=True,
            )
        elif path.is_relative_to(docs):
            return  # an image or another file of docs/, which Sphinx copies
        else:
            self.env.metadata[self.env.docname].setdefault(KEY, set()).add(name)
            uri = self.app.builder.get_relative_uri(self.env.docname, f"_files/{name}")
            reference = nodes.reference("", "", internal=True, refuri=uri)
        reference += node.children
        node.replace_self(reference)

    def _folder(self) -> Path:
        """Return the folder that the links of this page start from."""
        for name, page in self.config.repository_pages.items():
            if page == self.env.docname:
                return ROOT / Path(name).parent
        return Path(self.env.doc2path(self.env.docname)).parent


def write_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Return a page for each linked file and folder, and for each file of a linked folder."""
    linked = {name for data in app.env.metadata.values() for name in data.get(KEY, ())}
    names = {*linked, *(file for name in linked for file in _files_in(ROOT / name))}
    highlighter = PygmentsBridge("html")
    for name in sorted(names):
        path = ROOT / name
        if path.suffix in IMAGES:
            copy = Path(app.outdir, "_files", name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            continue
        if path.is_dir():
            body = _list_folder(path)
        else:
            language = LANGUAGES.get(path.suffix, "text")
            body = highlighter.highlight_block(path.read_text(encoding="utf-8"), language)
        context = {"title": name, "body": f"<h1>{escape(name)}</h1>\n{body}", "parents": []}
        yield f"_files/{name}", context, "page.html"


def _files_in(folder: Path) -> list[str]:
    """Return the text files and images of a folder; none if it is a file."""
    if not folder.is_dir():
        return []
    shown = {*LANGUAGES, *IMAGES, ".txt"}
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix in shown)
    return [path.relative_to(ROOT).as_posix() for path in files]


def _list_folder(folder: Path) -> str:
    here = f"_files/{folder.relative_to(ROOT).as_posix()}"
    rows = []
    for name in sorted(_files_in(folder)):
        suffix = "" if Path(name).suffix in IMAGES else ".html"
        link = relative_uri(here, f"_files/{name}{suffix}")
        rows.append(f'<li><a href="{escape(link)}">{escape(Path(name).name)}</a></li>')
    return f"<ul>{''.join(rows)}</ul>"


def setup(app: Any) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.add_config_value("repository_pages", {}, "env", types=frozenset({dict}))
    app.add_transform(RepositoryLinks)
    app.connect("html-collect-pages", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
