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
    "more_of_a_value_than_there_is": "zeros follow it; sanlock sends what its memory has there",
    "a_value_of_no_bytes": "sets nothing; sanlock waits for a byte, and takes it from the next request",
    "a_request_that_is_taken_back_whatever_the_name": "nothing is written for a lease that is not there under its name",
    "a_sharer_that_leaves_its_lease_behind_beside_another": "what was acquired persistently outlives its client",
    "restricted_by_whoever_adopts_an_orphan": "whoever adopts it is asked in its own way; sanlock goes by who left it",
    "releases_of_which_one_is_whole": "of a request that ends early nothing is done",
    "a_killpath_that_ends_early": "as killpath: sanlock answers neither who sets another client's nor that client",
    "a_conversion_that_ends_early": "is over with its answer; sanlock's client has a command under way for ever",
    "busy_from_the_header_on": "who sends half a request keeps nobody else out",
    "more_disks_than_a_lease_can_have": "they are thrown away; sanlock takes them for headers, and answers nobody any more",
    "hosts_right_after_a_join": "told as the join has read them",
    "leases_whose_dblock_is_damaged": "our own sector, which nobody else writes, is written anew",
    "leaders_that_are_sealed_and_mean_nothing": "what is not understood is not used, and sizes of 0 are told as sizes",
    "a_first_sector_that_is_damaged": "a record with a wrong checksum is not believed in anything",
    "a_sector_that_is_sealed_and_means_nothing": "a host_id with flags that are not known is not taken",
    "a_lockspace_in_a_file_that_ends_within_it": "an area that is not all there is not joined",
    "owned_by_a_generation_that_its_host_has_not_had": "refused: nothing says that this owner is over",
    "fewer_hosts_than_our_own_are_asked_for": "refused; sanlock cannot give it back",
    "conversions_on_a_disk_whose_writes_hang": "answered once it is known how the lease is held",
}

NOT_SERVED = {}

DIFFERENCES = DELIBERATE | NOT_SERVED

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
