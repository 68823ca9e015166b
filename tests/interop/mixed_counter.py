#!/usr/bin/python3
"""Two daemons, one device, one exclusive lease, one counter.

    mixed_counter.py --a RUN_DIR --b RUN_DIR --device PATH --counter FILE [...]

Each run directory belongs to a running daemon, real sanlock or Holdfast, with
a host name of its own. The device (or file) is formatted through daemon A:
lockspace at offset 0, resource one area further. A joins as host 1, B as host
2. Then one client process of each takes the lease --count times in all: first
in turns, so that it changes hands every time, then competing for it. Whoever
holds it adds one to FILE, slowly and without any other lock. Two holders at
once lose an update, so at the end the counter must equal --count exactly.

Prints one JSON line; exit status 0 only if everything held.
"""

import argparse
import errno
import json
import multiprocessing
import os
import random
import statistics
import time

from sanlock_host import Client, LeaseError, wait_until

LOCKSPACE, RESOURCE = b"MIXED", b"counter"
HOST_LIVE = 3
HOST_A, HOST_B = 1, 2
# Refusals that end by themselves: owner alive, ballot lost, commit lost, owner
# undecided, and EAGAIN (a release of it is still on its way to the disk).
TRY_AGAIN = {-243, -244, -245, -247, errno.EAGAIN}
PAUSE = (0.005, 0.030)  # seconds between attempts, at random
HELD = (0.001, 0.010)   # seconds between reading and writing the counter
MIB = 1 << 20


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--a", required=True, metavar="RUN_DIR")
    parser.add_argument("--b", required=True, metavar="RUN_DIR")
    parser.add_argument("--device", required=True)
    parser.add_argument("--counter", required=True, metavar="FILE", help="created anew")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--sector", type=int, default=512)
    parser.add_argument("--align", type=int, help="bytes; default 1 MiB for 512, 8 MiB for 4096")
    parser.add_argument("--io-timeout", type=int, default=2)
    parser.add_argument("--within", type=float, default=900.0, help="seconds for all of it")
    chosen = parser.parse_args()
    if chosen.count < 4 or chosen.count % 4:
        parser.error("--count: a multiple of 4, for two clients and two halves")
    chosen.align = chosen.align or (MIB if chosen.sector == 512 else 8 * MIB)
    return chosen


def add_one(path):
    """Adds one to the counter; only the lease makes this safe. The new value."""
    with open(path, encoding="ascii") as file:
        value = int(file.read())
    time.sleep(random.uniform(*HELD))
    with open(path, "w", encoding="ascii") as file:
        file.write(str(value + 1))
    return value + 1


class Worker:
    """The body of one client process."""

    def __init__(self, run_dir, disks, counter):
        os.environ["SANLOCK_RUN_DIR"] = run_dir
        import sanlock  # here: libsanlock reads the run directory once per process

        self.sanlock = sanlock
        self.disks = disks
        self.counter = counter
        self.fd = sanlock.register()
        self.waits = []    # milliseconds from first attempt to lease held
        self.refused = {}  # code -> how often
        self.values = []   # the counter values this client wrote

    def acquire(self):
        """Tries until the lease is held."""
        began = time.monotonic()
        while True:
            try:
                self.sanlock.acquire(LOCKSPACE, RESOURCE, self.disks, slkfd=self.fd)
                break
            except self.sanlock.SanlockException as error:
                if error.errno not in TRY_AGAIN:
                    raise
                self.refused[error.errno] = self.refused.get(error.errno, 0) + 1
                time.sleep(random.uniform(*PAUSE))
        self.waits.append((time.monotonic() - began) * 1000)

    def once(self):
        """One acquisition, one increment, one release."""
        self.acquire()
        self.values.append(add_one(self.counter))
        self.sanlock.release(LOCKSPACE, RESOURCE, self.disks, slkfd=self.fd)


