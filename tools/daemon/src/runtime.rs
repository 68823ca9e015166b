//! The daemon at work: one thread, one loop, which hands events to the supervisor and does what it says.
//!
//! Disks are waited for by other threads and tasks; nothing here blocks but the state file (in the run directory, which is
//! memory) and the watchdog's ioctls.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use delta_lease::{AreaView, DeltaArea};
use holdfast_io::clock::{BootClock, Clock};
use holdfast_io::identity::Machine;
use holdfast_io::ids::{Generation, HostName, HostTerm, SpaceName};
use holdfast_io::sys::linux::BlockFile;
use holdfast_io::timing::FireTimeout;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::header::Header;
use holdfast_protocol::request::{Message, Request};
use paxos_lease::{Held, Me};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::connection::Connection;
use crate::group;
use crate::guard::Peer;
use crate::lockspace::{Control, Lockspace};
use crate::nodes::Nodes;
use crate::note::{Note, Notes};
use crate::procfs::Procfs;
use crate::queries::format::{Formats, InUse};
use crate::queries::{self, Answer, Context};
use crate::resource::{self, SpaceShared};
use crate::state_file::StateFile;
use crate::supervisor::Supervisor;
use crate::supervisor::event::{ClientId, Effect, Event, JoinRequest, Kill, LeaseRequest, ReplyTo, TaskId};
use crate::watchdog::{Choice, Watchdog};

/// What the daemon is made of.
pub struct Runtime {
    /// Its rules and state.
    pub supervisor: Supervisor<Held>,
    /// Its clock.
    pub clock: BootClock,
    /// Its open devices.
    pub nodes: Arc<Nodes>,
    /// Which machine it runs on.
    pub machine: Machine,
    /// Its host name.
    pub name: HostName,
    /// Which watchdog.
    pub watchdog: Choice,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Connections served at once; the descriptors left are for devices.
    pub most_guests: usize,
}

struct Guest {
    connection: Connection,
    peer: Peer,
}

/// A lockspace from the start of its join.
struct Joined {
    request: JoinRequest,
    control: Control,
    /// Found by the join, before our generation is known.
    opened: Option<(DeltaArea, Arc<BlockFile>)>,
    /// The first looks at the area, taken before there was a table for them.
    early: Vec<AreaView>,
    /// Once joined.
    shared: Option<Rc<SpaceShared>>,
}

impl Joined {
    /// What of it must not be formatted, as far as that is known.
    fn in_use(&self) -> InUse {
        match (&self.shared, &self.opened) {
            (Some(shared), _) => InUse::Joined(Rc::downgrade(shared)),
            (None, Some((area, file))) => InUse::Found { node: file.node(), area: *area },
            (None, None) => {
                let place = &self.request.place;
                InUse::Opening { path: place.path.clone(), offset: place.offset }
            }
        }
    }
}

/// The loop and everything it reaches.
struct Shell {
    parts: Runtime,
    notes: Notes,
    procfs: Procfs,
    guests: BTreeMap<ClientId, Guest>,
    spaces: BTreeMap<SpaceName, Joined>,
    device: Option<Box<dyn Watchdog>>,
    formats: Formats,
    last_client: u64,
    reserve: Vec<File>,
    exit: bool,
}

/// Why the daemon ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The state file could not be written: what it must name before the fact cannot be named (P1), so nothing may follow.
    #[error(transparent)]
    State(#[from] crate::state_file::StateFileError),
}

/// Descriptors kept back so that the state file can be written when no other is to be had.
const RESERVE: usize = 2;

