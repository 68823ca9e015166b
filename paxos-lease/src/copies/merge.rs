//! Pure: what several copies of a lease's area say together.
//!
//! Every write that counts is on a majority of the disks, and so is every read; two majorities share a disk. So of each sector
//! at least one copy that was read is the latest that counts. Others may be older - their disk was away - or newer: a write of
//! which nobody knows yet whether it counts. What is said of them together:
//!
//! | sector | of the copies |
//! | --- | --- |
//! | leader record | the largest lver; of one lver, free beats owned (only its owner frees it, for good), and published by another beats published by the owner (then its dblock is asked as well) |
//! | a host's dblock | of the largest lver: the largest mbal, the inp of the largest bal - the paper's blocksSeen has every copy of a block - and RELEASED, which is final, if a majority says so, or a copy with no claim and no new value beside it, of the latest generation that has written there: an earlier one cannot speak for it, and whoever acts on RELEASED must be able to see the claim or the value that was written with it, and so must everybody after him |
//! | its mode block | the latest stamp's, any of this lockspace being later than one of an earlier format of it; of copies without one (sanlock's), shared if any says so |
//! | our own sector | the latest stamp's, or what we wrote last |
//! | request record | what a majority says; else, of this format of the area, the latest addressee, version and force; it decides nothing |
//! | UUID | any: the copies agree on it, or they are no copies |
//!
//! A copy that does not verify does not count for its sector. Where less than a majority does, what is handed on is a damaged one,
//! so that whoever looks at it says what is wrong with it.

use holdfast_io::bytes::{array_at, put};
use holdfast_io::ids::{HostId, HostTerm, Lver, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::{Geometry, SectorIndex};

use super::place::Place;
use super::remarks::ValueRemarks;
use super::stamp::{Lockspace, Rank, Stamp};
use crate::dblock::{Dblock, HostSector, ModeBlock, RELEASED};
use crate::layout::{FIRST_DBLOCK, LEADER, REQUEST, dblock_of, uuid_sector};
use crate::request::{Addressee, Force, RequestRecord};

/// What copies of one lease have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) geometry: Geometry,
    pub(super) uuid: AreaUuid,
    pub(super) space: SpaceName,
}

/// What stands where a copy should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A copy of a lease, as far as its leader record and its UUID tell.
    Lease(Shape, Place),
    /// A lease that is none on several disks, and why. Of such areas nobody can tell whether they belong together, and how many
    /// there are: another host may be told of others, and have a majority that meets no majority of these.
    Alone(&'static str),
    /// A leader record of an area that is longer than what was read.
    Longer(Geometry),
    /// None any more.
    Cleared,
    /// None yet.
    Blank,
    /// Neither.
    Damaged(String),
}

/// What `bytes`, from the beginning of an area on, are.
pub(super) fn classify(bytes: &[u8]) -> Found {
    let nothing = Expected { space: None, resource: None, host_id: None };
    let leader = match LeaderRecord::decode(&array_at(bytes, 0), LeaderKind::Paxos, &nothing) {
        Ok(Decoded::Record(leader)) => leader,
        Ok(Decoded::Cleared(_)) => return Found::Cleared,
        Ok(Decoded::Blank) => return Found::Blank,
        Err(e) => return Found::Damaged(e.to_string()),
    };
    let Some(geometry) = leader.geometry() else { return Found::Damaged("impossible sizes".to_owned()) };
    if bytes.len() < geometry.area_len() {
        return Found::Longer(geometry);
    }
    let at = uuid_sector(geometry);
    let sector = &bytes[at.at(geometry.sector())..][..geometry.sector().bytes()];
    let (uuid, place) = match seal::read(sector, SealedKind::Plain, at) {
        Ok(Some(seal)) => match Place::of_sealed(sector) {
            Some(place) => (seal.area, place),
            None => return Found::Alone("it was formatted as the only copy of its lease"),
        },
        Ok(None) => return Found::Alone("sanlock formatted it: it does not say which copy of how many it is"),
        Err(e) => return Found::Damaged(format!("its UUID: {e}")),
    };
    let shape = Shape { geometry, uuid, space: leader.space_name };
    match leader_of(&bytes[..geometry.sector().bytes()], &shape) {
        Some(_) => Found::Lease(shape, place),
        None => Found::Damaged("its leader record is sealed for another area, or wrongly".to_owned()),
    }
}

