//! A crash at every write of `init`, over blank and over used areas: until the last write has landed neither program
//! accepts what is there.
//!
//! A large write is its sectors, so it is cut off after every one of them, and random subsets of them land as well.
//! "Accepts" means, for sanlock, one of its magic numbers in sector 0 (spec D 2.2: nothing else is looked at before),
//! for us what the lease crates decode.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod images;

use std::sync::{Arc, Mutex};

use delta_lease::layout::DeltaArea;
use holdfast::init::plan::Write;
use holdfast::init::write;
use holdfast_io::bytes::{array_at, u32_at};
use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::device::{Device, Engine, Io, WriteLimit};
use holdfast_io::disk::Op;
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::mem::MemEngine;
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::{AlignSize, Geometry, LeaseOffset, SectorSize};
use nix::errno::Errno;

/// Time stands still, deadlines never come.
#[derive(Clone)]
struct Still;

impl Clock for Still {
    fn now(&self) -> LocalInstant {
        LocalInstant::from_nanos(1)
    }
    fn suspended(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    async fn sleep_until(&self, _: LocalInstant) {
        std::future::pending::<()>().await;
    }
}

/// A device whose host crashes during its write number `crash_at`, of which the sectors in `landing` reach the medium.
struct Crashing {
    bytes: Arc<Mutex<Vec<u8>>>,
    path: Arc<str>,
    unit: usize,
    crash_at: usize,
    landing: Box<dyn Fn(usize) -> bool>,
    writes: Mutex<usize>,
}

impl Engine for Crashing {
    fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn submit(&self, io: Io) {
        let mut io = io.start(LocalInstant::from_nanos(1)).expect("nothing forbids it");
        assert_eq!(io.op(), Op::Write, "a format reads nothing");
        let mut writes = self.writes.lock().unwrap();
        let number = *writes;
        *writes += 1;
        assert!(number <= self.crash_at, "write {number} was issued after write {} had not succeeded", self.crash_at);
        let mut bytes = self.bytes.lock().unwrap();
        let at = usize::try_from(io.at()).unwrap();
        let data = io.buf().to_vec();
        for (sector, piece) in data.chunks(self.unit).enumerate() {
            if number < self.crash_at || (self.landing)(sector) {
                bytes[at + sector * self.unit..][..piece.len()].copy_from_slice(piece);
            }
        }
        drop(bytes);
        io.complete(if number < self.crash_at { Ok(data.len()) } else { Err(Errno::EIO) });
    }
}

const SHAPES: [(SectorSize, AlignSize); 3] =
    [(SectorSize::B512, AlignSize::M1), (SectorSize::B4096, AlignSize::M1), (SectorSize::B4096, AlignSize::M8)];

fn machine() -> Machine {
    Machine { machine: MachineHash(7), boot: BootHash(8) }
}

fn names() -> (SpaceName, ResourceName) {
    (SpaceName::new(b"NEW").unwrap(), ResourceName::new(b"new").unwrap())
}

fn writes(kind: LeaderKind, geometry: Geometry) -> Vec<Write> {
    let (space, resource) = names();
    let uuid = AreaUuid::random();
    let fire = SealedFire::NoWatchdog;
    if kind == LeaderKind::Delta {
        let seal = delta_lease::format::FormatSeal { uuid, machine: machine(), fire };
        let plan = delta_lease::format::plan(geometry, space, IoTimeout::DEFAULT, Some(&seal));
        plan.into_iter().map(|w| Write::from((w.offset_in_area, w.bytes, "delta"))).collect()
    } else {
        let lease = paxos_lease::format::NewLease { geometry, space, resource, num_hosts: None, uuid, place: None };
        let writer = paxos_lease::format::Writer { machine: machine(), fire };
        let plan = paxos_lease::format::plan(&lease, &writer).unwrap();
        plan.into_iter().map(|w| Write::from((w.offset_in_area, w.bytes, w.what))).collect()
    }
}

/// Whether either program would take the area for a lockspace or a resource, old or new.
fn accepted(medium: &[u8], geometry: Geometry) -> Option<&'static str> {
    if LeaderKind::of_magic(u32_at(medium, 0)).is_some() {
        return Some("sanlock finds a magic number");
    }
    let head = MemEngine::with(medium.get(..16384).unwrap_or(medium).to_vec());
    let disk = Device::new(head, Still, WriteLimit::none());
    let opened = DeltaArea::open(&disk, &Still, LeaseOffset(0), IoTimeout::DEFAULT, None);
    if pollster::block_on(opened).is_ok() {
        return Some("we open it as a lockspace");
    }
    let record = array_at::<{ leader::LEN }>(&medium[..geometry.sector().bytes()], 0);
    match LeaderRecord::decode(&record, LeaderKind::Paxos, &Expected::default()) {
        Ok(Decoded::Blank) | Err(_) => None,
        Ok(_) => Some("we read a leader record"),
    }
}

/// What stood there before: nothing, or areas that were used by the real programs.
fn befores(geometry: Geometry) -> Vec<(String, Vec<u8>)> {
    let mut befores = vec![("blank".into(), vec![0; geometry.area_len()])];
    let used = images::all().into_iter().filter(|i| i.kind != "rindex" && i.geometry == geometry);
    let telling = |name: &str| {
        ["live", "two-hosts", "held", "shared-two", "convert-refused", "released"].iter().any(|w| name.contains(w))
    };
    befores.extend(used.filter(|i| telling(&i.name)).map(|i| (i.name, i.raw)));
    assert!(befores.len() > 2, "no used areas of {geometry} to format over");
    befores
}

