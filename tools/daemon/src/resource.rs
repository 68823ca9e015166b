//! Lease tasks: opening and fencing a resource's device, acquiring, releasing, undoing.
//!
//! Each lease has a `LeaseDisk` of its own over its device's I/O threads: what it waits for (I6, a retract's "all
//! writes reaped") are its own writes and nobody else's. The disk is kept until the last of them is reaped, across
//! acquires of the same lease.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use delta_lease::liveness::{GoneReason, Observation};
use delta_lease::{DeltaArea, HostTable, OwnerVerdict, read_host};
use holdfast_io::clock::{Clock, First, LocalInstant, first_of};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::{Disk, ReadDisk};
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp, ResourceName};
use holdfast_io::leader::{self, LeaderRecord};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::stop::Stop;
use holdfast_io::sys::linux::{FenceOutcome, NodeId};
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::codes::ResultCode;
use paxos_lease::{
    AcquireError, AcquireFailed, Acquired, AfterShare, AreaError, Asked, Copies, Gone, Held, HostLiveness, LeaseAt,
    LivenessError, Me, Mode, Options, Refusal, RefusalKind, ReleaseFailed, Retract, ShareFailed, Sharing, Standing,
    Verdict, acquire, ask, asked_of, exclude, layout, release, rename, retract, share, standing, tend, value,
};

mod index;
mod mend;
#[cfg(test)]
mod tests;

pub use index::{Surroundings, prepare_index, run_index};
use mend::{mend, mending};

use crate::codes;
use crate::lease_disk::{self, LeaseCopy, LeaseDisk};
use crate::linux::Linux;
use crate::log_ring::AT_WILL;
use crate::note::Notes;
use crate::platform::{LeaseFile, Platform, SharedDisk};
use crate::state_file::FenceRecord;
use crate::supervisor::CALLED_FOR;
use crate::supervisor::event::{
    AcquireEnd, AskRequest, Call, ConvertRequest, Converted, Event, LeaseKey, LeaseRequest, Place, Prepared, TaskId,
};

/// I/Os for the leases of one lockspace on one device that are under way at once.
const AT_ONCE: usize = 32;
/// Between two attempts to take a fence that somebody holds.
const FENCE_POLL: Duration = Duration::from_millis(100);

/// A disk that its lease has left.
struct Retired<P: Platform> {
    key: LeaseKey,
    disk: Rc<LeaseDisk<P>>,
    /// The length of the lease's area there.
    len: u64,
}

/// A device of a lease that was to be opened.
pub struct Opened<F> {
    /// As it was named.
    pub place: Place,
    /// The device, or why not.
    pub file: Result<Arc<F>, (ResultCode, String)>,
}

/// What the tasks of one joined lockspace share.
pub struct SpaceShared<P: Platform = Linux> {
    /// Its area.
    pub area: DeltaArea,
    /// Its device.
    pub file: Arc<P::File>,
    /// Who we are in it.
    pub me: Me,
    /// Everything seen of its hosts.
    pub hosts: RefCell<HostTable>,
    /// Who was heard to call us.
    heard: RefCell<BTreeMap<HostId, Heard>>,
    /// D2's instant for its leases.
    pub limit: WriteLimit,
    /// Ends waiting tasks when the lockspace is left or lost.
    pub over: Stop,
    platform: P,
    look: SharedDisk<P>,
    engines: RefCell<BTreeMap<NodeId, Arc<P::Engine>>>,
    disks: RefCell<BTreeMap<LeaseKey, Rc<LeaseDisk<P>>>>,
    /// The leases of `disks` that an acquire has begun on: length of the area, whether they are over.
    places: RefCell<BTreeMap<LeaseKey, (u64, bool)>>,
    /// Leases whose task has panicked: it may have left a write on its way.
    panicked: RefCell<BTreeSet<LeaseKey>>,
    /// Replaced because their lease is on another device now, until their last write is reaped.
    retired: RefCell<Vec<Retired<P>>>,
    /// Further devices that have their fence. Each stays open for it, whether or not a lease still uses it.
    fenced: RefCell<Vec<Fenced<P::File>>>,
}

/// A host that was heard to call us.
struct Heard {
    /// By which renewal it was, last.
    by: (Generation, RemoteTimestamp),
    /// When it was, as HOST_STATUS tells it.
    at: LocalInstant,
}

struct Fenced<F> {
    file: Arc<F>,
    start: u64,
    len: u64,
    locked: bool,
}

impl<P: Platform> SpaceShared<P> {
    /// For a lockspace whose area was found on `file`.
    #[must_use]
    pub fn new(area: DeltaArea, file: Arc<P::File>, me: Me, platform: &P) -> Self {
        let engine = Arc::new(platform.engine(&file, AT_ONCE, "lease-io"));
        let look = Device::new(Arc::clone(&engine), platform.clock().clone(), WriteLimit::none());
        let hosts = RefCell::new(HostTable::new(area, me.io_timeout));
        SpaceShared {
            engines: RefCell::new(BTreeMap::from([(file.node(), engine)])),
            panicked: RefCell::default(),
            retired: RefCell::default(),
            fenced: RefCell::default(),
            area,
            file,
            me,
            hosts,
            heard: RefCell::default(),
            // Nothing may be written before the supervisor has said until when (D2).
            limit: WriteLimit::until(LocalInstant::EARLIEST),
            over: Stop::new(),
            platform: platform.clone(),
            look,
            disks: RefCell::default(),
            places: RefCell::default(),
        }
    }