/// Serves until the supervisor says that the work is done.
///
/// # Errors
/// [`RuntimeError`]. The watchdog is left counting: what was guarded is guarded no more.
pub async fn serve(
    parts: Runtime,
    listener: UnixListener,
    mut signals: mpsc::UnboundedReceiver<()>,
    at_start: Vec<Request>,
) -> Result<(), RuntimeError> {
    let (notes, mut inbox) = Notes::channel();
    let mut shell = Shell {
        parts,
        notes,
        procfs: Procfs::default(),
        guests: BTreeMap::new(),
        spaces: BTreeMap::new(),
        device: None,
        formats: Formats::default(),
        last_client: 0,
        reserve: Vec::new(),
        exit: false,
    };
    shell.keep_reserve();
    shell.begin(at_start)?;
    while !shell.exit {
        let now = shell.parts.clock.now();
        let wake = shell.parts.supervisor.next_wakeup(now);
        let clock = shell.parts.clock.clone();
        let full = shell.is_full() && shell.idle_guest().is_none();
        tokio::select! {
            biased;
            () = clock.sleep_until(wake) => shell.handle(Event::Tick)?,
            note = inbox.recv() => if let Some(note) = note { shell.note(note)? },
            signal = signals.recv() => if signal.is_some() { shell.handle(Event::ShutdownSignal)? },
            accepted = listener.accept(), if !full => shell.accept(accepted).await?,
        }
    }
    // Replies that were just handed to their connections still have to leave.
    for guest in shell.guests.values() {
        guest.connection.close();
    }
    shell.parts.clock.sleep(Duration::from_millis(50)).await;
    Ok(())
}

/// The daemon itself, as the client that asks for what the configuration says. Its replies go nowhere.
const OURSELVES: ClientId = ClientId(0);

impl Shell {
    fn begin(&mut self, at_start: Vec<Request>) -> Result<(), RuntimeError> {
        let pid = i32::try_from(std::process::id()).unwrap_or(-1);
        self.handle(Event::Connected { client: OURSELVES, pid })?;
        for request in at_start {
            let header = Header::request(request.command());
            let message = Message { header, command: request.command(), request };
            self.handle(Event::Request { client: OURSELVES, message })?;
        }
        self.handle(Event::Closed { client: OURSELVES })
    }

    async fn accept(
        &mut self,
        accepted: std::io::Result<(UnixStream, tokio::net::unix::SocketAddr)>,
    ) -> Result<(), RuntimeError> {
        match accepted {
            Ok((stream, _)) => {
                self.make_room()?;
                self.last_client += 1;
                let client = ClientId(self.last_client);
                // A peer that is gone before it is looked at had nothing to say.
                let Some(peer) = Peer::of(&stream) else { return Ok(()) };
                let pid = peer.pid();
                let connection = Connection::start(client, stream, &self.notes, &self.parts.clock);
                self.guests.insert(client, Guest { connection, peer });
                self.handle(Event::Connected { client, pid })
            }
            Err(error) => {
                // No descriptor to be had, most likely: the others go on, and this one is tried again.
                tracing::error!(%error, "a connection could not be accepted");
                self.parts.clock.sleep(Duration::from_millis(20)).await;
                Ok(())
            }
        }
    }

    fn is_full(&self) -> bool {
        self.guests.len() >= self.parts.most_guests
    }

    /// The oldest connection that stands for no client and wants nothing at present.
    fn idle_guest(&self) -> Option<ClientId> {
        let idle = |(id, guest): &(&ClientId, &Guest)| {
            !guest.connection.is_busy() && !self.parts.supervisor.is_registered(**id)
        };
        self.guests.iter().find(idle).map(|(id, _)| *id)
    }

    /// Connections that nobody uses must not keep clients and administrators out: where there are too many, the oldest
    /// of them goes.
    fn make_room(&mut self) -> Result<(), RuntimeError> {
        if !self.is_full() {
            return Ok(());
        }
        let Some(client) = self.idle_guest() else { return Ok(()) };
        tracing::debug!(
            client = client.0,
            most = self.parts.most_guests,
            "too many connections: an idle one is closed"
        );
        self.with(client, |g| g.connection.cut());
        self.handle(Event::Closed { client })
    }

