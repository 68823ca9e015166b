#!/usr/bin/python3
"""The command line of the real sanlock and ours, side by side: what they print, and their exit status.

    command_line.py --holdfast PROGRAM [--show]

Each side has Holdfast daemons of its own, on areas with equal bytes, and asks them with one
of the two programs. Every line must be equal after times, pids and paths are made so. Other lines
are said to a socket that only listens, and what was heard must be equal. The daemon's options
are given to both daemons. The lines are in command_lines.py.
Prints a JSON object; exit status 0 only if all agrees.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "transcripts"))

import command_lines  # noqa: E402
import wire  # noqa: E402
from stage import MIB, lay_out  # noqa: E402

# What differs from run to run: moments, durations, numbers of connections.
MOMENTS = re.compile(r"((?:last_\w+|\w+_last_\w+|timestamp|read_ms|write_ms|monotime|kill_last|ci|fd|pid)[ =])-?\d+")
# How many renewals there were by then, and what a log says.
RENEWALS = re.compile(r"(timestamp=N read_ms=N [^\n]*\n)\1+")
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \d+ \[\d+\]: .*")
FAILED = -5  # what the socket that only listens answers


def with_clients_in_order(text):
    """STATUS tells clients by their slots, and which slot is free again depends on the instant."""
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    done, clients = [], []
    for block in blocks + [""]:
        if block.startswith("p "):
            clients.append(block)
        elif block.startswith("r ") and clients:
            # Sorted by process: each has its leases behind it.
            clients[-1] += block
        else:
            done += sorted(clients) + [block]
            clients = []
    return "".join(done)


def words_of(line, places):
    """The words of a line, with what stands for something replaced."""
    for word in line.split():
        for name, value in places.items():
            word = word.replace(name, value)
        yield word.replace("SPACE", " ").replace("EMPTY", "")


class Side:
    """One of the two programs, its daemons and its areas."""

    def __init__(self, work, name, program, areas, holdfast):
        self.directory = os.path.join(work, name)
        os.makedirs(self.directory)
        for area in ("space", "leases", "blank"):
            self.copy(os.path.join(areas, area), area)
        self.copy("blank", "empty")
        self.program, self.holdfast = program, holdfast
        self.daemons, self.guarded = {}, []

    def path(self, name):
        return os.path.join(self.directory, name)

    def copy(self, old, new, length=-1):
        with open(self.path(old), "rb") as source, open(self.path(new), "wb") as target:
            target.write(source.read(length))

    def env(self, host):
        return dict(os.environ, SANLOCK_RUN_DIR=self.path(f"run{host}"))

    def start(self, host=""):
        env = self.env(host)
        os.makedirs(env["SANLOCK_RUN_DIR"])
        log = open(self.path(f"daemon{host}.log"), "wb")
        command = [self.holdfast, "daemon", "--watchdog", "none", "--unsafe-no-watchdog", "-l", "0", "-U", "root", "-G", "root", "-e", f"host{host}"]
        self.daemons[host] = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("the daemon starts", lambda: os.path.exists(os.path.join(env["SANLOCK_RUN_DIR"], "sanlock.sock")))

    def words(self, line):
        places = {f"PID{n + 1}": str(process.pid) for n, process in reversed(list(enumerate(self.guarded)))}
        places |= {"PID": places.get("PID1", "1"), "DIR": self.directory}
        return [self.program, *words_of(line, places)]

    def equal(self, text):
        """What it printed, with what is only this side's own made equal."""
        text = text.replace(self.directory, "DIR").replace(self.program, "sanlock")
        for number, process in enumerate(self.guarded):
            text = re.sub(rf"\b{process.pid}\b", f"PID{number + 1}", text)
        return with_clients_in_order(RENEWALS.sub(r"\1", MOMENTS.sub(r"\1N", text)))

    def say(self, line):
        """Does what a line says: what was printed, and the exit status."""
        host = "2" if line.startswith("@") else ""
        line = line.removeprefix("@")
        done = self.to_areas(line) or self.to_processes(line, host)
        if done:
            return done
        if line.startswith("full: "):
            with open("/dev/full", "wb") as full:
                return "", self.run(line.removeprefix("full: "), host, full)[1]
        printed, status = self.run(line.removeprefix("first: "), host)
        if line.startswith("first: "):
            printed = printed.partition("\n")[0]
        if line.startswith("log_dump"):
            printed = f"lines of a log: {all(LOG_LINE.fullmatch(one) for one in printed.rstrip().splitlines())}"
        return printed, status

    def to_areas(self, line):
        """The lines that change areas: None for any other."""
        match list(words_of(line, {})):
            case ["copy", old, "over", new]:
                self.copy(old, new)
            case ["cut", old, length, "over", new]:
                self.copy(old, new, int(length))
            case ["poke", name, offset, data]:
                with open(self.path(name), "r+b") as file:
                    file.seek(int(offset))
                    file.write(bytes.fromhex(data))
            case _:
                return None
        return "", 0

    def to_processes(self, line, host):
        """The lines that start and end processes: None for any other."""
        if line == "second":
            self.start("2")
        elif line.startswith("kill "):
            self.kill(self.guarded[int(line.split()[1]) - 1], host)
        elif line.startswith("!"):
            self.guard(line[1:], host)
        else:
            return None
        return "", 0

    def guard(self, line, host):
        process = subprocess.Popen(self.words(line), env=self.env(host), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.guarded.append(process)
        its = re.compile(rf"^r .* p PID{len(self.guarded)}(.*)$", re.MULTILINE)

        def holds_all():
            assert process.poll() is None, f"ended with {process.returncode}: {line}"
            # They are acquired one after the other, and say ADD until they are there.
            return its.findall(self.run("status", host)[0]) == [""] * line.split().count("-r")

        wait_until(f"{line} starts", holds_all)

    def kill(self, process, host):
        process.send_signal(signal.SIGKILL)
        process.wait()
        number = self.guarded.index(process) + 1
        its = re.compile(rf"^(p PID{number} |r .* p PID{number}( REM)?$)", re.MULTILINE)
        wait_until("its daemon has done with it", lambda: not its.search(self.run("status", host)[0]))

    def run(self, line, host="", stdout=subprocess.PIPE):
        done = subprocess.run(self.words(line), env=self.env(host), stdin=subprocess.DEVNULL, stdout=stdout,
                              stderr=subprocess.DEVNULL, timeout=60, check=False)
        return self.equal((done.stdout or b"").decode(errors="replace")), done.returncode

    def end(self):
        for process in (*self.guarded, *self.daemons.values()):
            if process.poll() is None:
                process.kill()
                process.wait()


class Listener:
    """A socket in a directory of its own: it keeps what it hears, and answers that all failed."""

    PAYLOADS = {"read_lockspace": wire.LOCKSPACE, "read_resource": wire.RESOURCE, "read_resource_owners": wire.RESOURCE,
                "lookup_rindex": wire.RENTRY, "create_resource": wire.RENTRY}

    def __init__(self, directory):
        os.makedirs(directory)
        self.env, self.heard = dict(os.environ, SANLOCK_RUN_DIR=directory), []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(os.path.join(directory, "sanlock.sock"))
        self.socket.listen()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            connection, _ = self.socket.accept()
            connection.settimeout(5)
            try:
                while self.hear(connection):
                    pass
            except OSError:
                pass  # sanlock leaves without reading what follows a failure
            connection.close()

    def hear(self, connection):
        """One request, answered; whether more may come."""
        head = receive(connection, 32)
        if len(head) < 32:
            return False
        magic, version, command, flags, length, seq, data, data2 = wire.HEADER.unpack(head)
        name = wire.NAMES.get(command, str(command))
        # Of these sanlock announces another length than it sends.
        size = {"host_status": wire.LOCKSPACE, "renewal": wire.LOCKSPACE, "lookup_rindex": wire.LOCKSPACE + wire.RENTRY}
        body = receive(connection, size.get(name, length - 32))
        self.heard.append((name, magic, version, flags, seq, data, data2, body))
        if name in ("register", "shutdown"):
            return name == "register"
        payload = bytes(self.PAYLOADS.get(name, 0))
        head = wire.HEADER.pack(magic, version, command, flags, 32 + len(payload), 0, FAILED & 0xFFFFFFFF, 0)
        connection.sendall(head + payload)
        return name not in ("log_dump", *wire.STREAMS)

    def to(self, program, line):
        """What was printed, the exit status, and what was heard."""
        self.heard.clear()
        done = subprocess.run([program, *words_of(line, {})], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=60, check=False)
        # One connection after the other is heard: once this one is over, so are those of the program.
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.socket.getsockname())
            last.shutdown(socket.SHUT_WR)
            receive(last, 1)
        printed = done.stdout.decode(errors="replace").replace(program, "sanlock")
        return printed, done.returncode, [(*words, body.rstrip(b"\0"), len(body)) for *words, body in self.heard]


