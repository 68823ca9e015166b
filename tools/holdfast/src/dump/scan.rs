//! Goes over a device and collects its lease areas.

use holdfast_io::clock::Clock;
use holdfast_io::disk::ReadDisk;
use holdfast_io::units::{AlignSize, Geometry};

use super::area::{area, is_blank};
use super::find::{self, Found, HEAD, STEP};
use super::read::{Pieces, Reader};
use super::report::{Area, Damage};

/// Without a length given, this much without a lease area ends the search: lease areas are laid out side by side, and
/// a large device would be read for hours.
pub const EMPTY_LIMIT: u64 = 1 << 30;

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The first byte.
    pub from: u64,
    /// The end, at most the device's.
    pub to: u64,
    /// Whether to stop after [`EMPTY_LIMIT`] without an area.
    pub may_stop: bool,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scanned {
    /// The areas in order.
    pub areas: Vec<Area>,
    /// What could not be read outside of them.
    pub unreadable: Vec<Damage>,
    /// Where it stopped.
    pub to: u64,
}

/// Looks for areas in `scope`. `unit` is the device's own sector size, `end` the device's length.
pub async fn scan<D: ReadDisk, C: Clock>(disk: &D, clock: &C, unit: usize, end: u64, scope: Scope) -> Scanned {
    let reader = Reader::new(disk, clock, unit);
    let mut scanned = Scanned::default();
    let mut walk = Walk::new(scope);
    while let Some(at) = walk.next() {
        let head = reader.read(at, within(at, HEAD as u64, end, unit)).await;
        let Some(found) = find::recognise(&head.bytes, walk.before) else {
            scanned.unreadable.extend(head.holes.iter().map(|hole| Damage {
                offset: hole.range.start,
                length: hole.range.end - hole.range.start,
                record: "no lease area known here".into(),
                reason: format!("cannot be read: {}", hole.reason),
                hex: None,
            }));
            walk.nothing();
            continue;
        };
        let found = measure(&reader, at, found, end, unit).await;
        let length = found.geometry.align().bytes();
        scanned.areas.push(area(at, found, whole(&reader, at, length, end, unit).await));
        walk.area(found);
    }
    scanned.to = walk.at.min(scope.to);
    super::resource::match_with_lockspaces(&mut scanned.areas);
    scanned
}

/// Where areas begin in `scope`, and of what shape, without reading them.
pub async fn outline<D: ReadDisk, C: Clock>(
    disk: &D,
    clock: &C,
    unit: usize,
    end: u64,
    scope: Scope,
) -> Vec<(u64, Found)> {
    let reader = Reader::new(disk, clock, unit);
    let mut areas = Vec::new();
    let mut walk = Walk::new(scope);
    while let Some(at) = walk.next() {
        let head = reader.read(at, within(at, HEAD as u64, end, unit)).await;
        match find::recognise(&head.bytes, walk.before) {
            None => walk.nothing(),
            Some(found) => {
                let found = measure(&reader, at, found, end, unit).await;
                areas.push((at, found));
                walk.area(found);
            }
        }
    }
    areas
}

/// One area read and decoded.
pub async fn one<D: ReadDisk, C: Clock>(disk: &D, clock: &C, unit: usize, end: u64, at: u64, found: Found) -> Area {
    let reader = Reader::new(disk, clock, unit);
    area(at, found, whole(&reader, at, found.geometry.align().bytes(), end, unit).await)
}

/// The way over a device, from one place where an area may begin to the next.
struct Walk {
    scope: Scope,
    at: u64,
    last_area_end: u64,
    before: Option<Geometry>,
}

impl Walk {
    const fn new(scope: Scope) -> Self {
        Walk { scope, at: scope.from, last_area_end: scope.from, before: None }
    }

    fn next(&self) -> Option<u64> {
        let far = self.scope.may_stop && self.at - self.last_area_end >= EMPTY_LIMIT;
        (self.at < self.scope.to && !far).then_some(self.at)
    }

    fn nothing(&mut self) {
        self.at = self.at.saturating_add(STEP);
    }

    fn area(&mut self, found: Found) {
        self.before = Some(found.geometry);
        self.at = self.at.saturating_add(found.geometry.align().bytes());
        self.last_area_end = self.at;
    }
}

