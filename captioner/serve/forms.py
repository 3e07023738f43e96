"""What a request holds: images and texts, from a form, from JSON, or from the bytes of one image.

The bytes decide what an image is. Names and content types of files are never trusted, and nothing
is written to the disk.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from captioner.config.schema import DecodingConfig
from captioner.data.images import SIGNATURES
from captioner.errors import first_few
from captioner.serve.errors import ServiceError

MAX_FIELDS = 1000  # of a form, whatever their kind: more is no form that somebody has made


@dataclass
class Payload:
    """What the body of a request holds."""

    images: list[tuple[str | None, bytes]] = field(default_factory=list)  # names and contents
    texts: dict[str, list[str]] = field(default_factory=dict)  # by their field


def parse_body(body: bytes, content_type: str, *, images: bool, texts: str | None) -> Payload:
    """Return what a body holds.

    Args:
        body: the whole body.
        content_type: the header, which says where the parts of a form end, and nothing else.
        images: whether the route takes images.
        texts: the field of texts that the route takes: `caption` or `text`; None: it takes none.

    Raises:
        ServiceError: 400 for what cannot be parsed, 422 for other fields.
    """
    kind, options = parse_options_header(content_type)
    known = {"file"} if images else set()
    known |= {texts} if texts else set()
    if kind == b"multipart/form-data":
        payload = _parse_form(body, options.get(b"boundary", b""), known)
    elif _is_json(kind, body):
        payload = _parse_json(body, known)
    elif images:
        payload = Payload([(None, body)])
    else:
        payload = Payload(texts={texts or "": [_text(body, "the body")]})
    check_fields([*payload.texts, *(["file"] if payload.images else [])], known)
    if images and not payload.images:
        raise ServiceError(422, "no image: send a form with the field file, JSON, or its bytes")
    return payload


def check_fields(fields: list[str], known: set[str]) -> None:
    """Raise an error for fields that a route does not have.

    Raises:
        ServiceError: 422.
    """
    others = [name for name in fields if name not in known]
    if "url" in others:
        raise ServiceError(
            422, "unknown field 'url': the service fetches nothing; send the bytes of the image"
        )
    if others:
        shown = first_few([repr(name[:40]) for name in others])
        expected = " and ".join(sorted(known)) or "nothing"
        hint = ""
        if any(name in DecodingConfig.model_fields for name in others):
            hint = "; decoding settings go into the query, as in ?beam=5"
        raise ServiceError(422, f"unknown field {shown}: this route takes {expected}{hint}")


def _is_json(kind: bytes, body: bytes) -> bool:
    """Return whether a body is JSON: no image begins with a brace, nor JSON like an image."""
    if body.lstrip()[:1] == b"{":
        return True
    return kind == b"application/json" and not body.startswith(SIGNATURES)


def _parse_json(body: bytes, known: set[str]) -> Payload:
    try:
        values = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise ServiceError(400, "the JSON is nested too deeply") from None
    except ValueError as error:  # also a number of thousands of digits, and what is not UTF-8
        reason = " ".join(str(error).split())[:100]
        raise ServiceError(400, f"the body is not JSON ({reason})") from None
    if not isinstance(values, dict):
        example = '{"file": "<base64>"}' if "file" in known else '{"text": "a sentence"}'
        raise ServiceError(422, f"the JSON is not an object, as in {example}")
    check_fields(list(values), known)
    payload = Payload()
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if name == "file":
            payload.images = [_json_image(item) for item in items]
            continue
        if any(not isinstance(item, str) for item in items):
            raise ServiceError(422, f"{name!r} is not a string, or a list of strings")
        payload.texts[name] = [_check_text(item, name) for item in items]
    return payload


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _json_image(item: object) -> tuple[str | None, bytes]:
    """Return the name and the content of an image in JSON: base64, or an object with a name."""
    name = None
    if isinstance(item, Mapping):
        check_fields([str(key) for key in item], {"name", "data"})
        name, item = item.get("name"), item.get("data")
        if name is not None and not isinstance(name, str):
            raise ServiceError(422, "the name of an image is not a string")
    if not isinstance(item, str):
        raise ServiceError(422, 'an image in JSON is a string of base64: {"file": "<base64>"}')
    try:
        return name, base64.b64decode(item, validate=True)
    except (binascii.Error, ValueError):
        raise ServiceError(
            422,
            "an image in JSON is not valid base64: leave out line breaks and what stands before "
            "the data, such as data:image/jpeg;base64,",
        ) from None


class _FormParts:
    """Collects the parts of a form: the callbacks of a parser."""

    def __init__(self, known: set[str]) -> None:
        self.payload = Payload()
        self._known = known
        self._header = self._value = b""
        self._disposition: dict[bytes, bytes] = {}
        self._content = bytearray()
        self._count = 0

    def on_part_begin(self) -> None:
        self._disposition, self._content = {}, bytearray()
        self._count += 1
        if self._count > MAX_FIELDS:
            raise ServiceError(413, f"the form has more than {MAX_FIELDS} fields")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, self._disposition = parse_options_header(self._value.decode("latin-1"))
        self._header = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def on_part_end(self) -> None:
        name = _name(self._disposition.get(b"name", b""))
        if name == "file":
            file_name = self._disposition.get(b"filename")
            shown = None if file_name is None else _name(file_name)
            self.payload.images.append((shown, bytes(self._content)))
        else:
            # the text of another field is not needed: it is refused
            text = _text(bytes(self._content), repr(name)) if name in self._known else ""
            self.payload.texts.setdefault(name, []).append(text)
        self._content = bytearray()


def _parse_form(body: bytes, boundary: bytes, known: set[str]) -> Payload:
    parts = _FormParts(known)
    names = (
        *("on_part_begin", "on_part_data", "on_part_end"),
        *("on_header_field", "on_header_value", "on_header_end"),
    )
    ended = []
    callbacks: dict[str, Callable[..., Any]] = {name: getattr(parts, name) for name in names}
    callbacks["on_end"] = lambda: ended.append(True)
    try:
        if not boundary:
            raise FormParserError("no boundary")
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        reason = " ".join(str(error).split())[:100]
        raise ServiceError(400, f"the form cannot be read ({reason})") from None
    if not ended:
        raise ServiceError(400, "the form cannot be read (it ends too early)")
    return parts.payload


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ServiceError(422, f"{what} is not UTF-8") from None


def _check_text(text: str, name: str) -> str:
    """Return a text of JSON, which can hold halves of a character that no file can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ServiceError(422, f"{name!r} holds half a character") from None
    return text
