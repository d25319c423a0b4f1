"""GET /metrics: its text as strict parsers read it, and that each number is what it says."""

import os
import re
import shutil
import subprocess

import pytest
from kit import CONTEXT_STATES, JOB_STATES, make_zip, unique, wait_for
from prometheus_client import parser as plain
from prometheus_client.openmetrics import parser as openmetrics

OPEN = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5"}
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")  # Debian: in the package prometheus
UNITS = ("seconds", "bytes", "info", "ratio")


class Scrape:
    """What a scrape gave: families by name, samples by name and labels."""

    def __init__(self, server, headers=None):
        self.reply = server.get("/metrics", headers=headers)
        assert self.reply.status == 200, self.reply
        parse = openmetrics if headers else plain
        self.families = {}
        for family in parse.text_string_to_metric_families(self.reply.text):
            assert family.name not in self.families, "%s comes twice" % family.name
            self.families[family.name] = family
        self.samples = {}
        for family in self.families.values():
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in self.samples, key
                self.samples[key] = sample.value

    def get(self, name, **labels):
        return self.samples[name, tuple(sorted(labels.items()))]

    def find(self, name, **labels):
        """The sum of what has these labels, among others."""
        return sum(
            value for (n, given), value in self.samples.items() if n == name and set(labels.items()) <= set(given)
        )

    def jobs(self):
        """How many jobs are in each state, of those states that have any."""
        found = {state: self.get("stoker_jobs", state=state) for state in JOB_STATES}
        return {state: n for state, n in found.items() if n}


def test_the_text_is_as_scrapers_read_it(server, context, app):
    assert server.run(context, app).status == 200
    text, opened = Scrape(server), Scrape(server, OPEN)
    assert text.reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert opened.reply.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert opened.reply.text.endswith("\n# EOF\n")
    assert set(text.families) == set(opened.families)
    for name, family in text.families.items():
        assert family.type == opened.families[name].type
    if PROMTOOL:  # it looks at names and helps too
        check = subprocess.run(
            [PROMTOOL, "check", "metrics"], input=text.reply.body, capture_output=True, timeout=60, check=False
        )
        assert check.returncode == 0 and not check.stderr, check.stderr.decode()


def test_names_and_labels_are_by_the_conventions(server, context, app):
    assert server.run(context, app).status == 200
    scrape = Scrape(server)
    for name, family in scrape.families.items():
        assert re.fullmatch(r"(stoker|process)_[a-z]+(_[a-z]+)*", name)
        assert family.documentation.endswith(".") and family.type in ("counter", "gauge", "histogram")
        for word in name.split("_"):
            assert word not in ("ms", "us", "milliseconds", "minutes", "kb", "mb", "total"), name
        assert family.type != "counter" or all(s.name == name + "_total" for s in family.samples)
        if name.endswith(("_duration", "_wait", "_size")):
            raise AssertionError("%s has no unit" % name)
    histograms = [f for f in scrape.families.values() if f.type == "histogram"]
    assert len(histograms) >= 5
    for family in histograms:
        assert family.name.endswith(UNITS + ("_commands",)), family.name


def test_histograms_add_up(server, context, app):
    assert server.run(context, app).status == 200
    for family in Scrape(server).families.values():
        if family.type != "histogram":
            continue
        buckets, counts = {}, {}
        for sample in family.samples:
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            if sample.name.endswith("_bucket"):
                buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
            elif sample.name.endswith("_count"):
                counts[labels] = sample.value
        assert set(buckets) == set(counts)
        for labels, found in buckets.items():
            assert found == sorted(found) and [n for _, n in found] == sorted(n for _, n in found), family.name
            assert found[-1] == (float("inf"), counts[labels])


