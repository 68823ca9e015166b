//! An index on one medium: what each operation does and refuses, a crash in each of their writes, two hosts at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_io::bytes::{array_at, is_zero};
use holdfast_io::clock::LocalInstant;
use holdfast_io::device::{Device, Engine, Io, WriteLimit};
use holdfast_io::disk::{Disk, IoErrorKind, Op as Direction};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::seal::SealedFire;
use holdfast_io::stop::Stop;
use holdfast_io::units::{LeaseOffset, SectorIndex};
use nix::errno::Errno;

use crate::acquire::{Acquired, Options, RefusalKind, acquire};
use crate::area::LeaseAt;
use crate::copies::Place;
use crate::format::{NewLease, Writer, plan};
use crate::index::{
    Change, Header, Index, IndexAt, IndexError, Leftovers, NoSlot, Nobody, Reader, Reserve, add, format, rebuild,
    remove,
};
use crate::layout::dblock_of;
use crate::liveness::{Gone, Verdict};
use crate::release::{Held, Mode, release, retract};
use crate::testing::{
    ALIVE, Fate, ManualClock, Medium, Paced, SMALL, Said, announced, device, host, limited_device, machine, me, term,
    uuid,
};

const MIB: u64 = 1 << 20;
const AT: u64 = 8 * MIB;
const PLACES: u32 = 4;

fn space() -> SpaceName {
    SpaceName::new(b"LS").unwrap()
}

fn name(text: &str) -> ResourceName {
    ResourceName::new(text.as_bytes()).unwrap()
}

fn index_at() -> IndexAt {
    IndexAt { at: LeaseOffset(AT), space: space() }
}

/// The area of place `n`.
fn area(n: u64) -> u64 {
    AT + (2 + n) * MIB
}

fn writer() -> Writer {
    Writer { machine: machine(9), fire: SealedFire::NoWatchdog }
}

fn put_lease(medium: &Medium, at: u64, space: SpaceName, resource: ResourceName) {
    put_copy(medium, at, space, resource, None);
}

fn put_copy(medium: &Medium, at: u64, space: SpaceName, resource: ResourceName, place: Option<Place>) {
    let new = NewLease { geometry: SMALL, space, resource, num_hosts: Some(5), uuid: uuid(), place };
    for write in plan(&new, &writer()).unwrap() {
        medium.write(at + write.offset_in_area, &write.bytes);
    }
}

/// A new index, and leases that it lists in its first places.
fn indexed(listed: &[&str]) -> Medium {
    let medium = Medium::default();
    let names: Vec<ResourceName> = listed.iter().map(|n| name(n)).collect();
    let header = Header::new(index_at(), SMALL, PLACES, uuid());
    for write in
        format::plan(&header, &writer()).unwrap().into_iter().chain(format::plan_area(&header, &writer(), &names))
    {
        medium.write(AT + write.offset_in_area, &write.bytes);
    }
    for (n, name) in (0..).zip(names) {
        put_lease(&medium, area(n), space(), name);
    }
    medium
}

fn reader<'a, D, C>(disk: &'a D, clock: &'a C) -> Reader<'a, D, C> {
    Reader { disk, clock, index: index_at(), patience: Duration::from_secs(10) }
}

/// Name and area of each place that is taken.
fn listed(medium: &Medium) -> Vec<(String, u64)> {
    let clock = ManualClock::jumping();
    let index: Index = pollster::block_on(reader(&device(9, medium, &clock), &clock).read()).unwrap();
    index.used().map(|found| (found.name.to_string(), found.area.0)).collect()
}

fn names_and_places(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(name, place)| ((*name).to_owned(), area(*place))).collect()
}

fn first_sector(medium: &Medium, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    medium.read(at, &mut bytes);
    bytes
}

fn entries(medium: &Medium) -> Vec<u8> {
    first_sector(medium, AT + 512)
}

