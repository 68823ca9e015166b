//! The written specification, explored to its end: every order in which hosts may read, write, be held up, die and come
//! back, within small bounds. In none of them is an invariant broken; with one rule switched off, in some.
//!
//! A model checker ([`stateright`]) takes every step that [`Spec`] permits from every state it has reached. What is left
//! out here is only what cannot matter: a read that tells its host nothing it could act on; a second read of a block
//! within one phase (the first would have served as well, and is explored); and forgetting, but to start over, since a
//! host that knows more may do all that one may that knows less. So a crash needs no step of its own: the daemon does
//! nothing any more, its client and its writes go on, and both may end at any time. A host takes the least of its ballot
//! numbers that it has not used.
//!
//! `HOLDFAST_LONG=1` explores larger bounds, for minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use holdfast_io::ids::{Generation, HostId, Lver, RemoteTimestamp};
use holdfast_sim::spec::rules::{Over, outruns};
use holdfast_sim::spec::state::{Dblock, Host, Inp, Invariant, Leader, Proposal, Sector, State, Write};
use holdfast_sim::spec::{Rule, Spec, Step};
use paxos_lease::number::Ballot;
use stateright::{Checker, Model, Property};

/// What makes the number of states finite.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    hosts: u32,
    /// The last lver.
    lvers: u64,
    /// Ballots of each host for each lver.
    ballots: u64,
    /// Hosts whose term may end, from 1 on.
    mortal: u64,
    /// Terms of each of those.
    terms: u64,
    /// Hosts whose writes may be held up, from 1 on. Those of the others land at once.
    slow: u64,
}

/// What the checker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Act {
    Step(Step),
    /// A host starts over: it forgets, and reads the leader record.
    Again(HostId),
    /// A write lands as soon as it is issued.
    Writes(HostId, Write),
}

/// The specification as the checker explores it.
#[derive(Clone)]
struct Leases {
    spec: Spec,
    bounds: Bounds,
    /// The one property to look for; all of them, if none is named.
    property: Option<&'static str>,
}

impl Leases {
    fn writes(&self, p: HostId, write: Write) -> Act {
        if p.get() <= self.bounds.slow { Act::Step(Step::Issues(p, write)) } else { Act::Writes(p, write) }
    }

    fn lvers(&self) -> impl Iterator<Item = Lver> {
        (1..=self.bounds.lvers).map(Lver)
    }

    /// Reads that tell `p` something it can act on.
    fn reads(&self, state: &State, p: HostId, host: &Host, acts: &mut Vec<Act>) {
        if !host.mind.leaders.contains(&state.leader) && self.leader_matters(state, p, host) {
            // What it read before would only make it more stubborn.
            let anew = !host.mind.leaders.is_empty();
            acts.push(if anew { Act::Again(p) } else { Act::Step(Step::Reads(p, Sector::Leader)) });
        }
        let mine = &host.dblock;
        let in_ballot =
            host.mind.contest.is_some_and(|c| !c.decided && (c.lver, Some(c.mbal)) == (mine.lver, mine.mbal))
                && !self.spec.in_doubt(state, p, Sector::Dblock(p));
        for (q, other) in state.hosts().filter(|(q, _)| *q != p) {
            let step = Step::Reads(p, Sector::Dblock(q));
            let unseen = host.mind.seen.get(q.slot() as usize).is_none_or(Vec::is_empty);
            let for_ballot = in_ballot && unseen && !outruns(&other.dblock, mine);
            if for_ballot || (!host.mind.leaders.is_empty() && self.tells(state, p, step)) {
                acts.push(Act::Step(step));
            }
        }
    }

    /// Whether `p` could act on the leader record, now or once it knows more about its owner.
    fn leader_matters(&self, state: &State, p: HostId, host: &Host) -> bool {
        let Leader { lver, owner, timestamp, writer } = state.leader;
        let contests = host.mind.contest.map(|c| c.lver);
        let follows = lver.0 < self.bounds.lvers && lver.next() >= host.dblock.lver && contests < Some(lver.next());
        let outdated = lver.next() < host.dblock.lver && contests != Some(host.dblock.lver);
        let own = owner == state.term(p).ok() && !timestamp.is_free() && lver == host.dblock.lver;
        let frees = own && writer == Some(p);
        let holds = own && writer != Some(p) && !host.dblock.released;
        follows || outdated || frees || holds
    }