def test_jobs_by_state_slots_and_times(daemon, flags):
    server = daemon(max_jobs=2).start()
    app, context = server.upload(), server.create()
    slots = wait_for(lambda: Scrape(server).get("stoker_slots"), "slots in the numbers")
    hold = {"wait": flags.path("go")}
    first = [server.start_job(context, app, hold) for _ in range(int(slots))]
    for job in first:
        server.wait_running(job)
    waits = server.start_job(context, app)
    busy = wait_for(
        lambda: (lambda s: s if s.jobs() == {"RUNNING": slots, "QUEUED": 1} else None)(Scrape(server)),
        lambda: Scrape(server).jobs(),
    )
    assert busy.get("stoker_slots_busy") == slots
    assert busy.get("stoker_jobs_submitted_total") == slots + 1
    assert busy.get("stoker_job_queue_wait_seconds_count") == slots
    assert busy.get("stoker_job_run_seconds_count") == 0
    assert busy.find("stoker_jobs_ended_total") == 0
    flags.up("go")
    server.wait_job(waits, "FINISHED")
    over = wait_for(
        lambda: (lambda s: s if s.jobs() == {"FINISHED": slots + 1} else None)(Scrape(server)),
        lambda: Scrape(server).jobs(),
    )
    assert over.get("stoker_slots_busy") == 0
    assert over.get("stoker_jobs_ended_total", state="FINISHED") == slots + 1
    assert over.get("stoker_job_queue_wait_seconds_count") == slots + 1
    assert over.get("stoker_job_run_seconds_count") == slots + 1
    assert over.get("stoker_job_run_seconds_sum") > 0


def test_each_end_is_counted_by_its_state(daemon, flags):
    server = daemon().start()
    app, context = server.upload(), server.create()
    server.wait_job(server.start_job(context, app, {"do": "error"}), "ERROR")
    job = server.start_job(context, app, {"wait": flags.path("never")})
    server.wait_running(job)
    assert server.delete("/v1/jobs/" + job).json["state"] == "KILLED"
    scrape = wait_for(
        lambda: (lambda s: s if s.jobs() == {"ERROR": 1, "KILLED": 1} else None)(Scrape(server)),
        lambda: Scrape(server).jobs(),
    )
    ended = {s: scrape.get("stoker_jobs_ended_total", state=s) for s in JOB_STATES[4:]}
    assert {s: n for s, n in ended.items() if n} == {"ERROR": 1, "KILLED": 1}


def test_contexts(daemon):
    server = daemon().start()
    name = server.create()
    up = wait_for(
        lambda: (lambda s: s if s.get("stoker_contexts", state="RUNNING") == 1 else None)(Scrape(server)),
        "a context in the numbers",
    )
    assert {s: up.get("stoker_contexts", state=s) for s in CONTEXT_STATES[:3]} == {
        "CREATING": 0,
        "RUNNING": 1,
        "STOPPING": 0,
    }
    assert up.get("stoker_context_start_seconds_count") == 1 and up.get("stoker_context_start_seconds_sum") > 0
    assert server.delete("/contexts/" + name).status == 200
    gone = wait_for(
        lambda: (lambda s: s if s.find("stoker_contexts") == 0 else None)(Scrape(server)), "no context in the numbers"
    )
    assert gone.get("stoker_contexts_ended_total", state="STOPPED") == 1
    assert gone.get("stoker_slots") == 0


def test_a_killed_server_knows_its_jobs_again_and_counts_from_zero(daemon, flags):
    server = daemon().start()
    app, context = server.upload(), server.create()
    assert server.run(context, app).status == 200
    job = server.start_job(context, app, {"wait": flags.path("go")})
    server.wait_running(job)
    server.restart()
    scrape = wait_for(
        lambda: (lambda s: s if s.jobs() == {"FINISHED": 1, "RUNNING": 1} else None)(Scrape(server)),
        lambda: Scrape(server).jobs(),
    )
    assert scrape.get("stoker_contexts", state="RUNNING") == 1
    assert scrape.get("stoker_jobs_submitted_total") == 0
    assert scrape.find("stoker_jobs_ended_total") == 0
    flags.up("go")
    server.wait_job(job, "FINISHED")
    wait_for(lambda: Scrape(server).jobs() == {"FINISHED": 2}, lambda: Scrape(server).jobs())


