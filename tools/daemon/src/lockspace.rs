//! A lockspace's own thread: it joins, renews, and leaves, and waits for nothing but its own disk.
//!
//! Its I/O threads, its clock and its device table are its own; it shares no lock with the request path. What it finds it
//! tells the main loop; what it is told are two signals, to begin writing and to leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use delta_lease::renew::LostFound;
use delta_lease::{
    DeltaArea, DeltaError, Held, Joined, LocalHost, Progress, Publication, ReleaseError, RenewError, acquire, read_host,
};
use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::Disk;
use holdfast_io::identity::Machine;
use holdfast_io::ids::HostName;
use holdfast_io::planted::{Bug, planted};
use holdfast_io::stop::{Stop, Waited};
use holdfast_io::sys::linux::FenceOutcome;
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::codes::ResultCode;

use crate::codes;
use crate::log_ring::AT_WILL;
use crate::note::{Note, Notes};
use crate::panicked;
use crate::platform::{Disk as LeaseDisk, LeaseFile, Platform};
use crate::state_file::FenceRecord;
use crate::supervisor::event::{Event, Join, JoinRequest, LostTo, Took};

/// A failed renewal is tried again after this long.
const RETRY: Duration = Duration::from_millis(500);
/// Between two attempts to take a fence that somebody holds.
const FENCE_POLL: Duration = Duration::from_millis(100);
/// A fence that is waited for longer than this is worth a word.
const FENCE_WORD: Duration = Duration::from_secs(1);
/// A lockspace's own I/Os: one at work, the others for when it hangs.
const AT_ONCE: usize = 4;

/// What the main loop tells a lockspace's thread.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// The state file names our generation and fences: the join may write.
    pub allow: Stop,
    /// Renew no longer; leave.
    pub leave: Stop,
    /// Leave by giving the delta lease back.
    free: Arc<AtomicBool>,
    /// What every renewal says to others.
    publication: Arc<Mutex<Publication>>,
}

impl Control {
    /// Asks the thread to leave.
    pub fn leave(&self, free: bool) {
        self.free.store(free, Ordering::Release);
        self.leave.set();
    }

    /// What our sector says to others from the next renewal on.
    pub fn publish(&self, publication: Publication) {
        *self.publication.lock().unwrap_or_else(PoisonError::into_inner) = publication;
    }

