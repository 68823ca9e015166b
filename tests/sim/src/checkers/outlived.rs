//! **A7.** Hosts that stood still as a whole, their watchdogs with them, and the clients that have outlived their leases so.
//!
//! What is excused, and from when to when:
//! - A term is *weak* by those of its renewals that stood on disk while its host stood still for longer than D1's margin, in all,
//!   since the last good renewal that began after it: with its clock, or while nobody could end its clients when it woke.
//! - A lease of it, or its host_id, is *outlived* where another host, with all the silence that D1 asks for, has begun to take
//!   it on the strength of such a renewal. Then its clients of that time are excused from S1 under that lease (P1, and I2,
//!   for a host_id), and from nothing else. Under a host_id that was taken a daemon that wakes may grant further leases, until its
//!   next renewal tells it: those clients are excused like the others.
//! - Until they must be over: the daemon reads with each renewal how its leases stand. [`Checkers::check_outlived`] holds it
//!   to that.
//! - A host whose host_id was taken may write over its successor's sector when it goes on. Then the host_id is its own again, and it is
//!   the successor that must be over by then: from then on neither is excused any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_io::ids::{HostId, HostTerm};

use super::{Area, Checkers, Holder};
use crate::dice::nanos;
use crate::disk::{Facts, HostIndex};
use crate::executor::{Group, Nanos};
use crate::spec::Step;
use crate::spec::accept::Rejection;
use crate::spec::state::Sector;
use crate::spec::why::Why;

/// A read that took longer may have been given up by its caller, before it has joined.
const PROMPT: Duration = Duration::from_millis(500);

/// When a renewal began by its host's clock, as it stands in the sector: seconds, milliseconds.
pub(super) type Instant = (u64, u64);

/// What a taker relied on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// The renewal after which it saw none.
    pub(super) renewal: Instant,
    /// The io_timeout and fire timeout of whoever wrote it, in seconds.
    pub(super) timeouts: (u64, u64),
}

/// A lease, or a whole term, that another host begins to take.
#[derive(Clone, Copy, Debug)]
struct Takeover {
    term: HostTerm,
    area: Option<Taken>,
    silence: Silence,
    at: Nanos,
}

/// What is taken: a lease, and of it everything up to this lver. A client may hear only later that it was granted that, from a daemon
/// that has just gone on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) lease: Area,
    pub(super) lver: u64,
}

#[derive(Default)]
pub(super) struct State {
    weak: BTreeMap<HostTerm, Instant>,
    takeovers: Vec<Takeover>,
    /// Terms whose host stood still in any way: it may have a write on its way that its watchdog has not ended in time.
    stood: BTreeMap<HostTerm, Instant>,
    /// The renewal that the one on disk has replaced: a taker may have read it, and act upon it still.
    replaced: BTreeMap<HostTerm, Instant>,
    woke: BTreeMap<HostIndex, Nanos>,
    /// When a host last could not read an area, or a copy of it, as it is.
    blind: BTreeMap<(HostIndex, Area), Nanos>,
    /// host_ids of which a host has written over a later generation.
    overwritten: BTreeSet<HostId>,
    /// The terms under which they did so, and when.
    regained: BTreeMap<HostTerm, Nanos>,
}

impl State {
    /// Renewals of this term up to this one say less than they should.
    pub(super) fn weakens(&mut self, term: HostTerm, renewal: Instant) {
        self.weak.insert(term, renewal);
    }

    /// The host of this term stood still while this renewal of it stood on disk.
    pub(super) fn stands(&mut self, term: HostTerm, renewal: Instant) {
        self.stood.insert(term, renewal);
    }

    /// A renewal of this term lands over this one.
    pub(super) fn replaces(&mut self, term: HostTerm, renewal: Instant) {
        self.replaced.insert(term, renewal);
    }

    /// A host, under this term, writes over a later generation of its host_id: what was taken of it is its own again.
    pub(super) fn overwrites(&mut self, host_id: HostId, term: Option<HostTerm>, now: Nanos) {
        self.overwritten.insert(host_id);
        if let Some(term) = term {
            self.regained.insert(term, now);
        }
    }

    /// When what was taken was its first holder's again, if so.
    fn undone(&self, takeover: &Takeover) -> Option<Nanos> {
        let regained = self.regained.get(&takeover.term).copied();
        regained.filter(|at| takeover.area.is_none() && *at >= takeover.at)
    }

    /// Whether one has.
    pub(super) fn is_overwritten(&self, host_id: u64) -> bool {
        HostId::new(host_id).is_some_and(|host_id| self.overwritten.contains(&host_id))
    }

