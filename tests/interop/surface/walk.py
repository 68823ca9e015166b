"""A walk: the daemons of one side, their areas and clients, and every call with what came of it.

Two sides agree where their entries are equal. An entry holds a call, its
arguments, and its result or the exception with its errno and arguments; what
is only this run's own has a name in it instead of its value: pids, file
descriptors, times and the directory of the side.
"""

import os
import re
import subprocess
import time

from sanlock_host import Client, wait_until

MIB = 1 << 20
SPACE, OTHER_SPACE = b"LS", b"OTHER"
PATIENCE = 150.0  # seconds; the longest call waits for a host to be dead, which is 68 s
PAUSE = 0.1
AGAIN = 2.0  # seconds
FDS = ("register", "reg_event")
LONG = re.compile(r"((.)\2{59})\2+")


class Named(int):
    """A number that no two runs have in common, and what it is called in the entries."""

    def __new__(cls, value, name):
        made = super().__new__(cls, value)
        made.name = name
        return made

    def __repr__(self):
        return f"<{self.name}>"


def plain(value):
    """The value as a client is to have it."""
    return int(value) if isinstance(value, Named) else value


def settled(value):
    """A result, without what differs from run to run: a time that is not 0."""
    if isinstance(value, list):
        return [settled(each) for each in value]
    if isinstance(value, dict):
        return {key: Named(each, "time") if key == "timestamp" and each else each for key, each in value.items()}
    return value


class Who:
    """A client process, by its name."""

    def __init__(self, walk, name, run_dir):
        self.walk, self.name = walk, name
        self.client = Client(run_dir)
        self.pid = Named(self.client.pid, f"pid of {name}")
        self.fds = 0

    def __getattr__(self, call):
        if call.startswith("_"):
            raise AttributeError(call)
        return lambda *arguments, **keywords: self.walk.ask(self, call, arguments, keywords)

    def close_fd(self, fd):
        self.walk.ask(self, "os.close", (fd,), {})

    def begin(self, call, *arguments, **keywords):
        """Makes a call that waits; `finish` tells what came of it."""
        self.begun = (call, arguments, keywords)
        self.client.pipe.send((call, [plain(each) for each in arguments],
                               {key: plain(each) for key, each in keywords.items()}))

    def answer(self):
        """What came of the call that was begun. A process that a daemon, or the binding itself, has ended says no more."""
        assert self.client.pipe.poll(PATIENCE), f"{self.name}.{self.begun[0]}: no answer"
        try:
            return self.client.pipe.recv()
        except EOFError:
            self.client.process.join()
            return "died", self.client.process.exitcode

    def finish(self):
        return self.walk.note(self, *self.begun, self.answer())

    def ended(self, meanwhile=lambda: None):
        """Waits until a daemon has ended the process; by which signal."""
        def is_so():
            self.client.process.join(AGAIN)
            if self.client.process.exitcode is None:
                meanwhile()
            return self.client.process.exitcode is not None

        wait_until(f"{self.name} has ended", is_so, PATIENCE)
        self.walk.add(f"{self.name} ended with {self.client.process.exitcode}")