/// One crash; the medium after it.
fn crash(
    before: &[u8],
    writes: &[Write],
    unit: usize,
    crash_at: usize,
    landing: impl Fn(usize) -> bool + 'static,
) -> Vec<u8> {
    let bytes = Arc::new(Mutex::new(before.to_vec()));
    let engine = Crashing {
        bytes: Arc::clone(&bytes),
        path: Arc::from("crashing"),
        unit,
        crash_at,
        landing: Box::new(landing),
        writes: Mutex::new(0),
    };
    let disk = Device::new(engine, Still, WriteLimit::none());
    let outcome = pollster::block_on(write::in_order(&disk, &Still, writes));
    assert_eq!(outcome.is_ok(), crash_at >= writes.len());
    drop(disk);
    Arc::into_inner(bytes).expect("the device is gone").into_inner().unwrap()
}

/// A small generator (xorshift64*), so that a failure is the same every time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

fn for_every_case(kind: LeaderKind, check: impl Fn(&str, Geometry, &[u8], &[Write])) {
    for (sector, align) in SHAPES {
        let geometry = Geometry::new(sector, align).unwrap();
        for (name, before) in befores(geometry) {
            check(&format!("{kind:?} {geometry} over {name}"), geometry, &before, &writes(kind, geometry));
        }
    }
}

#[test]
fn the_plan_is_one_sector_then_the_rest_then_one_sector() {
    for kind in [LeaderKind::Delta, LeaderKind::Paxos] {
        for geometry in Geometry::ALL {
            let unit = geometry.sector().bytes();
            let shape: Vec<_> = writes(kind, geometry).iter().map(|w| (w.offset, w.bytes)).collect();
            assert_eq!(shape, [(0, unit), (unit as u64, geometry.area_len() - unit), (0, unit)]);
        }
    }
}

/// Every prefix of the large write, laid down sector by sector so that each is looked at.
#[test]
fn every_prefix_of_the_writes_leaves_nothing_to_accept() {
    for kind in [LeaderKind::Delta, LeaderKind::Paxos] {
        for_every_case(kind, |case, geometry, before, writes| {
            let unit = geometry.sector().bytes();
            let mut medium = before.to_vec();
            let mut landed = 0;
            for (number, write) in writes[..writes.len() - 1].iter().enumerate() {
                let at = usize::try_from(write.offset).unwrap();
                for (sector, piece) in write.data.chunks(unit).enumerate() {
                    medium[at + sector * unit..][..unit].copy_from_slice(piece);
                    landed += 1;
                    assert_eq!(accepted(&medium, geometry), None, "{case}: write {number} after sector {sector}");
                }
            }
            assert_eq!(landed, geometry.sectors() as usize);
            let last = &writes[writes.len() - 1];
            medium[..unit].copy_from_slice(&last.data);
            assert!(accepted(&medium, geometry).is_some(), "{case}: complete, it is accepted");
        });
    }
}

#[test]
fn a_crash_in_any_write_ends_the_plan_and_leaves_nothing_to_accept() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    for kind in [LeaderKind::Delta, LeaderKind::Paxos] {
        let seeds: Vec<u64> = (0..24).map(|_| dice.next()).collect();
        for_every_case(kind, |case, geometry, before, writes| {
            let unit = geometry.sector().bytes();
            // Nothing of the first write landed: what was there is there still, whole.
            assert!(crash(before, writes, unit, 0, |_| false) == before, "{case}");
            for crash_at in 0..writes.len() {
                for (number, seed) in seeds.iter().copied().enumerate() {
                    let landing = move |sector: usize| {
                        let mut dice = Dice(seed ^ (sector as u64).wrapping_mul(0xD134_2543_DE82_EF95) | 1);
                        dice.next();
                        dice.next() % 16 < number as u64 % 17
                    };
                    // A write of one sector lands or does not; both are cases of their own.
                    let whole = writes[crash_at].data.len() == unit;
                    let after =
                        crash(before, writes, unit, crash_at, move |s| if whole { crash_at == 0 } else { landing(s) });
                    assert_eq!(accepted(&after, geometry), None, "{case}: crash in write {crash_at}, seed {seed}");
                    if whole {
                        break;
                    }
                }
            }
            let done = crash(before, writes, unit, writes.len(), |_| true);
            assert!(accepted(&done, geometry).is_some(), "{case}: complete, it is accepted");
        });
    }
}

#[test]
fn these_checks_find_a_plan_that_leaves_the_old_first_sector_for_last() {
    let geometry = Geometry::default_for(SectorSize::B512);
    let (name, before) = befores(geometry).into_iter().find(|(name, _)| name == "resource-held").unwrap();
    let writes = writes(LeaderKind::Paxos, geometry);
    // Without its first write, a crash in the large one leaves an owner with half of the dblocks gone.
    let after = crash(&before, &writes[1..], 512, 0, |sector| sector < 1000);
    assert_eq!(accepted(&after, geometry), Some("sanlock finds a magic number"), "over {name}");
}
