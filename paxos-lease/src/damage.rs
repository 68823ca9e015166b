//! A host's sector that is not what was written there.
//!
//! It may hide a claim to share the lease, or the only copy of a committed value, so nobody goes on without it - unless its host is gone
//! and with it all that the sector could have said: then an acquire passes it over (acquire/obscured.rs) and, as the lease's exclusive
//! owner, makes it anew.

use holdfast_io::ids::{HostId, Lver};
use holdfast_io::sys::aligned::AlignedBuf;

use crate::choose::largest_mbal;
use crate::dblock::{Dblock, DblockError, HostSector, ModeBlock};
use crate::number::Ballot;

/// More versions, and ballots, than a lease goes through while one write is on its way: at a thousand a second these take a month and a half.
const FAR: u64 = 1 << 32;

/// A sector that cannot be believed, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Whose.
    pub(crate) host_id: HostId,
    /// All of it.
    pub(crate) bytes: AlignedBuf,
    /// What is wrong with it.
    pub(crate) source: DblockError,
}

impl Damage {
    /// Whether what stands in the place of its lver may be true, and is later than `next`, the version that is to be contested: then the
    /// leader record may be an outdated one, and nothing but this sector says so. A number that no lease comes to is part of the damage, and
    /// one in a sector of an earlier format of the area says nothing of this one.
    pub(crate) fn may_be_later_than(&self, next: Lver) -> bool {
        if matches!(self.source, DblockError::Area { .. }) {
            return false;
        }
        let Lver(raw) = HostSector::parse(&self.bytes).dblock.lver;
        raw > next.0 && raw - next.0 < FAR
    }
}

/// Above every ballot number that we can have used, where our own sector is lost: numbers never fall, and none is used twice (I2, I4). What
/// stands in its place counts as far as it may be true.
pub(crate) fn lost_mbal(damaged: &[Damage], me: HostId, seen: &[HostSector]) -> Option<Ballot> {
    let own = damaged.iter().find(|damage| damage.host_id == me)?;
    let seen = largest_mbal(seen).map_or(0, Ballot::get);
    let raw = HostSector::parse(&own.bytes).dblock.mbal.map_or(0, Ballot::get);
    // No lease comes near that.
    let believable = if raw < 1 << 62 { raw } else { seen };
    Ballot::new(believable.max(seen).saturating_add(FAR))
}

/// What is written in the place of a sector that was lost, by the owner of version `held`: that its host holds nothing before that. The
/// number is that of the host's first ballot.
pub(crate) fn made_anew(host: HostId, max_hosts: u32, held: Lver) -> (Dblock, ModeBlock) {
    let said = Dblock { mbal: Ballot::above(None, host, max_hosts), lver: Lver(held.0 - 1), ..Dblock::default() };
    (said.released(), ModeBlock::NONE)
}
