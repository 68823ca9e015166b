//! The records of sanlock as real sanlock reads and writes them (spec D 2.1 to 2.5): a codec of its own, that knows no seal.
//!
//! What it rewrites it builds from the 200 bytes that it read, or from nothing; the rest of the sector is zeros, wherever
//! the spec says so (2.9). A result code is sanlock's own, as spec D 7 lists them.

use holdfast_io::bytes::{array_at, is_zero, put, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use holdfast_io::checksum::lease_crc;

/// A result code of sanlock: negative.
pub type Code = i32;

/// An I/O that was not over in time (-202).
pub const TIMED_OUT: Code = -202;
/// An I/O that failed (-EIO).
pub const FAILED: Code = -5;
/// The ballot's write, or read, failed.
pub const NO_WRITE: Code = -211;
/// See above.
pub const NO_READ: Code = -210;
/// A larger lver was seen.
pub const LARGER_LVER: Code = -212;
/// A larger mbal was seen.
pub const LARGER_MBAL: Code = -213;
/// A dblock with a wrong checksum.
pub const BAD_DBLOCK: Code = -214;
/// The owner lives.
pub const ALIVE: Code = -243;
/// Another owner's value was published for this lver.
pub const LOST: Code = -244;
/// Our ballot committed another owner.
pub const COMMITTED_OTHER: Code = -245;
/// A shared acquire gave up.
pub const NO_SHARED: Code = -246;
/// The owner's state is not known, and we were not to wait.
pub const UNDECIDED: Code = -247;
/// Live shared holders (-EAGAIN).
pub const SHARED: Code = -11;
/// The delta lease changed while waiting, or after the write.
pub const DELTA_BUSY: Code = -262;
/// The delta lease is another's now.
pub const DELTA_TAKEN: Code = -260;
/// The delta lease differs from the last write.
pub const DELTA_DIFFERS: Code = -261;
/// Asked to stop.
pub const STOPPED: Code = -1;

const DELTA_MAGIC: u32 = 0x1221_2010;
const PAXOS_MAGIC: u32 = 0x0615_2010;
const SHORT_HOLD: u32 = 1;
const RELEASED: u32 = 1;
/// Where the mode block stands in a dblock's sector.
const MODE: usize = 128;

/// Length of a leader record.
pub const LEADER: usize = 200;

/// A leader record, of either kind, as its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Leader([u8; LEADER]);

/// The writer of a paxos leader.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Its host_id.
    pub host_id: u64,
    /// Its generation.
    pub generation: u64,
    /// Its time in seconds.
    pub now: u64,
}

impl Leader {
    /// The record at the beginning of `sector`.
    #[must_use]
    pub fn read(sector: &[u8]) -> Self {
        Leader(array_at(sector, 0))
    }

    /// The whole sector: the record, and zeros.
    #[must_use]
    pub fn sector(&self, size: usize) -> Vec<u8> {
        let mut sector = vec![0; size];
        put(&mut sector, 0, &self.0);
        sector
    }

    fn u64(&self, at: usize) -> u64 {
        u64_at(&self.0, at)
    }

    /// Number of dblocks in use.
    #[must_use]
    pub fn num_hosts(&self) -> u64 {
        self.u64(16)
    }

    /// Hosts that fit the area.
    #[must_use]
    pub fn max_hosts(&self) -> u64 {
        self.u64(24)
    }

    /// The owner's host_id.
    #[must_use]
    pub fn owner(&self) -> u64 {
        self.u64(32)
    }