    /// Whether after this read `p` knows of one lver more that it is over.
    fn tells(&self, state: &State, p: HostId, step: Step) -> bool {
        let known = |state: &State| self.lvers().filter(|l| self.spec.may_contest(state, p, *l).is_ok()).count();
        self.spec.next(state, step).is_ok_and(|next| known(&next) > known(state))
    }

    fn ballots(&self, state: &State, p: HostId, host: &Host, acts: &mut Vec<Act>) {
        let issue = |dblock| self.writes(p, Write::Dblock(dblock));
        for lver in self.lvers().filter(|l| *l >= host.dblock.lver && self.spec.may_contest(state, p, *l).is_ok()) {
            // The least of its own numbers that it has not used.
            let numbers = (0..self.bounds.ballots).map(|n| p.get() + n * u64::from(self.bounds.hosts));
            let above = if lver == host.dblock.lver { host.dblock.mbal } else { None };
            let number = numbers.filter_map(Ballot::new).find(|n| Some(*n) > above);
            acts.extend(number.map(|mbal| issue(self.spec.phase_1(&host.dblock, lver, mbal))));
        }
        let own = Inp { owner: state.term(p).unwrap(), timestamp: RemoteTimestamp(1) };
        let ballot = host.mind.contest.filter(|c| (c.lver, Some(c.mbal)) == (host.dblock.lver, host.dblock.mbal));
        if let Some(contest) = ballot {
            for choice in self.spec.choices(state, p).unwrap_or_default() {
                let proposal = Some(Proposal { bal: contest.mbal, inp: choice.map_or(own, |best| best.inp) });
                acts.push(issue(Dblock { proposal, ..host.dblock }));
            }
        }
        if host.dblock.proposal.is_some() && !host.dblock.released {
            acts.push(issue(Dblock { released: true, ..host.dblock }));
        }
    }

    fn leader(&self, state: &State, p: HostId, host: &Host, acts: &mut Vec<Act>) {
        let decided = host.mind.contest.filter(|c| c.decided).and(host.dblock.proposal);
        let publishes = decided.map(|Proposal { inp, .. }| Leader {
            lver: host.dblock.lver,
            owner: Some(inp.owner),
            timestamp: inp.timestamp,
            writer: Some(p),
        });
        let ours = host.mind.leaders.iter().filter(|l| l.writer == Some(p) && !l.timestamp.is_free());
        let frees = ours.map(|l| Leader { timestamp: RemoteTimestamp::FREE, ..*l });
        let new = publishes.into_iter().chain(frees).filter(|l| *l != state.leader);
        acts.extend(new.map(|l| self.writes(p, Write::Leader(l))));
    }

    fn fortunes(&self, p: HostId, host: &Host, acts: &mut Vec<Act>) {
        if host.holds.is_some() {
            acts.push(Act::Step(Step::Ends(p)));
        } else {
            acts.push(Act::Step(Step::Holds(p)));
        }
        if p.get() <= self.bounds.mortal {
            acts.push(Act::Step(Step::Expires(p)));
        }
    }
}

impl Model for Leases {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let mut state = State::formatted(self.bounds.hosts as usize);
        for p in (0..self.bounds.hosts).filter_map(HostId::from_slot) {
            self.spec.advance(&mut state, Step::Joins(p, Generation(1))).unwrap();
        }
        vec![state]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        for (p, host) in state.hosts() {
            if host.alive {
                self.reads(state, p, host, acts);
                self.ballots(state, p, host, acts);
                self.leader(state, p, host, acts);
                self.fortunes(p, host, acts);
            }
            if p.get() <= self.bounds.mortal && host.generation < Generation(self.bounds.terms) {
                acts.push(Act::Step(Step::Joins(p, host.generation.next())));
            }
        }
        // With I6 switched off there could be ever more of them.
        acts.retain(|act| !matches!(act, Act::Step(Step::Issues(..))) || state.flights.len() < 4);
        for flight in &state.flights {
            acts.extend(
                [Step::Lands(flight.host, flight.write), Step::Fails(flight.host, flight.write)].map(Act::Step),
            );
        }
    }

    fn next_state(&self, state: &State, act: Act) -> Option<State> {
        match act {
            Act::Step(step) => self.spec.next(state, step).ok(),
            Act::Writes(p, write) => {
                let mut next = self.spec.next(state, Step::Issues(p, write)).ok()?;
                self.spec.advance(&mut next, Step::Lands(p, write)).ok()?;
                Some(next)
            }
            Act::Again(p) => {
                let mut next = self.spec.next(state, Step::Forgets(p)).ok()?;
                self.spec.advance(&mut next, Step::Reads(p, Sector::Leader)).ok()?;
                Some(next)
            }
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = invariants();
        all.extend(fortunes());
        all.retain(|property| self.property.is_none_or(|name| name == property.name));
        all
    }
}

