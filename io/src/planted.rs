//! Bugs on purpose: each breaks one rule of the program, so that the simulator can be shown to find it.
//!
//! They exist only where the feature `planted` is on, and only this project's own tests turn it on. In every other build
//! [`planted`] is the constant `false`, and each place that asks is compiled away. Even where they exist nothing is broken
//! before `plant` has been called on the very thread that asks - or, for the hosts of `tests/vm`, whose daemons are processes of
//! their own, unless `$HOLDFAST_PLANTED` names a bug.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// I6: a write is issued beside an older one to the same sector.
    I6Off,
    /// I6: a successor does not wait for its predecessor's writes: it takes every fence for its own.
    I6NotAcrossRestart,
    /// I6: further devices get no fence.
    FenceOnLockspaceOnly,
    /// D1: the watchdog's tick is left out of the silence that a taker must see.
    ExpiryOneTickEarly,
    /// D1: silence is counted up to the end of the latest look.
    SilenceEndToEnd,
    /// D1: a damaged look counts as one that saw no change.
    LifeFromDamage,
    /// D1: whoever was found dead once stays so.
    DeadForGood,
    /// D2: its instant is counted from the end of the renewal's write.
    RenewalCountsFromTheEnd,
    /// D2: what is issued past its instant is not refused.
    WriteAfterExpiry,
    /// D2: what is lost before its instant may be written on.
    LimitLeftOpen,
    /// D2: a renewal that comes too late revives the join.
    ExpiredRevived,
    /// D2: only ticks look at the time, not every event.
    ExpiryAtTicksOnly,
    /// D3: the watchdog runs only while there are clients.
    WatchdogOnlyWithClients,
    /// D3: the device counts as long as what is sealed: a close that pets late goes beyond that.
    DeviceGetsSealedTimeout,
    /// D3: a successor pets while what its predecessor left still runs.
    PetsForTheDead,
    /// W1: the clock is not read again after a pet.
    PetAfterDeadline,
    /// The clock stands still while the host is suspended (CLOCK_MONOTONIC for CLOCK_BOOTTIME).
    ClockStopsInSuspend,
    /// P1: a successor does not end what its predecessor guarded.
    GenerationOverLiveClients,
    /// P1: a renewal goes over whoever has the host_id by now.
    SuccessorOverlooked,
    /// P1: a host of the same name is taken for this machine in another boot.
    CloneBelieved,
    /// Two takers of one host_id: the write is believed without waiting for a rival's.
    SettlingSkipped,
    /// S1: a client is gone when its process is, whatever it has in flight.
    GoneWithoutItsWrites,
    /// S1: a client is gone at the end of its connection, whatever of it still runs.
    GoneAtEndOfConnection,
    /// A host_id is given back while lease writes under it are in flight.
    FreedWithWritesInFlight,
    /// I5: phase 2 of a ballot does not look whether it was outrun.
    Phase2ReadSkipped,
    /// I5: a ballot proposes its own value whatever it has read.
    OwnValueFirst,
    /// I2: phase 1 forgets bal and inp of its own lver, as sanlock does.
    BallotFromEmptyBlock,
    /// I2: a retract writes an empty block, as sanlock does.
    RetractForgets,
    /// A host takes a lease that it has given up at this very lver.
    ReleasedIgnored,
    /// A leader record that the dblocks prove outdated is believed.
    StaleLeaderAccepted,
    /// What a join has written that failed is taken for a predecessor's.
    UnconfirmedJoinBelieved,
    /// A lease of an older generation is taken for one's own.
    GenerationNotCompared,
    /// A sector whose seal does not hold is believed: a flipped mode bit.
    BrokenSealAccepted,
    /// S1: an exclusive owner does not look whether others share its lease.
    SharersOverlooked,
    /// I1: the claim of an older generation of a living host is cleared.
    LivingClaimCleared,
    /// D1: the damaged sector of a living host is passed over, and made anew.
    LivingDamagePassedOver,
    /// S1: nobody looks whether a lease that is held is still ours on disk.
    LossOverlooked,
    /// S1: a conversion to exclusive drops its claim with its first write.
    ClaimDroppedInBallot,
    /// I5: of several disks one is enough.
    MinorityCounts,
    /// I5: of several copies the first one read is believed.
    FirstCopyBelieved,
    /// S1: the latest of several copies of a claim is not known.
    StampIgnored,
    /// Nobody who holds a lease that is lost is ended. The watchdog makes up for that, so only hosts that have one can show it.
    NobodyIsEnded,
}

impl Bug {
    /// All that the simulator finds.
    pub const ALL: &[Bug] = &[
        Bug::I6Off,
        Bug::I6NotAcrossRestart,
        Bug::FenceOnLockspaceOnly,
        Bug::ExpiryOneTickEarly,
        Bug::SilenceEndToEnd,
        Bug::LifeFromDamage,
        Bug::DeadForGood,
        Bug::RenewalCountsFromTheEnd,
        Bug::WriteAfterExpiry,
        Bug::LimitLeftOpen,
        Bug::ExpiredRevived,
        Bug::ExpiryAtTicksOnly,
        Bug::WatchdogOnlyWithClients,
        Bug::DeviceGetsSealedTimeout,
        Bug::PetsForTheDead,
        Bug::PetAfterDeadline,
        Bug::ClockStopsInSuspend,
        Bug::GenerationOverLiveClients,
        Bug::SuccessorOverlooked,
        Bug::CloneBelieved,
        Bug::SettlingSkipped,
        Bug::GoneWithoutItsWrites,
        Bug::GoneAtEndOfConnection,
        Bug::FreedWithWritesInFlight,
        Bug::Phase2ReadSkipped,
        Bug::OwnValueFirst,
        Bug::BallotFromEmptyBlock,
        Bug::RetractForgets,
        Bug::ReleasedIgnored,
        Bug::StaleLeaderAccepted,
        Bug::UnconfirmedJoinBelieved,
        Bug::GenerationNotCompared,
        Bug::BrokenSealAccepted,
        Bug::SharersOverlooked,
        Bug::LivingClaimCleared,
        Bug::LivingDamagePassedOver,
        Bug::LossOverlooked,
        Bug::ClaimDroppedInBallot,
        Bug::MinorityCounts,
        Bug::FirstCopyBelieved,
        Bug::StampIgnored,
    ];
}

#[cfg(feature = "planted")]
mod on {
    use super::Bug;
    use std::cell::Cell;
    use std::sync::LazyLock;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    static EVERYWHERE: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var("HOLDFAST_PLANTED").ok()?;
        let known = Bug::ALL.iter().chain(&[Bug::NobodyIsEnded]).find(|bug| format!("{bug:?}") == name);
        assert!(known.is_some(), "$HOLDFAST_PLANTED: no bug is called {name:?}");
        known.copied()
    });

    /// From now on this rule is broken on this thread; `None`: none is.
    pub fn plant(bug: Option<Bug>) {
        BUG.set(bug);
    }

    /// Whether this rule is broken here.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        BUG.get() == Some(bug) || *EVERYWHERE == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use on::{plant, planted};

/// No rule is broken in this build.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}
