//! The disks of one lease: one, or 2 to 4 of which a majority is enough (`paxos_lease::copies`).
//!
//! Each open device has one table of what is in flight on it (I6), however often the lease is opened anew while that goes on.

use std::cell::{Cell, OnceCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use delta_lease::HostTable;
use delta_lease::liveness::HostState;
use holdfast_io::clock::{Clock, First, LocalInstant, first_of};
use holdfast_io::disk::{Disk, IoError, IoErrorKind, Op, ReadDisk};
use holdfast_io::ids::{HostId, HostTerm, Lver};
use holdfast_io::seal::AreaUuid;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::linux::NodeId;
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::codes::ResultCode;
use nix::errno::Errno;
use paxos_lease::copies::{CopyState, PATIENCE};
use paxos_lease::{Copies, Copy, Mode};
use tokio::sync::Mutex;

use crate::platform::{Platform, SharedDisk};
use crate::supervisor::event::Place;

/// Whether a lease on several disks may be taken, or changed, in a lockspace with these hosts.
///
/// A real sanlock takes a lease on several disks, too, but by rules of its own: it does not stamp what it writes, counts a disk that holds
/// no copy, and frees a leader record on one disk alone. Beside one that lives, or may, nothing that the copies say together can be
/// relied on. It is known by its sector, which has no seal.
///
/// `area`: the UUID of the lockspace's area. One that sanlock formatted has none, and any two formats of it look the same: the stamps by which
/// the copies of a sector are ordered could not tell what was written before it was made anew from what is written since.
///
/// # Errors
/// The answer and the reason.
pub fn may_be_served(
    copies: usize,
    area: AreaUuid,
    hosts: &HostTable,
    now: LocalInstant,
) -> Result<(), (ResultCode, String)> {
    if copies == 1 {
        return Ok(());
    }
    if area == AreaUuid::NONE {
        let why = "the lockspace was formatted by sanlock, without a UUID: in it no lease on several disks is served";
        return Err((ResultCode::EOPNOTSUPP, why.to_owned()));
    }
    match real_sanlock(hosts, now) {
        None => Ok(()),
        Some(host) => {
            let why = format!(
                "host_id {host} of the lockspace is a real sanlock's: beside one no lease on several disks is served"
            );
            Err((ResultCode::EOPNOTSUPP, why))
        }
    }
}

/// Runs opens side by side until all are over, or `until`. Once `enough` have succeeded nobody waits for the others much longer.
pub async fn side_by_side<T, E, C: Clock>(
    opens: Vec<impl Future<Output = Result<T, E>>>,
    enough: usize,
    clock: &C,
    until: LocalInstant,
) -> Vec<Option<Result<T, E>>> {
    let mut opens: Vec<_> = opens.into_iter().map(|open| Some(Box::pin(open))).collect();
    let mut ends: Vec<Option<Result<T, E>>> = opens.iter().map(|_| None).collect();
    let mut go_on = |cx: &mut Context<'_>, enough: usize| {
        for (open, end) in opens.iter_mut().zip(&mut ends) {
            if let Some(Poll::Ready(ended)) = open.as_mut().map(|open| open.as_mut().poll(cx)) {
                (*open, *end) = (None, Some(ended));
            }
        }
        let good = ends.iter().flatten().filter(|end| end.is_ok()).count();
        let over = opens.iter().all(Option::is_none);
        if over || good >= enough { Poll::Ready(over) } else { Poll::Pending }
    };
    let first = first_of(poll_fn(|cx| go_on(cx, enough)), clock.sleep_until(until)).await;
    if matches!(first, First::A(false)) {
        first_of(poll_fn(|cx| go_on(cx, usize::MAX)), clock.sleep(PATIENCE)).await;
    }
    ends
}

/// Whether a lease's disks are fewer than it names: two copies on one device are lost together, and one device under two names
/// is not even two copies.
#[must_use]
pub fn names_one_twice(nodes: &[NodeId]) -> bool {
    nodes.iter().enumerate().any(|(i, node)| nodes[..i].contains(node))
}

/// Whether one of a lease's disks may have come under another device number while a write of ours to it is on its way: the lease was on `old`,
/// writes to `in_flight` of these are, and it is on `new` now. Then two tables of flights would each know one of two writes to a
/// sector (I6).
#[must_use]
pub fn may_be_renumbered(old: &[(NodeId, u64)], in_flight: &[(NodeId, u64)], new: &[(NodeId, u64)]) -> bool {
    in_flight.iter().any(|place| !new.contains(place)) && new.iter().any(|place| !old.contains(place))
}

