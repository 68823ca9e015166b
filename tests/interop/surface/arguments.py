"""What each function says to each argument of a wrong type or size, and where no daemon is or was."""

from . import set_of
from .walk import MIB, SPACE, Named

absent = set_of("absent")
alone = set_of("arguments")

LONGEST, TOO_LONG = "/" + "p" * 1022, "/" + "p" * 1023
WRONG = (None, "text", b"bytes", 1.5, (), [], -1, 1 << 31, 1 << 32, 1 << 64)
# What is a number out of range: those have sections of their own.
NUMBERS = {("add_lockspace", 1), ("add_lockspace", "iotimeout"), ("write_lockspace", "iotimeout")}


def examples(walk, pid):
    """{function: (positional arguments, keyword arguments)}, all in range; without a lockspace most are refused."""
    space, lease = walk.path("nowhere"), walk.lease(0)
    area, place = (walk.path("blank"), 0), {"align": MIB, "sector": 512}
    return {
        "get_alignment": ((space,), {}),
        "write_lockspace": ((SPACE, area[0]), {"offset": 0, "max_hosts": 0, "iotimeout": 1, **place}),
        "read_lockspace": ((area[0],), {"offset": 0, **place}),
        "write_resource": ((SPACE, b"r", [area]), {"max_hosts": 0, "num_hosts": 0, "clear": False, **place}),
        "read_resource": ((area[0],), {"offset": 0, **place}),
        "read_resource_owners": ((SPACE, b"r", [area]), place),
        "add_lockspace": ((SPACE, 1, space), {"offset": 0, "iotimeout": 1, "wait": True}),
        "inq_lockspace": ((SPACE, 1, space), {"offset": 0, "wait": False}),
        "rem_lockspace": ((SPACE, 1, space), {"offset": 0, "wait": True, "unused": False}),
        "get_hosts": ((SPACE,), {"host_id": 1}),
        "acquire": (lease, {"pid": pid, "slkfd": -1, "shared": False, "version": 1, "lvb": False}),
        "release": (lease, {"pid": pid, "slkfd": -1}),
        "inquire": ((), {"slkfd": -1, "pid": pid}),
        "request": (lease, {"action": 2, "version": 1}),
        "set_lvb": ((*lease, b"value"), {}),
        "get_lvb": ((*lease, 512), {}),
        "killpath": (("/bin/true", ["one"]), {"slkfd": -1}),
        "set_event": ((SPACE, 1, 1, 1), {"data": 1, "flags": 0}),
        "reg_event": ((SPACE,), {}),
        "get_event": ((-1,), {}),
        "end_event": ((-1, SPACE), {}),
        "get_lockspaces": ((), {}),
        "register": ((), {}),
    }


@absent
def no_daemon(walk):
    a = walk.who("A")
    for call, (arguments, keywords) in examples(walk, a.pid).items():
        getattr(a, call)(*arguments, **keywords)


@absent
def daemon_that_has_died(walk):
    """Its socket stays; whoever was connected notices."""
    walk.start()
    a = walk.who("A2")
    fd = a.register()
    a.inquire(slkfd=fd)
    walk.kill()
    for call, (arguments, keywords) in examples(walk, a.pid).items():
        getattr(a, call)(*arguments, **keywords)
    a.inquire(slkfd=fd)
    a.acquire(*walk.lease(0), slkfd=fd)
    a.release(*walk.lease(0), slkfd=fd)
    a.killpath("/bin/true", [], slkfd=fd)
    a.close_fd(fd)
    a.inquire(slkfd=fd)


@alone
def in_range(walk):
    walk.start()
    a = walk.a = walk.who("A")
    for call, (arguments, keywords) in examples(walk, a.pid).items():
        getattr(a, call)(*arguments, **keywords)


@alone
def too_few_too_many_unknown(walk):
    for call, (arguments, keywords) in examples(walk, walk.a.pid).items():
        if arguments:
            getattr(walk.a, call)()
            getattr(walk.a, call)(*arguments[:-1])
        getattr(walk.a, call)(*arguments, unknown=1)
        getattr(walk.a, call)(*arguments, *([0] * (len(keywords) + 1)))


def wrongs(call, argument):
    """The wrong values for an argument."""
    return [each for each in WRONG if (call, argument) not in NUMBERS or not isinstance(each, int)]


@alone
def each_argument_of_a_wrong_type(walk):
    for call, (arguments, keywords) in examples(walk, walk.a.pid).items():
        for at in range(len(arguments)):
            for wrong in wrongs(call, at):
                getattr(walk.a, call)(*arguments[:at], wrong, *arguments[at + 1:], **keywords)
        for key in keywords:
            for wrong in wrongs(call, key):
                getattr(walk.a, call)(*arguments, **{**keywords, key: wrong})


