//! Pure: what the leader record and the dblocks together say about the lease, before anything is written (spec D 4.3 to
//! 4.5, with one addition: leader records that are out of date).
//!
//! The question of every acquire is whether the current lver is *over*: whether nobody holds the lease under it any
//! more. Everything that answers yes here is final once true, so it does not matter that the sectors of an area are read
//! at different moments.

use holdfast_io::ids::{HostTerm, Lver};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::planted::{Bug, planted};

use crate::choose::{block_of, newest_lver};
use crate::dblock::{Dblock, HostSector};

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The lver before this one is over: run a ballot.
    Ballot(Lver),
    /// Over only if this host is; if it is, run a ballot for the lver.
    IfGone(HostTerm, Lver),
    /// The lease belongs to a later generation of our own host_id.
    Superseded(HostTerm),
}

/// Decides by the leader record, and by the dblocks where they know more.
///
/// A dblock with an lver above leader.lver + 1 proves that the leader record is out of date: a host that was held up
/// wrote it over a newer one. Real sanlock, which tries leader.lver + 1 only, would be outrun by that dblock for ever.
/// Whoever began ballot lver N had found N - 1 to be over, with the leader record of N - 1, or a dblock of N, before
/// its eyes; so N - 1 is over, and the ballot to run is that of N itself: if a value was committed for N, phase 1
/// finds it and we publish it. The owner in the outdated record is *not* asked about: its lver ended at least two
/// ballots ago. Being alive would mean nothing, and could not be told from holding, since its dblock has moved on;
/// waiting for it to die would block the lease as long as it lives. Whoever holds the lease under N or later is safe all
/// the same, since its dblock carries (N, bal, inp) as long as it holds.
///
/// A dblock of leader.lver + 1 is no such proof that the record is out of date, for that is what every ballot in
/// progress looks like. It would prove the owner over as well, but by another host's judgement alone; D1 asks for our own.
pub(crate) fn decide(leader: &LeaderRecord, hosts: &[HostSector], me: HostTerm, copies: usize) -> Entry {
    let begun = if planted(Bug::StaleLeaderAccepted) { leader.lver } else { newest_lver(hosts) };
    let next = leader.lver.next().max(begun);
    if begun > leader.lver.next() || leader.is_free() {
        return Entry::Ballot(next);
    }
    let Some(owner) = leader.owner() else { return Entry::Ballot(next) };
    if owner.host_id == me.host_id {
        // Our own: this process gives up what it had before it asks again, and an earlier generation is over by P1.
        return if owner.generation > me.generation { Entry::Superseded(owner) } else { Entry::Ballot(next) };
    }
    match block_of(hosts, owner.host_id) {
        Some(block) if given_up(leader, &block.dblock, copies) => Entry::Ballot(next),
        _ => Entry::IfGone(owner, next),
    }
}

/// Whether the owner itself says that it does not hold the lease under the leader's lver:
/// - its dblock is at a later lver, for which it could only begin a ballot once it was done with this one; or
/// - another host published the owner's value (write_id), and the owner's dblock is RELEASED at this very lver: it
///   gave the lver up, and leaves the leader record to us, as its writer might still be at work on it (spec D 4.4 d).
///
/// RELEASED at another lver says nothing: it may have been read before the owner acquired this one.
///
/// On one disk an owner that published itself frees its record next, and is waited for. On several its word is enough, whoever
/// published: a record of its own can land on one of them long after it was done with it, and nobody would free that.
pub(crate) fn given_up(leader: &LeaderRecord, owners: &Dblock, copies: usize) -> bool {
    let word_is_enough = leader.write_id != leader.owner_id || copies > 1;
    owners.lver > leader.lver || (word_is_enough && owners.lver == leader.lver && owners.is_released())
}

/// How the leader record, read again, relates to the one that a ballot for `next` was begun under (spec D 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reread {
    /// The same 200 bytes.
    Unchanged,
    /// Somebody has published what was committed for `next`.
    Published,
    /// `next` is over.
    Past,
    /// Another record of an earlier lver.
    Changed,
}

