//! Sectors as the rules speak of them, read from their bytes by the checkers' own hand (spec D 2.2, 2.4, 2.5; the seal).

use holdfast_io::bytes::{u16_at, u32_at, u64_at};
use holdfast_io::checksum::lease_crc;

pub(super) const DELTA: u32 = 0x1221_2010;
pub(super) const PAXOS: u32 = 0x0615_2010;
const SEAL: u32 = 0x4C53_4648;

/// A leader record, or a delta sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leader {
    pub magic: u32,
    pub owner: [u64; 2],
    pub lver: u64,
    pub timestamp: u64,
    pub io_timeout: u16,
    pub write_id: u64,
    /// Where there is a seal: fire timeout, machine, boot, milliseconds.
    pub seal: Option<Sealed>,
    pub valid: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sealed {
    pub fire: u8,
    pub machine: u64,
    pub boot: u64,
    pub millis: u16,
}

impl Leader {
    pub(super) fn read(sector: &[u8]) -> Self {
        let seal = (u32_at(sector, 200) == SEAL).then(|| Sealed {
            fire: if sector[205] & 1 == 0 { sector[206] } else { 60 },
            machine: u64_at(sector, 208),
            boot: u64_at(sector, 216),
            millis: u16_at(sector, 240),
        });
        Leader {
            magic: u32_at(sector, 0),
            owner: [u64_at(sector, 32), u64_at(sector, 40)],
            lver: u64_at(sector, 48),
            timestamp: u64_at(sector, 152),
            io_timeout: u16_at(sector, 174),
            write_id: u64_at(sector, 176),
            seal,
            valid: u32_at(sector, 168) == lease_crc(&sector[..168]),
        }
    }

    pub(super) const fn is_free(&self) -> bool {
        self.timestamp == 0
    }
}

/// One dblock sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dblock {
    pub mbal: u64,
    pub bal: u64,
    pub inp: [u64; 3],
    pub lver: u64,
    pub released: bool,
    pub shared: bool,
    /// Of the claim.
    pub generation: u64,
    pub valid: bool,
}

/// Whose claims a host has passed over under its own version, on several disks.
pub(super) fn passed_over(sector: &[u8]) -> Vec<u64> {
    if u64_at(sector, 80) != u64_at(sector, 40) || u32_at(sector, 200) != SEAL {
        return Vec::new();
    }
    let bit = |slot: &usize| sector[256 + slot / 8] & 1 << (slot % 8) != 0;
    (0..2000).filter(bit).map(|slot| slot as u64 + 1).collect()
}

impl Dblock {
    pub(super) fn read(sector: &[u8]) -> Self {
        let checksum = u32_at(sector, 48);
        let (mbal, bal, lver) = (u64_at(sector, 0), u64_at(sector, 8), u64_at(sector, 40));
        let inp = [u64_at(sector, 16), u64_at(sector, 24), u64_at(sector, 32)];
        let blank = checksum == 0 && mbal == 0 && bal == 0 && lver == 0 && inp[0] == 0;
        let valid = blank || checksum == lease_crc(&sector[..48]);
        let (released, shared) = (u32_at(sector, 52) & 1 != 0, u32_at(sector, 128) & 1 != 0);
        Dblock { mbal, bal, inp, lver, released, shared, generation: u64_at(sector, 136), valid }
    }
}
