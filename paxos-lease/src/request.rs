//! The request record, sector 1 of a resource: another host asks the holder to let go.
//!
//! | offset | size | field | meaning |
//! | --- | --- | --- | --- |
//! | 0 | u32 | magic | 0x08292011 |
//! | 4 | u32 | version | 1.1 (major in the high half) |
//! | 8 | u64 | lver | the lease version that is asked for, 0 none |
//! | 16 | u32 | force_mode | 0 none, 1 kill the holder, 2 ask it to end |
//! | 20 | u32 | reserved | sanlock leaves stack bytes here; not looked at |
//! | 24 | u64 | owner_id | Holdfast, under its seal: to whom it is addressed, 0 nobody; sanlock writes zeros |
//! | 32 | u64 | owner_generation | in which term |
//! | 40 | u64 | owner_lver | and as owner of which lease version |
//!
//! sanlock has no checksum on it; a seal covers the sector where we wrote it. Source: spec D 2.6. Only the codec stands
//! here; asking and being asked are in `ask.rs`.

use holdfast_io::bytes::{array_at, is_zero, put_u32, put_u64, u32_at, u64_at};
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver};
use holdfast_io::leader::Decoded;
use holdfast_io::seal::{self, Seal, SealError, SealedKind};

use crate::layout::REQUEST;

const MAGIC: u32 = 0x0829_2011;
const VERSION: u32 = 0x0001_0001;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + 4;
const LVER: usize = VERSION_AT + 4;
const FORCE_MODE: usize = LVER + 8;
const RESERVED: usize = FORCE_MODE + 4;
/// Bytes in a request record, its padding included.
pub const LEN: usize = RESERVED + 4;
const _: () = assert!(LEN == 24);

/// Nothing is asked for.
pub const FORCE_NONE: u32 = 0;
/// End the holder at once.
pub const FORCE_KILL: u32 = 1;
/// Ask the holder to end.
pub const FORCE_GRACEFUL: u32 = 2;

const OWNER_ID: usize = LEN;
const OWNER_GENERATION: usize = OWNER_ID + 8;
const OWNER_LVER: usize = OWNER_GENERATION + 8;
const _: () = assert!(OWNER_LVER + 8 <= seal::OFFSET);

/// What an owner is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// End the holder at once.
    Kill,
    /// Ask the holder to end.
    Graceful,
}

impl Force {
    /// On disk.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Kill => FORCE_KILL,
            Self::Graceful => FORCE_GRACEFUL,
        }
    }

    /// Which of two asks for more: the numbers on disk do not say.
    #[must_use]
    pub const fn weight(self) -> u8 {
        match self {
            Self::Graceful => 1,
            Self::Kill => 2,
        }
    }

    /// `None`: nothing is asked for, or nothing that is known here.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            FORCE_KILL => Some(Self::Kill),
            FORCE_GRACEFUL => Some(Self::Graceful),
            _ => None,
        }
    }
}

/// To whom a sealed request is addressed: the owner of a lease under one generation and one lease version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressee {
    /// The owner.
    pub owner: HostTerm,
    /// As owner of which version.
    pub lver: Lver,
}

impl Addressee {
    /// Of a sector whose seal was verified.
    #[must_use]
    pub fn read(sector: &[u8]) -> Option<Self> {
        let host_id = HostId::new(u64_at(sector, OWNER_ID))?;
        let generation = Generation(u64_at(sector, OWNER_GENERATION));
        Some(Addressee { owner: HostTerm { host_id, generation }, lver: Lver(u64_at(sector, OWNER_LVER)) })
    }

    /// Into a sector that is sealed afterwards.
    pub fn put_into(&self, sector: &mut [u8]) {
        put_u64(sector, OWNER_ID, self.owner.host_id.get());
        put_u64(sector, OWNER_GENERATION, self.owner.generation.0);
        put_u64(sector, OWNER_LVER, self.lver.0);
    }
}

/// To whom a request record speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// sanlock wrote it: to whoever has an earlier version.
    Unsealed,
    /// A formatted record, or one of an earlier format.
    Nobody,
    /// One of ours.
    To(Addressee),
}

/// A request record with every field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Magic number.
    pub magic: u32,
    /// Major version in the high half.
    pub version: u32,
    /// Requested lease version.
    pub lver: Lver,
    /// What the holder is to do.
    pub force_mode: u32,
    /// Indeterminate where sanlock rewrote it.
    pub reserved: u32,
}

