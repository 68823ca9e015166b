"""Differences between the two daemons: the script in which each shows, and why.

The first kind is deliberate, and listed in docs/compatibility.md. The second is
what Holdfast does not serve yet: it is refused, and goes from here as it is.
"""

DELIBERATE = {
    "conversion_beside_another_sharer": "S1 holds among the clients of one host, too",
    "killpath": "whoever sets another client's killpath is refused; sanlock never answers",
    "payloads_that_end_early": "what was not received is zeros in our reply, and memory of the daemon in sanlock's",
    "requests_that_mean_nothing": "only what is known is asked for; sanlock writes any number",
    "only_an_orphan_without_a_value": "ORPHAN_ONLY counts with and without LVB",
    "name_of_a_registered_connection": "a client keeps its name when it asks for the lockspaces",
}

NOT_SERVED = {
    "index_without_a_lockspace": "the resource index",
    "index_not_there": "the resource index",
    "index_of_two": "the resource index",
    "index_updated_by_hand": "the resource index",
    "index_of_another_lockspace": "the resource index",
    "names_of_connections": "the resource index",
}

DIFFERENCES = DELIBERATE | NOT_SERVED