/// The leader record of a copy of this lease.
fn leader_of(sector: &[u8], shape: &Shape) -> Option<LeaderRecord> {
    let expected = Expected { space: Some(shape.space), resource: None, host_id: None };
    let record: [u8; leader::LEN] = array_at(sector, 0);
    let Ok(Decoded::Record(leader)) = LeaderRecord::decode(&record, LeaderKind::Paxos, &expected) else { return None };
    let seal = seal::read(sector, SealedKind::Plain, LEADER).ok()?;
    let ours = seal.is_none_or(|seal| seal.area == shape.uuid) && leader.geometry() == Some(shape.geometry);
    ours.then_some(leader)
}

/// Which of several copies has the newest leader record, whatever else it says.
pub(super) fn newest<'a>(copies: &[&'a AlignedBuf]) -> Option<&'a AlignedBuf> {
    copies.iter().max_by_key(|bytes| rank(&LeaderRecord::parse(&array_at(bytes, 0)))).copied()
}

/// Whose sector is ours, and what we wrote there last.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) me: Option<HostTerm>,
    /// In which lockspace, as far as that is known.
    pub(super) lockspace: Option<Lockspace>,
    /// Or found there at first.
    pub(super) written: Option<&'a [u8]>,
    /// It is on a majority: whoever reads one finds it there, unless somebody has written over it.
    pub(super) counts: bool,
}

/// Sectors from `from` on, out of those of the copies.
pub(super) struct Merged {
    pub(super) bytes: AlignedBuf,
    /// Of each sector at least a majority of the copies counts.
    pub(super) complete: bool,
}

/// Puts together what was read of several copies of a lease, `majority` of which have to count. The reads are equally long.
pub(super) fn merge(shape: &Shape, from: SectorIndex, copies: &[&AlignedBuf], majority: usize, own: Own<'_>) -> Merged {
    let size = shape.geometry.sector().bytes();
    let mut bytes = copies.first().map_or_else(|| AlignedBuf::zeroed(0), |first| (*first).clone());
    let mut complete = copies.len() >= majority;
    if planted(Bug::FirstCopyBelieved) {
        return Merged { bytes, complete };
    }
    for (i, index) in (0..bytes.len() / size).zip(from.0..) {
        let (range, index) = (i * size..(i + 1) * size, SectorIndex(index));
        let ours = own.written.is_some() && own.me.is_some_and(|me| index == dblock_of(me.host_id));
        if !ours && copies.iter().all(|c| c[range.clone()] == bytes[range.clone()]) {
            continue; // Right or wrong, they all say the same.
        }
        let sectors: Vec<&[u8]> = copies.iter().map(|c| &c[range.clone()]).collect();
        let (merged, counting) = sector(shape, index, &sectors, majority, own);
        complete &= counting >= majority;
        if bytes[range.clone()] != *merged {
            bytes[range].copy_from_slice(&merged);
        }
    }
    Merged { bytes, complete }
}

/// One sector, and how many copies count.
fn sector<'a>(
    shape: &Shape,
    index: SectorIndex,
    copies: &[&'a [u8]],
    majority: usize,
    own: Own<'a>,
) -> (Vec<u8>, usize) {
    let most = FIRST_DBLOCK.0 + shape.geometry.max_hosts();
    let first = || (copies[0].to_vec(), copies.len());
    match index {
        LEADER => leader(shape, copies),
        REQUEST => request(shape, copies, majority),
        SectorIndex(n) if n < most => {
            let Some(host_id) = HostId::from_slot(n - FIRST_DBLOCK.0) else { return first() };
            let blocks: Vec<Block<'_>> =
                copies.iter().filter_map(|s| Block::read(s, index, shape, own.lockspace)).collect();
            let counting = blocks.len();
            if let Some(damaged) = copies.iter().find(|s| Block::read(s, index, shape, own.lockspace).is_none())
                && counting < majority
            {
                return (damaged.to_vec(), counting);
            }
            let merged = if own.me.is_some_and(|me| me.host_id == host_id) {
                latest(blocks, own, index, shape)
            } else {
                seen(&blocks, index, majority)
            };
            (merged, counting)
        }
        _ => first(),
    }
}