    /// When a host last could not read a lease: more than a minority of its copies.
    fn blind_since(&self, host: HostIndex, copies: &[Area]) -> Nanos {
        let mut times: Vec<Nanos> = copies.iter().map(|c| self.blind.get(&(host, *c)).copied().unwrap_or(0)).collect();
        times.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
        times.get(copies.len() - (copies.len() / 2 + 1)).copied().unwrap_or(0)
    }

    pub(super) fn wakes(&mut self, host: HostIndex, now: Nanos) {
        self.woke.insert(host, now);
    }

    /// Since when a host runs without having stood still.
    pub(super) fn awake_since(&self, host: HostIndex) -> Nanos {
        self.woke.get(&host).copied().unwrap_or(0)
    }

    fn is_weak(&self, takeover: &Takeover) -> bool {
        self.weak.get(&takeover.term).is_some_and(|last| takeover.silence.renewal <= *last)
    }

    /// Whether the host_id of a term was taken while its host stood still.
    pub(super) fn has_outlived_itself(&self, term: HostTerm) -> bool {
        self.takeovers.iter().any(|t| t.term == term && t.area.is_none() && self.is_weak(t))
    }

    /// Whether the damaged sector of a term, or its host_id, was taken while its host stood still.
    pub(super) fn has_outlived_its_sector(&self, term: HostTerm, area: Area) -> bool {
        let of_it = |t: &&Takeover| t.term == term && t.area.is_none_or(|taken| taken.lease == area);
        self.takeovers.iter().filter(of_it).any(|t| self.is_weak(t))
    }

    fn is_outlived(&self, holder: &Holder) -> bool {
        let of = |t: &&Takeover| t.is_of(holder) && self.is_weak(t);
        self.takeovers.iter().any(|t| of(&t))
    }
}

impl Takeover {
    fn is_of(&self, holder: &Holder) -> bool {
        holder.term == self.term
            && self.area.is_none_or(|taken| taken.lease == holder.area && holder.lver <= taken.lver)
    }

    /// After what time nothing of it is left: two renewals, a look, and the ladder; if the ladder does not help, or the daemon is
    /// gone, D2 and D3.
    fn bound(&self) -> Duration {
        let (io_timeout, fire) = self.silence.timeouts;
        Duration::from_secs(12 * io_timeout + 2 * fire + 25)
    }
}

impl Checkers {
    /// A host begins to take a lease, or the host_id, of `term`, after all the silence that D1 asks for.
    pub(super) fn taken(&self, term: HostTerm, area: Option<Taken>, silence: Silence) {
        let takeover = Takeover { term, area, silence, at: self.sim.now() };
        self.state.borrow_mut().outlived.takeovers.push(takeover);
        if self.stood_still_as(term) {
            // The specification knows no hosts that stand still: such a term runs on where it is over.
            self.without_spec();
            self.look_at(takeover, nanos(takeover.bound()));
        }
    }

    /// Whether a host of this term stands still, or did while a renewal of it stood on disk upon which a taker may act: the
    /// latest one, or the one before it.
    pub(super) fn stood_still_as(&self, term: HostTerm) -> bool {
        let state = self.state.borrow();
        let replaced = state.outlived.replaced.get(&term).copied().unwrap_or_default();
        let stood = state.outlived.stood.get(&term).is_some_and(|renewal| *renewal >= replaced);
        let has_it = |host| state.time.terms_on(host).into_iter().any(|(its, _)| its == term);
        state.time.hosts_of(term).any(|host| state.still.contains(&host) || (stood && has_it(host)))
    }

    /// Whether the specification, which knows no hosts that stand still, does not let go of one that does, or did: something of
    /// it may run, or be on its way, that its watchdog would have ended by now (A7).
    pub(super) fn is_of_a_sleeper(&self, rejection: &Rejection) -> bool {
        let host_id = match rejection {
            Rejection::Refused { step: Step::Expires(host_id) | Step::Joins(host_id, _), .. }
            | Rejection::Refused { why: Why::TermOver(host_id), .. }
            | Rejection::Foreign { sector: Sector::Dblock(host_id), .. } => *host_id,
            _ => return false,
        };
        self.has_a_sleeper(host_id)
    }

    /// Whether a host of this host_id stands still, or did while a renewal of it stood on disk upon which a taker may act.
    pub(super) fn has_a_sleeper(&self, host_id: HostId) -> bool {
        let terms = self.state.borrow().time.terms_of(host_id);
        terms.into_iter().any(|term| self.stood_still_as(term))
    }

