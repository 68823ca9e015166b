//! What an acquire must know about another host, and from whom it learns it.
//!
//! This crate does not know delta leases. Whether the owner of a lease is over is asked through [`HostLiveness`]; the
//! daemon answers it from what its renewal thread has observed.

use std::future::Future;

use holdfast_io::clock::LocalInstant;
use holdfast_io::disk::IoError;
use holdfast_io::ids::{HostId, HostTerm, SpaceName};

/// Why a term of a host is over. Each of these is final: no later observation can take it back, unless an operator was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gone {
    /// Its delta lease was given back: timestamp 0, or no host ever took the host_id.
    Free,
    /// The host_id has been taken anew since (P1).
    NewerGeneration,
    /// Its delta sector names another owner.
    OtherOwner,
    /// Silence longer than D1 asks for, seen by us.
    Silent,
    /// An operator has said so (`holdfast confirm-dead`).
    Confirmed,
}

/// What is known about one term of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is over, as D1 or P1 allow to say.
    Gone(Gone),
    /// It has renewed of late.
    Alive {
        /// When it could be gone at the earliest, should it fall silent now.
        earliest: LocalInstant,
    },
    /// It has missed a renewal, and may be gone at `earliest`.
    Silent {
        /// The computed instant.
        earliest: LocalInstant,
    },
    /// Not observed for long enough to say anything.
    Unknown,
}

/// Why no verdict can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LivenessError {
    /// The lockspace that the lease belongs to is not joined here (-241).
    #[error("lockspace {space:?} is not joined on this host, so nothing is known about its hosts")]
    NotJoined {
        /// Named in the leader record.
        space: SpaceName,
    },
    /// The host's delta sector could not be read (-242 or an I/O code).
    #[error("cannot read the delta lease of {of}")]
    Io {
        /// Whose.
        of: HostTerm,
        /// Why not.
        #[source]
        source: IoError,
    },
    /// The host's delta sector is damaged.
    #[error("the delta lease of {of} cannot be trusted: {reason}")]
    Damaged {
        /// Whose.
        of: HostTerm,
        /// Path, offset, field, expected and found, as the delta lease code says it.
        reason: String,
    },
}

/// Whoever observes the lockspace.
pub trait HostLiveness {
    /// Whether `of` is over. `Gone` only as D1 and P1 allow, or an operator vouches for it: an exclusive lease changes hands on this word.
    ///
    /// # Errors
    /// [`LivenessError`]: then the lease is left alone.
    fn verdict(&self, of: HostTerm) -> impl Future<Output = Result<Verdict, LivenessError>>;

    /// Whether nobody is at work under a host_id, in whatever generation, by a look made after this was asked. `Gone` only if its delta
    /// sector, held or free, has been silent for D1's time, or an operator vouches for it: a sector of that host is taken for
    /// lost on this word, and written for it.
    ///
    /// # Errors
    /// [`LivenessError`]: then nothing of it is touched.
    fn absence(&self, host: HostId) -> impl Future<Output = Result<Verdict, LivenessError>>;
}

impl<H: HostLiveness> HostLiveness for &H {
    fn verdict(&self, of: HostTerm) -> impl Future<Output = Result<Verdict, LivenessError>> {
        (**self).verdict(of)
    }

    fn absence(&self, host: HostId) -> impl Future<Output = Result<Verdict, LivenessError>> {
        (**self).absence(host)
    }
}
