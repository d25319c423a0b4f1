"""HTTP to one server, by the standard library: requests that answer with JSON, bodies that are read piece by piece."""
import http.client
import json
import socket
import ssl
import time
import urllib.parse

from .errors import Problem, Refused, Unreachable, Wrong

PIECE = 65536
CONNECT_S = 10.0
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 2.0


class Cut(Unreachable):
    """The connection broke after the request was sent: what it asked for may have been done."""


def quoted(name):
    """A name as one segment of a path."""
    return urllib.parse.quote(name, safe="")


class Client:
    """url: http[s]://HOST[:PORT][/PREFIX]. One connection for each request, so threads may share a Client."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        try:
            parts = urllib.parse.urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
                raise ValueError
            self._address, self._prefix, self._tls = (parts.hostname, parts.port), parts.path, parts.scheme == "https"
        except ValueError:
            raise Wrong("the server must be given as http://HOST:PORT, not '%s'" % url) from None

    def open(self, method, path, query=None, body=None, headers=(), timeout=60.0):
        """The answer, unread, when the server agrees: http.client.HTTPResponse. It closes its connection when it is closed.

        query: name -> value, or a list of values; None is left out. body: bytes, or (file, how many bytes of it).
        timeout: seconds without a byte; None: for ever. Raises Unreachable, Cut, Refused.
        """
        connection = self._connect(timeout)
        try:
            return self._ask(connection, method, self._prefix + path + _query(query), body, dict(headers))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Cut("%s broke the connection off: %s" % (self.url, _reason(error))) from error
        except BaseException:
            connection.close()
            raise

    def json(self, method, path, query=None, body=None, headers=(), timeout=60.0):
        """The object that the server answers with; None when it has none. body: an object."""
        headers = dict(headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        with self.open(method, path, query, body, headers, timeout) as answer:
            return self._object(answer)

    def send(self, method, path, query, file, length, timeout):
        """The same with a body of `length` bytes that is read from a file as it goes out."""
        with self.open(method, path, query, (file, length), (), timeout) as answer:
            return self._object(answer)

    def get(self, path, **query):
        return self.json("GET", path, query)

    def pieces(self, answer):
        """The body of an answer, as it comes. Raises Cut unless it comes to its end."""
        while True:
            try:
                piece = answer.read1(PIECE)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Cut("%s broke the connection off: %s" % (self.url, _reason(error))) from error
            if not piece:
                if answer.length:
                    raise Cut("%s broke the connection off: %d bytes are missing" % (self.url, answer.length))
                return
            yield piece

    # -- below

    def _object(self, answer):
        text = b"".join(self.pieces(answer))
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise self._stranger(answer.status) from None

    def _connect(self, timeout):
        host, port = self._address
        try:
            connection = (http.client.HTTPSConnection if self._tls else http.client.HTTPConnection)(
                host, port, timeout=CONNECT_S, blocksize=1 << 18)
            connection.connect()
            connection.sock.settimeout(timeout)
        except (OSError, ssl.CertificateError) as error:
            raise Unreachable("no server answers at %s (%s)" % (self.url, _reason(error)),
                              ": start one, or name another with --server or STOKER_URL") from error
        for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
            connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)   # a log may be silent for days
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def _ask(self, connection, method, target, body, headers):
        body, length = body if isinstance(body, tuple) else (body, len(body or b""))
        if body is not None:
            headers["Content-Length"] = str(length)
        headers["Connection"] = "close"
        try:
            connection.request(method, target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            pass            # it may have answered before it had read everything
        answer = connection.getresponse()
        if answer.status < 400:
            return answer
        with answer:
            raise self._refusal(answer)

    def _refusal(self, answer):
        try:
            error = json.loads(b"".join(self.pieces(answer)))["error"]
            return Refused(answer.status, dict(error, code=str(error["code"]), message=str(error["message"])))
        except (ValueError, TypeError, LookupError):
            return self._stranger(answer.status)

    def _stranger(self, status):
        return Problem("%s answered %d, and not as a Stoker server does: is it the right address?"
                       % (self.url, status))


def _query(query):
    pairs = [(name, value) for name, value in (query or {}).items() if value is not None]
    return "?" + urllib.parse.urlencode(pairs, doseq=True) if pairs else ""


def _reason(error):
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Patience:
    """How long to go on asking for a server that is away: `seconds` since it was last heard of.

    tell(text): says so, once each time it goes away. known: whether it was heard of at all; what never was may be a wrong address.
    """

    def __init__(self, seconds, tell, known=True):
        self.seconds, self._tell, self._known = seconds, tell, known
        self._gone, self._pause = None, RETRY_FIRST_S

    def heard(self):
        self._known, self._gone, self._pause = True, None, RETRY_FIRST_S

    def lost(self, error):
        """Waits a moment before the next try; raises the error when there shall be none."""
        now = time.monotonic()
        if not is_passing(error) or not (self._known or isinstance(error, Refused)):
            raise error
        if self._gone is None:
            self._gone = now
        if now - self._gone >= self.seconds:
            raise error
        if self._pause == RETRY_FIRST_S:
            self._tell("%s; trying again for %g s" % (getattr(error, "what", error.message.rstrip(".")), self.seconds))
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, RETRY_MAX_S)

    def ask(self, request, *args, **kw):
        """The answer of request(...), which may be made again."""
        while True:
            try:
                answer = request(*args, **kw)
                self.heard()
                return answer
            except (Unreachable, Refused) as error:
                self.lost(error)


def is_passing(error):
    """Whether the same request may be answered later: nobody is there, or it is too busy or about to stop."""
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.status == 503)
