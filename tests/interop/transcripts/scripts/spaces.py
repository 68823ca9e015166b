"""Joining and leaving lockspaces."""

import os
import time

import wire

from . import set_of

spaces = set_of("spaces")
STAYS = 10.0  # seconds within which a join or a leave is over


@spaces
def add_refused(stage):
    a = stage.client().first
    a.ask("add_lockspace", stage.space("", 1))
    a.ask("add_lockspace", stage.space("LS", 0))
    a.ask("add_lockspace", stage.space("LS", 2001), within=STAYS)
    a.ask("add_lockspace", wire.lockspace("LS", 1, "/nowhere"), within=STAYS)
    a.ask("add_lockspace", wire.lockspace("LS", 1, ""), within=STAYS)
    a.ask("add_lockspace", stage.space("WRONG", 1), within=STAYS)
    a.ask("add_lockspace", stage.space("LS", 1, "blank"), within=STAYS)
    a.ask("add_lockspace", stage.space("LS", 1, offset=100), within=STAYS)
    stage.client().first.ask("get_lockspaces")


@spaces
def add_and_leave(stage):
    client = stage.client()
    a = client.first
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("inq_lockspace", stage.space())
    a.ask("inq_lockspace", stage.space("LS", 0))
    a.ask("inq_lockspace", stage.space("LS", 2))
    a.ask("inq_lockspace", wire.lockspace("LS", 1, ""))
    a.ask("inq_lockspace", stage.space("LS", 1, offset=512))
    client.connect().ask("get_lockspaces")
    a.ask("rem_lockspace", stage.space("LS", 2))
    a.ask("rem_lockspace", stage.space("WRONG", 1))
    a.ask("rem_lockspace", stage.space(), within=STAYS)
    a.ask("inq_lockspace", stage.space())
    a.ask("rem_lockspace", stage.space())


@spaces
def add_twice(stage):
    a = stage.client().first
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("add_lockspace", stage.space(), data=1)
    a.ask("add_lockspace", stage.space("LS", 2), data=1)
    a.ask("add_lockspace", stage.space("LS", 1, "blank"), data=1)
    a.ask("add_lockspace", stage.space(), data=9)
    a.ask("rem_lockspace", stage.space(), within=STAYS)


@spaces
def add_without_waiting(stage):
    client = stage.client()
    a, b = client.first, client.connect()
    a.ask("add_lockspace", stage.space(), flags=wire.ASYNC, data=1)
    b.ask("add_lockspace", stage.space(), flags=wire.ASYNC, data=1)
    b.ask("inq_lockspace", stage.space())
    b.ask("inq_lockspace", stage.space(), flags=wire.WAIT, within=STAYS)
    b.ask("rem_lockspace", stage.space(), flags=wire.ASYNC)
    # Asked at once, sanlock calls it joined or being left as its main loop has got to it: up to a second.
    time.sleep(1.2)
    b.ask("inq_lockspace", stage.space(), flags=wire.WAIT, within=STAYS)


@spaces
def leave_while_joining(stage):
    client = stage.client()
    a, b = client.first, client.connect()
    a.request("add_lockspace", stage.space(), data=1)
    time.sleep(0.2)
    b.ask("rem_lockspace", stage.space(), within=STAYS)
    a.reply(STAYS)
    b.ask("inq_lockspace", stage.space(), flags=wire.WAIT, within=STAYS)


@spaces
def two_lockspaces(stage):
    client = stage.client()
    a = client.first
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("add_lockspace", stage.space("OTHER", 3, "space2"), within=STAYS, data=1)
    client.connect().ask("get_lockspaces")
    a.ask("rem_lockspace", stage.space(), within=STAYS)
    client.connect().ask("get_lockspaces")
    a.ask("shutdown_wait")
    a.ask("rem_lockspace", stage.space("OTHER", 3, "space2"), within=STAYS)


@spaces
def hosts_from_the_first_renewal_on(stage):
    client, poller = stage.client(), stage.client()
    client.first.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    for _ in range(50):
        told = stage.lines
        connection = poller.connect()
        stage.lines = []
        result = connection.ask("get_hosts", wire.lockspace("LS"))
        stage.lines = told
        if result != -11:
            break
        time.sleep(0.1)
    client.connect().ask("get_hosts", wire.lockspace("LS", 1))
    client.connect().ask("get_hosts", wire.lockspace("LS", 2))
    client.connect().ask("get_hosts", wire.lockspace("LS", 2001))
    client.connect().ask("get_hosts", wire.lockspace("OTHER"))
    client.first.ask("rem_lockspace", stage.space(), within=STAYS)


