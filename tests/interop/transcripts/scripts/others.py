"""Leases that another host has, or had."""

import os
import time

import wire

from puppet import RELEASED, Puppet, dblock, request

from . import set_of

others = set_of("others")
LONG = 20.0  # seconds; a daemon may wait for a renewal of a living owner


def take(stage, client, number, flags=0, mode=0):
    payload = stage.lease(number, flags=mode) + wire.options("taker")
    return client.first.ask("acquire", payload, flags=flags, data=1, data2=wire.SELF, within=LONG)


def living(stage):
    """A host that lives, and that the daemon has seen living."""
    puppet = Puppet(stage)
    puppet.live()
    time.sleep(2.5)
    return puppet


@others
def stage_joined_among_others(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)
    time.sleep(2.5)


@others
def held_by_a_living_host(stage):
    a, n, puppet = stage.client(), stage.fresh(), living(stage)
    a.register()
    puppet.owns(n)
    take(stage, a, n)
    take(stage, a, n, flags=wire.OWNER_NOWAIT)
    take(stage, a, n, mode=wire.SHARED)
    a.first.ask("read_resource_owners", stage.lease(n))
    a.connect().ask("get_hosts", wire.lockspace("LS"))
    puppet.die()


@others
def shared_by_a_living_host(stage):
    a, n, puppet = stage.client(), stage.fresh(), living(stage)
    a.register()
    puppet.shares(n)
    take(stage, a, n)
    take(stage, a, n, mode=wire.SHARED)
    a.first.ask("read_resource_owners", stage.lease(n))
    a.first.ask("convert", stage.named(n), data2=wire.SELF, within=LONG)
    a.first.ask("inquire", data2=wire.SELF)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    a.first.ask("read_resource_owners", stage.lease(n))
    puppet.die()


@others
def left_by_a_host_that_is_free(stage):
    a, n, puppet = stage.client(), stage.fresh(), Puppet(stage)
    a.register()
    puppet.stands(0)
    puppet.owns(n)
    take(stage, a, n)
    a.first.ask("inquire", data2=wire.SELF)
    m = stage.fresh()
    puppet.shares(m)
    # Shared holders are judged by the daemon's last look at the lockspace.
    time.sleep(3.5)
    take(stage, a, m)
    a.first.ask("read_resource_owners", stage.lease(m))


@others
def left_by_an_older_generation(stage):
    a, n, puppet = stage.client(), stage.fresh(), Puppet(stage, generation=1)
    a.register()
    puppet.owns(n)
    later = Puppet(stage, generation=2)
    later.live()
    time.sleep(2.5)
    take(stage, a, n)
    a.first.ask("inquire", data2=wire.SELF)
    later.die()


@others
def given_up_by_a_host_that_another_published(stage):
    a, n, puppet = stage.client(), stage.fresh(), living(stage)
    a.register()
    puppet.owns(n, lver=1, writer=3)
    puppet.says(n, dblock(2, 2, (2, 1, 77), 1, RELEASED))
    take(stage, a, n)
    a.first.ask("inquire", data2=wire.SELF)
    puppet.die()


@others
def a_dblock_that_is_damaged(stage):
    a, n, puppet = stage.client(), stage.fresh(), Puppet(stage)
    a.register()
    broken = bytearray(dblock(2, 2, (2, 1, 77), 1))
    broken[8] ^= 1
    puppet.says(n, bytes(broken))
    take(stage, a, n)
    take(stage, a, n, mode=wire.SHARED)


@others
def owned_by_ourselves_of_an_earlier_generation(stage):
    a, n, ours = stage.client(), stage.fresh(), Puppet(stage, host_id=1, generation=0)
    a.register()
    ours.owns(n)
    take(stage, a, n)
    a.first.ask("inquire", data2=wire.SELF)


@others
def hosts_that_come_and_go(stage):
    client, puppet = stage.client(), living(stage)
    client.connect().ask("get_hosts", wire.lockspace("LS", 2))
    client.connect().ask("host_status", wire.lockspace("LS"), length=32)
    puppet.die()
    puppet.stands(0)
    time.sleep(3.5)
    client.connect().ask("get_hosts", wire.lockspace("LS", 2))
    client.connect().ask("get_hosts", wire.lockspace("LS"))
    client.connect().ask("host_status", wire.lockspace("LS"), length=32)


