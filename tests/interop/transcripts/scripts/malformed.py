"""What no client of sanlock's sends."""

import wire

from . import set_of

malformed = set_of("malformed")


@malformed
def wrong_magic(stage):
    a = stage.client().first
    a.request("version", magic=0x12345678)
    a.reply(0.3)
    a.stands()


@malformed
def wrong_version(stage):
    a = stage.client().first
    a.request("version", version=2)
    a.reply(0.3)
    b = stage.client().first
    b.request("version", version=0x10000)
    b.reply(0.3)


@malformed
def unknown_commands(stage):
    client = stage.client()
    for number in (0, 41, 99, 0x7FFFFFFF):
        a = client.connect()
        a.request(number)
        a.reply(0.3)
        a.stands()


@malformed
def nothing_but_an_end(stage):
    a = stage.client().first
    a.half_close()
    a.stands()


@malformed
def a_header_that_ends_early(stage):
    a = stage.client().first
    a.send(wire.header("version")[:31], "31 bytes")
    a.half_close()
    a.reply(1.0)
    a.stands()


@malformed
def payloads_that_end_early(stage):
    client = stage.client()
    for command, payload in (("add_lockspace", stage.space()), ("inq_lockspace", stage.space()),
                             ("read_lockspace", stage.space()), ("read_resource", stage.lease(0)),
                             ("write_resource", stage.lease(0)), ("align", wire.disk("x")),
                             ("request", stage.lease(0)), ("read_resource_owners", stage.lease(0)),
                             ("set_event", wire.lockspace("LS") + wire.host_event(1)),
                             ("format_rindex", wire.rindex("LS", "x")),
                             ("lookup_rindex", wire.rindex("LS", "x") + wire.rentry()),
                             ("create_resource", wire.rindex("LS", "x") + wire.rentry())):
        ends_early(client, command, payload)


def ends_early(client, command, payload, **header):
    """A request of which 100 bytes of the payload come, and then the end."""
    a = client.connect()
    a.send(wire.header(command, length=32 + len(payload), **header) + payload[:100], f"{command} and 100 bytes")
    a.half_close()
    a.reply(1.0)


@malformed
def more_payloads_that_end_early(stage):
    client = stage.client()
    index = wire.rindex("LS", "x") + wire.rentry("r", 1 << 20)
    for command, payload in (("get_hosts", wire.lockspace("LS")), ("host_status", wire.lockspace("LS")),
                             ("renewal", wire.lockspace("LS")), ("reg_event", wire.lockspace("LS")),
                             ("end_event", wire.lockspace("LS")), ("set_config", wire.lockspace("LS")),
                             ("write_lockspace", stage.space()), ("update_rindex", index),
                             ("delete_resource", index), ("rebuild_rindex", wire.rindex("LS", "x"))):
        ends_early(client, command, payload)


def ends_early_for_another(stage, command, payload):
    """The same for a client; what the client is afterwards."""
    client = stage.client()
    first = client.known()
    ends_early(client, command, payload, data2=client.pid)
    first.ask("inquire", data2=wire.SELF)
    client.connect().ask("status")


@malformed
def a_conversion_that_ends_early(stage):
    ends_early_for_another(stage, "convert", stage.lease(stage.fresh()))


@malformed
def a_killpath_that_ends_early(stage):
    ends_early_for_another(stage, "killpath", wire.field("/bin/true", 128) + wire.field("one", 128))


ends_it = set_of("malformed_ends_it")


@ends_it
def a_shutdown_with_a_force_value_that_is_none(stage):
    a = stage.client().first
    a.ask("shutdown", data=7, within=10.0)


@malformed
def lengths_that_are_not_true(stage):
    a = stage.client().first
    a.ask("inq_lockspace", stage.space(), length=32)
    a.ask("inq_lockspace", stage.space(), length=0)
    a.ask("inq_lockspace", stage.space(), length=0xFFFFFFFF)
    a.ask("version", length=4)


@malformed
def payload_where_none_belongs(stage):
    a = stage.client().first
    a.request("version", b"x" * 100)
    a.reply(0.5)


@malformed
def sixty_six_leases_at_once(stage):
    a = stage.client().register()
    a.request("acquire", wire.options(), data=66, data2=wire.SELF)
    a.reply(0.5)
    a.ask("version")


@malformed
def names_without_an_end(stage):
    a = stage.client().first
    a.ask("inq_lockspace", wire.lockspace(b"n" * 48, 1, stage.path("space")))
    a.ask("read_lockspace", wire.lockspace(b"n" * 48, 1, stage.path("space")))
    b = stage.client().register()
    b.ask("release", wire.resource(b"n" * 48, b"m" * 48), data=1, data2=wire.SELF)


@malformed
def paths_without_an_end(stage):
    a = stage.client().first
    a.ask("read_lockspace", wire.lockspace("LS", 1, b"/" + b"p" * 1023))
    a.ask("align", wire.field(b"/" + b"p" * 1023, 1024) + bytes(16))
