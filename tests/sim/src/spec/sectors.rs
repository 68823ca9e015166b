//! Raw sectors, read as the specification needs them: with a reader of its own (spec D 2.2, 2.4, and the seal's fire
//! timeout), so that a mistake of the product's codecs is not made twice.

use holdfast_io::bytes::{u16_at, u32_at, u64_at};
use holdfast_io::checksum::lease_crc;
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp};
use paxos_lease::number::Ballot;

use super::state::{Dblock, Inp, Leader, Proposal};

const PAXOS_MAGIC: u32 = 0x0615_2010;
const DELTA_MAGIC: u32 = 0x1221_2010;
const SEAL_MAGIC: u32 = 0x4C53_4648;
/// What a host without a seal is taken to use.
const UNSEALED_FIRE_S: u64 = 60;

/// A delta sector, as far as terms depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Its generation.
    pub generation: Generation,
    /// 0: it was given back.
    pub free: bool,
    /// 8 io_timeouts and the fire timeout, in seconds.
    pub host_dead_s: u64,
}

fn checked(sector: &[u8], magic: u32) -> Result<(), &'static str> {
    if u32_at(sector, 0) != magic {
        return Err("another magic number");
    }
    if u32_at(sector, 168) != lease_crc(&sector[..168]) { Err("a wrong checksum") } else { Ok(()) }
}

/// Offset 32: owner_id, 40: owner_generation, 152: timestamp, 174: io_timeout, 200: the seal.
///
/// # Errors
/// What is wrong with it.
pub fn delta(sector: &[u8]) -> Result<Delta, &'static str> {
    checked(sector, DELTA_MAGIC)?;
    let io_timeout_s = u64::from(u16_at(sector, 174) & 0xFF);
    let sealed = u32_at(sector, 200) == SEAL_MAGIC && sector[205] & 1 == 0;
    let fire_s = if sealed { u64::from(sector[206]) } else { UNSEALED_FIRE_S };
    Ok(Delta {
        generation: Generation(u64_at(sector, 40)),
        free: u64_at(sector, 152) == 0,
        host_dead_s: 8 * io_timeout_s + fire_s,
    })
}

/// Offset 32: owner_id, 40: owner_generation, 48: lver, 152: timestamp, 176: write_id.
///
/// # Errors
/// What is wrong with it.
pub fn leader(sector: &[u8]) -> Result<Leader, &'static str> {
    checked(sector, PAXOS_MAGIC)?;
    let owner = HostId::new(u64_at(sector, 32));
    Ok(Leader {
        lver: Lver(u64_at(sector, 48)),
        owner: owner.map(|host_id| HostTerm { host_id, generation: Generation(u64_at(sector, 40)) }),
        timestamp: RemoteTimestamp(u64_at(sector, 152)),
        writer: HostId::new(u64_at(sector, 176)),
    })
}

/// Offset 0: mbal, 8: bal, 16: inp (host_id, generation, timestamp), 40: lver, 48: checksum, 52: flags.
///
/// # Errors
/// What is wrong with it.
pub fn dblock(sector: &[u8]) -> Result<Dblock, &'static str> {
    let (mbal, bal, host_id) = (u64_at(sector, 0), u64_at(sector, 8), u64_at(sector, 16));
    let lver = Lver(u64_at(sector, 40));
    let checksum = u32_at(sector, 48);
    let blank = checksum == 0 && mbal == 0 && bal == 0 && lver == Lver(0) && host_id == 0;
    if !blank && checksum != lease_crc(&sector[..48]) {
        return Err("a wrong checksum");
    }
    let proposal = match (Ballot::new(bal), HostId::new(host_id)) {
        (None, None) => None,
        (Some(bal), Some(host_id)) => {
            let owner = HostTerm { host_id, generation: Generation(u64_at(sector, 24)) };
            Some(Proposal { bal, inp: Inp { owner, timestamp: RemoteTimestamp(u64_at(sector, 32)) } })
        }
        _ => return Err("I3: bal without inp, or inp without bal"),
    };
    Ok(Dblock { lver, mbal: Ballot::new(mbal), proposal, released: u32_at(sector, 52) & 1 != 0 })
}
