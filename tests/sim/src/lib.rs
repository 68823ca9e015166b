//! The simulator: the lease code of the daemon, on hosts, clocks and disks that a seed makes up.
//!
//! | module | what |
//! | --- | --- |
//! | [`dice`] | chance, all of it from one seed |
//! | [`executor`] | one thread, virtual time, processes that freeze and die; the hosts' clocks |
//! | [`disk`] | a shared disk with a fault model, beneath the daemon's own `Device` |
//! | [`host`] | a host: clock, crash, freeze, watchdog, reset, clients |
//! | [`checkers`] | S1, I1 to I6 and D2 at every landed write; the timeline of a violation |
//! | [`daemon`] | the daemon in short: joins, renews, pets, lets clients run under leases, takes over |
//! | [`scenario`] | scenarios that several test files play |
//! | [`cluster`] | hosts, disk and mishaps that a seed makes up; safety phase, then liveness phase |
//!
//! A seed is a run, bit for bit. A failure prints its seed; `HOLDFAST_SEED=n cargo test -p holdfast-tests --test simulate`
//! runs that one again and prints its timeline.

#![forbid(unsafe_code)]

pub mod checkers;
pub mod cluster;
pub mod daemon;
pub mod dice;
pub mod disk;
pub mod executor;
pub mod host;
pub mod scenario;
