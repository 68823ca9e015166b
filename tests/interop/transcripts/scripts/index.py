"""The resource index."""

import wire

from . import set_of
from stage import MIB

index = set_of("index")


def of(stage, space="LS", offset=0, **more):
    return wire.rindex(space, stage.path("blank"), offset, **more)


@index
def index_without_a_lockspace(stage):
    a = stage.client().first
    a.ask("format_rindex", of(stage), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry("a"), length=1264)
    a.ask("create_resource", of(stage) + wire.rentry("a"))
    a.ask("rebuild_rindex", of(stage))


@index
def stage_joined_to_index(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)


@index
def index_not_there(stage):
    a = stage.client().first
    blank = of(stage, offset=4 * MIB)
    a.ask("lookup_rindex", blank + wire.rentry("a"), length=1264)
    a.ask("create_resource", blank + wire.rentry("a"))
    a.ask("update_rindex", blank + wire.rentry("a", MIB), flags=0x10000)
    a.ask("delete_resource", blank + wire.rentry("a"))


@index
def index_of_two(stage):
    a = stage.client().first
    a.ask("format_rindex", of(stage), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry(), length=1264)
    a.ask("create_resource", of(stage) + wire.rentry("one"), within=10.0)
    a.ask("create_resource", of(stage) + wire.rentry("two"), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry("two"), length=1264)
    a.ask("lookup_rindex", of(stage) + wire.rentry("", 2 * MIB), length=1264)
    a.ask("lookup_rindex", of(stage) + wire.rentry("none"), length=1264)
    a.ask("lookup_rindex", of(stage) + wire.rentry("", 77), length=1264)
    a.ask("read_resource", wire.resource("", "", [(stage.path("blank"), 3 * MIB)]))
    a.ask("delete_resource", of(stage) + wire.rentry("one"), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry("one"), length=1264)
    a.ask("delete_resource", of(stage) + wire.rentry("one"), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry(), length=1264)
    a.ask("rebuild_rindex", of(stage), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry("two"), length=1264)


@index
def index_updated_by_hand(stage):
    a = stage.client().first
    a.ask("update_rindex", of(stage) + wire.rentry("by hand", 5 * MIB), flags=0x10000)
    a.ask("lookup_rindex", of(stage) + wire.rentry("by hand"), length=1264)
    a.ask("update_rindex", of(stage) + wire.rentry("by hand", 5 * MIB), flags=0x20000)
    a.ask("lookup_rindex", of(stage) + wire.rentry("by hand"), length=1264)
    a.ask("update_rindex", of(stage) + wire.rentry("crooked", 5 * MIB + 512), flags=0x10000)


@index
def index_of_another_lockspace(stage):
    a = stage.client().first
    a.ask("lookup_rindex", of(stage, "OTHER") + wire.rentry("two"), length=1264)
