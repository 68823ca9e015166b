"""Differences between the two daemons: the script in which each shows, and why.

The first kind is deliberate, and listed in docs/compatibility.md. The second is
what Holdfast does not serve yet: it is refused, and goes from here as it is. The
third has been found, and nobody has said yet which of the two it is, or a fault.
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

# Found by these scripts, and not judged yet: put right, or deliberate and then listed in docs/compatibility.md.
FOUND = {
    "held_then_begun_then_given_back_then_left_behind": "held before add; ours: both together, the newest first",
    "status_counts_the_times_that_a_lease_was_acquired": "reused: one more each time; ours: 0",
    "status_of_a_client_whose_killpath_is_told_its_pid": "flags 1 of the client, for good; ours: 0",
    "status_beside_a_connection_that_listens": "is no client any more; ours: is one",
    "status_of_a_lease_whose_release_hangs": "its pid to the end; ours: -1 once the client is seen to be gone",
    "status_of_a_lockspace_that_is_lost": "corrupt_result says why, its hosts are told; ours: 0, -202 and ENOENT",
    "in_use_whatever_the_host_id": "UNUSED is looked at first: EBUSY; ours: ENOENT",
    "a_request_that_is_taken_back_whatever_the_name": "no name is looked at; ours: -227",
    "flags_of_a_lease_that_mean_nothing": "come back; ours: taken out",
    "a_sharer_that_leaves_its_lease_behind_beside_another": "leaves nothing; ours: an orphan beside it",
    "restricted_once_it_holds_a_lease_and_asked_for": "what it restricted when it acquired; ours: what it does now",
    "no_longer_restricted_and_asked_for": "as the one before",
    "restricted_to_no_signal_and_asked_for": "one signal is replaced once: SIGTERM; ours: SIGKILL",
    "a_value_with_a_length_that_cannot_be": "ENOMEM; ours: 0 or E2BIG",
    "releases_of_which_one_is_whole": "is done; ours: none",
    "values_of_the_length_that_is_asked_for": "data2 is how much of a value is wanted; ours: is not looked at",
    "all_of_them_and_another_flag": "all are released; ours: 0 or EINVAL, and none is",
    "more_disks_than_a_lease_can_have": "ERANGE, and then no answer to anybody; ours: ERANGE, and they are passed over",
    "hosts_right_after_a_join": "EAGAIN until the first renewal; ours: told at once",
    "busy_from_the_header_on": "EBUSY for others while the payload is on its way, before E2BIG; ours: once it is there",
    "leaders_that_are_sealed_and_mean_nothing": "flags are passed over, sizes are -214; ours: -224, -225",
    "a_first_sector_that_is_damaged": "its checksum is not looked at; ours: -229",
    "a_sector_that_is_sealed_and_means_nothing": "unknown flags are not looked at; ours: -224",
    "a_lockspace_in_a_file_that_ends_within_it": "joined; ours: -90, or -202",
    "owned_by_a_generation_that_its_host_has_not_had": "granted where the host_id is free; ours: -247, for good",
    "fewer_hosts_than_our_own_are_asked_for": "granted, and cannot be given back; ours: EINVAL",
    "an_exclusive_lease_on_a_disk_whose_writes_hang": "-211; ours: -202",
    "conversions_on_a_disk_that_fails": "EIO; ours: no answer",
}

DIFFERENCES = DELIBERATE | NOT_SERVED | FOUND

# The same of the python3-sanlock binding, by the section of its walk (tests/interop/surface).
BINDING = {
    "no_name": "nothing is formatted under an empty name",
    "a_lease_without_a_name": "a lease without a name is refused before its area is read",
    "an_io_timeout_that_no_host_can_keep": "refused; sanlock formats with what is left of the number in 16 bits",
    "a_host_id_that_no_host_can_have": "refused at once, whatever the path; sanlock finds it when it has read the area",
    "large_sectors_at_offsets_of_small_ones": "an area begins at a multiple of its own sectors",
    "small_sectors_on_a_device_of_large_ones": "refused; sanlock says that it has formatted, even beyond the end",
    "leases_of_other_sectors_than_their_lockspace": "a lease has the sizes that its leader says, whatever its lockspace's are",
    "a_value_that_has_no_place_in_its_area": "refused; sanlock writes it into the next area",
    "a_space_in_a_name_or_path": "such leases can be inquired: the binding reads them as they are printed",
    "a_name_of_48_bytes": "48 bytes are printed; sanlock prints what follows in its memory, and the binding does not survive it",
    "formatted_under_its_holder": "what this daemon uses is not formatted through it",
    "requests_with_an_action_that_means_nothing": "only what is known is asked for; sanlock writes any number",
    "asked_about_while_it_is_lost": "a lost lockspace is one that is being left; sanlock lists it as joined until all is over",
    "several_areas_of_one_disk": "copies on one disk are refused: they would be lost together",
    "a_lease_on_several_areas_of_one_disk": "not served in a lockspace that sanlock formatted, without a UUID, nor on one disk",
}
