"""A daemon without lockspaces: what it says to whom, and what becomes of the connection."""

import wire

from . import set_of

bare = set_of("bare")


@bare
def version(stage):
    a = stage.client().first
    a.ask("version")
    a.ask("version", flags=7, data=3, data2=4, seq=9)
    a.stands()


@bare
def register_is_not_answered(stage):
    a = stage.client().register()
    a.stands()
    a.ask("inquire", data2=wire.SELF)


@bare
def register_twice(stage):
    a = stage.client().register()
    a.request("register")
    a.ask("inquire", data2=wire.SELF)
    a.ask("version")


@bare
def target_without_registration(stage):
    a = stage.client().first
    for command, payload in (("inquire", b""), ("release", stage.named(0)), ("convert", stage.named(0))):
        a.ask(command, payload, data=1 if command == "release" else 0, data2=wire.SELF)
    a.ask("acquire", stage.lease(0) + wire.options(), data=1, data2=wire.SELF)
    a.ask("killpath", wire.field("/bin/true", 128) + wire.field("", 128), data2=wire.SELF)
    a.ask("version")


@bare
def target_that_nobody_registered(stage):
    a = stage.client().first
    pid = stage.client().pid
    for command, payload in (("inquire", b""), ("release", stage.named(0)), ("convert", stage.named(0))):
        a.ask(command, payload, data=1 if command == "release" else 0, data2=pid)
    a.ask("acquire", stage.lease(0) + wire.options(), data=1, data2=pid)
    a.ask("version")


@bare
def target_by_pid(stage):
    a, b = stage.client(), stage.client()
    a.known()
    b.first.ask("inquire", data2=a.pid)
    b.first.ask("release", stage.named(0), data=1, data2=a.pid)


@bare
def acquire_without_a_lockspace(stage):
    a = stage.client().register()
    a.ask("acquire", stage.lease(0) + wire.options(), data=1, data2=wire.SELF)
    a.ask("acquire", wire.options("name"), data=0, data2=wire.SELF)
    a.ask("inquire", data2=wire.SELF)


@bare
def acquire_counts(stage):
    a = stage.client().register()
    for disks in (0, 5):
        a.ask("acquire", wire.resource("LS", "r", [(stage.path("leases"), 0)] * disks) + wire.options(), data=1,
              data2=wire.SELF)
    a.ask("acquire", stage.lease(0) * 9 + wire.options(), data=9, data2=wire.SELF)
    a.ask("version")


@bare
def release_of_nothing(stage):
    a = stage.client().register()
    a.ask("release", stage.named(0), data=1, data2=wire.SELF)
    a.ask("release", stage.named(0) + stage.named(1), data=2, data2=wire.SELF)
    a.ask("release", data=0, data2=wire.SELF)
    a.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
    a.ask("release", stage.named(0) * 2, flags=wire.RELEASE_RENAME, data=2, data2=wire.SELF)
    a.ask("release", stage.named(0), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)


@bare
def convert_of_nothing(stage):
    a = stage.client().register()
    a.ask("convert", stage.named(0), data2=wire.SELF)
    a.ask("convert", stage.named(0, flags=wire.SHARED), data2=wire.SELF)
    a.ask("inquire", data2=wire.SELF)


@bare
def restrict(stage):
    client = stage.client()
    a = client.first
    a.ask("restrict", flags=wire.RESTRICT_SIGKILL, data2=wire.SELF)
    a.ask("restrict", flags=0, data2=wire.SELF)
    a.ask("version")
    b = client.connect()
    b.request("register")
    b.ask("restrict", flags=wire.RESTRICT_SIGTERM, data2=wire.SELF)
    b.ask("inquire", data2=wire.SELF)


@bare
def restrict_all_is_silence(stage):
    a = stage.client().register()
    a.ask("restrict", flags=wire.RESTRICT_ALL, data2=wire.SELF)
    a.request("version")
    a.request("inquire", data2=wire.SELF)
    a.stands()


@bare
def killpath(stage):
    client = stage.client()
    a = client.register()
    a.ask("killpath", wire.field("/bin/true", 128) + wire.field("one two", 128), flags=1, data2=wire.SELF)
    a.ask("killpath", wire.field(b"x" * 128, 128) + wire.field("", 128), data2=wire.SELF)
    b = stage.client().first
    b.ask("killpath", wire.field("/bin/true", 128) + wire.field("", 128), data2=client.pid)


@bare
def registered_connection_outlives_a_closing_command(stage):
    a = stage.client().register()
    a.ask("get_lockspaces")
    a.ask("version")
    a.ask("get_hosts", wire.lockspace("LS"))
    a.ask("version")
    a.stands()


@bare
def closing_commands_close(stage):
    client = stage.client()
    for command, payload in (("get_lockspaces", b""), ("get_hosts", wire.lockspace("LS")),
                             ("set_config", wire.lockspace("LS")), ("end_event", wire.lockspace("LS")),
                             ("host_status", wire.lockspace("LS")), ("renewal", wire.lockspace("LS"))):
        a = client.connect()
        a.ask(command, payload, length=32 if command in ("host_status", "renewal") else None)
        a.stands()


