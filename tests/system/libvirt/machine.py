"""A machine of its own, made of this one: libvirt and QEMU are installed there and nobody else sees them.

Its root is an overlay of ours, so that apt-get may install, remove and configure what it likes; what it writes is
memory and is gone with it. /run and the processes are private too, and so, once all is installed, is the network:
libvirt meets no systemd, no D-Bus, no other libvirt. The first process lives as long as anything there; whatever way
it ends, the kernel ends all the others. Needs root, and neither KVM nor a network once the packages are in the cache.
"""

import ctypes
import fcntl
import glob
import os
import shutil
import signal
import subprocess
import traceback

PACKAGES = ["sanlock", "e2fsprogs", "libvirt-daemon-system", "libvirt-clients", "libvirt-sanlock", "qemu-system-x86"]
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x08000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

libc = ctypes.CDLL(None, use_errno=True)


def unshare(what):
    if libc.unshare(what) != 0:
        raise OSError(ctypes.get_errno(), "unshare: this test needs root")


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def inside(work, cache, program, story):
    """Runs `story()` on such a machine; its exit status. `work`, an empty directory, is the same in and outside."""
    unshare(CLONE_NEWPID)
    first = os.fork()
    if first == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os._exit(guarded(lambda: first_process(work, cache, program, story)))
    return outlive(first)


def outlive(child):
    """Waits for a child, to which every wish to end is handed on; its exit status."""
    def hand_on(_number, _frame):
        os.kill(child, signal.SIGTERM)

    for number in ENDING:
        signal.signal(number, hand_on)
    while True:
        # The first process of a machine inherits all orphans: QEMU, which libvirt sets free, is one.
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def first_process(work, cache, program, story):
    os.setpgid(0, 0)
    unshare(CLONE_NEWNS | CLONE_NEWIPC)
    build_root(work, cache, program)
    child = os.fork()
    if child == 0:
        os._exit(guarded(story))
    status = outlive(child)
    for place in glob.glob(f"{work}/*/mount"):
        # Had the story no time for it: a frozen file system would outlive this machine.
        subprocess.run(["fsfreeze", "-u", place], stderr=subprocess.DEVNULL, check=False)
    return status


def guarded(story):
    """Its exit status, whatever happens: what a forked process leaves undone must not run on in its parent's code, which
    would clean up where our mounts are. Asked to end, it ends in order: once, for what cleans up must not be interrupted."""
    def end(number, _frame):
        for other in ENDING:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in ENDING:
        signal.signal(number, end)
    try:
        return story()
    except SystemExit as ending:
        return ending.code
    except BaseException:  # as the interpreter would
        traceback.print_exc()
        return 1


def build_root(work, cache, program):
    """From here on we see the overlay."""
    layers, root = os.path.join(work, "layers"), os.path.join(work, "root")
    os.makedirs(layers)
    os.makedirs(root)
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "layers", layers)
    for name in ("upper", "work"):
        os.mkdir(os.path.join(layers, name))
    mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={layers}/upper,workdir={layers}/work", root)
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("-t", "tmpfs", "run", f"{root}/run")
    for name in ("holdfast", "holdfastd"):
        shutil.copy(program, f"{root}/usr/local/sbin/{name}")
    for how, place in (("--rbind", "/sys"), ("--rbind", "/dev"), ("--bind", work), ("--bind", cache)):
        os.makedirs(root + place, exist_ok=True)
        mount(how, place, root + place)
    if os.path.exists("/etc/resolv.conf"):
        resolver = f"{root}/etc/resolv.conf"
        content = open("/etc/resolv.conf", encoding="ascii").read()  # often a link into /run
        if os.path.lexists(resolver):
            os.remove(resolver)
        with open(resolver, "w", encoding="ascii") as file:
            file.write(content)
    os.chroot(root)
    os.chdir("/")


def install(cache):
    """What is tested with, unmodified, from Debian. Then the network goes away."""
    with open("/usr/sbin/policy-rc.d", "w", encoding="ascii") as policy:
        policy.write("#!/bin/sh\nexit 101\n")  # start no services
    os.chmod("/usr/sbin/policy-rc.d", 0o755)
    os.makedirs(os.path.join(cache, "partial"), exist_ok=True)
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "-o", f"Dir::Cache::archives={cache}",
               "-o", "APT::Keep-Downloaded-Packages=true", *PACKAGES]
    with open(os.path.join(cache, "in-use"), "wb") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_EX)
        # Where it fails, the lists of packages are missing or too old.
        if not apt(command) and not (apt(["apt-get", "update", "-q"]) and apt(command)):
            raise SystemExit(1)
    unshare(CLONE_NEWNET)
    mount("-t", "sysfs", "sys", "/sys")  # one without its devices


def apt(command):
    done = subprocess.run(command, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}\n{done.stdout[-3000:]}", flush=True)
    return done.returncode == 0
