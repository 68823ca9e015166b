#!/usr/bin/python3
"""Holdfast's daemon under the real wdmd, and what that does with its device.

    real_wdmd.py --holdfast PATH

wdmd is Debian's, unmodified; wdmd/device.c stands for the device that this
machine may not have. All of it runs in a mount namespace of its own with
another /run and /dev/shm, so it needs root, leaves nothing behind, and does
not meet a wdmd of this machine. Takes about a minute and a half.

Prints a line for each thing that was seen; exit status 0 only if all were.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

IO_TIMEOUT = 2
RENEWAL_FAIL = 8 * IO_TIMEOUT
ENTRY = re.compile(r"^client \d+ name (\S+) pid (-?\d+) fd (-?\d+) dead (\d) ref (\d) now (\d+) renewal (\d+) expire (\d+)$", re.M)
HERE = pathlib.Path(__file__).resolve().parent


def now():
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def wait_for(what, look, within=60):
    until = now() + within
    while True:
        seen = look()
        if seen:
            print("seen:", what, flush=True)
            return seen
        if now() > until:
            sys.exit(f"not within {within} s: {what}")
        time.sleep(0.05)


class Host:
    def __init__(self, holdfast, directory):
        self.holdfast, self.directory = holdfast, directory
        self.device_log = directory / "device"
        self.device_log.touch()
        self.area = directory / "leases"
        self.environment = dict(os.environ, SANLOCK_RUN_DIR=str(directory / "run"), NO_COLOR="1",
                                WATCHDOG_LOG=str(self.device_log))
        stand_in = directory / "device.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", stand_in, HERE / "wdmd" / "device.c", "-ldl"], check=True)
        wdmd_environment = dict(self.environment, LD_PRELOAD=str(stand_in))
        self.wdmd = subprocess.Popen(["wdmd", "-D", "-H", "0", "-G", "root"], env=wdmd_environment,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.daemons = []

    def run(self, *arguments):
        return subprocess.run([self.holdfast, *map(str, arguments)], env=self.environment, capture_output=True, text=True)

    def daemon(self):
        self.log = self.directory / f"daemon{len(self.daemons)}"
        command = [self.holdfast, "daemon", "-l", "0", "-e", "host", "--watchdog", "wdmd"]
        with open(self.log, "w", encoding="utf-8") as log:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))
        return self.daemons[-1]

    def says(self, words):
        return words in self.log.read_text(encoding="utf-8")

    def lockspace(self, verb, *more):
        done = self.run("lockspace", verb, f"LS:1:{self.area}:0", *more)
        assert done.returncode == 0, done.stdout + done.stderr

    def entry(self):
        """Ours: dead, ref, expire; None where there is none, or it is cleared."""
        text = subprocess.run(["wdmd", "-d"], capture_output=True, text=True).stdout
        ours = [m for m in ENTRY.finditer(text) if m[1] == f"holdfast_{self.directory / 'run'}" and m[5] + m[8] != "00"]
        assert len(ours) <= 1, text
        return (int(ours[0][4]), int(ours[0][5]), int(ours[0][8])) if ours else None

    def device(self, word):
        lines = [line.split() for line in self.device_log.read_text(encoding="utf-8").splitlines()]
        return [float(at) for at, what in lines if what == word]


def scenario(host):
    wait_for("wdmd has armed its device", lambda: host.device("keepalive"))
    assert host.run("init", "lockspace", "-o", IO_TIMEOUT, "--create", "LS", host.area).returncode == 0
    daemon = host.daemon()
    wait_for("the daemon is ready", lambda: host.says("ready"))
    assert host.entry() is None

    before = now()
    host.lockspace("add", "--io-timeout", IO_TIMEOUT)
    dead, ref, told = host.entry()
    assert (dead, ref) == (0, 1) and before - 3 < told - RENEWAL_FAIL < now() - 2, (told, before, now())
    wait_for("each renewal moves the expiry", lambda: host.entry()[2] >= told + 3 * IO_TIMEOUT)
    pets = len(host.device("keepalive"))
    wait_for("wdmd goes on petting", lambda: len(host.device("keepalive")) > pets + 1)

    host.lockspace("remove")
    wait_for("a clean end clears the entry", lambda: host.entry() is None)
    host.lockspace("add", "--io-timeout", IO_TIMEOUT)

    host.wdmd.send_signal(signal.SIGSTOP)
    wait_for("a wdmd that hangs is a pet that was missed", lambda: host.says("wdmd hangs"))
    host.wdmd.send_signal(signal.SIGCONT)
    told = host.entry()[2]
    wait_for("it is told again", lambda: host.entry()[2] > told + IO_TIMEOUT)

    host.wdmd.send_signal(signal.SIGSTOP)
    host.lockspace("remove")
    wait_for("a wdmd that hangs clears nothing", lambda: host.says("clearing the entry failed"))
    host.wdmd.send_signal(signal.SIGCONT)
    wait_for("and does when it goes on", lambda: host.entry() is None)
    host.lockspace("add", "--io-timeout", IO_TIMEOUT)

    daemon.kill()
    daemon.wait()
    dead, ref, told = wait_for("a killed daemon leaves its entry", lambda: (host.entry() or [0])[0] == 1 and host.entry())
    assert ref == 1
    successor = host.daemon()
    assert successor.wait(30) == 1 and host.says("THIS HOST WILL BE RESET"), host.log.read_text(encoding="utf-8")
    wait_for("the entry expires", lambda: now() > told + 3)
    last = max(host.device("keepalive") + host.device("open") + host.device("close"))
    assert last < told + 1, (last, told)
    print(f"seen: the last pet, {told - last:.1f} s before the expiry: the device fires {60 + last - told:.1f} s after it")
    assert not host.device("stop"), "closed with V, which would stop it"
    host.wdmd.terminate()
    time.sleep(1)
    assert host.wdmd.poll() is None, "a dead entry keeps wdmd"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--holdfast", required=True, type=pathlib.Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not chosen.inside:
        again = [sys.executable, __file__, "--inside", "--holdfast", chosen.holdfast.resolve()]
        sys.exit(subprocess.run(["unshare", "--mount", "--propagation", "private", *again]).returncode)
    for place in ("/run", "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    with tempfile.TemporaryDirectory() as directory:
        host = Host(chosen.holdfast, pathlib.Path(directory))
        try:
            scenario(host)
        finally:
            for process in [host.wdmd, *host.daemons]:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
