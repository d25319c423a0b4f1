"""Logs and events as they come, over cuts of the connection and restarts of the server: nothing is lost or comes twice."""
import json

from .client import quoted
from .errors import Refused, Unreachable

STREAMS = {"out": "stdout", "err": "stderr"}    # what stream=all calls them
EVENTS_SILENCE_S = 60.0     # the server says something every 15 seconds
LABEL = 5                   # bytes of "out| "


class Log:
    """The log of a job or context, from the server's `path` of it.

    stream: stdout, stderr or all (of jobs); None: the only one (of contexts). tail: how many of the last lines, None: all.
    patience: for a server that is away.
    """

    def __init__(self, client, path, patience, stream=None, follow=False, tail=None):
        self._client, self._path, self._patience = client, path, patience
        self._stream, self._follow, self._tail = stream, follow, tail
        self._at = None         # bytes of each stream that were given out

    @classmethod
    def of_job(cls, client, job, patience, stream="all", **kw):
        return cls(client, "/v1/jobs/%s/logs" % quoted(job), patience, stream, **kw)

    @classmethod
    def of_context(cls, client, name, patience, **kw):
        return cls(client, "/v1/contexts/%s/logs" % quoted(name), patience, None, **kw)

    def pieces(self):
        """Yields (stream, bytes) to the log's end, stream being stdout or stderr; with stream=all a line, or a part of one.

        Raises Unreachable when the patience is over, Refused (410: the log is not kept).
        """
        while True:
            try:
                yield from self._read()
                return
            except (Unreachable, Refused) as error:
                self._patience.lost(error)

    def _read(self):
        query = {"stream": self._stream, "follow": "true" if self._follow else None}
        if self._at is None:
            query["tail"] = self._tail
        else:
            query["offset"] = ",".join(map(str, self._at))
        with self._client.open("GET", self._path, query, timeout=None if self._follow else 60.0) as answer:
            self._patience.heard()
            if self._at is None:
                self._at = [int(n) for n in answer.headers["Stoker-Log-From"].split(",")]
            take = self._lines() if self._stream == "all" else self._bytes()
            next(take)
            for data in self._client.pieces(answer):
                for piece in take.send(data):
                    yield piece
                    self._patience.heard()

    def _bytes(self):
        """A coroutine: is sent what has come, yields a list of (stream, bytes)."""
        found = []
        while True:
            data = yield found
            self._at[0] += len(data)
            found = [(self._stream or "stdout", data)]

    def _lines(self):
        """The same for labelled lines; what is not whole yet is kept, and asked for again after a cut."""
        found, rest = [], b""
        while True:
            *lines, rest = (rest + (yield found)).split(b"\n")
            found = []
            for line in lines:
                text = line[LABEL:] + (b"\n" if line[3:4] == b"|" else b"")
                stream = STREAMS[line[:3].decode()]
                self._at[stream == "stderr"] += len(text)
                found.append((stream, text))


class Events:
    """What happens, from `since` on (a number or a time; None: from now on), that fits the filters.

    filters: job, context, type -> list of values, as the server takes them.
    """

    def __init__(self, client, patience, since=None, **filters):
        self._client, self._patience, self._since, self._filters = client, patience, since, filters
        self._last = None

    def follow(self):
        """Yields the data of each event, a dict, without end; None where the server says only how far it is (`at`)."""
        while True:
            try:
                yield from self._read()
            except (Unreachable, Refused) as error:
                self._patience.lost(error)

    @property
    def at(self):
        """The number of the newest event that the server has told or passed over."""
        return int(self._last or 0)

    def _read(self):
        query, headers = dict(self._filters), {}
        if self._last is None:
            query["since"] = self._since
        else:
            headers["Last-Event-ID"] = self._last
        with self._client.open("GET", "/v1/events", query, headers=headers, timeout=EVENTS_SILENCE_S) as answer:
            rest = b""
            for piece in self._client.pieces(answer):
                self._patience.heard()
                *blocks, rest = (rest + piece).split(b"\n\n")
                for block in blocks:
                    fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n"))
                    self._last = fields.get("id", self._last)
                    if "data" in fields:        # without an id: of progress, which is not recorded
                        yield json.loads(fields["data"])
                    elif "id" in fields:
                        yield None
        raise Unreachable("%s ended the events" % self._client.url)
