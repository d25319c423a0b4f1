"""Tables as results on real Spark: in each form, from Spark, pandas and Arrow, read back and compared; long ones in little memory."""
import datetime
import decimal
import http.client
import io
import json
import math
import os

import pandas
import pyarrow.csv
import pyarrow.parquet
import pytest
from server import wait_until

D = decimal.Decimal
UTC = datetime.timezone.utc
AT = datetime.datetime(2020, 7, 1, 12, 30, 0, 250000)
MEDIA = {"json": "application/json", "csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet",
         "arrow": "application/vnd.apache.arrow.stream"}
FLAT = [
    {"id": 1, "small": 1, "x": 0.5, "s": "plain", "yes": True, "d": D("1.5000"), "day": AT.date(),
     "at": AT.replace(tzinfo=UTC), "local": AT},
    dict.fromkeys(("id", "small", "x", "s", "yes", "d", "day", "at", "local"), None) | {"id": 2},
    {"id": 3, "small": -128, "x": math.nan, "s": 'a "b",\nc', "yes": False, "d": D("-1234567890123456.7891"),
     "day": datetime.date(1, 1, 1), "at": datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), "local": AT},
    {"id": 4, "small": 127, "x": 1e300, "s": "", "yes": True, "d": D("0.0000"), "day": AT.date(),
     "at": AT.replace(tzinfo=UTC), "local": AT}]
NESTED = [
    {"id": 1, "list": ["x", None], "struct": {"a": 1, "b": [AT.date()]}, "map": [("k", D("1.25")), ("n", None)],
     "bin": b"\x00\xff"},
    {"id": 2, "list": None, "struct": None, "map": None, "bin": None},
    {"id": 3, "list": [], "struct": {"a": None, "b": []}, "map": [], "bin": b""}]

pytestmark = pytest.mark.usefixtures("nothing_runs_on")


def run(stoker, name, config=None, **query):
    """Runs a job of stoker_jobs.tables to its end. Its native object."""
    reply = stoker.post_job("stoker_jobs.tables." + name, config or {}, **query)
    assert reply.status == 202, reply
    job = stoker.get("/v1/jobs/%s" % reply.body["jobId"], wait="1min")
    assert job["ended_at"], job
    return job


def download(stoker, job):
    """(bytes, media type) of a result."""
    connection = http.client.HTTPConnection(stoker.address, timeout=60)
    connection.request("GET", "/v1/jobs/%s/result" % job["id"])
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert answer.status == 200 and len(data) == job["result_bytes"], (answer.status, data[:500])
    assert answer.getheader("Content-Disposition").split(".")[-1] == {"arrow": 'arrows"'}.get(
        job["result_format"], job["result_format"] + '"')
    return data, answer.getheader("Content-Type")


def result(stoker, name, form, config=None):
    """The bytes of a job's result in a form."""
    job = run(stoker, name, config, result_format=form)
    assert (job["state"], job["result_format"]) == ("FINISHED", form), job["error"]
    data, media = download(stoker, job)
    assert media == MEDIA[form]
    return data


def rows(data, form):
    source = io.BytesIO(data)
    return (pyarrow.ipc.open_stream(source).read_all() if form == "arrow" else pyarrow.parquet.read_table(source)).to_pylist()


def same(found, expected):
    """Equal, nan being equal to nan; maps have no order."""
    def plain(rows):
        return [{key: "nan" if isinstance(value, float) and math.isnan(value)
                 else sorted(value) if key == "map" and value else value for key, value in row.items()} for row in rows]
    assert plain(found) == plain(expected)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_spark_as_parquet_and_arrow(stoker, py, form):
    same(rows(result(stoker, "Flat", form), form), FLAT)
    same(rows(result(stoker, "Nested", form), form), NESTED)


def test_types_are_those_of_spark(stoker, py):
    found = pyarrow.ipc.open_stream(io.BytesIO(result(stoker, "Flat", "arrow"))).schema
    assert [str(kind) for kind in found.types] == ["int64", "int8", "double", "string", "bool", "decimal128(20, 4)", "date32[day]",
                                                   "timestamp[us, tz=UTC]", "timestamp[us]"]


