"""Daemons, real sanlock's and ours, and clients of them, for scripts that need a black box.

A `Daemon` is one sanlock host: a `sanlock daemon` process with a run directory
of its own, no watchdog and no privileges it would have to drop; `Ours` is the
same with Holdfast. A `Client` is one process that uses the python3-sanlock
binding; it has to be a process because libsanlock reads SANLOCK_RUN_DIR once
and keeps it.

Errors of the binding come back as `LeaseError`, with the number the binding
gave (a positive errno, or one of sanlock's own numbers from -200 down). Who
wants to see an exception as it was raised asks with `Client.outcome`.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import time

READY_WITHIN = 10.0  # seconds; a real daemon needs about 0.1
POLL = 0.02


class LeaseError(Exception):
    """What the binding raised: `code` is SanlockException.errno."""

    def __init__(self, call, code, text):
        super().__init__(f"{call}: {code} {text}")
        self.code = code


def wait_until(what, condition, within=READY_WITHIN):
    """Polls `condition` until it is true; fails loudly, naming `what`."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {within} s")
        time.sleep(POLL)


class Daemon:
    """One `sanlock daemon`, running from construction until `stop` or `kill`."""

    def __init__(self, run_dir, host_name, *options):
        self.run_dir = os.fspath(run_dir)
        os.makedirs(self.run_dir, mode=0o775, exist_ok=True)
        self.env = dict(os.environ, SANLOCK_RUN_DIR=self.run_dir, SANLOCK_PRIVILEGED="0")
        self.command = ["sanlock", "daemon", "-D", "-w", "0", "-h", "0", "-l", "0",
                        "-U", "root", "-G", "root", "-e", host_name, *options]
        self.log = open(os.path.join(self.run_dir, "daemon.log"), "ab")
        self.process = subprocess.Popen(self.command, env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        wait_until(f"socket in {self.run_dir}", self._answers)

    def _answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.command} ended with {self.process.returncode}")
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(os.path.join(self.run_dir, "sanlock.sock"))
            return True
        except OSError:
            return False

    def run(self, *arguments):
        """Runs `sanlock client ARGUMENTS`; returns (exit status, stdout)."""
        done = subprocess.run(["sanlock", "client", *arguments], env=self.env,
                              stdout=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stdout

    def stop(self):
        """Forced shutdown: holders are killed, lockspaces left, then it exits."""
        if self.process.poll() is None:
            self.run("shutdown", "-f", "1")
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        self.log.close()

    def kill(self):
        """SIGKILL: nothing is released on disk."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Ours:
    """One `holdfast daemon`."""

    def __init__(self, program, run_dir, host_name="host"):
        os.makedirs(run_dir, exist_ok=True)
        self.env = dict(os.environ, SANLOCK_RUN_DIR=run_dir)
        self.log = open(os.path.join(run_dir, "daemon.log"), "ab")
        command = [program, "daemon", "-D", "--watchdog", "none", "--unsafe-no-watchdog", "-l", "0", "-U", "root", "-G", "root", "-e", host_name]
        self.process = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        wait_until("our socket", lambda: os.path.exists(os.path.join(run_dir, "sanlock.sock")))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def _serve(pipe, run_dir):
    """The client process: performs one binding call per message."""
    os.environ["SANLOCK_RUN_DIR"] = run_dir
    import sanlock  # here, so that the parent never loads libsanlock

    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        if message is None:
            return
        call, arguments, keywords = message
        module, name = (os, call[3:]) if call.startswith("os.") else (sanlock, call)
        try:
            pipe.send(("ok", getattr(module, name)(*arguments, **keywords)))
        except Exception as error:  # a wrong argument must not look like a hang
            pipe.send(("raised", type(error).__name__, getattr(error, "errno", None), error.args))


class Client:
    """One process using the binding: `client.acquire(...)` runs there.

    The fd that `register` returns is good only inside that process; pass it
    back as `slkfd` unchanged. A call `os.close` is the function of `os`, for
    what happens to such an fd.
    """

    def __init__(self, run_dir):
        # fork: the parent has no threads and has not touched libsanlock.
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.fspath(run_dir)),
                                       daemon=True)
        self.process.start()
        theirs.close()
        self.pid = self.process.pid

    def __getattr__(self, call):
        if call.startswith("_"):
            raise AttributeError(call)

        def perform(*arguments, **keywords):
            kind, *rest = self.outcome(call, *arguments, **keywords)
            if kind == "ok":
                return rest[0]
            name, code, told = rest
            if name == "SanlockException":
                raise LeaseError(call, code, told)
            raise RuntimeError(f"{call}: {name}: {told}")

        return perform

    def outcome(self, call, *arguments, **keywords):
        """("ok", result), or ("raised", name of the exception, its errno, its arguments)."""
        self.pipe.send((call, arguments, keywords))
        return self.pipe.recv()

    def close(self):
        """Ends the process; its registered connection closes with it."""
        if self.process.is_alive():
            try:
                self.pipe.send(None)
            except OSError:
                pass
            self.process.join(timeout=5)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
        self.pipe.close()
