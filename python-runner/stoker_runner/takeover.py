"""When the I/O thread of a worker has to take over the connection.

A worker that waits for work reads the connection in its main thread, and so does a job that is over in milliseconds cost
no change of threads. A timer is set when a job begins; when it runs out, the I/O thread wakes and reads the connection
until the job has ended.
"""
import ctypes
import os
import time

from . import proc

_libc = ctypes.CDLL(None, use_errno=True)
_CLOEXEC = 0o2000000    # TFD_CLOEXEC
BLIND_SECONDS = 0.05        # between two looks of who cannot be woken any more


class _Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


_timerfd_settime = _libc.timerfd_settime
_timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Itimerspec), ctypes.c_void_p]


class Takeover:
    """seconds: what a job may run before the I/O thread wakes. Its descriptors are PRIVATE_FD or above."""

    def __init__(self, seconds):
        self._timer = _private(_libc.timerfd_create(time.CLOCK_MONOTONIC, _CLOEXEC))
        self.kicked = _private(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._timer_identity, self._kicked_identity = proc.identity(self._timer), proc.identity(self.kicked)
        self._on = ctypes.byref(_Itimerspec(value=_Timespec(int(seconds), int(seconds % 1 * 1e9))))
        self._off = ctypes.byref(_Itimerspec())

    def intact(self):
        """False when a job has closed or replaced a descriptor: the I/O thread still does its work, but badly."""
        return proc.identity(self._timer) == self._timer_identity and self.can_kick()

    def can_kick(self):
        return proc.identity(self.kicked) == self._kicked_identity

    def arm(self):
        """False when a job has closed the timer: then nobody wakes the I/O thread any more."""
        return _timerfd_settime(self._timer, 0, self._on, None) == 0

    def disarm(self):
        _timerfd_settime(self._timer, 0, self._off, None)

    def wait(self):
        """I/O thread: returns when a job has run for long enough; often, when a job has closed the timer."""
        if proc.identity(self._timer) == self._timer_identity:
            try:
                os.read(self._timer, 8)
                return
            except OSError:
                pass
        time.sleep(BLIND_SECONDS)

    def kick(self):
        """Main thread: ends the I/O thread's wait for input. False when a job has closed the descriptor: then the wait
        ends by its timeout, and there is nothing to calm."""
        try:
            if self.can_kick():
                os.eventfd_write(self.kicked, 1)
                return True
        except OSError:
            pass
        return False

    def calm(self):
        """Main thread: takes a kick back."""
        try:
            os.eventfd_read(self.kicked)
        except OSError:
            pass                # no kick stands in it, or it is closed


def _private(fd):
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    try:
        return proc.keep_fd(fd)
    finally:
        os.close(fd)
