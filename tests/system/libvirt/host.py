"""One host: a lease manager, libvirt with its sanlock plugin, domains, and the storage of the leases.

The lease manager is `holdfastd` or the real `sanlock daemon`, on the socket at which libsanlock looks. libvirt is
configured as its documentation has it, and otherwise as Debian ships it. A domain is a QEMU whose BIOS finds nothing to
boot: it runs, can be suspended and ended, and needs no guest.
"""

import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time

WITHIN = 90.0  # seconds: generous, for nothing here is a matter of speed
POLL = 0.05
MIB = 1 << 20
IO_TIMEOUT = 2
DISKS = "__LIBVIRT__DISKS__"

QEMU_CONF = """
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
lock_manager = "{lock_manager}"
"""
PLUGIN_CONF = """
auto_disk_leases = 1
disk_lease_dir = "{disk_leases}"
host_id = 1
io_timeout = {io_timeout}
user = "root"
group = "root"
"""
LIBVIRTD_CONF = """
auth_unix_ro = "none"
auth_unix_rw = "none"
"""
DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  {on_lockfailure}
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices>
</domain>
"""
DISK = """
<disk type='file' device='disk'>
  <driver name='qemu' type='raw' cache='none'/><source file='{path}'/><target dev='{target}' bus='virtio'/>{access}