    /// A client that has outlived its lease: it must be over, and may not be yet.
    #[must_use]
    pub fn outliver(&self) -> Option<HostIndex> {
        let state = self.state.borrow();
        state.holders.values().find(|holder| state.outlived.is_outlived(holder)).map(|holder| holder.host)
    }

    /// Whether a client may run beside the one that has its lease now.
    pub(super) fn is_outlived(&self, holder: &Holder) -> bool {
        let state = self.state.borrow();
        // Whom real sanlock finds dead nobody here can tell, nor does it end its clients when it wakes.
        let mixed = state.excuses.has_peers() && state.outlived.weak.contains_key(&holder.term);
        mixed || state.excused.contains(&holder.term) || state.outlived.is_outlived(holder)
    }

    /// A read of an area that told its caller nothing, or too late.
    pub(super) fn read_in_vain(&self, io: &Facts, all_of_it: bool) {
        let mut state = self.state.borrow_mut();
        let patience = state.time.io_timeout(io.writer).unwrap_or(PROMPT);
        if all_of_it && self.sim.now() - io.began < nanos(patience) {
            return;
        }
        let (from, to) = (io.at, io.at + io.len as u64);
        let (now, host) = (self.sim.now(), io.writer.host);
        let touched: Vec<Area> = state.areas.iter().copied().filter(|a| a.meets(io.disk, from, to)).collect();
        for area in touched {
            state.outlived.blind.insert((host, area), now);
        }
    }

    /// A client begins to use a lease under a term of which something was taken: it is looked at as well.
    pub(super) fn look_at_latecomer(&self, term: HostTerm) {
        let taken: Vec<Takeover> = {
            let state = self.state.borrow();
            state.outlived.takeovers.iter().filter(|t| t.term == term).copied().collect()
        };
        taken.into_iter().for_each(|takeover| self.look_at(takeover, nanos(takeover.bound())));
    }

    fn look_at(&self, takeover: Takeover, after: Nanos) {
        let Some(checkers) = self.itself.borrow().upgrade() else { return };
        self.sim.call_at(Group::RUN, self.sim.now() + after, move || checkers.check_outlived(takeover));
    }

    /// A client that was outlived has ended by now, if its host has been awake, and could see its areas, for long enough.
    fn check_outlived(&self, takeover: Takeover) {
        let undone = self.state.borrow().outlived.undone(&takeover);
        if let Some(at) = undone {
            return self.check_regained(takeover, at);
        }
        let now = self.sim.now();
        let left = {
            let state = self.state.borrow();
            let left = state.holders.values().find(|h| takeover.is_of(h)).copied();
            left.map(|holder| {
                let woke = state.outlived.awake_since(holder.host);
                let copies: Vec<Area> = state.copies_of(holder.area).collect();
                let seen = state.outlived.blind_since(holder.host, &copies);
                let still = state.still.contains(&holder.host);
                let from = if still { now } else { takeover.at.max(woke).max(seen) };
                (holder, from + nanos(takeover.bound()))
            })
        };
        let Some((holder, due)) = left else { return };
        if now < due {
            return self.look_at(takeover, due - now);
        }
        let what = format!(
            "a client uses what was taken from {} {:?} ago",
            takeover.term,
            Duration::from_nanos(now - takeover.at)
        );
        self.violate("S1", Some(holder.host), what);
    }

    /// A host_id is its first holder's again: once whoever had taken it has been awake for long enough, all of that one's clients are
    /// over, and those of the first holder are under S1 like any others.
    fn check_regained(&self, takeover: Takeover, since: Nanos) {
        let now = self.sim.now();
        let (due, its) = {
            let state = self.state.borrow();
            let later = |term: &HostTerm| term.generation > takeover.term.generation;
            let terms = state.time.terms_of(takeover.term.host_id).into_iter().filter(later);
            let hosts: BTreeSet<HostIndex> = terms.flat_map(|term| state.time.hosts_of(term)).collect();
            let still = hosts.iter().any(|host| state.still.contains(host));
            let woke = hosts.iter().map(|host| state.outlived.awake_since(*host)).max().unwrap_or(0);
            let its = state.holders.iter().filter(|(_, h)| takeover.is_of(h)).map(|(number, _)| *number);
            (if still { now } else { since.max(woke) } + nanos(takeover.bound()), its.collect::<Vec<u64>>())
        };
        if now < due {
            return self.look_at(takeover, due - now);
        }
        self.state
            .borrow_mut()
            .outlived
            .takeovers
            .retain(|t| t.area.is_some() || t.term != takeover.term || t.at > since);
        its.into_iter().for_each(|number| self.look_for_rivals(number));
    }
}
