"""LVM's own lock daemon, unmodified, with our daemon for sanlock: a volume group on a shared disk, whose volumes are active on one host.

lvmlockd keeps its lockspace in the volume group, on a hidden volume at the disk's first extent. Whoever has a logical volume active
has its lease, which outlives lvmlockd; programs that use the volume know nothing of leases.
"""

import json
import shlex
import time

from extras import Extra, with_extra
from lab import HOST_DEAD, IO_TIMEOUT, MIB, Failed
from observer import Observer, Renewals
from scenarios import SOON, taken_over

CONFIGURATION = """
global { use_lvmlockd = 1 event_activation = 0 }
devices { use_devicesfile = 0 scan = [ "/dev" ] obtain_device_list_from_udev = 0 external_device_info_source = "none" }
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
backup { backup = 0 archive = 0 }
"""
LVM = Extra(("lvm2", "lvm2-lockd", "dmsetup"), ("sbin/lvm", "sbin/lvmlockd", "sbin/lvmlockctl", "sbin/dmsetup"),
            (("etc/lvm/lvm.conf", CONFIGURATION),), ("dm-mod",))
VOLUME = "vg/lv"
# LVM's own area, then 256 MiB for lvmlockd's leases, then the volume.
LOCKS = MIB
DATA = LOCKS + 256 * MIB
SIZE = DATA + 32 * MIB


def start_lvmlockd(node):
    node.run("modprobe dm-mod; mkdir -p /run/lvm /run/lock/lvm; "
             f"echo 'local {{ host_id = {node.number} }}' >/etc/lvm/lvmlocal.conf")
    node.serve("lvmlockd", f"lvmlockd -f -g sanlock -o {IO_TIMEOUT}")
    node.run("until lvmlockctl --info >/dev/null; do sleep 0.1; done", SOON)


def lvm(node, words, within=SOON):
    return node.run(f"lvm {words}", within)


def start_locks(node):
    """Joins the lockspace of the group. Where there is no udev the first attempt ends before LVM has made the hidden volume's node."""
    start = "lvm vgchange --lock-start vg"
    node.run(f"{start} || {{ dmsetup mknodes; {start}; }}", SOON)


def begin_to_write(node):
    """A program that writes to the volume, for whoever watches the disk: under the version of the lease that LVM has for it."""
    status = json.loads(node.run("holdfast status --json"))
    volume = lvm(node, f"lvs --noheadings -o lv_uuid {VOLUME}").split()[-1]
    lver = next(lease["lver"] for lease in status["leases"] if lease["resource"] == volume)
    said = f'{{"host":{node.number},"lver":{lver},"seq":%d,"count":0}}'
    script = (f"echo acquired lver={lver}; n=0; while n=$((n + 1)); do "
              f"printf '{said}' $n | dd bs=4096 conv=sync of=/dev/{VOLUME} oflag=direct 2>/dev/null || exit; done")
    pid = node.serve("guest", f"sh -c {shlex.quote(script)}")
    node.wait_guest(SOON)
    return pid


def is_refused(lab, node):
    """The volume is active elsewhere."""
    try:
        lvm(node, f"lvchange -aey {VOLUME}")
    except Failed as refused:
        lab.expect("locked by other host" in str(refused), f"{node.name} is refused: {refused}")
        return
    lab.expect(False, f"{node.name} is refused")


def hand_over(lab, owner, pid, heir):
    """The pid of what writes now."""
    is_refused(lab, heir)
    owner.run(f"kill {pid}; while [ -d /proc/{pid} ]; do sleep 0.1; done")
    lvm(owner, f"lvchange -an {VOLUME}")
    lvm(heir, f"lvchange -aey {VOLUME}")
    since = time.monotonic()
    is_refused(lab, owner)
    pid = begin_to_write(heir)
    written(lab, heir, since)
    return pid


def written(lab, node, since):
    lab.wait_for(lambda: (last := lab.observer.last_by(node.name)) and last.landed >= since, SOON, f"{node.name} writes")


@with_extra(LVM)
def a_logical_volume_is_active_on_one_host_is_handed_over_and_outlives_a_power_cut(lab):
    """(11) lvmlockd on our daemon, on two hosts: one has the volume active at a time; a host that lost its power has it no more."""
    disk = lab.add_disk("group", SIZE)
    lab.renewals, lab.observer = Renewals(disk, LOCKS), Observer(disk, DATA)
    owner, heir = lab.boot(2)
    for node in (owner, heir):
        node.start_daemon()
        start_lvmlockd(node)
    lvm(owner, "vgcreate --shared vg /dev/vdc", 3 * SOON)
    start_locks(heir)
    lvm(owner, "lvcreate -y -Wn -Zn -aey -L 8M -n lv vg")
    pid = begin_to_write(owner)
    pid = hand_over(lab, owner, pid, heir)
    pid = hand_over(lab, heir, pid, owner)
    is_refused(lab, heir)
    cut = owner.cut_power()
    heir.run(f"until lvm lvchange -aey {VOLUME}; do sleep 0.2; done", HOST_DEAD + SOON)
    begin_to_write(heir)
    taken = taken_over(lab, owner, heir, cut.at)
    lab.margin("active on the other host after the power was cut", taken - cut.at)
    owner.start()
    owner.wait_up(since=cut.at)
    owner.start_daemon()
    start_lvmlockd(owner)
    start_locks(owner)
    is_refused(lab, owner)
    lab.expect_one_owner_at_a_time()


SCENARIOS = [a_logical_volume_is_active_on_one_host_is_handed_over_and_outlives_a_power_cut]