def work(result, run_dir, disks, counter, rounds, mine, theirs):
    """`rounds` acquisitions in turns, then as many competing; reports once."""
    try:
        worker = Worker(run_dir, disks, counter)
        for _ in range(rounds):
            mine.acquire()
            worker.once()
            theirs.release()
        for _ in range(rounds):
            worker.once()
            time.sleep(random.uniform(*PAUSE))  # or one client would do all of its own in a row
        result.send((worker.waits, worker.refused, worker.values))
    except Exception as error:
        result.send(f"{type(error).__name__}: {error}")


def prepare(chosen, a, b, disks):
    """Formats, joins both hosts, waits until they see each other renew."""
    size = {"align": chosen.align, "sector": chosen.sector}
    a.write_lockspace(LOCKSPACE, chosen.device, iotimeout=chosen.io_timeout, **size)
    a.write_resource(LOCKSPACE, RESOURCE, disks, **size)
    with open(chosen.counter, "w", encoding="ascii") as file:
        file.write("0")
    for client, host_id in ((a, HOST_A), (b, HOST_B)):
        client.add_lockspace(LOCKSPACE, host_id, chosen.device, iotimeout=chosen.io_timeout)

    def live(client, other):
        try:
            return client.get_hosts(LOCKSPACE, other)[0]["flags"] == HOST_LIVE
        except LeaseError as error:
            if error.code != errno.EAGAIN:
                raise
            return False

    wait_until("A and B see each other live",
               lambda: live(a, HOST_B) and live(b, HOST_A), within=10 * chosen.io_timeout + 20)


def contest(chosen, disks):
    """Runs both client processes to their end; what each reported."""
    context = multiprocessing.get_context("fork")
    turns = [context.Semaphore(1), context.Semaphore(0)]
    running = []
    for index, run_dir in enumerate((chosen.a, chosen.b)):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, daemon=True, args=(
            theirs, run_dir, disks, chosen.counter, chosen.count // 4,
            turns[index], turns[1 - index]))
        process.start()
        running.append((process, ours))
    end = time.monotonic() + chosen.within
    reports = []
    for process, ours in running:
        if not ours.poll(max(0.0, end - time.monotonic())):
            raise TimeoutError(f"not done within {chosen.within} s")
        report = ours.recv()
        assert not isinstance(report, str), report
        reports.append(report)
        process.join()
    return reports


def summary(chosen, reports, seconds, version):
    """The JSON line's content, after the assertions."""
    with open(chosen.counter, encoding="ascii") as file:
        counter = int(file.read())
    assert counter == chosen.count, f"counter: expected {chosen.count}, found {counter}"
    written = sorted(value for _, _, values in reports for value in values)
    assert written == list(range(1, chosen.count + 1)), "a value was written twice"
    assert version >= chosen.count, f"lver: expected {chosen.count} or more, found {version}"
    owner = {value: index for index, report in enumerate(reports) for value in report[2]}
    handovers = sum(owner[value] != owner[value + 1] for value in range(1, chosen.count))
    told = {"ok": True, "counter": counter, "lver": version, "handovers": handovers,
            "seconds": round(seconds, 1), "sector": chosen.sector}
    for name, (waits, refused, values) in zip("ab", reports):
        told[name] = {"acquired": len(values), "refused": refused,
                      "wait_ms_median": round(statistics.median(waits), 1),
                      "wait_ms_max": round(max(waits), 1)}
    return told


def main():
    chosen = options()
    disks = [(chosen.device, chosen.align)]
    a, b = Client(chosen.a), Client(chosen.b)
    try:
        prepare(chosen, a, b, disks)
        began = time.monotonic()
        reports = contest(chosen, disks)
        seconds = time.monotonic() - began
        size = {"align": chosen.align, "sector": chosen.sector}
        version = a.read_resource(chosen.device, chosen.align, **size)["version"]
        told = summary(chosen, reports, seconds, version)
        for client, host_id in ((a, HOST_A), (b, HOST_B)):
            client.rem_lockspace(LOCKSPACE, host_id, chosen.device)
    finally:
        a.close()
        b.close()
    print(json.dumps(told, sort_keys=True))


if __name__ == "__main__":
    main()
