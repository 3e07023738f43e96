"""What the tests of the page in a browser do with it."""

import base64

CAT = "a cat that is sitting on a table"


def card(page, name):
    return page.get_by_role("listitem", name=name, exact=True)


def caption(page, name):
    text = card(page, name).locator(".text:not(.message)")
    text.wait_for()
    return text.inner_text()


def failure(page, name):
    text = card(page, name).locator(".text.error")
    text.wait_for()
    return text.inner_text()


def add(page, *paths):
    page.set_input_files("#files", [str(path) for path in paths])


def fill(page, label, value):
    field = page.locator("#form").get_by_label(label, exact=True)
    field.fill(value)
    field.blur()


def as_base64(data):
    return base64.b64encode(data).decode()


TO_FILE = """({ data, name, type }) =>
    new File([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], name, { type })"""