</disk>
"""
LEASE = "<lease><lockspace>{space}</lockspace><key>{name}</key><target path='{path}' offset='{offset}'/></lease>"


class Unexpected(Exception):
    """A check failed: what was expected, and what was found."""


class Broken(Exception):
    """Nothing could be checked."""


def expect(what, found, wanted):
    if found != wanted:
        raise Unexpected(f"{what}: expected {wanted!r}, found {found!r}")


def wait_until(what, condition, within=WITHIN):
    """Polls until `condition()` is true, and returns it."""
    end = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > end:
            raise Unexpected(f"expected within {within:.0f} s: {what}; it did not come")
        time.sleep(POLL)
    return found


def run(*command, environment=None, fails=False):
    """Runs a command; what it printed. It must succeed, or fail where `fails` is said."""
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=4 * WITHIN, check=False)
    if fails and not done.returncode:
        raise Unexpected(f"{' '.join(command)}: expected a refusal, found: {done.stdout.strip()}")
    if not fails and done.returncode:
        raise Broken(f"{' '.join(command)}: exit status {done.returncode}: {done.stdout.strip()}")
    return done.stdout


class Resource:
    """A lease of a lockspace, and where it lies."""

    def __init__(self, space, name, path, offset):
        self.space, self.name, self.path, self.offset = space, name, path, offset

    def on_disk(self):
        """As it is now: free or held, by which host, who shares it, and its version."""
        shown = json.loads(run("holdfast", "dump", "--json", f"{self.path}:{self.offset}:{MIB}"))
        area = shown["areas"][0]
        expect(f"the name of the resource at {self.offset} of {self.path}",
               (area["lockspace"], area["resource"]), (self.space, self.name))
        return area

    def owner(self):
        """The host_id that holds it exclusively, or None."""
        area = self.on_disk()
        return area["owner"]["host_id"] if area["state"] == "held" else None

    def lver(self):
        return self.on_disk()["lver"]


class Storage:
    """An ext4 of its own, which can be lost: then writes hang, while all that was read can still be read."""

    def __init__(self, directory, name):
        self.mount = os.path.join(directory, name, "mount")
        os.makedirs(self.mount)
        self.area = os.path.join(self.mount, "area")
        image = os.path.join(directory, name, "image")
        with open(image, "wb") as file:
            file.truncate(96 * MIB)
        run("mkfs.ext4", "-q", "-F", image)
        # The loop device ends by itself with the last mount, and so at the latest with the first process.
        run("mount", "-o", "loop,noatime", image, self.mount)

    def format(self, space, names):
        """A lockspace, and its resources one area further each, in their order."""
        with open(self.area, "wb") as file:
            file.write(bytes((1 + len(names)) * MIB))
        run("holdfast", "init", "lockspace", space, self.area, "--io-timeout", str(IO_TIMEOUT))
        run("holdfast", "init", "resource", space, f"{self.area}:1M", *names)
        return [Resource(space, name, self.area, (1 + at) * MIB) for at, name in enumerate(names)]

    def lose(self):
        run("fsfreeze", "-f", self.mount)

    def find(self):
        """Afterwards everything that hung has happened."""
        subprocess.run(["fsfreeze", "-u", self.mount], stderr=subprocess.DEVNULL, check=False)


class Process:
    """A daemon of ours; its output is a file."""

    def __init__(self, command, log, environment=None):
        with open(log, "ab") as output:
            self.child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                          stderr=output, start_new_session=True)

    def end(self, number=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(number)
        try:
            self.child.wait(WITHIN)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class LeaseManager:
    """holdfastd, or real sanlock. It is asked with Debian's `sanlock client`, and holdfastd with `holdfast` as well."""

    def __init__(self, real, name, log, run_dir=None):
        self.real, self.environment = real, dict(os.environ)
        if run_dir:
            self.environment["SANLOCK_RUN_DIR"] = run_dir
        self.run_dir = run_dir or "/run/sanlock"
        os.makedirs(self.run_dir, exist_ok=True)
        if real:
            # It raises limits that root cannot raise in every container: with this it leaves them.
            environment = dict(self.environment, SANLOCK_PRIVILEGED="0")
            command = ["sanlock", "daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-U", "root", "-G", "root"]
        else:
            environment = self.environment
            command = ["holdfastd", "-D", "--watchdog", "none", "-l", "0"]
        self.process = Process([*command, "-e", name], log, environment)
        wait_until(f"{name}'s lease manager answers", self.answers)

    def answers(self):
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(os.path.join(self.run_dir, "sanlock.sock"))
            return True
        except OSError:
            return False

    def client(self, *arguments, fails=False):
        return run("sanlock", "client", *arguments, environment=self.environment, fails=fails)

    def join(self, host_id, space, path):
        self.client("add_lockspace", "-s", f"{space}:{host_id}:{path}:0", "-o", str(IO_TIMEOUT))

    def leave(self, host_id, space, path):
        self.client("rem_lockspace", "-s", f"{space}:{host_id}:{path}:0")

    def spaces(self):
        """{lockspace: its host_id, or what it is doing where it cannot be used}."""
        found = {}
        for line in self.client("status").splitlines():
            if line.startswith("s "):
                words = line.split()
                name, host_id = words[1].split(":")[:2]
                found[name] = " ".join(words[2:]) or int(host_id)
        return found

    def leases(self):
        """{(lockspace, resource, "SH" or its version, pid, the holder's name)}: what every tool must say."""
        lines = [line.split() for line in self.client("status").splitlines()]
        names = {pid: name for kind, pid, name, *_ in (line for line in lines if len(line) > 2) if kind == "p"}
        found = set()
        for line in lines:
            if line[0] == "r" and line[2] == "p":
                space, name, *_, version = line[1].split(":")
                found.add((space, name, version, int(line[3]), names[line[3]]))
        return found

    def leases_by_holdfast(self):
        """The same by `holdfast status`: what is written for programs."""
        shown = json.loads(run("holdfast", "status", "--json"))
        return {(one["lockspace"], one["resource"], "SH" if one["mode"] == "shared" else str(one["lver"]), one["pid"],
                 one["name"]) for one in shown["leases"] if one["state"] == "held"}

    def rows_by_holdfast(self):
        """The same by `holdfast status`: what is written for people, without the duration."""
        rows = (line.split() for line in run("holdfast", "status").partition("\nleases\n")[2].splitlines())
        return {(space, name, "SH" if state == "shared" else lver, int(pid), holder)
                for space, name, lver, state, pid, holder, *_ in (row for row in rows if len(row) > 6)
                if state in ("held", "shared")}

    def renewed(self, space):
        """When a lockspace was last renewed: CLOCK_BOOTTIME, whole seconds."""
        lines = iter(self.client("status", "-D").splitlines())
        if not any(line.startswith(f"s {space}:") for line in lines):
            raise Unexpected(f"lockspaces in the status: expected {space} among them, found {self.spaces()}")
        inner = itertools.takewhile(lambda line: line.startswith(" "), lines)
        return int(dict(line.strip().partition("=")[::2] for line in inner)["renewal_last_success"])

    def grace(self):
        """Seconds from when what is guarded is asked to end until it is ended by force."""
        values = dict(line.strip().partition("=")[::2] for line in self.client("status", "-D").splitlines())
        return int(values["kill_grace_seconds"])


