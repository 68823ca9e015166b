//! One host's sector of a resource: its dblock (Disk Paxos) and its mode block (shared mode), and the seal around both.
//!
//! | offset | size | field | meaning |
//! | --- | --- | --- | --- |
//! | 0 | u64 | mbal | the ballot this host has in progress, 0 none |
//! | 8 | u64 | bal | the ballot in which it set inp, 0 none |
//! | 16 | u64 | inp | proposed owner, host_id, 0 none |
//! | 24 | u64 | inp2 | its generation |
//! | 32 | u64 | inp3 | timestamp of the leader record to be, seconds of the proposer's clock |
//! | 40 | u64 | lver | the lease version all this is about |
//! | 48 | u32 | checksum | of \[0,48) |
//! | 52 | u32 | flags | bit 0 RELEASED |
//! | 128 | u32 | mode flags | bit 0 SHARED |
//! | 132 | u32 | reserved | sanlock leaves stack bytes here; not looked at |
//! | 136 | u64 | generation | of the shared holder |
//!
//! What Holdfast adds on several disks, in \[56,128) and behind the mode block: `copies/stamp.rs`, `copies/remarks.rs`.
//!
//! sanlock's checksum leaves out the flags and the mode block, though both decide who may hold the lease; the seal
//! covers them. A sector that nobody used is all zero. Bytes \[56,128) and \[144,sector) of a sector written by sanlock
//! may be anything. Errors: [`DblockError`]. Source: spec D 2.4, 2.5, 2.9.

use holdfast_io::bytes::{is_zero, put, put_u32, put_u64, u32_at, u64_at};
use holdfast_io::checksum::lease_crc;
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp};
use holdfast_io::leader::Decoded;
use holdfast_io::seal::{self, AreaUuid, Seal, SealError, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::{SectorIndex, SectorSize};

use crate::number::Ballot;

const MBAL: usize = 0;
const BAL: usize = MBAL + 8;
const INP: usize = BAL + 8;
const INP2: usize = INP + 8;
const INP3: usize = INP2 + 8;
const LVER: usize = INP3 + 8;
const CHECKSUM: usize = LVER + 8;
const FLAGS: usize = CHECKSUM + 4;
/// Bytes in a dblock.
pub const LEN: usize = FLAGS + 4;
const _: () = assert!(LEN == 56);

/// Where the mode block begins.
pub const MODE: usize = 128;
const MODE_RESERVED: usize = MODE + 4;
const MODE_GENERATION: usize = MODE_RESERVED + 4;
/// Where it ends.
pub const MODE_END: usize = MODE_GENERATION + 8;
const _: () = assert!(LEN <= MODE && MODE_END <= seal::OFFSET, "dblock, mode block and seal stand side by side");

/// RELEASED: this host does not hold, and will not hold, the lease at this dblock's lver.
pub const RELEASED: u32 = 0x1;
/// SHARED: this host holds the lease in shared mode.
pub const SHARED: u32 = 0x1;

/// A proposed owner: what the leader record will say once it is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inp {
    /// host_id; 0 where nothing is proposed.
    pub owner_id: u64,
    /// Its generation.
    pub generation: Generation,
    /// The leader's timestamp to be.
    pub timestamp: RemoteTimestamp,
}

impl Inp {
    /// `owner`, from `seconds` of its own clock on.
    #[must_use]
    pub const fn new(owner: HostTerm, seconds: u64) -> Self {
        Inp { owner_id: owner.host_id.get(), generation: owner.generation, timestamp: RemoteTimestamp(seconds) }
    }

    /// The proposed owner; `None` where nothing is proposed.
    #[must_use]
    pub fn owner(&self) -> Option<HostTerm> {
        let host_id = HostId::new(self.owner_id)?;
        Some(HostTerm { host_id, generation: self.generation })
    }
}

/// A host's block of Disk Paxos, for one lver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dblock {
    /// Ballot in progress.
    pub mbal: Option<Ballot>,
    /// Ballot in which `inp` was set.
    pub bal: Option<Ballot>,
    /// The value proposed in `bal`.
    pub inp: Inp,
    /// Lease version.
    pub lver: Lver,
    /// [`RELEASED`].
    pub flags: u32,
}

impl Dblock {
    /// Whether the host has given up this lver.
    #[must_use]
    pub const fn is_released(&self) -> bool {
        self.flags & RELEASED != 0
    }

    /// The same block with its lver given up. Nothing else changes: I2.
    #[must_use]
    pub const fn released(mut self) -> Self {
        self.flags |= RELEASED;
        self
    }

