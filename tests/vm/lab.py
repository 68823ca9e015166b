"""A few hosts on one lease disk and one disk of a virtual machine, and what scenarios want to know of them."""

import os
import subprocess
import time
from dataclasses import dataclass

from blocks import Disk, Path
from observer import Observer, Renewals
from qemu import Failed, Host, HostError
from timeline import NotSeen, Timeline

IO_TIMEOUT = 2
FIRE_TIMEOUT = 10
WDMD_FIRE_TIMEOUT = 60  # it has no other
RENEWAL_FAIL = 8 * IO_TIMEOUT  # id_renewal_fail: D2
HOST_DEAD = RENEWAL_FAIL + FIRE_TIMEOUT
MIB = 1 << 20
SPACE = "LS"
LEASES, GUESTS = "/dev/vda", "/dev/vdb"
RESOURCES = ("one", "two")


class Unexpected(Exception):
    """Something did not happen as it should."""


class Node(Host):
    """A host that runs the product."""

    def __init__(self, lab, number, disks, **more):
        self.lab = lab
        directory = os.path.join(lab.directory, f"h{number}")
        paths = [Path(disk, f"h{number}", os.path.join(lab.directory, f"h{number}.{disk.name}")) for disk in disks]
        super().__init__(f"h{number}", number, lab.tools, lab.image, directory, lab.timeline, paths, **more)

    def leases(self):
        """Its way to the lease disk."""
        return self.paths[0]

    def guests(self):
        """Its way to the disk of the virtual machine."""
        return self.paths[1]

    def start_daemon(self, options="", fire_timeout=FIRE_TIMEOUT, io_timeout=IO_TIMEOUT):
        """Starts the daemon, joins the lockspace, and says when it has."""
        begun = time.monotonic()
        self.run("mkdir -p /run/sanlock")
        if self.lab.fire_timeout == WDMD_FIRE_TIMEOUT:
            self.start_wdmd()
        pid = self.serve("daemon", self.daemon_command(options, fire_timeout, io_timeout))
        said = self.timeline.wait(self.name, "daemon", "ready|^ended", 60, begun)
        if "ready" not in said.text:
            raise Unexpected(f"{self.name}: the daemon {said.text}")
        return pid

    def start_wdmd(self):
        """wdmd has the watchdog of its host from now on."""
        self.serve("wdmd", "wdmd -D -G root")
        self.run("until [ -S /run/wdmd/wdmd.sock ]; do sleep 0.1; done", 30)

    def daemon_command(self, options="", fire_timeout=FIRE_TIMEOUT, io_timeout=IO_TIMEOUT):
        """With whatever defence this run is without."""
        sabotage = self.lab.sabotage
        options = f"{options} {sabotage.options if sabotage else ''}"
        ours = f"--watchdog /dev/watchdog0 --fire-timeout {fire_timeout}"
        watchdog = ours if self.lab.fire_timeout == FIRE_TIMEOUT else "--watchdog wdmd"
        watchdog = "" if "--watchdog" in options else watchdog
        bug = f"env HOLDFAST_PLANTED={sabotage.bug} " if sabotage and sabotage.bug else ""
        return f"{bug}holdfast daemon -e {self.name} -o {io_timeout} {watchdog} {options}"

    def signal_daemon(self, name):
        """STOP, CONT or KILL."""
        sent = self.say("fault", f"its daemon gets SIG{name}")
        self.run(f"kill -{name} $(pidof holdfast)")
        if name == "KILL":
            self.timeline.wait(self.name, "daemon", "^ended", 60, sent.at)
        return sent

    def join(self, within=120):
        self.run(f"holdfast lockspace add {SPACE}:{self.number}:{LEASES}:0", within)
        self.say("lockspace", "joined")

    def guest(self, resource="one", options="", before="", lease=None):
        """Starts a guarded program, which waits for its lease; its pid."""
        place = RESOURCES.index(resource) + 1
        lease = lease or f"{SPACE}:{resource}:{LEASES}:{place * MIB}"
        program = f"vm-guest guarded --lease {lease} --disk {GUESTS} --block {place - 1} --host {self.number} {options}"
        return self.serve("guest", f"sh -c '{before}exec {program}'")

    def wait_guest(self, within, since=0.0):
        return self.timeline.wait(self.name, "guest", "^acquired", within, since)

    def wait_reset(self, within, since=0.0):
        """The event of its watchdog."""
        return self.timeline.wait(self.name, "monitor", "^WATCHDOG", within, since)

    def was_reset(self, since=0.0):
        """The event, or None."""
        return self.timeline.find(self.name, "monitor", "^(WATCHDOG|RESET)", since)

    def guest_ended(self, since=0.0):
        """The event, or None."""
        return self.timeline.find(self.name, "guest", "^ended", since)


@dataclass(frozen=True)
class Sabotage:
    """A defence that is off: by a bug of io/src/planted.rs, or by options of the daemon; and how a scenario must then fail."""

    what: str
    fails: str
    bug: str = ""
    options: str = ""


