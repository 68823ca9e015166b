//! Whole areas on a device in memory: the host table, opening a lockspace, acquiring a resource, the dumper.
//!
//! Input of each: control bytes, then patches over a formatted or empty area (`patch`).

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use delta_lease::layout::DeltaArea;
use delta_lease::liveness::{GoneReason, UnknownReason};
use delta_lease::{AreaView, HostState, HostTable, OwnerVerdict};
use holdfast::dump::report::{FORMAT, Report};
use holdfast::dump::scan::{Scope, scan};
use holdfast::dump::{hex, status, table};
use holdfast_io::bytes::array_at;
use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::device::{Device, Engine, Io, WriteLimit};
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, ResourceName, SpaceName};
use holdfast_io::leader::{Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::mem::MemEngine;
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::stop::Stop;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::{FireTimeout, IoTimeout};
use holdfast_io::units::{Geometry, LeaseOffset, SectorIndex, SectorSize};
use paxos_lease::dblock::{HostSector, ModeBlock};
use paxos_lease::layout::{LEADER, dblock_of};
use paxos_lease::{
    Acquired, Gone, HostLiveness, LeaseAt, LivenessError, Me, Mode, Options, Retract, Verdict, acquire, release,
    retract,
};

use super::{Input, mend, one_line};

/// What an area holds before it is patched.
const BASES: usize = 4;

/// The areas that patches are laid over: zeros; a lockspace sealed, and as sanlock formats it; a resource.
fn base(which: u8, geometry: usize) -> &'static [u8] {
    static MADE: [[OnceLock<Vec<u8>>; 5]; BASES] = [const { [const { OnceLock::new() }; 5] }; BASES];
    let which = usize::from(which) % BASES;
    MADE[which][geometry].get_or_init(|| formatted(which, Geometry::ALL[geometry]))
}

fn formatted(which: usize, geometry: Geometry) -> Vec<u8> {
    let mut bytes = vec![0; geometry.area_len()];
    let machine = Machine { machine: MachineHash(1), boot: BootHash(2) };
    let (uuid, fire) = (AreaUuid(uuid::Uuid::from_bytes(*b"uuid of an area.")), SealedFire::NoWatchdog);
    let (Ok(space), Ok(resource)) = (SpaceName::new(b"LS"), ResourceName::new(b"R")) else { return bytes };
    let mut write = |at: u64, data: &[u8]| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        bytes[at..at + data.len()].copy_from_slice(data);
    };
    if which == 1 || which == 2 {
        let seal = (which == 1).then_some(delta_lease::format::FormatSeal { uuid, machine, fire });
        for w in delta_lease::format::plan(geometry, space, IoTimeout::DEFAULT, seal.as_ref()) {
            write(w.offset_in_area, &w.bytes);
        }
    }
    if which == 3 {
        let lease = paxos_lease::format::NewLease { geometry, space, resource, num_hosts: None, uuid, place: None };
        let writes = paxos_lease::format::plan(&lease, &paxos_lease::format::Writer { machine, fire });
        for w in writes.into_iter().flatten() {
            write(w.offset_in_area, &w.bytes);
        }
    }
    bytes
}

/// Lays patches over `bytes`, at most `most`: sector (u16), offset in it (u16), length (u16), what to mend, the bytes.
pub(super) fn patch(bytes: &mut [u8], size: SectorSize, input: &mut Input<'_>, most: u8) {
    for _ in 0..most {
        if input.is_empty() {
            return;
        }
        let (sector, offset, len) = (input.u16(), usize::from(input.u16()), usize::from(input.u16()));
        let what = input.byte();
        let at = usize::from(sector) % (bytes.len() / size.bytes()) * size.bytes();
        let sector = &mut bytes[at..at + size.bytes()];
        let offset = offset % sector.len();
        let data = input.take(len.min(sector.len() - offset));
        sector[offset..offset + data.len()].copy_from_slice(data);
        mend(sector, what);
    }
}

/// Which geometry, what before the patches.
fn area(input: &mut Input<'_>) -> (Geometry, Vec<u8>) {
    let (geometry, which) = (usize::from(input.byte()) % 5, input.byte());
    (Geometry::ALL[geometry], base(which, geometry).to_vec())
}

/// The name of the lockspace in the first sector; `LS` if there is none.
fn space_in(bytes: &[u8]) -> SpaceName {
    let found = LeaderRecord::parse(&array_at(bytes, 0)).space_name;
    if found.is_empty() { SpaceName::new(b"LS").unwrap_or(found) } else { found }
}

