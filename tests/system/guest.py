#!/usr/bin/python3
"""A guarded program: takes a lease through libsanlock, then does what must run once.

    guest.py --space NAME --resource NAME --path PATH --offset N --events FILE --beats FILE
             [--keep-trying] [--ignore-term] [--heir] [--close] [--connections N] [--ring DEVICE [--lock] [--release]]
             [--user UID] [--killpath PROGRAM]

Its work is to write the time into BEATS, at offset 0, over and over: that is what a virtual machine's disk would see.
The time is CLOCK_BOOTTIME in nanoseconds, the daemon's own clock, here and in EVENTS, which gets one JSON object a line:

    registered            the connection stands
    held                  the lease is ours
    refused               it is not, with `code`, the binding's number; --keep-trying says so once and goes on trying
    sigterm               asked to end; with --ignore-term it goes on
    heir                  --heir: a child has inherited the connection, the parent is about to exit
    closed                --close: its connection is closed, and it goes on

    hangs                 --ring: what it writes to the device as well, through io_uring, is in flight for half a second; `word` is what
    released              --release: after that it has given its lease back, and writes no more through its ring

With more --connections than one the lease is shared, by each of them. With --user it is no more than that user, alone in the group of
the same number, before it connects.
"""

import argparse
import errno
import fcntl
import json
import os
import signal
import sys
import time

import sanlock

import uring

# Refusals that end by themselves: owner alive, ballot lost, commit lost, owner undecided, and a release on its way.
TRY_AGAIN = {-243, -244, -245, -247, errno.EAGAIN}
PAUSE = 0.05
HANGS = 500_000_000  # nanoseconds


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Told:
    """The events file."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def say(self, event, **more):
        line = json.dumps({"event": event, "at": now(), "pid": os.getpid(), **more}) + "\n"
        os.write(self.fd, line.encode())


def options():
    parser = argparse.ArgumentParser()
    for name in ("--space", "--resource", "--path", "--events", "--beats"):
        parser.add_argument(name, required=True)
    parser.add_argument("--offset", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--ring")
    parser.add_argument("--user", type=int)
    parser.add_argument("--killpath")
    for name in ("--keep-trying", "--ignore-term", "--heir", "--close", "--lock", "--release"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args()


def acquire(chosen, told, fd):
    disks = [(chosen.path, chosen.offset)]
    refused = False
    while True:
        try:
            shared = chosen.connections > 1
            return sanlock.acquire(chosen.space.encode(), chosen.resource.encode(), disks, slkfd=fd, shared=shared)
        except sanlock.SanlockException as error:
            if not refused:
                refused = True
                told.say("refused", code=error.errno)
            if not chosen.keep_trying or error.errno not in TRY_AGAIN:
                sys.exit(3)
            time.sleep(PAUSE)


def main():
    chosen = options()
    told = Told(chosen.events)

    def asked_to_end(_number, _frame):
        told.say("sigterm")
        if not chosen.ignore_term:
            os._exit(0)

    signal.signal(signal.SIGTERM, asked_to_end)
    beats = os.open(chosen.beats, os.O_WRONLY | os.O_CREAT, 0o644)
    if chosen.user:
        os.setgroups([])
        os.setgid(chosen.user)
        os.setuid(chosen.user)
    fds = [sanlock.register() for _ in range(chosen.connections)]
    told.say("registered")
    if chosen.killpath:
        sanlock.killpath(chosen.killpath, [], slkfd=fds[0])
    for fd in fds:
        acquire(chosen, told, fd)
    told.say("held")
    if chosen.heir and os.fork():
        os._exit(0)
    if chosen.heir:
        told.say("heir")
    if chosen.close:
        for fd in fds:
            os.close(fd)
        told.say("closed")
    ring, begun = uring.Ring(chosen.ring) if chosen.ring else None, None
    if chosen.lock:
        fcntl.lockf(ring.disk, fcntl.LOCK_EX)
    while True:
        os.pwrite(beats, b"%020d" % now(), 0)
        if ring and ring.writes and ring.is_idle():
            begun = now()
            ring.begin(b"%020d" % begun)
        elif ring and begun and now() - begun > HANGS:
            told.say("hangs", word="%020d" % begun)
            begun = None
            if chosen.release:
                ring.writes = False
                sanlock.release(chosen.space.encode(), chosen.resource.encode(), [(chosen.path, chosen.offset)], slkfd=fds[0])
                told.say("released")
        time.sleep(0.003)


if __name__ == "__main__":
    main()
