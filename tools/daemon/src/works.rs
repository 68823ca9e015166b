//! The daemon's works: what the supervisor says about lockspaces, leases, the watchdog and the state file is done here,
//! on whatever machine the [`Platform`] is. What it says about clients goes to a [`Front`].
//!
//! One loop owns all of it. Disks are waited for by other threads and tasks; nothing here blocks but the state file (in
//! the run directory, which is memory), the watchdog's ioctls, and wdmd for a second or two.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use delta_lease::{AreaView, DeltaArea};
use holdfast_io::clock::{Clock, First, LocalInstant, first_of};
use holdfast_io::identity::Machine;
use holdfast_io::ids::{Generation, HostName, HostTerm, SpaceName};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::timing::FireTimeout;
use holdfast_protocol::codes::ResultCode;
use paxos_lease::{Held, Me};
use tokio::sync::mpsc;

use crate::codes;
use crate::lockspace::{Control, Lockspace};
use crate::note::{Note, Notes};
use crate::panicked::{self, Task};
use crate::platform::{LeaseFile, Platform};
use crate::queries::format::{Formats, InUse};
use crate::resource::{self, SpaceShared, Surroundings};
use crate::state_file::StateFileError;
use crate::supervisor::Supervisor;
use crate::supervisor::event::{
    AcquireEnd, AskRequest, Effect, Event, JoinRequest, LeaseKey, LeaseRequest, Prepared, ReplyTo, SetEvent, TaskId,
};
use crate::supervisor::index::IndexRequest;
use crate::watchdog::Watchdog;

/// Who serves clients: their connections and their processes.
pub trait Front<P: Platform> {
    /// Does one thing that concerns clients. What is known at once comes back as an event, to be applied before anything
    /// else.
    fn perform(&mut self, works: &mut Works<P>, effect: Effect<Held>) -> Option<Event<Held>>;
}

/// Why the daemon ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorksError {
    /// The state file could not be written: what it must name before the fact cannot be named (P1), so nothing may follow.
    #[error(transparent)]
    State(#[from] StateFileError),
}

/// What the loop goes on with.
pub enum Turn<P: Platform> {
    /// Time has passed.
    Tick,
    /// A thread or a task has something to tell.
    Note(Note<P>),
}

/// A lockspace from the start of its join.
pub(crate) struct Joined<P: Platform> {
    request: JoinRequest,
    control: Control,
    /// Found by the join, before our generation is known.
    opened: Option<(DeltaArea, Arc<P::File>)>,
    /// The first looks at the area, taken before there was a table for them.
    early: Vec<AreaView>,
    /// Once joined.
    pub(crate) shared: Option<Rc<SpaceShared<P>>>,
}

impl<P: Platform> Joined<P> {
    /// What of it must not be formatted, as far as that is known.
    pub(crate) fn in_use(&self) -> InUse<P> {
        match (&self.shared, &self.opened) {
            (Some(shared), _) => InUse::Joined(Rc::downgrade(shared)),
            (None, Some((area, file))) => InUse::Found { node: file.node(), area: *area },
            (None, None) => InUse::Opening(self.request.place.clone()),
        }
    }
}

/// Both ends of a queue of notes. We hold a sender ourselves: it never ends.
struct Channel<P: Platform> {
    sender: Notes<P>,
    inbox: mpsc::UnboundedReceiver<Note<P>>,
}

impl<P: Platform> Channel<P> {
    fn new() -> Self {
        let (sender, inbox) = Notes::channel();
        Channel { sender, inbox }
    }
}

/// The supervisor and everything it reaches but clients.
pub struct Works<P: Platform> {
    /// The rules and all state.
    pub supervisor: Supervisor<Held>,
    pub(crate) spaces: BTreeMap<SpaceName, Joined<P>>,
    platform: P,
    machine: Machine,
    name: HostName,
    /// What lockspaces tell, heard before anything else: see [`Works::next`].
    news: Channel<P>,
    /// What clients ask, and what tasks tell.
    notes: Channel<P>,
    device: Option<Box<dyn Watchdog>>,
    formats: Formats,
}