    /// The bytes on disk, checksum included.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let number = |b: Option<Ballot>| b.map_or(0, Ballot::get);
        let mut b = [0; LEN];
        put_u64(&mut b, MBAL, number(self.mbal));
        put_u64(&mut b, BAL, number(self.bal));
        put_u64(&mut b, INP, self.inp.owner_id);
        put_u64(&mut b, INP2, self.inp.generation.0);
        put_u64(&mut b, INP3, self.inp.timestamp.0);
        put_u64(&mut b, LVER, self.lver.0);
        let checksum = lease_crc(&b[..CHECKSUM]);
        put_u32(&mut b, CHECKSUM, checksum);
        put_u32(&mut b, FLAGS, self.flags);
        b
    }

    /// The fields as they stand there, whatever they say.
    #[must_use]
    pub fn parse(b: &[u8; LEN]) -> Self {
        Dblock {
            mbal: Ballot::new(u64_at(b, MBAL)),
            bal: Ballot::new(u64_at(b, BAL)),
            inp: Inp {
                owner_id: u64_at(b, INP),
                generation: Generation(u64_at(b, INP2)),
                timestamp: RemoteTimestamp(u64_at(b, INP3)),
            },
            lver: Lver(u64_at(b, LVER)),
            flags: u32_at(b, FLAGS),
        }
    }

    /// The checksum that stands in the bytes, and the one that should.
    #[must_use]
    pub fn checksums(b: &[u8; LEN]) -> (u32, u32) {
        (u32_at(b, CHECKSUM), lease_crc(&b[..CHECKSUM]))
    }

    /// The verified block.
    ///
    /// # Errors
    /// A wrong checksum (a block of zeros needs none), unknown flags, or fields that no ballot leaves behind (I3).
    pub fn decode(b: &[u8; LEN]) -> Result<Self, DblockError> {
        let block = Self::parse(b);
        let (found, expected) = Self::checksums(b);
        let unused = found == 0
            && block.mbal.is_none()
            && block.bal.is_none()
            && block.inp.owner_id == 0
            && block.lver == Lver(0);
        if found != expected && !unused {
            return Err(DblockError::Checksum { found, expected });
        }
        known_flags("dblock", block.flags, RELEASED)?;
        block.check_fields()?;
        Ok(block)
    }

    /// I3, as a test of what another host wrote. A proposal with timestamp 0 would be committed as "free" while its
    /// owner takes itself for the holder, so it is refused with the rest.
    fn check_fields(&self) -> Result<(), DblockError> {
        let bad = |field, found, expected| Err(DblockError::Field { field, found, expected });
        let number = |b: Option<Ballot>| b.map_or(0, Ballot::get);
        if self.bal > self.mbal {
            return bad("bal", number(self.bal), "at most mbal (I3)");
        }
        match (self.bal, self.inp.owner_id) {
            (None, 0) => Ok(()),
            (None, found) => bad("inp", found, "0, since bal is 0 (I3)"),
            (Some(_), found) if self.inp.owner().is_none() => bad("inp", found, "a host_id, since bal is set (I3)"),
            (Some(_), _) if self.inp.timestamp.is_free() => bad("inp3", 0, "a timestamp, since bal is set"),
            (Some(_), _) => Ok(()),
        }
    }
}

/// Whether a host holds the lease in shared mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeBlock {
    /// [`SHARED`].
    pub flags: u32,
    /// Indeterminate where sanlock wrote it; 0 in ours.
    pub reserved: u32,
    /// The holder's generation.
    pub generation: Generation,
}

impl ModeBlock {
    /// No claim.
    pub const NONE: Self = ModeBlock { flags: 0, reserved: 0, generation: Generation(0) };

    /// The claim of a host that shares the lease.
    #[must_use]
    pub const fn shared(generation: Generation) -> Self {
        ModeBlock { flags: SHARED, reserved: 0, generation }
    }

    /// Into its place in a host's sector.
    pub(crate) fn put_into(&self, sector: &mut [u8]) {
        put_u32(sector, MODE, self.flags);
        put_u32(sector, MODE_RESERVED, self.reserved);
        put_u64(sector, MODE_GENERATION, self.generation.0);
    }

    /// Whether both say the same: the reserved word says nothing.
    #[must_use]
    pub fn says(&self, other: &Self) -> bool {
        (self.flags, self.generation) == (other.flags, other.generation)
    }

    /// Whether the host claims the lease in shared mode.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.flags & SHARED != 0
    }
}

/// Everything that has a meaning in one host's sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostSector {
    /// The dblock.
    pub dblock: Dblock,
    /// The mode block.
    pub mode: ModeBlock,
    /// The seal; `None` where sanlock wrote the sector.
    pub seal: Option<Seal>,
}

