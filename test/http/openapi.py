"""Holds answers of the native API against docs/openapi.json. kit.Client does it with every answer under /v1 that a test gets."""

import json
import os
import re
import urllib.parse

import jsonschema
import referencing
import referencing.jsonschema

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "openapi.json")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

with open(FILE) as f:
    SPEC = json.load(f)

_formats = jsonschema.FormatChecker(formats=["uuid"])
_formats.checks("date-time")(lambda value: not isinstance(value, str) or bool(TIME.fullmatch(value)))
_registry = referencing.Registry().with_resource(
    "urn:spec", referencing.Resource(contents=SPEC, specification=referencing.jsonschema.DRAFT202012)
)
_validators = {}


def _templates():
    for template, item in SPEC["paths"].items():
        yield template, item, re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)) + "/?")


PATHS = list(_templates())


def find(path):
    """(template, item) of a path without its query; (None, None): the file does not have it."""
    for template, item, pattern in PATHS:
        if pattern.fullmatch(path):
            return template, item
    return None, None


def validate(body, *steps):
    """body against the schema to which steps lead through the file."""
    pointer = "/".join(step.replace("~", "~0").replace("/", "~1") for step in steps)
    if pointer not in _validators:
        _validators[pointer] = jsonschema.Draft202012Validator(
            {"$ref": "urn:spec#/" + urllib.parse.quote(pointer, safe="/~")},
            registry=_registry,
            format_checker=_formats,
        )
    problems = [
        "%s: %s" % (error.json_path, error.message) for error in _validators[pointer].iter_errors(json.loads(body))
    ]
    assert not problems, "%s: %s\n%s" % (pointer, "; ".join(problems), body[:2000])


def resolve(node, *steps):
    """The node and the steps that lead to it, a reference followed."""
    if "$ref" in node:
        steps = node["$ref"][2:].split("/")
        node = SPEC
        for step in steps:
            node = node[step]
    return node, steps


def check(method, path, status, headers, body):
    """An answer that the file does not describe is an AssertionError."""
    head = method == "HEAD"  # as GET, without the body
    method = "GET" if head else method
    path, _, query = path.partition("?")
    template, item = find(path)
    if template is None or method.lower() not in item:
        assert status in (400, 404, 405, 503), "%s %s: %d is not described" % (method, path, status)
        validate(body, "components", "schemas", "Error")
        return
    operation = item[method.lower()]
    assert str(status) in operation["responses"], "%s %s: %d is not described" % (method, template, status)
    response, steps = resolve(
        operation["responses"][str(status)], "paths", template, method.lower(), "responses", str(status)
    )
    for name, header in response.get("headers", {}).items():
        assert headers.get(name) or not header.get("required"), "%s %s: no %s" % (method, template, name)
    if "content" in response:
        assert headers["Content-Type"] in response["content"], headers["Content-Type"]
        if headers["Content-Type"] == "application/json" and not head and status != 206:  # which is a part of one
            validate(body, *steps, "content", "application/json", "schema")
    else:
        assert body == b"", body
    if status < 400:
        known = {p["name"] for p in item.get("parameters", []) + operation.get("parameters", []) if p["in"] == "query"}
        given = {name for name, _ in urllib.parse.parse_qsl(query, keep_blank_values=True)}
        assert given <= known, "%s %s takes %s, which is not described" % (method, template, given - known)
