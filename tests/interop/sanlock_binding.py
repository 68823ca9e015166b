#!/usr/bin/python3
"""Walks the unmodified python3-sanlock binding through one lease's life.

    sanlock_binding.py RUN_DIR LOCKSPACE_FILE RESOURCE_FILE

RUN_DIR belongs to a running daemon, real sanlock or Holdfast, without
lockspaces. Both files (or devices of 512-byte sectors) hold 2 MiB or more and are
overwritten. Every result is asserted, the refusals a client relies on
included. Prints one JSON line; exit status 0 only if all of it held.
"""

import errno
import json
import os
import sys
import time

from sanlock_host import Client, LeaseError, wait_until

LOCKSPACE, RESOURCE = b"BINDING", b"one"
HOST_ID = 1
IO_TIMEOUT = 1  # seconds
ALIGN, SECTOR = 1 << 20, 512
HOST_LIVE = 3
RES_LVER = 1
NO_LEASE_THERE = -223


class Walk:
    """The daemon's two clients, and what was seen on the way."""

    def __init__(self, run_dir, spaces, resources):
        self.first = Client(run_dir)
        self.second = Client(run_dir)
        self.spaces = spaces
        self.resources = resources
        self.disks = [(resources, 0)]
        self.told = {}

    def close(self):
        self.first.close()
        self.second.close()


def equal(what, have, want):
    assert have == want, f"{what}: expected {want!r}, found {have!r}"


def refused(code, call, *arguments, **keywords):
    """The call raises exactly this number."""
    try:
        found = f"result {call(*arguments, **keywords)!r}"
    except LeaseError as error:
        if error.code == code:
            return
        found = str(error)
    raise AssertionError(f"expected error {code}, found {found}")


def timed(told, name, call, *arguments, **keywords):
    """The result of the call; its time in milliseconds goes into the summary."""
    began = time.monotonic()
    result = call(*arguments, **keywords)
    told[f"{name}_ms"] = round((time.monotonic() - began) * 1000, 1)
    return result


def join(walk):
    """write_lockspace, add_lockspace, get_lockspaces, get_hosts, read_lockspace."""
    client, path = walk.first, walk.spaces
    equal("write_lockspace", client.write_lockspace(LOCKSPACE, path, iotimeout=IO_TIMEOUT), None)
    space = {"iotimeout": IO_TIMEOUT}
    refused(errno.ENOENT, client.get_hosts, LOCKSPACE)
    equal("inq_lockspace before", client.inq_lockspace(LOCKSPACE, HOST_ID, path), False)
    equal("add_lockspace", timed(walk.told, "add_lockspace", client.add_lockspace,
                                 LOCKSPACE, HOST_ID, path, **space), None)
    refused(errno.EEXIST, client.add_lockspace, LOCKSPACE, HOST_ID, path, **space)
    refused(errno.EINVAL, client.add_lockspace, LOCKSPACE, HOST_ID + 1, path, **space)
    equal("inq_lockspace", client.inq_lockspace(LOCKSPACE, HOST_ID, path), True)
    equal("get_lockspaces", client.get_lockspaces(),
          [{"lockspace": LOCKSPACE, "host_id": HOST_ID, "path": path, "offset": 0, "flags": 0}])
    equal("read_lockspace", client.read_lockspace(path),
          {"lockspace": LOCKSPACE, "iotimeout": IO_TIMEOUT})


def first_hosts(walk):
    """get_hosts, which may raise EAGAIN until the first renewal was read."""
    answer = []

    def asked():
        try:
            answer[:] = walk.first.get_hosts(LOCKSPACE)
        except LeaseError as error:
            if error.code != errno.EAGAIN:
                raise
        return bool(answer)

    began = time.monotonic()
    wait_until("get_hosts answers", asked)
    walk.told["first_hosts_ms"] = round((time.monotonic() - began) * 1000, 1)
    equal("hosts", len(answer), 1)
    host = answer[0]
    equal("own host", {key: host[key] for key in ("host_id", "io_timeout", "flags")},
          {"host_id": HOST_ID, "io_timeout": IO_TIMEOUT, "flags": HOST_LIVE})
    assert host["generation"] >= 1 and host["timestamp"] >= 1, host
    equal("get_hosts by id", [found["host_id"] for found in
                              walk.first.get_hosts(LOCKSPACE, HOST_ID)], [HOST_ID])
    walk.told["generation"] = host["generation"]