def test_spark_as_csv(stoker, py):
    data = result(stoker, "Flat", "csv")
    assert data.decode() == (
        '"id","small","x","s","yes","d","day","at","local"\n'
        '1,1,0.5,"plain",true,1.5000,2020-07-01,2020-07-01 12:30:00.250000Z,2020-07-01 12:30:00.250000\n'
        '2,,,,,,,,\n'
        '3,-128,nan,"a ""b"",\nc",false,-1234567890123456.7891,0001-01-01,1969-12-31 23:59:59.999999Z,'
        '2020-07-01 12:30:00.250000\n'
        '4,127,1e+300,"",true,0.0000,2020-07-01,2020-07-01 12:30:00.250000Z,2020-07-01 12:30:00.250000\n')
    found = pandas.read_csv(io.BytesIO(data), dtype={"small": "Int8", "yes": "boolean"}, keep_default_na=False,
                            na_values={name: [""] for name in ("small", "x", "yes", "d", "day", "at", "local")},
                            parse_dates=["at", "local"], converters={})
    assert list(found["small"]) == [1, pandas.NA, -128, 127] or found["small"].isna().tolist() == [False, True, False, False]
    assert found["at"][0] == pandas.Timestamp(AT, tz="UTC") and found["local"][3] == pandas.Timestamp(AT)


def test_spark_as_json(stoker, py):
    """The same without a form; as `collect()` would be sent."""
    at = AT.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
    expected = {"id": 1, "small": 1, "x": 0.5, "s": "plain", "yes": True, "d": "1.5000", "day": "2020-07-01",
                "at": at.isoformat(" ")[:-4], "local": "2020-07-01 12:30:00.25"}
    found = json.loads(result(stoker, "Flat", "json"))
    assert found[0] == expected and found[1] == dict.fromkeys(expected) | {"id": 2} and found[2]["x"] is None
    assert stoker.value("stoker_jobs.tables.Flat") == found
    assert stoker.value("stoker_jobs.tables.Nested")[0] == {
        "id": 1, "list": ["x", None], "struct": {"a": 1, "b": ["2020-07-01"]}, "map": {"k": "1.25", "n": None}, "bin": ["0", "-1"]}


def test_pandas(stoker, py):
    for form in ("parquet", "arrow"):
        found = rows(result(stoker, "Pandas", form), form)
        assert [row["s"] for row in found] == ["plain", None, 'a "b",\nc', ""]
        assert [row["d"] for row in found] == [row["d"] for row in FLAT] and [row["day"] for row in found] == [row["day"] for row in FLAT]
        assert found[0]["local"] == AT and found[1]["local"] is None and found[3]["x"] == 1e300
    lines = result(stoker, "Pandas", "csv").decode().split("\n")
    assert lines[0] == '"id","small","x","s","yes","d","day","at","local"' and lines[1].startswith('1,1,0.5,"plain",true,1.5000,')
    found = json.loads(result(stoker, "Pandas", "json"))
    assert [row["id"] for row in found] == [1, 2, 3, 4] and found[1]["s"] is None and found[0]["d"] == "1.5000"
    same(rows(result(stoker, "Arrow", "parquet"), "parquet"), NESTED)


def test_an_empty_table_has_its_columns(stoker, py):
    job = run(stoker, "Empty")
    assert job["result_format"] == "parquet"
    found = pyarrow.parquet.read_table(io.BytesIO(download(stoker, job)[0]))
    assert found.num_rows == 0 and found.column_names == list(FLAT[0])
    job = run(stoker, "Empty", result_format="csv")      # what the request says comes before what the class says
    assert download(stoker, job)[0].count(b"\n") == 1


def test_where_a_form_may_be_said(stoker, py):
    assert run(stoker, "Chosen", {"form": "csv"})["result_format"] == "csv"
    assert run(stoker, "Chosen")["result_format"] == "json"
    assert run(stoker, "Chosen", {"stoker": {"result-format": "arrow"}})["result_format"] == "arrow"
    job = stoker.request("POST", "/v1/jobs?wait=1min", json.dumps({
        "app": "jobs", "class": "stoker_jobs.tables.Chosen", "context": "py", "result_format": "csv"})).body
    assert download(stoker, job)[0] == b'"id"\n0\n1\n2\n'
    assert stoker.ended(job["id"])["result"] == {"format": "csv", "mediaType": MEDIA["csv"], "bytes": 11,
                                                 "href": "/v1/jobs/%s/result" % job["id"]}


