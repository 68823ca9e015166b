"""The client scripts, in sets. A set is played in its order on one daemon; each set has a daemon of its own.

A script whose name begins with `stage_` brings its daemon to where the others
of its set begin, and is played whatever is chosen.
"""

SETS = {}


def set_of(title):
    """Decorates the scripts of one set."""
    scripts = SETS.setdefault(title, {})

    def add(script):
        assert not any(script.__name__ in others for others in SETS.values()), f"two scripts {script.__name__}"
        scripts[script.__name__] = script
        return script

    return add


from . import (areas, chance, contests, conversation, damage, edges, flags, hangs, index,  # noqa: E402,F401
               leases, malformed, others, shared, spaces, streams)