def receive(connection, size):
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def wait_until(what, condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"not within 30 s: {what}"
        time.sleep(0.02)


def runs(program, directory, options):
    """Whether a daemon with these options is there for its clients."""
    os.makedirs(directory)
    command = [program, "daemon", "-D", "-w", "0", "-l", "0", "-U", "root", "-G", "root", "-e", "host"]
    env, nothing = dict(os.environ, SANLOCK_RUN_DIR=directory, SANLOCK_PRIVILEGED="0"), subprocess.DEVNULL
    daemon = subprocess.Popen([*command, *words_of(options, {})], env=env, stdin=nothing, stdout=nothing, stderr=nothing)
    socket_path = os.path.join(directory, "sanlock.sock")
    wait_until("a daemon runs or ends", lambda: daemon.poll() is not None or os.path.exists(socket_path))
    running = daemon.poll() is None
    daemon.kill()
    daemon.wait()
    return running


class Comparison:
    """Both programs do the same at the same time; what came of it is compared."""

    def __init__(self, show):
        self.show, self.lines, self.different = show, 0, []
        self.pool = ThreadPoolExecutor(2)

    def line(self, line, real, ours):
        apart, line = line.startswith("apart: "), line.removeprefix("apart: ")
        both = [self.pool.submit(real, line), self.pool.submit(ours, line)]
        told = [side.result() for side in both]
        self.lines += 1
        wrong = (told[0] == told[1]) == apart
        if self.show or wrong:
            print(f"--- {line}\nsanlock  {told[0]!r}\nholdfast {told[1]!r}")
        if wrong:
            self.different.append(f"apart: {line}" if apart else line)


def lines_of(text):
    return [line for line in text.split("\n") if line]


def compare(comparison, work, areas, programs, holdfast):
    # Directories of equal length: some lines are as long as their paths.
    sides = [Side(work, name, program, areas, holdfast) for name, program in zip(("real", "ours"), programs)]
    try:
        for line in lines_of(command_lines.WITHOUT_DAEMON + command_lines.DIRECT):
            comparison.line(line, sides[0].say, sides[1].say)
        for side in sides:
            side.start()
        for line in lines_of(command_lines.LINES):
            comparison.line(line, sides[0].say, sides[1].say)
    finally:
        for side in sides:
            side.end()
    listeners = [Listener(os.path.join(work, name)) for name in ("heard_real", "heard_ours")]
    for line in lines_of(command_lines.HEARD):
        comparison.line(line, *(partial(one.to, program) for one, program in zip(listeners, programs)))
    for number, line in enumerate(lines_of(command_lines.DAEMON)):
        comparison.line(line, *(partial(runs, program, os.path.join(work, f"{name}_{number}"))
                                for name, program in zip(("daemon_real", "daemon_ours"), programs)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--holdfast", required=True, type=os.path.abspath)
    parser.add_argument("--show", action="store_true")
    chosen = parser.parse_args()
    comparison = Comparison(chosen.show)
    with tempfile.TemporaryDirectory() as work:
        areas = os.path.join(work, "areas")
        os.makedirs(areas)
        lay_out(areas)
        assert MIB == os.path.getsize(os.path.join(areas, "blank")) // 8
        ours = os.path.join(work, "sanlock")
        os.symlink(chosen.holdfast, ours)
        compare(comparison, work, areas, ("sanlock", ours), chosen.holdfast)
    print(json.dumps({"ok": not comparison.different, "lines": comparison.lines, "different": comparison.different}))
    return 1 if comparison.different else 0


if __name__ == "__main__":
    sys.exit(main())