fn real_sanlock(hosts: &HostTable, now: LocalInstant) -> Option<HostId> {
    let theirs = |id: HostId| hosts.state(id, now) != Some(HostState::Dead);
    let unsealed = hosts
        .hosts()
        .filter(|(_, seen)| seen.sector().is_some_and(|sector| sector.holder().is_some() && sector.seal.is_none()));
    unsealed.map(|(id, _)| id).find(|id| theirs(*id))
}

/// One of the disks, which may not be there.
pub enum LeaseCopy<P: Platform> {
    /// It is open.
    Open(NodeId, Rc<SharedDisk<P>>),
    /// It could not be used when the lease was taken.
    Missing(Missing<P>),
}

/// A disk that was missing, and may be back since (`resource/mend.rs`).
pub struct Missing<P: Platform> {
    named: Place,
    path: Arc<str>,
    errno: Errno,
    back: OnceCell<(NodeId, Rc<SharedDisk<P>>)>,
    /// Not to be tried before that. While somebody tries: never.
    next_try: Cell<LocalInstant>,
}

impl<P: Platform> LeaseCopy<P> {
    /// One that cannot be used, for this reason.
    #[must_use]
    pub fn missing(place: &Place, code: ResultCode) -> Self {
        let errno = match Errno::from_raw(code.number().saturating_neg()) {
            Errno::UnknownErrno => Errno::EIO,
            errno => errno,
        };
        LeaseCopy::Missing(Missing {
            named: place.clone(),
            path: Arc::from(place.path.display().to_string()),
            errno,
            back: OnceCell::new(),
            next_try: Cell::new(LocalInstant::EARLIEST),
        })
    }

    fn open(&self) -> Result<(NodeId, &Rc<SharedDisk<P>>), &Missing<P>> {
        match self {
            LeaseCopy::Open(node, disk) => Ok((*node, disk)),
            LeaseCopy::Missing(missing) => missing.back.get().map(|(node, disk)| (*node, disk)).ok_or(missing),
        }
    }

    fn node(&self) -> Option<NodeId> {
        self.open().ok().map(|(node, _)| node)
    }
}

impl<P: Platform> Missing<P> {
    fn error(&self, op: Op, offset: u64, len: usize) -> IoError {
        IoError { path: Arc::clone(&self.path), op, offset, len, kind: IoErrorKind::Failed(self.errno) }
    }
}

impl<P: Platform> ReadDisk for LeaseCopy<P> {
    fn path(&self) -> &Arc<str> {
        match self {
            LeaseCopy::Open(_, disk) => disk.path(),
            LeaseCopy::Missing(missing) => &missing.path,
        }
    }

    async fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> Result<AlignedBuf, IoError> {
        match self.open() {
            Ok((_, disk)) => disk.read(at, len, deadline).await,
            Err(missing) => Err(missing.error(Op::Read, at, len)),
        }
    }
}

impl<P: Platform> Disk for LeaseCopy<P> {
    async fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> Result<(), IoError> {
        match self.open() {
            Ok((_, disk)) => disk.write(at, data, deadline).await,
            Err(missing) => Err(missing.error(Op::Write, at, data.len())),
        }
    }

    async fn reaped(&self) {
        if let Ok((_, disk)) = self.open() {
            disk.reaped().await;
        }
    }
}

/// A lease's view of its disks.
pub struct LeaseDisk<P: Platform> {
    /// What the lease is read and written through.
    pub copies: Copies<LeaseCopy<P>, P::Clock>,
    /// As what it is held, while no task gives it back or changes that: then it may be tended (`paxos_lease::tend`), by whoever has the
    /// lock. A task that begins waits for that: at most for one I/O's time, and while a majority answers not for long.
    pub steady: Mutex<Option<(Lver, Mode)>>,
}

impl<P: Platform> LeaseDisk<P> {
    /// Of disks, each with the place of its copy; `me`: who writes, if anybody, and the UUID of its lockspace's area.
    #[must_use]
    pub fn new(list: Vec<(LeaseCopy<P>, LeaseOffset)>, clock: &P::Clock, me: Option<(HostTerm, AreaUuid)>) -> Self {
        let list = list.into_iter().map(|(disk, at)| Copy { disk, at }).collect();
        LeaseDisk { copies: Copies::new(list, clock.clone(), me), steady: Mutex::default() }
    }