def named(walk, name):
    """Every function that takes a name."""
    a = walk.a
    a.write_lockspace(name, walk.path("blank"), iotimeout=1)
    a.read_lockspace(walk.path("blank"))
    a.write_resource(name, b"r", [(walk.path("blank"), MIB)])
    a.read_resource(walk.path("blank"), MIB)
    a.write_resource(SPACE, name, [(walk.path("blank"), 2 * MIB)])
    a.read_resource(walk.path("blank"), 2 * MIB)
    a.read_resource_owners(SPACE, name, [(walk.path("blank"), 2 * MIB)])
    a.inq_lockspace(name, 1, walk.path("space"))
    a.rem_lockspace(name, 1, walk.path("space"))
    a.get_hosts(name)
    a.acquire(name, b"r", [(walk.path("blank"), MIB)], pid=a.pid)
    a.release(SPACE, name, [(walk.path("blank"), MIB)], pid=a.pid)
    a.request(name, b"r", [(walk.path("blank"), MIB)])
    a.set_lvb(SPACE, name, [(walk.path("blank"), MIB)], b"v")
    a.get_lvb(SPACE, name, [(walk.path("blank"), MIB)], 1)
    a.set_event(name, 1, 1, 1)
    a.reg_event(name)
    a.end_event(-1, name)


@alone
def names_of_all_lengths(walk):
    for name in (b"n" * 47, b"n" * 48, b"n" * 49, b"n" * 200, b"a b", b"a:b", b"a\0b", b"\xff", b"\\"):
        named(walk, name)


@alone
def no_name(walk):
    named(walk, b"")


@alone
def paths_of_all_kinds(walk):
    a = walk.a
    for path in ("", "relative", walk.path("nowhere"), walk.directory, "/dev/null", LONGEST, TOO_LONG, "a\0b",
                 walk.path("space").encode(), walk.path("short")):
        a.get_alignment(path)
        a.write_lockspace(SPACE, path, iotimeout=1)
        a.read_lockspace(path)
        a.write_resource(SPACE, b"r", [(path, 0)])
        a.read_resource(path)
        a.read_resource_owners(SPACE, b"r", [(path, 0)])
        if not path or path in (walk.path("nowhere"), LONGEST, TOO_LONG):
            a.add_lockspace(b"ELSEWHERE", 1, path)
        a.inq_lockspace(SPACE, 1, path)
        a.rem_lockspace(SPACE, 1, path)
        a.acquire(SPACE, b"r", [(path, 0)], pid=a.pid)
        a.release(SPACE, b"r", [(path, 0)], pid=a.pid)
        a.request(SPACE, b"r", [(path, 0)])
        a.set_lvb(SPACE, b"r", [(path, 0)], b"v")
        a.get_lvb(SPACE, b"r", [(path, 0)], 1)


@alone
def disks_of_all_forms(walk):
    a, path = walk.a, walk.path("blank")
    for disks in ([], [()], [(path,)], [(path, 0, 0)], [[path, 0]], [path], [None], [(path, None)], [(path, -1)],
                  [(path, 1 << 64)], [(None, 0)], [(path.encode(), 0)], [(path, 0)] * 5):
        for call, more in (("write_resource", ()), ("read_resource_owners", ()), ("request", ()), ("set_lvb", (b"v",)),
                           ("get_lvb", (1,))):
            getattr(a, call)(SPACE, b"r", disks, *more)
        a.acquire(SPACE, b"r", disks, pid=a.pid)
        a.release(SPACE, b"r", disks, pid=a.pid)


@alone
def fds_and_pids(walk):
    """Whom a call is for: a connection or a process, neither, both, or nobody."""
    a, b = walk.who("C"), walk.who("B")
    lease = walk.lease(0)
    fd = a.register()
    again = a.register()
    nobody = a.register()
    a.close_fd(nobody)
    read_end = a.client.outcome("os.open", "/dev/null", 0)[1]
    for slkfd, pid in ((-1, -1), (fd, -1), (again, -1), (fd, a.pid), (fd, b.pid), (-1, a.pid), (-1, b.pid), (-1, 0), (-1, 1),
                       (nobody, -1), (12345, -1), (-2, -1), (Named(read_end, "a file"), -1), (-1, -2), (-1, (1 << 31) - 1)):
        a.inquire(slkfd=slkfd, pid=pid)
        a.acquire(*lease, slkfd=slkfd, pid=pid)
        a.release(*lease, slkfd=slkfd, pid=pid)
        a.killpath("/bin/true", ["x"], slkfd=slkfd)
    for other in (nobody, 12345, -2, Named(read_end, "a file")):
        a.get_event(other)
        a.end_event(other, SPACE)
    b.inquire(pid=a.pid)
    a.close_fd(again)
    a.close_fd(fd)
    walk.until(lambda outcome: outcome[0] == "raised", b, "inquire", pid=a.pid)
    a.register()
    a.inquire(pid=a.pid)
    b.inquire(pid=a.pid)


@alone
def killpaths(walk):
    a = walk.a
    fd = a.register()
    for path, arguments in (("/bin/true", []), ("/bin/true", ["a", "b c", "d\\e", ""]), ("/bin/true", ["é"]), ("", []),
                            ("/" + "p" * 125, []), ("/" + "p" * 126, []), ("/" + "p" * 127, []), ("/" + "p" * 128, []),
                            ("/bin/true", ["a" * 127]), ("/bin/true", ["a" * 126]), ("/bin/true", ["a" * 128]),
                            ("/bin/true", ["a"] * 64), ("/bin/true", ["a"] * 65), ("/bin/true", ["\\" * 64]),
                            ("/bin/true", [b"bytes"]), ("/bin/true", [1]), ("/bin/true", ("tuple",)), (b"/bin/true", []),
                            ("relative", ["x"])):
        a.killpath(path, arguments, slkfd=fd)
        a.inquire(slkfd=fd)
