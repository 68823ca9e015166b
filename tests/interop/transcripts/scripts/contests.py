"""Leases and host_ids that several hosts want: what ballots, silent owners and late writes lead to."""

import struct
import time

import wire

from puppet import PAXOS, Puppet, dblock, record

from . import set_of
from .others import LONG, living, take

contest = set_of("contest")
SHORT_HOLD = 1  # of a leader's flags: its owner is about to share the lease
DELTA_SECTOR, IN_FAIL = 512, 4


@contest
def stage_joined_as_host_3(stage):
    stage.client().first.ask("add_lockspace", stage.space(host_id=3), within=10.0, data=1)
    time.sleep(2.5)


@contest
def a_lease_with_too_few_hosts_for_us(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    stage.write_disk("leases", n << 20, record(PAXOS, "LS", f"r{n}", 0, 0, 0, num_hosts=2))
    take(stage, a, n)
    take(stage, a, n, mode=wire.SHARED)


@contest
def what_another_host_has_committed_is_its_own(stage):
    for mode in (0, wire.SHARED):
        a, n, puppet = stage.client(), stage.fresh(), living(stage)
        a.register()
        puppet.says(n, dblock(2002, 2002, (2, 1, 77), 1))
        take(stage, a, n, mode=mode)
        stage.lines.append(f"leader {stage.read_disk('leases', n << 20, 56)[32:].hex()}")
        take(stage, a, n, mode=mode)
        a.first.ask("inquire", data2=wire.SELF)
        puppet.die()


@contest
def ballots_of_others_that_committed_nothing(stage):
    a, puppet = stage.client(), living(stage)
    a.register()
    for block in (dblock(2002, lver=1), dblock(1 << 60, lver=1), dblock(2002, 2002, (2, 1, 77), 0),
                  dblock(2002, 2002, (3, 1, 77), 1)):
        n = stage.fresh()
        puppet.says(n, block)
        take(stage, a, n)
        a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    puppet.die()


@contest
def a_lease_that_its_owner_is_about_to_share(stage):
    a, n, puppet = stage.client(), stage.fresh(), living(stage)
    a.register()
    puppet.owns(n, flags=SHORT_HOLD)
    take(stage, a, n, mode=wire.SHARED)
    take(stage, a, n, mode=wire.SHARED, flags=wire.OWNER_NOWAIT)
    take(stage, a, n)
    puppet.die()


stolen = set_of("stolen")


@stolen
def stage_joined_to_be_robbed(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)


def renewed(stage):
    """Waits until the daemon has just renewed, and looked at what its clients hold: the next look is two seconds away."""
    before = stage.read_disk("space", 0, DELTA_SECTOR)
    until = time.monotonic() + LONG
    while stage.read_disk("space", 0, DELTA_SECTOR) == before and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)


def released_when(stage, **other):
    """The release of a lease whose leader record says something else by then."""
    a, n = stage.client(), stage.fresh()
    a.known()
    take(stage, a, n)
    renewed(stage)
    held = stage.read_disk("leases", n << 20, 200)
    now = {"owner": 1, "generation": 1, "timestamp": struct.unpack("<Q", held[152:160])[0], "lver": 1} | other
    theirs = record(PAXOS, "LS", now.pop("name", f"r{n}"), **now, num_hosts=2000, writer=1) if other else b""
    stage.write_disk("leases", n << 20, theirs.ljust(512, b"\0"))
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF, within=LONG)
    a.first.ask("inquire", data2=wire.SELF)
    stage.lines.append(f"leader {stage.read_disk('leases', n << 20, 56)[32:].hex()}")


@stolen
def released_when_the_leader_has_another_version(stage):
    released_when(stage, lver=7)


@stolen
def released_when_the_leader_has_another_generation(stage):
    released_when(stage, generation=2)


@stolen
def released_when_the_leader_has_another_time(stage):
    released_when(stage, timestamp=5)


@stolen
def released_when_the_leader_has_another_owner(stage):
    released_when(stage, owner=3)


@stolen
def released_when_the_leader_has_another_name(stage):
    released_when(stage, name="else")


@stolen
def released_when_the_leader_is_gone(stage):
    released_when(stage)


silent = set_of("silent")


@silent
def stage_joined_beside_a_silent_host(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)
    time.sleep(2.5)


def falls_silent(stage):
    """A host that has lived, and then has not renewed for so long that it is not called living any more."""
    puppet = living(stage)
    puppet.die()
    until = time.monotonic() + LONG
    while stage.look("get_hosts", wire.lockspace("LS", 2))[60:61] != bytes([IN_FAIL]):
        if time.monotonic() > until:
            raise TimeoutError("host 2 is called living")
        time.sleep(0.1)
    return puppet


@silent
def owned_by_a_host_that_is_silent(stage):
    """Whoever may wait waits, and all others are told that it is busy."""
    a, b, c, puppet = stage.client(), stage.client(), stage.client(), falls_silent(stage)
    n, m, shared = (stage.fresh() for _ in range(3))
    a.known()
    b.known()
    puppet.owns(n)
    puppet.shares(shared)
    take(stage, a, n, flags=wire.OWNER_NOWAIT)
    take(stage, a, n, flags=wire.OWNER_NOWAIT, mode=wire.SHARED)
    take(stage, a, shared, flags=wire.OWNER_NOWAIT)
    b.first.request("acquire", stage.lease(n) + wire.options("waits"), data=1, data2=wire.SELF)
    b.first.request("inquire", data2=wire.SELF)
    stage.until_status_has(b"list=add ")
    _all_that_a_busy_client_is_told(stage, b, c.first, n, m)
    for mode in (0, wire.SHARED):
        take(stage, a, n, mode=mode)
    c.first.ask("read_resource_owners", stage.lease(n))
    c.first.ask("rem_lockspace", stage.space(), flags=wire.UNUSED)
    stage.wait_for_workers(but=1)
    c.connect().ask("status", data=2)
    puppet.stands(0)
    b.first.reply(LONG)
    b.first.reply()


def _all_that_a_busy_client_is_told(stage, client, asking, number, other):
    asking.ask("inquire", data2=client.pid)
    asking.ask("release", stage.named(number), data=1, data2=client.pid)
    asking.ask("release", flags=wire.RELEASE_ALL, data2=client.pid)
    asking.ask("release", wire.resource("LS", ""), flags=wire.RELEASE_ORPHAN, data=1, data2=client.pid)
    asking.ask("convert", stage.named(number), data2=client.pid)
    asking.ask("acquire", stage.lease(other) + wire.options(), data=1, data2=client.pid)
    asking.ask("set_lvb", stage.named(number) + b"value")
    asking.ask("version")


taken = set_of("taken")


@taken
def a_host_id_that_a_living_host_has(stage):
    """sanlock watches it for as long as a host may be silent, 68 seconds."""
    puppet = Puppet(stage)
    puppet.live()
    stage.client().first.ask("add_lockspace", stage.space(host_id=2), within=100.0, data=1)
    stage.client().connect().ask("get_lockspaces")
    puppet.die()