    /// Whether it is made of these nodes, with the area at these offsets, in this order.
    pub fn is_of(&self, places: &[(Option<NodeId>, LeaseOffset)]) -> bool {
        self.copies.list().iter().map(|copy| (copy.disk.node(), copy.at)).eq(places.iter().copied())
    }

    /// Of several disks, how each of them stands, for a person.
    pub fn states(&self) -> Option<serde_json::Value> {
        let list = self.copies.list();
        let each = list.iter().zip(self.copies.states()).map(|(copy, state)| {
            let (state, why) = match state {
                CopyState::Unknown => ("unknown", None),
                CopyState::Member => ("member", None),
                CopyState::Late => ("late", None),
                CopyState::Failed => ("failed", None),
                CopyState::None(why) => ("none", Some(why)),
            };
            serde_json::json!({ "path": &**copy.disk.path(), "offset": copy.at.0, "state": state, "why": why })
        });
        (list.len() > 1).then(|| each.collect())
    }

    fn open(&self) -> impl Iterator<Item = (NodeId, &Rc<SharedDisk<P>>, LeaseOffset)> {
        self.copies.list().iter().filter_map(|copy| copy.disk.open().ok().map(|(node, disk)| (node, disk, copy.at)))
    }

    /// The disks that are missing and are to be tried now, by number and place: until [`LeaseDisk::tried`] nobody else tries them.
    pub fn to_be_tried(&self, now: LocalInstant) -> Vec<(usize, Place)> {
        let due = |(i, copy): (usize, &Copy<LeaseCopy<P>>)| {
            let missing = copy.disk.open().err().filter(|missing| missing.next_try.get() <= now)?;
            missing.next_try.set(LocalInstant::NEVER);
            Some((i, missing.named.clone()))
        };
        self.copies.list().iter().enumerate().filter_map(due).collect()
    }

    /// One of them was tried; if it is not back by now, not before `next` again.
    pub fn tried(&self, number: usize, next: LocalInstant) {
        if let Some(Err(missing)) = self.copies.list().get(number).map(|copy| copy.disk.open()) {
            missing.next_try.set(next);
        }
    }

    /// One that was missing is back.
    pub fn is_back(&self, number: usize, node: NodeId, disk: Rc<SharedDisk<P>>) {
        if let Some(Err(missing)) = self.copies.list().get(number).map(|copy| copy.disk.open()) {
            let _ = missing.back.set((node, disk));
        }
    }

    /// The places to which writes of it are on their way.
    pub fn areas_in_flight(&self) -> Vec<(NodeId, u64)> {
        let busy = self.open().filter(|(_, disk, _)| disk.writes_in_flight() > 0);
        busy.map(|(node, _, at)| (node, at.0)).collect()
    }

    /// The one whose area is there.
    pub fn on(&self, node: NodeId, at: LeaseOffset) -> Option<Rc<SharedDisk<P>>> {
        self.open().find(|(its, _, place)| (*its, *place) == (node, at)).map(|(_, disk, _)| Rc::clone(disk))
    }

    /// Where its areas are: node and offset.
    pub fn areas(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.open().map(|(node, _, at)| (node, at.0))
    }

    /// How many of its writes are on their way, to any of its disks.
    pub fn writes_in_flight(&self) -> usize {
        self.open().map(|(_, disk, _)| disk.writes_in_flight()).sum()
    }

