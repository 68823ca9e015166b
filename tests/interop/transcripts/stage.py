"""Where a client script is played: one daemon, its areas, and what was said.

A `Stage` is either side's: real sanlock's or Holdfast's. Both get areas with
the same bytes, made by the real program. Every request and every reply goes
into `lines`; two sides agree where these lines are equal.
"""

import os
import socket
import subprocess
import time

import past_cache
import wire
from actor import Actor
from render import Renderer, client_pids

MIB = 1 << 20
IO_TIMEOUT = 1  # seconds
SPACE, OTHER_SPACE = "LS", "OTHER"
RESOURCES = 40
SOON = 3.0  # seconds within which a reply is expected that waits for nothing
OWN_CONNECTIONS = 3  # helper, listener, and whoever asks
QUIET = 0.06  # seconds of nothing that show a connection to be open still


def lay_out(directory):
    """The areas: made once, copied to both sides."""
    path = os.path.join(directory, "areas")

    def direct(*arguments):
        subprocess.run(["sanlock", "direct", *arguments], check=True, stdout=subprocess.DEVNULL)

    for name in ("space", "space2", "leases", "blank"):
        with open(os.path.join(directory, name), "wb") as file:
            file.truncate((RESOURCES + 1) * MIB if name == "leases" else 8 * MIB)
    for name, space in (("space", SPACE), ("space2", OTHER_SPACE)):
        direct("init", "-s", f"{space}:0:{directory}/{name}:0", "-o", str(IO_TIMEOUT))
    for at in range(RESOURCES):
        direct("init", "-r", f"{SPACE}:r{at}:{directory}/leases:{at * MIB}")
    return path


class Connection:
    """One connection of a client process."""

    def __init__(self, stage, actor, who):
        self.stage, self.actor, self.who = stage, actor, who
        self.number = actor.call("connect")

    def say(self, text):
        self.stage.lines.append(f"{self.who}.{self.number} {text}")

    def send(self, data, shown):
        """Bytes, and what they are."""
        done = self.actor.call("send", self.number, data)
        self.say(f"> {shown}" + ("" if done == "sent" else f" ({done})"))

    def request(self, command, payload=b"", flags=0, data=0, data2=0, length=None, **odd):
        """Sends a request, and does not wait for an answer."""
        length = 32 + len(payload) if length is None else length
        head = wire.header(command, flags, data, data2, length, **odd)
        self.send(head + payload, f"{command} flags={flags:#x} data={wire.signed(data & 0xFFFFFFFF)} and {len(payload)} bytes")

    def reply(self, within=SOON):
        """Receives one reply; its result, or None where none came."""
        head, over = self.actor.call("receive", self.number, 32, within)
        if len(head) < 32:
            self.say(f"< {head.hex() or 'nothing'}, {'closed' if over else 'open'}")
            return None
        _, _, command, _, length, _, result, _ = wire.HEADER.unpack(head)
        self.say("< " + self.stage.renderer.header(head))
        # Streams end with the connection, and LOG_DUMP's length is its result (spec A 2, 5).
        most = max(0, length - 32)
        if wire.NAMES.get(command) in wire.STREAMS:
            most = 1 << 24
        if wire.NAMES.get(command) == "log_dump":
            most = wire.signed(result)
        body, _ = self.actor.call("receive", self.number, most, within)
        if body:
            for line in self.stage.renderer.payload(command, body):
                self.say("<   " + line)
        if wire.NAMES.get(command) in wire.STREAMS:
            self.stands()
        return wire.signed(result)

    def ask(self, command, payload=b"", within=SOON, **header):
        """A request and its reply."""
        self.request(command, payload, **header)
        return self.reply(within)

    def stands(self):
        """Whether the daemon has closed it, and that it sent nothing more."""
        more, over = self.actor.call("receive", self.number, 4096, QUIET if not self.stage.patient else SOON)
        self.say(f"< {'closed' if over else 'open'}" + (f", and {len(more)} bytes" if more else ""))

    def half_close(self):
        self.actor.call("half_close", self.number)
        self.say("half closed")

    def close(self):
        self.actor.call("close", self.number)
        self.say("closed by its client")