fn kept(state: &State, invariant: Invariant) -> bool {
    !state.history.broken.contains(&invariant)
}

fn invariants() -> Vec<Property<Leases>> {
    vec![
        Property::always("S1", |_, s| {
            kept(s, Invariant::S1) && s.hosts.iter().filter(|h| h.holds.is_some()).count() < 2
        }),
        Property::always("I2", |_, s| kept(s, Invariant::I2)),
        Property::always("I3", |_, s| kept(s, Invariant::I3)),
        Property::always("I4", |_, s| kept(s, Invariant::I4)),
        Property::always("I5", |_, s| kept(s, Invariant::I5)),
    ]
}

/// Whether a client runs whose host took the lease from another, because it knew the lver before to be over for `why`.
/// With it goes whether a client had run under that one.
fn changed_hands(s: &State, why: Over) -> Option<bool> {
    s.hosts().find_map(|(p, host)| {
        let contest = host.mind.contest.filter(|c| host.holds == Some(c.lver) && c.over == why)?;
        let before = s.history.lvers.get(&Lver(contest.lver.0 - 1))?;
        (before.inp.owner.host_id != p).then_some(before.held)
    })
}

/// What must be seen to happen: an exploration in which nothing happens proves nothing.
fn fortunes() -> Vec<Property<Leases>> {
    vec![
        Property::sometimes("taken after a release", |_, s| changed_hands(s, Over::Freed) == Some(true)),
        Property::sometimes("taken from a term that is over", |_, s| changed_hands(s, Over::TermOver) == Some(true)),
        Property::sometimes("released, and published by another", |_, s| {
            changed_hands(s, Over::Released) == Some(true)
        }),
        Property::sometimes("taken after a retract", |_, s| {
            changed_hands(s, Over::Freed) == Some(false) || changed_hands(s, Over::Released) == Some(false)
        }),
        Property::sometimes("taken from a host that has moved on", |_, s| changed_hands(s, Over::MovedOn).is_some()),
        Property::sometimes("owned by grace of another's ballot", |_, s: &State| {
            s.hosts().any(|(p, h)| {
                h.holds.is_some() && s.leader.writer != Some(p) && s.leader.owner.is_some_and(|o| o.host_id == p)
            })
        }),
        Property::sometimes("a second ballot adopts the value of a first", |_, s: &State| {
            s.hosts().any(|(p, h)| {
                let adopted = h.dblock.proposal.filter(|proposal| proposal.inp.owner.host_id != p);
                adopted.is_some_and(|proposal| proposal.bal.get() > u64::from(TWO_HOSTS.hosts))
            })
        }),
        Property::sometimes("an outdated leader", |_, s: &State| {
            s.hosts.iter().any(|h| h.holds > Some(s.leader.lver.next()))
        }),
    ]
}

