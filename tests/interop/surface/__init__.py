"""The walk over the python3-sanlock binding, in sets of sections.

A set is walked in its order, on daemons and areas of its own; a section that
follows another goes on where that ended. Which calls a section makes never
depends on an answer: both sides are asked the same, one by one.
"""

SETS = {}


def set_of(title):
    """Decorates the sections of one set."""
    sections = SETS.setdefault(title, {})

    def add(section):
        assert not any(section.__name__ in others for others in SETS.values()), f"two sections {section.__name__}"
        sections[section.__name__] = section
        return section

    return add


from . import arguments, areas, ends, events, hosts, leases, spaces  # noqa: E402,F401