class Client:
    """A process, its first connection opened."""

    def __init__(self, stage, who):
        self.stage, self.who = stage, who
        self.actor = Actor(stage.run_dir)
        self.pid = self.actor.pid
        stage.renderer.pids[self.pid] = who
        self.first = self.connect()

    def connect(self):
        return Connection(self.stage, self.actor, self.who)

    def register(self):
        """Its first connection, registered."""
        self.first.request("register")
        return self.first

    def known(self):
        """The same, and waits until the daemon knows it: REGISTER has no answer, and another's request may overtake it."""
        self.register()
        until = time.monotonic() + SOON
        while self.pid not in client_pids(self.stage.status()):
            if time.monotonic() > until:
                raise TimeoutError(f"the daemon does not know {self.who}")
            time.sleep(0.02)
        return self.first

    def ended(self, within=8.0):
        self.stage.lines.append(f"{self.who} ended by {self.actor.ended_by(within)}")


class Stage:
    """A daemon, its areas, and the transcript of one script."""

    def __init__(self, side, directory, areas, start):
        self.side, self.directory, self.patient = side, directory, False
        os.makedirs(directory)
        for name in ("space", "space2", "leases", "blank"):
            # Zeros as holes: gigabytes on their way to the disk would hold up what is to be there within a second.
            subprocess.run(["cp", "--sparse=always", os.path.join(areas, name), directory], check=True)
        self.run_dir = os.path.join(directory, "run")
        self.renderer = Renderer({}, {directory: "DIR"})
        self.lines, self.clients, self.next_resource = [], [], 0
        self.daemon = start(self.run_dir)
        self._settle()  # whoever looked whether it answers is gone

    def path(self, name):
        return os.path.join(self.directory, name)

    def client(self):
        """A new process. Clients are named A, B, C."""
        self.clients.append(Client(self, "ABCDEFGH"[len(self.clients)]))
        return self.clients[-1]

    def fresh(self):
        """The number of a lease that no script has touched."""
        self.next_resource += 1
        return self.next_resource - 1

    def lease(self, number, space=SPACE, name=None, **more):
        """A lease as a request names it, with its disk."""
        disks = [(self.path("leases"), number * MIB)]
        return wire.resource(space, f"r{number}" if name is None else name, disks, **more)

    def named(self, number, space=SPACE, name=None, **more):
        """A lease as a request names it where no disks follow."""
        return wire.resource(space, f"r{number}" if name is None else name, num_disks=1, **more)

    def space(self, name=SPACE, host_id=1, file="space", offset=0, **more):
        return wire.lockspace(name, host_id, self.path(file), offset, **more)

    def read_disk(self, file, offset, length):
        return past_cache.read(self.path(file), offset, length)

    def write_disk(self, file, offset, data):
        past_cache.write(self.path(file), offset, data)

    def play(self, script):
        """The transcript of one script."""
        self.lines, self.renderer.pids = [], {}
        try:
            script(self)
        except Exception as error:  # it is told with what came before
            self.lines.append(f"!! {type(error).__name__}: {error}")
        for client in self.clients:
            client.actor.end()
        self.clients = []
        self._settle()
        return self.lines

    def _settle(self):
        """Waits until the daemon has seen the clients go: the next ones then get the same slots on both sides."""
        until = time.monotonic() + SOON
        while self._is_at_work() and time.monotonic() < until:
            time.sleep(0.02)

    def _is_at_work(self):
        status = self.status(0)
        return len(client_pids(status)) > OWN_CONNECTIONS or b"list=rem " in status

    def wait_for_workers(self, but=0):
        """Waits until only so many connections wait: sanlock's workers answer first, and let go of one after that."""
        until = time.monotonic() + SOON
        while self.status().count(b" suspend=1 ") > but and time.monotonic() < until:
            time.sleep(0.02)

    def until_status_has(self, told, so=True):
        """Waits until these bytes are somewhere in all of STATUS; or until they are not."""
        until = time.monotonic() + SOON
        while (told in self.status(0)) != so:
            if time.monotonic() > until:
                raise TimeoutError(f"STATUS: {told} is {'not ' * so}there")
            time.sleep(0.02)

    def status(self, stop_after=2):
        """The daemon's records, of itself and its connections unless told otherwise; nothing where no daemon answers."""
        return self.look("status", data=stop_after)[32:]

    def look(self, command, payload=b"", **header):
        """The whole answer to a command after which the daemon closes, asked on nobody's connection; it is not told."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SOON)
            try:
                connection.connect(os.path.join(self.run_dir, "sanlock.sock"))
                connection.sendall(wire.header(command, length=32 + len(payload), **header) + payload)
                return b"".join(iter(lambda: connection.recv(65536), b""))
            except OSError:
                return b""
