"""A receiver of webhooks that behaves as badly as it is told to, and keeps what it got. Also for test/spark."""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import socket
import threading
import time

WAIT = 60.0


class Post:
    """One request: path, headers, body; answered turns true when its answer was sent, all of it."""

    def __init__(self, path, headers, body):
        self.path, self.headers, self.body, self.answered = path, headers, body, False

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def id(self):
        return self.headers["Webhook-Id"]

    @property
    def job(self):
        return self.json["job"]["id"] if "job" in self.json else self.json["jobId"]

    def signed_with(self, secret):
        """As https://www.standardwebhooks.com has it; computed anew."""
        key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
        text = b"%s.%s.%s" % (self.id.encode(), self.headers["Webhook-Timestamp"].encode(), self.body)
        found = hmac.new(key, text, hashlib.sha256).digest()
        return self.headers["Webhook-Signature"] == "v1," + base64.b64encode(found).decode()


class Receiver:
    """Answers 200, or for a path what script() says: one of its actions for each request, then 200 again.

    An action is a status, (status, headers), or one of "hang" (200, but not before release()), "close" (none at all), "drip" (an answer
    of 200 whose headers come one byte at a time, until release()), "late-drip" (the same behind the status line) and "huge" (200 and
    a body without end).
    """

    def __init__(self):
        self.lock = threading.Condition()
        self.posts, self.scripts = [], {}
        self.released = threading.Event()
        self.huge_bytes = 0
        self.port = 0
        self.reopen()

    def reopen(self):
        """Listens, on the port that it had."""
        outer = self
        self.released.clear()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer._post(self)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # the other side may hang up whenever it likes

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def url(self, path="/hook", host="127.0.0.1"):
        return "http://%s:%d%s" % (host, self.port, path)

    def script(self, path, *actions):
        self.scripts[path] = list(actions)

    def release(self):
        self.released.set()

    def close(self):
        """Nobody listens any more, until reopen()."""
        self.release()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def of(self, path):
        with self.lock:
            return [p for p in self.posts if p.path == path]

    def wait(self, n, path=None, answered=False):
        """At least n requests, the oldest first."""

        def found():
            return [p for p in self.posts if path in (None, p.path) and (p.answered or not answered)]

        with self.lock:
            assert self.lock.wait_for(lambda: len(found()) >= n, WAIT), "%d of %d requests: %s" % (
                len(found()),
                n,
                [(p.path, p.body[:200]) for p in self.posts],
            )
            return found()

    def _post(self, handler):
        length = int(handler.headers["Content-Length"])
        post = Post(handler.path, handler.headers, handler.rfile.read(length))
        if len(post.body) < length:  # who sent it has died
            handler.close_connection = True
            return
        with self.lock:
            self.posts.append(post)
            left = self.scripts.get(handler.path)
            action = left.pop(0) if left else 200
            self.lock.notify_all()
        with contextlib.suppress(OSError):
            self._answer(handler, action)
            with self.lock:
                post.answered = True
                self.lock.notify_all()

    def _answer(self, handler, action):
        if action == "hang":
            self.released.wait(WAIT)
            action = 200
        if isinstance(action, int):
            action = action, {}
        if isinstance(action, tuple):
            handler.send_response(action[0])
            for name, value in {"Content-Length": "2", **action[1]}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(b"ok")
            return
        handler.close_connection = True
        if action == "close":
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif action == "huge":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                handler.wfile.write(b"x" * 65536)
                self.huge_bytes += 65536
        else:
            text = b"HTTP/1.1 200 OK\r\nX-Slow: %s" % (b"x" * 1000)
            if action == "late-drip":
                handler.wfile.write(text[:17])
                text = text[17:]
            for i in range(len(text)):
                if self.released.is_set():
                    return
                handler.wfile.write(text[i : i + 1])
                time.sleep(0.02)


@contextlib.contextmanager
def receiver():
    one = Receiver()
    try:
        yield one
    finally:
        one.close()
