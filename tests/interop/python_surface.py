#!/usr/bin/python3
"""Walks the whole python3-sanlock binding against the real daemon and ours, and compares entry by entry.

    python_surface.py --holdfast PROGRAM [--only WORD] [--show]

The binding is the unmodified one. Each call is made on both sides, on areas with equal bytes: its
result, or its exception with errno and arguments, must be equal, but for the differences that
transcripts/differences.py names; one that is named and not found is an error as well. So is a
function, an argument or a constant of the module that is not walked. Exit status 0 only if all agrees.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "transcripts"))

import surface  # noqa: E402
from differences import BINDING  # noqa: E402
from sanlock_host import Client, Daemon, Ours  # noqa: E402
from stage import MIB, lay_out  # noqa: E402
from surface.hosts import DEAD_EX, DEAD_ID, DEAD_SH  # noqa: E402
from surface.walk import Walk  # noqa: E402

SIDES = ("real", "ours")
CONSTANTS = {
    "LSFLAG_ADD": 1, "LSFLAG_REM": 2, "REQ_FORCE": 1, "REQ_GRACEFUL": 2, "RES_LVER": 1, "RES_SHARED": 4,
    "HOST_UNKNOWN": 1, "HOST_FREE": 2, "HOST_LIVE": 3, "HOST_FAIL": 4, "HOST_DEAD": 5,
    "SETEV_CUR_GENERATION": 1, "SETEV_CLEAR_HOSTID": 2, "SETEV_CLEAR_EVENT": 4, "SETEV_REPLACE_EVENT": 8,
    "SETEV_ALL_HOSTS": 16, "SECTOR_SIZE": (512, 4096), "ALIGN_SIZE": (MIB, 2 * MIB, 4 * MIB, 8 * MIB),
}


def prepare(work):
    """The areas: those of the client scripts, and more."""
    areas = os.path.join(work, "areas")
    os.makedirs(areas)
    lay_out(areas)
    for name, size in (("large", 64 * MIB), ("own", MIB), ("copy0", MIB), ("copy1", MIB), ("copy2", MIB), ("short", 1000), ("colon:file", MIB), ("back\\slash", MIB), ("space file", MIB)):
        with open(os.path.join(areas, name), "wb") as file:
            file.truncate(size)
    return areas


def with_a_dead_host(areas, work):
    """The same after a host was killed that held leases."""
    crashed = os.path.join(work, "crashed")
    subprocess.run(["cp", "-r", "--sparse=always", areas, crashed], check=True)
    daemon = Daemon(os.path.join(work, "run-dead"), "dead")
    client = Client(daemon.run_dir)
    try:
        client.add_lockspace(b"LS", DEAD_ID, os.path.join(crashed, "space"), iotimeout=1)
        fd = client.register()
        for number, shared in ((DEAD_EX, False), (DEAD_SH, True)):
            disks = [(os.path.join(crashed, "leases"), number * MIB)]
            client.acquire(b"LS", b"r%d" % number, disks, slkfd=fd, shared=shared)
    finally:
        daemon.kill()
        client.close()
    return crashed


def walk_set(title, directory, areas, starters):
    """{section: entries} of one set on one side, and the calls that were made."""
    walk, told = Walk(directory, areas, starters), {}
    try:
        for name, section in surface.SETS[title].items():
            walk.entries = told[name] = []
            section(walk)
    except Exception as error:  # told with what came before; the rest of the set is missing then
        walk.entries.append(f"!! {type(error).__name__}: {error}")
    finally:
        walk.end()
    return told, walk.calls


def starters(side, program):
    """How the hosts of a side are started in a run directory: the one that is walked, and another."""
    real = {name: lambda run_dir, name=name: Daemon(run_dir, name) for name in ("host", "other")}
    return real if side == "real" else {**real, "host": lambda run_dir: Ours(program, run_dir)}


def walk_all(chosen, work):
    """{side: {section: entries}}, the calls and the seconds; each set on each side is a process, for most is waiting."""
    areas = prepare(work)
    context = multiprocessing.get_context("fork")
    results, started = context.Queue(), []

    def perform(side, title, of):
        began = time.monotonic()
        told, calls = walk_set(title, os.path.join(work, side, title), of, starters(side, chosen.holdfast))
        results.put((side, told, calls, f"{title}/{side}", round(time.monotonic() - began, 1)))

    titles = [title for title in surface.SETS if chosen.only in title]
    # What needs preparation begins after what does not.
    for title in sorted(titles, key=lambda title: title == "hosts"):
        of = with_a_dead_host(areas, work) if title == "hosts" else areas
        for side in SIDES:
            started.append(context.Process(target=perform, args=(side, title, of)))
            started[-1].start()
    entries, calls, seconds = {side: {} for side in SIDES}, [], {}
    for _ in started:
        side, told, made, which, took = results.get()
        entries[side].update(told)
        # What was walked is counted where it is ours.
        calls += made if side == "ours" else []
        seconds[which] = took
    for process in started:
        process.join()
    return entries, calls, seconds


def judge(entries, show):
    """Prints each disagreement; how many there are."""
    bad = 0
    real, ours = entries["real"], entries["ours"]
    for name in sorted(real.keys() | ours.keys()):
        theirs, mine = real.get(name, []), ours.get(name, [])
        pairs = itertools.zip_longest(theirs, mine, fillvalue="nothing")
        different = [(first, second) for first, second in pairs if first != second]
        broken = any(entry.startswith("!!") for entry in theirs + mine)
        named = BINDING.get(name)
        verdict = ("BROKEN" if broken else "DIFFERS" if different and not named
                   else "EQUAL, though named" if named and not different else "")
        bad += bool(verdict)
        if verdict or show:
            print(f"--- {name} {verdict or named or ''}")
            for first, second in different or [(entry, entry) for entry in theirs if entry.startswith("!!")]:
                print(f"sanlock  {first}\nholdfast {second}")
            if show:
                print("\n".join(theirs))
    return bad


def parameters(function):
    """The parameters of a function of the module, as its docstring has them; all of its calls are in that form."""
    inside = re.search(rf"{function.__name__}\(([^)]*)\)", function.__doc__).group(1)
    return [part.split("=")[0].strip(" []\n") for part in inside.split(",") if part.strip(" []\n")]


def not_walked(calls):
    """What the module has and the walk does not: functions, arguments, constants."""
    import sanlock  # here: no client may be forked after it

    missing = []
    names = [name for name in dir(sanlock) if not name.startswith("_")]
    functions = {name: getattr(sanlock, name) for name in names if callable(getattr(sanlock, name))}
    exception = functions.pop("SanlockException")
    for name, function in functions.items():
        made = [call for call in calls if call[0] == name]
        given = {key for _, count, keys, _ in made for key in [*parameters(function)[:count], *keys]}
        missing += [f"{name}: {key}" for key in parameters(function) if key not in given]
        missing += [f"{name}: {kind}" for kind in ("ok", "raised") if not any(call[3] == kind for call in made)]
    values = {name: getattr(sanlock, name) for name in names if name not in functions and name != exception.__name__}
    missing += [f"constant {name} is {values.get(name)}" for name in sorted(values.keys() | CONSTANTS.keys())
                if CONSTANTS.get(name) != values.get(name)]
    return missing


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--holdfast", required=True, type=os.path.abspath)
    parser.add_argument("--only", default="", help="only sets with this word in their titles")
    parser.add_argument("--show", action="store_true", help="show what was said, agreed or not")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="py") as work:
        entries, calls, seconds = walk_all(chosen, work)
    bad = judge(entries, chosen.show)
    missing = [] if chosen.only else not_walked(calls) + sorted(f"section {name}" for name in BINDING.keys() - entries["real"].keys())
    print(json.dumps({"ok": not bad and not missing, "entries": sum(len(each) for each in entries["real"].values()),
                      "calls": len(calls), "disagree": bad, "not_walked": missing, "differences": len(BINDING),
                      "seconds": seconds}))
    return 1 if bad or missing else 0


if __name__ == "__main__":
    sys.exit(main())
