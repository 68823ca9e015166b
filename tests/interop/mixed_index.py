#!/usr/bin/python3
"""Two daemons, one device, one resource index: both create and delete, and neither loses an entry.

    mixed_index.py --a RUN_DIR --b RUN_DIR --device PATH [--sector N] [--count N]

Each run directory belongs to a running daemon, real sanlock or Holdfast, with a host name of its own. The device (or
file) is formatted through daemon A: a lockspace at offset 0, the index one area further. A joins as host 1, B as host 2.
Then one client of each creates --count resources and deletes every third of its own, competing for the index. In the
end every resource that was created and not deleted is listed once, where it was said to be, and a rebuild by either
changes nothing.

Prints one JSON line; exit status 0 only if everything held.
"""

import argparse
import collections
import json
import multiprocessing
import os
import random
import socket
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "transcripts"))

import wire  # noqa: E402

MIB = 1 << 20
SPACE = "MIXED"
# Refusals that end by themselves: the index is the other's, a ballot was lost, the daemon is at work on it.
TRY_AGAIN = {-243, -244, -245, -247, -11, -16}
PAUSE = (0.002, 0.020)  # seconds between attempts, at random
WITHIN = 120.0  # seconds for all of it


class Asker:
    """A connection to a daemon."""

    def __init__(self, run_dir, index):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(os.path.join(run_dir, "sanlock.sock"))
        self.index, self.seen = index, collections.Counter()

    def receive(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the daemon closed the connection"
            data += more
        return data

    def ask(self, command, payload, **header):
        """The result, and what came with it."""
        self.socket.sendall(wire.header(command, length=32 + len(payload), **header) + payload)
        fields = wire.HEADER.unpack(self.receive(32))
        result, body = wire.signed(fields[6]), self.receive(fields[4] - 32)
        self.seen[f"{command}: {result}"] += 1
        return result, body

    def patiently(self, command, payload):
        """The same, again while somebody else has the index."""
        end = time.monotonic() + WITHIN
        while True:
            result, body = self.ask(command, payload)
            if result not in TRY_AGAIN:
                return result, body
            assert time.monotonic() < end, f"{command}: {result} for {WITHIN} s"
            time.sleep(random.uniform(*PAUSE))

    def create(self, name):
        result, body = self.patiently("create_resource", self.index + wire.rentry(name))
        assert result == 0, f"create {name}: {result}"
        return struct.unpack("<Q", body[48:56])[0]

    def delete(self, name):
        result, _ = self.patiently("delete_resource", self.index + wire.rentry(name))
        assert result == 0, f"delete {name}: {result}"

    def lookup(self, name):
        result, body = self.ask("lookup_rindex", self.index + wire.rentry(name))
        return struct.unpack("<Q", body[48:56])[0] if result == 0 else result

    def rebuild(self):
        result, _ = self.patiently("rebuild_rindex", self.index)
        assert result == 0, f"rebuild: {result}"


def work(run_dir, index, who, count, results, other_done):
    """One client: what it created and did not delete, by name."""
    try:
        asker, there = Asker(run_dir, index), {}
        for number in range(count):
            there[f"{who}{number}"] = asker.create(f"{who}{number}")
            if number % 3 == 2:
                gone = f"{who}{number - 1}"
                asker.delete(gone)
                assert asker.lookup(gone) == -2, f"{gone} is still there"
                del there[gone]
            time.sleep(random.uniform(*PAUSE))
        results.put((who, there, dict(asker.seen)))
        # A release of sanlock's leaves an index lease that another host has published for it: it ends with the next use.
        while not other_done.wait(0.1):
            asker.rebuild()
    except BaseException as error:
        results.put((who, repr(error), {}))


def listed(path, offset, sector):
    """The entries on the device: [(name, offset)]."""
    with open(path, "rb") as disk:
        disk.seek(offset + sector)
        entries = disk.read(64 * 512)
    found = [entries[at:at + 64] for at in range(0, len(entries), 64)]
    return [(e[16:].rstrip(b"\0").decode(), struct.unpack("<Q", e[:8])[0]) for e in found if any(e)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--a", required=True, metavar="RUN_DIR")
    parser.add_argument("--b", required=True, metavar="RUN_DIR")
    parser.add_argument("--device", required=True)
    parser.add_argument("--sector", type=int, default=512)
    parser.add_argument("--count", type=int, default=12)
    chosen = parser.parse_args()
    sizes = wire.ALIGN_1M | (wire.SECTOR_512 if chosen.sector == 512 else wire.SECTOR_4K)
    index = wire.rindex(SPACE, chosen.device, MIB, flags=sizes)
    a, b = Asker(chosen.a, index), Asker(chosen.b, index)
    space = wire.lockspace(SPACE, 0, chosen.device, 0, flags=sizes)
    assert a.ask("write_lockspace", space, data2=2)[0] == 0
    assert a.ask("format_rindex", index)[0] == 0
    for number, asker in enumerate((a, b)):
        joined = asker.ask("add_lockspace", wire.lockspace(SPACE, number + 1, chosen.device, 0), data=2)[0]
        assert joined == 0, f"host {number + 1} does not join: {joined}"
    context = multiprocessing.get_context("fork")
    results, done = context.Queue(), context.Event()
    workers = [context.Process(target=work, args=(run_dir, index, who, chosen.count, results, done), daemon=True)
               for who, run_dir in (("a", chosen.a), ("b", chosen.b))]
    for worker in workers:
        worker.start()
    told = [results.get(timeout=WITHIN + 60) for _ in workers]
    done.set()
    for worker in workers:
        worker.join(60)
    errors = [f"{who}: {there}" for who, there, _ in told if isinstance(there, str)]
    there = {name: at for _, found, _ in told if not isinstance(found, str) for name, at in found.items()}
    before = listed(chosen.device, MIB, chosen.sector)
    if sorted(before) != sorted(there.items()):
        errors.append(f"listed {sorted(before)}, created {sorted(there.items())}")
    for asker in (a, b):
        errors += [f"{name} is at {asker.lookup(name)}, not at {at}" for name, at in there.items() if asker.lookup(name) != at]
        asker.rebuild()
        if listed(chosen.device, MIB, chosen.sector) != before:
            errors.append("a rebuild has changed what was right")
    print(json.dumps({"ok": not errors, "errors": errors, "resources": len(there),
                      "seen": {who: seen for who, _, seen in told}}))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
