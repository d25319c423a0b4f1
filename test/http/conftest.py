"""Fixtures: `server`, shared by the tests that can share one; `daemon`, a function that makes one for a test alone.

In a module that is marked own_server each test has a `server` of its own.
"""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import kit  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "own_server: `server` and `app` are the test's own, which may kill it")


@pytest.fixture
def flags():
    with kit.scratch() as folder:
        yield kit.Flags(folder)


@pytest.fixture
def daemon():
    """A function that makes a Daemon (not started); it is ended and looked over after the test."""
    made = []
    with kit.scratch() as folder:

        def make(**kw):
            own = os.path.join(folder, str(len(made)))
            os.mkdir(own)
            made.append(kit.Daemon(own, **kw))
            return made[-1]

        yield make
        for one in made:
            kit.finish(one)


@pytest.fixture(scope="session")
def shared():
    """Small limits, so that tests reach them; a state directory whose path is longer than a socket address."""
    with kit.scratch() as folder:
        daemon = kit.Daemon(
            folder,
            long_path=True,
            max_body="64KiB",
            max_upload="256KiB",
            max_unpacked="1MiB",
            max_archive_entries=50,
            max_queue=8,
            request_timeout="2s",
            max_contexts=12,
        )
        daemon.start()
        yield daemon
        kit.finish(daemon)


@pytest.fixture
def server(request):
    """The shared server, which must survive the test; the next test gets a living one all the same. Or one's own."""
    if request.node.get_closest_marker("own_server"):
        yield request.getfixturevalue("daemon")().start()
        return
    shared = request.getfixturevalue("shared")
    if not shared.running:
        shared.start()
    pid = shared.process.pid
    yield shared
    assert shared.running and shared.process.pid == pid, shared.log()[-4000:]
    assert shared.get("/healthz").status == 200


@pytest.fixture(scope="session")
def shared_app(shared):
    return shared.upload("shared-app")


@pytest.fixture(scope="session")
def shared_context(shared):
    return shared.create("shared-context")


@pytest.fixture
def app(request, server):
    own = request.node.get_closest_marker("own_server")
    return server.upload("app") if own else request.getfixturevalue("shared_app")


@pytest.fixture
def context(server, shared_context):
    return shared_context


@pytest.fixture
def own_context(server):
    """A function that creates a context on the shared server for this test alone."""
    made = []

    def make(**kw):
        made.append(server.create(**kw))
        return made[-1]

    yield make
    for name in made:
        assert server.delete("/contexts/" + name, force="true").status in (200, 404)
