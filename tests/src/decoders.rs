//! Every decoder that meets bytes from a disk, a socket or a file, each behind one function of arbitrary bytes.
//!
//! A function here feeds its decoder the way the decoder's caller does and asserts what must hold whatever the bytes
//! are: no panic, no hang, no memory without bound; what decodes encodes to the same meaning again; a record that was
//! accepted has the checksum it must have; an error is one line that a terminal can be shown. A violation is a panic.
//!
//! [`ALL`] is the list. `tests/decoder_smoke.rs` runs mutated golden sectors through all of it on every test run;
//! `fuzz/` has one cargo-fuzz target for each entry.
//!
//! Input: a few control bytes first (which sizes, what the caller expects), then the bytes to decode; what is missing
//! counts as zero. One control byte asks for checksums to be made right ([`mend`]), or no mutation would ever get past
//! them.

use std::fmt::Display;

use holdfast_io::bytes::{put, put_u32};
use holdfast_io::checksum::{lease_crc, seal_crc};
use holdfast_io::seal;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::SectorSize;

pub mod areas;
pub mod index;
pub mod sectors;
pub mod text;
pub mod wire;

/// One decoder.
pub struct Target {
    /// The function's name, and the fuzz target's.
    pub name: &'static str,
    /// Feeds it; panics if a property is violated.
    pub run: fn(&[u8]),
}

/// Every decoder.
pub const ALL: [Target; 21] = [
    Target { name: "leader", run: sectors::leader },
    Target { name: "sector_seal", run: sectors::sector_seal },
    Target { name: "delta_sector", run: sectors::delta_sector },
    Target { name: "area_tail", run: sectors::area_tail },
    Target { name: "dblock", run: sectors::dblock },
    Target { name: "request_record", run: sectors::request_record },
    Target { name: "index_header", run: index::index_header },
    Target { name: "index_rebuild", run: index::index_rebuild },
    Target { name: "host_table", run: areas::host_table },
    Target { name: "delta_area", run: areas::delta_area },
    Target { name: "paxos_acquire", run: areas::paxos_acquire },
    Target { name: "dump", run: areas::dump },
    Target { name: "requests", run: wire::requests },
    Target { name: "replies", run: wire::replies },
    Target { name: "state_stream", run: wire::state_stream },
    Target { name: "watchdog_answers", run: wire::watchdog_answers },
    Target { name: "wdmd_answers", run: wire::wdmd_answers },
    Target { name: "lease_strings", run: text::lease_strings },
    Target { name: "arguments", run: text::arguments },
    Target { name: "state_file", run: text::state_file },
    Target { name: "config", run: text::config },
];

/// [`mend`]: the checksum of a leader record.
pub const MEND_LEADER: u8 = 1;
/// [`mend`]: the checksum of a dblock.
pub const MEND_DBLOCK: u8 = 2;
/// [`mend`]: the seal of a delta, leader, request or tail sector.
pub const MEND_SEAL: u8 = 4;
/// [`mend`]: the seal of a dblock sector.
pub const MEND_DBLOCK_SEAL: u8 = 8;

const SEAL_CHECK: usize = seal::END - 8;
const SEAL_CRC: usize = seal::END - 4;

/// Makes the checksums named in `what` those of the bytes as they are, the seal's last because it covers the others.
pub fn mend(sector: &mut [u8], what: u8) {
    if what & MEND_LEADER != 0 {
        let crc = lease_crc(&sector[..168]);
        put_u32(sector, 168, crc);
    }
    if what & MEND_DBLOCK != 0 {
        let crc = lease_crc(&sector[..48]);
        put_u32(sector, 48, crc);
    }
    if what & (MEND_SEAL | MEND_DBLOCK_SEAL) != 0 {
        let check = seal_check(sector, what & MEND_DBLOCK_SEAL != 0);
        put_u32(sector, SEAL_CHECK, check);
        let crc = whole_crc(sector);
        put_u32(sector, SEAL_CRC, crc);
    }
}

fn seal_check(sector: &[u8], of_dblock: bool) -> u32 {
    let own = &sector[seal::OFFSET..SEAL_CHECK];
    if of_dblock { seal_crc(&[own, &sector[..52]]) } else { seal_crc(&[own]) }
}

fn whole_crc(sector: &[u8]) -> u32 {
    seal_crc(&[&sector[..SEAL_CRC], &sector[seal::END..]])
}

/// Bytes to be taken from the front; past their end come zeros.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(data: &'a [u8]) -> Self {
        Input(data)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `n` bytes, or as many as there are.
    pub(crate) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        put(&mut array, 0, self.take(N));
        array
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn sector(&mut self, size: SectorSize, what_to_mend: u8) -> AlignedBuf {
        let mut sector = AlignedBuf::zeroed(size.bytes());
        put(&mut sector, 0, self.take(size.bytes()));
        mend(&mut sector, what_to_mend);
        sector
    }
}

/// 4096 where the bit is set.
pub(crate) const fn size_of(control: u8, bit: u8) -> SectorSize {
    if control & bit != 0 { SectorSize::B4096 } else { SectorSize::B512 }
}

/// A directory for decoders that read files or sockets, in memory where there is one: a sync costs nothing there.
pub(crate) fn scratch() -> Option<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).ok()
}

/// What the disk or a peer wrote ends up in messages: they stay one line, and nothing in them moves a cursor.
pub(crate) fn one_line(message: &impl Display) {
    let text = message.to_string();
    assert!(!text.is_empty() && !text.chars().any(char::is_control), "not one plain line: {text:?}");
}
