"""Leases that another host has, or had."""

import time

import wire

from puppet import RELEASED, Puppet, dblock

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
