"""An io_uring, by its system calls alone: what a guarded program queues in it the kernel does without the program."""

import ctypes
import mmap
import os
import struct

SETUP, ENTER = 425, 426
SQES_AT = 0x10000000
WRITE = 23
ENTRIES = 4
LIBC = ctypes.CDLL(None, use_errno=True)


def system_call(number, *arguments):
    done = LIBC.syscall(number, *arguments)
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done


class Ring:
    """One write at a time, of `size` bytes at offset 0 of a device, past the page cache."""

    def __init__(self, path, size=4096):
        parameters = ctypes.create_string_buffer(120)
        self.fd = system_call(SETUP, ENTRIES, parameters)
        entries, completions = struct.unpack_from("<2I", parameters, 0)
        # head, tail, mask, entries, ..., and the array of the submission queue; the completions are the seventh but one.
        self.submitted = struct.unpack_from("<8I", parameters, 40)
        self.completed = struct.unpack_from("<8I", parameters, 80)
        length = max(self.submitted[6] + 4 * entries, self.completed[5] + 16 * completions)
        self.queues = mmap.mmap(self.fd, length, mmap.MAP_SHARED)
        self.entries = mmap.mmap(self.fd, 64 * entries, mmap.MAP_SHARED, offset=SQES_AT)
        self.mask = entries - 1
        self.disk = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.data = mmap.mmap(-1, size)
        self.writes = True

    def begin(self, word):
        """Begins a write that starts with these bytes."""
        self.data[:len(word)] = word
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.data))
        tail, = struct.unpack_from("<I", self.queues, self.submitted[1])
        at = tail & self.mask
        struct.pack_into("<BBHiQQIIQ", self.entries, 64 * at, WRITE, 0, 0, self.disk, 0, address, len(self.data), 0, tail)
        struct.pack_into("<I", self.queues, self.submitted[6] + 4 * at, at)
        struct.pack_into("<I", self.queues, self.submitted[1], tail + 1)
        system_call(ENTER, self.fd, 1, 0, 0, None, 0)

    def is_idle(self):
        """Whether all that was begun is over."""
        begun, = struct.unpack_from("<I", self.queues, self.submitted[1])
        over, = struct.unpack_from("<I", self.queues, self.completed[1])
        struct.pack_into("<I", self.queues, self.completed[0], over)
        return begun == over
