#!/usr/bin/python3
"""Random use of a few leases by clients of two daemons, against a model of who holds what.

    mixed_modes.py --a RUN_DIR --b RUN_DIR --device PATH [--sector 512|4096] [--seconds S] [--seed N]

The daemons are two hosts on one device: real sanlock, Holdfast, or one of each.
Clients take leases exclusively and shared, convert them, give them back and are
killed, one step at a time; so the model knows each answer beforehand, and after
each step both daemons must read the owners from the disk that it knows. Prints one
JSON line; exit status 0 only if every step went as it should.
"""

import argparse
import collections
import json
import os
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "transcripts"))

import wire  # noqa: E402
from actor import Actor  # noqa: E402

SPACE, RESOURCES, IO_TIMEOUT = "MODES", 3, 1
MIB = 1 << 20
ALIGN = {512: (MIB, wire.SECTOR_512 | wire.ALIGN_1M), 4096: (8 * MIB, wire.SECTOR_4K | wire.ALIGN_8M)}
EPERM, ENOENT, EAGAIN, EEXIST, EALREADY, HELD = -1, -2, -11, -17, -114, -243
PATIENCE = 40.0  # seconds; a join takes 3, an owner's next renewal 3


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
        self.device, self.sector = chosen.device, chosen.sector
        self.align, self.flags = ALIGN[chosen.sector]
        self.dice = random.Random(chosen.seed)
        self.seen = collections.Counter()
        self.speakers = [Client(host, run_dir) for host, run_dir in enumerate(self.run_dirs)]
        self.clients = [Client(host, run_dir) for host, run_dir in enumerate(self.run_dirs) for _ in range(2)]
        # Of each resource: the client that has it exclusively, or those that share it, as often as they do.
        self.exclusive = [None] * RESOURCES
        self.shared = [[] for _ in range(RESOURCES)]

    def disk(self, at):
        return [(self.device, (at + 1) * self.align)]

    def lease(self, at, **more):
        return wire.resource(SPACE, f"r{at}", self.disk(at), **more)

    def named(self, at, **more):
        return wire.resource(SPACE, f"r{at}", num_disks=1, **more)

    def begin(self):
        space = lambda host: wire.lockspace(SPACE, host, self.device, 0, self.flags)
        speaker = self.speakers[0]
        must(speaker.ask("write_lockspace", space(1), data2=IO_TIMEOUT), 0)
        for at in range(RESOURCES):
            must(speaker.ask("write_resource", self.lease(at, flags=self.flags)), 0)
        for host, speaker in enumerate(self.speakers):
            must(speaker.ask("add_lockspace", wire.lockspace(SPACE, host + 1, self.device), data=IO_TIMEOUT, data2=0), 0)
        # Each has to have seen the other renew: before, a living owner cannot be told from a silent one.
        time.sleep(4 * IO_TIMEOUT)

    # --- the model ---------------------------------------------------------------

    def holders(self, at):
        return ([self.exclusive[at]] if self.exclusive[at] else []) + self.shared[at]

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
        told = client.ask("acquire", self.lease(at, flags=flags) + wire.options("walker"), data=1)
        must(told, expected)
        if expected == 0 and mode == "SH":
            self.shared[at].append(client)
        elif expected == 0:
            self.exclusive[at] = client
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
        if expected == 0 and mode == "EX":
            self.shared[at].remove(client)
            self.exclusive[at] = client
        elif expected == 0:
            self.exclusive[at] = None
            self.shared[at].append(client)
        return expected

    def kill(self, client):
        """Its end gives everything back; it comes back as a new process."""
        client.actor.end()
        for at in range(RESOURCES):
            if self.exclusive[at] is client:
                self.exclusive[at] = None
            self.shared[at] = [c for c in self.shared[at] if c is not client]
        self.clients[self.clients.index(client)] = Client(client.host, self.run_dirs[client.host])
        return 0

    def expected_owners(self, at):
        sharing = sorted({c.host + 1 for c in self.shared[at]})
        return ([self.exclusive[at].host + 1] if self.exclusive[at] else []) + sharing

    def owners(self, speaker, at):
        result, body = speaker.ask("read_resource_owners", self.lease(at), data2=0)
        must((result, b""), 0)
        rows = body[wire.RESOURCE:]
        return [int.from_bytes(rows[n:n + 8], "little") for n in range(0, len(rows), wire.HOST)]

    def look(self):
        """Both daemons read the owners that the model knows; a client's end takes a moment to get there."""
        for at in range(RESOURCES):
            end = time.monotonic() + PATIENCE
            while True:
                found = [self.owners(speaker, at) for speaker in self.speakers]
                if all(owners == self.expected_owners(at) for owners in found):
                    break
                assert time.monotonic() < end, f"r{at}: expected {self.expected_owners(at)}, found {found}"
                time.sleep(0.02)

    def step(self):
        client, at = self.dice.choice(self.clients), self.dice.randrange(RESOURCES)
        what = self.dice.choices(["acquire EX", "acquire SH", "release", "convert EX", "convert SH", "kill"],
                                 [4, 4, 6, 4, 3, 1])[0]
        action, _, mode = what.partition(" ")
        holders = [(holder, at) for at in range(RESOURCES) for holder in self.holders(at)]
        if action in ("release", "convert") and holders and self.dice.random() < 0.8:
            # What is held by nobody is soon known.
            client, at = self.dice.choice(holders)
        try:
            if action == "kill":
                done = self.kill(client)
            elif action == "release":
                done = self.release(client, at)
            else:
                done = getattr(self, action)(client, at, mode)
        except AssertionError as error:
            raise AssertionError(f"{what} of r{at} at host {client.host + 1}: {error}") from None
        if done is not None:
            self.seen[f"{what}: {done}"] += 1
            self.look()


def must(told, expected):
    assert told[0] == expected, f"expected {expected}, found {told[0]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--a", required=True)
    parser.add_argument("--b", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--sector", type=int, default=512, choices=sorted(ALIGN))
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    walk = Walk(chosen)
    walk.begin()
    end, steps = time.monotonic() + chosen.seconds, 0
    while time.monotonic() < end:
        walk.step()
        steps += 1
    print(json.dumps({"ok": True, "steps": steps, "seen": dict(sorted(walk.seen.items()))}))
    for client in walk.clients + walk.speakers:
        client.actor.end()


if __name__ == "__main__":
    main()
