"""What must hold when libvirt guards its domains with the lease manager: one function a scene.

The expectations are what libvirt does with real sanlock: `run --real` plays the same scenes on it. A scene makes its own
domains, on a resource of its own, and they are gone at its end, so scenes can be played in any order.
"""

import contextlib
import os
import signal
import time

from host import (DISKS, IO_TIMEOUT, Domain, LeaseManager, Process, Storage, Unexpected, disk_device, expect, lease_device,
                  wait_until)

IN_USE = "Failed to acquire lock: File exists"  # by a domain of this host
OTHER_HOST = "Failed to acquire lock: Lease is held by another host"
SCENES = []


def scene(function):
    SCENES.append(function)
    return function


class Stage:
    """What the scenes share: the host, and another one on the same storage."""

    def __init__(self, directory, manager, libvirt, events, storages, resources):
        self.directory, self.manager, self.libvirt, self.events = directory, manager, libvirt, events
        self.leases, self.disk_leases = storages
        self.unused = iter(resources)
        self.other = None
        self.spaces = 0

    @contextlib.contextmanager
    def cast(self, *domains):
        """Domains that exist for the length of a scene."""
        try:
            yield [domain.define(self.directory) for domain in domains]
        finally:
            for domain in domains:
                domain.forget()

    def pair(self, name):
        """A lease, and two domains that want it; their disks differ, or QEMU itself would keep them apart."""
        lease = next(self.unused)
        return lease, *(Domain(f"{name}-{which}", self.libvirt.disk(f"{name}-{which}"), lease=lease) for which in "ab")

    def start_libvirt(self):
        self.libvirt.start()
        self.events.listen()

    def new_space(self, names):
        """A joined lockspace on a storage of its own, which may be lost."""
        self.spaces += 1
        space = f"LOST{self.spaces}"
        storage = Storage(self.directory, f"storage-{self.spaces}")
        resources = storage.format(space, names)
        self.manager.join(1, space, storage.area)
        return space, storage, resources

    def holds(self, resource, domain, version):
        """Everybody agrees that the domain's QEMU, and nobody else, holds the resource."""
        wanted = (resource.space, resource.name, version, domain.pid(), domain.name)
        for source, found in self.sources():
            expect(f"{source}'s line of {resource.name}", {one for one in found if one[:2] == wanted[:2]}, {wanted})
        expect(f"the owner of {resource.name} on disk", resource.owner(), 1)
        expect(f"the version of {resource.name} on disk", resource.lver(), int(version))

    def free(self, resource):
        """Nobody says that it is held, and the disk says that it is not: soon, for what dies releases by the way."""
        wait_until(f"{resource.name} is free on disk", lambda: resource.owner() is None)
        for source, ask in self.sources_to_ask():
            wait_until(f"{resource.name} is in no line of {source}", lambda ask=ask: all(
                name != resource.name for _, name, *_ in ask()))

    def holders(self, resource):
        """{(pid, name): version or SH}, on which all sources must agree."""
        shown = [{(pid, name): version for _, found_name, version, pid, name in found if found_name == resource.name}
                 for _, found in self.sources()]
        for other in shown[1:]:
            expect(f"the holders of {resource.name} by all tools", other, shown[0])
        return shown[0]

    def sources_to_ask(self):
        """Who can be asked for leases."""
        yield "sanlock client status", self.manager.leases
        if not self.manager.real:
            yield "holdfast status --json", self.manager.leases_by_holdfast
            yield "holdfast status", self.manager.rows_by_holdfast

    def sources(self):
        """What they say now."""
        return [(source, ask()) for source, ask in self.sources_to_ask()]

    def foreign(self):
        """Another host, with real sanlock, in both lockspaces; as long as the host is up."""
        if not self.other:
            self.other = LeaseManager(True, "host2", os.path.join(self.directory, "other.log"),
                                      os.path.join(self.directory, "other"))
            self.other.join(2, "VMS", self.leases.area)
            self.other.join(2, DISKS, os.path.join(self.libvirt.disk_leases, DISKS))
        return self.other

    @contextlib.contextmanager
    def held_by_foreign(self, resource):
        """A process of the other host holds a resource."""
        other = self.foreign()
        text = f"{resource.space}:{resource.name}:{resource.path}:{resource.offset}"
        program = Process(["sanlock", "client", "command", "-r", text, "-c", "/bin/sleep", "100000"],
                          os.path.join(self.directory, "command.log"), other.environment)
        try:
            wait_until(f"the other host holds {resource.name}", lambda: resource.owner() == 2)
            yield
        finally:
            program.end()
        wait_until(f"the other host has released {resource.name}", lambda: resource.owner() is None)


