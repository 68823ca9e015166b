"""Leases and disks in files on NFS: a server, which is one more host, and a network that it and the others are on.

The server is the kernel's own, NFS 4.2, with a file system on a disk of the block server. So what the others write is seen to land
there. Their writes bear their hosts' numbers; which path they came by says only that it was the server's.
"""

import os
import subprocess
import time

from extras import Extra, with_extra
from lab import FIRE_TIMEOUT, MIB, SPACE, Node
from network import Switch
from observer import Observer, Renewals
from scenarios import SOON

EXPORTS = "/srv *(rw,sync,no_root_squash,no_subtree_check,fsid=0)\n"
NETCONFIG = "udp tpi_clts v inet udp - -\ntcp tpi_cots_ord v inet tcp - -\n"
NFS = Extra(("nfs-kernel-server", "nfs-common"), ("usr/sbin/rpc.nfsd", "usr/sbin/rpc.mountd", "usr/sbin/exportfs"),
            (("etc/exports", EXPORTS), ("etc/netconfig", NETCONFIG), ("etc/services", "nfs 2049/tcp\n"),
             ("etc/protocols", "tcp 6 TCP\nudp 17 UDP\n")), ("nfsd", "crc32c_generic"))
SERVER, ADDRESS = 9, "10.0.0.9"
LEASES, DISK = "/mnt/leases", "/mnt/vm"
# A request is sent again until there is an answer.
HARD = "hard,timeo=20"
# The shortest that the kernel's server knows. It serves nobody before it is over who does not say what he had open.
GRACE = 10
IO_TIMEOUT = 4
RENEWAL_FAIL = 8 * IO_TIMEOUT
HOST_DEAD = RENEWAL_FAIL + FIRE_TIMEOUT


class NetworkNode(Node):
    """On the network."""

    def __init__(self, lab, number, disks, **more):
        super().__init__(lab, number, disks, **more)
        self.cable = lab.switch.cable(self.at("network.sock"))

    def command(self, ends):
        return super().command(ends) + self.cable.words(self.number)

    def up_network(self):
        self.run(f"modprobe virtio_net && ip addr add 10.0.0.{self.number}/24 dev eth0 && ip link set eth0 up")


class Server(NetworkNode):
    """Serves what is on the last of its disks."""

    def __init__(self, lab, _number, disks, **more):
        super().__init__(lab, SERVER, disks, **more)

    def serve_files(self):
        self.run("for one in crc32c_generic ext4 nfsd; do modprobe $one; done; mkdir -p /srv /var/lib/nfs; mount -t ext4 /dev/vdc /srv && mount --bind /srv/nfs /var/lib/nfs "
                 "&& mount -t nfsd nfsd /proc/fs/nfsd")
        self.up_network()
        self.run(f"exportfs -ra && rpc.mountd -N 3 -V 4 && rpc.nfsd -N 3 -V 4.2 --lease-time {GRACE} --grace-time {GRACE} 4")
        self.say("server", "serves")

    def end_grace(self):
        """Nobody had anything before."""
        self.run("echo Y >/proc/fs/nfsd/v4_end_grace")


class Client(NetworkNode):
    """Has leases and disk on NFS."""

    def mount(self, options):
        self.up_network()
        self.run("modprobe nfsv4; "
                 f"mount -t nfs4 -o vers=4.2,{options},proto=tcp,addr={ADDRESS},clientaddr=10.0.0.{self.number} {ADDRESS}:/ /mnt")

    def join(self, within=120):
        self.run(f"holdfast lockspace add {SPACE}:{self.number}:{LEASES}:0", within)
        self.say("lockspace", "joined")

    def guest(self, resource="one", options="", before="", lease=f"{SPACE}:one:{LEASES}:{MIB}", disk=DISK):
        program = f"vm-guest guarded --lease {lease} --disk {disk} --host {self.number} {options}"
        return self.serve("guest", f"sh -c '{before}exec {program}'")


class PagewiseRenewals(Renewals):
    """The server writes pages, with the sectors of several hosts in each: those count that have changed."""

    def __init__(self, disk, at):
        self.known = {}
        super().__init__(disk, at)

    def landed(self, path, offset, data, asked, landed):
        for at in range(0, len(data), self.sector):
            sector = data[at:at + self.sector]
            if self.known.get(offset + at) != sector:
                self.known[offset + at] = sector
                super().landed(path, offset + at, sector, asked, landed)


class ByNumber(Observer):
    """Every write comes from the server; in it stands whose it is."""

    def whose(self, path, said):
        return f"h{said['host']}"


def make_file_system(disk, directory):
    """With files that are all there from the beginning: nothing but their content is ever written."""
    os.makedirs(os.path.join(directory, "nfs", "v4recovery"))
    for name, size in (("leases", 4 * MIB), ("vm", MIB)):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(name[0].encode() * size)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", directory, disk.file], check=True, stdout=subprocess.DEVNULL)


def place_of(disk, name):
    """Where the first block of a file lies that is full of its name's first letter."""
    whole = disk.read(0, disk.size)
    return next(at for at in range(0, disk.size, 4096) if whole[at:at + 4096] == name[0].encode() * 4096)