    fn note(&mut self, note: Note) -> Result<(), RuntimeError> {
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
                self.handle(event)?;
                if let Some(shared) = left.and_then(|space| self.spaces.remove(&space)).and_then(|joined| joined.shared)
                {
                    spawn_local(async move { shared.give_back_fences().await });
                }
            }
            Note::Opened { space, area, file } => {
                if let Some(joined) = self.spaces.get_mut(&space) {
                    joined.opened = Some((area, file));
                }
            }
            Note::Seen { space, view } => {
                if let Some(joined) = self.spaces.get_mut(&space) {
                    match &joined.shared {
                        Some(shared) => shared.hosts.borrow_mut().observe_area(&view),
                        None => joined.early.push(view),
                    }
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
        let me = Me { term: HostTerm { host_id, generation }, machine: self.parts.machine, fire, io_timeout };
        let shared = SpaceShared::new(area, file, me, &self.parts.nodes, &self.parts.clock);
        for view in joined.early.drain(..) {
            shared.hosts.borrow_mut().observe_area(&view);
        }
        joined.shared = Some(Rc::new(shared));
    }

    fn handle(&mut self, event: Event<Held>) -> Result<(), RuntimeError> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let effects = self.parts.supervisor.apply(event, self.parts.clock.now());
            for effect in effects {
                events.extend(self.perform(effect)?);
            }
        }
        Ok(())
    }

    /// Does one thing. What is known at once comes back as an event, to be applied before anything else.
    fn perform(&mut self, effect: Effect<Held>) -> Result<Option<Event<Held>>, RuntimeError> {
        match effect {
            Effect::Reply { client, bytes } => self.with(client, |g| g.connection.send(bytes)),
            Effect::Next { client } => self.with(client, |g| g.connection.next()),
            Effect::Close { client } => {
                self.with(client, |g| g.connection.close());
                return Ok(Some(Event::Closed { client }));
            }
            Effect::Forget { client } => {
                if let Some(guest) = self.guests.remove(&client) {
                    guest.connection.last_words();
                }
            }
            Effect::Identify { client } => return Ok(self.identify(client)),
            Effect::WatchGroup { client } => {
                if let Some(leader) = self.parts.supervisor.process_of(client) {
                    spawn_local(group::watch(leader, client, self.notes.clone(), self.parts.clock.clone()));
                }
            }
            Effect::Answer { to, request } => self.answer(to, request),
            Effect::AnswerStatus { to } => self.answer_status(to),
            Effect::Save(state) => self.save(&state)?,
            Effect::Arm(fire) => return Ok(Some(self.arm(fire))),
            Effect::Pet => return Ok(self.pet()),
            Effect::Fire => self.fire(),
            Effect::Disarm => self.disarm(),
            Effect::StartJoin(request) => self.start_join(request),
            Effect::AllowJoin { space } => self.with_space(space, |j| j.control.allow.set()),
            Effect::SetLimit { space, until } => self.with_shared(space, |s| s.limit.set(until)),
            Effect::CloseLimit { space } => self.with_shared(space, |s| {
                s.limit.close();
                // Tasks that would go on undoing what may no longer be written come to their end.
                s.over.set();
            }),
            Effect::Leave { space, free } => self.leave(space, free),
            Effect::OpenDevice { task, request } => self.open_device(task, request),
            Effect::StartAcquire { task, request, stop } => {
                if let Some(shared) = self.shared(request.key.space) {
                    let (notes, clock) = (self.notes.clone(), self.parts.clock.clone());
                    spawn_local(resource::run_acquire(shared, task, request, stop, notes, clock));
                }
            }
            Effect::StartRelease { task, key, held, .. } => {
                if let Some(shared) = self.shared(key.space) {
                    let (notes, clock) = (self.notes.clone(), self.parts.clock.clone());
                    spawn_local(resource::run_release(shared, task, key, held, notes, clock));
                }
            }
            Effect::Kill(kill) => self.kill(kill),
            Effect::Exit => self.exit = true,
        }
        Ok(None)
    }

    fn with(&self, client: ClientId, act: impl FnOnce(&Guest)) {
        if let Some(guest) = self.guests.get(&client) {
            act(guest);
        }
    }

    fn with_space(&self, space: SpaceName, act: impl FnOnce(&Joined)) {
        if let Some(joined) = self.spaces.get(&space) {
            act(joined);
        }
    }

    fn with_shared(&self, space: SpaceName, act: impl FnOnce(&SpaceShared)) {
        if let Some(shared) = self.spaces.get(&space).and_then(|j| j.shared.as_ref()) {
            act(shared);
        }
    }

    /// What tasks of a lockspace share, once its generation is known.
    fn shared(&self, space: SpaceName) -> Option<Rc<SpaceShared>> {
        self.spaces.get(&space).and_then(|j| j.shared.clone())
    }

    fn identify(&mut self, client: ClientId) -> Option<Event<Held>> {
        let guest = self.guests.get(&client)?;
        let process = guest.peer.identify(&self.procfs);
        guest.peer.watch(client, &self.notes);
        Some(Event::Registered { client, process })
    }

    /// The state file is written even if every descriptor is taken: those in reserve are for it alone.
    fn save(&mut self, state: &StateFile) -> Result<(), RuntimeError> {
        if let Err(error) = state.write(&self.parts.run_dir) {
            self.reserve.clear();
            tracing::warn!(error = crate::codes::chain(&error), "the state file is written again");
            state.write(&self.parts.run_dir)?;
        }
        self.keep_reserve();
        Ok(())
    }

    fn keep_reserve(&mut self) {
        while self.reserve.len() < RESERVE
            && let Ok(file) = File::open("/dev/null")
        {
            self.reserve.push(file);
        }
    }

    fn arm(&mut self, fire: FireTimeout) -> Event<Held> {
        match self.parts.watchdog.open(fire) {
            Ok(device) => {
                let device_seconds = device.timeout().map(|s| s.0);
                tracing::info!(watchdog = device.describe(), "armed");
                self.device = Some(device);
                Event::Armed { result: Ok(()), device_seconds }
            }
            Err(e) => Event::Armed { result: Err(crate::codes::chain(&e)), device_seconds: None },
        }
    }

    fn pet(&mut self) -> Option<Event<Held>> {
        let result = match &mut self.device {
            Some(device) => device.pet().map_err(|e| crate::codes::chain(&e)),
            None => Err("no watchdog is open".to_owned()),
        };
        Some(Event::Petted { result })
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
            name: self.parts.name,
            machine: self.parts.machine,
            nodes: Arc::clone(&self.parts.nodes),
            notes: self.notes.clone(),
            control: control.clone(),
        };
        if let Err(e) = lockspace.spawn() {
            let result = Err((ResultCode::EAGAIN, format!("no thread for the lockspace: {e}")));
            self.notes.event(Event::Joined { space, result });
            self.notes.event(Event::Left { space });
        }
        self.spaces.insert(space, Joined { request, control, opened: None, early: Vec::new(), shared: None });
    }

    /// First every lease write is reaped, then the delta lease is given back: it frees all leases at once.
    fn leave(&self, space: SpaceName, free: bool) {
        let Some(joined) = self.spaces.get(&space) else { return };
        let (control, shared, notes) = (joined.control.clone(), joined.shared.clone(), self.notes.clone());
        spawn_local(async move {
            if let Some(shared) = shared {
                shared.over.set();
                shared.reaped().await;
            }
            if !free {
                notes.event(Event::Reaped { space });
            }
            control.leave(free);
        });
    }

    fn open_device(&mut self, task: TaskId, request: LeaseRequest) {
        let Some(shared) = self.shared(request.key.space) else {
            let result = Err((ResultCode::ENOSPC, "the lockspace is not joined".to_owned()));
            return self.notes.event(Event::DeviceReady { task, result });
        };
        let (nodes, notes) = (Arc::clone(&self.parts.nodes), self.notes.clone());
        spawn_local(async move {
            let path = request.place.path.clone();
            // On a thread of its own: a path on a dead server may hang in open(2).
            let result = match tokio::task::spawn_blocking(move || nodes.open(&path)).await {
                Ok(Ok(file)) => resource::prepare(&shared, file, &request).await,
                Ok(Err(e)) => {
                    let errno = e.errno().unwrap_or(nix::libc::ENODEV);
                    Err((ResultCode::from_errno(errno), crate::codes::chain(&e)))
                }
                Err(e) => Err((ResultCode::EIO, e.to_string())),
            };
            notes.event(Event::DeviceReady { task, result });
        });
    }

    fn kill(&self, kill: Kill) {
        let group = self.parts.supervisor.leads_group(kill.client);
        self.with(kill.client, |g| g.peer.kill(kill.signal, group, &self.procfs));
    }

    fn answer(&self, to: ReplyTo, request: Request) {
        let Some(guest) = self.guests.get(&to.client) else { return };
        let named = match &request {
            Request::GetHosts { lockspace } => Some(lockspace.name.as_bytes()),
            Request::Explain { resource } => Some(resource.head.lockspace_name.as_bytes()),
            _ => None,
        };
        let name = named.and_then(|n| SpaceName::new(n).ok()).filter(|n| self.parts.supervisor.is_active(n));
        let used = self.spaces.values().map(Joined::in_use).collect();
        let context = Context {
            clock: self.parts.clock.clone(),
            nodes: Arc::clone(&self.parts.nodes),
            machine: self.parts.machine,
            space: name.and_then(|n| self.spaces.get(&n)).and_then(|j| j.shared.clone()),
            used: Rc::new(used),
            formats: self.formats.clone(),
        };
        let closes = matches!(request, Request::GetHosts { .. }) && !self.parts.supervisor.is_registered(to.client);
        let reply = guest.connection.clone();
        let notes = self.notes.clone();
        spawn_local(async move {
            let Answer { code, data2, payload, why } = queries::answer(context, request).await;
            if let Some(why) = why {
                tracing::info!(code = code.number(), why, "refused");
            }
            let mut bytes = to.header.answer(code, data2, payload.len()).encode().to_vec();
            bytes.extend_from_slice(&payload);
            reply.send(bytes);
            if closes {
                reply.close();
                notes.event(Event::Closed { client: to.client });
            } else {
                reply.next();
            }
        });
    }

    fn answer_status(&self, to: ReplyTo) {
        let now = self.parts.clock.now();
        let mut document = self.parts.supervisor.snapshot(now);
        let hosts: serde_json::Map<String, serde_json::Value> = self
            .spaces
            .iter()
            .filter_map(|(name, joined)| Some((name.to_string(), hosts_of(joined.shared.as_ref()?, now))))
            .collect();
        document["hosts"] = serde_json::Value::Object(hosts);
        let payload = document.to_string().into_bytes();
        let mut bytes = to.header.answer(ResultCode::OK, 0, payload.len()).encode().to_vec();
        bytes.extend_from_slice(&payload);
        self.with(to.client, |g| {
            g.connection.send(bytes);
            g.connection.next();
        });
    }
}

fn hosts_of(shared: &SpaceShared, now: holdfast_io::clock::LocalInstant) -> serde_json::Value {
    let used: Vec<_> = {
        let hosts = shared.hosts.borrow();
        hosts.hosts().filter(|(_, seen)| seen.was_used() || seen.damage.is_some()).map(|(id, _)| id).collect()
    };
    used.into_iter().filter_map(|id| queries::host_facts(shared, id, now)).collect()
}