def test_the_store(daemon):
    server = daemon().start()
    before = Scrape(server)
    server.upload()
    done = before.get("stoker_store_commands_total")
    after = wait_for(
        lambda: (lambda s: s if s.get("stoker_store_commands_total") > done else None)(Scrape(server)), "a command"
    )
    for name in "commits_total", "commands_total", "commit_seconds_count", "batch_commands_count":
        assert after.get("stoker_store_" + name) > before.get("stoker_store_" + name), name
    assert after.get("stoker_store_commits_total") == after.get("stoker_store_commit_seconds_count")
    assert after.get("stoker_store_commits_total") == after.get("stoker_store_batch_commands_count")
    assert after.get("stoker_store_commands_total") == after.get("stoker_store_batch_commands_sum")
    assert after.get("stoker_store_wal_bytes") == os.path.getsize(server.db_path + "-wal")
    assert after.get("stoker_store_database_bytes") == os.path.getsize(server.db_path)


def test_a_store_that_stands_still_holds_no_scrape_up(daemon):
    server = daemon().start()
    Scrape(server)
    with server.frozen_store():
        reply = server.background("PUT", "/v1/binaries/a?type=zip", make_zip())
        wait_for(lambda: Scrape(server).get("stoker_http_requests_in_flight") == 2, "an upload that waits")
    assert reply().status == 201


def test_requests_by_route(daemon):
    server = daemon().start()
    for _ in range(3):
        assert server.get("/v1/jobs/" + unique()).status == 404
    assert server.request("HEAD", "/healthz").status == 200
    assert server.get("/v1/jobs", limit="x").status == 400
    count = "stoker_http_requests_total"
    scrape = wait_for(  # a request counts when its answer has been sent
        lambda: (lambda s: s if s.find(count) - s.find(count, route="/metrics") == 5 else None)(Scrape(server)), "five requests"
    )
    assert scrape.get(count, route="/v1/jobs/{id}", method="GET", code="404") == 3
    assert scrape.get(count, route="/healthz", method="GET", code="200") == 1
    assert scrape.get(count, route="/v1/jobs", method="GET", code="400") == 1
    times = "stoker_http_request_duration_seconds_count"
    assert scrape.get(times, route="/v1/jobs/{id}", method="GET") == 3
    wait_for(lambda: Scrape(server).find(count, route="/metrics", method="GET", code="200") >= 1, "the scrape before")


def test_clients_cannot_make_up_labels(daemon):
    server = daemon().start()
    for i in range(20):
        server.get("/%s" % unique())
        server.get("/v1/%s" % unique())
        server.request("GET" if i % 2 else "DELETE", "/healthz?_method=BREW" if i % 2 else "/healthz")
    server.raw(b"GET http:// HTTP/9.9\r\n\r\n")
    server.raw(b"nonsense\r\n\r\n")
    scrape = wait_for(
        lambda: (lambda s: s if s.find("stoker_http_requests_total") >= 62 else None)(Scrape(server)),
        "all requests in the numbers",
    )
    routes = {dict(labels).get("route") for name, labels in scrape.samples if name == "stoker_http_requests_total"}
    assert routes <= {"unmatched", "/metrics"}
    codes = {dict(labels)["code"] for name, labels in scrape.samples if name == "stoker_http_requests_total"}
    assert codes >= {"404", "405", "501", "400"} and all(re.fullmatch("[1-5][0-9][0-9]", c) for c in codes)
    methods = {dict(labels)["method"] for name, labels in scrape.samples if name == "stoker_http_requests_total"}
    assert methods <= {"any", "GET"}


def test_the_process(server):
    scrape = Scrape(server)
    with open("/proc/%d/statm" % server.process.pid) as f:
        resident = int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    assert abs(scrape.get("process_resident_memory_bytes") - resident) < 64 << 20
    threads = len(os.listdir("/proc/%d/task" % server.process.pid))
    assert abs(scrape.get("process_threads") - threads) <= 8
    assert abs(scrape.get("process_open_fds") - len(os.listdir("/proc/%d/fd" % server.process.pid))) <= 8
    assert scrape.get("process_cpu_seconds_total") > 0
    assert abs(scrape.get("process_start_time_seconds") - os.stat("/proc/%d" % server.process.pid).st_ctime) < 60
    assert scrape.get("stoker_disk_free_bytes") > 0


@pytest.mark.parametrize("query", ["?x=1", "?format=json"])
def test_what_it_does_not_know_is_refused(server, query):
    reply = server.get("/metrics" + query)
    assert reply.status == 400 and reply.json["error"]["field"] == query[1:].split("=")[0]
