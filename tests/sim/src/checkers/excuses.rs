//! Clusters with real sanlock among their hosts: what is not demanded of whom, and what S1 counts of a host that shares.

use std::collections::BTreeMap;

use holdfast_io::ids::HostTerm;

use super::{Area, Checkers};
use crate::disk::HostIndex;

#[derive(Default)]
pub(super) struct Excuses {
    /// Rules that a host is not held to.
    of: BTreeMap<HostIndex, Vec<&'static str>>,
    /// How often each was broken so.
    used: BTreeMap<&'static str, u64>,
    /// The terms of peers: their processes are not watched, and S1 needs their names (A7).
    terms: BTreeMap<HostIndex, HostTerm>,
}

impl Excuses {
    pub(super) fn has_peers(&self) -> bool {
        !self.of.is_empty()
    }
}

impl Checkers {
    /// From now on these rules are not demanded of `host`. What it does to them is counted, and shown in the timeline. I5
    /// is of the whole cluster: excused for one, it is excused for all.
    pub fn excuse(&self, host: HostIndex, rules: Vec<&'static str>) {
        self.state.borrow_mut().excuses.of.insert(host, rules);
    }

    /// How often a rule was broken by a host that is excused from it.
    #[must_use]
    pub fn excused(&self) -> BTreeMap<&'static str, u64> {
        self.state.borrow().excuses.used.clone()
    }

    pub(super) fn is_excused(&self, host: Option<HostIndex>, rule: &'static str) -> bool {
        let mut state = self.state.borrow_mut();
        let Excuses { of, used, .. } = &mut state.excuses;
        let who = |(of, _): &(&HostIndex, _)| rule == "I5" || Some(**of) == host;
        let excused = of.iter().filter(who).any(|(_, rules)| rules.contains(&rule));
        if excused {
            *used.entry(rule).or_default() += 1;
        }
        excused
    }

    /// A peer has joined.
    pub fn peer_joined(&self, host: HostIndex, term: HostTerm) {
        self.state.borrow_mut().excuses.terms.insert(host, term);
    }

    /// A peer's host stood still as a whole: it ends its clients too slowly for A7 to be kept.
    pub(super) fn peer_stood_still(&self, host: HostIndex) {
        let mut state = self.state.borrow_mut();
        let term = state.excuses.terms.get(&host).copied();
        state.excused.extend(term);
    }

    /// A client of `host` reads from now on under the shared lease of `area` (S1). The number ends it.
    #[must_use]
    pub fn shares(&self, host: HostIndex, term: HostTerm, area: Area) -> u64 {
        self.begins_to_hold(host, term, area, true)
    }

    /// Whether the client with this number has not ended.
    #[must_use]
    pub fn still_holds(&self, number: u64) -> bool {
        self.state.borrow().holders.contains_key(&number)
    }
}
