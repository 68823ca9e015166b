"""The `.sectors` text form of one lease area: every byte of it, compactly.

    # comment
    kind paxos            delta | paxos | rindex
    sector_size 512
    align_size 1048576    bytes in the area
    area_offset 0         where the area began on its device, bytes
    repeat 4 1997 3       sectors 4..=1997 hold the same bytes as sector 3
    @00000000 512         a sector: byte offset in the area (hex), sector size
    000 10201506...       32 bytes at this offset in the sector (hex)
    020 ...

Lines of 32 zero bytes are left out, and so are sectors that are all zero. At
most one `repeat`, used in delta areas: a formatted one has the same bytes in
every host's sector. Lines come in rising order, so equal areas are equal text.
"""

LINE = 32
KEPT_FIRST = 4  # of a delta area: sectors written out before the repeated ones
KEPT_LAST = 2   # and after them


class Area:
    """One lease area: `raw` is exactly `align_size` bytes."""

    def __init__(self, kind, sector_size, area_offset, raw):
        self.kind = kind
        self.sector_size = sector_size
        self.area_offset = area_offset
        self.raw = bytes(raw)

    def sector(self, number):
        """The bytes of sector `number`."""
        return self.raw[number * self.sector_size:][:self.sector_size]

    def sector_count(self):
        return len(self.raw) // self.sector_size


def max_hosts(sector_size, align_size):
    """Hosts an area has room for; spec section 1.1."""
    return 2000 if sector_size == 512 else align_size * 250 // (1 << 20)


def _repeated(area):
    """The sectors of a delta area to leave out: (first, last, equal to)."""
    if area.kind != "delta":
        return None
    model = KEPT_FIRST - 1
    first = KEPT_FIRST
    last = max_hosts(area.sector_size, len(area.raw)) - KEPT_LAST - 1
    for number in range(first, last + 1):
        if area.sector(number) != area.sector(model):
            raise ValueError(f"sector {number} differs from sector {model}: cannot be left out")
    return first, last, model


def encode(area):
    """The text of `area`."""
    lines = [f"kind {area.kind}", f"sector_size {area.sector_size}",
             f"align_size {len(area.raw)}", f"area_offset {area.area_offset}"]
    repeat = _repeated(area)
    if repeat:
        lines.append("repeat {} {} {}".format(*repeat))
    for number in range(area.sector_count()):
        data = area.sector(number)
        if repeat and repeat[0] <= number <= repeat[1] or not any(data):
            continue
        lines.append(f"@{number * area.sector_size:08x} {area.sector_size}")
        for at in range(0, area.sector_size, LINE):
            piece = data[at:at + LINE]
            if any(piece):
                lines.append(f"{at:03x} {piece.hex()}")
    return "\n".join(lines) + "\n"


def decode(text):
    """The area that `text` describes, all of its bytes."""
    fields, repeat, raw, base = {}, None, None, None
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0] == "repeat":
            repeat = [int(word) for word in words[1:]]
        elif words[0].startswith("@"):
            raw = raw or bytearray(int(fields["align_size"]))
            base = int(words[0][1:], 16)
            assert words[1] == fields["sector_size"], line
        elif base is None:
            fields[words[0]] = words[1]
        else:
            piece = bytes.fromhex(words[1])
            at = base + int(words[0], 16)
            assert len(piece) == LINE and at + LINE <= len(raw), line
            raw[at:at + LINE] = piece
    raw = raw or bytearray(int(fields["align_size"]))
    size = int(fields["sector_size"])
    if repeat:
        first, last, model = repeat
        copy = bytes(raw[model * size:(model + 1) * size])
        raw[first * size:(last + 1) * size] = copy * (last + 1 - first)
    return Area(fields["kind"], size, int(fields["area_offset"]), raw)