class Lab:
    """`with Lab(...) as lab:` - all that was started ends with it."""

    def __init__(self, name, tools, image, holdfast, directory, sector=512, sabotage=None):
        self.name, self.tools, self.image, self.holdfast = name, tools, image, holdfast
        self.directory = directory
        self.timeline = Timeline()
        self.nodes, self.results, self.spans = [], [], []
        self.sector, self.sabotage = sector, sabotage
        self.fire_timeout = FIRE_TIMEOUT
        self.lease_disk = Disk("leases", os.path.join(directory, "leases.raw"), 8 * MIB, sector)
        self.guest_disk = Disk("guests", os.path.join(directory, "guests.raw"), 1 * MIB, sector)
        self.disks = [self.lease_disk, self.guest_disk]
        self.closing = []  # what else ends with it
        self.format(self.lease_disk)
        self.renewals = Renewals(self.lease_disk)
        self.observer = Observer(self.guest_disk)

    def format(self, disk):
        self.here("init", "-Z", str(self.sector), "-A", "1M", "-o", str(IO_TIMEOUT), "-s", f"{SPACE}:0:{disk.file}:0")
        for at, resource in enumerate(RESOURCES, 1):
            self.here("init", "-Z", str(self.sector), "-A", "1M", "-r", f"{SPACE}:{resource}:{disk.file}:{at * MIB}")

    def here(self, *words, name="holdfast"):
        """The product, on this machine, under one of its names; what it says."""
        done = subprocess.run([name, *words], executable=self.holdfast, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{name} {' '.join(words)}: status {done.returncode}: {done.stderr}")
        return done.stdout

    def add_disk(self, name, size=2 * MIB):
        """One more for every host that is booted from now on, behind those that there are: /dev/vdc and so on."""
        self.disks.append(Disk(name, os.path.join(self.directory, f"{name}.raw"), size, self.sector))
        return self.disks[-1]

    def boot(self, count, kinds=(), **more):
        """So many hosts, switched on at once; of these kinds, or of ours."""
        kinds = kinds or [Node] * count
        nodes = [kind(self, len(self.nodes) + n, self.disks, **more) for n, kind in enumerate(kinds, 1)]
        self.nodes += nodes
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_up()
        return nodes

    def expect_true_clocks(self):
        """What is expected of hosts is in seconds, so theirs must be ours; none of them has stood still."""
        for node in self.nodes:
            up = self.timeline.wait(node.name, "agent", "^up", 0)
            said, real = float(node.run("cat /proc/uptime").split()[0]), time.monotonic() - up.at
            theirs = said - float(up.text.split()[-2])
            if abs(theirs - real) > 0.5 + real / 50:
                raise HostError(f"{node.name}: its clock counts {theirs:.2f} s in {real:.2f} s")

    def cluster(self, count, options=""):
        """So many hosts that have joined."""
        nodes = self.boot(count)
        for node in nodes:
            node.start_daemon(options)
        joins = [(node, node.begin(f"holdfast lockspace add {SPACE}:{node.number}:{LEASES}:0")) for node in nodes]
        for node, begun in joins:
            status, output = node.finish(begun, 120)
            if status != 0:
                raise Failed(f"{node.name} did not join: {output}")
            node.say("lockspace", "joined")
        self.expect_true_clocks()
        return nodes

    def owner_and_heir(self, guest="", daemon=""):
        """Two hosts: on one runs the guest, on the other one waits for its lease."""
        owner, heir = self.cluster(2, daemon)
        owner.guest(options=guest)
        owner.wait_guest(60)
        self.wait_for(lambda: self.observer.first_by(owner.name), 60, "the owner writes")
        heir.guest()
        return owner, heir

    def wait_for(self, condition, within, what):
        """Its first value that is true."""
        until = time.monotonic() + within
        while not (value := condition()):
            if time.monotonic() > until:
                raise NotSeen(f"not within {within:g} s: {what}")
            time.sleep(0.02)
        return value

    def host_dead(self):
        """What the hosts promise: seconds from a host's last renewal to its end."""
        return RENEWAL_FAIL + self.fire_timeout

    def computed(self):
        """D1's silence: with a tick of the watchdog's, and twice the drift bound."""
        return (self.host_dead() + 1) * 1.001

    # What is expected.

    def expect(self, holds, what):
        self.timeline.add("harness", "check", f"{'holds' if holds else 'FAILS'}: {what}")
        if not holds:
            raise Unexpected(what)

    def margin(self, what, seconds):
        """Something to be listed, that may not be negative."""
        self.results.append((what, seconds))
        self.expect(seconds >= 0, f"{what}: {seconds:.3f} s")

    def measured(self, what, seconds):
        """Something to be listed."""
        self.results.append((what, seconds))

    def expect_one_owner_at_a_time(self, late=0):
        """S1, and no more late writes than the scenario makes."""
        owners = self.observer.two_owners()
        self.expect(not owners, f"no two owners at once {[str(o) for o in owners[:3]]}")
        found = self.observer.late()
        self.expect(len(found) == late, f"{late} late writes, found {[str(o) for o in found[:3]]}")

    def guarded(self, node, begin, until, what, colour="#8fbc8f"):
        """Something to be drawn into a host's lane."""
        self.spans.append((node.name, begin, until, colour, what))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.end()
        for node in self.nodes:
            for path in node.paths:
                path.close()
        for thing in [*self.disks, *self.closing]:
            thing.close()
