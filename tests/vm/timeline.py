"""What happened, in the order in which it was heard of, in the harness's clock."""

import html
import re
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """What somebody in a host, or the harness, said or did."""

    at: float
    host: str
    of: str
    text: str


class NotSeen(Exception):
    """What was waited for did not happen in time."""


class Timeline:
    def __init__(self):
        self.begun = time.monotonic()
        self.events = []
        self.changed = threading.Condition()

    def add(self, host, of, text, at=None):
        event = Event(time.monotonic() if at is None else at, host, of, text)
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()
        return event

    def find(self, host, of, pattern, since=0.0):
        """The first such event from then on, or None. `pattern` is searched for in what was said."""
        with self.changed:
            for event in self.events:
                if event.at >= since and (event.host, event.of) == (host, of) and re.search(pattern, event.text):
                    return event
        return None

    def all(self, host, of, pattern):
        with self.changed:
            return [e for e in self.events if (e.host, e.of) == (host, of) and re.search(pattern, e.text)]

    def wait(self, host, of, pattern, within, since=0.0):
        """The same, waited for."""
        until = time.monotonic() + within
        with self.changed:
            while True:
                found = self.find(host, of, pattern, since)
                if found:
                    return found
                left = until - time.monotonic()
                if left <= 0:
                    raise NotSeen(f"{host}: {of} did not say {pattern!r} within {within:g} s")
                self.changed.wait(left)

    def text(self, shown=lambda event: True):
        lines = [f"{e.at - self.begun:9.3f}  {e.host:<8} {e.of:<10} {e.text}" for e in self.events if shown(e)]
        return "\n".join(lines) + "\n"

    def svg(self, title, hosts, shown, spans):
        """A lane for each host from left to right in time; `spans` is (host, from, until, colour, what)."""
        return Drawing(title, hosts, [e for e in self.events if shown(e)], spans, self.begun).text()


class Drawing:
    """A picture of a timeline."""

    WIDTH, LEFT, LANE, ROW = 1200, 80, 40, 14

    def __init__(self, title, hosts, events, spans, begun):
        self.title, self.hosts, self.events, self.spans, self.begun = title, hosts, events, spans, begun
        ends = [e.at for e in events] + [until for _, _, until, _, _ in spans] + [begun + 1]
        self.seconds = max(ends) - begun

    def x(self, at):
        return self.LEFT + (at - self.begun) / self.seconds * (self.WIDTH - self.LEFT - 20)

    def text(self):
        lanes = {host: 60 + at * self.LANE for at, host in enumerate(self.hosts)}
        below = 60 + len(lanes) * self.LANE
        height = below + 40 + self.ROW * len(self.events)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.WIDTH}" height="{height}" font-family="sans-serif" font-size="11">',
            f'<rect width="{self.WIDTH}" height="{height}" fill="white"/>',
            f'<text x="10" y="22" font-size="15">{html.escape(self.title)}</text>',
        ]
        for host, y in lanes.items():
            parts.append(f'<text x="10" y="{y + 16}">{html.escape(host)}</text>')
            parts.append(f'<rect x="{self.LEFT}" y="{y}" width="{self.WIDTH - self.LEFT - 20}" height="24" fill="#f4f4f4"/>')
        for host, begin, until, colour, what in self.spans:
            y, x, end = lanes[host], self.x(begin), self.x(until)
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{max(end - x, 1):.1f}" height="24" fill="{colour}">'
                         f"<title>{html.escape(what)}</title></rect>")
        parts += self.ticks(below)
        for number, event in enumerate(self.events, 1):
            parts += self.mark(number, event, lanes, below + 40)
        return "\n".join([*parts, "</svg>"]) + "\n"

    def ticks(self, y):
        step = next(s for s in (1, 2, 5, 10, 20, 60, 300, 1200, 86400) if self.seconds / s < 20)
        for second in range(0, int(self.seconds) + 1, step):
            x = self.x(self.begun + second)
            yield f'<line x1="{x:.1f}" y1="50" x2="{x:.1f}" y2="{y}" stroke="#ccc"/><text x="{x:.1f}" y="{y + 12}">{second} s</text>'

    def mark(self, number, event, lanes, below):
        """A number in the lane, and what it stands for below."""
        said = f"{number}. {event.at - self.begun:.3f} s  {event.host} {event.of}: {event.text}"
        y = below + self.ROW * number
        yield f'<text x="10" y="{y}">{html.escape(said[:190])}</text>'
        if event.host in lanes:
            x = self.x(event.at)
            yield f'<line x1="{x:.1f}" y1="{lanes[event.host] - 4}" x2="{x:.1f}" y2="{lanes[event.host] + 24}" stroke="black"/>'
            yield f'<text x="{x + 1:.1f}" y="{lanes[event.host] - 5}" font-size="9">{number}</text>'