    /// The I/O threads of an open device.
    fn engine_for(&self, file: &Arc<P::File>) -> Arc<P::Engine> {
        let mut engines = self.engines.borrow_mut();
        let engine = engines.entry(file.node());
        Arc::clone(engine.or_insert_with(|| Arc::new(self.platform.engine(file, AT_ONCE, "lease-io"))))
    }

    /// A disk for a lease on these devices.
    fn disk_for(&self, key: LeaseKey, files: &[Opened<P::File>]) {
        let at = |f: &Opened<P::File>| (f.file.as_ref().ok().map(|file| file.node()), LeaseOffset(f.place.offset));
        let places: Vec<_> = files.iter().map(at).collect();
        if self.disk_of(key).is_some_and(|disk| disk.is_of(&places)) {
            return;
        }
        let list = files.iter().map(|f| (self.copy_on(f), LeaseOffset(f.place.offset))).collect();
        let disk = Rc::new(LeaseDisk::new(list, self.clock(), Some((self.me.term, self.area.uuid))));
        if let Some(old) = self.disks.borrow_mut().insert(key, disk) {
            let len = self.places.borrow_mut().remove(&key).map_or(0, |(len, _)| len);
            self.retired.borrow_mut().push(Retired { key, disk: old, len });
        }
    }

    /// I6: what was opened before for an area in this very place, and may have a write in flight there, goes on serving it, so
    /// that one table of flights knows both that write and the next.
    fn copy_on(&self, opened: &Opened<P::File>) -> LeaseCopy<P> {
        let file = match &opened.file {
            Ok(file) => file,
            Err((code, _)) => return LeaseCopy::missing(&opened.place, *code),
        };
        let (node, at) = (file.node(), LeaseOffset(opened.place.offset));
        LeaseCopy::Open(node, self.device_on(file, at))
    }

    fn device_on(&self, file: &Arc<P::File>, at: LeaseOffset) -> Rc<SharedDisk<P>> {
        let (disks, retired) = (self.disks.borrow(), self.retired.borrow());
        let mut all = disks.values().chain(retired.iter().map(|old| &old.disk));
        let new = || Rc::new(Device::new(self.engine_for(file), self.clock().clone(), self.limit.clone()));
        all.find_map(|disk| disk.on(file.node(), at)).unwrap_or_else(new)
    }

    /// Whether one of these areas of a lease may be one to which an older write of ours is on its way, under the number that its device had
    /// before ([`lease_disk::may_be_renumbered`]).
    fn may_be_renumbered(&self, key: LeaseKey, areas: &[(NodeId, u64)]) -> bool {
        self.retired.borrow().iter().filter(|old| old.key == key).any(|Retired { disk, .. }| {
            let old: Vec<_> = disk.areas().collect();
            lease_disk::may_be_renumbered(&old, &disk.areas_in_flight(), areas)
        })
    }

    /// A lease is over: its disk goes with it, unless a write is still in flight (I6: the next acquire waits for it).
    fn forget_disk(&self, key: LeaseKey) {
        let mut disks = self.disks.borrow_mut();
        if disks.get(&key).is_some_and(|disk| disk.writes_in_flight() == 0) {
            disks.remove(&key);
            self.places.borrow_mut().remove(&key);
        } else if let Some((_, over)) = self.places.borrow_mut().get_mut(&key) {
            *over = true;
        }
    }

    /// A task of this lease has panicked.
    pub fn panicked(&self, key: LeaseKey) {
        self.panicked.borrow_mut().insert(key);
    }

    /// Whether a task of this lease has panicked, and what it wrote stands in the way: a write that is on its way, for which nobody waits
    /// before the lease is judged anew, as whoever undoes something does (I6); on several disks for as long as the lockspace is joined,
    /// for what it said on a few of them alone - RELEASED, above all - whoever opens them anew may not see, and others may.
    fn is_spoilt(&self, key: LeaseKey) -> bool {
        let mut panicked = self.panicked.borrow_mut();
        let stays = |disk: &LeaseDisk<P>| disk.writes_in_flight() > 0 || disk.copies.copies() > 1;
        let spoilt = panicked.contains(&key) && self.disk_of(key).is_some_and(|disk| stays(&disk));
        if !spoilt {
            panicked.remove(&key);
        }
        spoilt
    }

    /// Ends the I/O threads of devices that no lease uses any more. Their fences stay.
    fn forget_engines(&self) {
        self.retired.borrow_mut().retain(|old| old.disk.writes_in_flight() > 0);
        self.engines.borrow_mut().retain(|_, engine| Arc::strong_count(engine) > 1);
    }

    fn is_fenced(&self, node: NodeId) -> bool {
        node == self.file.node() || self.fenced.borrow().iter().any(|f| f.file.node() == node)
    }

    /// The lockspace is left: nothing of it may write any more, and once the last write is reaped its further fences
    /// have nothing left to say (I6).
    pub async fn give_back_fences(&self) {
        self.limit.close();
        self.over.set();
        self.reaped().await;
        for fence in self.fenced.take().into_iter().filter(|f| f.locked) {
            self.platform.nodes().give_back(&fence.file, fence.start, fence.len);
        }
    }