pub(crate) fn compare(known: &LeaderRecord, now: &LeaderRecord, next: Lver) -> Reread {
    if now.lver == next {
        Reread::Published
    } else if now.lver > next {
        Reread::Past
    } else if now == known {
        Reread::Unchanged
    } else {
        Reread::Changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dblock::RELEASED;
    use crate::testing::{leader_at, term};
    use holdfast_io::ids::RemoteTimestamp;

    fn block(lver: u64, flags: u32) -> HostSector {
        HostSector { dblock: Dblock { lver: Lver(lver), flags, ..Dblock::default() }, ..HostSector::default() }
    }

    #[test]
    fn a_lease_is_entered_by_what_its_leader_says() {
        let free = LeaderRecord { timestamp: RemoteTimestamp::FREE, ..leader_at(5, term(2, 1), 2) };
        let ours = leader_at(5, term(1, 3), 1);
        let older = leader_at(5, term(1, 2), 1);
        let newer = leader_at(5, term(1, 4), 1);
        let theirs = leader_at(5, term(2, 1), 2);
        let table = [
            (free, Entry::Ballot(Lver(6))),
            (ours, Entry::Ballot(Lver(6))),
            (older, Entry::Ballot(Lver(6))),
            (newer, Entry::Superseded(term(1, 4))),
            (theirs, Entry::IfGone(term(2, 1), Lver(6))),
        ];
        for (leader, expected) in table {
            assert_eq!(decide(&leader, &[block(5, 0), block(5, 0)], term(1, 3), 1), expected, "{leader:?}");
        }
    }

    #[test]
    fn an_owner_whose_value_another_published_is_over_once_its_dblock_says_released_at_that_lver() {
        let by_another = leader_at(5, term(2, 1), 3);
        let me = term(1, 3);
        let ask = Entry::IfGone(term(2, 1), Lver(6));
        assert_eq!(decide(&by_another, &[block(5, 0), block(5, RELEASED)], me, 1), Entry::Ballot(Lver(6)));
        assert_eq!(decide(&by_another, &[block(5, 0), block(5, 0)], me, 1), ask);
        assert_eq!(decide(&by_another, &[block(5, 0), block(4, RELEASED)], me, 1), ask, "read before it acquired");
        assert_eq!(decide(&by_another, &[block(5, 0)], me, 1), ask, "not among the blocks read");
        let by_itself = leader_at(5, term(2, 1), 2);
        assert_eq!(
            decide(&by_itself, &[block(5, 0), block(5, RELEASED)], me, 1),
            ask,
            "it is about to free the leader"
        );
    }

    #[test]
    fn an_owner_that_has_begun_a_later_lver_is_done_with_this_one() {
        let leader = leader_at(5, term(2, 1), 2);
        assert_eq!(decide(&leader, &[block(0, 0), block(6, 0)], term(1, 3), 1), Entry::Ballot(Lver(6)));
    }

    #[test]
    fn a_dblock_two_versions_ahead_proves_the_leader_out_of_date_and_its_owner_is_not_asked_about() {
        let leader = leader_at(5, term(2, 1), 2);
        assert_eq!(decide(&leader, &[block(0, 0), block(5, 0), block(7, 0)], term(1, 3), 1), Entry::Ballot(Lver(7)));
        let ask = Entry::IfGone(term(2, 1), Lver(6));
        assert_eq!(
            decide(&leader, &[block(0, 0), block(5, 0), block(6, 0)], term(1, 3), 1),
            ask,
            "a ballot in progress"
        );
    }

    #[test]
    fn a_reread_leader_is_told_apart_by_lver_first() {
        let known = leader_at(5, term(2, 1), 2);
        assert_eq!(compare(&known, &known, Lver(6)), Reread::Unchanged);
        assert_eq!(compare(&known, &leader_at(6, term(2, 1), 2), Lver(6)), Reread::Published);
        assert_eq!(compare(&known, &leader_at(7, term(2, 1), 2), Lver(6)), Reread::Past);
        assert_eq!(compare(&known, &leader_at(5, term(2, 1), 3), Lver(6)), Reread::Changed);
        assert_eq!(compare(&known, &leader_at(4, term(2, 1), 2), Lver(6)), Reread::Changed);
    }
}
