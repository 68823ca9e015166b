//! The processes of a host that use leases: how they connect, ask, write, multiply, and end.
//!
//! A *family* is what registers as one client: a leader, and what came out of it - heirs, which inherited its connection,
//! or members of its process group. All of it writes to the resource while the lease is held.
//!
//! - A process ends by itself, by SIGTERM after a while (or never), by SIGKILL after a moment (or never, in D state).
//! - **Blocking writes**: a process that is killed with a write in flight is gone only when that is over.
//! - **Rings** (io_uring): the process is gone at once, and what it wrote may land later.
//! - S1 counts a family from the moment its leader is told that the lease is its own until it has stopped writing by
//!   itself, or all of it is gone and what it wrote has landed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use holdfast_daemon::note::Notes;
use holdfast_daemon::state_file::Guarded;
use holdfast_daemon::supervisor::event::{ClientId, Event};
use holdfast_io::ids::HostTerm;
use holdfast_io::sys::rights::Rights;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::header::Header;
use holdfast_protocol::request::{Message, Request};
use nix::sys::signal::Signal;
use paxos_lease::Held;

use crate::checkers::{Area, Checkers};
use crate::disk::HostIndex;
use crate::executor::{Group, Nanos, Sim};
use crate::machine::SimMachine;

/// How long it takes until the daemon hears of an end: a wake-up, or a look at a process group.
const NEWS: Duration = Duration::from_millis(2);
const GROUP_LOOK: Duration = Duration::from_millis(100);
/// By how much the daemon is ahead of everybody else when a host goes on that stood still as a whole.
pub const HEAD_START: Duration = Duration::from_millis(300);

/// Where the clients of one daemon connect.
#[derive(Default)]
pub struct Port {
    notes: RefCell<Option<(Notes<SimMachine>, Group)>>,
    connections: RefCell<BTreeMap<ClientId, Rc<Connection>>>,
    last: Cell<u64>,
}

impl Port {
    /// The daemon listens.
    pub fn listen(&self, notes: &Notes<SimMachine>, group: Group) {
        self.notes.replace(Some((notes.clone(), group)));
    }

    /// The daemon is gone.
    pub fn hang_up(&self) {
        self.notes.replace(None);
        for connection in std::mem::take(&mut *self.connections.borrow_mut()).into_values() {
            connection.end();
        }
    }

    /// The connection of a client.
    #[must_use]
    pub fn connection(&self, client: ClientId) -> Option<Rc<Connection>> {
        self.connections.borrow().get(&client).cloned()
    }

    /// Nothing more is known of a client.
    pub fn forget(&self, client: ClientId) {
        if let Some(connection) = self.connections.borrow_mut().remove(&client) {
            connection.end();
        }
    }

    fn event(&self, event: Event<Held>) {
        if let Some((notes, _)) = &*self.notes.borrow() {
            notes.event(event);
        }
    }

    /// Connects a process; `None` while nobody listens.
    fn connect(self: &Rc<Self>, process: Guarded) -> Option<Rc<Connection>> {
        self.notes.borrow().as_ref()?;
        self.last.set(self.last.get() + 1);
        let client = ClientId(self.last.get());
        let pid = process.pid;
        let connection = Rc::new(Connection {
            port: Rc::clone(self),
            client,
            process,
            term: Cell::default(),
            replies: RefCell::default(),
            may_ask: Cell::new(true),
            ended: Cell::default(),
            watches_group: Cell::default(),
            waker: RefCell::default(),
        });
        self.connections.borrow_mut().insert(client, Rc::clone(&connection));
        self.event(Event::Connected { client, pid, rights: Rights::Ours });
        Some(connection)
    }
}

