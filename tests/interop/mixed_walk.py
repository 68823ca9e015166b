#!/usr/bin/python3
"""Random use of a few leases by clients of two daemons, against a model of who holds what and what the disk says.

    mixed_walk.py --a RUN_DIR --b RUN_DIR --device PATH [--sector 512|4096] [--seconds S] [--seed N]

The daemons are two hosts on one device: real sanlock, Holdfast, or one of each.
Clients take leases exclusively and shared, convert them, ask for each other's,
set and read their values, give them back and are killed, one step at a time; so the
model knows each answer beforehand. After each step the disk must be what the model
says (`shadow.py`), and both daemons must read these owners from it. Goes on until
every answer in WANTED was seen, four times the seconds at most. Prints one JSON
line; exit status 0 only if every step went as it should.
"""

import argparse
import collections
import json
import os
import random
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "transcripts"))

import shadow  # noqa: E402
import wire  # noqa: E402
from actor import Actor  # noqa: E402

SPACE, RESOURCES, IO_TIMEOUT = "WALK", 3, 1
MIB = 1 << 20
ALIGN = {512: (MIB, wire.SECTOR_512 | wire.ALIGN_1M), 4096: (8 * MIB, wire.SECTOR_4K | wire.ALIGN_8M)}
EPERM, ENOENT, EAGAIN, EEXIST, EALREADY, HELD = -1, -2, -11, -17, -114, -243
PATIENCE = 40.0  # seconds; a join takes 3, an owner's next renewal 3
SIGNALS = {wire.FORCE: signal.SIGKILL, wire.GRACEFUL: signal.SIGTERM}
WANTED = ("acquire EX: 0", "acquire SH: 0", "acquire EX: -11", "acquire EX: -17", "acquire EX: -243", "acquire SH: -243",
          "convert EX: 0", "convert EX: -11", "convert SH: 0", "release: 0", "kill: 0", "set: 0", "get: 0", "get: -2",
          "request FORCE: ended", "request GRACEFUL: ended")


class Client:
    """A registered process at one daemon."""

    def __init__(self, host, run_dir):
        self.host = host
        self.actor = Actor(run_dir)
        self.number = self.actor.call("connect")
        self.ask("register", reply=False)

    def ask(self, command, payload=b"", reply=True, flags=0, data=0, data2=wire.SELF):
        """(result, payload) of one request."""
        head = wire.header(command, flags, data, data2, 32 + len(payload))
        self.actor.call("send", self.number, head + payload)
        if not reply:
            return 0, b""
        answer, over = self.actor.call("receive", self.number, 32, PATIENCE)
        assert len(answer) == 32, f"{command}: {len(answer)} bytes, {'closed' if over else 'open'}"
        _, _, _, _, length, _, result, _ = wire.HEADER.unpack(answer)
        body, _ = self.actor.call("receive", self.number, length - 32, PATIENCE)
        return wire.signed(result), body


