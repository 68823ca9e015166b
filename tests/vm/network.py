"""A network of hosts: a switch in the harness, with a cable to each that can be pulled out.

QEMU speaks to it over a unix socket, as its `-netdev stream` does: each frame behind its length, four bytes. Every frame goes
to everybody else; whom it is not for throws it away. Whoever takes nothing, as a host does that has just been reset, holds up nobody:
what is too much for its cable is lost.
"""

import os
import queue
import socket
import struct
import threading

LENGTH = struct.Struct(">I")
FRAMES = 256


class Switch:
    def __init__(self):
        self.cables = []

    def cable(self, socket_path):
        self.cables.append(Cable(self, socket_path))
        return self.cables[-1]

    def close(self):
        for cable in self.cables:
            cable.close()


class Cable:
    """To one host, which may be switched off and on."""

    def __init__(self, switch, socket_path):
        self.switch, self.socket_path = switch, socket_path
        self.stream, self.pulled, self.frames = None, False, queue.Queue(FRAMES)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(socket_path)
        self.listener.listen(4)
        for work in (self._accept, self._send):
            threading.Thread(target=work, daemon=True).start()

    def pull(self):
        self.pulled = True

    def plug_in(self):
        self.pulled = False

    def words(self, number):
        """What QEMU is told of it, and of the card at its end."""
        return ["-netdev", f"stream,id=net,server=off,addr.type=unix,addr.path={self.socket_path}",
                "-device", f"virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:{number:02x}"]

    def offer(self, frame):
        if not self.pulled:
            try:
                self.frames.put_nowait(frame)
            except queue.Full:
                pass

    def _send(self):
        while (frame := self.frames.get()) is not None:
            stream = self.stream
            try:
                if stream:
                    stream.sendall(LENGTH.pack(len(frame)) + frame)
            except OSError:
                pass  # It has been switched off.

    def _accept(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            self.stream = stream
            threading.Thread(target=self._listen, args=(stream,), daemon=True).start()

    def _listen(self, stream):
        with stream, stream.makefile("rb") as frames:
            try:
                while length := frames.read(LENGTH.size):
                    frame = frames.read(*LENGTH.unpack(length))
                    if not self.pulled:
                        for other in self.switch.cables:
                            if other is not self:
                                other.offer(frame)
            except (OSError, struct.error):
                pass  # It has been switched off.

    def close(self):
        self.listener.close()
        self.frames.queue.clear()
        self.frames.put(None)
        os.unlink(self.socket_path)
