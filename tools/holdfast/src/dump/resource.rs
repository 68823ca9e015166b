//! A resource's area as plain data: leader, request, every dblock with its mode block, value block.

use holdfast_io::bytes::{array_at, is_zero};
use holdfast_io::ids::{HostId, Lver};
use holdfast_io::leader;
use holdfast_io::leader::{Decoded, Expected, LeaderKind, LeaderRecord, SHORT_HOLD};
use holdfast_io::seal::{self, SealedKind};
use holdfast_io::units::SectorIndex;
use paxos_lease::dblock::{self, HostSector};
use paxos_lease::layout::{self, LEADER, REQUEST};
use paxos_lease::request::{self, RequestRecord};

use super::area::View;
use super::report::{
    Area, BallotState, Content, Damage, Dblock, Leader, Owner, Request, Resource, ResourceState, SealReport, Sharer,
    Term, ValueBlock, hex,
};

/// The value block's sector, in areas that reach so far.
const VALUE_BLOCK: SectorIndex = SectorIndex(2002);

/// The resource in an area.
pub fn read(view: &View, damage: &mut Vec<Damage>) -> Resource {
    let bytes = view.record(LEADER);
    let record = LeaderRecord::parse(&bytes);
    let (checksum, _) = LeaderRecord::checksums(&bytes);
    let leader_seal = seal::read(view.sector(LEADER), SealedKind::Plain, LEADER);
    let leader_wrong = view.unreadable(LEADER).or_else(|| wrong_leader(view, &bytes));
    let leader_wrong = leader_wrong.or_else(|| match &leader_seal {
        Ok(seal) => seal.and_then(|seal| view.wrong_area(&seal)),
        Err(error) => Some(error.to_string()),
    });
    let damaged = leader_wrong.is_some();
    damage.extend(leader_wrong.map(|reason| view.damage(LEADER, "leader".into(), reason)));
    let request = request(view, damage);
    let (mut dblocks, mut shared) = (Vec::new(), Vec::new());
    for host in (0..view.geometry.max_hosts()).filter_map(HostId::from_slot) {
        let index = layout::dblock_of(host);
        if view.unreadable(index).is_none() && is_zero(view.sector(index)) {
            continue;
        }
        dblocks.push(dblock(view, index, host, record.lver, damage));
        let mode = HostSector::parse(view.sector(index)).mode;
        if mode.is_shared() {
            let (host_id, generation) = (host.slot() + 1, mode.generation.0);
            shared.push(Sharer { host_id, generation, name: None, term: Term::Unknown });
        }
    }
    view.check_tail(damage);
    let state = if damaged { ResourceState::Damaged } else { state(&record, &dblocks, &shared) };
    let owner = matches!(state, ResourceState::Held | ResourceState::Released).then(|| Owner {
        host_id: record.owner_id,
        generation: record.owner_generation.0,
        since: record.timestamp.0,
        name: None,
        term: Term::Unknown,
    });
    Resource {
        lockspace: record.space_name.to_string(),
        resource: record.resource_name.to_string(),
        state,
        owner,
        shared,
        lver: record.lver.0,
        record: Leader::of(&record, checksum),
        seal: leader_seal.ok().flatten().map(SealReport::from),
        request,
        dblocks,
        value_block: value_block(view),
        damaged,
    }
}

