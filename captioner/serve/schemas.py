"""The description of the routes (OpenAPI), with examples, and the page that shows it."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from captioner.config.schema import DecodingConfig
from captioner.config.service import ServiceConfig
from captioner.devices import LARGEST

DESCRIPTION = (
    "Captions images, or translates texts, with a model of captioner. Every error is "
    '{"error": {"code", "message"}}. The service takes bytes only: it never fetches a URL. Where '
    "it asks for a token, send the header Authorization: Bearer TOKEN (curl: -H)."
)
_HOST = "localhost:8000"  # of the examples
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

_TEXT_ONLY = ("length_ratio", "replace_unknown")
_IMAGE_ONLY = ("min_confidence",)
_ERRORS = {
    "400": "Bad options, or a body that cannot be parsed.",
    "401": "No token, or a wrong one, where the service asks for one.",
    "408": "The request did not arrive in time.",
    "413": "Too large: the request, the pixels of an image, or the number of items.",
    "415": "Not an image.",
    "422": "A broken image, an unknown field, or a field `url`.",
    "429": "The queue is full: try again after the seconds of Retry-After.",
    "503": "The model is being loaded, or the service shuts down.",
    "504": "The deadline has passed: the work is dropped.",
}
_WORD = {"word": "dog", "log_prob": -1.2, "confidence": 0.7}
_CAPTION = {
    "image": "photo.jpg",
    "caption": "a dog runs through the grass",
    "log_prob": -9.5,
    "confidence": 0.71,
    "sure": True,
    "words": [_WORD],
}
_SCORE = {
    "caption": "a dog runs", "log_prob": -11.0, "mean_log_prob": -2.75, "unknown_words": 0,
}  # fmt: skip
_TRANSLATION = {
    "source": "A dog runs.",
    "text": "Ein Hund rennt.",
    "log_prob": -1.9,
    "words": [{"word": "Ein", "log_prob": -0.2}],
}


def _answers(
    example: object, *, errors: bool = True, text: str = "The results, in the order of the request."
) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "200": {
            "description": text,
            "content": {"application/json": {"example": example}},
        }
    }
    if errors:
        error = {"error": {"code": "too_large", "message": "the request is larger than 20 MiB"}}
        for status, text in _ERRORS.items():
            content = {"application/json": {"example": error}} if status == "413" else {}
            answers[status] = {"description": text, **({"content": content} if content else {})}
    return answers


HEALTH = {
    "responses": _answers({"status": "alive"}, errors=False, text="It is alive."),
    "x-curl": "curl localhost:8000/health",
}
READY = {
    "responses": _answers({"status": "ready"}, errors=False, text="It takes requests.")
    | {"503": {"description": "Not yet, or no more."}},
    "x-curl": "curl localhost:8000/ready",
}
METRICS = {
    "responses": {"200": {"description": "Metrics.", "content": {"text/plain": {}}}},
    "x-curl": "curl localhost:8000/metrics",
}
MODEL = {
    "responses": _answers(
        {"name": "bundled", "reads": "image", "vocabulary_size": 4308, "decoding": {"beam": 4}},
        errors=False,
        text="The model.",
    ),
    "x-curl": "curl localhost:8000/v1/model",
}


def caption(config: ServiceConfig) -> dict[str, Any]:
    """Return the description of the route that captions."""
    flag = _flag("explain", "Also return a heat map of each word, where the model can.")
    return {
        "parameters": [*_decoding(config, without=_TEXT_ONLY), flag],
        "requestBody": _body_with_images({}),
        "responses": _answers({"results": [_CAPTION]}),
        "x-curl": (
            "curl -F file=@photo.jpg 'localhost:8000/v1/caption?beam=5'\n"
            "curl --data-binary @photo.jpg 'localhost:8000/v1/caption?captions=3'\n"
            'printf \'{"file": "%s"}\' "$(base64 < photo.jpg | tr -d \'\\n\')" |'
            " curl -d @- localhost:8000/v1/caption"
        ),
    }


def score() -> dict[str, Any]:
    """Return the description of the route that scores captions."""
    texts = {"caption": {"type": "array", "items": {"type": "string"}}}
    return {
        "parameters": [
            {
                "name": "caption",
                "in": "query",
                "description": "A caption; repeat it for several. A form has a field of this name.",
                "schema": texts["caption"],
            }
        ],
        "requestBody": _body_with_images(texts),
        "responses": _answers({"results": [_SCORE]}),
        "x-curl": "curl -F file=@photo.jpg -F caption='a dog runs' localhost:8000/v1/score",
    }


def translate(config: ServiceConfig) -> dict[str, Any]:
    """Return the description of the route that translates."""
    text = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    schema = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    flag = _flag("align", "Also return the attention weights of each word, where the model can.")
    return {
        "parameters": [*_decoding(config, without=_IMAGE_ONLY), flag],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": {"text": ["A dog runs."]}},
                "text/plain": {"schema": {"type": "string"}},
            },
        },
        "responses": _answers({"results": [_TRANSLATION]}),
        "x-curl": (
            "curl -d 'A dog runs.' localhost:8000/v1/translate\n"
            """curl -d '{"text": ["A dog runs.", "It rains."]}' localhost:8000/v1/translate"""
        ),
    }


def _decoding(config: ServiceConfig, *, without: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the decoding settings as query parameters, from their schema."""
    properties = DecodingConfig.model_json_schema()["properties"]
    parameters = []
    for name, schema in properties.items():
        if name in without:
            continue
        rules = {key: value for key, value in schema.items() if key not in ("title", "default")}
        text = rules.pop("description", "")
        if name in ("beam", "captions", "groups"):
            rules["maximum"] = config.max_beam
        if name in ("max_length", "min_length"):
            rules["maximum"] = config.max_words
        parameters.append({"name": name, "in": "query", "description": text, "schema": rules})
    return parameters