    /// The areas of leases that are being acquired, held or given back, or have a write in flight: node, offset, length.
    pub fn leased_areas(&self) -> Vec<(NodeId, u64, u64)> {
        let disks = self.disks.borrow();
        let places = self.places.borrow();
        let used = places.iter().filter_map(|(key, &(len, over))| {
            let disk = disks.get(key)?;
            let used = !over || disk.writes_in_flight() > 0;
            used.then_some((disk, len))
        });
        let retired = self.retired.borrow();
        let late = retired.iter().filter(|old| old.disk.writes_in_flight() > 0).map(|old| (&old.disk, old.len));
        used.chain(late).flat_map(|(disk, len)| disk.areas().map(move |(node, at)| (node, at, len))).collect()
    }

    /// The disk of a lease that is held or being acquired.
    fn disk_of(&self, key: LeaseKey) -> Option<Rc<LeaseDisk<P>>> {
        self.disks.borrow().get(&key).cloned()
    }

    /// How the disks of its leases on several stand, by resource, for a person.
    pub fn copies(&self) -> BTreeMap<String, serde_json::Value> {
        let disks = self.disks.borrow();
        disks.iter().filter_map(|(key, disk)| Some((key.resource.to_string(), disk.states()?))).collect()
    }

    /// Resolves once no lease write of this lockspace is in flight any more.
    pub async fn reaped(&self) {
        let disks: Vec<Rc<LeaseDisk<P>>> =
            self.disks.borrow().values().chain(self.retired.borrow().iter().map(|old| &old.disk)).cloned().collect();
        for disk in disks {
            disk.all_reaped().await;
        }
    }

    fn clock(&self) -> &P::Clock {
        self.platform.clock()
    }

    const fn platform(&self) -> &P {
        &self.platform
    }

    fn deadline(&self) -> LocalInstant {
        self.clock().now().after(Duration::from_secs(u64::from(self.me.io_timeout.seconds())))
    }

    /// Who calls us, by a renewal that we have not heard yet, and what of.
    pub fn calls(&self) -> Vec<Call> {
        let (hosts, me) = (self.hosts.borrow(), self.me.term.host_id);
        let mut heard = self.heard.borrow_mut();
        let mut calls = Vec::new();
        for (id, seen) in hosts.hosts().filter(|(id, seen)| *id != me && seen.damage.is_none()) {
            let Some(sector) = seen.sector().filter(|s| s.bitmap.contains(me)) else { continue };
            let by = (sector.generation(), sector.leader.timestamp);
            let before = heard.get(&id);
            if before.is_some_and(|heard| heard.by == by) {
                continue;
            }
            // Renewals that say it within the time for which a call stands are one call.
            let at = before.map(|heard| heard.at).filter(|at| seen.last_check < at.after(call_stands(&self.me)));
            heard.insert(id, Heard { by, at: at.unwrap_or(seen.last_check) });
            calls.push(Call { from: HostTerm { host_id: id, generation: sector.generation() }, event: sector.event() });
        }
        calls
    }

    /// When a host was last heard to call us, if it was; as sanlock tells it, one that goes on calling counts anew after six of our
    /// io_timeouts (seen: docs/sanlock-observations.md).
    #[must_use]
    pub fn called_at(&self, host: HostId) -> Option<LocalInstant> {
        self.heard.borrow().get(&host).map(|heard| heard.at)
    }

    /// A fresh look at a host, taken into the table.
    ///
    /// # Errors
    /// The read failed.
    pub async fn look_at(&self, of: HostTerm) -> Result<(), LivenessError> {
        match read_host(&self.look, self.clock(), &self.area, of.host_id, self.deadline()).await {
            Ok(view) => {
                self.hosts.borrow_mut().observe_sector(&view);
                Ok(())
            }
            Err(delta_lease::DeltaError::Io(source)) => Err(LivenessError::Io { of, source }),
            Err(e) => Err(LivenessError::Damaged { of, reason: codes::chain(&e) }),
        }
    }
}

impl<P: Platform> HostLiveness for SpaceShared<P> {
    async fn verdict(&self, of: HostTerm) -> Result<Verdict, LivenessError> {
        self.look_at(of).await?;
        Ok(told(self.hosts.borrow().verdict(of, self.clock().now())))
    }

    async fn absence(&self, host: HostId) -> Result<Verdict, LivenessError> {
        if host.get() <= u64::from(self.area.geometry.max_hosts()) {
            let generation = self.hosts.borrow().observation(host).and_then(Observation::generation);
            self.look_at(HostTerm { host_id: host, generation: generation.unwrap_or_default() }).await?;
        }
        Ok(told(self.hosts.borrow().absence(host, self.clock().now())))
    }
}

/// For how long a host is called that is called once.
fn call_stands(me: &Me) -> Duration {
    Duration::from_secs(u64::from(me.io_timeout.seconds()) * u64::from(CALLED_FOR))
}