/// Time that stands still but for sleeps, which end at once.
#[derive(Default)]
pub(super) struct Leaps(Cell<u64>);

impl Clock for Leaps {
    fn now(&self) -> LocalInstant {
        at(1000).after(Duration::from_nanos(self.0.get()))
    }
    fn suspended(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep_until(&self, instant: LocalInstant) {
        let gap = instant.since(self.now()).as_nanos();
        self.0.set(self.0.get().saturating_add(u64::try_from(gap).unwrap_or(u64::MAX)));
    }
}

const fn at(seconds: u64) -> LocalInstant {
    LocalInstant::from_nanos(seconds * 1_000_000_000)
}

/// Memory that answers every I/O at once, and gives up a procedure that does not come to its end.
struct Counted {
    memory: MemEngine,
    left: AtomicU32,
}

impl Counted {
    /// More than any procedure needs for the 2000 hosts of an area.
    const MOST: u32 = 20_000;

    fn device(bytes: Vec<u8>, clock: &Leaps) -> Device<Arc<Self>, &Leaps> {
        let engine = Counted { memory: MemEngine::with(bytes), left: AtomicU32::new(Self::MOST) };
        Device::new(Arc::new(engine), clock, WriteLimit::none())
    }
}

impl Engine for Counted {
    fn path(&self) -> &Arc<str> {
        self.memory.path()
    }
    fn submit(&self, io: Io) {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        assert!(left > 1, "no end after {} I/Os", Self::MOST);
        self.memory.submit(io);
    }
}

/// Three looks at a lockspace: the second shows other bytes, the third shows the same a long time later. Input after
/// the area: how many patches belong to the first look; then all patches.
pub fn host_table(data: &[u8]) {
    let mut input = Input::new(data);
    let (geometry, mut bytes) = area(&mut input);
    let first_patches = input.byte() % 16;
    patch(&mut bytes, geometry.sector(), &mut input, first_patches);
    let view = |bytes: &[u8], from: u64| AreaView::new(geometry, AlignedBuf::from_slice(bytes), at(from), at(from + 1));
    let first = view(&bytes, 1000);
    let uuid = first.uuid().unwrap_or(AreaUuid::NONE);
    let lockspace = DeltaArea { at: LeaseOffset(0), geometry, space: space_in(&bytes), uuid };
    let mut table = HostTable::new(lockspace, IoTimeout::DEFAULT);
    table.observe_area(&first);
    patch(&mut bytes, geometry.sector(), &mut input, 32);
    let second = view(&bytes, 1005);
    table.observe_area(&second);
    for host in lockspace.hosts() {
        judged(&table, &lockspace, &second, host);
    }
    table.observe_area(&view(&bytes, 1_000_000));
    for host in lockspace.hosts() {
        let state = table.state(host, at(1_000_001));
        let settled = matches!(state, Some(HostState::Free | HostState::Dead | HostState::Damaged));
        assert!(settled, "silent for days, and {host} is {state:?}");
    }
}

/// What may be concluded about a host from two looks five seconds apart.
fn judged(table: &HostTable, area: &DeltaArea, view: &AreaView, host: HostId) {
    let now = at(1006);
    let Some(seen) = table.observation(host) else { unreachable!("host {host} was looked at") };
    let verdict = |generation: u64| table.verdict(HostTerm { host_id: host, generation: Generation(generation) }, now);
    match area.decode(host, view.sector(host)) {
        Err(error) => {
            one_line(&error);
            assert_eq!(seen.damage, Some(error));
            assert_eq!(table.state(host, now), Some(HostState::Damaged));
            for generation in [0, 1, u64::MAX] {
                assert_eq!(verdict(generation), OwnerVerdict::Unknown(UnknownReason::Damaged), "damage proves nothing");
            }
        }
        Ok(sector) => {
            let generation = sector.generation();
            assert_eq!((seen.sector(), &seen.damage), (Some(&sector), &None));
            let state = table.state(host, now);
            assert_eq!(state == Some(HostState::Free), sector.holder().is_none(), "{state:?}");
            assert_ne!(state, Some(HostState::Dead), "D1: five seconds are no silence");
            let gone = matches!(verdict(generation.0), OwnerVerdict::Gone(GoneReason::Free));
            let alive = matches!(verdict(generation.0), OwnerVerdict::Alive { .. } | OwnerVerdict::Silent { .. });
            assert_eq!((gone, alive), (sector.leader.is_free(), !sector.leader.is_free()));
            if let Some(older) = generation.0.checked_sub(1) {
                assert!(matches!(verdict(older), OwnerVerdict::Gone(GoneReason::NewerGeneration { .. })));
            }
            if let Some(newer) = generation.0.checked_add(1) {
                assert!(matches!(verdict(newer), OwnerVerdict::Unknown(UnknownReason::OlderGeneration { .. })));
            }
        }
    }
}

/// Opening a lockspace on a device, then reading all of it. Input after the area: control (1 by name, 2 another name,
/// 4 the device ends within the area, 8 at an offset behind its end), then the patches.
pub fn delta_area(data: &[u8]) {
    let mut input = Input::new(data);
    let (geometry, mut bytes) = area(&mut input);
    let control = input.byte();
    patch(&mut bytes, geometry.sector(), &mut input, 32);
    let name = if control & 2 != 0 { SpaceName::new(b"another").ok() } else { Some(space_in(&bytes)) };
    if control & 4 != 0 {
        bytes.truncate(bytes.len() / 2);
    }
    let offset = LeaseOffset(if control & 8 != 0 { u64::MAX - 0xFFFF } else { 0 });
    let expected = name.filter(|_| control & 3 != 0);
    let clock = Leaps::default();
    let disk = Counted::device(bytes.clone(), &clock);
    match pollster::block_on(DeltaArea::open(&disk, &&clock, offset, IoTimeout::DEFAULT, expected)) {
        Err(error) => one_line(&error),
        Ok(found) => {
            assert!(expected.is_none_or(|s| s == found.space));
            let read = pollster::block_on(delta_lease::read_area(&disk, &&clock, &found, at(9999)));
            match read {
                Err(error) => one_line(&error),
                Ok(view) => {
                    assert_eq!(view.uuid(), Ok(found.uuid));
                    let mut table = HostTable::new(found, IoTimeout::DEFAULT);
                    table.observe_area(&view);
                    assert_eq!(table.hosts().count(), found.geometry.max_hosts() as usize);
                }
            }
        }
    }
    assert!(*disk.engine().memory.bytes() == bytes, "looking changes nothing");
}

/// Whoever is asked about is in one of these states, until the asker has been patient for twenty times.
struct Answers {
    always: u8,
    asked: Cell<u32>,
}

impl HostLiveness for Answers {
    async fn absence(&self, host: HostId) -> Result<Verdict, LivenessError> {
        self.verdict(HostTerm { host_id: host, generation: Generation::default() }).await
    }