fn wrong_leader(view: &View, bytes: &[u8; leader::LEN]) -> Option<String> {
    match LeaderRecord::decode(bytes, LeaderKind::Paxos, &Expected::default()) {
        Ok(Decoded::Blank) => Some(super::lockspace::NOT_COMMITTED.into()),
        Ok(Decoded::Record(record) | Decoded::Cleared(record)) if record.geometry() != Some(view.geometry) => {
            Some(format!("its sizes are not those of the area, {}", view.geometry))
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Who may use the resource. Shared holders hold it whatever the leader says; a leader that another host wrote after
/// its owner had released is free (spec D 4.4 d, 4.7).
fn state(record: &LeaderRecord, dblocks: &[Dblock], shared: &[Sharer]) -> ResourceState {
    if record.kind() == Some(LeaderKind::Cleared) {
        return ResourceState::Cleared;
    }
    let given_back = |d: &&Dblock| u64::from(d.host_id) == record.owner_id && d.released && d.lver == record.lver.0;
    match (record.is_free(), shared.is_empty()) {
        (true, true) => ResourceState::Free,
        (true, false) => ResourceState::Shared,
        (false, false) if record.flags & SHORT_HOLD != 0 => ResourceState::Shared,
        (false, _) if record.write_id != record.owner_id && dblocks.iter().any(|d| given_back(&d)) => {
            ResourceState::Released
        }
        (false, _) => ResourceState::Held,
    }
}

fn request(view: &View, damage: &mut Vec<Damage>) -> Request {
    let sector = view.sector(REQUEST);
    let decoded = RequestRecord::decode(sector);
    let wrong = view.unreadable(REQUEST).or_else(|| match &decoded {
        Ok((Decoded::Blank, _)) => Some("blank, expected a request record".into()),
        Ok((_, seal)) => seal.and_then(|seal| view.wrong_area(&seal)),
        Err(error) => Some(error.to_string()),
    });
    damage.extend(wrong.map(|reason| view.damage(REQUEST, "request record".into(), reason)));
    let record = RequestRecord::parse(&array_at(sector, 0));
    let mode = match record.force_mode {
        request::FORCE_NONE => "none",
        request::FORCE_KILL => "force",
        request::FORCE_GRACEFUL => "graceful",
        _ => "unknown",
    };
    let seal = decoded.ok().and_then(|(_, seal)| seal).map(SealReport::from);
    Request { lver: record.lver.0, mode, force_mode: record.force_mode, seal }
}

fn dblock(view: &View, index: SectorIndex, host: HostId, leader: Lver, damage: &mut Vec<Damage>) -> Dblock {
    let sector = view.sector(index);
    let found = HostSector::parse(sector).dblock;
    let (checksum, _) = dblock::Dblock::checksums(&array_at(sector, 0));
    let sealed = seal::read(sector, SealedKind::Dblock, index);
    let wrong = view.unreadable(index).or_else(|| HostSector::decode(sector, index).err().map(|e| e.to_string()));
    let wrong = wrong.or_else(|| sealed.as_ref().ok().copied().flatten().and_then(|seal| view.wrong_area(&seal)));
    let damaged = wrong.is_some();
    damage.extend(wrong.map(|reason| view.damage(index, format!("dblock of host {host}"), reason)));
    let number = |ballot: Option<paxos_lease::number::Ballot>| ballot.map_or(0, |b| b.get());
    Dblock {
        host_id: host.slot() + 1,
        mbal: number(found.mbal),
        bal: number(found.bal),
        inp: found.inp.owner_id,
        inp2: found.inp.generation.0,
        inp3: found.inp.timestamp.0,
        lver: found.lver.0,
        checksum,
        flags: found.flags,
        released: found.is_released(),
        state: match found.lver.cmp(&leader) {
            std::cmp::Ordering::Less => BallotState::Past,
            std::cmp::Ordering::Equal => BallotState::Decided,
            std::cmp::Ordering::Greater if found.bal.is_none() => BallotState::Preparing,
            std::cmp::Ordering::Greater => BallotState::Proposing,
        },
        seal: sealed.ok().flatten().map(SealReport::from),
        damaged,
    }
}

/// Only in areas of 2000 hosts does the value block's sector lie inside the area.
fn value_block(view: &View) -> Option<ValueBlock> {
    if view.geometry.sectors() <= VALUE_BLOCK.0 || is_zero(view.sector(VALUE_BLOCK)) {
        return None;
    }
    let hex = hex(view.sector(VALUE_BLOCK));
    Some(ValueBlock { offset: view.at(VALUE_BLOCK), used: hex.len() / 2, hex })
}

/// Says of every holder in the report what its lockspace, if dumped as well, knows of it.
pub fn match_with_lockspaces(areas: &mut [Area]) {
    let mut known = std::collections::BTreeMap::new();
    for area in areas.iter() {
        if let Content::Lockspace(space) = &area.content {
            for host in &space.hosts {
                let fact = (host.name.clone(), host.record.owner_generation, host.state, host.damaged);
                known.insert((space.lockspace.clone(), u64::from(host.host_id)), fact);
            }
        }
    }
    let look = |space: &str, host_id: u64, generation: u64| match known.get(&(space.to_owned(), host_id)) {
        None | Some((_, _, _, true)) => (None, Term::Unknown),
        Some((name, found, state, false)) => {
            let term = match found.cmp(&generation) {
                std::cmp::Ordering::Greater => Term::Outdated,
                std::cmp::Ordering::Equal if *state == "held" => Term::Current,
                std::cmp::Ordering::Equal => Term::Left,
                std::cmp::Ordering::Less => Term::Unknown,
            };
            (Some(name.clone()).filter(|n| !n.is_empty()), term)
        }
    };
    for area in areas.iter_mut() {
        let Content::Resource(resource) = &mut area.content else { continue };
        if let Some(owner) = &mut resource.owner {
            (owner.name, owner.term) = look(&resource.lockspace, owner.host_id, owner.generation);
        }
        for sharer in &mut resource.shared {
            (sharer.name, sharer.term) = look(&resource.lockspace, u64::from(sharer.host_id), sharer.generation);
        }
    }
}
