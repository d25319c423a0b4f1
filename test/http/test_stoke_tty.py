"""stoke in a terminal: Ctrl-C as it is typed, the bar beside a job's log."""

import re

import kit
from stoking import HANG, NOTE, Tty, dictated, stoke

# ---- Ctrl-C


def test_ctrl_c_cancels(server, context, app):
    """What is typed into a terminal; the receipt says how it was done."""
    with Tty(server, "run", "-C", context, app, "app.Job", *HANG) as tty:
        tty.wait_screen("RUNNING")
        tty.type("\x03")
        done = tty.wait()
    assert done.status == 5, done
    job = NOTE.match(done.out)[1]
    assert "stoke: cancelling job %s; Ctrl-C once more leaves it" % job in done.out
    assert re.search(r"^job %s: KILLED in \d+ ms, asked for by user while RUNNING, stopped by kill$" % job, done.out, re.M)
    assert server.job(job)["status"] == "KILLED"


def test_ctrl_c_twice_leaves(daemon, flags):
    server = daemon(cancel_grace="1min", stop_grace="1min").start()
    stubborn = ("-c", "fake.do=stubborn", "-c", "fake.until=" + flags.path("go"))
    with Tty(server, "run", "-C", server.create("c"), server.upload("app"), "app.Job", *stubborn) as tty:
        tty.wait_screen("RUNNING")
        tty.type("\x03")
        tty.wait_screen("^. CANCELLING")
        tty.type("\x03")
        done = tty.wait()
    job = NOTE.match(done.out)[1]
    assert done.status == 130 and "left job %s, which goes on" % job in done.out, done
    assert server.get("/v1/jobs/" + job).json["state"] == "CANCELLING"
    flags.up("go")
    server.wait_job(job, "FINISHED")


def test_ctrl_c_leaves_what_was_not_ours(server, context, app, flags):
    job = server.start_job(context, app, {"print": "here\n", "wait": flags.path("go")})
    for command in (["attach"], ["logs", "-f"]):
        with Tty(server, *command, job) as tty:
            tty.wait_screen("^here$")
            tty.type("\x03")
            assert tty.wait().status == 130
    assert server.job(job)["status"] == "RUNNING"
    flags.up("go")
    server.wait_job(job, "FINISHED")


# ---- the bar


def test_the_bar_stays_apart_from_the_log(server, context, app, flags):
    script = kit.Dictation(flags)
    with Tty(server, "run", "-C", context, app, "app.Job", *dictated(script)) as tty:
        tty.wait_screen(r"^. RUNNING +\d")
        for i in range(5):
            (script.out if i % 2 else script.err)("line %d\n" % i)
            tty.wait_screen("^line %d$" % i, r"^. RUNNING +\d")
            assert [line for line in tty.screen if line.startswith("line")] == ["line %d" % n for n in range(i + 1)]
        script.out("no end")
        script.end()
        done = tty.wait()
    first, *lines, result, last, rest = tty.screen
    assert done.status == 0 and NOTE.match(first + "\n") and rest == "", tty.screen
    assert lines == ["line %d" % i for i in range(5)] and result == 'no end"as it was told"', tty.screen
    assert re.fullmatch(r"stoke: job .* FINISHED in \d+\.\d s", last)


def test_the_bar_tells_the_place_in_the_queue(server, app, own_context, flags):
    context = own_context(**{"max-jobs-per-context": 1})
    for name in ("one", "two"):
        server.start_job(context, app, {"wait": flags.path("go")})
    with Tty(server, "run", "-C", context, app, "app.Job") as tty:
        tty.wait_screen("^. QUEUED 1 before it")
        flags.up("go")
        assert tty.wait().status == 0


def test_no_bar_where_it_was_not_wanted(server, context, app, flags):
    for args, env in ((["-q"], {}), ([], {"TERM": "dumb"})):
        job = server.start_job(context, app, {"print": "here\n", "do": "hang"})
        with Tty(server, "attach", job, *args, env=env) as tty:
            tty.wait_screen("^here$")
            stoke(server, "cancel", job)
            assert tty.wait().status == 5
            assert "\x1b[2K" not in tty.raw and "RUNNING 0" not in tty.raw, tty.raw


def test_last_words_have_a_line_of_their_own(server, context, app, flags):
    """Also behind a log whose last line has no end."""
    script = kit.Dictation(flags)
    job = server.start_job(context, app, {"do": "dictate", "script": script.path})
    with Tty(server, "attach", "--log", "stdout", job) as tty:
        script.out("x" * 4096)      # a piece of a line
        tty.wait_screen("xxx$")
        tty.type("\x03")
        done = tty.wait()
    assert done.status == 130 and "stoke: left job %s, which goes on: 'stoke attach' follows it, 'stoke cancel' ends it" % job in tty.screen
    script.end()
    server.wait_job(job, "FINISHED")