def read(walk, version):
    """read_resource tells names and this version."""
    equal("read_resource", walk.first.read_resource(walk.resources),
          {"lockspace": LOCKSPACE, "resource": RESOURCE, "version": version})


def hold(walk):
    """write_resource, register, acquire, inquire, and who is refused meanwhile."""
    client, disks = walk.first, walk.disks
    equal("write_resource", client.write_resource(LOCKSPACE, RESOURCE, disks), None)
    read(walk, 0)
    fd, other = client.register(), walk.second.register()
    assert isinstance(fd, int) and fd >= 0, fd
    equal("acquire", timed(walk.told, "acquire", client.acquire,
                           LOCKSPACE, RESOURCE, disks, slkfd=fd), None)
    read(walk, 1)
    held = [{"lockspace": LOCKSPACE, "resource": RESOURCE, "flags": RES_LVER, "version": 1,
             "disks": disks}]
    equal("inquire", client.inquire(slkfd=fd), held)
    equal("inquire by pid", walk.second.inquire(pid=client.pid), held)
    equal("inquire of the other", walk.second.inquire(slkfd=other), [])
    refused(errno.EEXIST, walk.second.acquire, LOCKSPACE, RESOURCE, disks, slkfd=other)
    refused(errno.EEXIST, client.acquire, LOCKSPACE, RESOURCE, disks, slkfd=fd)
    nowhere = [(walk.resources, ALIGN)]
    refused(NO_LEASE_THERE, walk.second.acquire, LOCKSPACE, b"two", nowhere, slkfd=other)
    refused(errno.ESRCH, walk.second.inquire, pid=os.getpid())
    equal("release", timed(walk.told, "release", client.release,
                           LOCKSPACE, RESOURCE, disks, slkfd=fd), None)
    equal("inquire after release", client.inquire(slkfd=fd), [])
    refused(errno.EPERM, client.release, LOCKSPACE, RESOURCE, disks, slkfd=fd)
    return other


def hold_again(walk, other):
    """What was released can be had by the other client, at the next version."""
    arguments = (LOCKSPACE, RESOURCE, walk.disks)
    walk.second.acquire(*arguments, slkfd=other)
    read(walk, 2)
    walk.second.release(*arguments, slkfd=other)
    read(walk, 2)


def leave(walk):
    """rem_lockspace, after which nothing is left of it."""
    equal("rem_lockspace", timed(walk.told, "rem_lockspace", walk.first.rem_lockspace,
                                 LOCKSPACE, HOST_ID, walk.spaces), None)
    equal("get_lockspaces after", walk.first.get_lockspaces(), [])
    equal("inq_lockspace after", walk.first.inq_lockspace(LOCKSPACE, HOST_ID, walk.spaces), False)
    refused(errno.ENOENT, walk.first.rem_lockspace, LOCKSPACE, HOST_ID, walk.spaces)
    with open(walk.resources, "rb") as file:
        file.seek(152)  # the leader's timestamp
        equal("leader's timestamp at the end", file.read(8), bytes(8))


def main():
    run_dir, spaces, resources = sys.argv[1:]
    # The sector beyond the resource must be blank for the "no lease there" answer.
    with open(resources, "r+b") as file:
        file.seek(ALIGN)
        file.write(bytes(ALIGN))
        file.flush()
        os.fsync(file.fileno())
    walk = Walk(run_dir, spaces, resources)
    try:
        join(walk)
        first_hosts(walk)
        other = hold(walk)
        hold_again(walk, other)
        leave(walk)
    finally:
        walk.close()
    print(json.dumps({"ok": True, **walk.told}, sort_keys=True))


if __name__ == "__main__":
    main()
