"""The fake zygote. spark.fake.zygote asks for:

exit3           prints a line and exits before it dials
no_hello        never dials
slow_hello      dials after half a second
wrong_token, bad_protocol, garbage     says hello so
ignore_stop     ends neither on `stop` nor on SIGTERM
late_forked     tells of a fork half a second after it
puppet          writes its pid to the file `puppet` and sleeps: the test dials in its place

While there is a file `hold` in the context's folder, a `stop` waits for its removal, and with it all that comes later.
"""

import ctypes
import json
import os
import signal
import sys
import time

from . import keeper, link, spec as specs, worker

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ACK_SECONDS = 1.0
libc = ctypes.CDLL(None)


class Zygote:
    def __init__(self, state_dir, context):
        self.state_dir, self.context = state_dir, context
        self.spec = specs.read(state_dir, context)
        self.wish = specs.wish(self.spec, "zygote")
        self.link = link.Link(state_dir, self)
        self.children, self.exits, self.told, self.later = {}, {}, set(), []
        self.stop_at = self.end_at = None
        self.wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.on_stop({"grace_ms": 1000}))
        signal.set_wakeup_fd(wake_write)

    def run(self):
        while not (self.end_at and not self.children and (not self.exits or time.monotonic() > self.end_at)):
            self.link.poll(0.05 if self.stop_at or self.end_at or self.later else 5.0, self.wake)
            try:
                os.read(self.wake, 4096)
            except BlockingIOError:
                pass
            while self.later and time.monotonic() > self.later[0][0]:
                self.link.send(self.later.pop(0)[1])
            if self.stop_at and time.monotonic() > self.stop_at:
                self.kill_all("the stop took longer than its grace")
            self.reap()
        print("fake zygote: nothing is left", flush=True)
        return 0

    # -- the link

    def hello(self):
        extra = (
            {"token": "0" * 64}
            if self.wish == "wrong_token"
            else {"protocol": 0} if self.wish == "bad_protocol" else {}
        )
        if self.wish == "garbage":
            self.link.send_bytes(b"GET / HTTP/1.0\r\n\r\n")
        self.told = set(self.exits)
        return {
            "role": "zygote",
            "context": self.context,
            "process": "z",
            "children": list(self.children.values()),
            "exits": list(self.exits.values()),
            **extra,
        }

    def welcomed(self):
        for process, body in self.exits.items():
            if process not in self.told:
                self.link.send(dict(body, type="exited"))

    def lost(self):
        for process, body in self.exits.items():
            link.write_spool(self.state_dir, "exit.%s.%s" % (self.context, process), body)

    def refused(self, reason):
        print("fake zygote: refused: %s" % reason, file=sys.stderr, flush=True)
        self.kill_all("refused")
        for pid in [c["pid"] for c in self.children.values()]:
            os.waitpid(pid, 0)
        os._exit(0)

    def deliver(self, message):
        getattr(self, "on_" + message["type"])(message)

    # -- messages

    def on_fork(self, message):
        process = message["process"]
        if process not in self.children and not self.stop_at and not self.end_at:
            self.fork(process, message["role"], message.get("gateway"))
        if process in self.children:
            forked = dict(self.children[process], type="forked")
            if self.wish == "late_forked":
                self.later.append((time.monotonic() + 0.5, forked))
            else:
                self.link.send(forked)

    def on_kill(self, message):
        child = self.children.get(message["process"])
        if child:
            kill_group(child["pid"])

    def on_ack_exit(self, message):
        self.exits.pop(message["process"], None)
        link.forget_spool(self.state_dir, "exit.%s.%s" % (self.context, message["process"]))

    def on_stop(self, message):
        if self.wish == "ignore_stop":
            return
        while os.path.exists("hold"):
            time.sleep(0.01)
        self.stop_at = time.monotonic() + message["grace_ms"] / 1000
        if "k" in self.children:
            os.kill(self.children["k"]["pid"], signal.SIGTERM)
        else:
            self.kill_all("stopped")
            self.end_at = time.monotonic() + ACK_SECONDS

    # -- children

    def fork(self, process, role, gateway):
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.set_wakeup_fd(-1)
                for signum in (signal.SIGCHLD, signal.SIGTERM):
                    signal.signal(signum, signal.SIG_DFL)
                os.setpgid(0, 0)
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == parent:
                    if self.link.sock:
                        self.link.sock.close()
                    main = keeper.main if role == "keeper" else worker.main
                    status = main(self.state_dir, self.context, process, self.spec)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(status)
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass
        self.children[process] = {"process": process, "role": role, "pid": pid, "start_time": link.start_time(pid)}

    def kill_all(self, reason):
        for child in self.children.values():
            kill_group(child["pid"])

    def reap(self):
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            child = next((c for c in self.children.values() if c["pid"] == info.si_pid), None)
            if child:
                kill_group(child["pid"])
            os.waitpid(info.si_pid, 0)
            if child:
                self.settle(child, info)

    def settle(self, child, info):
        del self.children[child["process"]]
        by_signal = info.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        body = {
            "process": child["process"],
            "role": child["role"],
            "pid": child["pid"],
            "status": None if by_signal else info.si_status,
            "signal": info.si_status if by_signal else None,
            "at": time.time(),
            "core": info.si_code == os.CLD_DUMPED,
            "reason": None,
        }
        try:
            with open("exited.%s" % child["process"]) as f:  # as its job has wished
                body.update(json.load(f))
        except FileNotFoundError:
            pass
        self.exits[child["process"]] = body
        if not self.link.send(dict(body, type="exited")):
            link.write_spool(self.state_dir, "exit.%s.%s" % (self.context, child["process"]), body)
        if child["role"] == "keeper":
            self.kill_all("the keeper has ended")
            self.end_at = time.monotonic() + ACK_SECONDS


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def main():
    os.closerange(3, 4096)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    state_dir, context = os.environ["STOKER_STATE_DIR"], os.environ["STOKER_CONTEXT"]
    wish = specs.wish(specs.read(state_dir, context), "zygote")
    if wish == "exit3":
        print("fake zygote: exits with 3 as it was asked to", file=sys.stderr)
        return 3
    if wish in ("no_hello", "puppet"):
        if wish == "puppet":
            with open("puppet.tmp", "w") as f:
                f.write(str(os.getpid()))
            os.rename("puppet.tmp", "puppet")
        while True:
            signal.pause()
    if wish == "slow_hello":
        time.sleep(0.5)
    return Zygote(state_dir, context).run()


if __name__ == "__main__":
    sys.exit(main())
