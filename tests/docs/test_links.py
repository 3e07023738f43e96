"""Links of the README and of the docs lead to files and headings that exist."""

import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MENU = DOCS / "index.md"
PAGES = sorted(DOCS.rglob("*.md"))
OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "captioner/pretrained/README.md")
FILES = [ROOT / name for name in (*OTHERS, "examples/README.md") if (ROOT / name).exists()] + PAGES

FENCE = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(\s*<?([^\s()<>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
TAG = re.compile(r"<(?:a|img)\s[^>]*?(?:href|src)=\"([^\"]+)\"")
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r"^```\{include\} (\S+)$", re.MULTILINE)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def prose_of(text):
    """Return Markdown without its code and comments."""
    return CODE.sub("", COMMENT.sub("", FENCE.sub("", text)))


def links_in(text):
    prose = prose_of(text)
    return LINK.findall(prose) + TAG.findall(prose)


@cache
def anchors_of(path):
    """Return the anchors of a page's headings: GitHub's slugs, repeated ones with a number."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    anchors = set(re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # a link shows its text
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in anchors:
            number += 1
        anchors.add(anchor)
    return anchors


def problems_of(path, text):
    """Return what is wrong with the links of a page."""
    for link in links_in(text):
        if re.match(r"[a-z]+:", link):
            if not re.match(r"https://|mailto:|http://localhost\b", link):
                yield f"{link}: is not https"
            continue
        target, _, anchor = link.partition("#")
        found = (path.parent / target).resolve() if target else path
        if not found.exists():
            yield f"{link}: no such file"
        elif not found.is_relative_to(ROOT):
            yield f"{link}: outside the repository"
        elif anchor and found.suffix == ".md" and not has_anchor(found, anchor):
            yield f"{link}: no such heading"


def has_anchor(page, anchor):
    """Return whether a page has a heading; Sphinx looks at those that it writes itself."""
    is_generated = "<!-- generated: " in page.read_text(encoding="utf-8")
    return is_generated or anchor in anchors_of(page)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_heading_that_exist(path):
    assert not list(problems_of(path, path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("training.md", None),
        ("training.md#several-data-sets", None),
        ("../configs/own.yaml", None),
        ("#no-such-heading", "#no-such-heading: no such heading"),
        ("training.md#several-data-set", "training.md#several-data-set: no such heading"),
        ("trainings.md", "trainings.md: no such file"),
        ("../../elsewhere", "../../elsewhere: no such file"),
        ("../..", "../..: outside the repository"),
        ("http://example.org", "http://example.org: is not https"),
    ],
)
def test_a_dead_link_is_found(link, problem):
    found = list(problems_of(MENU, f"See [this]({link}), not `[that](code.md)`."))
    assert found == ([problem] if problem else [])


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `key=value` pair\n\n## What's new?\n\n## What's new?\n\n```\n# code\n```\n"
    )
    assert anchors_of(page) == {"a-keyvalue-pair", "whats-new", "whats-new-1"}


def pages_below(page):
    """Return the pages of a page's menus, and of theirs."""
    names = [name_of_page(each) for each in PAGES]
    for menu in TOCTREE.findall(page.read_text(encoding="utf-8")):
        for line in menu.splitlines():
            entry = re.sub(r".*<(.+)>", r"\1", line)
            if not entry or entry.startswith(":"):
                continue
            folder = page.parent.relative_to(DOCS).as_posix()
            pattern = entry if folder == "." else f"{folder}/{entry}"
            for name in names:
                if fnmatch(name, pattern):
                    yield name
                    yield from pages_below(DOCS / f"{name}.md")


def name_of_page(path):
    return path.relative_to(DOCS).with_suffix("").as_posix()


def test_the_menu_of_the_site_leads_to_every_page():
    reached = {"index", *pages_below(MENU)}
    assert sorted(reached) == sorted(name_of_page(page) for page in PAGES)


def test_the_readme_lists_every_page_of_the_guide_and_the_indexes_of_the_others():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where the rest is")[2]
    linked = set(LINK.findall(table))
    copies = [page for page in PAGES if INCLUDE.search(page.read_text(encoding="utf-8"))]
    guide = {name_of(page) for page in DOCS.glob("*.md") if page not in (*copies, MENU)}
    indexes = {name_of(page) for page in DOCS.glob("*/index.md")}
    assert sorted((guide | indexes) - linked) == []
