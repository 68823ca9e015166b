"""Reads and writes past the page cache, as daemons do: the kernel keeps no promise for a file that is used in both ways at once
(a write through the cache then fails with EIO, now and then)."""

import mmap
import os

SECTOR = 512


def _span(offset, length):
    """The whole sectors around some bytes: where they begin, how long they are, and where the bytes are in them."""
    start = offset - offset % SECTOR
    end = -(-(offset + length) // SECTOR) * SECTOR
    return start, end - start, offset - start


def _read(fd, start, length):
    buffer = mmap.mmap(-1, max(length, SECTOR))
    done = os.preadv(fd, [memoryview(buffer)[:length]], start)
    return buffer, done


def read(path, offset, length):
    """Up to `length` bytes; fewer at the end of the file."""
    start, whole, at = _span(offset, length)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer, done = _read(fd, start, whole)
    finally:
        os.close(fd)
    return buffer[at:min(at + length, done)]


def write(path, offset, data):
    """Writes these bytes; the rest of their sectors stays as it is."""
    start, whole, at = _span(offset, len(data))
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    try:
        buffer, _ = _read(fd, start, whole)
        buffer[at:at + len(data)] = data
        written = os.pwritev(fd, [memoryview(buffer)[:whole]], start)
    finally:
        os.close(fd)
    if written != whole:
        raise OSError(f"{path}: {written} of {whole} bytes were written at {start}")