/// What is known of a host, as a lease asks for it.
const fn told(verdict: OwnerVerdict) -> Verdict {
    match verdict {
        OwnerVerdict::Gone(GoneReason::Free) => Verdict::Gone(Gone::Free),
        OwnerVerdict::Gone(GoneReason::NewerGeneration { .. }) => Verdict::Gone(Gone::NewerGeneration),
        OwnerVerdict::Gone(GoneReason::Silent { .. }) => Verdict::Gone(Gone::Silent),
        OwnerVerdict::Gone(GoneReason::Confirmed) => Verdict::Gone(Gone::Confirmed),
        OwnerVerdict::Alive { earliest } => Verdict::Alive { earliest },
        OwnerVerdict::Silent { earliest } => Verdict::Silent { earliest },
        OwnerVerdict::Unknown(_) => Verdict::Unknown,
    }
}

async fn open_one<P: Platform>(shared: &SpaceShared<P>, place: &Place) -> Result<Arc<P::File>, (ResultCode, String)> {
    codes::opened(shared.platform.open_apart(&place.path, &place.by).await)
}

/// Opens the devices of a lease, side by side. Of several none is waited for longer than an I/O may take, or, once a majority is
/// open, much longer.
pub async fn open_all<P: Platform>(shared: &SpaceShared<P>, places: &[Place]) -> Vec<Opened<P::File>> {
    let until = if places.len() > 1 { shared.deadline() } else { LocalInstant::NEVER };
    let opens = places.iter().map(|place| open_one(shared, place)).collect();
    let ends = lease_disk::side_by_side(opens, places.len() / 2 + 1, shared.clock(), until).await;
    let opened = |(place, end): (&Place, Option<_>)| {
        let late = || Err((ResultCode::IO_TIMEOUT, format!("{} does not open in time", place.path.display())));
        Opened { place: place.clone(), file: end.unwrap_or_else(late) }
    };
    places.iter().zip(ends).map(opened).collect()
}

/// Prepares a lease's devices: a disk of its own over them, and the fence where one has none yet. Of several a majority is enough:
/// what cannot be opened, or fenced, is left out, and once a majority is fenced nobody waits for the others much longer: each bounds itself
/// by an I/O's time, twice.
pub async fn prepare<P: Platform>(
    shared: &SpaceShared<P>,
    mut opened: Vec<Opened<P::File>>,
    request: &LeaseRequest,
) -> Prepared {
    let mut fences = Vec::new();
    let fencing = |one: &Opened<P::File>| {
        let (file, place) = (one.file.clone(), one.place.clone());
        async move { fence(shared, &file?, &place).await }
    };
    let fencings = opened.iter().map(fencing).collect();
    let ends = lease_disk::side_by_side(fencings, opened.len() / 2 + 1, shared.clock(), LocalInstant::NEVER).await;
    for (one, end) in opened.iter_mut().zip(ends) {
        let late = || Err((ResultCode::IO_TIMEOUT, format!("{} is not fenced in time", one.place.path.display())));
        match end.unwrap_or_else(late) {
            Ok(record) => fences.extend(record),
            Err(refused) => one.file = Err(refused),
        }
    }
    let result = use_disks(shared, &opened, request.key);
    Prepared { fences, result }
}

fn use_disks<P: Platform>(
    shared: &SpaceShared<P>,
    opened: &[Opened<P::File>],
    key: LeaseKey,
) -> Result<(), (ResultCode, String)> {
    let nodes: Vec<NodeId> = opened.iter().filter_map(|o| Some(o.file.as_ref().ok()?.node())).collect();
    if lease_disk::names_one_twice(&nodes) {
        return Err((ResultCode::EINVAL, "one disk under two names is no majority of two".to_owned()));
    }
    let (majority, failed) = (opened.len() / 2 + 1, opened.iter().find_map(|one| one.file.as_ref().err()));
    if let Some((code, why)) = failed {
        if nodes.len() < majority {
            return Err((*code, why.clone()));
        }
        tracing::warn!(target: AT_WILL, lease = %key, why, "a lease is used without one of its disks");
    }
    shared.disk_for(key, opened);
    shared.forget_engines();
    Ok(())
}

/// The fence over what we write on a device, if it has none yet.
async fn fence<P: Platform>(
    shared: &SpaceShared<P>,
    file: &Arc<P::File>,
    place: &Place,
) -> Result<Option<FenceRecord>, (ResultCode, String)> {
    let node = file.node();
    if shared.is_fenced(node) || planted(Bug::FenceOnLockspaceOnly) {
        return Ok(None);
    }
    let (start, len) = own_dblock(shared, file, place).await?;
    // By the name and the node through which it was opened first: the lock lies there.
    let path = PathBuf::from(&**file.path());
    let record = |locked| FenceRecord { path: path.clone(), dev: node.dev, ino: node.ino, start, len, locked };
    let (clock, nodes, until) = (shared.clock(), shared.platform.nodes(), shared.deadline());
    loop {
        let locked = match nodes.try_fence(file, start, len) {
            Ok(FenceOutcome::Held) => true,
            Ok(FenceOutcome::Impossible) => false,
            Ok(FenceOutcome::Busy) if clock.now() < until => {
                clock.sleep(FENCE_POLL).await;
                continue;
            }
            Ok(FenceOutcome::Busy) => {
                let why = format!(
                    "another daemon of host_id {} on this machine uses {}, or its last write there is still in flight",
                    shared.me.term.host_id,
                    file.path()
                );
                return Err((ResultCode::EAGAIN, why));
            }
            Err(e) => return Err((ResultCode::EIO, format!("cannot lock {}: {e}", file.path()))),
        };
        if shared.over.is_set() {
            // Its fences were given back, or are about to be, without this one.
            if locked {
                nodes.give_back(file, start, len);
            }
            return Err((ResultCode::ENOSPC, "the lockspace is being left".to_owned()));
        }
        // A second one over the same node, taken meanwhile by another lease's task, does no harm: each is given back.
        shared.fenced.borrow_mut().push(Fenced { file: Arc::clone(file), start, len, locked });
        return Ok(Some(record(locked)));
    }
}

