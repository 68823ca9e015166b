"""A client process that does as it is told: connects, sends bytes, receives bytes.

It is a process of its own because a daemon looks at its pid, and may end it.
"""

import multiprocessing
import os
import select
import socket


class _Client:
    """In the process: its connections."""

    def __init__(self, path):
        self.path = path
        self.open = {}

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        number = len(self.open)
        self.open[number] = connection
        return number

    def send(self, number, data):
        """How many bytes went out before the other side had closed."""
        try:
            self.open[number].sendall(data, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            return "broken"
        return "sent"

    def receive(self, number, most, within):
        """Up to `most` bytes; fewer at the end of the connection (True) or after `within` seconds."""
        connection, found = self.open[number], b""
        while len(found) < most:
            if not select.select([connection], [], [], within)[0]:
                return found, False
            try:
                more = connection.recv(most - len(found))
            except ConnectionResetError:
                more = b""
            if not more:
                return found, True
            found += more
        return found, False

    def half_close(self, number):
        self.open[number].shutdown(socket.SHUT_WR)

    def close(self, number):
        self.open[number].close()


def _serve(pipe, path):
    client = _Client(path)
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        if message is None:
            return
        call, arguments = message
        try:
            pipe.send((True, getattr(client, call)(*arguments)))
        except Exception as error:  # a mistake in a script must not look like a hang
            pipe.send((False, f"{type(error).__name__}: {error}"))


class Actor:
    """A client process, from construction until `end`, or until a daemon ends it."""

    def __init__(self, run_dir):
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        path = os.path.join(run_dir, "sanlock.sock")
        self._process = context.Process(target=_serve, args=(theirs, path), daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid

    def call(self, what, *arguments):
        self._pipe.send((what, arguments))
        good, told = self._pipe.recv()
        if not good:
            raise RuntimeError(f"{what}{arguments!r}: {told}")
        return told

    def ended_by(self, within):
        """The signal that ended it, 0 for an exit of its own, or None where it lives on."""
        self._process.join(within)
        code = self._process.exitcode
        return None if code is None else max(0, -code)

    def end(self):
        # Told in words: every process that was forked has all pipes open, and none of them would see its end.
        try:
            self._pipe.send(None)
        except OSError:
            pass  # a daemon has ended it, or it was ended before
        self._pipe.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