/// Explores everything: no invariant is broken anywhere, and these things happen somewhere.
fn explore(bounds: Bounds, happen: &[&'static str]) {
    let model = Leases { spec: Spec::new(bounds.hosts), bounds, property: None };
    let checker = model.checker().spawn_bfs().join();
    println!(
        "{bounds:?}: {} states, {} steps taken, {} deep",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    for broken in invariants() {
        checker.assert_no_discovery(broken.name);
    }
    // Nothing else can end it before its end: not even every fortune together, since the invariants are not found broken.
    assert!(checker.is_done());
    for name in happen {
        assert!(checker.discovery(name).is_some(), "never seen: {name}");
    }
}

fn long() -> bool {
    std::env::var("HOLDFAST_LONG").is_ok_and(|v| v == "1")
}

/// Every write may be held up, and land late or never; one host's term may end, and begin anew.
const TWO_HOSTS: Bounds = Bounds { hosts: 2, lvers: 2, ballots: 1, mortal: 1, terms: 2, slow: 2 };

#[test]
fn two_hosts_two_lvers_late_writes_a_death_and_a_new_term() {
    explore(
        TWO_HOSTS,
        &[
            "taken after a release",
            "taken from a term that is over",
            "released, and published by another",
            "taken after a retract",
            "taken from a host that has moved on",
            "owned by grace of another's ballot",
        ],
    );
}

#[test]
fn two_hosts_with_two_ballots_each() {
    let bounds = Bounds { lvers: 1, ballots: 2, ..TWO_HOSTS };
    explore(bounds, &["owned by grace of another's ballot", "a second ballot adopts the value of a first"]);
}

/// A host that is held up between its ballot's end and its leader write makes the leader record fall behind.
#[test]
fn three_lvers_with_outdated_leader_records() {
    explore(Bounds { lvers: 3, terms: 1, slow: 0, ..TWO_HOSTS }, &["an outdated leader", "taken after a release"]);
}

#[test]
fn three_hosts_and_one_lver() {
    explore(Bounds { hosts: 3, lvers: 1, mortal: 0, slow: 3, ..TWO_HOSTS }, &["owned by grace of another's ballot"]);
}

#[test]
fn larger_bounds() {
    if !long() {
        return println!("HOLDFAST_LONG is not set");
    }
    explore(Bounds { hosts: 3, lvers: 1, mortal: 1, slow: 3, ..TWO_HOSTS }, &[]);
    explore(Bounds { lvers: 3, mortal: 0, slow: 1, ..TWO_HOSTS }, &["an outdated leader", "taken after a retract"]);
    explore(Bounds { lvers: 1, ballots: 3, ..TWO_HOSTS }, &["a second ballot adopts the value of a first"]);
}

/// Switches a rule off and demands that this breaks an invariant. The shortest way there is printed.
fn breaks(rule: Rule, property: &'static str, bounds: Bounds) -> usize {
    let spec = Spec { max_hosts: bounds.hosts, without: Some(rule) };
    let checker = Leases { spec, bounds, property: Some(property) }.checker().spawn_bfs().join();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("without {rule:?}, {property} is kept"));
    let acts = path.into_actions();
    println!(
        "without {rule:?}, {property} is broken in {} steps ({} states seen):",
        acts.len(),
        checker.unique_state_count()
    );
    acts.iter().for_each(|act| println!("    {act:?}"));
    acts.len()
}

/// A late write of phase 1 lands over phase 2: what was committed is forgotten.
#[test]
fn without_i6_two_values_are_committed_and_two_hosts_hold() {
    let bounds = Bounds { lvers: 1, mortal: 0, slow: 1, ..TWO_HOSTS };
    breaks(Rule::I6, "I5", bounds);
    breaks(Rule::I6, "S1", bounds);
}

#[test]
fn without_the_read_after_phase_2_two_values_are_committed() {
    breaks(Rule::ReadAfterPhase2, "I5", TWO_HOSTS);
}

/// As in the real program, whose next ballot of the same lver clears the flag.
#[test]
fn without_released_being_final_two_hosts_hold() {
    breaks(Rule::ReleasedStays, "S1", Bounds { ballots: 2, slow: 0, mortal: 0, ..TWO_HOSTS });
}

/// As in the real program, whose phase 1 writes zeros.
#[test]
fn without_the_proposal_kept_in_phase_1_two_values_are_committed() {
    breaks(Rule::ProposalStays, "I5", Bounds { ballots: 2, slow: 0, mortal: 0, ..TWO_HOSTS });
}

#[test]
fn without_p1_two_hosts_hold() {
    breaks(Rule::P1, "S1", TWO_HOSTS);
}

#[test]
fn without_d1_two_hosts_hold() {
    breaks(Rule::D1, "S1", TWO_HOSTS);
}