/// A host's sector that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DblockError {
    /// sanlock's checksum fails.
    #[error("dblock checksum 0x{found:08x}, expected 0x{expected:08x}")]
    Checksum {
        /// On disk.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// Flags without a meaning here: they could say that the lease is held in a way we do not know.
    #[error("unknown flag bits 0x{found:x} in the {record}: written by a newer program whose rules are not known here")]
    UnknownFlags {
        /// "dblock" or "mode block".
        record: &'static str,
        /// The unknown bits.
        found: u32,
    },
    /// A field that no ballot leaves behind.
    #[error("dblock field {field} is {found}, expected {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// On disk.
        found: u64,
        /// What could be.
        expected: &'static str,
    },
    /// The seal says that the sector was damaged, or belongs elsewhere.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The seal names another lease area, or an earlier format of this one.
    #[error("sealed for the lease area {}, expected {}: its host wrote it, late or unaware, for what was here before the area was formatted. When that host \
             has no write on its way any more, format the area again (holdfast init --force)", .found.0, .expected.0)]
    Area {
        /// In the sector's seal.
        found: AreaUuid,
        /// In the area's tail.
        expected: AreaUuid,
    },
}

impl DblockError {
    /// Whether what the host had written there is lost, and not only not understood here. A sector of an earlier format is: it has landed
    /// late, over what this one's host had written.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self {
            DblockError::Checksum { .. } | DblockError::Field { .. } | DblockError::Area { .. } => true,
            DblockError::Seal(seal) => seal.is_damage(),
            DblockError::UnknownFlags { .. } => false,
        }
    }
}

fn known_flags(record: &'static str, flags: u32, known: u32) -> Result<(), DblockError> {
    match flags & !known {
        0 => Ok(()),
        found => Err(DblockError::UnknownFlags { record, found }),
    }
}

impl HostSector {
    /// Dblock and mode block as they stand there, whatever they say, without the seal: for the dumper.
    ///
    /// # Panics
    /// If the sector is shorter than 512 bytes: sectors come from [`SectorSize`].
    #[must_use]
    pub fn parse(sector: &[u8]) -> Self {
        assert!(sector.len() >= 512, "a sector has at least 512 bytes");
        let mode = ModeBlock {
            flags: u32_at(sector, MODE),
            reserved: u32_at(sector, MODE_RESERVED),
            generation: Generation(u64_at(sector, MODE_GENERATION)),
        };
        HostSector { dblock: Dblock::parse(&holdfast_io::bytes::array_at(sector, 0)), mode, seal: None }
    }

    /// The verified content of sector `at` of an area; `Blank` where no host ever wrote. The seal's area is left to the
    /// caller, who knows the area's UUID ([`HostSector::check_area`]).
    ///
    /// # Errors
    /// [`DblockError`]. Such a sector may hide a live shared holder or a committed value: never skip it.
    ///
    /// # Panics
    /// If the sector is shorter than 512 bytes.
    pub fn decode(sector: &[u8], at: SectorIndex) -> Result<Decoded<Self>, DblockError> {
        let seal = seal::read(sector, SealedKind::Dblock, at)?;
        if seal.is_none() && is_zero(&sector[..LEN]) && is_zero(&sector[MODE..MODE_END]) {
            return Ok(Decoded::Blank);
        }
        let dblock = Dblock::decode(&holdfast_io::bytes::array_at(sector, 0))?;
        let mode = Self::parse(sector).mode;
        known_flags("mode block", mode.flags, SHARED)?;
        // Whoever shares a lease has run a ballot for it. No checksum of sanlock's covers the mode block, and where nobody
        // ever wrote there is no seal either: a flipped bit there must not make up a holder.
        if mode.is_shared() && dblock.mbal.is_none() {
            let (found, expected) = (u64::from(mode.flags), "0, since its host has run no ballot here");
            return Err(DblockError::Field { field: "mode flags", found, expected });
        }
        // Nor hide one: whoever gives a shared claim up clears all of the block, and a claim names a generation.
        if mode.is_shared() != (mode.generation.0 != 0) {
            let (found, expected) = (mode.generation.0, "one where the mode flags say SHARED, and else 0");
            return Err(DblockError::Field { field: "mode generation", found, expected });
        }
        Ok(Decoded::Record(HostSector { dblock, mode, seal }))
    }

    /// # Errors
    /// [`DblockError::Area`] where the seal names another area than `expected`.
    pub fn check_area(&self, expected: AreaUuid) -> Result<(), DblockError> {
        match self.seal {
            Some(Seal { area: found, .. }) if found != expected => Err(DblockError::Area { found, expected }),
            _ => Ok(()),
        }
    }