    /// Resolves once no write of it is on its way to any disk any more.
    pub async fn all_reaped(&self) {
        for (_, disk, _) in self.open() {
            disk.reaped().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::time::Duration;

    use delta_lease::{DeltaArea, DeltaSector, HostBitmap, SectorView};
    use holdfast_io::clock::BootClock;
    use holdfast_io::identity::{BootHash, MachineHash};
    use holdfast_io::ids::{Generation, RemoteTimestamp, SpaceName};
    use holdfast_io::leader::{LeaderKind, LeaderRecord};
    use holdfast_io::seal::{Seal, SealedFire};
    use holdfast_io::timing::IoTimeout;
    use holdfast_io::units::{Geometry, SectorIndex};

    use super::*;

    const NOW: LocalInstant = LocalInstant::from_nanos(1_000_000_000_000);

    fn uuid() -> AreaUuid {
        static ONE: OnceLock<AreaUuid> = OnceLock::new();
        *ONE.get_or_init(AreaUuid::random)
    }

    fn area() -> DeltaArea {
        let space = SpaceName::new(b"LS").unwrap();
        DeltaArea { at: LeaseOffset(0), space, geometry: Geometry::ALL[0], uuid: uuid() }
    }

    /// A look at the sector of host 3, which holds its host_id.
    fn look(area: &DeltaArea, sealed: bool, at: LocalInstant) -> SectorView {
        let DeltaArea { geometry, space, uuid: area, .. } = *area;
        let (host_id, sector) = (HostId::new(3).unwrap(), SectorIndex(2));
        let leader = LeaderRecord {
            owner_id: 3,
            owner_generation: Generation(1),
            timestamp: RemoteTimestamp(77),
            io_timeout: 10,
            ..LeaderRecord::formatted(LeaderKind::Delta, geometry, space)
        };
        let (machine, boot, fire) = (MachineHash(1), BootHash(2), SealedFire::NoWatchdog);
        let seal = sealed.then_some(Seal { fire, machine, boot, area, millis: 0, sector });
        let bytes = DeltaSector { leader, bitmap: HostBitmap::default(), seal }.encode(geometry.sector());
        SectorView { host_id, bytes, read_started: at, read_ended: at }
    }

    fn seen(sealed: bool) -> HostTable {
        let area = area();
        let mut table = HostTable::new(area, IoTimeout::DEFAULT);
        table.observe_sector(&look(&area, sealed, NOW));
        assert!(table.hosts().all(|(_, seen)| seen.damage.is_none()));
        table
    }

    #[test]
    fn s1_beside_a_real_sanlock_that_may_live_no_lease_on_several_disks_is_served() {
        assert!(may_be_served(3, uuid(), &seen(true), NOW).is_ok());
        let mut table = seen(false);
        let (code, why) = may_be_served(3, uuid(), &table, NOW).unwrap_err();
        assert!(code == ResultCode::EOPNOTSUPP && why.contains("host_id 3"), "{why}");
        assert!(may_be_served(1, uuid(), &table, NOW).is_ok(), "on one disk both keep the same rules");
        let later = NOW.after(Duration::from_secs(600));
        table.observe_sector(&look(&area(), false, later));
        assert!(may_be_served(3, uuid(), &table, later).is_ok(), "it has been silent for D1's time");
    }

    #[test]
    fn in_a_lockspace_without_a_uuid_no_lease_on_several_disks_is_served() {
        let (code, why) = may_be_served(3, AreaUuid::NONE, &seen(true), NOW).unwrap_err();
        assert!(code == ResultCode::EOPNOTSUPP && why.contains("UUID"), "{why}");
        assert!(may_be_served(1, AreaUuid::NONE, &seen(true), NOW).is_ok());
    }

    #[test]
    fn a_disk_that_hangs_in_open_is_not_waited_for_once_a_majority_is_open() {
        let clock = BootClock::new().unwrap();
        let open = |n: u32| async move { if n == 1 { std::future::pending().await } else { Ok::<_, ()>(n) } };
        let begun = clock.now();
        let opens = (0..3).map(open).collect();
        let ends = pollster::block_on(side_by_side(opens, 2, &clock, begun.after(Duration::from_secs(60))));
        assert_eq!(ends, [Some(Ok(0)), None, Some(Ok(2))]);
        assert!(clock.now().since(begun) < Duration::from_secs(20));
    }

    /// The third disk hung, was lost and found again under another number. What hung may still land there.
    #[test]
    fn i6_a_disk_that_may_have_another_number_now_is_not_written_while_an_older_write_to_it_is_in_flight() {
        let at = |device| (NodeId { dev: 5, ino: device, device: Some(device) }, 0);
        let (old, hung) = ([at(1), at(2), at(3)], [at(3)]);
        assert!(may_be_renumbered(&old, &hung, &[at(1), at(2), at(4)]));
        assert!(!may_be_renumbered(&old, &hung, &[at(1), at(2)]), "it is missing, and will not be written");
        assert!(!may_be_renumbered(&old, &hung, &[at(1), at(3), at(4)]), "it is there, and has its table");
        assert!(!may_be_renumbered(&old, &[], &[at(1), at(2), at(4)]));
    }

    #[test]
    fn one_device_under_two_nodes_is_one_disk() {
        let node = |ino, device| NodeId { dev: 5, ino, device };
        assert!(names_one_twice(&[node(1, Some(0xfd00)), NodeId::file(1, 1), node(2, Some(0xfd00))]));
        assert!(!names_one_twice(&[node(1, Some(0xfd00)), node(1, Some(0xfd01)), node(1, None), node(2, None)]));
    }
}
