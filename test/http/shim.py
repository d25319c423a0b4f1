"""shim.c, made and loaded into a stokerd: the server dies at a chosen step, or its files fail."""

import contextlib
import errno
import os
import select
import struct
import subprocess
import tempfile

import kit

SOURCE = os.path.join(kit.HERE, "shim.c")
made = None  # (folder, path), for all tests of one run


def library():
    global made
    if made is None:
        folder = tempfile.TemporaryDirectory(prefix="stoker-shim-")
        path = os.path.join(folder.name, "shim.so")
        subprocess.run(
            [os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", path, SOURCE, "-ldl", "-pthread"], check=True
        )
        made = folder, path
    return made[1]


class Shim:
    """What is set here counts from the daemon's next start() on; fail() and forward() count at once."""

    def __init__(self, daemon):
        self.daemon = daemon
        names = ("steps", "fail", "clock")
        self.steps_path, self.fail_path, self.clock_path = (os.path.join(daemon.folder, name) for name in names)
        self.ahead_s = 0
        self.forward(0)
        asan = os.environ.get("ASAN_OPTIONS", "")  # its library need not come first: the shim uses no memory of its own
        daemon.env.update(
            LD_PRELOAD=library(),
            STOKER_SHIM_STATE=os.path.realpath(daemon.state),
            STOKER_SHIM_STEPS=self.steps_path,
            STOKER_SHIM_FAIL=self.fail_path,
            STOKER_SHIM_CLOCK=self.clock_path,
            ASAN_OPTIONS=(asan + ":" if asan else "") + "verify_asan_link_order=0",
        )
        self.kill_at(0)

    def kill_at(self, step):
        self.daemon.env["STOKER_SHIM_KILL"] = str(step)

    def steps(self):
        """The steps that were taken since the last call: lists of [number, call, path]."""
        try:
            with open(self.steps_path) as f:
                lines = f.read().split("\n")[:-1]
            os.unlink(self.steps_path)
        except FileNotFoundError:
            return []
        return [line.split(" ", 2) for line in lines]

    def fail(self, part, call="write", code=errno.ENOSPC, longer_than=0):
        """From now on this call fails for paths that contain `part`; writes, only what is longer than so many bytes."""
        with open(self.fail_path + ".new", "w") as f:
            f.write("%d %s %s %d\n" % (code, call, part, longer_than))
        os.rename(self.fail_path + ".new", self.fail_path)

    def heal(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.fail_path)

    def forward(self, seconds):
        """The server's monotonic clock jumps ahead: its timers are over as if nothing had happened for so long."""
        self.ahead_s += seconds
        with open(self.clock_path, "r+b" if os.path.exists(self.clock_path) else "wb") as f:
            f.write(struct.pack("q", self.ahead_s))

    @contextlib.contextmanager
    def failing(self, *args, **kw):
        self.fail(*args, **kw)
        try:
            yield
        finally:
            self.heal()

    def start(self):
        """Starts the daemon: True when it listens, False when the shim has ended it before that."""
        one = self.daemon
        with open(one.log_path, "ab") as log:
            one.process = subprocess.Popen(
                [one.binary, "--config", one.config_path],
                env=one.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=one.folder,
            )
        one.started.append(one.process.pid)
        ready, _, _ = select.select([one.process.stdout], [], [], kit.WAIT)
        assert ready, "stokerd says nothing\n" + one.log()
        line = one.process.stdout.readline().decode()
        if not line:
            assert one.wait() == -9, one.log()[-4000:]
            return False
        one.port = int(line.rsplit(":", 1)[1])
        return True
