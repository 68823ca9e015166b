"""A host: a kernel of its own in QEMU, with clocks and a hardware watchdog of its own, that can be told to do things.

Translated (TCG): what has KVM on one machine aborts on another, and where every host is slow none is an exception. The watchdog resets the host as a board's does; that is heard at once. A process of the
harness that is killed takes its hosts along.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import threading
import time

PR_SET_PDEATHSIG = 1
MEMORY = 192
MODULES = "virtio_pci,virtio_console,virtio_blk,unix_diag"
# Time by what counts in QEMU's own clock: how fast the others count is found out at boot, which on a busy machine goes wrong by factors.
KERNEL = (
    "console=ttyS0 quiet panic=-1 notsc clocksource=hpet nolapic_timer no_timer_check mitigations=off random.trust_cpu=on rcupdate.rcu_expedited=1 "
    "cryptomgr.notests i8042.nokbd i8042.noaux nokaslr nopti audit=0 selinux=0 apparmor=0"
)
LIBC = ctypes.CDLL(None, use_errno=True)


class HostError(Exception):
    """The host, or its QEMU, does not do what it should."""


class Failed(HostError):
    """A command in a host ended with another status than 0."""


def end_with_us():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Host:
    """One of them. `paths` are its ways to the shared disks, /dev/vda and so on in their order."""

    def __init__(self, name, number, tools, image, directory, timeline, paths, watchdog="i6300esb", log=None):
        self.name, self.number, self.tools, self.image, self.directory = name, number, tools, image, directory
        self.timeline, self.paths, self.watchdog = timeline, paths, watchdog
        self.modules = MODULES + "".join(f",{driver}" for driver in ([driver_of(watchdog)] if watchdog else []))
        os.makedirs(directory)
        self.process, self.answers, self.replies, self.next_id = None, {}, {}, 0
        self.changed = threading.Condition()

    def say(self, of, text):
        return self.timeline.add(self.name, of, text)

    # Its life.

    def start(self):
        """Switches it on."""
        ends = {name: self.at(f"{name}.sock") for name in ("monitor", "agent", "console")}
        for path in ends.values():
            if os.path.exists(path):
                os.unlink(path)
        self.say("power", "on")
        with open(self.at("qemu.log"), "ab") as log:
            self.process = subprocess.Popen(
                self.command(ends), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_us,
                env={**os.environ, **self.tools.environment()})
        self.monitor, self.agent, console = (self.connect(ends[name]) for name in ("monitor", "agent", "console"))
        for lines, each in ((self.monitor, self.heard_monitor), (self.agent, self.heard_agent)):
            threading.Thread(target=read_lines, args=(lines, each), daemon=True).start()
        threading.Thread(target=read_lines, args=(console, lambda line: self.say("console", line)), daemon=True).start()
        self.monitor_do("qmp_capabilities")

    def connect(self, path):
        until = time.monotonic() + 30
        while True:
            stream = socket.socket(socket.AF_UNIX)
            try:
                stream.connect(path)
                return stream
            except OSError as error:
                stream.close()
                if self.process.poll() is not None or time.monotonic() > until:
                    with open(self.at("qemu.log"), encoding="utf-8", errors="replace") as log:
                        raise HostError(f"{self.name}: QEMU cannot be spoken to ({error}): {log.read()[-800:]}") from error
                time.sleep(0.02)

    def at(self, name):
        return os.path.join(self.directory, name)

    def command(self, ends):
        words = self.tools.qemu() + [
            "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel",
            "tcg,thread=multi,tb-size=64", "-cpu", "max,la57=off", "-smp", "1", "-m", str(MEMORY),
            "-kernel", os.path.join(self.image, "vmlinux"), "-initrd", os.path.join(self.image, "initrd"),
            "-append", f"{KERNEL} vm.name={self.name} vm.modules={self.modules}", "-rtc", "base=utc,clock=host",
            "-action", "watchdog=reset,reboot=reset,panic=none", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=agent", "-serial", "chardev:console",
            "-chardev", f"socket,id=agent,path={ends['agent']},server=on,wait=off",
            "-chardev", f"socket,id=console,path={ends['console']},server=on,wait=off",
            "-qmp", f"unix:{ends['monitor']},server=on,wait=off",
        ]
        if self.watchdog:
            words += ["-device", f"{self.watchdog},id=watchdog"]
        for at, path in enumerate(self.paths):
            words += self.disk_words(at, path)
        return words

    def disk_words(self, at, path):
        server = {"driver": "nbd", "server": {"type": "unix", "path": path.socket_path}, "export": "",
                  "node-name": f"path{at}", "cache": {"direct": True, "no-flush": False}}
        # Behind a port of its own, so that it can be pulled out.
        return ["-blockdev", json.dumps(server), "-device", f"pcie-root-port,id=port{at},chassis={at + 1},slot={at + 1}",
                "-device", json.dumps(self.disk_device(at, path))]

    @staticmethod
    def disk_device(at, path):
        return {"driver": "virtio-blk-pci", "bus": f"port{at}", "drive": f"path{at}", "id": f"disk{at}", "share-rw": True,
                "serial": path.disk.name, "logical_block_size": path.disk.sector, "physical_block_size": path.disk.sector,
                "rerror": "report", "werror": "report"}

    def wait_up(self, since=0.0, within=120):
        return self.timeline.wait(self.name, "agent", "^up", within, since)

    def cut_power(self):
        """What is in flight stays in flight."""
        cut = self.say("power", "cut")
        self.process.kill()
        self.process.wait()
        for path in self.paths:
            path.sever()
        return cut

    def is_on(self):
        return self.process is not None and self.process.poll() is None

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    # What hardware and hypervisors do to a host.

    def pause(self):
        """Its processor, its clocks and its watchdog stand still: what a hypervisor does."""
        self.monitor_do("stop")

    def go_on(self):
        self.monitor_do("cont")

    def freeze(self):
        """Its processor stands still, and nobody tells it later how long: what a broken board does; see `reset`."""
        self.monitor_do("stop")

    def reset(self):
        """What a watchdog does to a frozen board. QEMU's own stands still with the clocks."""
        self.monitor_do("system_reset")
        self.monitor_do("cont")

    def pull_disk(self, at):
        self.monitor_do("device_del", id=f"disk{at}")
        self.timeline.wait(self.name, "monitor", f"DEVICE_DELETED disk{at}", 20)

    def push_disk(self, at):
        self.monitor_do("device_add", **self.disk_device(at, self.paths[at]))

    # Its monitor.

    def heard_monitor(self, line):
        message = json.loads(line)
        if "event" in message:
            data = message.get("data", {})
            detail = data.get("device") or data.get("action") or data.get("reason") or ""
            self.say("monitor", f"{message['event']} {detail}".strip())
            if message["event"] == "WATCHDOG":
                # QEMU resets it once nothing is in flight for it; of a real host nobody waits for that.
                threading.Thread(target=lambda: [path.sever() for path in self.paths], daemon=True).start()
            return
        with self.changed:
            self.replies[message.get("id")] = message
            self.changed.notify_all()

    def monitor_do(self, what, **arguments):
        number = self.number_of_call()
        send(self.monitor, {"execute": what, "arguments": arguments, "id": number})
        answer = self.await_in(self.replies, number, 30, what)
        if "error" in answer:
            raise HostError(f"{self.name}: {what}: {answer['error']['desc']}")
        return answer["return"]

    # Its agent.

    def heard_agent(self, line):
        message = json.loads(line)
        if "up" in message:
            self.say("agent", f"up, its clock says {message['up']} s")
        elif "line" in message:
            self.say(message["of"], message["line"])
        elif "ended" in message:
            self.say(message["of"], f"ended, status {message['ended']}")
        else:
            with self.changed:
                self.answers[message["id"]] = message
                self.changed.notify_all()

    def number_of_call(self):
        with self.changed:
            self.next_id += 1
            return self.next_id

    def await_in(self, answers, number, within, what):
        with self.changed:
            if not self.changed.wait_for(lambda: number in answers, within):
                raise HostError(f"{self.name}: no answer within {within} s: {what}")
            return answers.pop(number)

    def begin(self, text):
        """Begins a command of the host's shell; what `finish` is given."""
        number = self.number_of_call()
        send(self.agent, {"id": number, "run": text})
        return number, text

    def finish(self, begun, within=60):
        number, text = begun
        answer = self.await_in(self.answers, number, within, text)
        return answer["status"], answer["output"]

    def run(self, text, within=60):
        """What a command of the host's shell says; it must succeed."""
        status, output = self.finish(self.begin(text), within)
        if status != 0:
            raise Failed(f"{self.name}: {text}: status {status}: {output.strip()}")
        return output

    def serve(self, name, text):
        """Starts something whose every line is an event; its pid."""
        number = self.number_of_call()
        send(self.agent, {"id": number, "run": f"exec {text}", "serve": name})
        return self.await_in(self.answers, number, 30, text)["pid"]


def driver_of(watchdog):
    return {"i6300esb": "i6300esb", "ib700": "ib700wdt"}[watchdog]


def send(stream, message):
    stream.sendall(json.dumps(message).encode() + b"\n")


def read_lines(stream, each):
    with stream.makefile("r", encoding="utf-8", errors="replace") as lines:
        try:
            for line in lines:
                if line.strip():
                    each(line.rstrip())
        except OSError:
            pass  # QEMU has ended.