    /// The owner's generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.u64(40)
    }

    /// The lease version.
    #[must_use]
    pub fn lver(&self) -> u64 {
        self.u64(48)
    }

    /// 48 bytes: a resource's name, or a host's.
    #[must_use]
    pub fn name(&self) -> [u8; 48] {
        array_at(&self.0, 104)
    }

    /// Seconds of its writer's clock; 0 is free.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.u64(152)
    }

    /// The holder's io_timeout (delta).
    #[must_use]
    pub fn io_timeout(&self) -> u64 {
        u64::from(u16_at(&self.0, 174))
    }

    /// Who wrote it (paxos).
    #[must_use]
    pub fn write_id(&self) -> u64 {
        self.u64(176)
    }

    /// Whether its owner took it for a moment only, on the way to a shared lease.
    #[must_use]
    pub fn is_short_hold(&self) -> bool {
        u32_at(&self.0, 8) & SHORT_HOLD != 0
    }

    /// Whether it is a delta lease of this lockspace, by magic and name alone (3.6).
    #[must_use]
    pub fn looks_like_delta(&self, space: &[u8; 48]) -> bool {
        u32_at(&self.0, 0) == DELTA_MAGIC && self.0[56..104] == space[..]
    }

    /// Verifies a delta record (2.2).
    ///
    /// # Errors
    /// The first code that fits.
    pub fn verify_delta(&self, space: &[u8; 48]) -> Result<(), Code> {
        self.verify(DELTA_MAGIC, 0x0003_0000, space)?;
        self.verify_checksum()
    }

    /// Verifies a paxos record.
    ///
    /// # Errors
    /// The first code that fits.
    pub fn verify_paxos(&self, space: &[u8; 48], resource: &[u8; 48], host_id: u64) -> Result<(), Code> {
        self.verify(PAXOS_MAGIC, 0x0006_0000, space)?;
        if self.name() != *resource {
            return Err(-227);
        }
        if self.num_hosts() < host_id {
            return Err(-228);
        }
        self.verify_checksum()
    }

    fn verify(&self, magic: u32, version: u32, space: &[u8; 48]) -> Result<(), Code> {
        match () {
            () if u32_at(&self.0, 0) != magic => Err(-223),
            () if u32_at(&self.0, 4) & 0xFFFF_0000 != version => Err(-224),
            () if self.0[56..104] != space[..] => Err(-226),
            () => Ok(()),
        }
    }

    fn verify_checksum(&self) -> Result<(), Code> {
        if u32_at(&self.0, 168) == lease_crc(&self.0[..168]) { Ok(()) } else { Err(-229) }
    }

    fn sealed(mut self) -> Self {
        let crc = lease_crc(&self.0[..168]);
        put_u32(&mut self.0, 168, crc);
        self
    }

    /// A delta lease taken: 3.3 step 7.
    #[must_use]
    pub fn taken(mut self, host_id: u64, name: &[u8; 48], io_timeout: u8, now: u64) -> Self {
        let generation = self.generation() + 1;
        put_u64(&mut self.0, 152, now);
        put_u16(&mut self.0, 174, u16::from(io_timeout));
        put_u64(&mut self.0, 32, host_id);
        put_u64(&mut self.0, 40, generation);
        put(&mut self.0, 104, name);
        self.sealed()
    }

    /// A delta lease renewed (3.4) or, with 0, released (3.5).
    #[must_use]
    pub fn at(mut self, timestamp: u64) -> Self {
        put_u64(&mut self.0, 152, timestamp);
        self.sealed()
    }

    fn written_by(mut self, by: Writer) -> Self {
        put_u64(&mut self.0, 176, by.host_id);
        put_u64(&mut self.0, 184, by.generation);
        put_u64(&mut self.0, 192, by.now);
        self.sealed()
    }

    fn short_hold(mut self, on: bool) -> Self {
        let flags = u32_at(&self.0, 8);
        put_u32(&mut self.0, 8, if on { flags | SHORT_HOLD } else { flags & !SHORT_HOLD });
        self
    }

    /// What a ballot committed (4.7).
    #[must_use]
    pub fn committed(self, dblock: &Dblock, shared: bool, by: Writer) -> Self {
        let mut new = if dblock.inp[0] == by.host_id { self.short_hold(shared) } else { self };
        put_u64(&mut new.0, 32, dblock.inp[0]);
        put_u64(&mut new.0, 40, dblock.inp[1]);
        put_u64(&mut new.0, 152, dblock.inp[2]);
        put_u64(&mut new.0, 48, dblock.lver);
        new.written_by(by)
    }

    /// Given back (4.8 step 6).
    #[must_use]
    pub fn freed(self, by: Writer) -> Self {
        let mut new = self.short_hold(false);
        put_u64(&mut new.0, 152, 0);
        new.written_by(by)
    }
}

/// A dblock (2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dblock {
    /// The ballot in progress.
    pub mbal: u64,
    /// The ballot at which `inp` was set.
    pub bal: u64,
    /// Proposed owner: host_id, generation, timestamp.
    pub inp: [u64; 3],
    /// The lease version it is for.
    pub lver: u64,
    /// RELEASED.
    pub released: bool,
}

impl Dblock {
    /// The dblock at the beginning of `sector`; `None` if its checksum is wrong.
    #[must_use]
    pub fn read(sector: &[u8]) -> Option<Self> {
        let at = |offset| u64_at(sector, offset);
        let dblock = Dblock {
            mbal: at(0),
            bal: at(8),
            inp: [at(16), at(24), at(32)],
            lver: at(40),
            released: u32_at(sector, 52) & RELEASED != 0,
        };
        let checksum = u32_at(sector, 48);
        let Dblock { mbal, bal, inp, lver, .. } = dblock;
        let blank = [u64::from(checksum), mbal, bal, inp[0], lver] == [0; 5];
        (blank || checksum == lease_crc(&sector[..48])).then_some(dblock)
    }

