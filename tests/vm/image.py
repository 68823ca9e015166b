"""What a host boots: the kernel, unpacked, and an initial file system with busybox, our programs and the modules."""

import glob
import lzma
import os
import re
import stat
import struct
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = [
    "virtio_pci", "virtio_console", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod", "dm-mod", "dm-delay",
    "unix_diag", "i6300esb", "ib700wdt", "softdog", "nfs", "nfsv4", "ext4",
]
DIRECTORIES = ["bin", "sbin", "usr/bin", "usr/sbin", "proc", "sys", "dev", "etc", "tmp", "run", "var/log", "root", "mnt"]
FILES = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nsanlock:x:111:111::/run/sanlock:/bin/false\n",
    "etc/group": "root:x:0:\ndisk:x:6:sanlock\nsanlock:x:111:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\n",
}


class Archive:
    """A cpio archive in the format that the kernel unpacks ("newc": buffer-format.rst of the kernel's documentation)."""

    def __init__(self):
        self.parts, self.names = [], set()

    def entry(self, name, mode, data=b"", device=(0, 0)):
        """Adds it, behind its directory, unless it is there already."""
        if name in self.names:
            return
        above = os.path.dirname(name)
        if above:
            self.entry(above, stat.S_IFDIR | 0o755)
        self.names.add(name)
        encoded = name.encode() + b"\0"
        fields = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = "070701" + "".join(f"{field:08X}" for field in fields)
        self.parts += [padded(header.encode() + encoded), padded(data)]

    def file(self, name, data, mode=0o755):
        self.entry(name, stat.S_IFREG | mode, data)

    def copy(self, source, name, root="/"):
        """A file of this machine; of a program the libraries too, which may be among what is unpacked below a root of its own."""
        with open(source, "rb") as file:
            self.file(name, file.read())
        places = [os.path.join(root, above, "x86_64-linux-gnu") for above in ("lib", "usr/lib")]
        linked = subprocess.run(["ldd", source], capture_output=True, text=True, check=False,
                                env={**os.environ, "LD_LIBRARY_PATH": ":".join(places)}).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            with open(library, "rb") as file:
                self.file(library.removeprefix(root).lstrip("/"), file.read())

    def bytes(self):
        self.entry("TRAILER!!!", 0)
        return b"".join(self.parts)


def padded(data):
    return data + b"\0" * (-len(data) % 4)


def unpacked_kernel(path):
    """The ELF file in a bzImage, which QEMU starts without half a second's decompressing per host: Linux boot protocol 2.08."""
    with open(path, "rb") as file:
        image = file.read()
    setup = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    return lzma.decompress(image[(setup + 1) * 512 + offset:][:length - 4], format=lzma.FORMAT_XZ)


class Modules:
    """The modules of a kernel, each with what it depends on."""

    def __init__(self, directory):
        self.files, self.chosen = {}, {}
        for above, _, names in os.walk(directory):
            for name in names:
                if name.endswith(".ko"):
                    self.files[name[:-3].replace("-", "_")] = os.path.join(above, name)

    def choose(self, name):
        name = name.replace("-", "_")
        if name in self.chosen:
            return
        with open(self.files[name], "rb") as file:
            data = file.read()
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        needs = [need for need in (depends.group(1).decode().split(",") if depends else []) if need]
        self.chosen[name] = (data, [need.replace("-", "_") for need in needs])
        for need in needs:
            self.choose(need)

    def all_needs(self, name):
        """Nearest first, as modules.dep has them."""
        needs = []
        for need in self.chosen[name][1]:
            needs += [need, *self.all_needs(need)]
        # Of what is needed twice the last counts: modprobe begins at the end.
        return [need for at, need in enumerate(needs) if need not in needs[at + 1:]]

    def into(self, archive, release):
        lines = []
        for name, (data, _) in self.chosen.items():
            archive.file(f"lib/modules/{release}/{name}.ko", data, 0o644)
            lines.append(f"{name}.ko:" + "".join(f" {need}.ko" for need in self.all_needs(name)))
        archive.file(f"lib/modules/{release}/modules.dep", ("\n".join(lines) + "\n").encode(), 0o644)


def build(tools, directory, programs, extra=None):
    """Writes `vmlinux` and `initrd` there; `programs` is pairs of a file here and its name in the hosts. `extra` is of extras.py."""
    os.makedirs(directory, exist_ok=True)
    packed = glob.glob(os.path.join(tools.kernel, "boot", "vmlinuz-*"))[0]
    release = os.path.basename(packed).removeprefix("vmlinuz-")
    kernel = os.path.join(directory, "vmlinux")
    if not os.path.exists(kernel):
        with open(kernel + ".new", "wb") as file:
            file.write(unpacked_kernel(packed))
        os.rename(kernel + ".new", kernel)
    archive = Archive()
    for name in DIRECTORIES:
        archive.entry(name, stat.S_IFDIR | 0o755)
    archive.entry("var/run", stat.S_IFLNK | 0o777, b"/run")
    archive.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.copy(tools.busybox, "bin/busybox")
    archive.entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    archive.copy(os.path.join(HERE, "init"), "init")
    for name, text in FILES.items():
        archive.file(name, text.encode(), 0o644)
    for source, name in programs:
        archive.copy(source, name)
    if extra:
        extra.into(archive)
    modules = Modules(os.path.join(tools.kernel, "lib", "modules", release))
    for name in [*MODULES, *(extra.modules if extra else ())]:
        modules.choose(name)
    modules.into(archive, release)
    with open(os.path.join(directory, "initrd"), "wb") as file:
        file.write(archive.bytes())
