"""Where a result is written to: memory while it is short, else its file, never both in whole."""
import contextlib
import io
import os

from .failure import JobError

# Who may limit a result, as errors name them.
SERVER, CONTEXT, JOB = "the server's configuration", "the context's settings", "the job's own limit"


class Limit(int):
    """The most bytes that a result may have. by: one of the names above."""

    def __new__(cls, size, by=SERVER):
        limit = super().__new__(cls, size)
        limit.by = by
        return limit


class Sink:
    """Takes the bytes of one result, in pieces; one thread. It can be written to by pyarrow as well.

    max_inline: bytes; a longer result goes to a file (-1: always). max_result: bytes, a Limit or an int; one byte more is
    JobError RESULT_TOO_LARGE. path_for_file: called without arguments, once, when a file is needed; returns its path.
    """

    closed = False

    def __init__(self, max_inline, max_result, path_for_file):
        self._max_inline = max_inline
        self._max_result = max_result
        self._path_for_file = path_for_file
        self._out = io.BytesIO()
        self._over = False
        self.path = None
        self.bytes = 0
        if max_inline < 0:
            self._open()

    def write(self, data):
        """Takes a piece, anything that has a length and is bytes. Returns its length."""
        if self._over:
            return len(data)
        self.bytes += len(data)
        if self.bytes > self._max_result:
            raise JobError('RESULT_TOO_LARGE', f'the result is longer than max-result, {int(self._max_result)} bytes by '
                           f'{getattr(self._max_result, "by", SERVER)}; it was stopped at {self.bytes} bytes')
        if self.path is None and self.bytes > self._max_inline:
            self._open()
        self._out.write(data)
        return len(data)

    def _open(self):
        start = self._out.getvalue()
        self.path = self._path_for_file()
        self._out = open(self.path, 'wb')
        self._out.write(start)

    def text(self):
        """What was written, as text, when there is no file."""
        return self._out.getvalue().decode()

    def finish(self):
        """The file, if there is one, and its directory are on the disk when this returns."""
        if self.path is None:
            return
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        directory = os.open(os.path.dirname(self.path) or '.', os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def discard(self):
        """Removes the file, if there is one. What is written from here on is dropped: writers end with a last piece."""
        self._over = True
        if self.path is not None:
            with contextlib.suppress(OSError):
                self._out.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    # -- as pyarrow wants it

    def writable(self):
        return True

    def readable(self):
        return False

    def seekable(self):
        return False

    def flush(self):
        pass

    def close(self):
        """Nothing: finish() and discard() end it."""