/// A request record that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No request record.
    #[error("request magic 0x{found:08x}, expected 0x{MAGIC:08x}")]
    Magic {
        /// On disk.
        found: u32,
    },
    /// Another major version.
    #[error("request version {}.{}, expected {}.x", .found >> 16, .found & 0xFFFF, VERSION >> 16)]
    Version {
        /// On disk.
        found: u32,
    },
    /// A way of asking that is not known here.
    #[error("request force_mode is {found}, expected 0, 1 or 2")]
    ForceMode {
        /// On disk.
        found: u32,
    },
    /// The seal says that the sector was damaged.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl RequestRecord {
    /// As `init` writes it: nothing is asked for.
    #[must_use]
    pub const fn formatted() -> Self {
        RequestRecord { magic: MAGIC, version: VERSION, lver: Lver(0), force_mode: FORCE_NONE, reserved: 0 }
    }

    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        put_u32(&mut b, MAGIC_AT, self.magic);
        put_u32(&mut b, VERSION_AT, self.version);
        put_u64(&mut b, LVER, self.lver.0);
        put_u32(&mut b, FORCE_MODE, self.force_mode);
        put_u32(&mut b, RESERVED, self.reserved);
        b
    }

    /// The fields as they stand there, whatever they say.
    #[must_use]
    pub fn parse(b: &[u8; LEN]) -> Self {
        RequestRecord {
            magic: u32_at(b, MAGIC_AT),
            version: u32_at(b, VERSION_AT),
            lver: Lver(u64_at(b, LVER)),
            force_mode: u32_at(b, FORCE_MODE),
            reserved: u32_at(b, RESERVED),
        }
    }

    /// The verified record of a whole sector, and its seal.
    ///
    /// # Errors
    /// [`RequestError`].
    ///
    /// # Panics
    /// If the sector is shorter than 512 bytes: sectors come from [`holdfast_io::units::SectorSize`].
    pub fn decode(sector: &[u8]) -> Result<(Decoded<Self>, Option<Seal>), RequestError> {
        let bytes: [u8; LEN] = array_at(sector, 0);
        if is_zero(sector) {
            return Ok((Decoded::Blank, None));
        }
        let record = Self::parse(&bytes);
        if record.magic != MAGIC {
            return Err(RequestError::Magic { found: record.magic });
        }
        if record.version >> 16 != VERSION >> 16 {
            return Err(RequestError::Version { found: record.version });
        }
        if record.force_mode > FORCE_GRACEFUL {
            return Err(RequestError::ForceMode { found: record.force_mode });
        }
        let seal = seal::read(sector, SealedKind::Plain, REQUEST)?;
        Ok((Decoded::Record(record), seal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, seal_of};
    use holdfast_io::bytes::put;
    use proptest::prelude::*;

    fn sector_of(record: &RequestRecord) -> Vec<u8> {
        let mut sector = vec![0; 512];
        put(&mut sector, 0, &record.encode());
        sector
    }

    #[test]
    fn g7_a_forced_request_and_a_formatted_record() {
        let forced = RequestRecord { lver: Lver(2), force_mode: FORCE_KILL, ..RequestRecord::formatted() };
        assert_eq!(forced.encode().as_slice(), hex("1120290801000100 0200000000000000 0100000000000000"));
        assert_eq!(RequestRecord::decode(&sector_of(&forced)), Ok((Decoded::Record(forced), None)));
        let formatted = RequestRecord::formatted();
        assert_eq!(formatted.encode().as_slice(), hex("1120290801000100 0000000000000000 0000000000000000"));
    }

    #[test]
    fn each_wrong_field_has_its_own_error() {
        let good = RequestRecord::formatted();
        let decode = |r: RequestRecord| RequestRecord::decode(&sector_of(&r)).unwrap_err();
        assert_eq!(decode(RequestRecord { magic: 5, ..good }), RequestError::Magic { found: 5 });
        assert_eq!(decode(RequestRecord { version: 0x2_0000, ..good }), RequestError::Version { found: 0x2_0000 });
        assert_eq!(decode(RequestRecord { force_mode: 3, ..good }), RequestError::ForceMode { found: 3 });
        assert_eq!(RequestRecord::decode(&[0; 512]), Ok((Decoded::Blank, None)));
    }

    #[test]
    fn every_flipped_bit_of_a_sealed_request_is_seen() {
        let mut sector = sector_of(&RequestRecord { lver: Lver(9), force_mode: 2, ..RequestRecord::formatted() });
        seal::write(&mut sector, SealedKind::Plain, &seal_of(REQUEST));
        for bit in 0..sector.len() * 8 {
            let mut flipped = sector.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(RequestRecord::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn parse_and_encode_keep_every_field(bytes: [u8; LEN]) {
            prop_assert_eq!(RequestRecord::parse(&bytes).encode(), bytes);
        }

        #[test]
        fn no_sector_makes_the_decoder_panic(sector in proptest::collection::vec(any::<u8>(), 512)) {
            let _ = RequestRecord::decode(&sector);
        }
    }
}