class Walk:
    """Daemons, areas and clients of one side, and the entries of the section that is walked."""

    def __init__(self, directory, areas, starters):
        self.directory, self.starters = directory, starters
        os.makedirs(directory)
        for name in os.listdir(areas):
            self._copy(os.path.join(areas, name), os.path.join(directory, name))
        self.entries, self.calls, self.daemons, self.everyone = [], [], {}, []
        self.places = {directory: "DIR"}

    @staticmethod
    def _copy(old, new):
        # The areas are nearly all holes, and there is a copy for each walk.
        subprocess.run(["cp", "--sparse=always", old, new], check=True)

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self, host="host"):
        """`host` is the daemon that is walked, `other` always a real one."""
        self.daemons[host] = self.starters[host](self.path("run-" + host))

    def device(self, name, sector):
        """A loop device of a file, with this logical sector size: its path."""
        command = ["losetup", "-f", "--show", "-b", str(sector), self.path(name)]
        device = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
        self.places[device] = f"DEVICE{sector}"
        return device

    def kill(self, host="host"):
        self.daemons.pop(host).kill()

    def who(self, name, host="host"):
        """A new client process at a host."""
        self.everyone.append(Who(self, name, self.path("run-" + host)))
        return self.everyone[-1]

    def end(self):
        for each in self.everyone:
            each.client.close()
        for host in list(self.daemons):
            self.kill(host)
        for place in self.places:
            if place.startswith("/dev/"):
                subprocess.run(["losetup", "-d", place], check=False)

    def add(self, entry):
        for place, name in self.places.items():
            entry = entry.replace(place, name)
        self.entries.append(LONG.sub(lambda run: f"{run.group(2)}*{len(run.group())}", entry))

    def _outcome(self, who, call, arguments, keywords):
        who.begin(call, *arguments, **keywords)
        return who.answer()

    def ask(self, who, call, arguments, keywords):
        """One call: its entry, and its result or errno (None where it has none)."""
        return self.note(who, call, arguments, keywords, self._outcome(who, call, arguments, keywords))

    def note(self, who, call, arguments, keywords, outcome):
        shown = [repr(each) for each in arguments] + [f"{key}={each!r}" for key, each in keywords.items()]
        self.calls.append((call, len(arguments), sorted(keywords), outcome[0]))
        if outcome[0] == "ok":
            result = settled(outcome[1])
            if call in FDS:
                who.fds += 1
                result = Named(result, f"fd {who.fds} of {who.name}")
            told = repr(result)
        elif outcome[0] == "died":
            result, told = None, f"its process ended with {outcome[1]}"
        else:
            _, name, code, told = outcome
            result, told = code, f"{name} errno={code} {told!r}"
        self.add(f"{who.name}.{call}({', '.join(shown)}) -> {told}")
        return result

    def unsaid(self, who, call, *arguments, **keywords):
        """A call that is no entry."""
        self._outcome(who, call, arguments, keywords)

    def until(self, condition, who, call, *arguments, **keywords):
        """Makes the call until its outcome is as expected; that goes into the entries, and nothing of those before."""
        last = []

        def is_so():
            last[:] = [self._outcome(who, call, arguments, keywords)]
            if not condition(last[0]):
                time.sleep(PAUSE)
                return False
            return True

        try:
            wait_until(call, is_so, PATIENCE)
        finally:
            self.note(who, call, arguments, keywords, last[0])

    def refused_join(self, who, *arguments, **keywords):
        """A join that fails. Ours is answered before its lockspace has quite gone; until it has, another join of the name is
        none of this one's business."""
        who.add_lockspace(*arguments, **keywords)
        wait_until("nothing is left of a join", lambda: self._outcome(who, "get_lockspaces", (), {}) == ("ok", []), PATIENCE)

    def heard(self, who, fd, event):
        """Waits for the event. It is told with each renewal of its sender, so how often is chance; it is noted once."""
        def hit(outcome):
            found[:] = [told for told in outcome[1] if outcome[0] == "ok" and told["event"] == event]
            return bool(found)

        found = []
        wait_until(f"event {event}", lambda: hit(self._outcome(who, "get_event", (fd,), {})) or time.sleep(PAUSE), PATIENCE)
        self.note(who, "get_event", (fd,), {}, ("ok", found[:1]))

    def join(self, who, host_id, path=None):
        """Joins SPACE and waits until hosts are known."""
        path = path or self.path("space")
        who.add_lockspace(SPACE, host_id, path, iotimeout=1)
        self.until(lambda outcome: outcome[0] == "ok", who, "get_hosts", SPACE, host_id)

    def lease(self, number, name=None):
        """(lockspace, resource, disks) of a lease of the area `leases`."""
        return SPACE, name or b"r%d" % number, [(self.path("leases"), number * MIB)]