/// A connection, from both its ends.
pub struct Connection {
    port: Rc<Port>,
    client: ClientId,
    process: Guarded,
    /// The term under which the daemon answered last.
    term: Cell<Option<HostTerm>>,
    replies: RefCell<VecDeque<ResultCode>>,
    may_ask: Cell<bool>,
    ended: Cell<bool>,
    /// The daemon wants to hear when the process group is gone.
    watches_group: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Connection {
    /// Who is behind it.
    #[must_use]
    pub const fn process(&self) -> &Guarded {
        &self.process
    }

    /// A reply of the daemon, given under `term`.
    pub fn reply(&self, bytes: &[u8], term: Option<HostTerm>) {
        if let Some(header) = bytes.first_chunk() {
            self.term.set(term);
            self.replies.borrow_mut().push_back(Header::decode(header).result());
            self.wake();
        }
    }

    /// The next request may come.
    pub fn next(&self) {
        self.may_ask.set(true);
        self.wake();
    }

    /// The daemon's end is closed.
    pub fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    /// The daemon wants to hear when the process group is gone.
    pub fn watch_group(&self) {
        self.watches_group.set(true);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        std::future::poll_fn(|cx| {
            if let Some(value) = ready() {
                return Poll::Ready(Some(value));
            }
            if self.ended.get() {
                return Poll::Ready(None);
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// Sends a request once the last one is answered. `None`: the connection is at its end.
    async fn ask(&self, request: Request) -> Option<()> {
        self.until(|| self.may_ask.take().then_some(())).await?;
        let header = Header::request(request.command());
        let message = Message { header, command: request.command(), request };
        self.port.event(Event::Request { client: self.client, message });
        Some(())
    }

    async fn answer(&self) -> Option<ResultCode> {
        self.until(|| self.replies.borrow_mut().pop_front()).await
    }
}

/// How the processes of a family behave.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// From SIGTERM to the end; `None`: it ignores that.
    pub on_term: Option<Duration>,
    /// From SIGKILL to the end; `None`: nothing but a reset ends it.
    pub on_kill: Option<Duration>,
    /// How long the last write of a process is in flight at its end.
    pub last_write: Duration,
    /// Whether that outlives the process.
    pub ring: bool,
}

struct Process {
    family: u64,
    /// Its tasks.
    group: Group,
    has_connection: bool,
    dying: bool,
}

struct Family {
    identity: Guarded,
    connection: Option<Rc<Connection>>,
    grouped: bool,
    manners: Manners,
    /// What S1 counts.
    holds: Vec<u64>,
    /// Until when something of it is in flight.
    writes_until: Nanos,
}

/// The processes of one host. Clones are the same ones.
#[derive(Clone)]
pub struct Guests(Rc<Inner>);

struct Inner {
    sim: Sim,
    checkers: Rc<Checkers>,
    host: HostIndex,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    processes: BTreeMap<i32, Process>,
    families: BTreeMap<u64, Family>,
    last: u64,
    still: bool,
}

impl Guests {
    /// None yet.
    #[must_use]
    pub fn new(sim: &Sim, checkers: &Rc<Checkers>, host: HostIndex) -> Self {
        Guests(Rc::new(Inner { sim: sim.clone(), checkers: Rc::clone(checkers), host, state: RefCell::default() }))
    }

    /// A new family of one process, which has connected to `port`. `None`: nobody listens there.
    #[must_use]
    pub fn join(&self, port: &Rc<Port>, pid: i32, grouped: bool, manners: Manners) -> Option<Leader> {
        let start_time = self.0.sim.now() / 10_000_000;
        let number = {
            let mut state = self.0.state.borrow_mut();
            state.last += 1;
            state.last
        };
        let identity = Guarded { pid, start_time, connection_inode: number, group: false };
        let connection = port.connect(identity.clone())?;
        let family = Family {
            identity,
            connection: Some(Rc::clone(&connection)),
            grouped,
            manners,
            holds: Vec::new(),
            writes_until: 0,
        };
        self.0.state.borrow_mut().families.insert(number, family);
        let group = self.add(pid, number, true);
        Some(Leader { guests: self.clone(), family: number, pid, group, connection })
    }

    fn add(&self, pid: i32, family: u64, has_connection: bool) -> Group {
        let group = self.0.sim.new_group();
        let mut state = self.0.state.borrow_mut();
        if state.still {
            self.0.sim.freeze(group);
        }
        state.processes.insert(pid, Process { family, group, has_connection, dying: false });
        group
    }

    /// A signal for a family, as the kernel delivers it: to its leader, to its group if `grouped`, and to every process
    /// that has its connection.
    pub fn signal(&self, identity: &Guarded, grouped: bool, signal: Signal) {
        let hit: Vec<(i32, Option<Duration>)> = {
            let state = self.0.state.borrow();
            let Some(family) = state.families.get(&identity.connection_inode) else { return };
            let after = if signal == Signal::SIGKILL { family.manners.on_kill } else { family.manners.on_term };
            let reached =
                |pid: i32, p: &Process| pid == identity.pid || p.has_connection || (grouped && family.grouped);
            let mine = state.processes.iter().filter(|(_, p)| p.family == identity.connection_inode);
            mine.filter(|(pid, p)| reached(**pid, p)).map(|(pid, _)| (*pid, after)).collect()
        };
        for (pid, after) in hit {
            let Some(after) = after else { continue };
            let guests = self.clone();
            self.0.sim.call_after(Group::RUN, after, move || guests.die(pid));
        }
    }

    /// A process comes to its end. With a blocking write in flight it is gone only when that is over.
    pub fn die(&self, pid: i32) {
        let at = {
            let mut state = self.0.state.borrow_mut();
            let now = self.0.sim.now();
            let State { processes, families, .. } = &mut *state;
            let Some(process) = processes.get_mut(&pid).filter(|p| !p.dying) else { return };
            let Some(family) = families.get_mut(&process.family) else { return };
            process.dying = true;
            let over = now + crate::dice::nanos(family.manners.last_write);
            if !family.holds.is_empty() {
                family.writes_until = family.writes_until.max(over);
            }
            if !family.holds.is_empty() && !family.manners.ring { over } else { now }
        };
        let guests = self.clone();
        self.0.sim.call_at(Group::RUN, at, move || guests.gone(pid));
    }

    fn gone(&self, pid: i32) {
        let Some(process) = self.0.state.borrow_mut().processes.remove(&pid) else { return };
        self.0.sim.kill(process.group);
        let state = self.0.state.borrow();
        let Some(family) = state.families.get(&process.family) else { return };
        let rest = || state.processes.values().filter(|p| p.family == process.family);
        let (empty, connected) = (rest().count() == 0, rest().any(|p| p.has_connection));
        let is_leader = pid == family.identity.pid;
        if let Some(connection) = &family.connection {
            let client = connection.client;
            if is_leader {
                self.tell(connection, NEWS, Event::Exited { client });
            }
            if process.has_connection && !connected {
                self.tell(connection, NEWS, Event::Closed { client });
            }
            if empty && connection.watches_group.get() {
                self.tell(connection, GROUP_LOOK, Event::GroupGone { client });
            }
        }
        let over = family.writes_until;
        drop(state);
        if empty {
            let (guests, number) = (self.clone(), process.family);
            self.0.sim.call_at(Group::RUN, over, move || guests.over(number));
        }
    }

    /// Nothing of a family is left, and nothing of it in flight.
    fn over(&self, number: u64) {
        let family = self.0.state.borrow_mut().families.remove(&number);
        for hold in family.into_iter().flat_map(|f| f.holds) {
            self.0.checkers.holds_no_more(hold);
        }
    }

    fn tell(&self, connection: &Rc<Connection>, after: Duration, event: Event<Held>) {
        let connection = Rc::clone(connection);
        self.0.sim.call_after(Group::RUN, after, move || connection.port.event(event));
    }

    /// Whether all of a family is gone that was named so, and what it wrote has landed.
    #[must_use]
    pub fn is_over(&self, identity: &Guarded) -> bool {
        !self.0.state.borrow().families.contains_key(&identity.connection_inode)
    }

    /// When the last write of a family is over that nothing is left of; `None`: there is something left.
    #[must_use]
    pub fn writes_until(&self, identity: &Guarded) -> Option<Nanos> {
        let state = self.0.state.borrow();
        let Some(family) = state.families.get(&identity.connection_inode) else { return Some(0) };
        let left = state.processes.values().any(|p| p.family == identity.connection_inode);
        (!left).then_some(family.writes_until)
    }

    /// The host is reset.
    pub fn reset(&self) {
        let State { processes, families, last, .. } = std::mem::take(&mut *self.0.state.borrow_mut());
        self.0.state.borrow_mut().last = last;
        for process in processes.into_values() {
            self.0.sim.kill(process.group);
        }
        for hold in families.into_values().flat_map(|f| f.holds) {
            self.0.checkers.holds_no_more(hold);
        }
    }

    /// Nothing of them runs.
    pub fn stand_still(&self) {
        let mut state = self.0.state.borrow_mut();
        // A host that stands still again before they have gone on: they still do.
        if !std::mem::replace(&mut state.still, true) {
            state.processes.values().for_each(|p| self.0.sim.freeze(p.group));
        }
        self.0.checkers.holders_stand_still(self.0.host, true);
    }

    /// They go on.
    pub fn go_on(&self) {
        let mut state = self.0.state.borrow_mut();
        if std::mem::take(&mut state.still) {
            state.processes.values().for_each(|p| self.0.sim.thaw(p.group));
            drop(state);
            self.0.checkers.holders_stand_still(self.0.host, false);
        }
    }

    /// Whether some of them have a daemon that is gone: none of these ports is theirs. Nobody ends them.
    #[must_use]
    pub fn are_left_alone(&self, ports: &[Rc<Port>]) -> bool {
        let theirs = |c: &Rc<Connection>| ports.iter().any(|port| Rc::ptr_eq(&c.port, port));
        let state = self.0.state.borrow();
        state.families.values().filter_map(|f| f.connection.as_ref()).any(|c| !theirs(c))
    }

    /// Whether something here cannot be ended but by a reset, or not before it would go on beside its daemon.
    #[must_use]
    pub fn are_stubborn(&self) -> bool {
        let state = self.0.state.borrow();
        let ends = |f: &Family| f.manners.on_kill.map(|d| d + f.manners.last_write + NEWS);
        state.families.values().any(|f| ends(f).is_none_or(|after| after > HEAD_START - Duration::from_millis(50)))
    }

    /// The oldest process is killed by somebody else; `false`: there is none.
    pub fn kill_one(&self) -> bool {
        let oldest = self.0.state.borrow().processes.iter().find(|(_, p)| !p.dying).map(|(pid, _)| *pid);
        if let Some(pid) = oldest {
            self.die(pid);
        }
        oldest.is_some()
    }

    /// How many processes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.state.borrow().processes.len()
    }
}

/// The leader of a family, from its own point of view.
pub struct Leader {
    guests: Guests,
    family: u64,
    pid: i32,
    group: Group,
    connection: Rc<Connection>,
}

impl Leader {
    /// What its tasks belong to.
    #[must_use]
    pub const fn group(&self) -> Group {
        self.group
    }

    /// Sends a request and waits for its answer. `None`: the daemon is gone.
    pub async fn ask(&self, request: Request) -> Option<ResultCode> {
        self.connection.ask(request).await?;
        self.connection.answer().await
    }

    /// Registers, which has no answer.
    pub async fn register(&self) -> Option<()> {
        self.connection.ask(Request::Register).await
    }

    /// The lease of `area` is this family's: it writes from now on.
    pub fn writes(&self, area: Area) {
        let Some(term) = self.granted_under() else { return };
        let hold = self.guests.0.checkers.holds(self.guests.0.host, term, area);
        if let Some(family) = self.guests.0.state.borrow_mut().families.get_mut(&self.family) {
            family.holds.push(hold);
        }
    }

    /// It shares the lease of `area`: it reads from now on.
    pub fn reads(&self, area: Area) {
        let Some(term) = self.granted_under() else { return };
        let hold = self.guests.0.checkers.shares(self.guests.0.host, term, area);
        if let Some(family) = self.guests.0.state.borrow_mut().families.get_mut(&self.family) {
            family.holds.push(hold);
        }
    }

    /// The term under which the daemon has just granted a lease. It has one only while the lockspace is in force, and nothing is
    /// granted at any other time.
    fn granted_under(&self) -> Option<HostTerm> {
        let term = self.connection.term.get();
        if term.is_none() {
            let what = "a lease is granted in a lockspace that is not in force";
            self.guests.0.checkers.violate("grant", Some(self.guests.0.host), what);
        }
        term
    }

    /// It has stopped writing by itself, and nothing is in flight.
    pub fn stops_writing(&self) {
        let holds = {
            let mut state = self.guests.0.state.borrow_mut();
            state.families.get_mut(&self.family).map(|f| std::mem::take(&mut f.holds))
        };
        for hold in holds.unwrap_or_default() {
            self.guests.0.checkers.holds_no_more(hold);
        }
    }

    /// One more process of the family, which ends by itself after `runs`.
    pub fn fork(&self, pid: i32, keeps_connection: bool, runs: Duration) {
        let group = self.guests.add(pid, self.family, keeps_connection);
        let guests = self.guests.clone();
        self.guests.0.sim.call_after(group, runs, move || guests.die(pid));
    }

    /// Closes the connection, and goes on.
    pub fn closes(&self) {
        let mut state = self.guests.0.state.borrow_mut();
        if let Some(process) = state.processes.get_mut(&self.pid) {
            process.has_connection = false;
        }
        if !state.processes.values().any(|p| p.family == self.family && p.has_connection) {
            let client = self.connection.client;
            self.guests.tell(&self.connection, NEWS, Event::Closed { client });
        }
    }

    /// Exits.
    pub fn exits(&self) {
        self.guests.die(self.pid);
    }
}
