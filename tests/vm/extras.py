"""What some scenarios need in their hosts beside the product: programs of others, from Debian's packages, as black boxes."""

import os
from dataclasses import dataclass

import debian


@dataclass(frozen=True)
class Extra:
    """Programs of some packages; small files, by their names; modules of the kernel."""

    packages: tuple
    programs: tuple
    files: tuple = ()
    modules: tuple = ()


class Unpacked:
    """One whose packages are there."""

    def __init__(self, extra, cache):
        self.extra, self.modules = extra, extra.modules
        self.root = debian.fetch_more(cache, extra.packages)

    def into(self, archive):
        for program in self.extra.programs:
            archive.copy(os.path.join(self.root, program), program, self.root)
        for name, text in self.extra.files:
            archive.file(name, text.encode(), 0o644)


SANLOCK = Extra(("sanlock",), ("usr/sbin/sanlock", "usr/sbin/wdmd"))


def with_extra(extra):
    """Marks a scenario."""
    def mark(scenario):
        scenario.extra = extra
        return scenario
    return mark
