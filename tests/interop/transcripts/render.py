"""Replies as text: every byte of them, but for what no two daemons can have in common.

What is replaced: pids, times, file descriptors, the numbers daemons give to
things, and the directory that a daemon's files are in. A time that is 0 stays
0: "never" is an answer. Everything else is shown as it came.
"""

import re
import struct

import wire

TIME, NUMBER = "<time>", "<number>"
# Values of STATUS strings that are times, numbers a daemon has made up, or facts about the daemon itself.
TIMES = {"kill_last", "acquire_last_attempt", "acquire_last_success", "renewal_last_attempt",
         "renewal_last_success", "last_check", "last_live", "last_req", "timestamp", "monotime", "read_ms", "write_ms"}
NUMBERS = {"ci", "fd", "space_id", "res_id", "token_id", "helper_pid", "helper_kill_fd"}
COUNTS = {"kill_count"}  # how often, by how much time has passed
# What each says of itself: sanlock sets the queues of its devices, uses libaio and has a helper process, and our kill
# grace fits the watchdog.
OWN = {"max_sectors_kb_ignore", "max_sectors_kb_num", "use_aio", "kill_grace_seconds", "helper_last_status",
       "version_str"}
LOG_RING = 1 << 20
PRINTABLE = re.compile(rb"[\x20-\x7e]*\Z")
DAEMON, CLIENT, LOCKSPACE, RESOURCE, HOST, RENEWAL = range(1, 7)
KINDS = {DAEMON: "daemon", CLIENT: "client", LOCKSPACE: "lockspace", RESOURCE: "resource", HOST: "host", RENEWAL: "renewal"}


def text(data):
    """A string field: as text where it is one and zero padded, as hex where it is not."""
    body = data.rstrip(b"\0")
    if PRINTABLE.match(body) and body.isascii():
        return repr(body.decode())
    return "0x" + data.hex()


def blob(data):
    """Bytes in hex, runs of zeros counted."""
    return re.sub(r"(00){8,}", lambda run: f"[00*{len(run.group()) // 2}]", data.hex()) or "nothing"


def time_of(value):
    return "0" if int(value) == 0 else TIME


def records(data):
    """The whole records of a stream: 80 bytes, the string, and what comes behind it (spec A 11)."""
    while len(data) >= 80:
        kind, length = struct.unpack("<I68xI", data[:76])
        string, rest = data[80:80 + length], data[80 + length:]
        disks = struct.unpack("<I", rest[124:128])[0] if kind == RESOURCE else 0
        size = {LOCKSPACE: wire.LOCKSPACE, RESOURCE: wire.RESOURCE + disks * wire.DISK}.get(kind, 0)
        yield data[:80], string, rest[:size]
        data = rest[size:]
    if data:
        yield data, b"", b""


def client_pids(data):
    """The pids of the records of STATUS that are clients, -1 where one has not registered."""
    heads = (struct.unpack("<I4xi", head[:12]) for head, _, _ in records(data) if len(head) == 80)
    return [pid for kind, pid in heads if kind == CLIENT]


