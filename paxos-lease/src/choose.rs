//! Pure: what the blocks that were read mean for a ballot. The paper's phase 1 and phase 2 tests, and its choice of a
//! value.

use holdfast_io::ids::{HostId, HostTerm, Lver};
use holdfast_io::planted::{Bug, planted};

use crate::dblock::{Dblock, HostSector, Inp};
use crate::number::Ballot;

/// Somebody was faster: the ballot is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outrun {
    /// A ballot for a later lver has begun, so ours has been decided (sanlock: -212).
    Lver(Lver),
    /// A larger ballot of our lver is in progress (sanlock: -213).
    Mbal(Ballot),
}

/// Blocks with the hosts they belong to. Slot i of `seen` is the block of host i + 1.
fn with_hosts(seen: &[HostSector]) -> impl Iterator<Item = (HostId, &HostSector)> {
    (0u32..).map_while(HostId::from_slot).zip(seen)
}

/// Whether some other host outran `mine`: a later lver first, else the largest mbal. Another host's equal mbal, which
/// cannot be, counts as larger.
#[must_use]
pub fn outrun(seen: &[HostSector], me: HostId, mine: &Dblock) -> Option<Outrun> {
    let others = || with_hosts(seen).filter(|(host, _)| *host != me).map(|(_, sector)| &sector.dblock);
    let lver = others().map(|b| b.lver).max().filter(|lver| *lver > mine.lver);
    if let Some(lver) = lver {
        return Some(Outrun::Lver(lver));
    }
    let same_lver = others().filter(|b| b.lver == mine.lver);
    same_lver.filter_map(|b| b.mbal).max().filter(|mbal| Some(*mbal) >= mine.mbal).map(Outrun::Mbal)
}

/// The paper's choice: the inp of the largest bal of this lver, our own included; where there is none, `fresh`. With
/// it goes I5: once a value is committed, every larger bal carries the same one.
#[must_use]
pub fn choose_inp(seen: &[HostSector], lver: Lver, fresh: Inp) -> Inp {
    let proposed = seen.iter().map(|s| &s.dblock).filter(|b| b.lver == lver && b.bal.is_some());
    if planted(Bug::OwnValueFirst) {
        return fresh;
    }
    proposed.max_by_key(|b| b.bal).map_or(fresh, |b| b.inp)
}

/// The other hosts that claim the lease in shared mode.
#[must_use]
pub fn shared_holders(seen: &[HostSector], me: HostId) -> Vec<HostTerm> {
    with_hosts(seen)
        .filter(|(host, sector)| *host != me && sector.mode.is_shared())
        .map(|(host_id, sector)| HostTerm { host_id, generation: sector.mode.generation })
        .collect()
}

/// Whom the blocks of other hosts propose as the owner of one of these versions, and have not given up.
pub(crate) fn may_own(seen: &[HostSector], me: HostTerm, of: impl Fn(Lver) -> bool) -> Vec<HostTerm> {
    let proposing = |sector: &HostSector| sector.dblock.bal.is_some() && !sector.dblock.is_released();
    with_hosts(seen)
        .filter(|(host, sector)| *host != me.host_id && of(sector.dblock.lver) && proposing(sector))
        .filter_map(|(_, sector)| sector.dblock.inp.owner())
        .filter(|owner| *owner != me)
        .collect()
}

/// The latest lver for which anybody has begun a ballot.
#[must_use]
pub fn newest_lver(seen: &[HostSector]) -> Lver {
    seen.iter().map(|s| s.dblock.lver).max().unwrap_or_default()
}

/// The largest mbal of any lver.
#[must_use]
pub fn largest_mbal(seen: &[HostSector]) -> Option<Ballot> {
    seen.iter().filter_map(|s| s.dblock.mbal).max()
}

