//! A resource lease as real sanlock takes it and gives it back (spec D 4.2 to 4.9): exclusive and shared; no conversion,
//! no LVB, no requests, one disk.
//!
//! 1. [`acquire`]: the whole area is read, the owner's life looked into, ballots are run until one commits, and whoever
//!    commits writes the leader.
//! 2. [`Lease::settle`]: shared holders are looked at, or the lease is made a shared one.
//! 3. [`give_back`]: the own dblock says RELEASED, the leader is freed if we wrote it; a retract likewise, with a dblock of
//!    zeros.

use std::rc::Rc;

use super::delta::Space;
use super::quirks::Quirk;
use super::records::{
    ALIVE, BAD_DBLOCK, COMMITTED_OTHER, Code, Dblock, LARGER_LVER, LARGER_MBAL, LOST, Leader, NO_READ, NO_SHARED,
    NO_WRITE, SHARED, STOPPED, TIMED_OUT, UNDECIDED, Writer, shared_generation, without_mode_block,
};
use super::{Peer, WFT};

/// How an acquire is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) shared: bool,
    /// OWNER_NOWAIT.
    pub(super) nowait: bool,
}

/// A lease that is ours.
pub(super) struct Held {
    pub(super) leader: Leader,
    dblock: Dblock,
    shared: bool,
}

/// Hosts with a shared claim, as a ballot's phase 1 saw them.
type SharedSet = Vec<u64>;

/// What a restart of the acquire ends with.
enum Step<T> {
    Go(T),
    Restart,
}

/// How often a shared acquire is tried again against a SHORT_HOLD.
const SHARED_RETRIES: u32 = 8;

/// Acquires the resource (4.3 to 4.7, 4.9).
pub(super) async fn acquire(peer: &Rc<Peer>, space: &Rc<Space>, wanted: Wanted) -> Result<Held, Code> {
    for _ in 0..=SHARED_RETRIES {
        if !peer.has(Quirk::OverlappingWrites) {
            // What it reads of itself must be what it wrote last.
            peer.none_in_flight(|w, _| w == peer.process.writer).await;
        }
        let mut lease =
            Lease { peer, space, wanted, own: Dblock::default(), seen: None, remembered: None, undo: false };
        let code = match lease.run().await {
            Ok((held, sharing)) => return lease.settle(held, &sharing).await,
            Err(code) => code,
        };
        let refused = matches!(code, ALIVE | LOST | COMMITTED_OTHER);
        let passing = lease.seen.is_some_and(|leader| leader.is_short_hold());
        if lease.undo {
            lease.retract().await;
        } else if wanted.shared && refused && !passing {
            // A refused shared attempt zeroes its own dblock, whatever it says.
            let _ = peer.write(lease.at(lease.me() + 1), lease.withdrawn(), peer.iot()).await;
        }
        if !(wanted.shared && refused && passing) {
            return Err(code);
        }
        peer.back_off().await;
    }
    Err(NO_SHARED)
}

/// Gives a lease back (4.8); retries while its I/O times out.
pub(super) async fn give_back(peer: &Rc<Peer>, space: &Rc<Space>, held: Held) -> Result<(), Code> {
    let wanted = Wanted { shared: held.shared, nowait: true };
    let own = Dblock { released: true, ..held.dblock };
    let remembered = Some(held.leader);
    let lease = Lease { peer, space, wanted, own, seen: None, remembered, undo: false };
    let sector = own.sector(None, peer.sector());
    if held.shared {
        return lease.persist(async || peer.write(lease.at(lease.me() + 1), sector.clone(), peer.iot()).await).await;
    }
    lease
        .persist(async || {
            let _ = peer.write(lease.at(lease.me() + 1), sector.clone(), peer.iot()).await;
            lease.free_leader().await
        })
        .await
}

/// One attempt at the lease.
struct Lease<'a> {
    peer: &'a Rc<Peer>,
    space: &'a Rc<Space>,
    wanted: Wanted,
    /// Our dblock as last read or written.
    own: Dblock,
    /// The leader as first read.
    seen: Option<Leader>,
    /// The leader as we believe it to be ours.
    remembered: Option<Leader>,
    /// "Must retract".
    undo: bool,
}