/// The leases of our lockspace in the areas of places, by their own records.
fn leases(medium: &Medium) -> BTreeMap<u64, (String, u64)> {
    let expected = Expected { space: Some(space()), ..Expected::default() };
    let found = (0..u64::from(PLACES)).filter_map(|n| {
        let bytes = array_at::<{ leader::LEN }>(&first_sector(medium, area(n)), 0);
        match LeaderRecord::decode(&bytes, LeaderKind::Paxos, &expected) {
            Ok(Decoded::Record(r)) => Some((area(n), (r.resource_name.to_string(), r.lver.0))),
            _ => None,
        }
    });
    found.collect()
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Create(&'static str),
    Delete(&'static str, Option<u64>),
    Add(&'static str, u64),
    Remove(Option<&'static str>, u64),
    Rebuild,
}

/// One operation, as the daemon does it: under the lease of the index, with all that is left to do. `None`: the index is another's.
async fn perform<D: Disk>(
    disk: &D,
    clock: &ManualClock,
    said: &Said,
    n: u64,
    op: Op,
    reserve: &impl Reserve,
) -> Option<Result<u64, IndexError>> {
    let (me, stop) = (me(n), Stop::new());
    let lease = index_at().lease(SMALL);
    let options = Options { backoff_seed: n, ..Options::default() };
    let held = match acquire(disk, clock, said, &lease, &me, &options, &stop).await {
        Ok(Acquired::Ours(held)) => held,
        Ok(Acquired::Theirs(refusal)) => {
            if let Some(duty) = refusal.undo {
                retract(disk, clock, duty, &me).await.unwrap();
            }
            return None;
        }
        Err(failed) => {
            failed.undo.into_iter().for_each(crate::release::Retract::abandon);
            return Some(Err(IndexError::Acquire(Box::new(failed.error))));
        }
    };
    let (reader, left) = (reader(disk, clock), Leftovers::default());
    let mut change = Change { reader, geometry: SMALL, hosts: said, me: &me, reserve, stop: &stop, left };
    let done = match op {
        Op::Create(new) => change.create(name(new), None).await.map(|found| found.area.0),
        Op::Delete(old, offset) => change.delete(name(old), offset).await.map(|()| 0),
        Op::Add(new, offset) => add(&change.reader, name(new), offset).await.map(|found| found.area.0),
        Op::Remove(old, offset) => remove(&change.reader, old.map(name), offset).await.map(|()| 0),
        Op::Rebuild => rebuild(&change.reader, &stop).await.map(|r| r.listed as u64),
    };
    let Leftovers { held: others, undo, .. } = change.left;
    for held in others.into_iter().chain([held]) {
        if let Err(failed) = release(disk, clock, held, &me).await {
            failed.undo.into_iter().for_each(crate::release::Retract::abandon);
        }
    }
    for duty in undo {
        if let Err(failed) = retract(disk, clock, duty, &me).await {
            failed.undo.into_iter().for_each(crate::release::Retract::abandon);
        }
    }
    Some(done)
}

fn run_with(medium: &Medium, said: &Said, op: Op, reserve: &impl Reserve) -> Result<u64, IndexError> {
    let clock = ManualClock::jumping();
    let disk = device(1, medium, &clock);
    pollster::block_on(perform(&disk, &clock, said, 1, op, reserve)).expect("the index is free")
}

fn run(medium: &Medium, op: Op) -> Result<u64, IndexError> {
    run_with(medium, &Said::nothing(), op, &Nobody)
}

fn acquired<D: Disk>(disk: &D, clock: &ManualClock, said: &Said, n: u64, lease: &LeaseAt, mode: Mode) -> Held {
    let options = Options { mode, ..Options::default() };
    let now = || pollster::block_on(acquire(disk, clock, said, lease, &me(n), &options, &Stop::new())).unwrap();
    match now() {
        Acquired::Ours(held) => held,
        // What a host that crashed had committed is published first.
        Acquired::Theirs(refusal) if refusal.kind == RefusalKind::CommittedOther => match now() {
            Acquired::Ours(held) => held,
            Acquired::Theirs(refusal) => panic!("{} is refused: {refusal:?}", lease.resource),
        },
        Acquired::Theirs(refusal) => panic!("{} is refused: {refusal:?}", lease.resource),
    }
}

/// Host `n` has a lease.
fn held_by(medium: &Medium, n: u64, resource: &str, at: u64, mode: Mode) -> Held {
    let clock = ManualClock::jumping();
    let lease = LeaseAt { at: LeaseOffset(at), space: space(), resource: name(resource), geometry_hint: SMALL };
    acquired(&device(n, medium, &clock), &clock, &Said::nothing(), n, &lease, mode)
}

#[test]
fn resources_are_created_found_and_deleted() {
    let medium = indexed(&[]);
    assert_eq!(run(&medium, Op::Create("a")), Ok(area(0)));
    assert_eq!(run(&medium, Op::Create("b")), Ok(area(1)));
    assert_eq!(listed(&medium), names_and_places(&[("a", 0), ("b", 1)]));
    assert_eq!(leases(&medium), BTreeMap::from([(area(0), ("a".into(), 0)), (area(1), ("b".into(), 0))]));
    assert_eq!(run(&medium, Op::Delete("a", None)), Ok(0));
    assert_eq!(listed(&medium), names_and_places(&[("b", 1)]));
    assert_eq!(leases(&medium).len(), 1, "its area is cleared");
    assert_eq!(run(&medium, Op::Create("c")), Ok(area(0)), "the first free place");
    let clock = ManualClock::jumping();
    let disk = device(1, &medium, &clock);
    let lookup = |n: Option<&str>, at| pollster::block_on(reader(&disk, &clock).lookup(n.map(name), at));
    assert_eq!(lookup(Some("b"), None).unwrap().unwrap().area.0, area(1));
    assert_eq!(lookup(None, None).unwrap().unwrap().area.0, area(2));
    assert_eq!(lookup(None, Some(area(0))).unwrap().unwrap().name, name("c"));
    assert_eq!(lookup(Some("b"), Some(area(0))).unwrap().unwrap_err().name, name("c"));
    assert!(matches!(lookup(Some("a"), None), Err(IndexError::NotListed { .. })));
    for offset in [AT, AT + MIB, area(4), 1 << 40] {
        let out = |e: &IndexError| matches!(e, IndexError::Offset { source: NoSlot::OutOfRange { .. }, .. });
        assert!(lookup(None, Some(offset)).as_ref().is_err_and(out), "{offset}");
    }
}

#[test]
fn a_name_and_a_place_are_listed_once() {
    let medium = indexed(&["a", "b"]);
    let before = entries(&medium);
    let listed_at = |n, e| matches!(e, Err(IndexError::Listed { at, .. }) if at == area(n));
    assert!(listed_at(0, run(&medium, Op::Create("a"))));
    assert!(listed_at(0, run(&medium, Op::Add("a", area(2)))));
    assert!(listed_at(1, run(&medium, Op::Add("c", area(1)))));
    assert!(matches!(run(&medium, Op::Remove(Some("a"), area(1))), Err(IndexError::Differs { .. })));
    assert!(matches!(run(&medium, Op::Delete("a", Some(area(1)))), Err(IndexError::Differs { .. })));
    assert_eq!(run(&medium, Op::Add("a", area(0))), Ok(area(0)), "as it is");
    assert_eq!(entries(&medium), before);
    assert_eq!(run(&medium, Op::Remove(None, area(1))), Ok(0));
    assert_eq!(run(&medium, Op::Rebuild), Ok(2), "its lease was there all the time");
    assert_eq!(entries(&medium), before);
}

#[test]
fn a_full_index_takes_no_more() {
    let medium = indexed(&["a", "b", "c", "d"]);
    assert!(matches!(run(&medium, Op::Create("e")), Err(IndexError::Full { count: PLACES, .. })));
}

#[test]
fn what_somebody_holds_is_neither_deleted_nor_formatted_over() {
    for mode in [Mode::Exclusive, Mode::Shared] {
        let medium = indexed(&["a"]);
        let _held = held_by(&medium, 2, "a", area(0), mode);
        let (index, lease) = (entries(&medium), first_sector(&medium, area(0)));
        assert!(matches!(run(&medium, Op::Delete("a", None)), Err(IndexError::InUse { .. })), "{mode:?}");
        // Nor where it is not listed.
        run(&medium, Op::Remove(None, area(0))).unwrap();
        assert_eq!(run(&medium, Op::Create("b")), Ok(area(1)), "{mode:?}");
        if mode == Mode::Exclusive {
            assert_eq!(first_sector(&medium, area(0)), lease);
        } else {
            let sharer = first_sector(&medium, area(0) + dblock_of(host(2)).at(SMALL.sector()) as u64);
            assert!(!is_zero(&sharer[128..144]), "its claim is there");
        }
        assert_eq!(run(&medium, Op::Rebuild), Ok(2));
        assert_eq!(entries(&medium)[..64], index[..64]);
    }
}

#[test]
fn what_a_dead_host_held_is_deleted_and_formatted_over() {
    let gone = || Said::of(term(2, 1), &[Verdict::Gone(Gone::Silent)]);
    for mode in [Mode::Exclusive, Mode::Shared] {
        let medium = indexed(&["a", "b"]);
        let _held = [held_by(&medium, 2, "a", area(0), mode), held_by(&medium, 2, "b", area(1), mode)];
        run(&medium, Op::Remove(None, area(0))).unwrap();
        assert_eq!(run_with(&medium, &gone(), Op::Create("c"), &Nobody), Ok(area(0)));
        assert_eq!(run_with(&medium, &gone(), Op::Delete("b", None), &Nobody), Ok(0));
        assert_eq!(leases(&medium), BTreeMap::from([(area(0), ("c".into(), 0))]), "{mode:?}");
    }
}

#[test]
fn a_place_with_anything_that_may_be_somebodys_is_passed_over() {
    let medium = indexed(&[]);
    let other = SpaceName::new(b"OTHER").unwrap();
    // A lease of another lockspace that is held; a lockspace; a lease with a damaged dblock.
    put_lease(&medium, area(0), other, name("x"));
    let held = LeaderRecord {
        timestamp: holdfast_io::ids::RemoteTimestamp(7),
        owner_id: 3,
        resource_name: name("x"),
        ..LeaderRecord::formatted(LeaderKind::Paxos, SMALL, other)
    };
    let mut sector = vec![0; 512];
    sector[..leader::LEN].copy_from_slice(&held.encode());
    medium.write(area(0), &sector);
    sector[..leader::LEN].copy_from_slice(&LeaderRecord::formatted(LeaderKind::Delta, SMALL, other).encode());
    medium.write(area(1), &sector);
    put_lease(&medium, area(2), space(), name("damaged"));
    let mut dblock = announced(1, 1).encode().to_vec();
    dblock[0] ^= 0xFF;
    dblock.resize(512, 0);
    medium.write(area(2) + 5 * 512, &dblock);
    assert_eq!(run(&medium, Op::Create("a")), Ok(area(3)));
    assert!(matches!(run(&medium, Op::Create("b")), Err(IndexError::NothingToTake { free: 3, .. })));
    // What is free goes, whosever it was; so does what is no lease.
    put_lease(&medium, area(0), other, name("x"));
    medium.write(area(1), &[0xA5; 512]);
    assert_eq!(run(&medium, Op::Create("b")), Ok(area(0)));
    assert_eq!(run(&medium, Op::Create("c")), Ok(area(1)));
}

/// Whether anybody holds it one copy does not say.
#[test]
fn a_place_with_a_copy_of_a_lease_on_several_disks_is_passed_over() {
    let medium = indexed(&[]);
    let place = Some(Place { copy: 2, copies: 3 });
    put_copy(&medium, area(0), SpaceName::new(b"OTHER").unwrap(), name("x"), place);
    put_copy(&medium, area(1), space(), name("y"), place);
    assert_eq!(run(&medium, Op::Create("a")), Ok(area(2)));
}

#[test]
fn what_others_on_this_host_use_is_left_alone() {
    struct UsesFirst;
    impl Reserve for UsesFirst {
        type Kept = ();
        fn reserve(&self, at: LeaseOffset, _: u64) -> Result<(), String> {
            if at.0 == area(0) { Err("a client has it".to_owned()) } else { Ok(()) }
        }
    }
    let medium = indexed(&["a"]);
    let before = entries(&medium);
    let deleted = run_with(&medium, &Said::nothing(), Op::Delete("a", None), &UsesFirst);
    assert!(matches!(deleted, Err(IndexError::InUse { .. })));
    assert_eq!(entries(&medium), before);
    run(&medium, Op::Remove(None, area(0))).unwrap();
    assert_eq!(run_with(&medium, &Said::nothing(), Op::Create("b"), &UsesFirst), Ok(area(1)));
}

#[test]
fn an_area_that_is_another_resources_is_not_cleared_under_this_ones_name() {
    let medium = indexed(&["a"]);
    run(&medium, Op::Add("wrong", area(0))).unwrap_err();
    run(&medium, Op::Remove(None, area(0))).unwrap();
    run(&medium, Op::Add("wrong", area(0))).unwrap();
    assert!(matches!(run(&medium, Op::Delete("wrong", None)), Err(IndexError::Differs { .. })));
    // An entry that leads to nothing at all goes.
    run(&medium, Op::Add("nothing", area(2))).unwrap();
    assert_eq!(run(&medium, Op::Delete("nothing", None)), Ok(0));
}

/// The same operation, on a device whose host crashes after so many sectors were written.
struct Crashing {
    medium: Medium,
    clock: ManualClock,
    path: Arc<str>,
    left: Cell<usize>,
    crashed: Cell<bool>,
    /// Sectors written by each write so far.
    writes: RefCell<Vec<usize>>,
}

impl Engine for Crashing {
    fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn submit(&self, io: Io) {
        use holdfast_io::clock::Clock as _;
        let Some(mut io) = io.start(self.clock.now()) else { return };
        if self.crashed.get() {
            return io.complete(Err(Errno::EIO));
        }
        let (at, len) = (io.at(), io.buf().len());
        if io.op() == Direction::Read {
            self.medium.read(at, io.buf());
            return io.complete(Ok(len));
        }
        self.writes.borrow_mut().push(len / 512);
        let data = io.buf().to_vec();
        for (n, sector) in (0..).zip(data.chunks(512)) {
            let Some(left) = self.left.get().checked_sub(1) else {
                self.crashed.set(true);
                return io.complete(Err(Errno::EIO));
            };
            self.left.set(left);
            self.medium.write(at + n * 512, sector);
        }
        io.complete(Ok(len));
    }
}

/// Runs an operation up to a crash; the sizes of its writes in sectors.
fn crash_after(sectors: usize, medium: &Medium, op: Op) -> Vec<usize> {
    let clock = ManualClock::jumping();
    let engine = Crashing {
        medium: medium.clone(),
        clock: clock.clone(),
        path: Arc::from("crashing"),
        left: Cell::new(sectors),
        crashed: Cell::new(false),
        writes: RefCell::default(),
    };
    let disk = Device::new(engine, clock.clone(), WriteLimit::none());
    let _ = pollster::block_on(perform(&disk, &clock, &Said::nothing(), 1, op, &Nobody));
    disk.engine().writes.take()
}

/// Every write of one sector has landed or not; of a long one a few prefixes are tried.
fn crash_points(writes: &[usize]) -> Vec<usize> {
    let mut points = Vec::new();
    let mut done = 0;
    for len in writes {
        points.extend([0, 1, 2, 17, len / 2, len - 1].iter().filter(|n| *n < len).map(|n| done + n));
        done += len;
    }
    points.push(done);
    points.sort_unstable();
    points.dedup();
    points
}

/// What is true of an index after a crash, and a rebuild by another host.
fn restored(case: &str, before: &Medium, medium: &Medium, op: Op) {
    let told: BTreeMap<u64, (String, u64)> = leases(before);
    let gone = Said::of(term(1, 1), &[Verdict::Gone(Gone::Silent)]);
    let clock = ManualClock::jumping();
    let disk = device(2, medium, &clock);
    // What the other host had committed, if it did, is published first; then it is found gone.
    let try_now = |op| pollster::block_on(perform(&disk, &clock, &gone, 2, op, &Nobody));
    let patiently = |op| (0..2).find_map(|_| try_now(op)).unwrap_or_else(|| panic!("{case}: the index is held"));
    patiently(Op::Rebuild).unwrap_or_else(|e| panic!("{case}: {e}"));
    let (there, list) = (leases(medium), listed(medium));
    let by_area: BTreeMap<u64, String> = list.iter().map(|(name, at)| (*at, name.clone())).collect();
    let names: BTreeMap<u64, String> = there.iter().map(|(at, (name, _))| (*at, name.clone())).collect();
    assert_eq!(by_area, names, "{case}: every lease is listed once, and nothing else");
    let mut unique: Vec<&String> = names.values().collect();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "{case}: a name twice");
    let spared = |name: &str| !matches!(op, Op::Delete(deleted, _) if deleted == name);
    for (at, (name, _)) in told.iter().filter(|(_, (name, _))| spared(name)) {
        assert_eq!(by_area.get(at), Some(name), "{case}: {name} is lost");
    }
    // It goes on: whoever was cut off can try again, and what is listed can be had.
    let again = patiently(op);
    match (op, &again) {
        (Op::Create(_), Err(IndexError::Listed { .. })) | (Op::Delete(..), Err(IndexError::NotListed { .. })) => {}
        _ => assert!(again.is_ok(), "{case}: once more: {again:?}"),
    }
    for (at, name) in listed(medium).iter().map(|(name, at)| (*at, name)) {
        let lease = LeaseAt { at: LeaseOffset(at), space: space(), resource: self::name(name), geometry_hint: SMALL };
        let _held = acquired(&disk, &clock, &gone, 2, &lease, Mode::Exclusive);
    }
}

#[test]
fn a_crash_at_any_write_leaves_an_index_that_a_rebuild_restores() {
    let wiped = |medium: Medium| {
        medium.write(AT + 512, &[0; 512]);
        medium
    };
    let unlisted = |medium: Medium| {
        run(&medium, Op::Remove(None, area(1))).unwrap();
        medium
    };
    let cases: Vec<(&str, Medium, Op)> = vec![
        ("create on a blank place", indexed(&["a", "b"]), Op::Create("c")),
        ("create over a lease that was taken off the list", unlisted(indexed(&["a", "b", "c"])), Op::Create("d")),
        ("delete", indexed(&["a", "b", "c"]), Op::Delete("b", None)),
        ("rebuild of what was lost", wiped(indexed(&["a", "b", "c"])), Op::Rebuild),
    ];
    for (case, before, op) in cases {
        let writes = crash_after(usize::MAX, &Medium::copy_of(&before), op);
        assert!(writes.len() > 5, "{case}: {writes:?}");
        for point in crash_points(&writes) {
            let medium = Medium::copy_of(&before);
            crash_after(point, &medium, op);
            let told = match case {
                // That one was off the list, and goes.
                "create over a lease that was taken off the list" => {
                    let told = Medium::copy_of(&before);
                    told.write(area(1), &[0; 512]);
                    told
                }
                _ => Medium::copy_of(&before),
            };
            restored(&format!("{case}, after {point} sectors"), &told, &medium, op);
        }
    }
}

#[test]
fn a_crash_in_a_format_leaves_no_index_and_another_format_and_a_rebuild_restore_it() {
    let before = indexed(&["a", "b"]);
    let header = Header::new(index_at(), SMALL, PLACES, uuid());
    let writes = format::plan(&header, &writer()).unwrap();
    for done in 1..writes.len() {
        let medium = Medium::copy_of(&before);
        let write = |w: &crate::format::FormatWrite| medium.write(AT + w.offset_in_area, &w.bytes);
        writes[..done].iter().for_each(write);
        let clock = ManualClock::jumping();
        let found = pollster::block_on(reader(&device(9, &medium, &clock), &clock).header());
        assert!(matches!(found, Err(IndexError::Header { .. })), "after {done} writes");
        writes.iter().for_each(write);
        assert_eq!(listed(&medium), []);
        assert_eq!(run(&medium, Op::Rebuild), Ok(2));
        assert_eq!(listed(&medium), names_and_places(&[("a", 0), ("b", 1)]));
    }
}

/// What is left of a create that was cut off - a lease in a free place - and then done again elsewhere.
#[test]
fn a_lease_that_nobody_was_told_of_is_not_listed_beside_the_one_of_its_name() {
    let medium = indexed(&["a", "b"]);
    put_lease(&medium, area(2), space(), name("c"));
    run(&medium, Op::Delete("a", None)).unwrap();
    assert_eq!(run(&medium, Op::Create("c")), Ok(area(0)));
    assert_eq!(run(&medium, Op::Rebuild), Ok(2));
    assert_eq!(listed(&medium), names_and_places(&[("c", 0), ("b", 1)]));
    assert_eq!(run(&medium, Op::Create("d")), Ok(area(2)), "and its place is free");
}

#[test]
fn d2_nothing_is_changed_past_the_instant() {
    let medium = indexed(&["a"]);
    let (clock, limit) = (ManualClock::jumping(), WriteLimit::none());
    let disk = limited_device(1, &medium, &clock, limit.clone());
    let (me, stop) = (me(1), Stop::new());
    let said = Said::nothing();
    let lease = index_at().lease(SMALL);
    let _held = acquired(&disk, &clock, &said, 1, &lease, Mode::Exclusive);
    limit.set(LocalInstant::EARLIEST);
    let before = Medium::copy_of(&medium);
    let (reader, left) = (reader(&disk, &clock), Leftovers::default());
    let mut change = Change { reader, geometry: SMALL, hosts: &said, me: &me, reserve: &Nobody, stop: &stop, left };
    let refused = |e: IndexError| matches!(e, IndexError::Io(e) if e.kind == IoErrorKind::Refused);
    assert!(refused(pollster::block_on(change.create(name("b"), None)).unwrap_err()));
    assert!(refused(pollster::block_on(add(&change.reader, name("b"), area(1))).unwrap_err()));
    assert!(pollster::block_on(change.delete(name("a"), None)).is_err());
    for at in [AT, AT + 512, area(0), area(1)] {
        assert_eq!(first_sector(&medium, at), first_sector(&before, at));
    }
}

/// The write of an entry fails, whether or not it has landed: what was acquired on the way is told to be given back.
#[test]
fn a_delete_whose_entry_cannot_be_written_gives_the_lease_back() {
    let before = indexed(&["a"]);
    let entry_write = {
        let medium = Medium::copy_of(&before);
        let clock = ManualClock::jumping();
        let disk = device(1, &medium, &clock);
        pollster::block_on(perform(&disk, &clock, &Said::nothing(), 1, Op::Delete("a", None), &Nobody))
            .unwrap()
            .unwrap();
        let steps = disk.engine().steps();
        // The clear is two writes, the release two more; the entry is written before them.
        let writes: Vec<usize> = (0..steps.len()).filter(|n| steps[*n].0 == Direction::Write).collect();
        writes[writes.len() - 5]
    };
    for fate in [Fate::Fails, Fate::DoneButFails] {
        let medium = Medium::copy_of(&before);
        let clock = ManualClock::jumping();
        let disk = device(1, &medium, &clock);
        disk.engine().fate(entry_write, fate);
        let done = pollster::block_on(perform(&disk, &clock, &Said::nothing(), 1, Op::Delete("a", None), &Nobody));
        assert!(matches!(done, Some(Err(IndexError::Io(_)))));
        let lease = held_by(&medium, 2, "a", area(0), Mode::Exclusive);
        assert_eq!(lease.lver().0, 2, "given back, and another host has it now");
    }
}

/// Polls `a` and `b`, one I/O each time, in an order that follows from `seed`.
fn interleave(clock: &ManualClock, mut seed: u64, a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let mut futures: [Option<Pin<&mut dyn Future<Output = ()>>>; 2] = [Some(pin!(a)), Some(pin!(b))];
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        if futures.iter().all(Option::is_none) {
            return;
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wanted = usize::from(seed >> 63 == 1);
        let which = if futures[wanted].is_some() { wanted } else { 1 - wanted };
        if futures[which].as_mut().is_none_or(|f| f.as_mut().poll(&mut context) == Poll::Ready(())) {
            futures[which] = None;
        }
        clock.advance(Duration::from_millis(1));
    }
    panic!("neither host comes to an end");
}

#[test]
fn two_hosts_that_create_and_delete_at_once_lose_nothing() {
    let formatted = indexed(&["a", "z"]);
    for seed in 0..200 {
        let (medium, clock) = (Medium::copy_of(&formatted), ManualClock::waiting());
        let busy = Rc::new(Cell::new(0));
        let one = |n: u64, op: Op| {
            let (medium, clock, busy) = (medium.clone(), clock.clone(), Rc::clone(&busy));
            async move {
                let disk = Paced(device(n, &medium, &clock));
                let said = Said::of(term(1, 1), &[ALIVE]).and(term(2, 1), &[ALIVE]);
                loop {
                    match perform(&disk, &clock, &said, n, op, &Nobody).await {
                        None => busy.set(busy.get() + 1),
                        Some(done) => {
                            done.unwrap();
                            break;
                        }
                    }
                }
            }
        };
        let second = if seed % 2 == 0 { Op::Create("c") } else { Op::Delete("a", None) };
        interleave(&clock, seed, one(1, Op::Create("b")), one(2, second));
        let mut names: Vec<String> = listed(&medium).into_iter().map(|(name, _)| name).collect();
        names.sort();
        let expected: &[&str] = if seed % 2 == 0 { &["a", "b", "c", "z"] } else { &["b", "z"] };
        assert_eq!(names, expected, "seed {seed}, refused {} times", busy.get());
        assert_eq!(leases(&medium).len(), expected.len());
    }
}

#[test]
fn a_create_writes_its_entry_last() {
    let medium = indexed(&[]);
    let writes = crash_after(usize::MAX, &medium, Op::Create("a"));
    // The lease of the index: two dblocks and its leader; the area: leader, the rest, leader; the entry; the release.
    assert_eq!(writes, [1, 1, 1, 1, 2047, 1, 1, 1, 1]);
    assert!(SectorIndex(1).at(SMALL.sector()) == 512);
}