/// The bytes that only this host_id writes on a further device: its dblock of the resource used first there.
async fn own_dblock<P: Platform>(
    shared: &SpaceShared<P>,
    file: &Arc<P::File>,
    place: &Place,
) -> Result<(u64, u64), (ResultCode, String)> {
    let at = LeaseOffset(place.offset);
    let disk = Device::new(shared.engine_for(file), shared.clock().clone(), WriteLimit::none());
    let first = disk.read(at.0, 4096, shared.deadline()).await.map_err(|e| (codes::of_io(&e), codes::chain(&e)))?;
    let mut bytes = [0; leader::LEN];
    bytes.copy_from_slice(&first[..leader::LEN]);
    let geometry = LeaderRecord::parse(&bytes).geometry();
    // Without a leader record the acquire will say what is wrong, and write nothing; any sector of ours will do.
    let size = geometry.map_or(file.sector(), |g| g.sector());
    Ok((at.sector(layout::dblock_of(shared.me.term.host_id), size), size.bytes() as u64))
}

/// One acquire, with the undoing of what it leaves behind.
pub async fn run_acquire<P: Platform>(
    shared: Rc<SpaceShared<P>>,
    task: TaskId,
    request: LeaseRequest,
    stop: Stop,
    notes: Notes<P>,
) {
    let (key, clock) = (request.key, shared.clock().clone());
    let Some(disk) = shared.disk_of(key) else {
        let why = "its device was closed".to_owned();
        let end = AcquireEnd::Refused { code: ResultCode::EBADF, why, may_change: false, undoing: false };
        return notes.event(Event::Acquired { task, end });
    };
    if let Err((code, why)) = may_serve(&shared, &disk) {
        shared.forget_disk(key);
        let end = AcquireEnd::Refused { code, why, may_change: false, undoing: false };
        return notes.event(Event::Acquired { task, end });
    }
    // Whoever still tends what was held on these disks before comes to an end first.
    *disk.steady.lock().await = None;
    let place = |length| shared.places.borrow_mut().insert(key, (length, false));
    let first = request.places.first().map_or(0, |place| place.offset);
    place(shared.area.geometry.align().bytes());
    let lease = LeaseAt {
        at: LeaseOffset(first),
        space: key.space,
        resource: key.resource,
        geometry_hint: shared.area.geometry,
    };
    let options = Options {
        mode: request.mode,
        expected_lver: request.expected_lver,
        num_hosts: request.num_hosts,
        wait_for_silent: !request.nowait,
        backoff_seed: clock.now().as_nanos() ^ shared.me.term.host_id.get(),
    };
    let ended = acquire(&disk.copies, &clock, &*shared, &lease, &shared.me, &options, &stop).await;
    let (code, why, may_change, undo) = match ended {
        Ok(Acquired::Ours(held)) if request.value && !value::has_room(&held) => {
            let why = format!("an area of {} has no room for a value", held.geometry);
            let undo = release(&disk.copies, &clock, held, &shared.me).await.err().and_then(|failed| failed.undo);
            (ResultCode::EOPNOTSUPP, why, false, undo)
        }
        Ok(Acquired::Ours(held)) => {
            let (lver, geometry) = (held.lver(), held.geometry);
            place(geometry.align().bytes());
            let value = if request.value { Some(value_of(&shared, &disk.copies, &held).await) } else { None };
            *disk.steady.lock().await = Some((lver, held.mode));
            return notes.event(Event::Acquired { task, end: AcquireEnd::Ours { held, lver, geometry, value } });
        }
        Ok(Acquired::Theirs(refusal)) => {
            let why = explain(&shared, &refusal, clock.now());
            (codes::of_refusal(&refusal.kind), why, refusal.kind != RefusalKind::Stopped, refusal.undo)
        }
        Err(failed) => {
            let may_change = failed.error.may_pass();
            (codes::of_attempt(&failed.error, lease.at), codes::chain(&failed), may_change, failed.undo)
        }
    };
    let undoing = undo.is_some();
    if !undoing {
        shared.forget_disk(key);
    }
    notes.event(Event::Acquired { task, end: AcquireEnd::Refused { code, why, may_change, undoing } });
    if let Some(duty) = undo {
        mending(&shared, key, &notes, finish(&shared, &disk.copies, duty)).await;
        shared.forget_disk(key);
        notes.event(Event::TaskDone { task });
    }
}

