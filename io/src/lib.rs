//! The seams to the outside world, and what both kinds of lease share.
//!
//! | module | what |
//! | --- | --- |
//! | [`disk`] | [`disk::ReadDisk`] and [`disk::Disk`]: what lease code may ask of a device, and what can go wrong |
//! | [`clock`] | [`clock::Clock`]: the one local clock, and waiting |
//! | [`device`] | deadlines, I6 and D2's write limit over any [`device::Engine`]: the same for real and simulated disks |
//! | [`mem`] | engines in memory |
//! | [`timing`] | every interval, derived from the io_timeout and the fire timeout |
//! | [`units`], [`ids`] | sizes, places, host ids, generations, names |
//! | [`leader`] | the leader record of delta and paxos leases |
//! | [`seal`], [`identity`] | what a Holdfast host adds to a sector, and how it names itself there |
//! | [`checksum`], [`bytes`] | the two CRCs, and fields in buffers |
//! | [`stop`] | how a lease procedure is asked to end |
//! | [`sys`] | the kernel: O_DIRECT files, the fence, watchdog devices, processes, memory; all `unsafe` of the project |
//!
//! What the whole program assumes of a storage device: a sector is read and written atomically; a completed O_SYNC write
//! is seen by every later read of every host; a device never answers with another sector's content (the seal finds
//! out); a reset host issues no further writes. See docs/safety.md.

pub mod bytes;
pub mod checksum;
pub mod clock;
pub mod device;
pub mod disk;
pub mod identity;
pub mod ids;
pub mod leader;
pub mod mem;
pub mod planted;
pub mod seal;
pub mod stop;
pub mod sys;
pub mod timing;
pub mod units;
