//! Joining: taking the lease of a host_id (spec D 3.3).
//!
//! 1. Read our own sector.
//! 2. Free (timestamp 0): go on. Ours of another boot (P1 a): watch it for three of its io_timeouts. Our proven
//!    predecessor's (P1 b): go on. Anybody else's: watch it until D1's computed instant. A sector that changes under
//!    our eyes has a living holder: `Theirs`. One that becomes free is free.
//! 3. Write: timestamp now, generation one more, our name, io_timeout and seal; everything else as found.
//! 4. Wait two of the slower io_timeout of the two, so that a rival who read before our write has finished its own.
//! 5. Read again: every byte must be ours.
//! 6. Where that generation is not above every one that this machine had, raise it one by one: see [`Past::used`].
//!
//! I/O: free or proven: 2 reads and 1 write of one sector. Raised: 1 read and 1 write more for each step. Watched: one more
//! read for each quarter of the holder's io_timeout. Joined with an io_timeout of a third of the stored one or less: 1 more write (the first has aged).
//! Stopped after the write: the release's read and write.
//!
//! **Two takers at once.** Both read the same old sector, so both write the same generation; the later write stands.
//!
//! ```text
//! A (settles first)                          B
//!                                            read: old sector
//! read: old sector
//! write lands
//! waits >= 2 * stored                        write lands, within 2 * stored of the start of B's read (its deadline)
//! reads B's sector: Theirs                   waits, reads its own: Ours
//! ```
//!
//! B read the old sector, so before A's write landed; so B's write lands before A's wait ends, or B has given up on it.
//! In the latter case it may land on A's lease much later, with A's own generation and a nonzero timestamp: it frees
//! nothing, and A finds it at its next renewal and ends.

use std::sync::Arc;
use std::time::Duration;

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::Disk;
use holdfast_io::ids::{Generation, HostName, HostTerm, RemoteTimestamp, ResourceName};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::planted::{Bug, planted};
use holdfast_io::stop::{Stop, Waited};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::Timing;

use crate::bitmap::HostBitmap;
use crate::error::DeltaError;
use crate::holder::{Evidence, HeldBy, Relation};
use crate::host::LocalHost;
use crate::layout::DeltaArea;
use crate::liveness::Silence;
use crate::look::{SectorView, read_sector};
use crate::renew::{Held, ReleaseError};
use crate::sector::DeltaSector;

/// What a caller knows of its own earlier terms under a host_id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The generation for which the caller has proven P1 (b): it holds every fence of the state file that names it, and
    /// everything guarded under it is gone.
    pub predecessor: Option<Generation>,
    /// The highest generation that it may ever have written. Another host's join may have landed over ours so late that
    /// the sector shows an older one: what we had under `used` must not seem to be held anew (P1).
    pub used: Option<Generation>,
}

/// How an attempt to join ended.
#[derive(Debug)]
pub enum Joined {
    /// The lease is ours.
    Ours(Box<Held>),
    /// A living host has it.
    Theirs(Box<HeldBy>),
    /// We were asked to stop; nothing of ours holds the lease.
    Stopped,
}

/// Why a lease that nobody gave back is watched before it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchReason {
    /// It is our own from before a reboot (P1 a): a short watch, in case it is a clone's.
    OtherBoot,
    /// Somebody else may be behind it (D1).
    Silence,
}

/// How far an attempt has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The sector is held by someone who has not stirred yet.
    Watching {
        /// Whose it is.
        holder: HostTerm,
        /// Its name.
        name: HostName,
        /// What it is to us.
        relation: Relation,
        /// Why we watch.
        why: WatchReason,
        /// Silence seen so far.
        silent: Duration,
        /// When we may take it, if it stays silent.
        takeover: LocalInstant,
    },
    /// Our sector is about to be written. Whoever keeps a state file notes the generation in it now, before it can be on
    /// disk, and arms the watchdog: the attempt waits for that. Setting the stop from here ends it with nothing written.
    Taking {
        /// The generation of this join.
        generation: Generation,
    },
    /// Our sector is written; now we wait whether it stays.
    Settling {
        /// Ours.
        generation: Generation,
        /// The end of the wait.
        until: LocalInstant,
    },
}

/// What stands between a host and the lease, given its sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nobody holds it.
    Free,
    /// It is our predecessor's, and the caller has proven that nothing of it can still write (P1 b).
    Predecessor,
    /// It must have been silent for this long.
    Watch {
        /// Why.
        why: WatchReason,
        /// The silence that we must see.
        silence: Duration,
    },
}

/// Decides by P1 and D1. `predecessor`: see [`Past`].
#[must_use]
pub fn entry(sector: &DeltaSector, host: &LocalHost, predecessor: Option<Generation>) -> Entry {
    if sector.leader.is_free() {
        return Entry::Free;
    }
    let timing = sector.timing(host.io_timeout);
    match Relation::of(sector, &host.name, host.machine) {
        Relation::OurNameHere if predecessor == Some(sector.generation()) => Entry::Predecessor,
        Relation::OurNameOtherBoot => Entry::Watch { why: WatchReason::OtherBoot, silence: timing.other_boot_watch() },
        Relation::OtherHost
        | Relation::OtherNameHere
        | Relation::OurNameElsewhere
        | Relation::OurNameHere
        | Relation::OurNameUnsealed => {
            Entry::Watch { why: WatchReason::Silence, silence: timing.silence_for_takeover() }
        }
    }
}