/// See [`lease_disk::may_be_served`].
fn may_serve<P: Platform>(shared: &SpaceShared<P>, disk: &LeaseDisk<P>) -> Result<(), (ResultCode, String)> {
    let (copies, now) = (disk.copies.copies(), shared.clock().now());
    lease_disk::may_be_served(copies, shared.area.uuid, &shared.hosts.borrow(), now)
}

/// The value of a lease just acquired. One that cannot be read is zeros, as in sanlock: the lease is what matters. On several disks an
/// I/O that fails is tried again before that.
async fn value_of<P: Platform>(shared: &SpaceShared<P>, disk: &Copies<LeaseCopy<P>, P::Clock>, held: &Held) -> Vec<u8> {
    let mut tries = if disk.copies() > 1 { VALUE_TRIES } else { 1 };
    loop {
        tries -= 1;
        match value::read_value(disk, shared.clock(), held, &shared.me).await {
            Ok(value) => return value,
            Err(AreaError::Io(_)) if tries > 0 && !shared.over.is_set() => {}
            Err(error) => {
                tracing::warn!(target: AT_WILL, resource = %held.lease.resource, why = codes::chain(&error), "its value cannot be read");
                return vec![0; held.geometry.sector().bytes()];
            }
        }
    }
}

/// How often a value is asked of a disk that does not give it, or offered to one that does not take it.
const VALUE_TRIES: u32 = 3;

/// Writes the value of a lease before it is given back or shared, once.
async fn write_value<P: Platform>(
    shared: &SpaceShared<P>,
    disk: &Copies<LeaseCopy<P>, P::Clock>,
    held: &Held,
    bytes: &[u8],
) -> Result<(), (ResultCode, String)> {
    let written = value::write_value(disk, shared.clock(), held, &shared.me, bytes).await;
    written.map_err(|error| (codes::of_area(&error), codes::chain(&error)))
}

/// The same until it has succeeded. While such a write may still land nobody else may have the lease, so each is waited for,
/// until it or the lockspace is over: then host_dead does the rest. A disk that takes the value no time it is offered does
/// not keep the lease.
async fn write_value_again<P: Platform>(
    shared: &SpaceShared<P>,
    disk: &Copies<LeaseCopy<P>, P::Clock>,
    held: &Held,
    bytes: &[u8],
) {
    for _ in 0..VALUE_TRIES {
        let _ = first_of(disk.reaped(), shared.over.wait()).await;
        if shared.over.is_set() || write_value(shared, disk, held, bytes).await.is_ok() {
            return;
        }
        tracing::warn!(resource = %held.lease.resource, "its value is not written yet");
        shared.over.sleep_until(shared.clock(), shared.clock().now().after(Duration::from_secs(1))).await;
    }
    let _ = first_of(disk.reaped(), shared.over.wait()).await;
}

/// What to give back, and how.
pub struct Release {
    /// Which lease.
    pub key: LeaseKey,
    /// As it is held.
    pub held: Held,
    /// Its new name.
    pub rename: Option<ResourceName>,
    /// A value to be written before.
    pub value: Option<Vec<u8>>,
}

/// One release. Where the disk does not answer, the client gets its answer and the task goes on until the lease is
/// given back or D2 forbids it.
pub async fn run_release<P: Platform>(shared: Rc<SpaceShared<P>>, task: TaskId, what: Release, notes: Notes<P>) {
    let Release { key, held, rename: name, value } = what;
    let Some(disk) = shared.disk_of(key) else {
        let why = Some("its device was closed: it is left to the end of this lockspace".to_owned());
        return notes.event(Event::Released { task, code: ResultCode::EBADF, why, done: true });
    };
    *disk.steady.lock().await = None;
    let mut told = false;
    if let Some(bytes) = value
        && let Err((code, why)) = write_value(&shared, &disk.copies, &held, &bytes).await
    {
        // Whether or not it gets there in the end: the client hears that it did not at once.
        told = true;
        notes.event(Event::Released { task, code, why: Some(why), done: false });
        write_value_again(&shared, &disk.copies, &held, &bytes).await;
    }
    let done = match name {
        None => release(&disk.copies, shared.clock(), held, &shared.me).await,
        Some(name) => rename(&disk.copies, shared.clock(), held, &shared.me, name).await,
    };
    let (code, why, undo) = match done {
        Ok(()) => (ResultCode::OK, None, None),
        Err(ReleaseFailed { error, undo }) => (codes::of_release(&error), Some(codes::chain(&error)), undo),
    };
    if undo.is_none() {
        shared.forget_disk(key);
    }
    match (told, undo.is_none()) {
        (false, done) => notes.event(Event::Released { task, code, why, done }),
        (true, true) => notes.event(Event::TaskDone { task }),
        (true, false) => {}
    }
    if let Some(duty) = undo {
        mending(&shared, key, &notes, finish(&shared, &disk.copies, duty)).await;
        shared.forget_disk(key);
        notes.event(Event::TaskDone { task });
    }
}