/// The block of `host`, if it was among those read.
#[must_use]
pub fn block_of(seen: &[HostSector], host: HostId) -> Option<&HostSector> {
    usize::try_from(host.slot()).ok().and_then(|slot| seen.get(slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dblock::{ModeBlock, SHARED};
    use holdfast_io::ids::Generation;
    use proptest::prelude::*;

    fn host(n: u64) -> HostId {
        HostId::new(n).unwrap()
    }

    fn inp(owner: u64) -> Inp {
        Inp::new(HostTerm { host_id: host(owner), generation: Generation(1) }, 7)
    }

    /// (lver, mbal, bal, proposed owner)
    fn block(lver: u64, mbal: u64, bal: u64, owner: u64) -> HostSector {
        let proposed = if bal == 0 { Inp::default() } else { inp(owner) };
        let dblock =
            Dblock { mbal: Ballot::new(mbal), bal: Ballot::new(bal), inp: proposed, lver: Lver(lver), flags: 0 };
        HostSector { dblock, ..HostSector::default() }
    }

    #[test]
    fn a_ballot_is_outrun_by_a_later_lver_or_a_larger_mbal_of_its_own() {
        let mine = block(5, 2001, 0, 0);
        let check = |other: HostSector| outrun(&[mine, other], host(1), &mine.dblock);
        assert_eq!(check(block(5, 2, 0, 0)), None);
        assert_eq!(check(block(5, 2002, 0, 0)), Some(Outrun::Mbal(Ballot::new(2002).unwrap())));
        assert_eq!(check(block(5, 2001, 0, 0)), Some(Outrun::Mbal(Ballot::new(2001).unwrap())), "cannot be; abort");
        assert_eq!(check(block(4, 9002, 9002, 2)), None, "an older lver does not count");
        assert_eq!(check(block(6, 2, 0, 0)), Some(Outrun::Lver(Lver(6))));
        assert_eq!(check(block(0, 0, 0, 0)), None, "never used");
    }

    #[test]
    fn the_value_of_the_largest_bal_of_this_lver_is_chosen() {
        let fresh = inp(1);
        let table: [(&[HostSector], u64); 6] = [
            (&[block(5, 1, 0, 0)], 1),
            (&[block(5, 1, 0, 0), block(5, 2, 2, 2)], 2),
            (&[block(5, 1, 0, 0), block(5, 2, 2, 2), block(5, 2003, 3, 3)], 3),
            (&[block(5, 1, 0, 0), block(4, 9002, 9002, 2)], 1),
            (&[block(5, 4001, 2001, 3), block(5, 2, 2, 2)], 3),
            (&[block(5, 4001, 2001, 1), block(5, 2002, 2002, 2)], 2),
        ];
        for (seen, owner) in table {
            assert_eq!(choose_inp(seen, Lver(5), fresh), inp(owner), "{seen:?}");
        }
    }

    #[test]
    fn shared_holders_are_found_by_their_place_and_we_are_not_among_them() {
        let mut sharing = block(1, 1, 0, 0);
        sharing.mode = ModeBlock { flags: SHARED, reserved: 0, generation: Generation(4) };
        let seen = [sharing, block(1, 2, 0, 0), sharing];
        let found = shared_holders(&seen, host(1));
        assert_eq!(found, [HostTerm { host_id: host(3), generation: Generation(4) }]);
    }

    proptest! {
        /// The step on which the paper's proof rests: whoever is not outrun and was told of a bal adopts its value.
        #[test]
        fn a_value_is_only_fresh_when_no_block_of_this_lver_has_one(
            blocks in proptest::collection::vec((3u64..6, 1u64..50, 0u64..50, 2u64..9), 1..8)
        ) {
            let seen: Vec<_> = blocks.iter().map(|b| block(b.0, b.1, b.2.min(b.1), b.3)).collect();
            let chosen = choose_inp(&seen, Lver(4), inp(1));
            let best = seen.iter().filter(|s| s.dblock.lver == Lver(4)).filter_map(|s| s.dblock.bal).max();
            match best {
                None => prop_assert_eq!(chosen, inp(1)),
                Some(bal) => prop_assert!(seen.iter().any(|s| s.dblock.bal == Some(bal) && s.dblock.inp == chosen)),
            }
        }
    }
}