@spaces
def a_holder_is_killed_when_its_lockspace_is_left(stage):
    client, b = stage.client(), stage.client().first
    a = client.register()
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("acquire", stage.lease(0) + wire.options("holder"), data=1, data2=wire.SELF)
    b.ask("rem_lockspace", stage.space(), flags=wire.UNUSED)
    b.ask("rem_lockspace", stage.space(), within=STAYS)
    client.ended()
    b.ask("read_resource_owners", stage.lease(0))


@spaces
def a_holder_that_restricts_sigkill_is_told_to_end(stage):
    client, b = stage.client(), stage.client().first
    a = client.register()
    a.ask("restrict", flags=wire.RESTRICT_SIGKILL, data2=wire.SELF)
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("acquire", stage.lease(1) + wire.options("holder"), data=1, data2=wire.SELF)
    b.ask("rem_lockspace", stage.space(), within=STAYS)
    client.ended()


@spaces
def a_killpath_is_not_run_when_a_lockspace_is_left(stage):
    client, b = stage.client(), stage.client().first
    a = client.register()
    program = stage.path("kp.sh")
    with open(program, "w", encoding="ascii") as file:
        file.write(f"#!/bin/sh\necho ran > {stage.path('ran')}\n")
    a.ask("killpath", wire.field("/bin/sh", 128) + wire.field(program, 128), flags=1, data2=wire.SELF)
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("acquire", stage.lease(4) + wire.options("holder"), data=1, data2=wire.SELF)
    b.ask("rem_lockspace", stage.space(), within=STAYS)
    client.ended()
    stage.lines.append(f"ran: {os.path.exists(stage.path('ran'))}")


@spaces
def a_corrupt_lockspace_runs_the_killpath_and_spares_its_client(stage):
    client, b = stage.client(), stage.client()
    a = client.register()
    program = stage.path("kp2.sh")
    with open(program, "w", encoding="ascii") as file:
        file.write(f"#!/bin/sh\necho $# $1 $2 > {stage.path('ran2')}\n")
    a.ask("killpath", wire.field("/bin/sh", 128) + wire.field(f"{program} one two", 128), data2=wire.SELF)
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("acquire", stage.lease(5) + wire.options("holder"), data=1, data2=wire.SELF)
    good = stage.read_disk("space", 0, 512)
    stage.write_disk("space", 0, bytes(512))
    for _ in range(100):
        if os.path.exists(stage.path("ran2")) and os.path.getsize(stage.path("ran2")):
            break
        time.sleep(0.1)
    with open(stage.path("ran2"), encoding="ascii") as file:
        stage.lines.append(f"the program was run with {file.read().strip()}")
    b.first.ask("acquire", stage.lease(6) + wire.options(), data=1, data2=client.pid)
    a.ask("inquire", data2=wire.SELF)
    a.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
    # Until its main loop has come round sanlock calls it joined.
    time.sleep(1.5)
    b.first.ask("inq_lockspace", stage.space(), flags=wire.WAIT, within=STAYS)
    stage.lines.append(f"the client was ended by {client.actor.ended_by(0.5)}")
    stage.write_disk("space", 0, good)


@spaces
def a_lockspace_with_a_wrong_io_timeout(stage):
    a = stage.client().first
    a.ask("add_lockspace", stage.space(), within=STAYS, data=2)
    stage.client().connect().ask("get_lockspaces")
    a.ask("rem_lockspace", stage.space(), within=STAYS)


@spaces
def unused_lockspaces_are_left_and_used_ones_not(stage):
    client, b = stage.client(), stage.client().first
    a = client.register()
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("acquire", stage.lease(7) + wire.options("holder"), data=1, data2=wire.SELF)
    b.ask("rem_lockspace", stage.space(), flags=wire.UNUSED)
    a.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
    b.ask("rem_lockspace", stage.space(), flags=wire.UNUSED, within=STAYS)
    client.actor.ended_by(0.1)


@spaces
def forced_shutdown(stage):
    """The last of its set: the daemon ends."""
    client, b = stage.client(), stage.client()
    a = client.register()
    a.ask("add_lockspace", stage.space(), within=STAYS, data=1)
    a.ask("acquire", stage.lease(2) + wire.options("holder"), data=1, data2=wire.SELF)
    b.first.ask("shutdown_wait")
    c = b.connect()
    c.request("shutdown")
    c.stands()
    b.first.ask("shutdown_wait", data=1, within=STAYS)
    client.ended()