def boot_time():
    """The clock of both lease managers."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def refused(domain, action, why, state, *arguments):
    """The action fails with what libvirt says with real sanlock, and the domain is as it was."""
    said = domain.do(action, *arguments, fails=True)
    if why not in said:
        raise Unexpected(f"{action} of {domain.name}: expected {why!r}, found {said!r}")
    expect(f"{domain.name} after the refused {action}", domain.state(), state)


@scene
def the_plugin_joins_its_lockspace_by_itself(stage):
    expect(f"{DISKS} in the status", stage.manager.spaces().get(DISKS), 1)


@scene
def a_domain_holds_its_lease_by_qemus_pid_and_its_own_name(stage):
    lease, domain, _ = stage.pair("lease")
    with stage.cast(domain):
        domain.do("start")
        expect("the domain", domain.state(), "running")
        stage.holds(lease, domain, "1")
        domain.do("destroy")
        stage.free(lease)


@scene
def a_second_start_is_refused(stage):
    lease, first, second = stage.pair("second")
    with stage.cast(first, second):
        first.do("start")
        refused(second, "start", IN_USE, "shut off")
        stage.holds(lease, first, "1")
        expect("the first domain", first.state(), "running")
        expect("holders by name", {name for _, _, _, _, name in stage.manager.leases()}, {first.name})


@scene
def suspend_releases_and_resume_acquires_again(stage):
    lease, domain, _ = stage.pair("suspend")
    with stage.cast(domain):
        domain.do("start")
        domain.do("suspend")
        stage.free(lease)
        expect("the suspended domain", domain.state(), "paused")
        domain.do("resume")
        stage.holds(lease, domain, "2")
        expect("the resumed domain", domain.state(), "running")


@scene
def another_domain_takes_over_from_a_suspended_one_whose_resume_is_refused(stage):
    lease, first, second = stage.pair("over")
    with stage.cast(first, second):
        first.do("start")
        first.do("suspend")
        second.do("start")
        stage.holds(lease, second, "2")
        refused(first, "resume", IN_USE, "paused")
        stage.holds(lease, second, "2")
        second.do("destroy")
        stage.free(lease)
        first.do("resume")
        stage.holds(lease, first, "3")


@scene
def destroy_releases_and_so_does_the_death_of_qemu(stage):
    lease, domain, _ = stage.pair("death")
    with stage.cast(domain):
        for end in (lambda: domain.do("destroy"), lambda: os.kill(domain.pid(), signal.SIGKILL)):
            domain.do("start")
            expect("the owner on disk", lease.owner(), 1)
            end()
            stage.free(lease)
            wait_until("the domain is shut off", lambda: domain.state() == "shut off")


@scene
def save_releases_and_restore_acquires_again(stage):
    lease, domain, _ = stage.pair("save")
    with stage.cast(domain):
        domain.do("start")
        domain.do("managedsave")
        stage.free(lease)
        domain.do("start")
        expect("the restored domain", domain.state(), "running")
        stage.holds(lease, domain, "2")


@scene
def leases_outlive_libvirtd(stage):
    lease, domain, _ = stage.pair("outlive")
    with stage.cast(domain):
        domain.do("start")
        before = domain.pid()
        stage.libvirt.process.end(signal.SIGKILL)
        try:
            stage.holds(lease, domain, "1")
        finally:
            stage.start_libvirt()
        expect("the domain's QEMU", domain.pid(), before)
        stage.holds(lease, domain, "1")
        domain.do("suspend")
        stage.free(lease)
        domain.do("resume")
        stage.holds(lease, domain, "2")


@scene
def what_is_attached_to_a_running_domain_is_leased_too(stage):
    lease, domain, _ = stage.pair("attach")
    disk = stage.libvirt.disk("attached")
    bare = Domain("attach", stage.libvirt.disk("attach"))
    with stage.cast(bare, domain):
        bare.do("start")
        with bare.device(disk_device(disk, target="vdb")) as device:
            bare.do("attach-device", device)
        stage.holds(stage.libvirt.disk_lease(disk), bare, "1")
        with bare.device(lease_device(lease)) as device:
            bare.do("attach-device", device)
            stage.holds(lease, bare, "1")
            refused(domain, "start", IN_USE, "shut off")
            bare.do("detach-device", device)
            stage.free(lease)
            domain.do("start")
            stage.holds(lease, domain, "2")
            refused(bare, "attach-device", IN_USE, "running", device)


@scene
def a_lease_of_another_host_is_refused(stage):
    lease, domain, _ = stage.pair("foreign")
    with stage.cast(domain):
        with stage.held_by_foreign(lease):
            refused(domain, "start", OTHER_HOST, "shut off")
            expect("the owner on disk", lease.owner(), 2)
        domain.do("start")
        stage.holds(lease, domain, "2")


@scene
def a_disk_is_leased_by_itself_under_the_md5_of_its_path(stage):
    domain = Domain("auto", stage.libvirt.disk("auto"))
    with stage.cast(domain):
        domain.do("start")
        lease = stage.libvirt.disk_lease(stage.libvirt.disk("auto"))
        stage.holds(lease, domain, "1")
        domain.do("suspend")
        stage.free(lease)
        domain.do("resume")
        stage.holds(lease, domain, "2")
        domain.do("destroy")
        stage.free(lease)
        with stage.held_by_foreign(lease):
            refused(domain, "start", OTHER_HOST, "shut off")


@scene
def a_shareable_disk_is_held_by_two_domains_in_shared_mode(stage):
    disk = stage.libvirt.disk("shared")
    first, second = (Domain(f"shared-{which}", disk, access="<shareable/>") for which in "ab")
    lease = stage.libvirt.disk_lease(disk)
    with stage.cast(first, second):
        first.do("start")
        second.do("start")
        both = {(one.pid(), one.name): "SH" for one in (first, second)}
        expect("the holders", stage.holders(lease), both)
        expect("the hosts that share it on disk", [host["host_id"] for host in lease.on_disk()["shared"]], [1])
        first.do("destroy")
        wait_until("one of them holds it", lambda: stage.holders(lease) == {(second.pid(), second.name): "SH"})
        expect("the hosts that share it on disk", [host["host_id"] for host in lease.on_disk()["shared"]], [1])
        second.do("suspend")
        expect("the holders", stage.holders(lease), {})
        wait_until("nobody shares it on disk", lambda: not lease.on_disk()["shared"])


@scene
def a_readonly_disk_takes_no_lease(stage):
    disk = stage.libvirt.disk("readonly")
    domain = Domain("readonly", disk, access="<readonly/>")
    with stage.cast(domain):
        domain.do("start")
        expect("the domain", domain.state(), "running")
        expect("leases of its QEMU", [one for _, found in stage.sources() for one in found if one[3] == domain.pid()], [])
        expect("a lease was made for its disk", os.path.exists(stage.libvirt.disk_lease(disk).path), False)


# What ends a domain's run, as libvirt reports it.
ENDED = ("Stopped", "Suspended")
TERMINATED = ["Shutdown Finished after host request", "Stopped Shutdown"]  # SIGTERM to QEMU
DESTROYED = ["Stopped Destroyed"]  # by a call of libvirt's, which nobody makes but its helper
PAUSED = ["Suspended Paused"]  # likewise
KILLED = "Stopped Failed"  # SIGKILL to QEMU


@contextlib.contextmanager
def lost(stage, storage, space):
    """Renewals of a lockspace do not get through, until the end; gives from when and until when that must be dealt with."""
    storage.lose()
    try:
        wait_until("renewals are overdue", lambda: boot_time() > stage.manager.renewed(space) + 3 * IO_TIMEOUT)
        begin = stage.manager.renewed(space) + 8 * IO_TIMEOUT
        yield begin, begin + stage.manager.grace()
    finally:
        storage.find()


def ends_in_time(stage, domain, wanted, schedule):
    """The domain runs until its lease is lost, and then ends as it should, before force would be used."""
    begin, by_force = schedule
    wait_until(f"{domain.name} ends", lambda: stage.events.of(domain)[-1].startswith(ENDED))
    now = boot_time()
    expect(f"the end of {domain.name}", stage.events.of(domain)[-len(wanted):], wanted)
    if not begin <= now < by_force:
        raise Unexpected(f"the end of {domain.name}: expected from {begin} and before {by_force}, found {now:.1f}")


@scene
def on_lockfailure_decides_what_becomes_of_a_domain_whose_lease_is_lost(stage):
    space, storage, (plain, off, pause) = stage.new_space(["plain", "poweroff", "pause"])
    killed = Domain("lost-plain", lease=plain)
    powered_off = Domain("lost-poweroff", lease=off, on_lockfailure="poweroff")
    paused = Domain("lost-pause", lease=pause, on_lockfailure="pause")
    with stage.cast(killed, powered_off, paused) as domains:
        for domain in domains:
            domain.do("start")
        stage.holds(pause, paused, "1")
        with lost(stage, storage, space) as schedule:
            ends_in_time(stage, killed, TERMINATED, schedule)
            ends_in_time(stage, powered_off, DESTROYED, schedule)
            ends_in_time(stage, paused, PAUSED, schedule)
            for lease in (plain, off, pause):
                expect(f"the holders of {lease.name}", stage.holders(lease), {})
            refused(paused, "resume", "Failed to acquire lock", "paused")
        wait_until("the lost lockspace is left", lambda: space not in stage.manager.spaces())
        stage.manager.join(1, space, storage.area)
        paused.do("resume")
        stage.holds(pause, paused, "2")
        expect("the domain that was paused", paused.state(), "running")


@scene
def who_leaves_a_lockspace_ends_its_domains_by_force(stage):
    space, _, (lease,) = stage.new_space(["left"])
    domain = Domain("left", lease=lease, on_lockfailure="pause")
    with stage.cast(domain):
        domain.do("start")
        stage.holds(lease, domain, "1")
        stage.manager.leave(1, space, lease.path)
        wait_until("the domain is shut off", lambda: domain.state() == "shut off")
        expect("its end", stage.events.of(domain)[-1], KILLED)
        expect("the lockspace in the status", space in stage.manager.spaces(), False)


@scene
def on_lockfailure_fires_for_disk_leases_too(stage):
    domain = Domain("lost-disk", stage.libvirt.disk("lost-disk"), on_lockfailure="poweroff")
    with stage.cast(domain):
        domain.do("start")
        lease = stage.libvirt.disk_lease(stage.libvirt.disk("lost-disk"))
        stage.holds(lease, domain, "1")
        with lost(stage, stage.disk_leases, DISKS) as schedule:
            ends_in_time(stage, domain, DESTROYED, schedule)
        wait_until("the lost lockspace is left", lambda: DISKS not in stage.manager.spaces())
        stage.libvirt.process.end()
        stage.start_libvirt()
        domain.do("start")
        stage.holds(lease, domain, "2")


# What fails when libvirt does not ask for leases at all; one scene that holds even then says that no lease is taken.
NEED_LEASES = [one for one in SCENES[1:] if one not in (a_readonly_disk_takes_no_lease,)]
# What fails when the program that libvirt leaves to be run does nothing.
NEED_HELPER = [on_lockfailure_decides_what_becomes_of_a_domain_whose_lease_is_lost]
