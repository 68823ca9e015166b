//! A host_id as real sanlock takes, renews, watches and frees it (spec D 3).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::{Clock, First, LocalInstant, first_of};
use holdfast_io::stop::{Stop, Waited};
use holdfast_io::sys::aligned::AlignedBuf;

use super::paxos::host_dead;
use super::quirks::Quirk;
use super::records::{Code, DELTA_BUSY, DELTA_DIFFERS, DELTA_TAKEN, Leader, TIMED_OUT};
use super::{Peer, WFT};

/// What the main loop keeps of another host (3.6). Seconds of our own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostStatus {
    pub(super) first_check: u64,
    pub(super) last_check: u64,
    pub(super) last_live: u64,
    pub(super) owner_id: u64,
    pub(super) generation: u64,
    pub(super) timestamp: u64,
    pub(super) io_timeout: u64,
}

/// One join of the lockspace, from the end of the acquire to the end of its thread.
pub(super) struct Space {
    pub(super) generation: u64,
    /// Our sector as we wrote it last.
    last: Cell<Leader>,
    /// The timestamp of the last good renewal.
    pub(super) last_success: Cell<u64>,
    /// The last renewal went well.
    well: Cell<bool>,
    /// A renewal found the lease corrupt, or taken.
    pub(super) corrupt: Cell<bool>,
    /// space_dead: nothing is given out or given back any more.
    dead: Cell<bool>,
    /// The area as last read, until the main loop has looked at it.
    view: RefCell<Option<AlignedBuf>>,
    hosts: RefCell<BTreeMap<u64, HostStatus>>,
    /// The clients that hold leases here.
    pub(super) clients: RefCell<Vec<u64>>,
    pub(super) thread_stop: Stop,
    pub(super) thread_ended: Stop,
}

impl Space {
    fn new(taken: Leader) -> Self {
        Space {
            generation: taken.generation(),
            last: Cell::new(taken),
            last_success: Cell::new(taken.timestamp()),
            well: Cell::new(true),
            corrupt: Cell::new(false),
            dead: Cell::new(false),
            view: RefCell::default(),
            hosts: RefCell::default(),
            clients: RefCell::default(),
            thread_stop: Stop::new(),
            thread_ended: Stop::new(),
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.get()
    }

    pub(super) fn die(&self) {
        self.dead.set(true);
    }

    pub(super) fn status(&self, host: u64) -> Option<HostStatus> {
        self.hosts.borrow().get(&host).copied()
    }

    /// 3.6, for shared holders: whether `generation` of `host` lives.
    pub(super) fn is_live(&self, peer: &Peer, host: u64, generation: u64) -> bool {
        let Some(status) = self.status(host) else { return true };
        if status.generation < generation && !peer.has(Quirk::TrustsAnyFree) {
            return true; // A look from before that generation began says nothing about it.
        }
        if status.timestamp == 0 || status.generation > generation {
            return false;
        }
        let last = if status.last_live == 0 { status.first_check } else { status.last_live };
        let until = if peer.has(Quirk::JudgesByOldLook) { peer.now() } else { status.last_check };
        until - last <= peer.dead_after(status.io_timeout)
    }

    /// The main loop's look at an area that was read.
    pub(super) fn scan(&self, peer: &Peer) {
        let Some(view) = self.view.take() else { return };
        let (now, size) = (peer.now(), peer.sector());
        let mut hosts = self.hosts.borrow_mut();
        for (host, sector) in (1..=peer.max_hosts()).zip(view.chunks_exact(size)) {
            let seen = Leader::read(sector);
            let status = hosts.entry(host).or_default();
            status.last_check = now;
            if status.first_check == 0 {
                status.first_check = now;
            }
            let found = (seen.owner(), seen.generation(), seen.timestamp());
            let same = found == (status.owner_id, status.generation, status.timestamp);
            if same || !seen.looks_like_delta(&peer.space_name) {
                continue;
            }
            (status.owner_id, status.generation, status.timestamp) = found;
            status.io_timeout = seen.io_timeout();
            status.last_live = now;
        }
    }
}

impl Peer {
    /// 3.3: takes our host_id.
    pub(super) async fn join(&self) -> Result<Space, Code> {
        let first = self.read_delta().await?;
        let stored = if first.io_timeout() == 0 { self.io_timeout() } else { first.io_timeout() };
        let at_once = first.name() == self.name && self.has(Quirk::NewGenerationAtOnce);
        let mut last = first;
        if first.timestamp() != 0 && !at_once {
            self.sleep_s(self.dead_after(stored)).await;
            last = self.read_delta().await?;
            if last != first && last.timestamp() != 0 {
                return Err(DELTA_BUSY);
            }
        }
        let taken = last.taken(self.host_id(), &self.name, self.config.io_timeout.seconds(), self.now());
        self.write(self.delta_at(self.host_id()), taken.sector(self.sector()), self.iot()).await?;
        self.sleep_s(2 * stored).await;
        if self.read_delta().await? != taken {
            return Err(DELTA_BUSY);
        }
        Ok(Space::new(taken))
    }

