"""Differences between the two daemons: the script in which each shows, and why.

The first kind is deliberate, and listed in docs/compatibility.md. The second is
what Holdfast does not serve yet: it is refused, and goes from here as it is.
"""

DELIBERATE = {
    "index_offsets_out_of_range": "refused; sanlock answers nonsense, and its daemon dies of those far away",
    "index_that_another_client_works_on": "whoever holds the lease of an index holds it among the clients of one host, too",
    "index_with_a_name_twice": "a name is listed once",
    "index_without_a_name": "no resource and no lockspace has an empty name",
    "index_deleted_where_it_is_not": "nothing is deleted that is not where it is said to be",
    "index_updated_over_others": "an entry is not overwritten, and not removed under another's name",
    "index_of_a_lease_in_use": "a lease that somebody holds is not cleared",
    "index_beside_others_leases": "a lockspace is not formatted over",
    "index_rebuilt_among_others_leases": "leases of other lockspaces are not listed",
    "conversion_beside_another_sharer": "S1 holds among the clients of one host, too",
    "killpath": "whoever sets another client's killpath is refused; sanlock never answers",
    "payloads_that_end_early": "what was not received is zeros in our reply, and memory of the daemon in sanlock's",
    "requests_that_mean_nothing": "only what is known is asked for; sanlock writes any number",
    "only_an_orphan_without_a_value": "ORPHAN_ONLY counts with and without LVB",
    "name_of_a_registered_connection": "a client keeps its name when it asks for the lockspaces",
}

NOT_SERVED = {}

DIFFERENCES = DELIBERATE | NOT_SERVED
