//! What hosts do, by what they have been told: run once for each history, and looked up after that.

use std::rc::Rc;

use holdfast_io::ids::HostTerm;
use holdfast_io::ids::Lver;
use paxos_lease::LeaseAt;
use paxos_lease::liveness::Verdict;

use super::Table;
use super::host::{Event, Host, Role, Waits};

/// A content of a sector, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Content(pub(super) u32);

/// A history of a host, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct History(u32);

/// [`Event`], by numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum News {
    Read(Vec<(u64, Content)>),
    Written,
    Deadline,
    Answer(Verdict),
    ClientOver,
    Reaped(u8),
}

/// [`Waits`], by numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wait {
    Read { at: u64, len: u64 },
    Write { at: u64, data: Content },
    Look(HostTerm),
    Client(Lver),
    OwnWrite,
    Nothing,
    Failed(Rc<str>),
}

struct Node {
    role: Role,
    /// The history before, and what was told then; `None`: it has just started.
    last: Option<(History, News)>,
    waits: Wait,
}

/// All histories so far.
pub(super) struct Histories {
    lease: LeaseAt,
    formatted: Rc<[(u64, Rc<[u8]>)]>,
    contents: Vec<Rc<[u8]>>,
    numbers: Table<Rc<[u8]>, Content>,
    nodes: Vec<Node>,
    first: Table<Role, History>,
    next: Table<(History, News), History>,
}

impl Histories {
    /// `formatted`: what stands in the sectors that hosts do not write.
    pub(super) fn new(lease: LeaseAt, formatted: Vec<(u64, Rc<[u8]>)>) -> Self {
        Histories {
            lease,
            formatted: formatted.into(),
            contents: Vec::new(),
            numbers: Table::new(),
            nodes: Vec::new(),
            first: Table::new(),
            next: Table::new(),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn number(&mut self, bytes: &[u8]) -> Content {
        if let Some(number) = self.numbers.get(bytes) {
            return *number;
        }
        let number = Content(u32::try_from(self.contents.len()).unwrap_or_else(|_| unreachable!("memory ends before")));
        let bytes: Rc<[u8]> = bytes.into();
        self.contents.push(Rc::clone(&bytes));
        self.numbers.insert(bytes, number);
        number
    }

    pub(super) fn content(&self, number: Content) -> &Rc<[u8]> {
        &self.contents[number.0 as usize]
    }

    /// A host that has just started.
    pub(super) fn start(&mut self, role: Role) -> History {
        if let Some(known) = self.first.get(&role) {
            return *known;
        }
        let waits = Host::start(self.lease, role, Rc::clone(&self.formatted)).waits();
        let history = self.add(role, None, waits);
        self.first.insert(role, history);
        history
    }

    /// The same, after it has been told something more.
    pub(super) fn after(&mut self, history: History, news: News) -> History {
        let step = (history, news);
        if let Some(known) = self.next.get(&step) {
            return *known;
        }
        let mut host = self.again(step.0);
        host.learns(&self.event(&step.1));
        let role = self.nodes[step.0.0 as usize].role;
        let next = self.add(role, Some(step.clone()), host.waits());
        self.next.insert(step, next);
        next
    }

    pub(super) fn waits(&self, history: History) -> &Wait {
        &self.nodes[history.0 as usize].waits
    }

    fn add(&mut self, role: Role, last: Option<(History, News)>, waits: Waits) -> History {
        let waits = match waits {
            Waits::Read { at, len } => Wait::Read { at, len: len as u64 },
            Waits::Write { at, data } => Wait::Write { at, data: self.number(&data) },
            Waits::Look(of) => Wait::Look(of),
            Waits::Client(lver) => Wait::Client(lver),
            Waits::OwnWrite => Wait::OwnWrite,
            Waits::Nothing => Wait::Nothing,
            Waits::Failed(why) => Wait::Failed(why.into()),
        };
        let number = u32::try_from(self.nodes.len()).unwrap_or_else(|_| unreachable!("memory ends before"));
        self.nodes.push(Node { role, last, waits });
        History(number)
    }

    /// A host with this history: a future cannot be copied, so it lives through it once more.
    fn again(&self, history: History) -> Host {
        let mut told = Vec::new();
        let mut node = &self.nodes[history.0 as usize];
        while let Some((before, news)) = &node.last {
            told.push(self.event(news));
            node = &self.nodes[before.0 as usize];
        }
        let mut host = Host::start(self.lease, node.role, Rc::clone(&self.formatted));
        told.iter().rev().for_each(|event| host.learns(event));
        host
    }

    fn event(&self, news: &News) -> Event {
        match news {
            News::Read(sectors) => {
                Event::Read(sectors.iter().map(|(at, number)| (*at, Rc::clone(self.content(*number)))).collect())
            }
            News::Written => Event::Written,
            News::Deadline => Event::Deadline,
            News::Answer(verdict) => Event::Answer(*verdict),
            News::ClientOver => Event::ClientOver,
            News::Reaped(flight) => Event::Reaped(usize::from(*flight)),
        }
    }
}