/// What a majority says counts. Where they say different things some have not arrived, or were written long ago: of those of this
/// format of the area the one for the latest version that anybody held, and its latest term - whoever an earlier one was for has gone, however
/// far he was asked to go - and of those the one that asks for the latest version, and the most of it. To be heard twice, or by
/// nobody, is what a request must bear; it is never for anybody else than the term in it.
fn request(shape: &Shape, copies: &[&[u8]], majority: usize) -> (Vec<u8>, usize) {
    let agreed = copies.iter().find(|s| copies.iter().filter(|other| other == s).count() >= majority);
    if let Some(agreed) = agreed {
        return (agreed.to_vec(), copies.len());
    }
    best(copies, |s| {
        let (_, seal) = RequestRecord::decode(s).ok()?;
        seal.filter(|seal| seal.area == shape.uuid)?;
        let record = RequestRecord::parse(&array_at(s, 0));
        let to = Addressee::read(s).map(|to| (to.lver, to.owner.generation));
        let force = Force::from_number(record.force_mode).map_or(0, Force::weight);
        Some((to, record.lver, force))
    })
}

fn leader(shape: &Shape, copies: &[&[u8]]) -> (Vec<u8>, usize) {
    best(copies, |sector| leader_of(sector, shape).map(|leader| rank(&leader)))
}

/// Which of two records says more.
fn rank(leader: &LeaderRecord) -> (Lver, bool, bool, u64) {
    (leader.lver, leader.is_free(), leader.write_id != leader.owner_id, leader.write_timestamp)
}

/// The copy of the highest rank; where none has one, the first.
fn best<K: Ord>(copies: &[&[u8]], rank: impl Fn(&[u8]) -> Option<K>) -> (Vec<u8>, usize) {
    let ranked: Vec<(K, &[u8])> = copies.iter().filter_map(|s| Some((rank(s)?, *s))).collect();
    let counting = ranked.len();
    let best = ranked.into_iter().max_by(|(a, _), (b, _)| a.cmp(b)).map_or(copies[0], |(_, s)| s);
    (best.to_vec(), counting)
}

/// One copy of a host's sector.
struct Block<'a> {
    bytes: &'a [u8],
    content: HostSector,
    stamp: Stamp,
    rank: Rank,
}

impl<'a> Block<'a> {
    fn read(bytes: &'a [u8], at: SectorIndex, shape: &Shape, now: Option<Lockspace>) -> Option<Self> {
        let content = match HostSector::decode(bytes, at).ok()? {
            Decoded::Record(content) | Decoded::Cleared(content) => content,
            Decoded::Blank => HostSector::default(),
        };
        content.check_area(shape.uuid).ok()?;
        let stamp = content.seal.map_or_else(Stamp::default, |_| Stamp::of_sealed(bytes));
        Some(Block { bytes, content, stamp, rank: stamp.rank(now) })
    }

    /// Whether it was written, and has no seal. Of ours none is written without: so it is damaged, there.
    fn has_lost_its_seal(&self) -> bool {
        self.content.seal.is_none() && self.content != HostSector::default()
    }

    /// Whether it says, with RELEASED, that its host has set the value of the lease under this lver.
    fn sets_value(&self) -> bool {
        let dblock = &self.content.dblock;
        let settled = self.content.seal.and_then(|_| ValueRemarks::of_sealed(self.bytes).settled);
        dblock.is_released() && settled.is_some_and(|(lver, _)| lver == dblock.lver)
    }
}

