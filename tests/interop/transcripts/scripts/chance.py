"""Random sequences of valid and slightly invalid calls. A seed is a script: the same calls for both daemons."""

import os
import random
import time

import wire

from . import set_of

SETS = 3  # each on a daemon of its own: they go on beside each other
SEEDS = int(os.environ.get("HOLDFAST_TRANSCRIPT_SEEDS", "24"))
STEPS = 30
LEASES = 4
SETTLES = 0.4  # seconds within which the end of a client has given back what it held


class Caller:
    """Draws one call after the other and makes it."""

    def __init__(self, stage, seed):
        self.stage, self.dice = stage, random.Random(seed)
        self.clients = []
        for _ in range(3):
            self.newcomer()

    def newcomer(self):
        client = self.stage.client()
        client.known()
        self.clients.append(client)

    def pick(self, *choices):
        return self.dice.choice(choices)

    def flags(self, **chances):
        """A flag word of which each bit is set by its chance in a hundred."""
        word = 0
        for name, percent in chances.items():
            if self.dice.randrange(100) < percent:
                word |= getattr(wire, name)
        return word

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

    def step(self):
        client = self.dice.choice(self.clients)
        # Some commands come over one connection and are for another process.
        by_pid = self.dice.randrange(4) == 0
        asking = self.dice.choice(self.clients).first if by_pid else client.first
        target = self.pick(client.pid, client.pid, client.pid, os.getpid()) if by_pid else wire.SELF
        number = self.dice.randrange(LEASES)
        what = self.dice.choices(["acquire", "release", "inquire", "share", "value", "read", "lockspace", "end"],
                                 [10, 8, 4, 2, 4, 3, 2, 1])[0]
        getattr(self, f"_{what}")(client, asking, target, number)

    def _acquire(self, _client, asking, target, number):
        count = self.pick(1, 1, 1, 1, 2, 3)
        numbers = [(number + n) % LEASES for n in range(count)]
        lver = self.pick(0, 0, 0, 1, 2)
        payload = b""
        for at in numbers:
            flags = self.flags(SHARED=40, PERSISTENT=15, LVER=10)
            payload += self.lease(at, flags=flags, lver=lver if flags & wire.LVER else 0)
        flags = self.flags(ACQUIRE_LVB=20, ACQUIRE_ORPHAN=20, OWNER_NOWAIT=30)
        asking.ask("acquire", payload + wire.options(self.pick("one", "two", "")), flags=flags, data=count, data2=target)

    def _release(self, _client, asking, target, number):
        kind = self.pick("plain", "plain", "plain", "all", "orphan", "two")
        if kind == "all":
            asking.ask("release", flags=wire.RELEASE_ALL, data2=target)
        elif kind == "orphan":
            asking.ask("release", self.named(number), flags=wire.RELEASE_ORPHAN, data=1, data2=target)
            time.sleep(SETTLES)
        else:
            numbers = [number] if kind == "plain" else [number, (number + 1) % LEASES]
            asking.ask("release", b"".join(map(self.named, numbers)), data=len(numbers), data2=target)

    def _inquire(self, _client, asking, target, _number):
        asking.ask("inquire", data2=target)

    def _share(self, _client, asking, target, number):
        asking.ask("convert", self.named(number, flags=wire.SHARED), data2=target)

    def _value(self, _client, asking, _target, number):
        if self.dice.randrange(2):
            length = self.pick(1, 16, 512, 513)
            asking.ask("set_lvb", self.named(number) + bytes([self.dice.randrange(1, 256)]) * length)
        else:
            asking.ask("get_lvb", self.named(number), data=self.pick(0, 8, 512))

    def _read(self, _client, asking, _target, number):
        asking.ask(self.pick("read_resource", "read_resource_owners"), self.lease(number))

    def _lockspace(self, _client, asking, _target, _number):
        host_id = self.pick(0, 1, 1, 2)
        asking.ask(self.pick("inq_lockspace", "read_lockspace"), self.stage.space(self.pick("LS", "LS", "OTHER"), host_id))

    def _end(self, client, _asking, _target, _number):
        if len(self.stage.clients) < 8:
            client.first.close()
            client.actor.end()
            self.clients.remove(client)
            time.sleep(SETTLES)
            self.newcomer()

    def tidy(self):
        """Nothing is left for the next seed but the leases' versions."""
        for client in self.clients:
            client.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
        self.clients[0].first.ask("release", wire.resource("LS", ""), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)
        time.sleep(SETTLES)


def _stage(number):
    def script(stage):
        stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)
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