@bare
def keeping_commands_keep(stage):
    a = stage.client().first
    for command, payload in (("inq_lockspace", stage.space()), ("rem_lockspace", stage.space()),
                             ("align", wire.disk(stage.path("space"))),
                             ("read_lockspace", stage.space()), ("version", b"")):
        a.ask(command, payload)
    a.stands()


@bare
def requests_in_a_row_are_answered_in_order(stage):
    a = stage.client().first
    for seq in range(5):
        a.request("version", seq=seq)
    a.request("inq_lockspace", stage.space(), seq=7)
    a.request("version", seq=8)
    for _ in range(7):
        a.reply()


@bare
def half_closed_is_still_answered(stage):
    a = stage.client().first
    a.request("inq_lockspace", stage.space())
    a.half_close()
    a.reply()
    a.stands()


@bare
def shutdown_wait_refuses_nothing_when_idle(stage):
    """Not shut down: this daemon serves the scripts after this one."""
    a = stage.client().first
    a.ask("inq_lockspace", stage.space(), flags=wire.WAIT)


@bare
def config_of_an_unknown_lockspace(stage):
    client = stage.client()
    for command in (0, wire.USED, wire.NOT_USED, wire.USED_BY_ORPHANS, 99):
        client.connect().ask("set_config", wire.lockspace("LS"), data=command)


@bare
def events_of_an_unknown_lockspace(stage):
    client = stage.client()
    client.connect().ask("reg_event", wire.lockspace("LS") + wire.host_event(0))
    client.connect().ask("reg_event", wire.lockspace("") + wire.host_event(0))
    client.connect().ask("end_event", wire.lockspace("LS"))
    client.connect().ask("set_event", wire.lockspace("LS") + wire.host_event(1, 1, 5))
    client.connect().ask("set_event", wire.lockspace("LS") + wire.host_event(0, 1, 5))


@bare
def requests_of_an_unknown_lockspace(stage):
    a = stage.client().first
    a.ask("request", stage.lease(0), flags=wire.NEXT_LVER, data=wire.GRACEFUL)
    a.ask("request", wire.resource("LS", "r0"), data=wire.FORCE)
    a.ask("examine_lockspace", stage.space())
    a.ask("examine_resource", wire.resource("LS", "r0"))


@bare
def values_of_an_unknown_lockspace(stage):
    a = stage.client().first
    a.ask("set_lvb", stage.named(0) + b"value")
    a.ask("get_lvb", stage.named(0))


@bare
def inquire_of_nothing_by_its_pid(stage):
    a = stage.client()
    a.register()
    a.first.ask("inquire", data2=a.pid)
    a.connect().ask("inquire", data2=a.pid)


@bare
def two_registered_connections_of_one_process(stage):
    a = stage.client()
    a.register()
    b = a.connect()
    b.request("register")
    b.ask("inquire", data2=wire.SELF)
    b.ask("release", stage.named(0), data=1, data2=wire.SELF)
    a.first.close()
    b.ask("inquire", data2=wire.SELF)


@bare
def requests_after_a_half_close(stage):
    a = stage.client().first
    a.request("version")
    a.request("version", seq=1)
    a.half_close()
    a.reply()
    a.reply()
    a.stands()


@bare
def flags_and_sequence_numbers_come_back(stage):
    a = stage.client().first
    a.ask("inq_lockspace", stage.space(), flags=0x80, seq=77)
    a.ask("align", wire.disk(stage.path("space")), flags=0x40, seq=5)
    a.ask("read_lockspace", stage.space("", 1), flags=3, seq=6)
    a.ask("rem_lockspace", stage.space(), flags=0xFF00, seq=8)


@bare
def hosts_of_a_lockspace_without_a_name(stage):
    client = stage.client()
    client.connect().ask("get_hosts", wire.lockspace(""))
    client.connect().ask("host_status", wire.lockspace(""), length=32)
    client.connect().ask("renewal", wire.lockspace(""), length=32)


@bare
def acquire_with_flags_nobody_knows(stage):
    a = stage.client().register()
    a.ask("acquire", stage.lease(0) + wire.options(), flags=0x40, data=1, data2=wire.SELF)
    a.ask("acquire", wire.resource("", "", [(stage.path("leases"), 0)]) + wire.options(), data=1, data2=wire.SELF)


@bare
def convert_for_another_process(stage):
    a, b = stage.client(), stage.client()
    a.known()
    b.first.ask("convert", stage.named(0), data2=a.pid)
    b.first.ask("convert", stage.named(0), flags=wire.OWNER_NOWAIT, data2=a.pid)


@bare
def shutdown_without_lockspaces(stage):
    """The last of its set: the daemon ends."""
    a = stage.client().first
    a.ask("shutdown_wait")
    a.stands()
