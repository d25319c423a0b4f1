"""kill -9 of the server at every step, as test_kill_sweep.py, of a life in which the ends of jobs are told to webhooks."""

import contextlib

import kit
from kit import wait_for
from receiver import receiver
from shim import Shim
from test_kill_sweep import GONE, STRIDE
from test_webhooks import QUICK, SECRET, deliveries, start


def one_life(folder, hooks, kill_at):
    """Jobs of three fates with their webhooks, in a server that dies at that step; then the next one. Steps of the first."""
    server = kit.Daemon(folder, **QUICK, webhooks=[hooks.url("/all")])
    shim = Shim(server)
    shim.kill_at(kill_at)
    accepted = []
    first = len(hooks.posts)
    try:
        with contextlib.suppress(*GONE, AssertionError):
            if shim.start():
                server.upload("app")
                server.create("c")
                accepted.append(start(server, hooks.url("/own"), secret=SECRET))
                accepted.append(start(server, hooks.url("/own"), {"do": "error"}, secret=SECRET))
                accepted.append(start(server, hooks.url("/own"), {"wait": "/nowhere"}, secret=SECRET))
                server.delete("/v1/jobs/" + accepted[2])
                for job in accepted:
                    wait_for(lambda: {d["state"] for d in deliveries(server, job=job)} == {"DELIVERED"}, "deliveries")
        steps = len(shim.steps())
        if server.running and kill_at:
            server.kill()
        if not server.running:
            server.wait()
            shim.kill_at(0)
            assert shim.start()
        for (job,) in server.rows("SELECT id FROM jobs WHERE state < 4"):
            server.delete("/v1/jobs/" + job)
        wait_for(lambda: not server.rows("SELECT 1 FROM jobs WHERE state < 4"), "the end of all jobs")
        wait_for(lambda: not server.rows("SELECT 1 FROM deliveries WHERE state < 2"), "the end of all deliveries")
        posts = hooks.posts[first:]
        stored = {row[0] for row in server.rows("SELECT id FROM jobs")}
        assert set(accepted) <= stored
        for path in ("/own", "/all"):
            mine = [p for p in posts if p.path == path]
            assert {p.job for p in mine} == stored
            for job in stored:
                ids = [p.id for p in mine if p.job == job]
                assert len(set(ids)) == 1 and len(ids) <= 2, "told %d times" % len(ids)
        assert all(p.signed_with(SECRET) for p in posts if p.path == "/own")
        return steps, len(posts) - 2 * len(stored)
    except BaseException as e:
        raise AssertionError("%s\nkilled at step %d: %r" % (server.log()[-5000:], kill_at, e)) from e
    finally:
        kit.finish(server)


def test_killed_at_every_step():
    """At least once, and never more than twice: a server that dies once repeats what it had not yet recorded."""
    with receiver() as hooks:
        with kit.scratch() as folder:
            steps, twice = one_life(folder, hooks, 0)
        assert steps > 60 and twice == 0
        for step in range(20, steps, STRIDE):
            with kit.scratch() as folder:
                twice += one_life(folder, hooks, step)[1]
    print("%d steps, %d deliveries were repeated" % (steps, twice))
