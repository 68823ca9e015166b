#!/usr/bin/python3
"""Two daemons of different programs tell each other events, through the unmodified binding.

    mixed_events.py --a RUN_DIR --b RUN_DIR --device PATH

Both join one lockspace, a as host 1 and b as host 2. Each tells the other an event, and
hears the other's: at least once, and nothing else. Prints a JSON object; exit status 0 only
if all went so.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import time

SPACE, IO_TIMEOUT, WITHIN = b"EVENTS", 1, 60.0


def of_daemon(run_dir, what, *arguments):
    """Does one thing at a daemon, in a process of its own: the binding reads the run directory once."""
    command = [sys.executable, __file__, "--at", what, *map(str, arguments)]
    return subprocess.Popen(command, env=dict(os.environ, SANLOCK_RUN_DIR=run_dir), stdout=subprocess.PIPE, text=True)


def at_daemon(what, path, host_id, *rest):
    import sanlock

    host_id = int(host_id)
    if what == "join":
        sanlock.add_lockspace(SPACE, host_id, path, 0, iotimeout=IO_TIMEOUT)
    elif what == "tell":
        to, event, data = map(int, rest)
        sanlock.set_event(SPACE, to, 0, event, data, sanlock.SETEV_CUR_GENERATION)
    elif what == "hear":
        fd = sanlock.reg_event(SPACE)
        print("listening", flush=True)
        heard, end = [], time.monotonic() + WITHIN
        # As many as come while the sender renews three times.
        while time.monotonic() < end:
            if heard and not select.select([fd], [], [], 8 * IO_TIMEOUT)[0]:
                break
            if select.select([fd], [], [], 0.2)[0]:
                heard.extend(sanlock.get_event(fd))
        sanlock.end_event(fd, SPACE)
        print(json.dumps(heard), flush=True)
    elif what == "leave":
        sanlock.rem_lockspace(SPACE, host_id, path, 0)


def done(process):
    out, _ = process.communicate(timeout=3 * WITHIN)
    assert process.returncode == 0, out
    return out


def sees(run_dir, path, other):
    """Whether a daemon knows the generation of another host."""
    probe = f"import sanlock; print([h['generation'] for h in sanlock.get_hosts({SPACE!r}, {other})])"
    asked = subprocess.run([sys.executable, "-c", probe], env=dict(os.environ, SANLOCK_RUN_DIR=run_dir),
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return asked.returncode == 0 and asked.stdout.strip() not in ("[]", "[0]", "")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--a", "--b", "--device"):
        parser.add_argument(name)
    parser.add_argument("--at", nargs=argparse.REMAINDER)
    chosen = parser.parse_args()
    if chosen.at:
        return at_daemon(*chosen.at)

    probe = f"import sanlock; sanlock.write_lockspace({SPACE!r}, {chosen.device!r}, 0, iotimeout={IO_TIMEOUT})"
    subprocess.run([sys.executable, "-c", probe], env=dict(os.environ, SANLOCK_RUN_DIR=chosen.a), check=True)
    sides = [(chosen.a, 1, 2, 5), (chosen.b, 2, 1, 6)]
    for process in [of_daemon(run_dir, "join", chosen.device, own) for run_dir, own, _, _ in sides]:
        done(process)
    for run_dir, _, other, _ in sides:
        end = time.monotonic() + WITHIN
        while not sees(run_dir, chosen.device, other):
            assert time.monotonic() < end, "they never see each other"
            time.sleep(0.2)
    listeners = [of_daemon(run_dir, "hear", chosen.device, own) for run_dir, own, _, _ in sides]
    for listener in listeners:
        assert listener.stdout.readline() == "listening\n"
    for run_dir, own, other, event in sides:
        done(of_daemon(run_dir, "tell", chosen.device, own, other, event, 70 + own))
    heard = [json.loads(done(listener)) for listener in listeners]
    for (_, own, other, _), events in zip(sides, heard):
        wanted = {"from_host_id": other, "from_generation": 1, "host_id": own, "generation": 1,
                  "event": sides[other - 1][3], "data": 70 + other}
        assert events and all(event == wanted for event in events), (wanted, events)
    for run_dir, own, _, _ in sides:
        done(of_daemon(run_dir, "leave", chosen.device, own))
    print(json.dumps({"ok": True, "heard": [len(events) for events in heard]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
