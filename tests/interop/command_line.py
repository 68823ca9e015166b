#!/usr/bin/python3
"""The command line of the real sanlock and ours, side by side: what they print, and their exit status.

    command_line.py --holdfast PROGRAM [--show]

Each side has a Holdfast daemon of its own, on areas with equal bytes, and asks it with one
of the two programs. Every line must be equal after times, pids and paths are made so.
Prints a JSON object; exit status 0 only if all agrees.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "transcripts"))

from stage import MIB, lay_out  # noqa: E402

# What differs from run to run: moments, durations, numbers of connections.
MOMENTS = re.compile(r"((?:last_\w+|\w+_last_\w+|timestamp|read_ms|write_ms|monotime|kill_last|ci|fd|pid)[ =])-?\d+")

WITHOUT_DAEMON = ["status", "gets", "host_status", "renewal -s LS", "log_dump", "version", "inquire -p 1",
                  "add_lockspace -s LS:1:DIR/space:0", "read -s x:0:DIR/space:0", "shutdown -f 1",
                  "lookup -x LS:DIR/blank:0 -e a", "format -x LS:DIR/blank:0", "create -x LS:DIR/blank:0 -e a",
                  "delete -x LS:DIR/blank:0 -e a", "update -x LS:DIR/blank:0 -e a:2M", "rebuild -x LS:DIR/blank:0"]

# Without a daemon in any case, on an index of either side's own making.
DIRECT = """
direct init -s NEW:0:DIR/blank:0
direct read_leader -s NEW:1:DIR/blank:0
direct read_leader -s NEW:2000:DIR/blank:0
direct init -s NEW:1:DIR/blank:0 -o 7
direct read_leader -s NEW:1:DIR/blank:0
direct init -r LS:r:DIR/blank:1M
direct read_leader -r LS:r:DIR/blank:1M
direct dump DIR/blank:1M
direct init -r LS:r:DIR/blank:1M -n 5
direct read_leader -r LS:r:DIR/blank:1M
direct init -r LS:r:DIR/blank:1M:77 -n 3000
direct read_leader -r LS:r:DIR/blank:1M
direct init -r LS:r:DIR/blank:1M -z 1
direct init
direct init -s NEW
direct init -r LS:r
direct init -r LS:r:DIR/blank
direct init -s NEW:0:DIR/nowhere:0
direct init -r LS:r:DIR/nowhere:0
direct init -s NEW:0:DIR/blank:100
direct init -r LS:r:DIR/blank:100
direct init -s NEW:0:DIR/blank:512
direct init -s NEW:0:DIR/blank:0 -Z 4096 -A 8M
direct read_leader -s NEW:1:DIR/blank:0 -Z 4096 -A 8M
direct init -s NEW:0:DIR/blank:0 -Z 4096
direct init -s NEW:0:DIR/blank:0 -A 1M
direct init -r LS:r:DIR/blank:0 -Z 512
direct init -r LS:a:DIR/blank:2M -r LS:b:DIR/blank:3M
direct dump DIR/blank:2M
direct init -s NEW:0:DIR/blank:0 -r LS:c:DIR/blank:3M
direct dump DIR/blank:2M
direct init -s NEW:0:DIR:0
direct init -r LS:r:DIR:0
direct format -x LS:DIR/blank:0
direct lookup -x LS:DIR/blank:0
direct update -x LS:DIR/blank:0 -e u:5M
direct lookup -x LS:DIR/blank:0 -e u
direct lookup -x LS:DIR/blank:0 -e :5M
direct lookup -x LS:DIR/blank:0 -e none
direct lookup -x LS:DIR/blank:0 -e v:5M
direct dump DIR/blank -f 1
direct update -x LS:DIR/blank:0 -e u:5M -z 1
direct lookup -x LS:DIR/blank:0 -e :5M
direct update -x LS:DIR/blank:0
direct update -x LS:DIR/blank:0 -e u
direct update -x LS:DIR/blank:0 -e u:77
direct rebuild -x LS:DIR/blank:0
direct rebuild
direct lookup
direct format
direct format -x LS:DIR/nowhere:0
direct lookup -x LS:DIR/nowhere:0 -e a
direct rebuild -x LS:DIR/nowhere:0
direct update -x LS:DIR/nowhere:0 -e u:5M
direct lookup -x LS:DIR/blank:6M -e a
direct lookup -x NO:DIR/blank:0 -e a
direct lookup -x LS:DIR/blank:100 -e a
direct lookup -x LS:DIR/blank:20M -e a
direct lookup -x LS:DIR/blank:0 -e :77
direct format -x LS:DIR/blank:100
direct format -x LS:DIR/blank:0 -Z 4096
direct format -x LS:DIR/blank:0 -Z 4096 -A 1M
direct lookup -x LS:DIR/blank:0
direct lookup -x LS:DIR/blank:0 -Z 4096 -A 1M
direct format -x LS:DIR/blank:0
direct create -x LS:DIR/blank:0 -e a
direct delete -x LS:DIR/blank:0 -e a
"""

LINES = """
version
gets
status
read -s LS:0:DIR/space:0 -D
read -s :0:DIR/space:0
read -r LS:r0:DIR/leases:0 -D
read -r :: -D
read -r LS:other:DIR/leases:0
read -r LS:r1:DIR/leases:1M
align -s x:0:DIR/space:0
inq_lockspace -s LS:1:DIR/space:0
add_lockspace -s LS:0:DIR/space:0
add_lockspace -s LS:2001:DIR/space:0
add_lockspace -s LS:1:DIR/space:0 -o 1
add_lockspace -s LS:1:DIR/space:0 -o 1
add_lockspace -s OTHER:1:DIR/nowhere:0
inq_lockspace -s LS:1:DIR/space:0
gets
gets -h 1
status
status -D
status -o p
status -o s
host_status
host_status -s LS
host_status -s LS -D
host_status -s NO
renewal
renewal -s NO
acquire -r LS:r0:DIR/leases:0 -p 1
inquire -p 1
release -a 1 -p 1
!command -r LS:r1:DIR/leases:1M -c /bin/sleep 1000
inquire -p PID
inquire -p PID -D
acquire -r LS:r2:DIR/leases:2M -p PID
acquire -r LS:r2:DIR/leases:2M -p PID
acquire -r LS:r3:DIR/leases:3M:SH -p PID
acquire -r LS:r4:DIR/leases:4M:7 -p PID
acquire -r LS:r39:DIR/leases:99M -p PID
acquire -r LS:r5 -p PID
inquire -p PID -D
status
status -D
status -o p
status -o s
convert -r LS:r3:DIR/leases:3M -p PID
convert -r LS:r2:DIR/leases:2M:SH -p PID
convert -r LS:r9:DIR/leases:9M -p PID
read -r LS:r1:DIR/leases:1M
inquire -p PID
request -r LS:r9:DIR/leases:9M -f 2
request -r LS:r1:DIR/leases:1M:9 -f 9
examine -s LS
examine -s LS:1:DIR/space:0
examine -r LS:r1:DIR/leases:1M
set_event -s LS -i 2 -g 1 -e 0x5 -d 7
set_event -s LS -i 2 -g 1 -e 6 -d 7
set_event -s LS -i 0 -e 6
set_event -s NO -i 2 -e 6 -d 010
set_config -s LS -u 1
set_config -s LS -u 0
set_config -s LS -O 1
set_config -s LS -O 0
set_config -s LS
set_config -s NO -u 1
release -r LS:r2:DIR/leases:2M -p PID
release -r LS:r2:DIR/leases:2M -p PID
release -a 1 -p PID
inquire -p PID
acquire -r LS:r6:DIR/leases:6M -p PID -P 1
release -O 1 -r LS:r6:DIR/leases:6M -p PID
release -O 1 -s LS -p PID
init -r LS:new:DIR/blank:0
init -r LS:new:DIR/blank:0 -n 5
read -r LS:new:DIR/blank:0
init -r LS:new:DIR/blank:0 -z 1
read -r LS:new:DIR/blank:0
init -s NEW:0:DIR/blank:1M -o 7
read -s NEW:0:DIR/blank:1M -D
init -s NEW:0:DIR/nowhere:0
init -r LS:r7:DIR/leases:7M -m 8 -Z 512 -A 1M
format -x LS:DIR/blank:0
create -x LS:DIR/blank:0 -e a
create -x LS:DIR/blank:0 -e b
lookup -x LS:DIR/blank:0
lookup -x LS:DIR/blank:0 -e a
client lookup -x LS:DIR/blank:0 -e b
lookup -x LS:DIR/blank:0 -e a:2097152
lookup -x LS:DIR/blank:0 -e :3M
lookup -x LS:DIR/blank:0 -e a:3M
lookup -x LS:DIR/blank:0 -e none
lookup -x LS:DIR/blank:0 -e :77
update -x LS:DIR/blank:0 -e u:5M
lookup -x LS:DIR/blank:0 -e u
update -x LS:DIR/blank:0 -e u:5M -z 1
update -x LS:DIR/blank:0 -e u
delete -x LS:DIR/blank:0 -e b
delete -x LS:DIR/blank:0 -e b
delete -x LS:DIR/blank:0
rebuild -x LS:DIR/blank:0
lookup -x LS:DIR/blank:0 -e a
create -x NO:DIR/blank:0 -e a
lookup -x LS:DIR/blank:4M
format -x LS:DIR/blank:4M
lookup -x LS:DIR/blank:4M
format
rebuild
lookup
create -e a
format -x LS
format -x :DIR/blank:0
format -x LS::0
format -x LS:DIR/blank:0 -Z 4096
shutdown
shutdown -w 1
inq_lockspace -s LS:1:DIR/space:0
no_such_action
client status
client no_such_action -s x
status -j 1
status -Dx
status -p
status -Z 512 -A 2M
status -A 1M
status -Z 4096
kill
rem_lockspace -s LS:1:DIR/space:0
rem_lockspace -s LS:1:DIR/space:0
gets
shutdown -f 1 -w 1
"""


def with_clients_in_order(text):
    """STATUS tells clients by their slots, and which slot is free again depends on the instant."""
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    done, clients = [], []
    for block in blocks + [""]:
        if block.startswith("p "):
            clients.append(block)
        else:
            done += sorted(clients) + [block]
            clients = []
    return "".join(done)


class Side:
    """One of the two programs, its daemon and its areas."""

    def __init__(self, work, name, program, areas, holdfast):
        self.directory = os.path.join(work, name)
        os.makedirs(self.directory)
        for area in ("space", "leases", "blank"):
            with open(os.path.join(areas, area), "rb") as old, open(os.path.join(self.directory, area), "wb") as new:
                new.write(old.read())
        self.program = program
        self.env = dict(os.environ, SANLOCK_RUN_DIR=os.path.join(self.directory, "run"))
        self.holdfast, self.daemon, self.guarded = holdfast, None, None

    def start(self):
        os.makedirs(self.env["SANLOCK_RUN_DIR"])
        log = open(os.path.join(self.directory, "daemon.log"), "wb")
        command = [self.holdfast, "daemon", "--watchdog", "none", "-l", "0", "-U", "root", "-G", "root", "-e", "host"]
        self.daemon = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        socket, end = os.path.join(self.env["SANLOCK_RUN_DIR"], "sanlock.sock"), time.monotonic() + 30
        while not os.path.exists(socket):
            assert time.monotonic() < end, "the daemon does not start"
            time.sleep(0.02)

    def words(self, line):
        pid = str(self.guarded.pid) if self.guarded else "1"
        return [self.program] + [word.replace("DIR", self.directory).replace("PID", pid) for word in line.split()]

    def equal(self, text):
        """What it printed, with what is only this side's own made equal."""
        text = text.replace(self.directory, "DIR").replace(self.program, "sanlock")
        if self.guarded:
            text = re.sub(rf"\b{self.guarded.pid}\b", "PID", text)
        return with_clients_in_order(MOMENTS.sub(r"\1N", text))

    def say(self, line):
        """Runs a line: what it printed, and its exit status."""
        if line == "kill":
            self.guarded.send_signal(signal.SIGKILL)
            self.guarded.wait()
            return "", 0
        if line.startswith("!"):
            self.guarded = subprocess.Popen(self.words(line[1:]), env=self.env, stdout=subprocess.DEVNULL)
            end = time.monotonic() + 30
            while not re.search(r"^r LS:r1:.* p PID$", self.run("status")[0], re.MULTILINE):
                assert time.monotonic() < end, "the command does not start"
                time.sleep(0.05)
            return "", 0
        return self.run(line)

    def run(self, line):
        done = subprocess.run(self.words(line), env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              timeout=60, check=False)
        return self.equal(done.stdout.decode(errors="replace")), done.returncode

    def end(self):
        for process in (self.guarded, self.daemon):
            if process and process.poll() is None:
                process.kill()
                process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--holdfast", required=True, type=os.path.abspath)
    parser.add_argument("--show", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        areas = os.path.join(work, "areas")
        os.makedirs(areas)
        lay_out(areas)
        assert MIB == os.path.getsize(os.path.join(areas, "blank")) // 8
        ours = os.path.join(work, "sanlock")
        os.symlink(chosen.holdfast, ours)
        # Directories of equal length: some lines are as long as their paths.
        sides = [Side(work, "real", "sanlock", areas, chosen.holdfast), Side(work, "ours", ours, areas, chosen.holdfast)]
        different, without = [], WITHOUT_DAEMON + DIRECT.split("\n")
        lines = [line for line in without + LINES.split("\n") if line]
        starts = lines.index("version", len(WITHOUT_DAEMON))
        try:
            for number, line in enumerate(lines):
                if number == starts:
                    [side.start() for side in sides]
                real, ours_said = [side.say(line) for side in sides]
                if chosen.show or real != ours_said:
                    print(f"--- {line}\nsanlock  {real[1]} {real[0]!r}\nholdfast {ours_said[1]} {ours_said[0]!r}")
                if real != ours_said:
                    different.append(line)
        finally:
            for side in sides:
                side.end()
    print(json.dumps({"ok": not different, "lines": len(lines), "different": different}))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
