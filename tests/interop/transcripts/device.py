"""A disk that hangs or fails when told to: a loop device of a file in a file system of its own. Needs root."""

import fcntl
import os
import struct
import subprocess
import time

SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN: from then on all that is asked of the file system is EIO


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Device:
    """With a stage: `with Device(stage) as device`. Its path is a link in the stage's directory: as long for both sides, whatever the
    number of the loop device."""

    def __init__(self, stage, megabytes=16):
        self.node, self.megabytes, self.waiting = None, megabytes, None
        number = sum(name.startswith("mount") for name in os.listdir(stage.directory))
        self.mount, self.image = stage.path(f"mount{number}"), stage.path(f"image{number}")
        self.path = stage.path(f"device{number}")
        os.makedirs(self.mount)
        with open(self.image, "wb") as file:
            file.truncate(4 * megabytes << 20)
        run("mkfs.ext4", "-q", "-F", self.image)

    def __enter__(self):
        run("mount", "-o", "loop", self.image, self.mount)
        inner = os.path.join(self.mount, "disk")
        with open(inner, "wb") as file:  # written, not a hole: a read of it needs nothing that hangs
            file.write(bytes(self.megabytes << 20))
            os.fsync(file.fileno())
        self.node = run("losetup", "-f", "--show", inner)
        os.symlink(self.node, self.path)
        return self

    def writes_hang(self):
        """Until `goes_on`. Reads are answered, until they come behind a write."""
        run("fsfreeze", "-f", self.mount)

    def hangs(self):
        """Reads and writes, until `goes_on`."""
        self.writes_hang()
        last = f"seek={(self.megabytes << 11) - 1}"
        write = ["dd", "if=/dev/zero", f"of={self.path}", "bs=512", "count=1", last, "oflag=direct", "conv=notrunc"]
        self.waiting = subprocess.Popen(write, stderr=subprocess.DEVNULL)
        time.sleep(0.3)  # until it waits

    def goes_on(self):
        run("fsfreeze", "-u", self.mount)
        if self.waiting:
            self.waiting.wait()

    def fails(self):
        """For good: reads and writes are EIO."""
        directory = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("<I", WITHOUT_FLUSH))
        finally:
            os.close(directory)

    def __exit__(self, *_):
        """Everything is undone, however far it came; a daemon may have the device open a while longer."""
        subprocess.run(["fsfreeze", "-u", self.mount], check=False, stderr=subprocess.DEVNULL)
        if self.waiting:
            self.waiting.wait()
        if self.node:
            subprocess.run(["losetup", "-d", self.node], check=False)
        subprocess.run(["umount", "-l", self.mount], check=False)
