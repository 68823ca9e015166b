"""The shared disks: a block server for all hosts, through which every write of every host goes, in one true order.

A `Disk` is a file. Each host has a `Path` of its own to it, a unix socket that speaks NBD (doc/proto.md of the
NetworkBlockDevice project), where QEMU finds it. What goes wrong goes wrong on one path, while the others work:

    path.fail(kinds)      requests of these kinds are answered with EIO
    path.hold(kinds)      requests are taken, and nothing is done: in flight, as long as it pleases us
    path.hold_next(kinds) the same, of the next one alone
    path.release()        all is well again, and what is held is done now and answered: late
    path.drop()           all is well again, and what is held is answered with EIO, undone
    path.sever()          the host is gone: what is held stays in flight, but nobody waits for an answer
    path.land()           what stays in flight is done now: the late write of a host that is gone
    path.lose_writes()    writes are acknowledged and not done
    path.lose_answers()   writes are done and never answered, until release()
    path.tear(length)     of writes only the first bytes are done, then EIO
    path.slow(seconds)    everything takes so much longer

Every write that reaches the file is told to `disk.watchers` with the path, the offset, the bytes, and when it was asked
for and when it landed. Reads and writes are done under one lock, so the order in which they are told is the true one.
"""

import errno
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

READ, WRITE, CLOSE, FLUSH = range(4)
KINDS = {"read": READ, "write": WRITE, "flush": FLUSH}
ALL = ("read", "write", "flush")
GREETING = b"NBDMAGICIHAVEOPT"
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPTION_ANSWER = 0x0003E889045565A9
OPT_ABORT, OPT_INFO, OPT_GO = 2, 6, 7
ACK, INFO, UNSUPPORTED = 1, 3, 0x80000001
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
HAS_FLAGS, SENDS_FLUSH, SENDS_FUA = 1, 4, 8
REQUEST = struct.Struct(">IHHQQI")
ANSWER = struct.Struct(">IIQ")
ANSWER_MAGIC = 0x67446698


@dataclass
class Request:
    """One of a host's."""

    kind: int
    cookie: int
    offset: int
    length: int
    data: bytes
    asked: float = field(default_factory=time.monotonic)


class Disk:
    """A file of so many bytes, on sectors of so many. The hosts see its name as its serial number."""

    def __init__(self, name, file, size, sector):
        self.name, self.file, self.sector = name, file, sector
        self.fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self.fd, size)
        self.size = size
        self.lock = threading.RLock()
        self.watchers = []

    def read(self, offset, length):
        with self.lock:
            return os.pread(self.fd, length, offset)

    def write(self, path, offset, data, asked):
        with self.lock:
            os.pwrite(self.fd, data, offset)
            landed = time.monotonic()
            for watcher in self.watchers:
                watcher(path, offset, data, asked, landed)

    def close(self):
        os.close(self.fd)


