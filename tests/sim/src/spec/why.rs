//! Why a step is not permitted.

use holdfast_io::ids::{Generation, HostId, HostTerm, Lver};

use super::state::Sector;

/// A refusal. The host that takes the step is named beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The host_id is not among those of the state.
    #[error("there is no host {0}")]
    Unknown(HostId),
    /// Its term has ended.
    #[error("the term of host {0} is over")]
    TermOver(HostId),
    /// I6.
    #[error("I6: a write to {0:?} is still in flight")]
    InFlight(Sector),
    /// A write that was not issued lands or ends.
    #[error("no such write to {0:?} is in flight")]
    NotInFlight(Sector),
    /// Something is done that only a host does which does not hold.
    #[error("a client of host {0} still runs")]
    StillHolds(HostId),
    /// A term ends while something of it may land.
    #[error("a write of host {0} is still in flight")]
    StillInFlight(HostId),
    /// A generation does not rise.
    #[error("I2: generation {wanted} after {found}")]
    Generation {
        /// On the disk.
        found: Generation,
        /// To be written.
        wanted: Generation,
    },
    /// I2.
    #[error("I2: lver or mbal falls")]
    Falls,
    /// A ballot number of another host.
    #[error("the ballot number is not the host's own")]
    NotItsNumber,
    /// Phase 1 changes more than lver and mbal.
    #[error("phase 1 changes mbal alone within one lver, and begins a new lver empty")]
    Phase1Changes,
    /// A ballot begins too early.
    #[error("nothing that was read says that lver {0} is over")]
    NotOver(Lver),
    /// Phase 2 without a phase 1.
    #[error("it proposes without a ballot of its own in progress")]
    NoBallot,
    /// Phase 2 changes more than bal and inp.
    #[error("phase 2 sets bal to mbal, and inp, and nothing else")]
    Phase2Changes,
    /// I4.
    #[error("I4: a second value for one ballot")]
    SecondValue,
    /// A block was not read after one's own had landed.
    #[error("the block of host {0} was not read since the last write landed")]
    NotRead(HostId),
    /// Another ballot was seen to be ahead.
    #[error("it was outrun by host {0}")]
    Outrun(HostId),
    /// Another value was to be proposed.
    #[error("phase 2 proposes {0}, which is not what the blocks read demand")]
    NotTheChoice(HostTerm),
    /// The leader record says that somebody else wrote it.
    #[error("the leader record names another writer")]
    NotTheWriter,
    /// Nothing is known to be committed.
    #[error("nothing is known to be committed for lver {0}")]
    NotDecided(Lver),
    /// Another value is committed.
    #[error("the leader record names another owner than the ballot decided on")]
    NotTheDecision,
    /// A leader record is freed before its lver is given up.
    #[error("a leader is freed after its owner's block says RELEASED at its lver")]
    NotReleased,
    /// A leader record is freed that others may be writing.
    #[error("a leader is freed by the term that owns it, where it read that it wrote it itself")]
    NotByItsHand,
    /// It was given up.
    #[error("lver {0} was given up")]
    GivenUp(Lver),
}