    /// The whole sector, ready to be written, sealed with `seal`.
    #[must_use]
    pub fn sector(&self, size: SectorSize, seal: &Seal) -> AlignedBuf {
        let mut sector = AlignedBuf::zeroed(size.bytes());
        put(&mut sector, 0, &self.dblock.encode());
        self.mode.put_into(&mut sector);
        seal::write(&mut sector, SealedKind::Dblock, seal);
        sector
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, seal_of};
    use proptest::prelude::*;

    fn term(host: u64, generation: u64) -> HostTerm {
        HostTerm { host_id: HostId::new(host).unwrap(), generation: Generation(generation) }
    }

    fn held() -> Dblock {
        let bal = Ballot::new(0x1f41);
        Dblock { mbal: bal, bal, inp: Inp::new(term(1, 2), 0x568), lver: Lver(5), flags: 0 }
    }

    #[test]
    fn g5_the_owners_dblock_while_held_and_after_its_release() {
        let bytes = held().encode();
        let expected = hex("411f000000000000 411f000000000000 0100000000000000 0200000000000000
                            6805000000000000 0500000000000000 ba8f872e 00000000");
        assert_eq!(bytes.as_slice(), expected);
        let released = held().released().encode();
        assert_eq!(released[..FLAGS], bytes[..FLAGS], "the same checksum");
        assert_eq!(released[FLAGS..], [1, 0, 0, 0]);
        assert_eq!(Dblock::decode(&released), Ok(held().released()));
    }

    #[test]
    fn g6_a_released_dblock_beside_a_shared_mode_block() {
        let mut sector = vec![0; 512];
        put(
            &mut sector,
            0,
            &hex("0100000000000000 0100000000000000 0100000000000000 0200000000000000
                                  f003000000000000 0100000000000000 aa170a74 01000000"),
        );
        put(&mut sector, MODE, &hex("0100000000000000 0200000000000000"));
        let Ok(Decoded::Record(found)) = HostSector::decode(&sector, SectorIndex(2)) else {
            panic!("not a record: {:?}", HostSector::decode(&sector, SectorIndex(2)));
        };
        let one = Ballot::new(1);
        let dblock = Dblock { mbal: one, bal: one, inp: Inp::new(term(1, 2), 1008), lver: Lver(1), flags: RELEASED };
        let mode = ModeBlock { flags: SHARED, reserved: 0, generation: Generation(2) };
        assert_eq!(found, HostSector { dblock, mode, seal: None });
        let again = found.sector(SectorSize::B512, &seal_of(SectorIndex(2)));
        assert_eq!(again[..seal::OFFSET], sector[..seal::OFFSET]);
        assert_eq!(again[seal::END..], sector[seal::END..]);
    }

    #[test]
    fn a_block_that_nobody_used_is_blank_and_sanlocks_retracted_one_is_not() {
        assert_eq!(HostSector::decode(&[0; 512], SectorIndex(2)), Ok(Decoded::Blank));
        let mut sector = vec![0; 512];
        put(&mut sector, 0, &Dblock { flags: RELEASED, ..Dblock::default() }.encode());
        assert_eq!(u32_at(&sector, CHECKSUM), 0xcb5a_d842);
        let Ok(Decoded::Record(found)) = HostSector::decode(&sector, SectorIndex(2)) else { panic!("not a record") };
        assert!(found.dblock.is_released());
    }

    #[test]
    fn fields_that_no_ballot_leaves_behind_are_refused_by_name() {
        let field = |block: Dblock| match Dblock::decode(&block.encode()) {
            Err(DblockError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(Dblock { mbal: Ballot::new(1), ..held() }), "bal");
        assert_eq!(field(Dblock { bal: None, ..held() }), "inp");
        assert_eq!(field(Dblock { inp: Inp::default(), ..held() }), "inp");
        assert_eq!(field(Dblock { inp: Inp { owner_id: 2001, ..held().inp }, ..held() }), "inp");
        assert_eq!(field(Dblock { inp: Inp { timestamp: RemoteTimestamp(0), ..held().inp }, ..held() }), "inp3");
    }

    #[test]
    fn unknown_flags_are_refused_by_name() {
        let strange = Dblock { flags: 0x10, ..held() };
        let error = DblockError::UnknownFlags { record: "dblock", found: 0x10 };
        assert_eq!(Dblock::decode(&strange.encode()), Err(error));
        let mode = ModeBlock { flags: 3, ..ModeBlock::default() };
        let sector = HostSector { dblock: held(), mode, seal: None }.sector(SectorSize::B512, &seal_of(SectorIndex(2)));
        let error = DblockError::UnknownFlags { record: "mode block", found: 2 };
        assert_eq!(HostSector::decode(&sector, SectorIndex(2)), Err(error));
    }

    /// No checksum of sanlock's covers the mode block: of a peer's claim and of its absence, each bit that alone could make
    /// one into the other is checked.
    #[test]
    fn s1_no_flipped_bit_hides_or_makes_up_a_peers_shared_claim() {
        let sector = |mode| {
            let whole = HostSector { dblock: held(), mode, seal: None };
            let mut sector = whole.sector(SectorSize::B512, &seal_of(SectorIndex(2)));
            sector[seal::OFFSET..seal::END].fill(0);
            sector
        };
        let claim = ModeBlock { flags: SHARED, reserved: 0, generation: Generation(4) };
        for mode in [claim, ModeBlock::default()] {
            let whole = sector(mode);
            assert!(HostSector::decode(&whole, SectorIndex(2)).is_ok());
            for bit in 0..128 {
                let mut flipped = whole.clone();
                flipped[MODE + bit / 8] ^= 1 << (bit % 8);
                if let Ok(Decoded::Record(found)) = HostSector::decode(&flipped, SectorIndex(2)) {
                    assert_eq!(found.mode.is_shared(), mode.is_shared(), "bit {bit}");
                }
            }
        }
    }

    /// What a flip of byte `at` in a sealed sector does: seen as damage, or (in the seal's own bytes and in what its
    /// check covers) the seal no longer counts and the sector is read as sanlock's.
    #[test]
    fn every_flipped_byte_of_a_sealed_sector_is_seen_or_lies_where_only_the_seal_is_lost() {
        for size in [SectorSize::B512, SectorSize::B4096] {
            let mode = ModeBlock { flags: SHARED, reserved: 0, generation: Generation(9) };
            let whole = HostSector { dblock: held(), mode, seal: None };
            let sector = whole.sector(size, &seal_of(SectorIndex(2)));
            for at in 0..size.bytes() {
                for bit in 0..8 {
                    let mut flipped = sector.clone();
                    flipped[at] ^= 1 << bit;
                    match HostSector::decode(&flipped, SectorIndex(2)) {
                        Err(_) => {}
                        Ok(Decoded::Record(found)) => {
                            assert!((seal::OFFSET..seal::END).contains(&at), "byte {at} bit {bit} went unseen");
                            assert_eq!(found, whole, "without its seal, the content as written");
                        }
                        other => panic!("byte {at}: {other:?}"),
                    }
                }
            }
        }
    }

    fn any_sector() -> impl Strategy<Value = HostSector> {
        let dblock = any::<(u64, u64, u64, u64, u64, u64, u32)>().prop_map(|f| Dblock {
            mbal: Ballot::new(f.0),
            bal: Ballot::new(f.1),
            inp: Inp { owner_id: f.2, generation: Generation(f.3), timestamp: RemoteTimestamp(f.4) },
            lver: Lver(f.5),
            flags: f.6,
        });
        let mode =
            any::<(u32, u32, u64)>().prop_map(|f| ModeBlock { flags: f.0, reserved: f.1, generation: Generation(f.2) });
        (dblock, mode).prop_map(|(dblock, mode)| HostSector { dblock, mode, seal: None })
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_back(whole in any_sector()) {
            let sector = whole.sector(SectorSize::B512, &seal_of(SectorIndex(7)));
            prop_assert_eq!(HostSector::parse(&sector), whole);
        }

        #[test]
        fn what_a_ballot_leaves_behind_decodes(mbal in 1u64.., bal in 0u64.., host in 1u64..=2000, lver: u64, flags in 0u32..2, shared in 0u32..2) {
            let (mbal, bal) = (Ballot::new(mbal), Ballot::new(bal.min(mbal)));
            let inp = if bal.is_some() { Inp::new(term(host, lver), 7) } else { Inp::default() };
            let mode = ModeBlock { flags: shared, reserved: 0, generation: Generation(3 * u64::from(shared)) };
            let seal = seal_of(SectorIndex(7));
            let whole = HostSector { dblock: Dblock { mbal, bal, inp, lver: Lver(lver), flags }, mode, seal: Some(seal) };
            let sector = whole.sector(SectorSize::B4096, &seal);
            prop_assert_eq!(HostSector::decode(&sector, SectorIndex(7)), Ok(Decoded::Record(whole)));
        }

        #[test]
        fn no_sector_makes_the_decoder_panic(sector in proptest::collection::vec(any::<u8>(), 512)) {
            let _ = HostSector::decode(&sector, SectorIndex(2));
        }
    }
}
