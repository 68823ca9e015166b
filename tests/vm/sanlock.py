"""A host with the real sanlock and wdmd, as Debian has them: it keeps other rules than ours, and must get on with them."""

import time

from lab import IO_TIMEOUT, LEASES, RENEWAL_FAIL, SPACE, WDMD_FIRE_TIMEOUT, Node

HOST_DEAD = RENEWAL_FAIL + WDMD_FIRE_TIMEOUT


class SanlockNode(Node):
    """One of them."""

    def start_daemon(self, options="", fire_timeout=WDMD_FIRE_TIMEOUT):
        self.start_wdmd()
        begun = time.monotonic()
        self.run("mkdir -p /run/sanlock")
        pid = self.serve("daemon", f"sanlock daemon -D -w 1 -U root -G root -e {self.name} {options}")
        self.run("until sanlock client status >/dev/null; do sleep 0.1; done", 30)
        if self.timeline.find(self.name, "daemon", "^ended", begun):
            raise AssertionError(f"{self.name}: sanlock ended")
        return pid

    def join(self, within=120):
        """Its daemon has one io_timeout for all, 10 s, unless a lockspace is added with another."""
        self.run(f"sanlock client add_lockspace -s {SPACE}:{self.number}:{LEASES}:0 -o {IO_TIMEOUT}", within)
        self.say("lockspace", "joined")
