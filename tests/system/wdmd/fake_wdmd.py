"""A wdmd without a device, for tests: fake_wdmd.py DIRECTORY.

It serves DIRECTORY/wdmd.sock as wdmd of sanlock 3.8.5 was seen to do (spec B 9.3 to 9.5), tests its entries and prints what it
would do with its device. One line for each event: the second of CLOCK_MONOTONIC, a word, and what belongs to it.

Written from the description, not from our own client, so that the two can disagree.
"""

import os
import selectors
import socket
import struct
import sys
import time

MESSAGE = struct.Struct("<IIIIIIQQQ128s")
REGISTER, REFCOUNT_SET, REFCOUNT_CLEAR, TEST_LIVE, STATUS, DUMP_DEBUG = range(1, 7)
MARGIN, INTERVAL, FIRE = 10, 10, 60


def now():
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def say(*words):
    print(f"{now():.3f}", *words, flush=True)


class Client:
    def __init__(self, connection):
        self.connection = connection
        self.name, self.ref, self.renewal, self.expire, self.dead = "", 0, 0, 0, 0
        self.pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


class Wdmd:
    def __init__(self, directory):
        self.clients = []
        self.open, self.last_keepalive = True, int(now())
        self.selector = selectors.DefaultSelector()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.path.join(directory, "wdmd.sock"))
        listener.listen(5)
        self.selector.register(listener, selectors.EVENT_READ, None)
        say("listens")

    def run(self):
        tested, interval = now(), INTERVAL
        while True:
            for key, _ in self.selector.select(max(0, tested + interval - now())):
                if key.data is None:
                    self.accept(key.fileobj)
                else:
                    self.serve(key.data)
            if now() >= tested + interval:
                tested, interval = now(), self.test()

    def accept(self, listener):
        client = Client(listener.accept()[0])
        self.clients.append(client)
        self.selector.register(client.connection, selectors.EVENT_READ, client)

    def serve(self, client):
        try:
            bytes_of_it = client.connection.recv(MESSAGE.size, socket.MSG_WAITALL)
            if len(bytes_of_it) == MESSAGE.size:
                self.take(client, bytes_of_it)
        except OSError:
            # Whoever takes no answers is gone, whatever it has said behind the question.
            bytes_of_it = b""
        if len(bytes_of_it) != MESSAGE.size:
            if bytes_of_it:
                say("torn", len(bytes_of_it))
            self.selector.unregister(client.connection)
            client.connection.close()
            if client.expire:
                client.dead = 1
                say("dead", client.name, client.expire)
            else:
                self.clients.remove(client)
                if client.name not in ("", "dump"):
                    say("gone", client.name)

    def take(self, client, bytes_of_it):
        _, cmd, _, _, _, _, _, renewal, expire, name = MESSAGE.unpack(bytes_of_it)
        if cmd == REGISTER:
            client.name = name.rstrip(b"\0").decode()
            say("register", client.name)
        elif cmd in (REFCOUNT_SET, REFCOUNT_CLEAR):
            client.ref = int(cmd == REFCOUNT_SET)
            say("refcount", client.ref)
        elif cmd == TEST_LIVE:
            client.renewal, client.expire = renewal, expire
            say("test_live", renewal, expire)
        elif cmd == STATUS:
            answer = MESSAGE.pack(0, cmd, 0, 0, INTERVAL, FIRE, self.last_keepalive, 0, 0, b"")
            client.connection.sendall(answer)
        elif cmd == DUMP_DEBUG:
            client.name = "dump"
            client.connection.sendall(self.dump().encode())

    def dump(self):
        lines = [f"wdmd {os.getpid()} socket_gid 0 high_priority 0 now {int(now())} last_keepalive {self.last_keepalive} "
                 "last_closeunclean 0 allow_scripts 0 kill_script_sec 0"]
        lines += [f"client {i} name {c.name} pid {c.pid} fd {-1 if c.dead else 9} dead {c.dead} ref {c.ref} now {int(now())} "
                  f"renewal {c.renewal} expire {c.expire}" for i, c in enumerate(self.clients, 2)]
        return "\n".join(lines) + "\n\n"

    def test(self):
        """One round of tests; seconds until the next."""
        failed = [c for c in self.clients if c.expire and int(now()) >= c.expire - MARGIN]
        if failed:
            if self.open:
                say("closed", *(c.name for c in failed))
            self.open = False
            return 1
        if not self.open:
            say("reopened")
        self.open, self.last_keepalive = True, int(now())
        say("keepalive")
        return INTERVAL


if __name__ == "__main__":
    Wdmd(sys.argv[1]).run()
