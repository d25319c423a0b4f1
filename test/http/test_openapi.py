"""The checker that every answer under /v1 goes through (openapi.py) finds what is wrong; the file itself is sound."""

import copy
import json

import jsonschema
import pytest

import openapi
from kit import unique


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from references(child)


def test_the_file_is_sound():
    for schema in openapi.SPEC["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    used = set(references(openapi.SPEC))
    for reference in used:
        openapi.resolve({"$ref": reference})
    for kind in ("schemas", "responses"):
        for name in openapi.SPEC["components"][kind]:
            assert "#/components/%s/%s" % (kind, name) in used, name
    operations = [o for item in openapi.SPEC["paths"].values() for m, o in item.items() if m != "parameters"]
    assert len({o["operationId"] for o in operations}) == len(operations)


@pytest.fixture
def job(server, context, app):
    return server.get("/v1/jobs/" + server.run(context, app).json["jobId"])


def check(job, body, status=200, method="GET", query="", headers=None):
    headers = job.headers if headers is None else headers
    openapi.check(method, "/v1/jobs/" + job.json["id"] + query, status, headers, json.dumps(body).encode())


def test_a_right_answer_passes(job):
    check(job, job.json)
    check(job, job.json, query="?wait=1s")


@pytest.mark.parametrize(
    "change",
    [
        {"state": "DONE"},
        {"attempt": "1"},
        {"submitted_at": "2026-01-31 12:00:00"},
        {"id": "1234"},
        {"more": 1},
        {"tags": ["a", "a"]},
        {"queue_clock": {"limit_ms": 5}},
        {"binaries": [{"name": "x"}]},
        {"error": {"message": "no code"}},
        {"position": None, "has_receipt": None},
    ],
)
def test_a_wrong_field_is_found(job, change):
    with pytest.raises(AssertionError):
        check(job, {**job.json, **change})


def test_each_field_must_be_there(job):
    for field in job.json:
        body = copy.deepcopy(job.json)
        del body[field]
        with pytest.raises(AssertionError, match=field):
            check(job, body)


def test_what_is_not_described_is_found(job):
    with pytest.raises(AssertionError, match="418 is not described"):
        check(job, job.json, status=418)
    with pytest.raises(AssertionError, match="verbose"):
        check(job, job.json, query="?verbose=true")
    with pytest.raises(AssertionError, match="PATCH"):
        check(job, job.json, method="PATCH")
    with pytest.raises(AssertionError):
        check(job, {"error": "a text"}, status=404)
    with pytest.raises(AssertionError, match="Location"):
        openapi.check("POST", "/v1/jobs", 202, {"Content-Type": "application/json"}, json.dumps(job.json).encode())
    assert openapi.find("/v1/" + unique()) == (None, None)