class Walk:
    """Both daemons, their clients, and the model."""

    def __init__(self, chosen):
        self.run_dirs = [chosen.a, chosen.b]
        self.device = chosen.device
        self.align, self.flags = ALIGN[chosen.sector]
        self.dice = random.Random(chosen.seed)
        self.seen = collections.Counter()
        self.speakers = [Client(host, run_dir) for host, run_dir in enumerate(self.run_dirs)]
        self.clients = [Client(host, run_dir) for host, run_dir in enumerate(self.run_dirs) for _ in range(2)]
        # Of each resource: the client that has it exclusively, or those that share it, as often as they do.
        self.exclusive = [None] * RESOURCES
        self.shared = [[] for _ in range(RESOURCES)]
        # Which of those that have one exclusively have shared it before.
        self.converted = set()
        # What its value is where it is held, and whether that is not yet on the disk.
        self.value, self.unwritten = [b""] * RESOURCES, [False] * RESOURCES
        self.leases = [shadow.Lease() for _ in range(RESOURCES)]
        self.disk = shadow.Disk(chosen.device, chosen.sector, self.align, (1, 2))

    def lease(self, at, **more):
        return wire.resource(SPACE, f"r{at}", [(self.device, (at + 1) * self.align)], **more)

    def named(self, at, **more):
        return wire.resource(SPACE, f"r{at}", num_disks=1, **more)

    def begin(self):
        space = wire.lockspace(SPACE, 1, self.device, 0, self.flags)
        speaker = self.speakers[0]
        must(speaker.ask("write_lockspace", space, data2=IO_TIMEOUT), 0)
        for at in range(RESOURCES):
            must(speaker.ask("write_resource", self.lease(at, flags=self.flags)), 0)
        for host, speaker in enumerate(self.speakers):
            must(speaker.ask("add_lockspace", wire.lockspace(SPACE, host + 1, self.device), data=IO_TIMEOUT, data2=0), 0)
        for at in range(RESOURCES):
            self.disk.lease(at + 1)
        # Each has to have seen the other renew: before, a living owner cannot be told from a silent one.
        time.sleep(4 * IO_TIMEOUT)

    # --- the model ---------------------------------------------------------------

    def holders(self, at):
        return ([self.exclusive[at]] if self.exclusive[at] else []) + self.shared[at]

    def tell_shadow(self, at):
        """Who holds it, as the disk must say it."""
        lease = self.leases[at]
        lease.owner = self.exclusive[at].host + 1 if self.exclusive[at] else 0
        lease.sharing = {c.host + 1 for c in self.shared[at]}
        if lease.owner == 0 and self.unwritten[at]:
            # Written as the exclusive lease is given back, or becomes a shared one (spec D 4.10).
            lease.value, self.unwritten[at] = self.value[at], False

    def acquire(self, client, at, mode):
        local = [c for c in self.holders(at) if c.host == client.host]
        if local:
            both_share = mode == "SH" and self.exclusive[at] is None
            expected = 0 if both_share else EEXIST
        elif self.exclusive[at]:
            expected = HELD
        elif mode == "EX" and self.shared[at]:
            expected = EAGAIN
        else:
            expected = 0
        flags = wire.SHARED if mode == "SH" else 0
        payload = self.lease(at, flags=flags) + wire.options("walker")
        must(client.ask("acquire", payload, flags=wire.ACQUIRE_LVB, data=1), expected)
        if not local and expected in (0, EAGAIN):
            # A ballot, whether or not the sharers that it meets then forbid to keep what it won.
            self.leases[at].lver += 1
        if not self.holders(at):
            self.value[at] = self.leases[at].value
        if expected == 0 and mode == "SH":
            self.shared[at].append(client)
        elif expected == 0:
            self.exclusive[at] = client
            self.converted.discard(at)
        return expected

    def release(self, client, at):
        expected = 0 if client in self.holders(at) else EPERM
        must(client.ask("release", self.named(at), data=1), expected)
        if expected == 0 and self.exclusive[at] is client:
            self.exclusive[at] = None
        elif expected == 0:
            self.shared[at].remove(client)
        return expected

    def convert(self, client, at, mode):
        others = [c for c in self.shared[at] if c is not client]
        twice = self.shared[at].count(client) > 1
        if mode == "EX" and (twice or any(c.host == client.host for c in others)):
            return None  # sanlock grants what S1 forbids: docs/compatibility.md
        if client not in self.holders(at):
            expected = ENOENT
        elif (self.exclusive[at] is client) == (mode == "EX"):
            expected = EALREADY
        elif mode == "EX" and others:
            expected = EAGAIN
        else:
            expected = 0
        must(client.ask("convert", self.named(at, flags=wire.SHARED if mode == "SH" else 0)), expected)
        if mode == "EX" and expected in (0, EAGAIN):
            self.leases[at].lver += 1
            self.converted.add(at)
        if expected == 0 and mode == "EX":
            self.shared[at].remove(client)
            self.exclusive[at] = client
        elif expected == 0:
            self.exclusive[at] = None
            self.shared[at].append(client)
        return expected

    def gone(self, client):
        """Its end gives everything back; it comes back as a new process."""
        for at in range(RESOURCES):
            if self.exclusive[at] is client:
                self.exclusive[at] = None
            self.shared[at] = [c for c in self.shared[at] if c is not client]
        self.clients[self.clients.index(client)] = Client(client.host, self.run_dirs[client.host])

    def kill(self, client, _at):
        client.actor.end()
        self.gone(client)
        return 0

    def request(self, client, at, mode):
        """Whoever has it exclusively at another host is ended, and what it had is given back; nobody else is."""
        holder, force = self.exclusive[at], getattr(wire, mode)
        if holder and at in self.converted:
            return None  # sanlock knows no pid of it, and sends the signal to pid 0: docs/compatibility.md
        speaker = self.speakers[client.host]
        must(speaker.ask("request", self.lease(at), flags=wire.NEXT_LVER, data=force, data2=0), 0)
        if holder is None:
            return "nobody"
        self.leases[at].request = (self.leases[at].lver + 1, force)
        if holder.host == client.host:
            return "of its own"  # a host does not call itself
        ended = holder.actor.ended_by(PATIENCE)
        assert ended == SIGNALS[force], f"expected the holder to be ended by {SIGNALS[force]}, found {ended}"
        self.gone(holder)
        return "ended"

    def set(self, client, at):
        if self.exclusive[at] is not client:
            return None
        value = self.dice.randbytes(32) + b"."
        must(client.ask("set_lvb", self.named(at) + value, data2=0), 0)
        self.value[at], self.unwritten[at] = value, True
        return 0

    def get(self, client, at):
        here = any(c.host == client.host for c in self.holders(at))
        told, value = client.ask("get_lvb", self.named(at), data2=0)
        must((told, value), 0 if here else ENOENT)
        expected = self.value[at] if here else b""
        assert value.rstrip(b"\0") == expected, f"expected the value {expected.hex()}, found {value[:64].hex()}"
        return told

    # --- what is checked after each step -------------------------------------------

    def owners(self, speaker, at):
        result, body = speaker.ask("read_resource_owners", self.lease(at), data2=0)
        must((result, b""), 0)
        rows = body[wire.RESOURCE:]
        return [int.from_bytes(rows[n:n + 8], "little") for n in range(0, len(rows), wire.HOST)]

    def look(self, acted_on):
        """The disk is what the model says, and so read both daemons; a client's end takes a moment to get there."""
        for at, lease in enumerate(self.leases):
            self.tell_shadow(at)
            expected, end = lease.shown(), time.monotonic() + PATIENCE
            while (found := self.disk.lease(at + 1)) != expected:
                assert time.monotonic() < end, f"r{at}: on disk expected {expected}, found {found}"
                time.sleep(0.02)
        lease = self.leases[acted_on]
        owners = ([lease.owner] if lease.owner else []) + sorted(lease.sharing)
        read = [self.owners(speaker, acted_on) for speaker in self.speakers]
        assert read == [owners] * 2, f"r{acted_on}: owners expected {owners}, found {read}"

    def choose(self, action):
        """A client and a resource; mostly such that the action has something to act on."""
        holders = [(holder, at) for at in range(RESOURCES) for holder in self.holders(at)]
        called = [(client, at) for at, holder in enumerate(self.exclusive) if holder
                  for client in self.clients if client.host != holder.host]
        likely = {"request": called}.get(action, holders)
        if action in ("release", "convert", "set", "get", "request") and likely and self.dice.random() < 0.8:
            return self.dice.choice(likely)
        return self.dice.choice(self.clients), self.dice.randrange(RESOURCES)

    def step(self):
        what, = self.dice.choices(["acquire EX", "acquire SH", "release", "convert EX", "convert SH", "kill", "set", "get",
                                   "request FORCE", "request GRACEFUL"], [8, 8, 12, 8, 6, 2, 6, 4, 0.6, 0.6])
        action, _, mode = what.partition(" ")
        client, at = self.choose(action)
        try:
            done = getattr(self, action)(client, at, *([mode] if mode else []))
            if done is not None:
                self.seen[f"{what}: {done}"] += 1
                self.look(at)
        except AssertionError as error:
            raise AssertionError(f"{what} of r{at} at host {client.host + 1}: {error}") from None


def must(told, expected):
    assert told[0] == expected, f"expected {expected}, found {told[0]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--a", required=True)
    parser.add_argument("--b", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--sector", type=int, default=512, choices=sorted(ALIGN))
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    walk = Walk(chosen)
    walk.begin()
    begun, steps = time.monotonic(), 0
    missing = list(WANTED)
    while (gone := time.monotonic() - begun) < chosen.seconds or missing and gone < 4 * chosen.seconds:
        walk.step()
        steps += 1
        missing = [what for what in WANTED if not walk.seen[what]]
    print(json.dumps({"ok": not missing, "steps": steps, "missing": missing, "seen": dict(sorted(walk.seen.items()))}))
    for client in walk.clients + walk.speakers:
        client.actor.end()
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