/// Joins `area` as `host`, whose earlier terms are `past`. The lockspace is under the watchdog (D3) before this is
/// called. Runs to its end; `stop` ends its waits.
///
/// # Errors
/// The disk, a sector that cannot be believed (also while watching: what cannot be read proves nothing), a host_id
/// with no sector. Nothing is held then; a write of unknown outcome leaves a generation that owns nothing.
pub async fn acquire<D: Disk, C: Clock>(
    disk: &D,
    clock: &C,
    area: &DeltaArea,
    host: &LocalHost,
    past: Past,
    stop: &Stop,
    on_progress: impl AsyncFnMut(&Progress),
) -> Result<Joined, DeltaError> {
    area.must_have_room_for(host.host_id, disk.path())?;
    let mut join = Join { disk, clock, area, host, stop, on_progress };
    let first = join.look().await?;
    let seen = match entry(&first.sector, host, past.predecessor) {
        Entry::Free | Entry::Predecessor => first,
        Entry::Watch { why, silence } => match join.watch(first, why, silence).await? {
            Watched::Takeable(seen) => *seen,
            Watched::Theirs(held_by) => return Ok(Joined::Theirs(held_by)),
            Watched::Stopped => return Ok(Joined::Stopped),
        },
    };
    let generation = join.announce(&seen, past.used).await?;
    if stop.is_set() {
        return Ok(Joined::Stopped);
    }
    let taken = join.take(&seen).await?;
    let stopped = join.settle(&seen, &taken).await;
    let confirmed = match join.confirm(&seen, taken).await? {
        Confirmed::Ours(held) => join.raise(held, generation).await?,
        theirs @ Confirmed::Theirs(_) => theirs,
    };
    match confirmed {
        Confirmed::Ours(held) if stopped == Waited::Stopped || held.generation() < generation => {
            join.give_back(*held).await
        }
        Confirmed::Ours(held) => Ok(Joined::Ours(held)),
        Confirmed::Theirs(_) if stopped == Waited::Stopped => Ok(Joined::Stopped),
        Confirmed::Theirs(held_by) => Ok(Joined::Theirs(held_by)),
    }
}

/// One look at our own sector, verified.
struct Seen {
    view: SectorView,
    sector: DeltaSector,
    /// How long this machine had been suspended in all before the look began.
    suspended: Duration,
}

enum Watched {
    Takeable(Box<Seen>),
    Theirs(Box<HeldBy>),
    Stopped,
}

/// Our write, acknowledged but not yet believed.
struct Taken {
    sector: DeltaSector,
    image: AlignedBuf,
    started_at: LocalInstant,
}

enum Confirmed {
    Ours(Box<Held>),
    Theirs(Box<HeldBy>),
}

struct Join<'a, D, C, P> {
    disk: &'a D,
    clock: &'a C,
    area: &'a DeltaArea,
    host: &'a LocalHost,
    stop: &'a Stop,
    on_progress: P,
}