def seen(stage, what, name, at, length, so, within=12.0):
    """Waits until bytes on the disk are so; what they are then."""
    until = time.monotonic() + within
    while not so(stage.read_disk(name, at, length)) and time.monotonic() < until:
        time.sleep(0.1)
    stage.lines.append(f"{what}: {stage.read_disk(name, at, length).hex()}")


@others
def a_living_owner_is_asked(stage):
    a, n, puppet = stage.client(), stage.fresh(), living(stage)
    puppet.owns(n)
    ask = lambda **how: a.first.ask("request", how.pop("lease", stage.lease(n)), **how)
    ask(flags=wire.NEXT_LVER, data=wire.FORCE)
    stage.lines.append("request on disk " + stage.read_disk("leases", (n << 20) + 512, 20).hex())
    seen(stage, "called", "space", 256, 4, any)
    ask(flags=wire.NEXT_LVER, data=wire.GRACEFUL)
    ask(lease=stage.lease(n, lver=1), data=wire.FORCE)
    ask(lease=stage.lease(n, lver=9), data=wire.FORCE)
    ask(lease=stage.lease(n, lver=5), data=wire.FORCE)
    stage.lines.append("request on disk " + stage.read_disk("leases", (n << 20) + 512, 20).hex())
    seen(stage, "no longer called", "space", 256, 4, lambda bits: not any(bits), within=20.0)
    puppet.die()


@others
def a_damaged_request_record_is_left_alone(stage):
    a, n, puppet = stage.client(), stage.fresh(), living(stage)
    puppet.owns(n)
    for damage in ({"magic": 7}, {"version": 0x00020001}):
        stage.write_disk("leases", (n << 20) + 512, request(3, wire.FORCE, **damage))
        a.first.ask("request", stage.lease(n), flags=wire.NEXT_LVER, data=wire.FORCE)
        stage.lines.append("request on disk " + stage.read_disk("leases", (n << 20) + 512, 20).hex())
    puppet.die()


def asked_for(stage, lver, force, before=lambda client: None):
    """A client that holds a lease at version 1, which the puppet asks for."""
    client, n, puppet = stage.client(), stage.fresh(), living(stage)
    client.register()
    before(client.first)
    take(stage, client, n)
    puppet.asks(n, lver, force)
    return client, n, puppet


@others
def a_client_is_killed_for_another_host(stage):
    client, _, puppet = asked_for(stage, 2, wire.FORCE)
    client.ended(within=LONG)
    puppet.die()


@others
def a_client_that_restricts_sigkill_is_told_to_end_for_another_host(stage):
    restrict = lambda first: first.ask("restrict", flags=wire.RESTRICT_SIGKILL, data2=wire.SELF)
    client, _, puppet = asked_for(stage, 2, wire.FORCE, restrict)
    client.ended(within=LONG)
    puppet.die()


@others
def a_client_is_told_to_end_for_another_host(stage):
    client, _, puppet = asked_for(stage, 2, wire.GRACEFUL)
    client.ended(within=LONG)
    puppet.die()


@others
def a_killpath_is_run_for_another_host(stage):
    program, ran = stage.path("kp3.sh"), stage.path("ran3")
    with open(program, "w", encoding="ascii") as file:
        file.write(f"#!/bin/sh\necho $# $1 $2 > {ran}\n")
    killpath = wire.field("/bin/sh", 128) + wire.field(f"{program} one", 128)
    client, _, puppet = asked_for(stage, 2, wire.GRACEFUL,
                                  lambda first: first.ask("killpath", killpath, flags=1, data2=wire.SELF))
    until = time.monotonic() + LONG
    while not (os.path.exists(ran) and os.path.getsize(ran)) and time.monotonic() < until:
        time.sleep(0.1)
    with open(ran, encoding="ascii") as file:
        stage.lines.append(f"the program was run with {file.read().strip()}")
    client.first.ask("inquire", data2=wire.SELF)
    puppet.die()


@others
def a_request_for_a_version_that_is_reached_is_for_nobody(stage):
    client, n, puppet = asked_for(stage, 1, wire.FORCE)
    time.sleep(6)
    client.first.ask("inquire", data2=wire.SELF)
    client.first.ask("examine_resource", stage.named(n))
    client.first.ask("examine_lockspace", stage.space())
    time.sleep(2)
    client.first.ask("inquire", data2=wire.SELF)
    # When it was called is told all the same.
    client.connect().ask("host_status", wire.lockspace("LS"), length=32)
    puppet.die()