def server_and_clients(lab, options):
    """A server, and two hosts that have joined a lockspace there."""
    lab.switch = Switch()
    lab.closing.append(lab.switch)
    disk = lab.add_disk("export", 32 * MIB)
    make_file_system(disk, os.path.join(lab.directory, "export"))
    first, second, server = lab.boot(3, [Client, Client, Server])
    # Only the first block of each is of interest: the first hosts' sectors, and what guests write.
    at = {name: place_of(disk, name) for name in ("leases", "vm")}
    server.serve_files()
    server.end_grace()
    for client in (first, second):
        client.mount(options)
    first.run(f"holdfast init --force -Z 512 -A 1M -o {IO_TIMEOUT} -s {SPACE}:0:{LEASES}:0 && "
              f"holdfast init --force -Z 512 -A 1M -r {SPACE}:one:{LEASES}:{MIB}")
    lab.renewals, lab.observer = PagewiseRenewals(disk, at["leases"]), ByNumber(disk, at["vm"])
    for client in (first, second):
        client.start_daemon(io_timeout=IO_TIMEOUT)
    for client in (first, second):
        client.join()
    lab.expect_true_clocks()
    return server, first, second


def owner_and_heir(lab, options=HARD):
    """A server, and two hosts: a guest of the first has the lease, one of the second waits for it."""
    server, owner, heir = server_and_clients(lab, options)
    owner.guest()
    owner.wait_guest(SOON)
    heir.guest()
    lab.timeline.wait(heir.name, "guest", "^refused", SOON)
    return server, owner, heir


def until_written(lab, node, since, within):
    """When it has written since then."""
    last = lambda: (write := lab.observer.last_by(node.name)) and write.landed >= since and write
    return lab.wait_for(last, within, f"{node.name} writes").landed


@with_extra(NFS)
def a_server_of_nfs_that_restarts_within_the_deadline_costs_nobody_anything(lab):
    """(13) The server's power is cut and comes back before D2. The guest goes on where it was; nobody is ended, nobody takes over."""
    server, owner, heir = owner_and_heir(lab)
    cut = server.cut_power().at
    before = lab.renewals.last(owner.number)
    server.start()
    up = server.wait_up(since=cut).at
    server.serve_files()
    again = until_written(lab, owner, up, HOST_DEAD)
    lab.measured("so long after the cut the guest wrote again", again - cut)
    lab.wait_for(lambda: lab.renewals.last(owner.number) > before, HOST_DEAD, "the owner renews")
    lab.margin("the owner renewed before its deadline", before + RENEWAL_FAIL - lab.renewals.last(owner.number))
    until_written(lab, owner, cut + HOST_DEAD + 2, 2 * HOST_DEAD)
    lab.expect(not lab.timeline.find(owner.name, "guest", "^ended"), "the guest was not ended")
    lab.expect(not owner.was_reset() and not heir.was_reset(), "no host was reset")
    lab.expect(not lab.observer.first_by(heir.name), "nobody has taken over")
    lab.expect_one_owner_at_a_time()


@with_extra(NFS)
def a_server_of_nfs_that_restarts_beyond_the_deadline_costs_the_host_of_a_guest_that_wrote_there(lab):
    """(13) The server comes back after host_dead. The owner's host was reset, the other was not; both join again, and one guest goes on."""
    server, owner, heir = owner_and_heir(lab)
    cut = server.cut_power().at
    renewed = lab.renewals.last(owner.number)
    ended = lab.timeline.wait(owner.name, "guest", "^ended", HOST_DEAD, cut).at
    reset = owner.wait_reset(HOST_DEAD, cut).at
    lab.margin("the guest was ended before its host was reset", reset - ended)
    lab.margin("reset before host_dead", renewed + HOST_DEAD - reset)
    lab.wait_for(lambda: time.monotonic() > renewed + HOST_DEAD, HOST_DEAD, "host_dead has passed")
    lab.expect(not heir.was_reset(), "who had no lease is not reset")
    server.start()
    server.wait_up(since=cut)
    server.serve_files()
    back = time.monotonic()
    owner.mount(HARD)
    owner.start_daemon(io_timeout=IO_TIMEOUT)
    for node in (heir, owner):
        node.join(within=HOST_DEAD + SOON)
    heir.guest()
    until_written(lab, heir, back, SOON)
    lab.measured("so long after the server was back a guest wrote", time.monotonic() - back)
    owner.guest()
    lab.timeline.wait(owner.name, "guest", "^refused", SOON, back)
    lab.expect_one_owner_at_a_time()


@with_extra(NFS)
def a_host_that_loses_its_way_to_nfs_is_reset_and_nothing_of_its_guest_lands_when_the_way_is_back(lab):
    """(13) The owner's cable is pulled. Its guest ends in the middle of a write, which its kernel would send again: so the host is reset."""
    _, owner, heir = owner_and_heir(lab)
    owner.cable.pull()
    begun = owner.say("fault", "the cable is pulled").at
    renewed = lab.renewals.last(owner.number)
    taken = until_written(lab, heir, begun, HOST_DEAD + SOON)
    lab.margin("taken over after the computed instant", taken - (renewed + HOST_DEAD))
    owner.cable.plug_in()
    back = owner.say("fault", "the cable is back").at
    reset = owner.was_reset(begun)
    # One that was not reset is given time to show what it should have been reset for.
    until_written(lab, heir, back + (2 if reset else HOST_DEAD), 2 * HOST_DEAD)
    lab.expect_one_owner_at_a_time()
    lab.expect(reset, "the host was reset")
    lab.margin("reset before the takeover", taken - reset.at)
    owner.wait_up(since=reset.at)
    owner.mount(HARD)
    owner.start_daemon(io_timeout=IO_TIMEOUT)
    owner.join(within=HOST_DEAD + SOON)
    owner.guest()
    lab.timeline.wait(owner.name, "guest", "^refused", SOON, back)


SCENARIOS = [
    a_server_of_nfs_that_restarts_within_the_deadline_costs_nobody_anything,
    a_server_of_nfs_that_restarts_beyond_the_deadline_costs_the_host_of_a_guest_that_wrote_there,
    a_host_that_loses_its_way_to_nfs_is_reset_and_nothing_of_its_guest_lands_when_the_way_is_back,
]