    async fn read_delta(&self) -> Result<Leader, Code> {
        let sector = self.read(self.delta_at(self.host_id()), self.sector(), self.iot()).await?;
        let leader = Leader::read(&sector);
        leader.verify_delta(&self.space_name)?;
        Ok(leader)
    }

    /// The lockspace's thread: renews until it is told to stop, then frees the host_id if all went well (3.4, 3.5).
    pub(super) async fn renewals(self: Rc<Self>, space: Rc<Space>) {
        let mut outstanding = None;
        let mut first = true;
        loop {
            // Polled once a second; due when 2 iot have passed since the last good one.
            let due = first || self.now() - space.last_success.get() >= 2 * self.io_timeout();
            let wait = if due { Duration::from_millis(500) } else { Duration::from_secs(1) };
            let at = if first { self.clock.now() } else { self.clock.now().after(wait) };
            if space.thread_stop.sleep_until(&self.clock, at).await == Waited::Stopped {
                break;
            }
            if due {
                first = false;
                self.renewal(&space, &mut outstanding).await;
            }
        }
        if space.well.get() {
            let free = space.last.get().at(0);
            let freed = self.write(self.delta_at(self.host_id()), free.sector(self.sector()), self.iot()).await;
            self.note(format!("host_id freed: {freed:?}"));
        }
        space.thread_ended.set();
    }

    async fn renewal(self: &Rc<Self>, space: &Space, outstanding: &mut Option<Reading>) {
        match self.renew(space, outstanding).await {
            Ok(timestamp) => {
                space.well.set(true);
                space.last_success.set(timestamp);
                let expire = timestamp + 8 * self.io_timeout();
                if !space.thread_stop.is_set() {
                    // While it kills, too: others see this renewal as well.
                    self.machine.wdmd.test_live(self.process.writer.process, expire);
                }
                if !space.is_dead() {
                    self.allow_writes_until(expire);
                }
            }
            Err(code) => {
                space.well.set(false);
                if matches!(code, -260 | -261 | -226..=-223 | -229) {
                    space.corrupt.set(true);
                }
            }
        }
    }

    /// 3.4: one renewal; the timestamp written.
    async fn renew(self: &Rc<Self>, space: &Space, outstanding: &mut Option<Reading>) -> Result<u64, Code> {
        let area = self.read_area(outstanding).await?;
        let at = usize::try_from(self.host_id() - 1).unwrap_or(usize::MAX) * self.sector();
        let found = Leader::read(&area[at..]);
        *space.view.borrow_mut() = Some(area);
        found.verify_delta(&self.space_name)?;
        let last = space.last.get();
        let id = |l: &Leader| (l.owner(), l.generation(), l.name());
        if id(&found) != id(&last) {
            return Err(DELTA_TAKEN);
        }
        if space.well.get() && found != last {
            return Err(DELTA_DIFFERS);
        }
        let timestamp = self.now();
        let new = last.at(timestamp);
        space.last.set(new);
        let patience = Duration::from_secs(8 * self.io_timeout() + WFT);
        self.write(self.delta_at(self.host_id()), new.sector(self.sector()), patience).await?;
        Ok(timestamp)
    }

    /// The whole area; a read that timed out is waited for once more before it is given up.
    async fn read_area(self: &Rc<Self>, outstanding: &mut Option<Reading>) -> Result<AlignedBuf, Code> {
        if let Some(mut old) = outstanding.take() {
            let read = first_of(old.as_mut(), self.clock.sleep(self.iot())).await;
            if let First::A(Ok(area)) = read {
                return Ok(area);
            }
        }
        let peer = Rc::clone(self);
        let mut reading: Reading = Box::pin(async move { peer.read_untimed(0, peer.area_len()).await });
        match first_of(reading.as_mut(), self.clock.sleep(self.iot())).await {
            First::A(read) => read,
            First::B(()) => {
                *outstanding = Some(reading);
                Err(TIMED_OUT)
            }
        }
    }

    /// More than this many seconds of silence, and a host with this io_timeout is dead.
    pub(super) fn dead_after(&self, io_timeout: u64) -> u64 {
        let exact = host_dead(io_timeout);
        // A tick, a second that a timestamp or a clock of whole seconds cuts off, and drift, rounded up.
        if self.has(Quirk::NoMargin) { exact } else { exact + 2 + exact.div_ceil(1000) }
    }

    /// D2, where it is kept.
    pub(super) fn allow_writes_until(&self, second: u64) {
        let instant = LocalInstant::from_nanos(second * 1_000_000_000);
        if !self.has(Quirk::NoWriteLimit) {
            self.limit.set(instant);
        }
    }
}

/// A read of the whole area that may outlast a renewal.
type Reading = Pin<Box<dyn Future<Output = Result<AlignedBuf, Code>>>>;
