//! The disks of a run, with areas on them as `init` leaves them, and beside those a piece that belongs to nobody.

use std::cell::RefCell;
use std::collections::BTreeMap;

use delta_lease::format::FormatSeal;
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::{FireTimeout, IoTimeout};
use holdfast_io::units::Geometry;
use paxos_lease::Place;
use paxos_lease::format::{NewLease, Writer};

use crate::daemon::ResourceAt;
use crate::disk::SimDisk;
use crate::executor::Sim;
use crate::plan::Plan;

const MIB: usize = 1024 * 1024;

/// How many host_ids are in use where there are so many hosts: a host may have two daemons.
#[must_use]
pub const fn slots(hosts: usize) -> u32 {
    if hosts <= 3 { 6 } else { 20 }
}

/// What a disk is called.
#[must_use]
pub fn path(disk: usize) -> String {
    format!("/dev/disk{disk}")
}

/// The disks of a plan.
#[must_use]
pub fn disks(sim: &Sim, plan: &Plan, space: SpaceName, resources: &[ResourceAt]) -> Vec<SimDisk> {
    let io_timeout = plan.daemons.first().map_or(IoTimeout::DEFAULT, |d| d.config.io_timeout);
    let count = match (plan.copies, plan.two_disks) {
        (2.., _) => 3,
        (_, true) => 2,
        _ => 1,
    };
    let disk = |index: usize| {
        let mut pieces = Vec::new();
        if index == 0 {
            pieces.push(piece(Kind::Space(io_timeout), plan.geometry, space));
        }
        let mut here: Vec<(u64, &'static str, Option<u8>)> = Vec::new();
        for r in resources {
            let copies = [(&r.path, r.offset)].into_iter().chain(r.more.iter().map(|copy| (&copy.path, copy.offset)));
            for (number, (_, offset)) in (1..).zip(copies).filter(|(_, (its, _))| **its == path(index)) {
                here.push((offset, r.name, (!r.more.is_empty()).then_some(number)));
            }
        }
        here.sort_unstable();
        let resource = |(_, name, copy)| Kind::Resource(name, slots(plan.hosts.len()), copy);
        pieces.extend(here.into_iter().map(|at| piece(resource(at), plan.geometry, space)));
        pieces.push(piece(Kind::Nobodys, plan.geometry, space));
        SimDisk::of_pieces(sim, index, &path(index), plan.geometry.sector(), pieces)
    };
    (0..count).map(disk).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Space(IoTimeout),
    Resource(&'static str, u32, Option<u8>),
    Nobodys,
}

thread_local! {
    /// Formatted pieces: the same for every seed, and shared until one writes.
    static PIECES: RefCell<BTreeMap<(Kind, usize, SpaceName), AlignedBuf>> = const { RefCell::new(BTreeMap::new()) };
}

fn piece(kind: Kind, geometry: Geometry, space: SpaceName) -> AlignedBuf {
    PIECES.with_borrow_mut(|pieces| {
        let key = (kind, geometry.sector().bytes(), space);
        pieces.entry(key).or_insert_with(|| formatted(kind, geometry, space)).clone()
    })
}

fn formatted(kind: Kind, geometry: Geometry, space: SpaceName) -> AlignedBuf {
    let mut bytes = AlignedBuf::zeroed(MIB);
    let mut put = |at: u64, data: &[u8]| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        bytes[at..at + data.len()].copy_from_slice(data);
    };
    let machine = Machine { machine: MachineHash(1), boot: BootHash(1) };
    let fire = SealedFire::Within(FireTimeout::SANLOCK);
    match kind {
        Kind::Space(io_timeout) => {
            let seal = FormatSeal { uuid: AreaUuid(uuid::Uuid::from_u128(0x5EED_0001)), machine, fire };
            for write in delta_lease::format::plan(geometry, space, io_timeout, Some(&seal)) {
                put(write.offset_in_area, &write.bytes);
            }
        }
        Kind::Resource(name, num_hosts, copy) => {
            let uuid = AreaUuid(uuid::Uuid::from_u128(0x5EED_0002));
            let resource = ResourceName::new(name.as_bytes()).unwrap_or_else(|e| unreachable!("fixed names: {e}"));
            let place = copy.map(|copy| Place { copy, copies: 3 });
            let new = NewLease { geometry, space, resource, num_hosts: Some(num_hosts), uuid, place };
            let writes = paxos_lease::format::plan(&new, &Writer { machine, fire });
            for write in writes.unwrap_or_else(|e| unreachable!("a few hosts fit: {e}")) {
                put(write.offset_in_area, &write.bytes);
            }
        }
        Kind::Nobodys => {}
    }
    bytes
}