    /// The whole sector: the dblock, the mode block, and zeros.
    #[must_use]
    pub fn sector(&self, shared: Option<u64>, size: usize) -> Vec<u8> {
        let mut sector = vec![0; size];
        let [inp, inp2, inp3] = self.inp;
        for (i, value) in [self.mbal, self.bal, inp, inp2, inp3, self.lver].into_iter().enumerate() {
            put_u64(&mut sector, i * 8, value);
        }
        let crc = lease_crc(&sector[..48]);
        put_u32(&mut sector, 48, crc);
        put_u32(&mut sector, 52, if self.released { RELEASED } else { 0 });
        if let Some(generation) = shared {
            put_u32(&mut sector, MODE, 1);
            put_u64(&mut sector, MODE + 8, generation);
        }
        sector
    }
}

/// The generation that holds shared, by the mode block in a dblock's sector (2.5).
#[must_use]
pub fn shared_generation(sector: &[u8]) -> Option<u64> {
    (u32_at(sector, MODE) & 1 != 0).then(|| u64_at(sector, MODE + 8))
}

/// A copy of `sector` with its mode block cleared and nothing else changed.
#[must_use]
pub fn without_mode_block(sector: &[u8]) -> Vec<u8> {
    let mut new = sector.to_vec();
    put(&mut new, MODE, &[0; 16]);
    debug_assert!(is_zero(&new[MODE..MODE + 16]));
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G4 and G5 of spec D 2.10: what the real binary wrote.
    #[test]
    fn the_golden_vectors_are_met() {
        let mut name = [0; 48];
        name[..3].copy_from_slice(b"LSX");
        let mut resource = [0; 48];
        resource[..2].copy_from_slice(b"R1");
        let mut free = [0; LEADER];
        for (at, value) in [(0, PAXOS_MAGIC), (4, 0x0006_0004), (8, 0x10), (12, 512), (16, 2000), (24, 2000)] {
            put_u32(&mut free, at, value);
        }
        put(&mut free, 56, &name);
        put(&mut free, 104, &resource);
        let dblock = Dblock { mbal: 0x1f41, bal: 0x1f41, inp: [1, 2, 0x568], lver: 5, released: false };
        let by = Writer { host_id: 1, generation: 2, now: 0x568 };
        let held = Leader(free).sealed().committed(&dblock, false, by);
        assert_eq!(u32_at(&held.0, 168), 0x488f_2656);
        assert_eq!(held.verify_paxos(&name, &resource, 2000), Ok(()));
        assert_eq!(held.verify_paxos(&name, &resource, 2001), Err(-228));
        assert_eq!(held.verify_delta(&name), Err(-223));

        let sector = dblock.sector(None, 512);
        assert_eq!(u32_at(&sector, 48), 0x2e87_8fba);
        assert_eq!(Dblock::read(&sector), Some(dblock));
        let shared = Dblock { mbal: 1, bal: 1, inp: [1, 2, 0x3f0], lver: 1, released: true }.sector(Some(2), 512);
        assert_eq!((u32_at(&shared, 48), u32_at(&shared, 52)), (0x740a_17aa, 1));
        assert_eq!(shared_generation(&shared), Some(2));
        assert_eq!(shared_generation(&without_mode_block(&shared)), None);
    }

    /// The dblock that a refused shared acquire leaves.
    #[test]
    fn a_dblock_of_zeros_has_the_checksum_that_was_seen() {
        let zeros = Dblock { released: true, ..Dblock::default() }.sector(None, 512);
        assert_eq!(u32_at(&zeros, 48), 0xcb5a_d842);
        assert!(Dblock::read(&[0; 512]).is_some_and(|d| d == Dblock::default()));
        assert_eq!(Dblock::read(&[7; 512]), None);
    }

    /// G2: a delta sector as the real binary wrote it, but for the host event.
    #[test]
    fn a_delta_lease_is_taken_renewed_and_released() {
        let mut space = [0; 48];
        space[..3].copy_from_slice(b"LSX");
        let mut name = [0; 48];
        name[..5].copy_from_slice(b"hostA");
        let mut formatted = [0; LEADER];
        for (at, value) in [(0, DELTA_MAGIC), (4, 0x0003_0004), (8, 0x10), (12, 512), (24, 1), (40, 1)] {
            put_u32(&mut formatted, at, value);
        }
        put(&mut formatted, 56, &space);
        let taken = Leader(formatted).sealed().taken(1, &name, 2, 1300);
        assert_eq!((taken.generation(), taken.io_timeout(), taken.verify_delta(&space)), (2, 2, Ok(())));
        assert_eq!(u32_at(&taken.at(1390).0, 168), 0x7bca_8196);
        assert_eq!(taken.at(0).timestamp(), 0);
    }
}