    fn publication(&self) -> Publication {
        *self.publication.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything the thread starts with.
pub struct Lockspace<P: Platform> {
    /// What to join.
    pub request: JoinRequest,
    /// As whom.
    pub name: HostName,
    /// On which machine, in which boot.
    pub machine: Machine,
    /// Where it runs.
    pub platform: P,
    /// To the main loop.
    pub notes: Notes<P>,
    /// From the main loop.
    pub control: Control,
}

/// The fence over our delta sector, to be given back.
struct Fenced<F> {
    file: Arc<F>,
    start: u64,
    len: u64,
}

/// Why a join did not succeed: the answer, and words.
type Refused = (ResultCode, String);

impl<P: Platform> Lockspace<P> {
    /// The thread's work, from the join to the end of the last write. `clock`: its own. If it panics the lockspace is lost.
    pub async fn run(self, clock: &P::Clock) {
        let (space, news) = (self.request.space, self.notes.clone());
        panicked::lockspace(self.work(clock), space, news).await;
    }

    async fn work(self, clock: &P::Clock) {
        let space = self.request.space;
        let mut device = None;
        let mut fenced = None;
        match self.join(clock, &mut device, &mut fenced).await {
            Ok((mut held, disk)) => {
                held.comes_into_force();
                let geometry = held.area().geometry;
                let join = Join { generation: held.generation(), started_at: held.started_at(), geometry };
                self.notes.event(Event::Joined { space, result: Ok(join) });
                self.renew(clock, *held, &disk).await;
                disk.reaped().await;
            }
            Err(refused) => {
                self.notes.event(Event::Joined { space, result: Err(refused) });
                self.control.leave.wait().await;
                // I6 across joins: the host_id is not joined again while a write of this attempt is in flight.
                if let Some(disk) = device {
                    disk.reaped().await;
                }
            }
        }
        // Every write of ours under this host_id is reaped, and none follows: the fence has nothing left to say (I6).
        if let Some(fence) = fenced {
            self.platform.nodes().give_back(&fence.file, fence.start, fence.len);
        }
        self.notes.event(Event::Left { space });
    }

    async fn join(
        &self,
        clock: &P::Clock,
        device: &mut Option<Arc<LeaseDisk<P>>>,
        fenced: &mut Option<Fenced<P::File>>,
    ) -> Result<(Box<Held>, Arc<LeaseDisk<P>>), Refused> {
        let JoinRequest { space, host_id, place, io_timeout, .. } = &self.request;
        let file = self.platform.open(&place.path, &place.by).map_err(|e| (ResultCode::ENODEV, codes::chain(&e)))?;
        if let Some(why) = self.platform.needs_watchdog(&file) {
            return Err((ResultCode::WATCHDOG_ERROR, why));
        }
        let engine = self.platform.engine(&file, AT_ONCE, "renewal-io");
        let disk = Arc::new(Device::new(engine, clock.clone(), WriteLimit::none()));
        *device = Some(Arc::clone(&disk));
        let refuse = |e: DeltaError| (codes::of_delta(&e), codes::chain(&e));
        let at = LeaseOffset(place.offset);
        let area = DeltaArea::open(&*disk, clock, at, *io_timeout, Some(*space)).await.map_err(refuse)?;
        area.must_have_room_for(*host_id, file.path()).map_err(refuse)?;
        let fence = self.fence(clock, &file, &disk, &area).await?;
        if fence.locked {
            *fenced = Some(Fenced { file: Arc::clone(&file), start: fence.start, len: fence.len });
        }
        self.notes.send(Note::Opened { space: *space, area, file });
        let held = self.acquire(clock, &disk, &area, fence).await?;
        self.confirm(clock, &disk, held).await.map(|held| (held, disk))
    }

    /// The fence over our own delta sector. While somebody else has it, the sector is watched: if it changes, a living
    /// daemon on this machine has our host_id; if not, a dead one's last write is still under way, and is waited for.
    async fn fence(
        &self,
        clock: &P::Clock,
        file: &P::File,
        disk: &LeaseDisk<P>,
        area: &DeltaArea,
    ) -> Result<FenceRecord, Refused> {
        let host_id = self.request.host_id;
        let (start, len) = (area.offset_of(host_id), area.geometry.sector().bytes() as u64);
        let record = |locked| FenceRecord {
            // By the name and the node through which it was opened first: the lock lies there.
            path: std::path::PathBuf::from(&**file.path()),
            dev: file.node().dev,
            ino: file.node().ino,
            start,
            len,
            locked,
        };
        let mut first = None;
        let mut word = clock.now().after(FENCE_WORD);
        loop {
            match self.platform.nodes().try_fence(file, start, len) {
                Ok(FenceOutcome::Held) => return Ok(record(true)),
                Ok(FenceOutcome::Busy) if planted(Bug::I6NotAcrossRestart) => return Ok(record(true)),
                Ok(FenceOutcome::Impossible) => return Ok(record(false)),
                Ok(FenceOutcome::Busy) => {}
                Err(e) => return Err((ResultCode::EIO, format!("cannot lock {}: {e}", file.path()))),
            }
            if clock.now() >= word {
                word = LocalInstant::NEVER;
                tracing::warn!(target: AT_WILL,
                    lockspace = %area.space, %host_id, path = %file.path(), offset = start,
                    "somebody holds the lock on our delta sector: a daemon that is leaving, or a predecessor's write that \
                     is still in flight"
                );
            }
            let deadline = clock.now().after(Duration::from_secs(u64::from(self.request.io_timeout.seconds())));
            if let Ok(view) = read_host(disk, clock, area, host_id, deadline).await {
                let before = first.get_or_insert_with(|| view.bytes.clone());
                if *before != view.bytes {
                    let why = format!(
                        "another daemon on this machine uses host_id {host_id} of lockspace {} on {}: it holds the \
                         lock on its delta sector and renews it; stop one of the two",
                        area.space,
                        file.path()
                    );
                    return Err((ResultCode::HOST_ID_BUSY, why));
                }
            }
            if self.request.stop.sleep_until(clock, clock.now().after(FENCE_POLL)).await == Waited::Stopped {
                return Err((ResultCode::EPERM, "asked to leave while waiting for a predecessor's write".into()));
            }
        }
    }

    /// Joins, and right before the write waits for the main loop: the state file names generation and fence, the watchdog is
    /// armed (P1, D3). Should that take too long, the write is refused by its own deadline.
    async fn acquire(
        &self,
        clock: &P::Clock,
        disk: &LeaseDisk<P>,
        area: &DeltaArea,
        fence: FenceRecord,
    ) -> Result<Box<Held>, Refused> {
        let JoinRequest { space, host_id, io_timeout, fire, past, stop, .. } = &self.request;
        let host = LocalHost {
            host_id: *host_id,
            name: self.name,
            machine: self.machine,
            io_timeout: *io_timeout,
            fire: *fire,
        };
        let mut watching = false;
        let progress = async |p: &Progress| match p {
            Progress::Watching { holder, name, relation, why, takeover, .. } if !watching => {
                watching = true;
                tracing::info!(target: AT_WILL, %holder, %name, ?relation, ?why, ?takeover, "waiting out the last holder of our host_id");
            }
            Progress::Taking { generation } => {
                let fences = vec![fence.clone()];
                self.notes.event(Event::JoinFenced { space: *space, generation: *generation, fences });
                self.control.allow.wait().await;
            }
            other => tracing::debug!(progress = ?other),
        };
        match acquire(disk, clock, area, &host, *past, stop, progress).await {
            Ok(Joined::Ours(held)) => Ok(held),
            Ok(Joined::Theirs(held_by)) => Err((ResultCode::HOST_ID_BUSY, held_by.to_string())),
            Ok(Joined::Stopped) => Err((ResultCode::GENERAL_ERROR, "asked to leave while joining".into())),
            Err(e) => Err((codes::of_delta(&e), codes::chain(&e))),
        }
    }

    /// D2 counts from the start of the last good write. Where the last holder's io_timeout made us settle for longer than
    /// our own lease lasts, that instant is past: the first renewal follows at once, and nothing is protected before it.
    async fn confirm(&self, clock: &P::Clock, disk: &LeaseDisk<P>, mut held: Box<Held>) -> Result<Box<Held>, Refused> {
        let renewal = held.renew(disk, clock, &Publication::default()).await;
        if let Some(view) = renewal.view {
            self.notes.send(Note::Seen { space: self.request.space, view });
        }
        match renewal.result {
            Ok(_) => Ok(held),
            Err(RenewError::Lost(lost)) => Err((ResultCode::HOST_ID_BUSY, codes::chain(&*lost))),
            Err(RenewError::Io(e)) => Err((codes::of_io(&e), codes::chain(&e))),
        }
    }

    /// Renews until told to leave. A renewal that comes too late is still attempted: the supervisor has closed the
    /// lockspace by then and nothing revives it (D2), while the record on disk stays ours and frees nobody.
    async fn renew(&self, clock: &P::Clock, mut held: Held, disk: &LeaseDisk<P>) {
        let space = self.request.space;
        let interval = held.host().timing().renewal_interval();
        let mut next = held.started_at().after(interval);
        while self.control.leave.sleep_until(clock, next).await == Waited::Elapsed {
            let renewal = held.renew(disk, clock, &self.control.publication()).await;
            let over = clock.now();
            let read = renewal.view.as_ref().map_or(Duration::ZERO, |view| view.read_ended.since(view.read_started));
            if let Some(view) = renewal.view {
                self.notes.send(Note::Seen { space, view });
            }
            next = match renewal.result {
                Ok(started_at) => {
                    let took = Took { read, write: over.since(started_at) };
                    self.notes.event(Event::Renewed { space, started_at, took });
                    started_at.after(interval)
                }
                Err(e) => {
                    let lost = lost_to(&e);
                    let code = codes::of_renewal(&e);
                    self.notes.event(Event::RenewalFailed { space, why: codes::chain(&e), lost, code });
                    if lost.is_some() { LocalInstant::NEVER } else { clock.now().after(RETRY) }
                }
            };
        }
        if self.control.free.load(Ordering::Acquire) {
            release(held, disk, clock).await;
        }
    }
}

/// Gives the host_id back while D2 allows it; a read that failed is tried again until then.
async fn release(mut held: Held, disk: &impl Disk, clock: &impl Clock) {
    loop {
        let until = held.fails_at();
        match held.release(disk, clock).await {
            Ok(()) => return,
            Err(ReleaseError::NotWritten { held: still, source }) if clock.now() < until => {
                tracing::warn!(%source, "host_id not given back yet");
                held = *still;
                clock.sleep(RETRY).await;
            }
            Err(e) => {
                tracing::warn!(why = codes::chain(&e), "host_id not given back: others wait until it counts as dead");
                return;
            }
        }
    }
}

/// Who may have what was granted under a delta lease that did not stand this renewal; `None`: it is not lost.
fn lost_to(e: &RenewError) -> Option<LostTo> {
    let RenewError::Lost(lost) = e else { return None };
    Some(match lost.found {
        LostFound::Owner { .. } | LostFound::Reformatted { .. } => LostTo::Another,
        // Whoever reads that learns nothing of us.
        LostFound::Record { .. } | LostFound::Damaged(_) => LostTo::Nobody,
    })
}
