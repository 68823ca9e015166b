//! The simulator: the daemon's own code, on hosts, clocks and disks that a seed makes up.
//!
//! | module | what |
//! | --- | --- |
//! | [`dice`] | chance, all of it from one seed |
//! | [`executor`] | one thread, virtual time, processes that freeze and die; the hosts' clocks |
//! | [`disk`] | a shared disk with a fault model, beneath the daemon's own `Device` |
//! | [`areas`] | what `init` leaves on it |
//! | [`host`] | a host: boots, watchdogs, run directories; it stands still, sleeps, is reset |
//! | [`machine`] | a host as the daemon's `Platform`: all above that seam is the product's own code |
//! | [`daemon`] | a daemon: its restart, its supervisor, its works, and an administrator |
//! | [`guests`], [`clients`] | processes that use leases; the programs that make them |
//! | [`checkers`] | S1, I1 to I6, D1 to D3, W1, P1; the timeline of a violation |
//! | [`coverage`] | which fault struck in which phase |
//! | [`spec`] | the written specification, and the acceptor that holds every run against it |
//! | [`explore`] | every order in which a few hosts' I/Os can take effect |
//! | [`plan`] | what a seed makes up |
//! | [`peer`] | real sanlock as a daemon, by its specification, with each of its behaviours a switch |
//! | [`mixed`] | clusters of both: what goes wrong at the peers, and by what a rule breaks |
//! | [`cluster`] | all of it together; safety phase, then liveness phase |
//! | [`scenario`] | scenarios that several test files play |
//! | [`shrink`] | from a plan that breaks a rule to a smaller one that does |
//! | [`svg`] | a run's story as a picture |
//!
//! A seed is a run, bit for bit. A failure prints its seed; `holdfast sim --seed N` runs that one again and prints its
//! timeline.

#![forbid(unsafe_code)]

pub mod areas;
pub mod checkers;
pub mod clients;
pub mod cluster;
pub mod coverage;
pub mod daemon;
pub mod dice;
pub mod disk;
pub mod executor;
pub mod explore;
pub mod guests;
pub mod host;
pub mod machine;
pub mod mixed;
pub mod peer;
pub mod plan;
pub mod scenario;
pub mod shrink;
pub mod spec;
pub mod svg;

/// Breaks a rule on purpose on this thread, where the build has such bugs at all.
fn plant(bug: Option<holdfast_io::planted::Bug>) {
    #[cfg(feature = "planted")]
    holdfast_io::planted::plant(bug);
    #[cfg(not(feature = "planted"))]
    assert!(bug.is_none(), "this build has no bugs on purpose");
}