impl<D: Disk, C: Clock, P: AsyncFnMut(&Progress)> Join<'_, D, C, P> {
    async fn read(&self) -> Result<SectorView, DeltaError> {
        let deadline = self.clock.now().after(self.host.timing().io_deadline());
        Ok(read_sector(self.disk, self.clock, self.area, self.host.host_id, deadline).await?)
    }

    fn verify(&self, view: &SectorView) -> Result<DeltaSector, DeltaError> {
        view.decode(self.area).map_err(|source| self.area.fault(self.disk.path(), self.host.host_id, source))
    }

    async fn look(&self) -> Result<Seen, DeltaError> {
        let suspended = self.clock.suspended();
        let view = self.read().await?;
        let sector = self.verify(&view)?;
        Ok(Seen { view, sector, suspended })
    }

    fn held_by(&self, sector: &DeltaSector, evidence: Evidence) -> Box<HeldBy> {
        let relation = Relation::of(sector, &self.host.name, self.host.machine);
        Box::new(HeldBy::new(sector, self.host.host_id, relation, evidence))
    }

    /// D1: watches until the sector has been silent for `awake`, from the end of the look that showed it first to the
    /// start of the latest one. It is polled all the while, so that a living holder is found at its next renewal. A look
    /// that fails, or shows damage, ends the attempt: it cannot count as silence, and waiting on is the caller's choice.
    /// Of a holder that may be on this very machine and was not proven over: what it left goes on when we do after a suspend,
    /// and its watchdog stood still like everything else. That time does not count (D3; seed 343360). A real sanlock, whose name is
    /// its own, may be on any machine.
    async fn watch(&mut self, first: Seen, why: WatchReason, awake: Duration) -> Result<Watched, DeltaError> {
        let mut silence = Silence::from(first.view.read_ended);
        let relation = Relation::of(&first.sector, &self.host.name, self.host.machine);
        let here = matches!(relation, Relation::OurNameHere | Relation::OtherNameHere) || first.sector.seal.is_none();
        let mut needed = awake;
        let pause = first.sector.timing(self.host.io_timeout).io_deadline() / 4;
        loop {
            let takeover = silence.ends(needed);
            self.report_watching(&first.sector, why, &silence, takeover).await;
            let next = self.clock.now().after(pause).min(takeover);
            if self.stop.sleep_until(self.clock, next).await == Waited::Stopped {
                return Ok(Watched::Stopped);
            }
            let seen = self.look().await?;
            if seen.view.bytes != first.view.bytes {
                if seen.sector.leader.is_free() {
                    return Ok(Watched::Takeable(Box::new(seen)));
                }
                let after = seen.view.read_ended.since(first.view.read_ended);
                let same = seen.sector.generation() == first.sector.generation();
                let evidence = if same { Evidence::Renewed { after } } else { Evidence::Joined { after } };
                return Ok(Watched::Theirs(self.held_by(&seen.sector, evidence)));
            }
            let look = &seen.view;
            silence.confirm(if planted(Bug::SilenceEndToEnd) { look.read_ended } else { look.read_started });
            if here {
                needed = awake.saturating_add(self.clock.suspended().saturating_sub(first.suspended));
            }
            if silence.seen() >= needed {
                return Ok(Watched::Takeable(Box::new(seen)));
            }
        }
    }

    async fn report_watching(
        &mut self,
        held: &DeltaSector,
        why: WatchReason,
        silence: &Silence,
        takeover: LocalInstant,
    ) {
        let progress = Progress::Watching {
            holder: HostTerm { host_id: self.host.host_id, generation: held.generation() },
            name: held.host_name(),
            relation: Relation::of(held, &self.host.name, self.host.machine),
            why,
            silent: silence.seen(),
            takeover,
        };
        (self.on_progress)(&progress).await;
    }

    /// The generation that this join will end with (P1: above the one on disk, and above every one that we had), made known
    /// before any of it can be on disk. An area that was formatted since knows nothing of earlier ones.
    async fn announce(&mut self, seen: &Seen, used: Option<Generation>) -> Result<Generation, DeltaError> {
        let found = seen.sector.generation();
        let highest = if found == Generation(0) { found } else { found.max(used.unwrap_or(found)) };
        let generation = highest.next();
        if generation == highest {
            let (path, host_id) = (Arc::clone(self.disk.path()), self.host.host_id);
            let offset = self.area.offset_of(host_id);
            return Err(DeltaError::Generation { path, offset, host_id, found: highest });
        }
        (self.on_progress)(&Progress::Taking { generation }).await;
        Ok(generation)
    }

    /// Writes our sector over the one just seen.
    ///
    /// The write is not begun later than two stored io_timeouts after the *start* of the look it rests on, and counts
    /// for nothing if it is not over by then: a pause in between cannot make us write over a rival who has settled
    /// (head of this file). If it is given up and lands late it shows generation + 1, which no later holder is below
    /// (each read what we read, or this), and a nonzero timestamp: it frees nothing, we own nothing under it, and the
    /// next writer of this process (I6) or of this boot (the fence) waits until it is over.
    async fn take(&self, seen: &Seen) -> Result<Taken, DeltaError> {
        let generation = seen.sector.generation().next();
        // D2 counts from here, so before the write: what others see can only be younger.
        let started_at = self.clock.now();
        let sector = DeltaSector {
            leader: LeaderRecord {
                owner_id: self.host.host_id.get(),
                owner_generation: generation,
                resource_name: ResourceName::from_field(self.host.name.field()),
                timestamp: RemoteTimestamp(started_at.disk_seconds()),
                io_timeout: u16::from(self.host.io_timeout.seconds()),
                ..seen.sector.leader
            },
            bitmap: HostBitmap::EMPTY,
            seal: Some(self.host.seal(self.area.uuid, started_at)),
        };
        assert!(!sector.leader.is_free(), "a lease is taken with a nonzero timestamp");
        let image = sector.encode(self.area.geometry.sector());
        let deadline = started_at.after(self.host.timing().io_deadline()).min(take_limit(seen));
        self.disk.write(self.area.offset_of(self.host.host_id), image.clone(), deadline).await?;
        tracing::debug!(host_id = self.host.host_id.get(), generation = generation.0, "delta sector written");
        Ok(Taken { sector, image, started_at })
    }

    /// Waits until every rival has finished or given up. Asked to stop, it remembers that, and waits on: freeing the
    /// sector now could land over a rival who is about to write the same generation, and would free *its* lease.
    async fn settle(&mut self, seen: &Seen, taken: &Taken) -> Waited {
        let stored = seen.sector.leader.stored_io_timeout();
        let until = self.clock.now().after(Timing::settle(stored, self.host.io_timeout));
        if planted(Bug::SettlingSkipped) {
            return Waited::Elapsed;
        }
        (self.on_progress)(&Progress::Settling { generation: taken.sector.generation(), until }).await;
        let waited = self.stop.sleep_until(self.clock, until).await;
        if waited == Waited::Stopped {
            self.clock.sleep_until(until).await;
        }
        waited
    }

    /// Reads again: the lease is ours if every byte is.
    ///
    /// If this read fails, our nonzero timestamp and a generation that owns nothing stay behind: the next taker waits
    /// them out (D1), we ourselves included.
    async fn confirm(&self, seen: &Seen, taken: Taken) -> Result<Confirmed, DeltaError> {
        let again = self.read().await?;
        if again.bytes == seen.view.bytes {
            let path = Arc::clone(self.disk.path());
            return Err(DeltaError::WriteVanished { path, offset: self.area.offset_of(self.host.host_id) });
        }
        if again.bytes != taken.image {
            let rival = self.verify(&again)?;
            return Ok(Confirmed::Theirs(self.held_by(&rival, Evidence::Overwrote)));
        }
        let confirmed_at = again.read_started;
        let mut held = Held::confirmed(*self.area, *self.host, taken.sector, taken.image, taken.started_at);
        // A short io_timeout of ours beside a long stored one: the wait has used up the lease's first write.
        if self.clock.now().since(held.started_at()) >= self.host.timing().id_renewal_warn() {
            held.write(self.disk, self.clock, confirmed_at).await?;
        }
        tracing::info!(host_id = self.host.host_id.get(), generation = held.generation().0, "host_id lease acquired");
        Ok(Confirmed::Ours(Box::new(held)))
    }

    /// Raises the generation of a lease under which nothing is held yet. One by one, each over our own record: a step that
    /// is given up and lands late is then above no later holder's, who read what we read, or the step, and wrote one
    /// more. Nobody has to be waited for: who read the sector before it was ours has been waited out, and to all others
    /// it was never free. A crash on the way leaves a generation that owns nothing.
    async fn raise(&self, mut held: Box<Held>, to: Generation) -> Result<Confirmed, DeltaError> {
        if held.generation() < to {
            let generation = held.generation().0;
            tracing::warn!(generation, to = to.0, "another host's join landed late over ours: raising");
        }
        // Asked to stop, it gives back what it has: nothing is held under that.
        while held.generation() < to && !self.stop.is_set() {
            let view = self.read().await?;
            if held.shows_another(&view.bytes, self.disk.path()) {
                let rival = self.verify(&view)?;
                return Ok(Confirmed::Theirs(self.held_by(&rival, Evidence::Overwrote)));
            }
            held.raise(self.disk, self.clock, view.read_started).await?;
        }
        Ok(Confirmed::Ours(held))
    }

    /// Stopped after our write: the lease is confirmed by now, so it is released as any other.
    async fn give_back(&self, held: Held) -> Result<Joined, DeltaError> {
        match held.release(self.disk, self.clock).await {
            Ok(()) | Err(ReleaseError::Lost(_) | ReleaseError::Expired { .. }) => Ok(Joined::Stopped),
            Err(ReleaseError::NotWritten { source, .. } | ReleaseError::InDoubt(source)) => Err(source.into()),
        }
    }
}

