"""Leases on a disk that hangs, or fails."""

import wire

from device import Device

from . import set_of

hangs = set_of("hangs")
LONG = 10.0


def of(device, number, **more):
    return wire.resource("LS", f"h{number}", [(device.path, number << 20)], **more)


def named(number, **more):
    return wire.resource("LS", f"h{number}", num_disks=1, **more)


def acquire(client, lease, **more):
    return client.first.ask("acquire", lease + wire.options("holder"), data=1, data2=wire.SELF, within=LONG, **more)


@hangs
def stage_joined_beside_a_disk_that_hangs(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=LONG, data=1)


@hangs
def leases_on_a_disk_that_hangs(stage):
    a = stage.client()
    a.known()
    with Device(stage) as device:
        for number in (0, 1):
            a.first.ask("write_resource", of(device, number), within=LONG)
        device.hangs()
        acquire(a, of(device, 0))
        acquire(a, of(device, 1, flags=wire.SHARED))
        a.first.ask("inquire", data2=wire.SELF)
        device.goes_on()


fails = set_of("fails")


@fails
def stage_joined_beside_a_disk_that_fails(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=LONG, data=1)


@fails
def everything_that_a_disk_that_fails_refuses(stage):
    a, b = stage.client(), stage.client().first
    a.known()
    with Device(stage) as device:
        for number in (0, 1):
            b.ask("write_resource", of(device, number), within=LONG)
        space = wire.lockspace("NEW", 1, device.path, 8 << 20)
        b.ask("write_lockspace", space, within=LONG)
        acquire(a, of(device, 0))
        device.fails()
        lease = of(device, 1)
        for command, payload in (("read_resource", lease), ("read_resource_owners", lease), ("read_lockspace", space),
                                 ("add_lockspace", space), ("align", wire.disk(device.path)), ("write_resource", lease),
                                 ("write_lockspace", space)):
            b.ask(command, payload, within=LONG)
        b.ask("request", of(device, 0, lver=9), data=wire.GRACEFUL)
        for mode in (0, wire.SHARED):
            acquire(a, of(device, 1, flags=mode))
        a.first.ask("inquire", data2=wire.SELF)