/// Writes a request for a lease of somebody else's.
///
/// # Errors
/// The answer and the reason.
pub async fn ask_on<P: Platform>(
    shared: &SpaceShared<P>,
    opened: Vec<Opened<P::File>>,
    request: &AskRequest,
) -> Result<Option<HostTerm>, (ResultCode, String)> {
    if let [Opened { file: Err(refused), .. }] = opened.as_slice() {
        return Err(refused.clone());
    }
    // No write after D2, of whatever kind.
    let list = opened.iter().map(|one| (shared.copy_on(one), LeaseOffset(one.place.offset))).collect();
    let disk = LeaseDisk::new(list, shared.clock(), Some((shared.me.term, shared.area.uuid))).copies;
    let lease = LeaseAt {
        at: LeaseOffset(request.places.first().map_or(0, |place| place.offset)),
        space: request.key.space,
        resource: request.key.resource,
        geometry_hint: shared.area.geometry,
    };
    match ask(&disk, shared.clock(), &lease, &shared.me, request.ask).await {
        Ok(Asked::Owner(owner)) => Ok(Some(owner)),
        Ok(Asked::Cleared | Asked::Free) => Ok(None),
        Err(e) => Err((codes::of_ask(&e), codes::chain(&e))),
    }
}

/// Reads what a held lease's request record says to us.
pub async fn run_examine<P: Platform>(
    shared: Rc<SpaceShared<P>>,
    key: LeaseKey,
    lver: Lver,
    held: Held,
    notes: Notes<P>,
) {
    let Some(disk) = shared.disk_of(key) else { return };
    let found = asked_of(&disk.copies, shared.clock(), &held, &shared.me).await;
    notes.event(Event::Examined { key, lver, found: found.map_err(|e| codes::chain(&e)) });
}

/// Reads how a held lease stands on disk.
pub async fn run_verify<P: Platform>(shared: Rc<SpaceShared<P>>, key: LeaseKey, held: &Held, notes: Notes<P>) {
    let (lver, mode) = (held.lver(), held.mode);
    let verified = |found| Event::Verified { key, lver, mode, found };
    let Some(disk) = shared.disk_of(key) else {
        return notes.event(verified(Err("its device was closed".to_owned())));
    };
    mend(&shared, key, &notes);
    let found = standing(&disk.copies, shared.clock(), held, &shared.me).await;
    notes.event(verified(found.as_ref().map(|found| *found).map_err(|e| codes::chain(e))));
    if let Ok(found) = found {
        tend_steadily(&shared, &disk, held, found).await;
    }
}

/// Sees to a lease that is held and of which this was found (`paxos_lease::tend`), unless a task of its is at work.
///
/// Once the lockspace is over nothing is begun: what is in flight then is waited for before the host_id is given back, and `over` is looked at
/// before each step, so that nothing is issued behind that (I6, D3).
async fn tend_steadily<P: Platform>(shared: &SpaceShared<P>, disk: &LeaseDisk<P>, held: &Held, found: Standing) {
    let Ok(steady) = disk.steady.try_lock() else { return };
    if *steady != Some((held.lver(), held.mode)) {
        return;
    }
    let tended = tend(&disk.copies, shared.clock(), held, &shared.me, found);
    if let First::B(Err(error)) = first_of(shared.over.wait(), tended).await {
        tracing::warn!(resource = %held.lease.resource, why = codes::chain(&error), "its disks are not all up to date");
    }
}

/// One conversion, with the undoing of what it leaves behind: the lease is its client's in the mode that is reported.
pub async fn run_convert<P: Platform>(
    shared: Rc<SpaceShared<P>>,
    task: TaskId,
    request: ConvertRequest<Held>,
    stop: Stop,
    notes: Notes<P>,
) {
    let ConvertRequest { key, held, mode, value, nowait } = request;
    let unchanged = |code, why| {
        let held = Some((held.clone(), held.mode, held.lver()));
        Converted { held, code, why: Some(why) }
    };
    let disk = match shared.disk_of(key) {
        Some(disk) => may_serve(&shared, &disk).map(|()| disk),
        None => Err((ResultCode::EBADF, "its device was closed".to_owned())),
    };
    let end = match disk {
        Err((code, why)) => unchanged(code, why),
        Ok(disk) => {
            *disk.steady.lock().await = None;
            let end = match mode {
                Mode::Shared => {
                    let conversion = convert_to_shared(&shared, &disk.copies, held, value);
                    mending(&shared, key, &notes, conversion).await
                }
                Mode::Exclusive => {
                    let conversion = convert_to_exclusive(&shared, &disk.copies, held, nowait, &stop);
                    mending(&shared, key, &notes, conversion).await
                }
            };
            *disk.steady.lock().await = end.held.as_ref().map(|(_, mode, lver)| (*lver, *mode));
            end
        }
    };
    notes.event(Event::Converted { task, end });
}

