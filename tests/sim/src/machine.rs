//! A simulated host as the daemon's [`Platform`]: everything above that seam runs here as it is.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_daemon::lockspace::Lockspace;
use holdfast_daemon::nodes::Nodes;
use holdfast_daemon::platform::{LeaseFile, Platform};
use holdfast_daemon::state_file::{Guarded, StateFile, StateFileError};
use holdfast_daemon::supervisor::event::{Effect, Event};
use holdfast_daemon::watchdog::{Counting, Timer, Watchdog, WatchdogError};
use holdfast_daemon::works::{Front, Works};
use holdfast_io::ids::{HostTerm, SpaceName};
use holdfast_io::sys::linux::{FenceOutcome, NodeId, OpenError};
use holdfast_io::sys::rights::Rights;
use holdfast_io::sys::watchdog::Seconds;
use holdfast_io::timing::FireTimeout;
use holdfast_io::units::SectorSize;
use holdfast_protocol::codes::ResultCode;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use paxos_lease::Held;

use crate::disk::{SimDisk, SimEngine, Writer};
use crate::executor::SimClock;
use crate::host::Process;

/// An open disk of one process.
pub struct SimFile {
    disk: SimDisk,
    writer: Writer,
    description: u64,
}

impl LeaseFile for SimFile {
    fn path(&self) -> &Arc<str> {
        self.disk.path()
    }
    fn node(&self) -> NodeId {
        NodeId::file(7, 100 + self.disk.index() as u64)
    }
    fn sector(&self) -> SectorSize {
        self.disk.sector()
    }
    fn try_fence(&self, start: u64, len: u64) -> io::Result<FenceOutcome> {
        let held = self.disk.try_lock(self.writer.host, self.description, start..start + len);
        Ok(if held { FenceOutcome::Held } else { FenceOutcome::Busy })
    }
    fn release_fence(&self, start: u64, len: u64) -> io::Result<()> {
        self.disk.unlock(self.description, &(start..start + len));
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.close(self.description);
    }
}

/// A host as one daemon process sees it. Clones are the same one.
#[derive(Clone)]
pub struct SimMachine(Rc<Inner>);

struct Inner {
    process: Process,
    nodes: Nodes<SimFile>,
    stop: Cell<Option<StopAt>>,
}

/// Where a process is stopped: between a decision and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAt {
    /// Before the effect after so many others.
    Effect(u32),
    /// Before the next pet of the watchdog.
    Pet,
}

impl SimMachine {
    /// For a process that has just been started.
    #[must_use]
    pub fn new(process: Process) -> Self {
        SimMachine(Rc::new(Inner { process, nodes: Nodes::default(), stop: Cell::default() }))
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.0.process
    }

    /// The process is going to be stopped (SIGSTOP, a page fault that takes long).
    pub fn stop(&self, at: StopAt) {
        self.0.stop.set(Some(at));
    }

    /// It is not, if it has not been yet.
    pub fn spare(&self) {
        self.0.stop.set(None);
    }
}

impl Platform for SimMachine {
    type Clock = SimClock;
    type File = SimFile;
    type Engine = SimEngine;

    fn clock(&self) -> &SimClock {
        &self.0.process.clock
    }

    fn nodes(&self) -> &Nodes<SimFile> {
        &self.0.nodes
    }

    fn open(&self, path: &Path, _by: &Rights) -> Result<Arc<SimFile>, OpenError> {
        let Process { host, writer, .. } = &self.0.process;
        let name = path.display().to_string();
        match host.disk(&name) {
            Some(disk) => {
                let description = host.next_description();
                Ok(self.0.nodes.known(SimFile { disk: disk.clone(), writer: *writer, description }))
            }
            None => Err(OpenError::Open { path: name, source: Errno::ENOENT.into() }),
        }
    }

    async fn open_apart(&self, path: &Path, by: &Rights) -> Result<Result<Arc<SimFile>, OpenError>, String> {
        let host = &self.0.process.host;
        host.sim().sleep(host.within(Duration::from_micros(10), Duration::from_millis(1))).await;
        let name = path.display().to_string();
        if host.disk(&name).is_some_and(|disk| !disk.opens_for(host.index())) {
            return Ok(Err(OpenError::Open { path: name, source: Errno::EIO.into() }));
        }
        Ok(self.open(path, by))
    }

    fn engine(&self, file: &Arc<SimFile>, _at_once: usize, _name: &'static str) -> SimEngine {
        let Process { group, clock, writer, .. } = &self.0.process;
        file.disk.engine(*writer, file.description, *group, clock.clone()).keeping_open(Rc::new(Arc::clone(file)))
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let Process { host, group, .. } = &self.0.process;
        host.sim().spawn(*group, "task", task);
    }

    fn start_lockspace(&self, lockspace: Lockspace<Self>) -> io::Result<()> {
        let clock = self.0.process.clock.clone();
        let Process { host, group, .. } = &self.0.process;
        host.sim().spawn(*group, "renewal", async move { lockspace.run(&clock).await });
        Ok(())
    }

    fn open_watchdog(&self, sealed: FireTimeout) -> Result<Box<dyn Watchdog>, WatchdogError> {
        let process = self.0.process.clone();
        if !process.host.open_watchdog(&process) {
            let path = format!("watchdog {}", process.seat.0).into();
            return Err(WatchdogError::Refused { path, operation: "opening it", source: Errno::EBUSY });
        }
        Ok(Box::new(Counting::arm(SimTimer { process, stopped: false }, sealed)?))
    }