class Path:
    """The way of one host to one disk."""

    def __init__(self, disk, host, socket_path):
        self.disk, self.host, self.socket_path = disk, host, socket_path
        self.lock = threading.RLock()
        self.fault, self.kinds, self.argument = None, (), 0
        self.held, self.in_flight = [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(socket_path)
        self.listener.listen(4)
        threading.Thread(target=self._accept, daemon=True).start()

    # Faults.

    def _set(self, fault, kinds=(), argument=0):
        with self.lock:
            self.fault, self.kinds, self.argument = fault, {KINDS[kind] for kind in kinds}, argument

    def fail(self, kinds=ALL):
        self._set("fail", kinds)

    def hold(self, kinds=ALL):
        self._set("hold", kinds)

    def hold_next(self, kinds):
        self._set("hold", kinds, 1)

    def lose_writes(self):
        self._set("lose_writes", ("write",))

    def lose_answers(self):
        self._set("lose_answers", ("write",))

    def tear(self, length):
        self._set("tear", ("write",), length)

    def slow(self, seconds, kinds=ALL):
        self._set("slow", kinds, seconds)

    def release(self):
        with self.lock:
            self._set(None)
            held, self.held = self.held, []
            for request, answer in held:
                self._done(request, answer)

    def drop(self):
        with self.lock:
            self._set(None)
            held, self.held = self.held, []
        for request, answer in held:
            answer(request, errno.EIO)

    def sever(self):
        """Answered with EIO too, so that QEMU, which waits for its requests before it resets a host, does not wait for ever."""
        with self.lock:
            held, self.held = self.held, []
            self.in_flight += [request for request, _ in held if request.kind == WRITE]
        for request, answer in held:
            answer(request, errno.EIO)
        return len(self.in_flight)

    def land(self):
        with self.lock:
            in_flight, self.in_flight = self.in_flight, []
            for request in in_flight:
                self.disk.write(self, request.offset, request.data, request.asked)
        return len(in_flight)

    # Requests.

    def _take(self, request, answer):
        with self.lock:
            hit, argument = request.kind in self.kinds, self.argument
            fault = self.fault if hit else None
            if fault == "hold":
                self.held.append((request, answer))
                if argument == 1:
                    self._set(None)
            elif fault == "lose_answers":
                self.disk.write(self, request.offset, request.data, request.asked)
                self.held.append((Request(FLUSH, request.cookie, 0, 0, b""), answer))
            elif fault == "tear":
                self.disk.write(self, request.offset, request.data[:argument], request.asked)
            elif fault is None:
                self._done(request, answer)
        if fault in ("fail", "tear"):
            answer(request, errno.EIO)
        elif fault == "lose_writes":
            answer(request, 0)
        elif fault == "slow":
            timer = threading.Timer(argument, self._done, (request, answer))
            timer.daemon = True
            timer.start()

    def _done(self, request, answer):
        if request.kind == READ:
            answer(request, 0, self.disk.read(request.offset, request.length))
            return
        if request.kind == WRITE:
            self.disk.write(self, request.offset, request.data, request.asked)
        # A file in memory, or in the page cache of one machine, needs no flush: a power cut here is one of a host.
        answer(request, 0)

    # NBD.

    def _accept(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream):
        with stream:
            try:
                if self._negotiate(stream):
                    self._transmit(stream)
            except (EOFError, OSError):
                pass  # The host's QEMU has ended.

    def _negotiate(self, stream):
        """Whether the other side wants to go on."""
        stream.sendall(GREETING + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        receive(stream, 4)
        while True:
            _, option, length = struct.unpack(">QII", receive(stream, 16))
            receive(stream, length)
            say = lambda kind, data=b"": stream.sendall(struct.pack(">QIII", OPTION_ANSWER, option, kind, len(data)) + data)
            if option in (OPT_INFO, OPT_GO):
                flags = HAS_FLAGS | SENDS_FLUSH | SENDS_FUA
                say(INFO, struct.pack(">HQH", INFO_EXPORT, self.disk.size, flags))
                say(INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, self.disk.sector, 4096, 1 << 20))
                say(ACK)
                if option == OPT_GO:
                    return True
            elif option == OPT_ABORT:
                say(ACK)
                return False
            else:
                say(UNSUPPORTED)

    def _transmit(self, stream):
        out = threading.Lock()

        def answer(request, error, data=b""):
            with out:
                try:
                    stream.sendall(ANSWER.pack(ANSWER_MAGIC, error, request.cookie) + data)
                except OSError:
                    pass  # The host's QEMU has ended: nobody waits for it.

        while True:
            _, _, kind, cookie, offset, length = REQUEST.unpack(receive(stream, REQUEST.size))
            data = receive(stream, length) if kind == WRITE else b""
            if kind == CLOSE:
                return
            request = Request(kind, cookie, offset, length, data)
            if kind not in (READ, WRITE, FLUSH):
                answer(request, errno.EINVAL)
            else:
                self._take(request, answer)

    def close(self):
        self.listener.close()
        os.unlink(self.socket_path)


def receive(stream, length):
    parts, left = [], length
    while left:
        part = stream.recv(left)
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