@pytest.mark.parametrize("form, value, text", [
    ("csv", "array(1, 2)", "column 'odd one' is of type list<element: int32 not null>, which csv cannot hold"),
    ("csv", "named_struct('a', 1)", "column 'odd one' is of type struct<a: int32 not null>, which csv cannot hold"),
    ("csv", "X'00'", "column 'odd one' is of type binary, which csv cannot hold"),
    ("parquet", "INTERVAL '1' MONTH", "column 'odd one' is of type interval month, of which Arrow can make no column"),
    ("json", "INTERVAL '1' DAY", "result[0]['odd one'] is a timedelta"),
    ("arrow", "1 AS `odd one`, 2", "the result has two columns with the name 'odd one'"),
])
def test_a_type_that_does_not_fit_is_named(stoker, py, form, value, text):
    job = run(stoker, "Odd", {"value": value}, result_format=form)
    assert job["state"] == "ERROR" and job["error"]["code"] == ("RESULT_NOT_JSON" if form == "json" else "RESULT_FORMAT")
    assert text in job["error"]["message"]
    assert [name for name in os.listdir(stoker.path("results")) if job["id"] in name] == []


def test_what_is_no_table_or_no_form(stoker, py):
    error = run(stoker, "Number")["error"]
    assert error["code"] == "RESULT_FORMAT" and error["message"].startswith("the result is a int: csv takes a table")
    error = run(stoker, "Misspelt")["error"]
    assert error["code"] == "RESULT_FORMAT" and "must be one of json, csv, parquet, arrow, not 'cvs'" in error["message"]


@pytest.mark.parametrize("form", ["json", "csv", "parquet", "arrow"])
def test_a_failure_of_spark_while_it_is_written(stoker, py, form):
    """It has the code that it would have in run_job(), and nothing of the file is left."""
    job = run(stoker, "Fails", result_format=form)
    assert (job["state"], job["error"]["code"]) == ("ERROR", "SPARK_TASK_FAILED"), job["error"]
    assert "deliberate" in job["error"]["message"] + (job["error"]["cause"] or "")
    assert [name for name in os.listdir(stoker.path("results")) if job["id"] in name] == []


@pytest.mark.parametrize("form", ["json", "csv", "parquet", "arrow"])
def test_the_limit_of_a_job(stoker, py, tmp_path, form):
    config = {"rows": 20000, "partitions": 4, "pid": str(tmp_path / "pid")}
    error = run(stoker, "Long", config, result_format=form, max_result="100KiB")["error"]
    assert error["code"] == "RESULT_TOO_LARGE"
    assert error["message"].startswith("the result is longer than max-result, 102400 bytes by the job's own limit; it was stopped at ")


def test_jobs_with_tables_share_a_process(stoker, py):
    """What pyarrow leaves behind, threads say, is no reason for a process to retire."""
    workers = [run(stoker, "Flat", result_format=form)["process"]["name"] for form in ("csv", "parquet", "arrow", "json") * 2]
    assert len(set(workers)) < len(workers) / 2     # one may retire for another reason


@pytest.mark.parametrize("form", ["json", "csv", "parquet", "arrow"])
def test_a_long_table_costs_the_process_little_memory(stoker, py, tmp_path, form):
    """100 MB of rows in 32 partitions: the worker's memory rises by much less, but for a group of rows of Parquet."""
    config = {"rows": 1000000 if form != "json" else 300000, "partitions": 32, "pid": str(tmp_path / "pid")}
    reply = stoker.post_job("stoker_jobs.tables.Long", config, result_format=form)
    most = []

    def over():
        if os.path.exists(config["pid"]):
            pid, before = map(int, open(config["pid"]).read().split() or (0, 0))
            try:
                with open("/proc/%d/status" % pid) as f:
                    most.append(next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM")) - before)
            except (FileNotFoundError, StopIteration):
                pass
        return stoker.job(reply.body["jobId"])["status"] != "RUNNING"
    wait_until(over, "end of the job", 300)
    job = stoker.get("/v1/jobs/" + reply.body["jobId"])
    assert job["state"] == "FINISHED" and job["result_bytes"] > 20000000, job
    print("%s: %d bytes, the worker's memory rose by %d" % (form, job["result_bytes"], max(most)))
    assert max(most) < (128 if form == "parquet" else 64) << 20    # a group of rows of Parquet is written at once