    /// Hosts of ours open their watchdog themselves.
    fn is_clear_of_wdmd(&self) -> Result<(), WatchdogError> {
        Ok(())
    }

    fn read_state(&self) -> Result<Option<StateFile>, StateFileError> {
        Ok(self.0.process.host.state_file(self.0.process.seat))
    }

    fn write_state(&self, state: &StateFile) -> Result<(), StateFileError> {
        self.0.process.host.write_state_file(self.0.process.seat, state);
        Ok(())
    }

    fn left_of<'a>(&self, guarded: &'a BTreeSet<Guarded>) -> Vec<&'a Guarded> {
        guarded.iter().filter(|g| !self.0.process.host.guests().is_over(g)).collect()
    }

    fn end(&self, guarded: &[&Guarded], signal: Signal) {
        guarded.iter().for_each(|g| self.0.process.host.guests().signal(g, g.group, signal));
    }

    async fn before(&self, effect: &Effect<Held>) {
        let stop = match self.0.stop.get() {
            Some(StopAt::Effect(left)) => {
                self.0.stop.set(left.checked_sub(1).map(StopAt::Effect));
                left == 0
            }
            Some(StopAt::Pet) if matches!(effect, Effect::Pet { .. }) => {
                self.0.stop.set(None);
                true
            }
            _ => false,
        };
        if stop {
            let Process { host, seat, .. } = &self.0.process;
            host.freeze(*seat);
            // Nothing of this process runs from here on, until it is thawed.
            host.sim().sleep(Duration::from_nanos(1)).await;
        }
    }
}

/// A watchdog device that a process has open.
struct SimTimer {
    process: Process,
    stopped: bool,
}

impl Timer for SimTimer {
    fn name(&self) -> String {
        format!("watchdog {}", self.process.seat.0)
    }
    fn set_timeout(&mut self, asked: Seconds) -> Result<Seconds, WatchdogError> {
        let Process { host, seat, .. } = &self.process;
        let set = host.set_watchdog(*seat, asked.0);
        Ok(Seconds(set))
    }
    fn pet(&mut self) -> Result<(), WatchdogError> {
        let Process { host, seat, writer, .. } = &self.process;
        host.pet(*seat);
        host.checkers().petted(*writer);
        Ok(())
    }
    fn disarm(mut self) -> Result<(), WatchdogError> {
        self.stopped = true;
        self.process.host.stop_watchdog(&self.process);
        Ok(())
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        if !self.stopped {
            self.process.host.close_watchdog(&self.process);
        }
    }
}

/// The daemon's side of its connections.
pub struct Desk {
    machine: SimMachine,
    space: SpaceName,
    /// The daemon's work is done.
    pub exit: bool,
}

impl Desk {
    /// For a daemon that serves lockspace `space`.
    #[must_use]
    pub fn new(machine: &SimMachine, space: SpaceName) -> Self {
        Desk { machine: machine.clone(), space, exit: false }
    }
}

impl Front<SimMachine> for Desk {
    fn perform(&mut self, works: &mut Works<SimMachine>, effect: Effect<Held>) -> Option<Event<Held>> {
        let Process { host, port, writer, group, .. } = self.machine.process().clone();
        match effect {
            Effect::Reply { client, bytes } => {
                let generation = works.supervisor.generation_in(&self.space);
                let term = generation.map(|generation| HostTerm { host_id: writer.host_id, generation });
                if let Some(connection) = port.connection(client) {
                    connection.reply(&bytes, term);
                }
            }
            Effect::Next { client } => {
                if let Some(connection) = port.connection(client) {
                    connection.next();
                }
            }
            Effect::Close { client } => {
                if let Some(connection) = port.connection(client) {
                    connection.end();
                }
                return Some(Event::Closed { client });
            }
            Effect::Forget { client } => port.forget(client),
            Effect::Identify { client } => {
                let process = port.connection(client).map(|c| c.process().clone());
                let process = process.filter(|p| host.guests().writes_until(p).is_none());
                return Some(Event::Registered { client, process });
            }
            Effect::WatchGroup { client } => {
                if let Some(connection) = port.connection(client) {
                    connection.watch_group();
                    if host.guests().writes_until(connection.process()).is_some() {
                        return Some(Event::GroupGone { client });
                    }
                }
            }
            Effect::WatchWrites { client, exited } => {
                let process = port.connection(client)?.process().clone();
                let until = host.guests().writes_until(&process).unwrap_or(0);
                if until <= host.sim().now() {
                    return Some(Event::WritesOver { client, exited });
                }
                let notes = works.notes().clone();
                host.sim().call_at(group, until + 1, move || notes.event(Event::WritesOver { client, exited }));
            }
            // A client here has nothing in flight when it gives back a lease.
            Effect::DrainWrites { client } => return Some(Event::WritesDrained { client, idle: true }),
            Effect::Answer { to, .. } | Effect::AnswerStatus { to } => {
                if let Some(connection) = port.connection(to.client) {
                    connection.reply(&to.header.answer(ResultCode::ENOSYS, 0, 0).encode(), None);
                    connection.next();
                }
            }
            Effect::Kill(kill) => {
                if let Some(connection) = port.connection(kill.client) {
                    let grouped = works.supervisor.leads_group(kill.client);
                    host.guests().signal(connection.process(), grouped, kill.signal);
                }
            }
            Effect::Exit => self.exit = true,
            other => unreachable!("{other:?} does not concern clients"),
        }
        None
    }
}