class Libvirt:
    """libvirtd, and virsh."""

    def __init__(self, directory, disk_leases):
        self.directory, self.disk_leases, self.process = directory, disk_leases, None
        self.lock_manager = "sanlock"

    def start(self):
        """Returns when virsh is answered: the plugin has joined its lockspace by then."""
        for name, content in (("qemu.conf", QEMU_CONF), ("qemu-sanlock.conf", PLUGIN_CONF), ("libvirtd.conf", LIBVIRTD_CONF)):
            with open(f"/etc/libvirt/{name}", "w", encoding="ascii") as file:
                file.write(content.format(lock_manager=self.lock_manager, disk_leases=self.disk_leases, io_timeout=IO_TIMEOUT))
        self.process = Process(["libvirtd"], os.path.join(self.directory, "libvirtd.log"))
        wait_until("libvirtd answers", lambda: subprocess.run(
            ["virsh", "list"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0)

    def disk(self, name):
        """A new disk; its path."""
        path = os.path.join(self.directory, f"{name}.raw")
        with open(path, "wb") as file:
            file.truncate(MIB)
        return path

    def disk_lease(self, disk):
        """The lease that the plugin makes for a disk by itself."""
        name = hashlib.md5(disk.encode()).hexdigest()
        return Resource(DISKS, name, os.path.join(self.disk_leases, name), 0)


class Events:
    """What libvirt tells about its domains' lives, in order."""

    def __init__(self, directory):
        self.log, self.process = os.path.join(directory, "events.log"), None

    def listen(self):
        """Again after each start of libvirtd: its end is the end of a listener."""
        self.process = Process(["stdbuf", "-oL", "virsh", "event", "--event", "lifecycle", "--loop"], self.log)

    def of(self, domain):
        with open(self.log, encoding="utf-8") as log:
            prefix = f"event 'lifecycle' for domain '{domain.name}': "
            return [line.strip().removeprefix(prefix) for line in log if line.startswith(prefix)]


def disk_device(path, access="", target="vda"):
    return DISK.format(path=path, access=access, target=target)


def lease_device(lease):
    return LEASE.format(space=lease.space, name=lease.name, path=lease.path, offset=lease.offset)


class Domain:
    """A virtual machine as libvirt knows it."""

    def __init__(self, name, disk=None, access="", lease=None, on_lockfailure=None):
        self.name = name
        devices = (disk_device(disk, access) if disk else "") + (lease_device(lease) if lease else "")
        action = f"<on_lockfailure>{on_lockfailure}</on_lockfailure>" if on_lockfailure else ""
        self.xml = DOMAIN.format(name=name, devices=devices, on_lockfailure=action)

    def define(self, directory):
        path = os.path.join(directory, f"{self.name}.xml")
        with open(path, "w", encoding="ascii") as file:
            file.write(self.xml)
        run("virsh", "define", path)
        return self

    def forget(self):
        for action in ("destroy", "undefine"):
            subprocess.run(["virsh", action, self.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def do(self, action, *arguments, fails=False):
        """An action of virsh's on the domain; what it said."""
        return run("virsh", action, self.name, *arguments, fails=fails).strip()

    @contextlib.contextmanager
    def device(self, xml):
        """A device to attach and detach, as the file that virsh wants."""
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(xml)
            file.flush()
            yield file.name

    def state(self):
        return run("virsh", "domstate", self.name).strip()

    def pid(self):
        """Its QEMU's, while it has one."""
        with open(f"/run/libvirt/qemu/{self.name}.pid", encoding="ascii") as file:
            return int(file.read())