class Renderer:
    """Turns one daemon's replies into text; `pids` and `places` say what is replaced by what."""

    def __init__(self, pids, places):
        self.pids = pids
        self.places = places

    def pid(self, value):
        return self.pids.get(value, str(wire.signed(value)) if value in (0, 0xFFFFFFFF) else "<pid>")

    def plain(self, shown):
        for place, name in self.places.items():
            shown = shown.replace(place, name)
        return shown

    def header(self, data):
        magic, version, command, flags, length, seq, result, data2 = wire.HEADER.unpack(data)
        name = wire.NAMES.get(command, str(command))
        shown = f"{name} flags={flags:#x} length={length} seq={seq} result={wire.signed(result)} data2={data2:#x}"
        odd = "" if (magic, version) == (wire.MAGIC, wire.VERSION) else f" magic={magic:#x} version={version:#x}"
        return shown + odd

    def payload(self, asked, data):
        """Lines for what followed the header of a reply to `asked`."""
        show = getattr(self, f"_{wire.NAMES.get(asked, 'other')}", self._other)
        return [self.plain(line) for line in show(data)]

    def _other(self, data):
        return [blob(data)]

    def _inquire(self, data):
        return [repr(data.decode("latin-1"))]

    def _disk(self, data, leaks=False):
        offset, pad1, pad2 = struct.unpack("<QII", data[1024:])
        # STATUS shows the sector size in pad1, and a descriptor in pad2 (spec A 3).
        pads = f"{pad1}/{NUMBER}" if leaks else f"{pad1}/{pad2}"
        return f"{text(data[:1024])} offset={offset} pads={pads}"

    def _lockspace(self, data, leaks=False):
        host_id, flags, pad = struct.unpack("<QII", data[48:64])
        return f"lockspace {text(data[:48])} host_id={host_id} flags={flags:#x} pad={pad} {self._disk(data[64:], leaks)}"

    def _resource(self, data):
        lver, data64, data32, unused, flags, disks = struct.unpack("<QQIIII", data[96:128])
        names = f"{text(data[:48])}:{text(data[48:96])}"
        return f"resource {names} lver={lver} {data64}/{data32}/{unused} flags={flags:#x} num_disks={disks}"

    def _hosts(self, data):
        for at in range(0, len(data), wire.HOST):
            part = data[at:at + wire.HOST]
            if len(part) < wire.HOST:
                yield f"rest {blob(part)}"
                continue
            host_id, generation, timestamp, io_timeout, flags = struct.unpack("<QQQII", part)
            yield (f"host {host_id} generation={generation} timestamp={time_of(timestamp)} "
                   f"io_timeout={io_timeout} flags={flags:#x}")

    def _cut(self, data, size, show):
        return [show(data)] if len(data) == size else [f"{len(data)} bytes: {blob(data)}"]

    def _read_lockspace(self, data):
        return self._cut(data, wire.LOCKSPACE, self._lockspace)

    def _read_resource(self, data):
        return self._cut(data, wire.RESOURCE, self._resource)

    def _get_lockspaces(self, data):
        parts = [data[at:at + wire.LOCKSPACE] for at in range(0, len(data), wire.LOCKSPACE)]
        return [line for part in parts for line in self._cut(part, wire.LOCKSPACE, self._lockspace)]

    def _get_hosts(self, data):
        return list(self._hosts(data))

    def _read_resource_owners(self, data):
        if len(data) < wire.RESOURCE:
            return self._other(data)
        return [self._resource(data[:wire.RESOURCE]), *self._hosts(data[wire.RESOURCE:])]

    def _entry(self, data):
        def show(entry):
            offset, flags, unused = struct.unpack("<QII", entry[48:])
            return f"entry {text(entry[:48])} offset={offset} flags={flags:#x} unused={unused}"
        return self._cut(data, wire.RENTRY, show)

    _update_rindex = _lookup_rindex = _create_resource = _delete_resource = _entry

    def _log_dump(self, data):
        # What daemons write into their logs is theirs; the form of a line is not (spec A 11).
        form = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \d+ \[\d+\]: ")
        lines = data.split(b"\n")
        if len(data) >= LOG_RING - 1:
            lines = lines[1:-1]  # it goes round: what it begins with is the rest of a line, and it ends with a newline
        good = sum(1 for line in lines if form.match(line))
        return [f"lines of the form: {'all' if good == len(lines) else f'{good} of {len(lines)}'}"]

    def _status(self, data):
        return list(self._records(data))

    _host_status = _renewal = _status

    def _records(self, data):
        for head, string, rest in records(data):
            if len(head) < 80:
                yield f"rest {blob(head)}"
                return
            yield self._head(head)
            kind, pid = struct.unpack("<I4xi", head[:12])
            if kind == CLIENT and pid == -1 and not head[24]:
                # An idle connection: sanlock's slots keep the last command of whoever had them before.
                string = re.sub(rb"cmd_last=\d+", b"cmd_last=0", string)
            yield "  " + self._pairs(string)
            if kind == LOCKSPACE:
                yield "  " + self._lockspace(rest, leaks=True)
            if kind == RESOURCE:
                yield "  " + self._resource(rest[:wire.RESOURCE])
                for at in range(wire.RESOURCE, len(rest), wire.DISK):
                    yield "  " + self._disk(rest[at:at + wire.DISK], leaks=True)

    def _head(self, data):
        kind, flags, data32, pad, data64 = struct.unpack("<4IQ", data[:24])
        who = self.pid(data32) if kind in (CLIENT, RESOURCE) else str(data32)
        what = time_of(data64) if kind in (HOST, RENEWAL) else str(data64)
        name = self._name(data[24:72]) if kind == CLIENT else text(data[24:72])
        pad2 = struct.unpack("<I", data[76:80])[0]
        return f"{KINDS.get(kind, kind)} flags={flags} data32={who} data64={what} name={name} pads={pad}/{pad2}"

    def _name(self, data):
        """A client's name: its pid until it gives another."""
        body = data.rstrip(b"\0")
        return self.pids.get(int(body), "<pid>") if body.isdigit() else text(data)

    def _pairs(self, data):
        if not data.endswith(b"\0"):
            return f"no NUL: {blob(data)}"
        pairs = []
        for pair in data[:-1].decode("latin-1").split(" "):
            key, equals, value = pair.partition("=")
            if key in TIMES and value.lstrip("-").isdigit():
                value = time_of(value)
            elif key in NUMBERS or (key in COUNTS and value != "0"):
                value = NUMBER
            elif key in OWN:
                value = "<own>"
            elif key == "pid" and value.lstrip("-").isdigit():
                value = self.pid(int(value) & 0xFFFFFFFF)
            pairs.append(key + equals + value)
        return " ".join(pairs)
