"""Shared leases in a joined lockspace."""

import wire

from . import set_of

shared = set_of("shared")


def share(stage, client, number, flags=0):
    payload = stage.lease(number, flags=wire.SHARED) + wire.options("reader")
    return client.first.ask("acquire", payload, flags=flags, data=1, data2=wire.SELF)


@shared
def stage_joined_to_share(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)


@shared
def shared_and_released(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    share(stage, a, n)
    a.first.ask("inquire", data2=wire.SELF)
    a.first.ask("read_resource", stage.lease(n))
    a.first.ask("read_resource_owners", stage.lease(n))
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    a.first.ask("read_resource_owners", stage.lease(n))
    a.first.ask("inquire", data2=wire.SELF)


@shared
def shared_by_two_clients(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.register()
    b.register()
    share(stage, a, n)
    share(stage, b, n)
    share(stage, b, n)
    b.first.ask("inquire", data2=wire.SELF)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    b.first.ask("read_resource_owners", stage.lease(n))
    b.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
    b.first.ask("read_resource_owners", stage.lease(n))


@shared
def exclusive_beside_shared(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.register()
    b.register()
    share(stage, a, n)
    b.first.ask("acquire", stage.lease(n) + wire.options(), data=1, data2=wire.SELF)
    b.first.ask("acquire", stage.lease(n) + wire.options(), flags=wire.OWNER_NOWAIT, data=1, data2=wire.SELF)
    a.first.ask("convert", stage.named(n), data2=wire.SELF)
    share(stage, b, n)
    b.first.ask("inquire", data2=wire.SELF)


@shared
def conversion_beside_another_sharer(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.register()
    b.register()
    share(stage, a, n)
    share(stage, b, n)
    a.first.ask("convert", stage.named(n), data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)
    b.first.ask("inquire", data2=wire.SELF)


@shared
def exclusive_then_shared(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.register()
    b.register()
    a.first.ask("acquire", stage.lease(n) + wire.options(), data=1, data2=wire.SELF)
    share(stage, b, n)
    a.first.ask("convert", stage.named(n, flags=wire.SHARED), data2=wire.SELF)
    share(stage, b, n)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    b.first.ask("inquire", data2=wire.SELF)
    b.first.ask("convert", stage.named(n), data2=wire.SELF)
    b.first.ask("inquire", data2=wire.SELF)