    async fn verdict(&self, of: HostTerm) -> Result<Verdict, LivenessError> {
        self.asked.set(self.asked.get() + 1);
        let earliest = at(1500);
        Ok(match self.always {
            0 => Verdict::Gone(Gone::Silent),
            1 => Verdict::Alive { earliest },
            2 if self.asked.get() < 20 => Verdict::Silent { earliest },
            3 if self.asked.get() < 20 => Verdict::Unknown,
            4 => return Err(LivenessError::Damaged { of, reason: "fuzzed".into() }),
            _ => Verdict::Gone(Gone::NewerGeneration),
        })
    }
}

/// An acquire, and the release or retract that follows from it. Input after the area: how other hosts stand; control
/// (1 wait for silent owners, 2 with a number of hosts, 4 for the lver found, 8 under another name, 16 with a wrong
/// hint, 32 the device ends within the area); our host and generation; then the patches.
pub fn paxos_acquire(data: &[u8]) {
    let mut input = Input::new(data);
    let (geometry, mut bytes) = area(&mut input);
    let hosts = Answers { always: input.byte() % 6, asked: Cell::new(0) };
    let control = input.byte();
    let Some(host_id) = HostId::from_slot(u32::from(input.byte())) else { return };
    // Whoever has joined has a generation, from 1 on.
    let me = me(HostTerm { host_id, generation: Generation(u64::from(input.byte()).max(1)) });
    patch(&mut bytes, geometry.sector(), &mut input, 32);
    let before = LeaderRecord::parse(&array_at(&bytes, 0));
    let lease = LeaseAt {
        at: LeaseOffset(0),
        space: space_in(&bytes),
        resource: if control & 8 != 0 { ResourceName::empty() } else { before.resource_name },
        geometry_hint: if control & 16 != 0 { Geometry::ALL[0] } else { geometry },
    };
    let options = Options {
        mode: if control & 64 != 0 { Mode::Shared } else { Mode::Exclusive },
        expected_lver: (control & 4 != 0).then_some(before.lver),
        num_hosts: (control & 2 != 0).then_some(7),
        wait_for_silent: control & 1 != 0,
        backoff_seed: u64::from(control),
    };
    if control & 32 != 0 {
        bytes.truncate(bytes.len() / 2);
    }
    let clock = Leaps::default();
    let disk = Counted::device(bytes.clone(), &clock);
    let end = pollster::block_on(acquire(&disk, &&clock, &hosts, &lease, &me, &options, &Stop::new()));
    let after = disk.engine().memory.bytes().clone();
    assert_eq!(after.len(), bytes.len());
    // The area's true shape may differ from the one we built, but a changed sector is a whole one in either.
    let shape = before.geometry().unwrap_or(geometry);
    // Whoever is always alive, or never known, is never gone.
    let may_be_gone = !matches!(hosts.always, 1 | 4);
    only_ours_changed(shape, &bytes, &after, host_id, may_be_gone);
    match end {
        Ok(Acquired::Ours(held)) => {
            match held.mode {
                Mode::Exclusive => ours(shape, &bytes, &after, &me, &lease, hosts.always),
                Mode::Shared => shared(shape, &after, &me),
            }
            if let Err(failed) = pollster::block_on(release(&disk, &&clock, held, &me)) {
                one_line(&failed.error);
                undone(&disk, &clock, failed.undo, &me);
            }
        }
        Ok(Acquired::Theirs(refusal)) => undone(&disk, &clock, refusal.undo, &me),
        Err(failed) => {
            one_line(&failed.error);
            undone(&disk, &clock, failed.undo, &me);
        }
    }
    only_ours_changed(shape, &bytes, &disk.engine().memory.bytes(), host_id, may_be_gone);
}

fn me(term: HostTerm) -> Me {
    let machine = Machine { machine: MachineHash(7), boot: BootHash(8) };
    let fire = SealedFire::Within(FireTimeout::SANLOCK);
    Me { term, machine, fire, io_timeout: IoTimeout::DEFAULT }
}

/// A lease is shared by a claim in our own sector that nobody can overlook, beside a version that we have given up.
fn shared(geometry: Geometry, after: &[u8], me: &Me) {
    let at = dblock_of(me.term.host_id);
    let Ok(Decoded::Record(own)) = HostSector::decode(sector(after, geometry, at), at) else {
        unreachable!("our own sector is a valid one")
    };
    assert!(own.dblock.is_released());
    assert!(own.mode.says(&ModeBlock::shared(me.term.generation)));
}

/// A duty left behind can be done on a disk that answers, or is refused for good.
fn undone(disk: &Device<Arc<Counted>, &Leaps>, clock: &Leaps, undo: Option<Retract>, me: &Me) {
    let Some(duty) = undo else { return };
    if let Err(failed) = pollster::block_on(retract(disk, &clock, duty, me)) {
        one_line(&failed.error);
        if let Some(again) = failed.undo {
            again.abandon();
        }
    }
}

fn sector(bytes: &[u8], geometry: Geometry, index: SectorIndex) -> &[u8] {
    let size = geometry.sector();
    bytes.get(index.at(size)..index.at(size) + size.bytes()).unwrap_or(&[])
}

/// I1: the leader and our own dblock; of another host's sector at most the mode block, and that only to clear it; all of one that was damaged,
/// if its host can be gone, and then it says that it holds nothing.
fn only_ours_changed(geometry: Geometry, before: &[u8], after: &[u8], me: HostId, may_be_gone: bool) {
    let sectors = before.len() / geometry.sector().bytes();
    for index in (0u32..).map(SectorIndex).take(sectors) {
        let (was, is) = (sector(before, geometry, index), sector(after, geometry, index));
        if was == is || index == LEADER || index == dblock_of(me) {
            continue;
        }
        let (was, is) = (HostSector::decode(was, index), HostSector::decode(is, index));
        match (was, is) {
            // One of another format of the area counts as damaged, too.
            (Ok(Decoded::Record(was)), Ok(Decoded::Record(is)))
                if may_be_gone && was.seal.zip(is.seal).is_some_and(|(was, is)| was.area != is.area) =>
            {
                assert!(
                    is.dblock.is_released() && is.dblock.bal.is_none() && !is.mode.is_shared(),
                    "sector {index}: {is:?}"
                );
            }
            (Ok(Decoded::Record(was)), Ok(Decoded::Record(is))) => {
                assert!(was.mode.is_shared() && is.mode == ModeBlock::default(), "sector {index}");
                assert_eq!(was.dblock, is.dblock, "I1: a dead host's dblock is kept, sector {index}");
            }
            (Err(damage), Ok(Decoded::Record(is))) if may_be_gone && damage.is_damage() => {
                assert!(
                    is.dblock.is_released() && is.dblock.bal.is_none() && !is.mode.is_shared(),
                    "sector {index}: {is:?}"
                );
            }
            (was, is) => unreachable!("sector {index} is not ours: {was:?} became {is:?}"),
        }
    }
}

/// A lease that we hold is held on the disk as well, and was free to be taken.
fn ours(shape: Geometry, before: &[u8], after: &[u8], me: &Me, lease: &LeaseAt, standing: u8) {
    let host_id = Some(me.term.host_id);
    let expected = Expected { space: Some(lease.space), resource: Some(lease.resource), host_id };
    let leader = |bytes: &[u8]| LeaderRecord::decode(&array_at(bytes, 0), LeaderKind::Paxos, &expected);
    let (Ok(Decoded::Record(was)), Ok(Decoded::Record(is))) = (leader(before), leader(after)) else {
        unreachable!("acquired without a leader record")
    };
    assert!(is.owner() == Some(me.term) && !is.is_free());
    assert!(is.lver > was.lver, "I2");
    let own = dblock_of(me.term.host_id);
    let Ok(Decoded::Record(block)) = HostSector::decode(sector(after, shape, own), own) else {
        unreachable!("acquired without a dblock")
    };
    assert!(block.dblock.lver == is.lver && block.dblock.bal.is_some() && !block.dblock.is_released());
    let foreign = was.owner().is_some_and(|o| o.host_id != me.term.host_id) && !was.is_free();
    let quiet =
        (0..shape.max_hosts()).filter_map(HostId::from_slot).all(|host| nothing_newer(shape, before, was.lver, host));
    assert!(standing != 1 || !foreign || !quiet, "S1: taken from a living owner");
}

/// Whether a host's dblock says nothing that could end lver `of`.
fn nothing_newer(shape: Geometry, before: &[u8], of: Lver, host: HostId) -> bool {
    match HostSector::decode(sector(before, shape, dblock_of(host)), dblock_of(host)) {
        Ok(Decoded::Record(s)) => s.dblock.lver <= of && !s.dblock.is_released(),
        _ => true,
    }
}

/// The offline dumper over a device of two areas. Input: both areas, control (1 device of 4096-byte sectors, 2 the
/// device ends within the second area, 4 begin at the second), then the patches.
pub fn dump(data: &[u8]) {
    let mut input = Input::new(data);
    let (_, mut bytes) = area(&mut input);
    let second = bytes.len() as u64;
    bytes.extend(area(&mut input).1);
    let control = input.byte();
    let unit = super::size_of(control, 1);
    patch(&mut bytes, unit, &mut input, 64);
    if control & 2 != 0 {
        bytes.truncate(bytes.len() - 8192);
    }
    let end = bytes.len() as u64;
    let from = if control & 4 != 0 { second } else { 0 };
    let clock = Leaps::default();
    let disk = Counted::device(bytes, &clock);
    let scope = Scope { from, to: end, may_stop: control & 8 != 0 };
    let scanned = pollster::block_on(scan(&disk, &&clock, unit.bytes(), end, scope));
    let report = Report {
        format: FORMAT,
        path: "memory".into(),
        device: "file",
        bytes: end,
        device_sector_size: unit.bytes(),
        from,
        more: scanned.to < end,
        to: scanned.to,
        areas: scanned.areas,
        unreadable: scanned.unreadable,
    };
    reported(&report, control & 16 != 0, control & 32 != 0);
}

/// A report can be shown in every form, and nothing that a disk says steers the terminal it is shown on.
fn reported(report: &Report, bytes: bool, json: bool) {
    let damaged = report.all_damage().next().is_some();
    assert_eq!(status(report) == 1, damaged);
    for damage in report.all_damage() {
        one_line(&damage.reason);
        one_line(&damage.record);
        assert!(damage.length > 0);
    }
    let mut text = String::new();
    let shown = table::write(&mut text, report, table::Detail::Short)
        .and_then(|()| table::write(&mut text, report, table::Detail::Long))
        .and_then(|()| if bytes { hex::write(&mut text, report) } else { Ok(()) });
    assert_eq!(shown, Ok(()));
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "a control character from the disk");
    if json {
        let json = serde_json::to_vec(report).map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes));
        assert!(matches!(json, Ok(Ok(_))), "{json:?}");
    }
}