/// What fails before the first write is told at once: the lease stays exclusive, and its client may ask again. From that write on
/// it may count as shared, so there is no way back, and no answer before it is done: whoever heard of a failure would use it as
/// its own beside others (S1). Where the lockspace is lost meanwhile, its users are being ended, whatever they take it for.
async fn convert_to_shared<P: Platform>(
    shared: &SpaceShared<P>,
    disk: &Copies<LeaseCopy<P>, P::Clock>,
    held: Held,
    value: Option<Vec<u8>>,
) -> Converted<Held> {
    if let Some(bytes) = value
        && let Err((code, why)) = write_value(shared, disk, &held, &bytes).await
    {
        // It stays exclusive, and its value to be written with its release, which waits for this write (I6).
        let held = Some((held.clone(), held.mode, held.lver()));
        return Converted { held, code, why: Some(why) };
    }
    let (clock, mut sharing) = (shared.clock(), Sharing::new(held.clone()));
    loop {
        match share(disk, clock, sharing, &shared.me).await {
            Ok(now) => {
                return Converted { code: ResultCode::OK, why: None, held: Some((now.clone(), now.mode, now.lver())) };
            }
            Err(ShareFailed { error, now: AfterShare::Again(again) })
                if !again.is_untouched() && !shared.over.is_set() =>
            {
                tracing::warn!(why = codes::chain(&error), "sharing a lease is tried again");
                sharing = again;
                shared.over.sleep_until(clock, clock.now().after(Duration::from_secs(1))).await;
            }
            Err(ShareFailed { error, now }) => {
                let held = match now {
                    AfterShare::Lost => None,
                    AfterShare::Shared(now) => Some((now.clone(), now.mode, now.lver())),
                    AfterShare::Again(_) => Some((held.clone(), held.mode, held.lver())),
                };
                return Converted { held, code: codes::of_release(&error), why: Some(codes::chain(&error)) };
            }
        }
    }
}

async fn convert_to_exclusive<P: Platform>(
    shared: &SpaceShared<P>,
    disk: &Copies<LeaseCopy<P>, P::Clock>,
    mut held: Held,
    nowait: bool,
    stop: &Stop,
) -> Converted<Held> {
    let clock = shared.clock();
    let backoff_seed = clock.now().as_nanos() ^ shared.me.term.host_id.get();
    let options = Options { wait_for_silent: !nowait, backoff_seed, ..Options::default() };
    let (code, why, undo) = match exclude(disk, clock, shared, &mut held, &shared.me, &options, stop).await {
        Ok(Acquired::Ours(now)) => {
            let lver = now.lver();
            return Converted { held: Some((now, Mode::Exclusive, lver)), code: ResultCode::OK, why: None };
        }
        Ok(Acquired::Theirs(refusal)) => {
            (codes::of_refusal(&refusal.kind), explain(shared, &refusal, clock.now()), refusal.undo)
        }
        Err(AcquireFailed { error: error @ AcquireError::ClaimGone { .. }, undo: None }) => {
            // Whoever cleared our claim took us for dead, and may have the lease for itself.
            return Converted { held: None, code: codes::of_acquire(&error), why: Some(codes::chain(&error)) };
        }
        Err(failed) => (codes::of_attempt(&failed.error, held.lease.at), codes::chain(&failed), failed.undo),
    };
    // Nobody else gets on before this is undone; our client shares the lease all the while.
    if let Some(duty) = undo {
        finish(shared, disk, duty).await;
    }
    let lver = held.lver();
    Converted { held: Some((held, Mode::Shared, lver)), code, why: Some(why) }
}

/// Retracts until done, or until the lockspace is over: then nothing may be written (D2), and host_dead does the rest.
async fn finish<P: Platform>(shared: &SpaceShared<P>, disk: &Copies<LeaseCopy<P>, P::Clock>, mut duty: Retract) {
    let clock = shared.clock();
    while !shared.over.is_set() {
        duty = match retract(disk, clock, duty, &shared.me).await {
            Ok(()) => return,
            Err(ReleaseFailed { error, undo: None }) => {
                tracing::error!(why = codes::chain(&error), "a lease could not be given back");
                return;
            }
            Err(ReleaseFailed { error, undo: Some(again) }) => {
                tracing::warn!(why = codes::chain(&error), "giving a lease back is tried again");
                again
            }
        };
        shared.over.sleep_until(clock, clock.now().after(Duration::from_secs(1))).await;
    }
    duty.abandon();
}

/// A refusal for a person: who, since when, until when.
fn explain<P: Platform>(shared: &SpaceShared<P>, refusal: &Refusal, now: LocalInstant) -> String {
    let Some(owner) = refusal.owner else { return format!("{:?}", refusal.kind) };
    let hosts = shared.hosts.borrow();
    let seen = hosts.observation(owner.host_id);
    let name = seen.and_then(|s| s.name()).map_or_else(|| "an unknown host".to_owned(), |n| format!("host {n}"));
    let age = seen
        .and_then(|s| s.last_live())
        .map_or_else(String::new, |t| format!(", last seen renewing {:.1} s ago", now.since(t).as_secs_f64()));
    let silent = matches!(hosts.verdict(owner, now), OwnerVerdict::Silent { .. });
    let when = if silent { "if it stays silent, the lease can" } else { "should it fall silent now, the lease could" };
    let until = refusal
        .earliest
        .map_or_else(String::new, |t| format!("; {when} change hands in {:.1} s", t.since(now).as_secs_f64()));
    // Nothing will ever say that such an owner is over, so this waits for people.
    let unheard = seen.and_then(|s| s.generation()).filter(|found| *found < owner.generation).map_or_else(String::new, |found| {
        format!(
            "; its delta sector shows generation {found}, an older one: the lockspace was formatted since, or a late write \
             has hit the sector. Once it is certain that nobody uses the lease, format it anew"
        )
    });
    format!("held by {name} ({owner}){age}{until}{unheard}")
}
