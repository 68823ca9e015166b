"""STATUS and the other streams of records."""

import re
import time

import wire

from . import set_of

streams = set_of("streams")


@streams
def status_of_an_idle_daemon(stage):
    client = stage.client()
    for stop_after in (1, 2, 3, 0):
        client.connect().ask("status", data=stop_after)


@streams
def names_of_connections(stage):
    client = stage.client()
    head = stage.named(0)
    for command, payload in (("version", b""), ("restrict", b""), ("align", wire.disk("/nowhere")),
                             ("read_lockspace", stage.space()), ("read_resource", stage.lease(0)),
                             ("inq_lockspace", stage.space()), ("rem_lockspace", stage.space()),
                             ("request", stage.lease(0)), ("examine_lockspace", stage.space()),
                             ("examine_resource", head), ("set_lvb", head + b"value"), ("get_lvb", head),
                             ("read_resource_owners", stage.lease(0)), ("inquire", b""), ("release", head),
                             ("convert", head), ("set_event", wire.lockspace("LS") + wire.host_event(1)),
                             ("write_resource", wire.resource("LS", "new", [("/nowhere", 0)])),
                             ("write_lockspace", wire.lockspace("LS", 1, "/nowhere")),
                             ("lookup_rindex", wire.rindex("LS", "x") + wire.rentry()),
                             ("add_lockspace", wire.lockspace("LS", 1, "/nowhere"))):
        data = 1 if command == "release" else 0
        client.connect().ask(command, payload, data=data, data2=wire.SELF if command in ("inquire", "release") else 0)
    stage.wait_for_workers()
    client.connect().ask("status", data=2)


@streams
def name_of_a_registered_connection(stage):
    registered = stage.client().register()
    registered.ask("get_lockspaces")
    stage.client().connect().ask("status", data=2)


@streams
def the_log(stage):
    client = stage.client()
    a = client.connect()
    a.request("log_dump")
    told, stage.lines = stage.lines, []
    result = a.reply()
    stage.lines = told + [line for line in stage.lines if "lines of the form" in line]
    stage.lines.append(f"something was logged: {bool(result)}")


@streams
def stage_joined_to_look(stage):
    client = stage.client()
    client.first.ask("add_lockspace", stage.space(), within=10.0, data=1)
    time.sleep(3.2)


@streams
def status_with_a_lease(stage):
    client, n = stage.client(), stage.fresh()
    client.register()
    client.first.ask("acquire", stage.lease(n) + wire.options("guest"), data=1, data2=wire.SELF)
    stage.wait_for_workers()
    stage.client().connect().ask("status")


@streams
def status_with_a_shared_lease(stage):
    client, n = stage.client(), stage.fresh()
    client.register()
    payload = stage.lease(n, flags=wire.SHARED) + wire.options("guest")
    client.first.ask("acquire", payload, data=1, data2=wire.SELF)
    stage.wait_for_workers()
    stage.client().connect().ask("status")


@streams
def host_status(stage):
    client = stage.client()
    client.connect().ask("host_status", wire.lockspace("LS"), length=32)
    client.connect().ask("host_status", wire.lockspace("OTHER"), length=32)


@streams
def renewals(stage):
    client = stage.client()
    a = client.connect()
    a.request("renewal", wire.lockspace("LS"), length=32)
    told, stage.lines = stage.lines, []
    a.reply()
    # How many there are depends on the instant, and whether one took a millisecond on the disk; what it looks like does not.
    took = re.compile(r"(read_ms|write_ms)=(<time>|\d+)")
    seen = sorted({took.sub(r"\1=<time>", line.split("< ")[-1].strip()) for line in stage.lines})
    stage.lines = told + seen
    client.connect().ask("renewal", wire.lockspace("OTHER"), length=32)


@streams
def a_connection_whose_command_goes_on(stage):
    client = stage.client()
    waiting = client.connect()
    waiting.request("add_lockspace", stage.space("OTHER", file="space2"), data=1)
    stage.client().connect().ask("status", data=2)
    waiting.reply(within=10.0)
    client.connect().ask("rem_lockspace", stage.space("OTHER", file="space2"), within=10.0)