impl<P: Platform> Works<P> {
    /// Works of a daemon called `name`, on `machine`.
    #[must_use]
    pub fn new(supervisor: Supervisor<Held>, platform: P, machine: Machine, name: HostName) -> Self {
        let (spaces, formats) = (BTreeMap::new(), Formats::default());
        let (news, notes) = (Channel::new(), Channel::new());
        Works { supervisor, spaces, platform, machine, name, news, notes, device: None, formats }
    }

    /// Where it runs.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// Which machine that is.
    pub const fn machine(&self) -> Machine {
        self.machine
    }

    /// How clients and tasks reach the loop.
    pub const fn notes(&self) -> &Notes<P> {
        &self.notes.sender
    }

    /// The formattings of this daemon that are not over.
    pub const fn formats(&self) -> &Formats {
        &self.formats
    }

    /// What of this daemon's must not be formatted.
    pub fn in_use(&self) -> Vec<InUse<P>> {
        self.spaces.values().map(Joined::in_use).collect()
    }

    /// Waits for what is next. Nothing is lost if this is dropped before it is done.
    ///
    /// What lockspaces tell comes first, however much clients have asked: a renewal that landed in time and is heard of
    /// after D2's instant is one that did not land. So everything about a lockspace that must keep its order is told by this
    /// one way: by its thread, and by who asks the thread to leave. What thereby overtakes clients' requests and tasks'
    /// ends, overtakes nothing it depends on:
    /// - a renewal only moves an instant, to where the disk says that it is; that one has failed, or that the lockspace is
    ///   lost, takes effect earlier, and a lease that a task has got meanwhile is then granted to nobody;
    /// - that a join is over, and that a lockspace is left, follows on what this loop itself did before: it asks a thread to
    ///   leave only once no lease task of the lockspace is left to be heard of, and nobody is guarded in it.
    ///
    /// A thread tells a few things in each renewal interval: clients are not kept waiting by them.
    pub async fn next(&mut self) -> Turn<P> {
        let clock = self.platform.clock();
        let wake = self.supervisor.next_wakeup(clock.now());
        let urgent = first_of(self.news.inbox.recv(), clock.sleep_until(wake));
        match first_of(urgent, self.notes.inbox.recv()).await {
            First::A(First::A(Some(note))) | First::B(Some(note)) => Turn::Note(note),
            First::A(First::B(())) | First::A(First::A(None)) | First::B(None) => Turn::Tick,
        }
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// [`WorksError`].
    pub async fn take(&mut self, front: &mut impl Front<P>, turn: Turn<P>) -> Result<(), WorksError> {
        match turn {
            Turn::Tick => self.handle(front, Event::Tick).await,
            Turn::Note(note) => self.note(front, note).await,
        }
    }

    async fn note(&mut self, front: &mut impl Front<P>, note: Note<P>) -> Result<(), WorksError> {
        match note {
            Note::Event(event) => {
                let event = *event;
                if let Event::Joined { space, result: Ok(join) } = &event {
                    self.share(*space, join.generation);
                }
                let left = match &event {
                    Event::Left { space } => Some(*space),
                    _ => None,
                };
                self.handle(front, event).await?;
                if let Some(shared) = left.and_then(|space| self.spaces.remove(&space)).and_then(|joined| joined.shared)
                {
                    self.platform.spawn(async move { shared.give_back_fences().await });
                }
            }
            Note::Opened { space, area, file } => {
                if let Some(joined) = self.spaces.get_mut(&space) {
                    joined.opened = Some((area, file));
                }
            }
            Note::Seen { space, view } => {
                let Some(joined) = self.spaces.get_mut(&space) else { return Ok(()) };
                let Some(shared) = &joined.shared else {
                    joined.early.push(view);
                    return Ok(());
                };
                shared.hosts.borrow_mut().observe_area(&view);
                let calls = shared.calls();
                if !calls.is_empty() {
                    self.handle(front, Event::Called { space, calls }).await?;
                }
            }
        }
        Ok(())
    }

    /// A lockspace is joined at this generation: what its lease tasks share is put together.
    fn share(&mut self, space: SpaceName, generation: Generation) {
        let Some(joined) = self.spaces.get_mut(&space) else { return };
        let Some((area, file)) = joined.opened.take() else { return };
        let JoinRequest { host_id, fire, io_timeout, .. } = joined.request;
        let me = Me { term: HostTerm { host_id, generation }, machine: self.machine, fire, io_timeout };
        let shared = SpaceShared::new(area, file, me, &self.platform);
        for view in joined.early.drain(..) {
            shared.hosts.borrow_mut().observe_area(&view);
        }
        joined.shared = Some(Rc::new(shared));
    }

    /// One event, and all that follows from it at once.
    ///
    /// # Errors
    /// [`WorksError`].
    pub async fn handle(&mut self, front: &mut impl Front<P>, event: Event<Held>) -> Result<(), WorksError> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.supervisor.apply(event, self.platform.clock().now()) {
                self.platform.before(&effect).await;
                events.extend(self.perform(front, effect)?);
            }
        }
        Ok(())
    }

    fn perform(&mut self, front: &mut impl Front<P>, effect: Effect<Held>) -> Result<Option<Event<Held>>, WorksError> {
        match effect {
            Effect::Save(state) => self.platform.write_state(&state)?,
            Effect::Arm(fire) => return Ok(Some(self.arm(fire))),
            Effect::Pet { until } => return Ok(Some(self.pet(until))),
            Effect::Fire => self.fire(),
            Effect::Disarm => self.disarm(),
            Effect::StartJoin(request) => self.start_join(request),
            Effect::AllowJoin { space } => self.with_space(space, |j| j.control.allow.set()),
            Effect::SetLimit { space, until } => self.with_shared(space, |s| s.limit.set(until)),
            Effect::CloseLimit { .. } if planted(Bug::LimitLeftOpen) => {}
            Effect::CloseLimit { space } => self.with_shared(space, |s| {
                s.limit.close();
                // Tasks that would go on undoing what may no longer be written come to their end.
                s.over.set();
            }),
            Effect::EndTasks { space } => self.with_shared(space, |s| s.over.set()),
            Effect::Leave { space, free } => self.leave(space, free),
            Effect::OpenDevice { task, request } => self.open_device(task, request),
            Effect::FenceSaved { saved } => saved.set(),
            Effect::StartAcquire { task, request, stop } => {
                if let Some(shared) = self.shared(request.key.space) {
                    match shared.begin_acquire(&request, &self.formats) {
                        Ok(()) => {
                            let key = request.key;
                            let run =
                                resource::run_acquire(Rc::clone(&shared), task, request, stop, self.notes().clone());
                            self.run(Task::Acquire, task, (shared, key), run);
                        }
                        Err(why) => {
                            let (code, may_change, undoing) = (ResultCode::EAGAIN, true, false);
                            let end = AcquireEnd::Refused { code, why, may_change, undoing };
                            self.notes().event(Event::Acquired { task, end });
                        }
                    }
                }
            }
            Effect::StartRelease { task, key, held, rename, value, .. } => {
                if let Some(shared) = self.shared(key.space) {
                    let release = resource::Release { key, held, rename, value };
                    let run = resource::run_release(Rc::clone(&shared), task, release, self.notes().clone());
                    self.run(Task::Release, task, (shared, key), run);
                }
            }
            Effect::StartConvert { task, request, stop } => {
                if let Some(shared) = self.shared(request.key.space) {
                    let key = request.key;
                    let run = resource::run_convert(Rc::clone(&shared), task, request, stop, self.notes().clone());
                    self.run(Task::Convert, task, (shared, key), run);
                }
            }
            Effect::OpenIndex { task, request } => self.open_index(task, request),
            Effect::StartIndex { task, request, stop } => {
                if let Some(shared) = self.shared(request.space) {
                    let surroundings = Surroundings { used: self.in_use(), formats: self.formats.clone() };
                    let (key, notes) = (request.key(), self.notes().clone());
                    let run = resource::run_index(Rc::clone(&shared), task, request, stop, surroundings, notes);
                    self.run(Task::Index, task, (shared, key), run);
                }
            }
            Effect::Ask(request) => self.ask(request),
            Effect::Examine { key, lver, held } => {
                if let Some(shared) = self.shared(key.space) {
                    self.platform.spawn(resource::run_examine(shared, key, lver, held, self.notes().clone()));
                }
            }
            Effect::FindGeneration { to, set } => return Ok(Some(self.find_generation(to, set))),
            Effect::Verify { key, held } => {
                if let Some(shared) = self.shared(key.space) {
                    let notes = self.notes().clone();
                    self.platform.spawn(async move {
                        let look = resource::run_verify(shared, key, &held, notes.clone());
                        panicked::verifying(look, key, &held, notes).await;
                    });
                }
            }
            Effect::Publish { space, publication } => self.with_space(space, |j| j.control.publish(publication)),
            of_clients @ (Effect::Reply { .. }
            | Effect::Next { .. }
            | Effect::Close { .. }
            | Effect::Tell { .. }
            | Effect::Forget { .. }
            | Effect::Identify { .. }
            | Effect::WatchGroup { .. }
            | Effect::WatchWrites { .. }
            | Effect::DrainWrites { .. }
            | Effect::Answer { .. }
            | Effect::AnswerStatus { .. }
            | Effect::RunProgram { .. }
            | Effect::Kill(_)
            | Effect::Exit) => return Ok(front.perform(self, of_clients)),
        }
        Ok(None)
    }

    /// Runs a task of a lease, whose end is reported even if it panics.
    fn run(
        &self,
        what: Task,
        task: TaskId,
        (shared, key): (Rc<SpaceShared<P>>, LeaseKey),
        work: impl Future<Output = ()> + 'static,
    ) {
        self.platform.spawn(panicked::reported(work, what, task, self.notes().clone(), move || shared.panicked(key)));
    }

    fn with_space(&self, space: SpaceName, act: impl FnOnce(&Joined<P>)) {
        if let Some(joined) = self.spaces.get(&space) {
            act(joined);
        }
    }

    fn with_shared(&self, space: SpaceName, act: impl FnOnce(&SpaceShared<P>)) {
        if let Some(shared) = self.spaces.get(&space).and_then(|j| j.shared.as_ref()) {
            act(shared);
        }
    }

    /// What tasks of a lockspace share, once its generation is known.
    #[must_use]
    pub fn shared(&self, space: SpaceName) -> Option<Rc<SpaceShared<P>>> {
        self.spaces.get(&space).and_then(|j| j.shared.clone())
    }

    /// The generation that a host was last seen with; 0: never seen.
    fn find_generation(&self, to: ReplyTo, set: SetEvent) -> Event<Held> {
        let found = self.spaces.get(&set.space).and_then(|j| j.shared.as_ref()).and_then(|shared| {
            let hosts = shared.hosts.borrow();
            Some(hosts.observation(set.host_id)?.sector()?.generation())
        });
        Event::EventAimed { to, set: SetEvent { generation: found.map_or(0, |g| g.0), ..set } }
    }

    fn arm(&mut self, fire: FireTimeout) -> Event<Held> {
        match self.platform.open_watchdog(fire) {
            Ok(device) => {
                let (device_seconds, stays_on) = (device.timeout().map(|s| s.0), device.stays_on());
                tracing::info!(watchdog = device.describe(), "armed");
                self.device = Some(device);
                Event::Armed { result: Ok(()), device_seconds, stays_on }
            }
            Err(e) => Event::Armed { result: Err(codes::chain(&e)), device_seconds: None, stays_on: false },
        }
    }

    fn pet(&mut self, until: LocalInstant) -> Event<Held> {
        let result = match &mut self.device {
            Some(device) => device.pet(until).map_err(|e| codes::chain(&e)),
            None => Err("no watchdog is open".to_owned()),
        };
        Event::Petted { result, until }
    }

    fn fire(&mut self) {
        if let Some(device) = &mut self.device
            && let Err(error) = device.fire_at_once()
        {
            tracing::error!(%error, "the watchdog takes no shorter timeout: it fires at its own");
        }
    }

    fn disarm(&mut self) {
        if let Some(mut device) = self.device.take()
            && let Err(error) = device.disarm()
        {
            tracing::error!(%error, "the watchdog could not be stopped");
        }
    }

    fn start_join(&mut self, request: JoinRequest) {
        let control = Control::default();
        let space = request.space;
        let lockspace = Lockspace {
            request: request.clone(),
            name: self.name,
            machine: self.machine,
            platform: self.platform.clone(),
            notes: self.news.sender.clone(),
            control: control.clone(),
        };
        if let Err(e) = self.platform.start_lockspace(lockspace) {
            let result = Err((ResultCode::EAGAIN, format!("no thread for the lockspace: {e}")));
            self.news.sender.event(Event::Joined { space, result });
            self.news.sender.event(Event::Left { space });
        }
        self.spaces.insert(space, Joined { request, control, opened: None, early: Vec::new(), shared: None });
    }

    /// First every lease write is reaped, then the delta lease is given back: it frees all leases at once.
    fn leave(&self, space: SpaceName, free: bool) {
        let Some(joined) = self.spaces.get(&space) else { return };
        let (control, shared, news) = (joined.control.clone(), joined.shared.clone(), self.news.sender.clone());
        self.platform.spawn(async move {
            if let Some(shared) = shared {
                shared.over.set();
                if !planted(Bug::FreedWithWritesInFlight) {
                    shared.reaped().await;
                }
            }
            if !free {
                // Before the thread can say that it has left.
                news.event(Event::Reaped { space });
            }
            control.leave(free);
        });
    }

    /// Asks an owner, on a disk of its own: what it writes is a message, and nothing waits for it (paxos-lease, ask.rs).
    fn ask(&mut self, request: AskRequest) {
        let AskRequest { to, key, .. } = request;
        let Some(shared) = self.shared(key.space) else {
            let result = Err((ResultCode::ENOSPC, "the lockspace is not joined".to_owned()));
            return self.notes().event(Event::Asked { to, key, result });
        };
        let notes = self.notes().clone();
        self.platform.spawn(async move {
            let opened = resource::open_all(&shared, &request.places).await;
            let result = resource::ask_on(&shared, opened, &request).await;
            notes.event(Event::Asked { to, key, result });
        });
    }

    fn open_index(&mut self, task: TaskId, request: IndexRequest) {
        let Some(shared) = self.shared(request.space) else {
            let prepared = Prepared::refused(ResultCode::ENOSPC, "the lockspace is not joined".to_owned());
            return self.notes().event(Event::IndexReady { task, prepared });
        };
        let (platform, notes, its, key) =
            (self.platform.clone(), self.notes().clone(), Rc::clone(&shared), request.key());
        let work = async move {
            let prepared = match codes::opened(platform.open_apart(&request.place.path, &request.place.by).await) {
                Ok(file) => resource::prepare_index(&shared, file, &request).await,
                Err((code, why)) => Prepared::refused(code, why),
            };
            notes.event(Event::IndexReady { task, prepared });
        };
        self.run(Task::OpenIndex, task, (its, key), work);
    }

    fn open_device(&mut self, task: TaskId, request: LeaseRequest) {
        let Some(shared) = self.shared(request.key.space) else {
            let prepared = Prepared::refused(ResultCode::ENOSPC, "the lockspace is not joined".to_owned());
            return self.notes().event(Event::DeviceReady { task, prepared });
        };
        let (notes, key, its) = (self.notes().clone(), request.key, Rc::clone(&shared));
        let work = async move {
            let opened = resource::open_all(&shared, &request.places).await;
            let prepared = resource::prepare(&shared, opened, &request).await;
            notes.event(Event::DeviceReady { task, prepared });
        };
        self.run(Task::Open, task, (its, key), work);
    }
}

#[cfg(test)]
mod tests;