/// Until when a write that rests on `seen` may take: a rival's wait is at least two stored io_timeouts, and at least
/// two seconds where none is stored (no io_timeout is shorter than one).
fn take_limit(seen: &Seen) -> LocalInstant {
    let stored = seen.sector.leader.stored_io_timeout();
    let wait = stored.map_or(Duration::from_secs(2), |x| Timing::settle(None, x));
    seen.view.read_started.after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SectorError;
    use crate::testing::{Fault, Rig, at, host_id, machine, sealed_sector, x};
    use holdfast_io::device::WriteLimit;
    use holdfast_io::disk::{IoErrorKind, Op};
    use holdfast_io::identity::Machine;
    use holdfast_io::seal::{Seal, SealedFire};
    use holdfast_io::timing::FireTimeout;
    use holdfast_io::units::{AlignSize, Geometry, SectorSize};

    const NANO: Duration = Duration::from_nanos(1);

    fn rig() -> Rig {
        Rig::formatted(Geometry::ALL[0])
    }

    /// Host 3, named "me", machine 1 in boot 1, io_timeout 10, fire timeout 60.
    fn me() -> LocalHost {
        LocalHost {
            host_id: host_id(3),
            name: HostName::new(b"me").unwrap(),
            machine: machine(1, 1),
            io_timeout: x(10),
            fire: SealedFire::Within(FireTimeout::SANLOCK),
        }
    }

    /// Host 3's sector as `host` on `machine` would have written it.
    fn written_by(name: &[u8], by: Machine, generation: u64, timestamp: u64) -> DeltaSector {
        let mut sector = sealed_sector(3, generation, timestamp);
        sector.leader.resource_name = ResourceName::new(name).unwrap();
        sector.seal = sector.seal.map(|s| Seal { machine: by.machine, boot: by.boot, ..s });
        sector
    }

    fn stranger(generation: u64, timestamp: u64) -> DeltaSector {
        written_by(b"stranger", machine(2, 2), generation, timestamp)
    }

    fn join(rig: &Rig, host: &LocalHost, predecessor: Option<u64>, stop: &Stop) -> Result<Joined, DeltaError> {
        let past = Past { predecessor: predecessor.map(Generation), used: None };
        pollster::block_on(acquire(&rig.disk, &rig.clock, &rig.area, host, past, stop, async |_| ()))
    }

    /// As somebody who has had generation 4 before; what is told on the way.
    fn join_after_generation_4(rig: &Rig) -> (Result<Joined, DeltaError>, Vec<Progress>) {
        let past = Past { predecessor: None, used: Some(Generation(4)) };
        let mut told = Vec::new();
        let tell = async |p: &Progress| told.push(p.clone());
        let joined = pollster::block_on(acquire(&rig.disk, &rig.clock, &rig.area, &me(), past, &Stop::new(), tell));
        (joined, told)
    }

    fn join_as_me(rig: &Rig) -> Result<Joined, DeltaError> {
        join(rig, &me(), None, &Stop::new())
    }

    fn ours(joined: Result<Joined, DeltaError>) -> Held {
        match joined.unwrap() {
            Joined::Ours(held) => *held,
            other => panic!("{other:?}"),
        }
    }

    fn theirs(joined: Result<Joined, DeltaError>) -> HeldBy {
        match joined.unwrap() {
            Joined::Theirs(held_by) => *held_by,
            other => panic!("{other:?}"),
        }
    }

    fn io_kind(joined: Result<Joined, DeltaError>) -> IoErrorKind {
        match joined {
            Err(DeltaError::Io(e)) => e.kind,
            other => panic!("{other:?}"),
        }
    }

    /// When the first write was issued.
    fn wrote_at(rig: &Rig) -> LocalInstant {
        rig.engine().log().iter().find(|r| r.op == Op::Write).expect("a write").when
    }

    fn silence() -> Duration {
        me().timing().silence_for_takeover()
    }

    #[test]
    fn a_free_lease_is_taken_with_two_reads_and_one_write_after_two_io_timeouts() {
        for geometry in Geometry::ALL {
            let rig = Rig::formatted(geometry);
            let held = ours(join_as_me(&rig));
            assert_eq!((rig.engine().reads(), rig.engine().writes()), (2, 1));
            let size = geometry.sector().bytes();
            let own = |r: &crate::testing::Record| r.at == rig.area.offset_of(host_id(3)) && r.len == size;
            assert!(rig.engine().log().iter().all(own), "no sector but its own");
            assert_eq!(rig.clock.now(), at(1020));
            assert_eq!(held.started_at(), at(1000), "from before the write");
            assert_eq!(held.generation(), Generation(1));
            let sector = rig.sector(host_id(3));
            assert_eq!(sector.leader.timestamp, RemoteTimestamp(1000));
            assert_eq!((sector.leader.owner_id, sector.leader.io_timeout), (3, 10));
            assert_eq!(sector.host_name(), me().name);
            assert_eq!(sector.seal, Some(me().seal(rig.area.uuid, at(1000))));
        }
    }

    #[test]
    fn what_is_not_ours_to_change_is_kept_and_the_bitmap_is_cleared() {
        let rig = rig();
        let mut freed = stranger(6, 0);
        freed.leader.version = 0x0003_0001;
        freed.leader.flags = 0; // from before the align flags
        freed.leader.reserved1 = 77;
        freed.leader.reserved2 = 78;
        freed.leader.write_id = 1;
        freed.leader.write_generation = 2;
        freed.leader.write_timestamp = 3;
        freed.bitmap.insert(host_id(9));
        rig.put_sector(&freed);
        assert_eq!(ours(join_as_me(&rig)).generation(), Generation(7));
        let taken = rig.sector(host_id(3));
        let kept = LeaderRecord {
            owner_generation: Generation(7),
            resource_name: ResourceName::new(b"me").unwrap(),
            timestamp: RemoteTimestamp(1000),
            ..freed.leader
        };
        assert_eq!(taken.leader, kept);
        assert!(taken.bitmap.is_empty());
    }

    #[test]
    fn a_join_that_settles_longer_than_its_own_lease_lasts_is_renewed_before_it_is_handed_out() {
        let rig = rig(); // formatted with an io_timeout of 10
        let held = ours(join(&rig, &LocalHost { io_timeout: x(2), ..me() }, None, &Stop::new()));
        assert_eq!(rig.clock.now(), at(1020));
        assert_eq!(held.started_at(), at(1020));
        assert!(held.fails_at() > rig.clock.now());
        assert_eq!(rig.sector(host_id(3)).leader.timestamp, RemoteTimestamp(1020));
        assert_eq!((rig.engine().reads(), rig.engine().writes()), (2, 2));
    }

    #[test]
    fn d1_a_silent_stranger_is_taken_over_at_the_computed_instant_and_not_before() {
        let rig = rig();
        rig.put_sector(&stranger(4, 500));
        let mut told = Vec::new();
        let tell = async |p: &Progress| told.push(p.clone());
        let joined =
            pollster::block_on(acquire(&rig.disk, &rig.clock, &rig.area, &me(), Past::default(), &Stop::new(), tell));
        assert_eq!(ours(joined).generation(), Generation(5));
        let takeover = at(1000).after(silence());
        assert_eq!(wrote_at(&rig), takeover);
        // 141.14 s in steps of 2.5 s, and the two of a free lease.
        assert_eq!((rig.engine().reads(), rig.engine().writes()), (2 + 57, 1));
        let first = Progress::Watching {
            holder: HostTerm { host_id: host_id(3), generation: Generation(4) },
            name: HostName::new(b"stranger").unwrap(),
            relation: Relation::OtherHost,
            why: WatchReason::Silence,
            silent: Duration::ZERO,
            takeover,
        };
        assert_eq!(told.first(), Some(&first));
        let [.., taking, last] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(*taking, Progress::Taking { generation: Generation(5) });
        let settling = Progress::Settling { generation: Generation(5), until: takeover.after(Duration::from_secs(20)) };
        assert_eq!(*last, settling);
    }

    #[test]
    fn d1_a_renewal_one_nanosecond_before_the_instant_keeps_the_lease() {
        let rig = rig();
        rig.put_sector(&stranger(4, 500));
        rig.put_sector_at(at(1000).after(silence()).before(NANO), &stranger(4, 501));
        let held_by = theirs(join_as_me(&rig));
        assert_eq!(held_by.evidence, Evidence::Renewed { after: silence() });
        assert_eq!(rig.engine().writes(), 0);
    }

    #[test]
    fn d1_silence_begins_at_the_end_of_the_read_that_saw_the_holder() {
        let rig = rig();
        rig.put_sector(&stranger(4, 500));
        rig.engine().fault(Op::Read, 1, Fault::Slow(Duration::from_secs(8)));
        ours(join_as_me(&rig));
        assert_eq!(wrote_at(&rig), at(1008).after(silence()));
    }

    #[test]
    fn d1_a_read_that_began_before_the_instant_and_ended_after_it_proves_nothing() {
        let rig = rig();
        rig.put_sector(&stranger(4, 500));
        // The last look before the instant is the 57th, at 1140 s.
        rig.engine().fault(Op::Read, 57, Fault::Slow(Duration::from_secs(8)));
        // It showed what was there at 1140. The holder renews while the answer is on its way.
        rig.put_sector_at(at(1145), &stranger(4, 501));
        theirs(join_as_me(&rig));
        assert!(rig.clock.now() >= at(1000).after(silence()), "the slow look was the last before the instant");
        assert_eq!((rig.engine().reads(), rig.engine().writes()), (58, 0));
    }

    #[test]
    fn d1_the_holders_own_timeouts_decide_and_sanlocks_where_it_seals_none() {
        let sealed = {
            let mut s = stranger(4, 500);
            s.leader.io_timeout = 5;
            s.seal = s.seal.map(|s| Seal { fire: SealedFire::Within(FireTimeout::new(20).unwrap()), ..s });
            s
        };
        let bare = DeltaSector { seal: None, ..stranger(4, 500) };
        let mut unknown = bare.clone();
        unknown.leader.io_timeout = 0;
        for (sector, x_used, fire) in [(sealed, 5, 20), (bare, 10, 60), (unknown, 10, 60)] {
            let rig = rig();
            rig.put_sector(&sector);
            ours(join_as_me(&rig));
            let timing = Timing::new(x(x_used), FireTimeout::new(fire).unwrap());
            assert_eq!(wrote_at(&rig), at(1000).after(timing.silence_for_takeover()));
        }
    }

    #[test]
    fn an_equal_name_without_proof_is_waited_out_like_anyone_else() {
        let cases = [
            (written_by(b"me", machine(2, 1), 4, 500), Some(4), "another machine"),
            (written_by(b"me", machine(1, 1), 4, 500), None, "same boot, nothing proven: a clone, or a second daemon"),
            (written_by(b"me", machine(1, 1), 4, 500), Some(3), "same boot, another generation proven"),
            (DeltaSector { seal: None, ..written_by(b"me", machine(1, 1), 4, 500) }, Some(4), "no seal"),
            (written_by(b"other", machine(1, 1), 4, 500), Some(4), "another name in this boot"),
            (written_by(b"other", machine(1, 2), 4, 500), Some(4), "another name before the reboot"),
        ];
        for (sector, predecessor, case) in cases {
            let rig = rig();
            rig.put_sector(&sector);
            ours(join(&rig, &me(), predecessor, &Stop::new()));
            assert_eq!(wrote_at(&rig), at(1000).after(silence()), "{case}");
        }
    }

    #[test]
    fn p1_b_a_proven_predecessor_is_succeeded_at_once() {
        let rig = rig();
        rig.put_sector(&written_by(b"me", machine(1, 1), 4, 500));
        let held = ours(join(&rig, &me(), Some(4), &Stop::new()));
        assert_eq!((held.generation(), wrote_at(&rig)), (Generation(5), at(1000)));
        assert_eq!((rig.engine().reads(), rig.engine().writes()), (2, 1));
    }

    #[test]
    fn p1_a_our_own_lease_of_another_boot_is_watched_for_three_io_timeouts() {
        let rig = rig();
        rig.put_sector(&written_by(b"me", machine(1, 7), 4, 500));
        assert_eq!(ours(join_as_me(&rig)).generation(), Generation(5));
        assert_eq!(wrote_at(&rig), at(1030));
    }

    #[test]
    fn p1_a_a_living_clone_of_this_machine_is_found_and_named() {
        let rig = rig();
        rig.put_sector(&written_by(b"me", machine(1, 7), 4, 500));
        rig.put_sector_at(at(1021), &written_by(b"me", machine(1, 7), 4, 521));
        let held_by = theirs(join_as_me(&rig));
        assert_eq!(held_by.relation, Relation::OurNameOtherBoot);
        assert!(held_by.to_string().contains("a clone of this machine"), "{held_by}");
        assert_eq!(rig.engine().writes(), 0);
    }

    #[test]
    fn a_living_holder_is_found_at_its_next_renewal_and_named() {
        let cases = [
            (b"stranger".as_slice(), machine(2, 2), Relation::OtherHost),
            (b"me", machine(2, 2), Relation::OurNameElsewhere),
            (b"me", machine(1, 1), Relation::OurNameHere),
            (b"stranger", machine(1, 1), Relation::OtherNameHere),
        ];
        for (name, by, relation) in cases {
            let rig = rig();
            rig.put_sector(&written_by(name, by, 4, 500));
            rig.put_sector_at(at(1011), &written_by(name, by, 4, 520));
            let held_by = theirs(join_as_me(&rig));
            assert_eq!((held_by.relation, held_by.generation), (relation, Generation(4)));
            assert_eq!(held_by.evidence, Evidence::Renewed { after: Duration::from_millis(12_500) });
            assert_eq!((held_by.name.as_bytes(), held_by.timestamp), (name, RemoteTimestamp(520)));
            assert_eq!(rig.engine().writes(), 0);
        }
    }

    #[test]
    fn another_host_that_joins_under_our_eyes_is_a_holder() {
        let rig = rig();
        rig.put_sector(&stranger(4, 500));
        rig.put_sector_at(at(1050), &written_by(b"third", machine(3, 3), 5, 90));
        let held_by = theirs(join_as_me(&rig));
        assert_eq!(held_by.evidence, Evidence::Joined { after: Duration::from_secs(50) });
        assert_eq!(held_by.name, HostName::new(b"third").unwrap());
    }

    #[test]
    fn a_lease_that_is_freed_under_our_eyes_is_taken_then() {
        let rig = rig();
        rig.put_sector(&stranger(4, 500));
        rig.put_sector_at(at(1009), &stranger(4, 0));
        assert_eq!(ours(join_as_me(&rig)).generation(), Generation(5));
        assert_eq!(wrote_at(&rig), at(1010));
    }

    #[test]
    fn damage_seen_while_watching_ends_the_attempt_and_nothing_is_written() {
        let rig = rig();
        let held = stranger(4, 500);
        rig.put_sector(&held);
        let mut damaged = held.encode(SectorSize::B512).to_vec();
        damaged[260] ^= 4;
        let offset = rig.area.offset_of(host_id(3));
        rig.put_bytes_at(at(1100), usize::try_from(offset).unwrap(), damaged);
        match join_as_me(&rig) {
            Err(DeltaError::Sector { offset: named, source, .. }) => {
                assert_eq!(named, offset);
                assert!(matches!(*source, SectorError::Seal(_)), "{source}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((rig.clock.now(), rig.engine().writes()), (at(1100), 0));
    }

    #[test]
    fn a_read_that_fails_while_watching_is_no_silence() {
        for fault in [Fault::Fail, Fault::Hold] {
            let rig = rig();
            rig.put_sector(&stranger(4, 500));
            rig.engine().fault(Op::Read, 30, fault);
            io_kind(join_as_me(&rig));
            assert_eq!((rig.engine().reads(), rig.engine().writes()), (30, 0));
        }
    }

    #[test]
    fn d3_a_holder_on_this_machine_is_not_waited_out_in_its_sleep() {
        let sleep = Duration::from_secs(100);
        let here = written_by(b"me", machine(1, 1), 4, 500);
        // Of a sanlock, which says nothing of its machine, and mostly calls itself by a name of its own.
        let unsealed = DeltaSector { seal: None, ..here };
        let named = DeltaSector { seal: None, ..stranger(4, 500) };
        for (holder, more) in [(here, sleep), (unsealed, sleep), (named, sleep), (stranger(4, 500), Duration::ZERO)] {
            let rig = rig();
            rig.put_sector(&holder);
            let clock = rig.clock.clone();
            rig.clock.schedule(at(1050), move || clock.suspend(sleep));
            assert_eq!(ours(join_as_me(&rig)).generation(), Generation(5));
            let waited = wrote_at(&rig).since(at(1000));
            assert!(waited >= silence() + more && waited < silence() + more + Duration::from_secs(10), "{waited:?}");
        }
    }

    #[test]
    fn a_rival_who_writes_while_we_settle_wins() {
        let rig = rig();
        rig.put_sector_at(at(1019), &stranger(1, 90));
        let held_by = theirs(join_as_me(&rig));
        assert_eq!((held_by.evidence, held_by.generation), (Evidence::Overwrote, Generation(1)));
        assert!(held_by.to_string().contains("joined at the same moment"), "{held_by}");
        assert_eq!(rig.sector(host_id(3)).host_name(), HostName::new(b"stranger").unwrap(), "and is left alone");
    }

    #[test]
    fn one_changed_byte_after_our_write_is_not_ours() {
        let rig = rig();
        let place = usize::try_from(rig.area.offset_of(host_id(3))).unwrap();
        rig.put_bytes_at(at(1010), place + 192, vec![1]);
        assert!(matches!(join_as_me(&rig), Err(DeltaError::Sector { .. })));
    }

    #[test]
    fn the_wait_begins_when_the_write_is_over_and_the_lease_when_it_began() {
        let rig = rig();
        rig.engine().fault(Op::Write, 1, Fault::Late(Duration::from_secs(5)));
        let held = ours(join_as_me(&rig));
        assert_eq!((held.started_at(), rig.clock.now()), (at(1000), at(1025)));
    }

    #[test]
    fn a_device_that_forgets_an_acknowledged_write_is_named_unfit() {
        let rig = rig();
        let before = rig.sector_bytes(host_id(3));
        let place = usize::try_from(rig.area.offset_of(host_id(3))).unwrap();
        rig.put_bytes_at(at(1010), place, before);
        let lost = join_as_me(&rig).unwrap_err();
        assert!(matches!(lost, DeltaError::WriteVanished { .. }), "{lost}");
    }

    fn stop_at(rig: &Rig, instant: LocalInstant) -> Stop {
        let stop = Stop::new();
        let asked = stop.clone();
        rig.clock.schedule(instant, move || asked.set());
        stop
    }

    #[test]
    fn a_stop_while_watching_ends_it_at_once_without_a_write() {
        let rig = rig();
        rig.put_sector(&stranger(4, 500));
        let stop = stop_at(&rig, at(1033));
        assert!(matches!(join(&rig, &me(), None, &stop), Ok(Joined::Stopped)));
        assert_eq!((rig.clock.now(), rig.engine().writes()), (at(1033), 0));
    }

    #[test]
    fn a_stop_before_the_write_leaves_a_free_lease_free() {
        let rig = rig();
        let stop = Stop::new();
        stop.set();
        assert!(matches!(join(&rig, &me(), None, &stop), Ok(Joined::Stopped)));
        assert_eq!(rig.engine().writes(), 0);
    }

    #[test]
    fn the_generation_is_made_known_before_it_is_written_and_may_still_be_vetoed() {
        let rig = rig();
        rig.put_sector(&stranger(4, 0));
        let (stop, mut told) = (Stop::new(), Vec::new());
        let veto = async |p: &Progress| {
            told.push((p.clone(), rig.engine().writes()));
            stop.set();
        };
        let joined = pollster::block_on(acquire(&rig.disk, &rig.clock, &rig.area, &me(), Past::default(), &stop, veto));
        assert!(matches!(joined, Ok(Joined::Stopped)));
        assert_eq!(told, [(Progress::Taking { generation: Generation(5) }, 0)]);
        assert_eq!(rig.sector(host_id(3)), stranger(4, 0));
    }

    #[test]
    fn a_stop_while_settling_frees_the_sector_only_after_every_rival_is_done() {
        let rig = rig();
        let stop = stop_at(&rig, at(1003));
        assert!(matches!(join(&rig, &me(), None, &stop), Ok(Joined::Stopped)));
        let log = rig.engine().log();
        let ops: Vec<_> = log.iter().map(|r| (r.op, r.when)).collect();
        let (settled, written) = (at(1020), at(1000));
        let expected = [(Op::Read, written), (Op::Write, written), (Op::Read, settled), (Op::Read, settled)];
        assert_eq!(ops[..4], expected);
        assert_eq!(ops[4..], [(Op::Write, settled)]);
        let freed = rig.sector(host_id(3));
        assert_eq!((freed.leader.timestamp, freed.generation()), (RemoteTimestamp::FREE, Generation(1)));
    }

    #[test]
    fn a_stop_while_settling_does_not_free_a_rivals_lease() {
        let rig = rig();
        let stop = stop_at(&rig, at(1003));
        rig.put_sector_at(at(1004), &stranger(1, 90));
        assert!(matches!(join(&rig, &me(), None, &stop), Ok(Joined::Stopped)));
        assert_eq!(rig.engine().writes(), 1);
        assert_eq!(rig.sector(host_id(3)), stranger(1, 90));
    }

    #[test]
    fn a_taking_write_of_unknown_outcome_is_no_lease_and_frees_nothing_when_it_lands() {
        let rig = rig();
        rig.put_sector(&stranger(4, 0));
        rig.engine().fault(Op::Write, 1, Fault::Hold);
        assert_eq!(io_kind(join_as_me(&rig)), IoErrorKind::OutcomeUnknown);
        // I6: a second attempt writes nothing while the first is on its way.
        assert_eq!(io_kind(join_as_me(&rig)), IoErrorKind::NotIssued);
        assert_eq!(rig.engine().writes(), 1);
        // Meanwhile a rival has read what we read, and holds the lease.
        rig.put_sector(&stranger(5, 2000));
        rig.engine().land_held();
        let landed = rig.sector(host_id(3));
        assert_eq!(landed.generation(), Generation(5), "not above the rival's");
        assert!(!landed.leader.is_free());
    }

    #[test]
    fn a_taking_write_that_failed_is_no_lease_whatever_is_on_disk() {
        for fault in [Fault::Fail, Fault::FailLanded] {
            let rig = rig();
            rig.engine().fault(Op::Write, 1, fault);
            assert!(matches!(io_kind(join_as_me(&rig)), IoErrorKind::Failed(_)));
            assert!(rig.sector(host_id(3)).generation() <= Generation(1));
        }
    }

    #[test]
    fn a_pause_between_look_and_write_writes_nothing() {
        let rig = rig();
        rig.engine().fault(Op::Read, 1, Fault::Slow(Duration::from_secs(20)));
        assert_eq!(io_kind(join_as_me(&rig)), IoErrorKind::NotIssued);
        assert_eq!(rig.engine().writes(), 0);
    }

    #[test]
    fn a_slow_taker_keeps_within_what_the_fastest_rival_waits() {
        // The stored io_timeout is 1: a rival may have settled in 2 s, however long our own is.
        let rig = rig();
        let mut freed = stranger(4, 0);
        freed.leader.io_timeout = 1;
        rig.put_sector(&freed);
        rig.engine().fault(Op::Read, 1, Fault::Slow(Duration::from_secs(2)));
        let slow = LocalHost { io_timeout: x(20), ..me() };
        assert_eq!(io_kind(join(&rig, &slow, None, &Stop::new())), IoErrorKind::NotIssued);

        rig.engine().fault(Op::Write, 1, Fault::Hold);
        let start = rig.clock.now();
        assert_eq!(io_kind(join(&rig, &slow, None, &Stop::new())), IoErrorKind::OutcomeUnknown);
        assert_eq!(rig.clock.now(), start.after(Duration::from_secs(2)), "given up on after 2 s, not 20");
    }

    #[test]
    fn d2_a_closed_write_limit_refuses_the_join() {
        let rig = rig();
        rig.limit.close();
        assert_eq!(io_kind(join_as_me(&rig)), IoErrorKind::Refused);
        rig.limit.set(WriteLimit::none().instant());
        ours(join_as_me(&rig));
    }

    #[test]
    fn a_host_id_beyond_the_area_is_refused_without_any_io() {
        let rig = Rig::formatted(Geometry::new(SectorSize::B4096, AlignSize::M1).unwrap());
        let beyond = LocalHost { host_id: host_id(251), ..me() };
        let refused = join(&rig, &beyond, None, &Stop::new()).unwrap_err();
        assert!(matches!(refused, DeltaError::HostId { max: 250, .. }), "{refused}");
        assert!(rig.engine().log().is_empty());
    }

    /// Seeds 170487 and 180095: a rival's join, held up since before ours, landed over it.
    #[test]
    fn p1_a_generation_that_we_had_does_not_come_back_after_a_rivals_late_join() {
        let rig = rig();
        rig.put_sector(&stranger(1, 0));
        let (joined, told) = join_after_generation_4(&rig);
        assert_eq!(ours(joined).generation(), Generation(5));
        assert_eq!(rig.sector(host_id(3)).generation(), Generation(5));
        // Known before any of it was on disk; and one by one, 2 to 5.
        assert_eq!(told[0], Progress::Taking { generation: Generation(5) });
        assert_eq!((rig.engine().reads(), rig.engine().writes()), (5, 4));
    }

    #[test]
    fn an_area_formatted_since_begins_at_generation_1() {
        assert_eq!(ours(join_after_generation_4(&rig()).0).generation(), Generation(1));
    }

    #[test]
    fn a_rival_found_while_the_generation_is_raised_has_the_host_id() {
        let rig = rig();
        rig.put_sector(&stranger(1, 0));
        rig.engine().fault(Op::Read, 4, Fault::Late(Duration::from_secs(2)));
        rig.put_sector_at(at(1021), &stranger(2, 900));
        assert_eq!(theirs(join_after_generation_4(&rig).0).generation, Generation(2));
        assert_eq!(rig.sector(host_id(3)).generation(), Generation(2), "left as it is");
    }

    #[test]
    fn generations_never_repeat() {
        let rig = rig();
        rig.put_sector(&stranger(u64::MAX, 0));
        let refused = join_as_me(&rig).unwrap_err();
        assert!(matches!(refused, DeltaError::Generation { .. }), "{refused}");
        assert_eq!(rig.engine().writes(), 0);
    }
}