impl Lease<'_> {
    fn me(&self) -> u64 {
        self.peer.host_id()
    }

    fn term(&self) -> Writer {
        Writer { host_id: self.me(), generation: self.space.generation, now: self.peer.now() }
    }

    fn is_ours(&self, leader: &Leader) -> bool {
        leader.owner() == self.me() && leader.generation() == self.space.generation
    }

    /// Byte offset of a sector of the resource.
    fn at(&self, sector: u64) -> u64 {
        self.peer.resource_at + sector * self.peer.sector() as u64
    }

    async fn read(&self, sector: u64, len: usize) -> Result<holdfast_io::sys::aligned::AlignedBuf, Code> {
        self.peer.read(self.at(sector), len, self.peer.iot()).await
    }

    fn verified(&self, sector: &[u8]) -> Result<Leader, Code> {
        let leader = Leader::read(sector);
        leader.verify_paxos(&self.peer.space_name, &self.peer.resource_name, self.me())?;
        Ok(leader)
    }

    async fn read_leader(&self) -> Result<Leader, Code> {
        self.verified(&self.read(0, self.peer.sector()).await?)
    }

    /// 4.3, again and again.
    async fn run(&mut self) -> Result<(Held, SharedSet), Code> {
        loop {
            let area = self.read(0, self.peer.area_len()).await?;
            let leader = self.verified(&area)?;
            self.seen = Some(leader);
            let mut most = 0;
            for host in 1..=leader.num_hosts().min(leader.max_hosts()) {
                let sector = self.in_area(&area, host + 1);
                let dblock = Dblock::read(sector).ok_or(BAD_DBLOCK)?;
                most = most.max(dblock.mbal);
                if host == self.me() {
                    self.own = dblock;
                }
            }
            drop(area);
            let reread = match self.enter(&leader).await? {
                Step::Go(reread) => reread,
                Step::Restart => continue,
            };
            if let Step::Go(done) = self.ballots(&leader, most, reread).await? {
                return Ok(done);
            }
        }
    }

    fn in_area<'b>(&self, area: &'b [u8], sector: u64) -> &'b [u8] {
        let size = self.peer.sector();
        let at = usize::try_from(sector).unwrap_or(usize::MAX) * size;
        &area[at..at + size]
    }

    /// Whether the lver of `leader` is over; if so, whether the leader is to be read again before the first ballot.
    async fn enter(&self, leader: &Leader) -> Result<Step<bool>, Code> {
        let ours = leader.owner() == self.me() && leader.generation() <= self.space.generation;
        if leader.timestamp() == 0 || ours {
            return Ok(Step::Go(false));
        }
        self.await_owner(leader).await
    }

    /// 4.4: looks at the owner's delta sector once a second, until it is over or found alive.
    async fn await_owner(&self, leader: &Leader) -> Result<Step<bool>, Code> {
        let peer = self.peer;
        let (owner, generation) = (leader.owner(), leader.generation());
        let status = self.space.status(owner).unwrap_or_default();
        let known = status.last_live != 0 && (status.owner_id, status.generation) == (owner, generation);
        let (start, mut last) = if known { (status.last_live, Some(status.timestamp)) } else { (peer.now(), None) };
        let x = if known && status.io_timeout != 0 { status.io_timeout } else { peer.io_timeout() };
        loop {
            let sector = peer.read(peer.delta_at(owner), peer.sector(), peer.iot()).await?;
            let delta = Leader::read(&sector);
            delta.verify_delta(&peer.space_name)?;
            let newer = delta.owner() != owner || delta.generation() > generation;
            let free = delta.timestamp() == 0 && (peer.has(Quirk::TrustsAnyFree) || delta.generation() >= generation);
            if free || newer {
                return Ok(Step::Go(true));
            }
            if let Some(last) = last {
                let alive =
                    delta.timestamp() != last || (status.last_live != 0 && status.last_check == status.last_live);
                if alive {
                    return if self.has_released(leader).await? { Ok(Step::Go(true)) } else { Err(ALIVE) };
                }
                if peer.now() - start > peer.dead_after(x) {
                    peer.world.checkers.count(|c| c.takeovers += 1);
                    return Ok(Step::Go(true));
                }
                if self.wanted.nowait {
                    return Err(UNDECIDED);
                }
            }
            last = last.or(Some(delta.timestamp()));
            peer.sleep_s(1).await;
            self.goes_on()?;
            if self.read_leader().await? != *leader {
                return Ok(Step::Restart);
            }
        }
    }

    /// A ballot outlives its lockspace, unless the host is one that waits for it.
    fn goes_on(&self) -> Result<(), Code> {
        let ends = self.space.is_dead() && !self.peer.has(Quirk::FreesUnderABallot);
        if ends { Err(STOPPED) } else { Ok(()) }
    }

    /// Whether an owner whose value another host published has said RELEASED.
    async fn has_released(&self, leader: &Leader) -> Result<bool, Code> {
        if leader.write_id() == leader.owner() {
            return Ok(false);
        }
        let sector = self.read(leader.owner() + 1, self.peer.sector()).await?;
        Ok(Dblock::read(&sector).is_some_and(|d| d.released))
    }

    /// 4.5: ballots for the next lver until one is decided.
    async fn ballots(&mut self, leader: &Leader, most: u64, mut reread: bool) -> Result<Step<(Held, SharedSet)>, Code> {
        let (max, next) = (leader.max_hosts(), leader.lver() + 1);
        let mut mbal = if most == 0 { self.me() } else { most / max * max + max + self.me() };
        let mut sharing = SharedSet::new();
        loop {
            if reread {
                let now = self.read_leader().await?;
                if now.lver() == next && self.is_ours(&now) {
                    return self.own(now, sharing);
                }
                if now.lver() == next {
                    return Err(LOST);
                }
                if now != *leader {
                    return Ok(Step::Restart);
                }
            }
            reread = true;
            match self.ballot(leader, next, mbal, &mut sharing).await {
                Ok(()) => return self.commit(leader, sharing).await,
                Err(LARGER_LVER | LARGER_MBAL) => {
                    self.peer.machine.outrun();
                    self.peer.back_off().await;
                    self.goes_on()?;
                    mbal += max;
                }
                Err(code) => return Err(code),
            }
        }
    }

    /// 4.6: one ballot.
    async fn ballot(&mut self, leader: &Leader, lver: u64, mbal: u64, sharing: &mut SharedSet) -> Result<(), Code> {
        self.own = self.phase_1(lver, mbal);
        self.write_own(None).await.map_err(|_| NO_WRITE)?;
        let mut best = None;
        sharing.clear();
        let blocks = self.blocks(leader).await?;
        for (host, sector) in &blocks {
            let Some(dblock) = Dblock::read(sector) else { continue };
            if shared_generation(sector).is_some() {
                sharing.push(*host);
            }
            outrun(&dblock, lver, mbal)?;
            if dblock.lver == lver && dblock.bal != 0 && dblock.inp[0] != 0 {
                best = best.max(Some((dblock.bal, dblock.inp)));
            }
        }
        let mine = [self.me(), self.space.generation, self.peer.now()];
        self.own.inp = best.map_or(mine, |(_, inp)| inp);
        self.own.bal = mbal;
        self.write_own(None).await.map_err(|_| self.must_retract(NO_WRITE))?;
        let blocks = self.blocks(leader).await.map_err(|code| self.must_retract(code))?;
        blocks.iter().filter_map(|(_, sector)| Dblock::read(sector)).try_for_each(|d| outrun(&d, lver, mbal))
    }

    fn phase_1(&self, lver: u64, mbal: u64) -> Dblock {
        let mut new = Dblock { mbal, lver, ..Dblock::default() };
        if self.own.lver == lver {
            if !self.peer.has(Quirk::ForgetsInPhase1) {
                (new.bal, new.inp) = (self.own.bal, self.own.inp);
            }
            new.released = self.own.released && !self.peer.has(Quirk::ClearsReleased);
        }
        new
    }

    fn must_retract(&mut self, code: Code) -> Code {
        self.undo = true;
        code
    }

    async fn write_own(&self, shared: Option<u64>) -> Result<(), Code> {
        let sector = self.own.sector(shared, self.peer.sector());
        self.peer.write(self.at(self.me() + 1), sector, self.peer.iot()).await
    }

    /// The sectors of hosts 1 to num_hosts: read as far as the next power of two.
    async fn blocks(&self, leader: &Leader) -> Result<Vec<(u64, Vec<u8>)>, Code> {
        let hosts = leader.num_hosts().min(leader.max_hosts());
        let sectors = usize::try_from(hosts + 2).unwrap_or(usize::MAX).next_power_of_two();
        let len = (sectors * self.peer.sector()).min(self.peer.area_len());
        let bytes = self.read(0, len).await.map_err(|_| NO_READ)?;
        Ok((1..=hosts).map(|host| (host, self.in_area(&bytes, host + 1).to_vec())).collect())
    }

    /// 4.7: whoever ends phase 2 writes the leader.
    async fn commit(&mut self, leader: &Leader, sharing: SharedSet) -> Result<Step<(Held, SharedSet)>, Code> {
        let new = leader.committed(&self.own, self.wanted.shared, self.term());
        if !self.peer.has(Quirk::BlindLeaderWrite) && self.read_leader().await?.lver() > new.lver() {
            return Ok(Step::Restart);
        }
        self.remembered = Some(new);
        if let Err(code) = self.peer.write(self.at(0), new.sector(self.peer.sector()), self.peer.iot()).await {
            return Err(self.must_retract(code));
        }
        if self.is_ours(&new) { self.own(new, sharing) } else { Err(COMMITTED_OTHER) }
    }

    /// The leader says that the lease is ours.
    fn own(&mut self, leader: Leader, sharing: SharedSet) -> Result<Step<(Held, SharedSet)>, Code> {
        if self.own.released && !self.peer.has(Quirk::ClearsReleased) {
            // Given up before: others may have gone on to the next lver, and so do we.
            return Ok(Step::Restart);
        }
        Ok(Step::Go((Held { leader, dblock: self.own, shared: false }, sharing)))
    }

    /// 4.9: an exclusive lease among shared claims, or the way from an exclusive lease to a shared one.
    async fn settle(&mut self, held: Held, sharing: &[u64]) -> Result<Held, Code> {
        if self.wanted.shared {
            self.own = Dblock { released: true, ..held.dblock };
            if let Err(code) = self.write_own(Some(self.space.generation)).await {
                let _ = give_back(self.peer, self.space, held).await;
                return Err(code);
            }
            self.remembered = Some(held.leader);
            let _ = self.persist(async || self.free_leader().await).await;
            return Ok(Held { dblock: self.own, shared: true, ..held });
        }
        let mut live = false;
        for host in sharing.iter().filter(|host| **host != self.me()) {
            live |= self.is_shared_by(*host).await.unwrap_or(true);
        }
        if !live {
            return Ok(held);
        }
        let _ = give_back(self.peer, self.space, held).await;
        Err(SHARED)
    }

    /// Whether that host's claim lives; a dead one's is swept away.
    async fn is_shared_by(&self, host: u64) -> Result<bool, Code> {
        let size = self.peer.sector();
        let sector = self.read(host + 1, size).await?;
        let Some(generation) = shared_generation(&sector).filter(|g| *g != 0) else { return Ok(false) };
        if self.space.is_live(self.peer, host, generation) {
            return Ok(true);
        }
        let zeroes = self.peer.has(Quirk::ZeroesDeadHolder);
        let swept = if zeroes { vec![0; size] } else { without_mode_block(&sector) };
        self.peer.note(format!("sweeps the dblock of dead host_id {host}"));
        let _ = self.peer.write(self.at(host + 1), swept, self.peer.iot()).await;
        Ok(false)
    }

    /// What a retract leaves in the own sector.
    fn withdrawn(&self) -> Vec<u8> {
        let kept = if self.peer.has(Quirk::ZeroesOnRetract) { Dblock::default() } else { self.own };
        Dblock { released: true, ..kept }.sector(None, self.peer.sector())
    }

    /// 4.8 "must retract".
    async fn retract(&mut self) {
        let sector = self.withdrawn();
        let at = self.at(self.me() + 1);
        let undone = self
            .persist(async || {
                self.peer.write(at, sector.clone(), self.peer.iot()).await?;
                self.free_leader().await
            })
            .await;
        self.peer.note(format!("retract: {undone:?}"));
    }

    /// Steps 3 to 6 of 4.8.
    async fn free_leader(&self) -> Result<(), Code> {
        let found = self.read_leader().await?;
        if found.write_id() != self.me() {
            return Ok(());
        }
        let Some(ours) = self.remembered.filter(|ours| ours.lver() == found.lver()) else { return Err(-250) };
        if found.timestamp() == 0 || !self.is_ours(&found) || found != ours {
            return Err(-251);
        }
        self.peer.write(self.at(0), found.freed(self.term()).sector(self.peer.sector()), self.peer.iot()).await
    }

    /// The pending-release list: again while it times out, after iot, then every 2 iot. A lockspace that is dead or being
    /// removed ends it with no I/O.
    async fn persist(&self, attempt: impl AsyncFn() -> Result<(), Code>) -> Result<(), Code> {
        let mut wait = self.peer.io_timeout();
        loop {
            if self.space.is_dead() {
                return Err(-28);
            }
            let done = attempt().await;
            if done != Err(TIMED_OUT) {
                return done;
            }
            self.peer.sleep_s(wait).await;
            wait = 2 * self.peer.io_timeout();
        }
    }
}

fn outrun(seen: &Dblock, lver: u64, mbal: u64) -> Result<(), Code> {
    match () {
        () if seen.lver > lver => Err(LARGER_LVER),
        () if seen.lver == lver && seen.mbal > mbal => Err(LARGER_MBAL),
        () => Ok(()),
    }
}

/// After how many seconds of silence a host with this io_timeout is dead, by 3.1: more than that must have passed.
pub(super) const fn host_dead(io_timeout: u64) -> u64 {
    8 * io_timeout + WFT
}