/// How much of `len` bytes at `at` lies on the device, in whole sectors of it.
fn within(at: u64, len: u64, end: u64, unit: usize) -> usize {
    let there = usize::try_from(len.min(end.saturating_sub(at))).unwrap_or(usize::MAX);
    (there / unit * unit).max(unit)
}

/// Reads an area; what lies behind the device's end is a hole.
async fn whole<D: ReadDisk, C: Clock>(reader: &Reader<'_, D, C>, at: u64, len: u64, end: u64, unit: usize) -> Pieces {
    let mut pieces = reader.read(at, within(at, len, end, unit)).await;
    let got = pieces.bytes.len() as u64;
    if got < len {
        pieces.bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        let reason = format!("the device ends at {end}");
        pieces.holes.push(super::read::Hole { range: at + got..at + len, reason });
    }
    pieces
}

/// Settles a guessed length where the area's own seal tells it.
async fn measure<D: ReadDisk, C: Clock>(
    reader: &Reader<'_, D, C>,
    at: u64,
    found: Found,
    end: u64,
    unit: usize,
) -> Found {
    if !found.guessed {
        return found;
    }
    for align in AlignSize::ALL {
        let Ok(geometry) = Geometry::new(found.geometry.sector(), align) else { continue };
        if at.saturating_add(align.bytes()) > end {
            continue;
        }
        let sized = Found { geometry, guessed: false, ..found };
        let pieces = whole(reader, at, align.bytes(), end, unit).await;
        if !is_blank(&pieces) && area(at, sized, pieces).formatted_by.is_some() {
            return sized;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use holdfast_io::clock::LocalInstant;
    use holdfast_io::disk::{IoError, IoErrorKind, Op};
    use holdfast_io::identity::{BootHash, Machine, MachineHash};
    use holdfast_io::ids::{ResourceName, SpaceName};
    use holdfast_io::seal::{AreaUuid, SealedFire};
    use holdfast_io::sys::aligned::AlignedBuf;
    use holdfast_io::timing::IoTimeout;
    use holdfast_io::units::SectorSize;
    use proptest::prelude::*;

    use crate::dump::report::{Content, FORMAT, Report, ResourceState};
    use crate::dump::{hex, status, table};

    struct Still;
    impl Clock for Still {
        fn now(&self) -> LocalInstant {
            LocalInstant::from_nanos(1)
        }
        fn suspended(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }

        async fn sleep_until(&self, _: LocalInstant) {}
    }

    /// Bytes, some sectors of which do not come.
    struct Worn {
        path: Arc<str>,
        bytes: Vec<u8>,
        bad: Vec<u64>,
    }

    impl ReadDisk for Worn {
        fn path(&self) -> &Arc<str> {
            &self.path
        }
        async fn read(&self, at: u64, len: usize, _: LocalInstant) -> Result<AlignedBuf, IoError> {
            let error = |kind| IoError { path: self.path.clone(), op: Op::Read, offset: at, len, kind };
            if self.bad.iter().any(|s| (at..at + len as u64).contains(&(s * 512))) {
                return Err(error(IoErrorKind::Failed(nix::errno::Errno::EIO)));
            }
            let from = usize::try_from(at).unwrap();
            let there = self.bytes.get(from..from + len).ok_or_else(|| error(IoErrorKind::Short { found: 0 }))?;
            Ok(AlignedBuf::from_slice(there))
        }
    }

    const MIB: usize = 1 << 20;

    /// A lockspace at 0 and a resource behind it.
    fn device(geometry: Geometry) -> Vec<u8> {
        let len = geometry.area_len();
        let mut bytes = vec![0; 2 * len];
        let (space, resource) = (SpaceName::new(b"LS").unwrap(), ResourceName::new(b"vm").unwrap());
        let machine = Machine { machine: MachineHash(1), boot: BootHash(2) };
        let (uuid, fire) = (AreaUuid(uuid::Uuid::from_u128(5)), SealedFire::NoWatchdog);
        let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
        let seal = delta_lease::format::FormatSeal { uuid, machine, fire };
        for w in delta_lease::format::plan(geometry, space, IoTimeout::DEFAULT, Some(&seal)) {
            put(usize::try_from(w.offset_in_area).unwrap(), &w.bytes);
        }
        let lease = paxos_lease::format::NewLease { geometry, space, resource, num_hosts: None, uuid, place: None };
        for w in paxos_lease::format::plan(&lease, &paxos_lease::format::Writer { machine, fire }).unwrap() {
            put(len + usize::try_from(w.offset_in_area).unwrap(), &w.bytes);
        }
        bytes
    }

    fn dumped(bytes: Vec<u8>, bad: &[u64]) -> Report {
        let end = bytes.len() as u64;
        let disk = Worn { path: Arc::from("worn"), bytes, bad: bad.to_vec() };
        let scanned = pollster::block_on(scan(&disk, &Still, 512, end, Scope { from: 0, to: end, may_stop: true }));
        Report {
            format: FORMAT,
            path: "worn".into(),
            device: "file",
            bytes: end,
            device_sector_size: 512,
            from: 0,
            to: scanned.to,
            more: false,
            areas: scanned.areas,
            unreadable: scanned.unreadable,
        }
    }

    fn small() -> Geometry {
        Geometry::default_for(SectorSize::B512)
    }

    #[test]
    fn sectors_that_cannot_be_read_are_damage_and_the_others_are_shown() {
        // The first host's, another host's, and the resource's leader.
        let report = dumped(device(small()), &[0, 100, 2048]);
        assert_eq!(report.areas.len(), 2);
        let damage: Vec<_> = report.all_damage().map(|d| (d.offset, d.length, d.record.as_str(), &d.hex)).collect();
        let expected = [
            (0, 512, "delta sector of host 1", &None),
            (100 * 512, 512, "delta sector of host 101", &None),
            (MIB as u64, 512, "leader", &None),
        ];
        assert_eq!(damage, expected);
        assert!(report.all_damage().all(|d| d.reason.contains("I/O error")));
        let Content::Lockspace(space) = &report.areas[0].content else { panic!("{:?}", report.areas[0].content) };
        assert_eq!(space.lockspace, "LS");
        let Content::Resource(resource) = &report.areas[1].content else { panic!("{:?}", report.areas[1].content) };
        assert_eq!(resource.state, ResourceState::Damaged);
        assert_eq!(status(&report), 1);
    }

    #[test]
    fn a_place_that_cannot_be_read_at_all_is_reported_beside_the_areas() {
        let mut bytes = device(small());
        bytes.resize(3 * MIB, 0);
        let report = dumped(bytes, &[4096]);
        assert_eq!((report.areas.len(), report.unreadable.len()), (2, 1));
        assert_eq!(report.unreadable[0].offset, 2 * MIB as u64);
    }

    #[test]
    fn a_resource_without_its_leader_is_measured_by_its_own_seal() {
        for geometry in Geometry::ALL {
            let len = geometry.area_len();
            let mut bytes = device(geometry);
            bytes.drain(..len);
            bytes[..geometry.sector().bytes()].fill(0);
            bytes.resize(2 * len, 0);
            let report = dumped(bytes, &[]);
            let shapes: Vec<_> = report.areas.iter().map(|a| a.geometry).collect();
            assert_eq!(shapes, [geometry]);
        }
    }

    fn render(report: &Report) -> String {
        let mut text = String::new();
        table::write(&mut text, report, table::Detail::Short).unwrap();
        table::write(&mut text, report, table::Detail::Long).unwrap();
        hex::write(&mut text, report).unwrap();
        text + &serde_json::to_string(report).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_damage_makes_the_dumper_panic(
            // Where records are: the first sectors of both areas, and the tails.
            hits in proptest::collection::vec((0usize..4, 0usize..2048, any::<u8>()), 0..200),
            cut in 0usize..2,
        ) {
            let mut bytes = device(small());
            for (part, at, value) in hits {
                let base = [0, MIB, 2000 * 512, MIB + 2003 * 512][part];
                bytes[base + at] = value;
            }
            bytes.truncate(2 * MIB - cut * 4096);
            prop_assert!(!render(&dumped(bytes, &[])).is_empty());
        }

        #[test]
        fn noise_does_not_make_the_dumper_panic(noise in proptest::collection::vec(any::<u8>(), 4096), magic in 0usize..5) {
            let magic: [u8; 4] = [
                [0x10, 0x20, 0x21, 0x12],
                [0x10, 0x20, 0x15, 0x06],
                [0x16, 0x20, 0x28, 0x11],
                [0x18, 0x20, 0x04, 0x01],
                [0, 0, 0, 0],
            ][magic];
            let mut bytes = noise.repeat(8);
            bytes.resize(MIB, 0);
            bytes[..4].copy_from_slice(&magic);
            prop_assert!(!render(&dumped(bytes, &[])).is_empty());
        }
    }
}