def _flag(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"type": "boolean"}}


def _body_with_images(more: dict[str, Any]) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    data = {"type": "string", "format": "byte", "description": "base64"}
    form = {"file": {"type": "array", "items": file}, **more}
    named = {"type": "object", "properties": {"name": {"type": "string"}, "data": data}}
    values = {"file": {"type": "array", "items": {"oneOf": [data, named]}}, **more}
    return {
        "required": True,
        "content": {
            kind: {"schema": {"type": "object", "properties": fields, "required": ["file"]}}
            for kind, fields in (("multipart/form-data", form), ("application/json", values))
        }
        | {"image/*": {"schema": file}},
    }


def page(openapi: dict[str, Any], *, host: str) -> str:
    """Return the description of the routes as a page that loads nothing.

    `host` is what a client has called the service: the examples have it, if it can be one.
    """
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", host):
        host = _HOST
    operations = "".join(
        _operation(method, path, operation).replace(_HOST, host)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    )
    title = html.escape(openapi["info"]["title"])
    return _PAGE.format(
        title=title,
        version=html.escape(openapi["info"]["version"]),
        text=html.escape(openapi["info"].get("description", "")),
        operations=operations,
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{html.escape(each['name'])}</code></td>"
        f"<td>{html.escape(each.get('description', ''))}</td>"
        f"<td>{html.escape(_accepted(each['schema']))}</td></tr>"
        for each in operation.get("parameters", [])
    )
    answers = "".join(
        f"<tr><td>{status}</td><td>{html.escape(each['description'])}</td></tr>"
        for status, each in operation["responses"].items()
    )
    content = operation["responses"]["200"].get("content", {})
    example = content.get("application/json", {}).get("example")
    shown = f"<pre>{html.escape(json.dumps(example, indent=2))}</pre>" if example else ""
    options = f"<h3>Options</h3><table>{parameters}</table>" if parameters else ""
    return (
        f"<section><h2>{method.upper()} {html.escape(path)}</h2>"
        f"<p>{html.escape(operation.get('description', ''))}</p>"
        f"<pre>{html.escape(operation.get('x-curl', ''))}</pre>{shown}{options}"
        f"<h3>Answers</h3><table>{answers}</table></section>"
    )


def _accepted(schema: dict[str, Any]) -> str:
    """Return in words which values a parameter takes."""
    match schema:
        case {"anyOf": choices}:
            return " or ".join(map(_accepted, choices))
        case {"enum": values}:
            return " or ".join(values)
        case {"type": "boolean"}:
            return "true or false"
        case {"type": "array"}:
            return "text; repeat it for several"
        case {"type": "integer" | "number" as kind}:
            text = "whole number" if kind == "integer" else "number"
            low, high = schema.get("minimum"), schema.get("maximum", LARGEST)
            if "exclusiveMinimum" in schema:
                text += f" above {schema['exclusiveMinimum']}"
            elif low is not None and low > -LARGEST:
                text += f" from {low}"
            return text if high == LARGEST else f"{text} to {high}"
        case {"type": kind}:
            return {"string": "text"}.get(kind, str(kind))
    raise AssertionError(schema)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title} API</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
section {{ border-top: 1px solid #8888; margin-top: 2rem }}
pre {{ overflow-x: auto; padding: .75rem; background: #8882; border-radius: .5rem }}
table {{ display: block; overflow-x: auto }}
td {{ padding: .1rem 1rem .1rem 0; vertical-align: top }}
</style>
<h1>{title} {version}</h1>
<p>{text}</p>
<p>The same in the format of OpenAPI: <a href="openapi.json">openapi.json</a></p>
{operations}
</html>
"""