/// Our own sector: nobody else writes there, so what was written last is what holds. What an earlier generation of ours has left
/// on a few disks, and was not seen at first, is none of it: it had its phase 1 on a majority if it proposed anything, and that
/// was seen. Where nothing that counted is found any more, somebody else has written there: that is what stands. But a copy that has
/// lost its seal is no word of anybody else's: it may be the very one that counted.
fn latest<'a>(mut blocks: Vec<Block<'a>>, own: Own<'a>, at: SectorIndex, shape: &Shape) -> Vec<u8> {
    if let Some(written) = own.written.and_then(|bytes| Block::read(bytes, at, shape, own.lockspace)) {
        let stands = blocks.iter().any(|block| block.rank >= written.rank || block.has_lost_its_seal());
        let ours = |block: &Block<'_>| own.me.is_some_and(|me| block.rank >= (true, me.generation, 0));
        if stands || !own.counts {
            blocks.retain(ours);
            blocks.push(written);
        }
    }
    let numbers = |b: &Block<'_>| (b.content.dblock.lver, b.content.dblock.mbal, b.content.dblock.bal);
    let last = blocks.iter().max_by_key(|b| (b.rank, numbers(b)));
    // When it was written it does not say any more. Its numbers have a checksum of their own, and never fall (I2).
    let lost = blocks.iter().filter(|b| b.has_lost_its_seal()).max_by_key(|b| numbers(b));
    let later = |lost: &&Block<'_>| last.is_none_or(|last| numbers(lost) > numbers(last));
    lost.filter(later).or(last).map_or_else(Vec::new, |b| b.bytes.to_vec())
}

/// Another host's.
fn seen(blocks: &[Block<'_>], at: SectorIndex, majority: usize) -> Vec<u8> {
    let latest = blocks.iter().max_by_key(|b| (b.rank, b.content.mode.is_shared()));
    let Some(last) = (if planted(Bug::StampIgnored) { blocks.first() } else { latest }) else { return Vec::new() };
    let lver = blocks.iter().map(|b| b.content.dblock.lver).max().unwrap_or_default();
    let of_it = || blocks.iter().map(|b| &b.content.dblock).filter(|b| b.lver == lver);
    let proposed = of_it().max_by_key(|b| b.bal).copied().unwrap_or_default();
    let flags = if is_word(blocks, lver, majority) { RELEASED } else { 0 };
    let dblock = Dblock { mbal: of_it().filter_map(|b| b.mbal).max(), flags, ..proposed };
    // sanlock does not stamp: a claim of its host is not overlooked because the host was once one of ours.
    let unstamped = blocks.iter().find(|b| b.stamp == Stamp::default() && b.content.mode.is_shared());
    let whole = HostSector { dblock, mode: unstamped.unwrap_or(last).content.mode, seal: last.content.seal };
    if whole == last.content && unstamped.is_none() {
        return last.bytes.to_vec();
    }
    // A claim without a stamp must not look like one of the time of another.
    let stamp = if unstamped.is_some() { Stamp::default() } else { last.stamp };
    assembled(last, &dblock, &whole.mode, stamp, at)
}

/// Whether another host's RELEASED at `lver`, its latest, is to be acted upon. Of its generations the latest that has written there
/// alone can say so: what an earlier one said may be on so few disks that the later one never saw it, and holds this very lver. If it
/// does, its block is on a majority, so that whoever reads one sees that there is a later generation.
fn is_word(blocks: &[Block<'_>], lver: Lver, majority: usize) -> bool {
    let of_it = || blocks.iter().filter(|b| b.content.dblock.lver == lver);
    let term = |b: &Block<'_>| (b.rank.0, b.rank.1);
    let last = of_it().map(term).max();
    let says = |b: &&Block<'_>| b.content.dblock.is_released() && Some(term(b)) == last;
    let released = || of_it().filter(says);
    released().count() >= majority || released().any(|b| !b.content.mode.is_shared() && !b.sets_value())
}

/// The sector of `base` with another dblock, mode block and stamp, sealed as it was.
fn assembled(base: &Block<'_>, dblock: &Dblock, mode: &ModeBlock, stamp: Stamp, at: SectorIndex) -> Vec<u8> {
    let mut sector = base.bytes.to_vec();
    put(&mut sector, 0, &dblock.encode());
    mode.put_into(&mut sector);
    if base.content.seal.is_some() {
        stamp.put_into(&mut sector);
    }
    if let Some(seal) = base.content.seal {
        seal::write(&mut sector, SealedKind::Dblock, &Seal { sector: at, ..seal });
    }
    sector
}
