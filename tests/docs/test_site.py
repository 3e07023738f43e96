"""The site is built without a warning; `.ci/run` also runs the notebooks of the course."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import captioner
from captioner.cli.app import COMMANDS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.docs


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site, with notebooks as they are."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-D", "nb_execution_mode=off"]
    built = subprocess.run([*command, ROOT / "docs", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


class Links(HTMLParser):
    """The targets of a page: `links` to others, and the `ids` of its own."""

    def __init__(self, page):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        link = values.get("href") or values.get("src")
        if link and not link.startswith(("https:", "data:")):
            self.links.append(unquote(link))


def test_the_site_has_a_page_for_each_source(site):
    sources = {
        page.relative_to(ROOT / "docs").with_suffix(".html") for page in ROOT.glob("docs/**/*.md")
    }
    assert {page for page in sources if not (site / page).is_file()} == set()


def test_every_link_of_the_site_leads_to_a_file_and_an_anchor_of_it(site):
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    dead = []
    for page, parsed in pages.items():
        for link in parsed.links:
            target, _, anchor = link.partition("#")
            found = (page.parent / target.partition("?")[0]).resolve() if target else page
            has_anchor = not anchor or found not in pages or anchor in pages[found].ids
            if not found.is_file() or not has_anchor:
                dead.append(f"{page.relative_to(site)}: {link}")
    assert dead == []


def test_files_outside_docs_are_pages_of_the_site(site):
    page = (site / "_files/examples/minimal.py.html").read_text(encoding="utf-8")
    assert "Captioner" in page
    assert (site / "_files/captioner/config/schema.py.html").is_file()  # of a linked folder


def test_the_reference_is_filled_in(site):
    commands = (site / "reference/cli.html").read_text(encoding="utf-8")
    assert all(f'id="captioner-{name}"' in commands for name in COMMANDS)
    assert "training.phases.learning_rate" in (site / "reference/config.html").read_text()
    package = (site / "reference/api.html").read_text(encoding="utf-8")
    names = [name for name in captioner.__all__ if name != "__version__"]
    assert all(f'id="captioner.{name}"' in package for name in names)


def test_a_page_needs_no_other_host(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text, page
        assert not re.search(r"<link [^>]*href=.https?:", text), page


@pytest.mark.parametrize(
    ("formula", "elements"),
    [(r"\hat{y}_t", ("msub", "mover")), (r"y_1, \dots, y_T", ("msub", "…"))],
)
def test_formulas_that_docutils_does_not_read_are_mathml(monkeypatch, formula, elements):
    monkeypatch.syspath_prepend(ROOT / "docs/_ext")
    from mathml import to_mathml

    written = to_mathml(formula)
    assert all(element in written for element in elements)
    assert "under" not in written
