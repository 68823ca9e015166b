"""QEMU, a kernel and busybox from Debian's packages, unpacked beside what is installed: nothing of the machine changes.

To install qemu-system-x86 would be to remove a newer qemu-utils, from Debian's backports. So the packages that
apt-get names are fetched and unpacked, and QEMU is told where its libraries, modules and firmware lie.
"""

import glob
import os
import shutil
import subprocess

EMULATOR = ["qemu-system-x86", "qemu-block-extra", "busybox-static"]
KERNEL = "linux-image-amd64"  # the cloud kernel has no driver for a hardware watchdog
LIBRARIES = "usr/lib/x86_64-linux-gnu"


class Tools:
    """Where they lie."""

    def __init__(self, directory):
        self.root = os.path.join(directory, "root")
        self.kernel = os.path.join(directory, "kernel")
        self.busybox = os.path.join(self.root, "bin", "busybox")

    def qemu(self):
        """The words that a command of QEMU begins with."""
        words = [os.path.join(self.root, "usr/bin/qemu-system-x86_64")]
        for firmware in ("share/qemu", "share/seabios", "lib/ipxe/qemu"):
            words += ["-L", os.path.join(self.root, "usr", firmware)]
        return words

    def environment(self):
        """What QEMU's environment has more than ours."""
        libraries = os.path.join(self.root, LIBRARIES)
        return {
            "LD_LIBRARY_PATH": f"{libraries}:{os.path.join(self.root, 'lib/x86_64-linux-gnu')}",
            "QEMU_MODULE_DIR": os.path.join(libraries, "qemu"),
        }


def fetch(directory):
    """The tools, fetched if they are not there already."""
    tools = Tools(directory)
    unpacked(directory, [*EMULATOR, KERNEL], lambda: [*needed(EMULATOR), kernel()],
             lambda package: tools.kernel if package.startswith("linux-image") else tools.root)
    return tools


def fetch_more(directory, packages):
    """Where these lie with what the machine lacks for them: programs for the hosts, unpacked if they are not there already."""
    directory = os.path.join(directory, "more", "-".join(packages))
    root = os.path.join(directory, "root")
    unpacked(directory, packages, lambda: needed(packages), lambda package: root)
    return root


def unpacked(directory, wanted, names, place_of):
    done = os.path.join(directory, "of")
    if os.path.exists(done) and open(done, encoding="ascii").read() == " ".join(wanted):
        return
    for name in ("packages", "root", "kernel", "of"):
        remove(os.path.join(directory, name))
    packages = os.path.join(directory, "packages")
    os.makedirs(packages)
    command(["apt-get", "update", "-q"])
    command(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *names()], cwd=packages)
    for package in sorted(glob.glob(os.path.join(packages, "*.deb"))):
        command(["dpkg", "-x", package, place_of(os.path.basename(package))])
    shutil.rmtree(packages)
    with open(done, "w", encoding="ascii") as file:
        file.write(" ".join(wanted))


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def needed(packages):
    """These, and what the machine lacks for them."""
    install = ["apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", "--allow-downgrades"]
    printed = command([*install, *packages])
    files = [line.split()[1] for line in printed.splitlines() if line.startswith("'")]
    return sorted({*packages, *(file.split("_")[0] for file in files)})


def kernel():
    """The package that KERNEL stands for today."""
    for line in command(["apt-cache", "depends", KERNEL]).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends":
            return name
    raise RuntimeError(f"{KERNEL} depends on no kernel: is there a Debian archive in sources.list?")


def command(words, cwd=None):
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
