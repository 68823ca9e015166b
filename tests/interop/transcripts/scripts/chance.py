"""Random sequences of valid and slightly invalid calls. A seed is a script: the same calls for both daemons.

What is drawn depends on the seed alone; draws.py has the calls. Some calls are let out where their outcome is a known
difference, or a matter of instants. Whether, is seen from what the daemon has on its lists: as long as both sides
agree, it is the same for both.
"""

import collections
import os
import random
import re
import struct
import time

import wire
from render import RESOURCE, client_pids, records
from stage import OWN_CONNECTIONS, SOON

from . import set_of
from .draws import DRAWS, LEASES

SETS = 4  # each on a daemon of its own: they go on beside each other
SEEDS = int(os.environ.get("HOLDFAST_TRANSCRIPT_SEEDS", "150"))
STEPS = 40
LISTED = re.compile(rb"list=(\w+) ")
# A flag of resources of which sanlock has yet to read whether somebody asks for them.
LOOKED_AT = re.compile(rb"list=\w+ flags=[0-9a-f]?[2367abef] sector_size=")

Held = collections.namedtuple("Held", "space name on pid lver shared")


class Caller:
    """Draws one call after the other and makes it."""

    def __init__(self, stage, seed):
        self.stage, self.dice = stage, random.Random(seed)
        self.joins, self.joined = self.dice.randrange(4) == 0, False  # whether it may join OTHER, and whether it has
        self.clients, self.spared = [], set()  # and those of them that have a killpath
        self.left_shared = set()  # names of leases that somebody wanted persistently and shared
        for _ in range(3):
            self.newcomer()

    def newcomer(self):
        client = self.stage.client()
        client.known()
        self.clients.append(client)

    def pick(self, *choices):
        return self.dice.choice(choices)

    def one_in(self, many):
        return self.dice.randrange(many) == 0

    def flags(self, **chances):
        """A flag word of which each bit is set by its chance in a hundred."""
        word = 0
        for name, percent in chances.items():
            if self.dice.randrange(100) < percent:
                word |= getattr(wire, name)
        return word

    def odd_bits(self):
        """Once in a while a bit that means nothing."""
        return self.pick(0x40, 0x100, 1 << 31) if self.one_in(20) else 0

    def number(self):
        return self.dice.randrange(LEASES)

    def client(self):
        return self.dice.choice(self.clients)

    def speaker(self):
        """The connection that asks, and for whom: itself, or another process."""
        client = self.client()
        if not self.one_in(4):
            return client.first, wire.SELF
        return self.client().first, self.pick(client.pid, client.pid, client.pid, os.getpid())

    def lease(self, number, **more):
        wrong = self.dice.randrange(30)
        if wrong == 0:
            return self.stage.lease(number, space="OTHER", **more)
        if wrong == 1:
            return self.stage.lease(number, name="wrong", **more)
        if wrong == 2:
            return wire.resource("LS", f"r{number}", [("/nowhere", 0)], **more)
        if wrong == 3:
            return wire.resource("LS", f"r{number}", [(self.stage.path("blank"), 0)], **more)
        return self.stage.lease(number, **more)

    def named(self, number, **more):
        wrong = self.dice.randrange(20)
        space, name = ("OTHER" if wrong == 0 else "LS"), ("wrong" if wrong == 1 else f"r{number}")
        return wire.resource(space, name, num_disks=1, **more)

    def space(self, host_id=None, **more):
        """A lockspace: LS as it is joined, most of the time."""
        name, file = self.pick(("LS", "space"), ("LS", "space"), ("LS", "space"), ("OTHER", "space2"), ("LS", "space2"))
        return self.stage.space(name, self.pick(0, 1, 1, 2, 3) if host_id is None else host_id, file, **more)

    def fresh(self):
        """A new connection of somebody's."""
        return self.client().connect()

    def gone(self, connection):
        """Closes a connection, and waits until the daemon has seen it: the next one then gets the same slot."""
        connection.close()
        self.settle()

    def settle(self):
        """Waits until all that was told has been done: no worker has a client, nothing is being released."""
        self.until(lambda: self._settled(), "something goes on and on")

    def _settled(self):
        status = self.stage.status(0)
        idle = len(client_pids(status)) <= OWN_CONNECTIONS + len(self.clients)
        going_on = [b" suspend=1 ", b"list=rem ", b"list=add "]
        return idle and not any(each in status for each in going_on) and not LOOKED_AT.search(status)

    def until(self, so, what, within=SOON):
        end = time.monotonic() + within
        while not so():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: {self.stage.renderer.payload(5, self.stage.status(0))}")
            time.sleep(0.02)

    def resources(self):
        """What the daemon has on its lists, with whom."""
        self.settle()
        for head, string, rest in records(self.stage.status(0)):
            kind, pid, lver = struct.unpack("<I4xi4xQ", head[:24])
            if kind == RESOURCE and len(head) == 80:
                space, name = (part.rstrip(b"\0").decode("latin-1") for part in (rest[:48], rest[48:96]))
                shared = bool(struct.unpack("<I", rest[120:124])[0] & wire.SHARED)
                yield Held(space, name, LISTED.match(string).group(1).decode(), pid, lver, shared)

    def may_end(self, clients):
        """Whether these may go: others can come for them, and no lease is left behind that another shares.

        With sanlock that is left by nobody then (a_sharer_that_leaves_its_lease_behind_beside_another).
        """
        names = [held.name for held in self.resources()]
        shared = any(names.count(name) > 1 for name in self.left_shared)
        return len(self.stage.clients) + len(clients) <= 8 and not (clients and shared)

    def replace(self, client):
        """A client that is gone gives its place to another, once what it held has been released."""
        self.clients.remove(client)
        self.settle()
        self.newcomer()

    def step(self):
        draw = self.dice.choices(list(DRAWS), list(DRAWS.values()))[0]
        draw(self)

    def tidy(self):
        """Nothing is left for the next seed but the leases' versions."""
        for client in self.clients:
            client.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
        for space in ("LS", "OTHER"):
            every = wire.resource(space, "")
            self.clients[0].first.ask("release", every, flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)
        self.settle()
        for command in (wire.NOT_USED, wire.UNUSED_BY_ORPHANS):
            self.fresh().ask("set_config", wire.lockspace("LS"), data=command)
        if self.joined:
            self.fresh().ask("rem_lockspace", self.stage.space("OTHER", 3, "space2"), within=10.0)


def _stage(number):
    def script(stage):
        a = stage.client().first
        a.ask("add_lockspace", stage.space(), within=10.0, data=1)
        for at in (0, 1):
            a.ask("write_resource", wire.resource("OTHER", f"o{at}", [(stage.path("blank"), at << 20)]))
        time.sleep(3.2)  # until it has renewed: STATUS tells of that
    script.__name__ = f"stage_joined_to_chance_{number}"
    return script


def _script(seed):
    def script(stage):
        caller = Caller(stage, seed)
        for _ in range(STEPS):
            caller.step()
        caller.tidy()
    script.__name__ = f"seed_{seed}"
    return script


for number in range(SETS):
    chance = set_of(f"chance_{number}")
    chance(_stage(number))
    for seed in range(number, SEEDS, SETS):
        chance(_script(seed))
