//! The daemon at work on the real machine: connections, processes and signals around its [`Works`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::{BootClock, Clock, First, LocalInstant, first_of};
use holdfast_io::ids::SpaceName;
use holdfast_io::sys::rights::Rights;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::Class;
use holdfast_protocol::header::Header;
use holdfast_protocol::request::{Message, Request};
use paxos_lease::Held;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::codes;
use crate::config::{Config, ConfigError};
use crate::connection::{Connection, Leaving, Unread};
use crate::daemon::{Asked, joins};
use crate::group;
use crate::guard::{self, Peer};
use crate::heirs::Heirs;
use crate::linux::Linux;
use crate::log_ring::{AT_WILL, LogRing};
use crate::oom;
use crate::platform::Platform;
use crate::procfs::Procfs;
use crate::queries::{self, Answer, Asking, Context};
use crate::resource::SpaceShared;
use crate::rings::{self, Ends, Rings, User};
use crate::shares::{NoShare, Share, Shares};
use crate::supervisor::Program;
use crate::supervisor::event::{ClientId, Effect, Event, Kill, Reloaded, ReplyTo};
use crate::works::{Front, Turn, Works, WorksError};

struct Guest {
    connection: Connection,
    peer: Peer,
    /// Counted for as long as its descriptors are open: here that of the peer's process.
    _seat: Rc<Share>,
}

/// Everybody who is connected.
struct Guests {
    guests: BTreeMap<ClientId, Guest>,
    /// Those that are gone but for their last words, and whose.
    leaving: Vec<(u32, Leaving)>,
    procfs: Procfs,
    heirs: Heirs,
    rings: Rings,
    ends: Ends,
    desk: Desk,
    last_client: u64,
    exit: bool,
}

/// What woke the loop.
enum Woken {
    Turn(Turn<Linux>),
    Signal(Option<Asked>),
    Accepted(std::io::Result<Accepted>),
    /// Clients are to be looked at, whether they use io_uring.
    Look,
    /// Lockspaces of the configuration are to be joined again.
    Rejoin,
    /// Those that are joined at the start take too long.
    Late,
}

/// What clients are served with.
pub struct Desk {
    /// Connections served at once; the descriptors left are for devices.
    pub seats: Shares,
    /// Bytes of replies that were not read yet.
    pub unread: Shares,
    /// The latest log lines.
    pub log: LogRing,
}

/// Where clients and signals come from, and how the configuration is read anew.
pub struct Outside<'a> {
    /// Clients.
    pub listener: UnixListener,
    /// Signals.
    pub signals: mpsc::UnboundedReceiver<Asked>,
    /// The configuration in force.
    pub config: Config,
    /// The configuration as it reads now.
    pub again: &'a dyn Fn() -> Result<Config, ConfigError>,
    /// To be called once, when the daemon has done what it does at its start.
    pub ready: fn(),
    /// A watchdog that cannot be stopped counts, and nothing that it guarded is left.
    pub counts_on: bool,
}

/// Serves until the supervisor says that the work is done.
///
/// # Errors
/// [`WorksError`]. The watchdog is left counting: what was guarded is guarded no more.
pub async fn serve(
    works: Works<Linux>,
    desk: Desk,
    outside: Outside<'_>,
    at_start: Vec<(SpaceName, Request)>,
) -> Result<(), WorksError> {
    let Outside { listener, mut signals, config, again, ready, counts_on } = outside;
    let heirs = Heirs::new(|of| guard::signal_heirs(of, &Procfs::default()));
    let (leaving, procfs) = (Vec::new(), Procfs::default());
    let (guests, rings) = (BTreeMap::new(), Rings::default());
    let ends = Ends::new(rings.clone());
    let guests = Guests { guests, leaving, procfs, heirs, rings, ends, desk, last_client: 0, exit: false };
    let clock = works.platform().clock().clone();
    let (looks, joins) = (LocalInstant::EARLIEST, LocalInstant::EARLIEST);
    let mut shell = Shell {
        works,
        guests,
        door: Door::new(listener),
        looks,
        read: config.clone(),
        config,
        wanted: Vec::new(),
        joins,
        between_joins: FIRST_BETWEEN_JOINS,
    };
    if counts_on {
        shell.handle(Event::CountsOn).await?;
    }
    shell.want(at_start).await?;
    let mut starting = Some(clock.now().after(LONGEST_START));
    while !shell.guests.exit {
        if starting.is_some_and(|until| clock.now() >= until || !shell.joins_any()) {
            starting = None;
            ready();
        }
        // In an order that is drawn anew each time: neither do clients that never stop asking keep others, or a signal, out, nor
        // whoever never stops connecting those that ask. What lockspaces tell is first in its own branch.
        let woken = tokio::select! {
            turn = shell.works.next() => Woken::Turn(turn),
            signal = signals.recv() => Woken::Signal(signal),
            accepted = shell.door.next(&clock) => Woken::Accepted(accepted),
            () = clock.sleep_until(shell.looks), if shell.works.supervisor.has_leases() => Woken::Look,
            () = clock.sleep_until(shell.joins), if shell.lacks_any() => Woken::Rejoin,
            () = clock.sleep_until(starting.unwrap_or(LocalInstant::NEVER)), if starting.is_some() => Woken::Late,
        };
        match woken {
            Woken::Turn(turn) => shell.works.take(&mut shell.guests, turn).await?,
            Woken::Signal(signal) => match signal {
                Some(Asked::End) => shell.handle(Event::ShutdownSignal).await?,
                Some(Asked::Reload) => shell.reload(again()).await?,
                None => {}
            },
            Woken::Accepted(accepted) => shell.accept(accepted).await?,
            Woken::Look => shell.look_for_rings(clock.now()),
            Woken::Rejoin => shell.join_what_is_lacking().await?,
            Woken::Late => tracing::warn!(
                "lockspaces of the configuration are still being joined: what waits for the daemon goes on without them"
            ),
        }
    }
    // Replies that were just handed to their connections still have to leave.
    for guest in shell.guests.guests.values() {
        guest.connection.close();
    }
    shell.works.platform().clock().sleep(Duration::from_millis(50)).await;
    Ok(())
}

/// The daemon itself, as the client that asks for what the configuration says. Its replies go nowhere.
const OURSELVES: ClientId = ClientId(0);

/// The loop and everything it reaches.
struct Shell {
    works: Works<Linux>,
    guests: Guests,
    door: Door,
    /// When clients are looked at next.
    looks: LocalInstant,
    /// The configuration in force, and as it was last read: what cannot change while the daemon runs may differ.
    config: Config,
    read: Config,
    /// The lockspaces of the configuration, and what joins them.
    wanted: Vec<(SpaceName, Request)>,
    /// When those of them that could not be joined, or were lost, are tried again at the earliest.
    joins: LocalInstant,
    between_joins: Duration,
}

/// Between two attempts to join a lockspace of the configuration, whose device may come late or come back; longer each time.
const FIRST_BETWEEN_JOINS: Duration = Duration::from_secs(5);
const LAST_BETWEEN_JOINS: Duration = Duration::from_secs(80);

/// How long what starts after the daemon waits for the first joins to end, in one way or the other: as long as it takes to wait a
/// stranger out by default, and a little longer.
const LONGEST_START: Duration = Duration::from_secs(180);

impl Shell {
    async fn handle(&mut self, event: Event<Held>) -> Result<(), WorksError> {
        self.works.handle(&mut self.guests, event).await
    }

    fn look_for_rings(&mut self, now: LocalInstant) {
        let users = self.works.supervisor.users().into_iter().map(|(process, inherited)| User { process, inherited });
        self.guests.rings.look(users.collect(), now);
        self.looks = now.after(rings::LOOK);
    }

    /// From now on these lockspaces are to be joined; those that are new are, now.
    async fn want(&mut self, lockspaces: Vec<(SpaceName, Request)>) -> Result<(), WorksError> {
        let new: Vec<_> = lockspaces.iter().filter(|wanted| !self.wanted.contains(wanted)).cloned().collect();
        let all = lockspaces.iter().map(|(name, _)| *name).collect();
        self.works.supervisor.want(new.iter().map(|(name, _)| *name), &all);
        (self.wanted, self.between_joins) = (lockspaces, FIRST_BETWEEN_JOINS);
        self.ask_ourselves(new.into_iter().map(|(_, join)| join).collect()).await
    }

    fn joins_any(&self) -> bool {
        self.wanted.iter().any(|(name, _)| self.works.supervisor.is_joining(name))
    }

    fn lacks_any(&self) -> bool {
        self.wanted.iter().any(|(name, _)| self.works.supervisor.lacks(name))
    }

    /// A join is as safe late as early: it waits out whoever had the host_id, ourselves as well.
    async fn join_what_is_lacking(&mut self) -> Result<(), WorksError> {
        let lacking = self.wanted.iter().filter(|(name, _)| self.works.supervisor.lacks(name));
        let lacking = lacking.map(|(_, join)| join.clone()).collect();
        self.between_joins = (self.between_joins * 2).min(LAST_BETWEEN_JOINS);
        self.ask_ourselves(lacking).await
    }

    async fn ask_ourselves(&mut self, requests: Vec<Request>) -> Result<(), WorksError> {
        self.joins = self.works.platform().clock().now().after(self.between_joins);
        let pid = i32::try_from(std::process::id()).unwrap_or(-1);
        self.handle(Event::Connected { client: OURSELVES, pid, rights: Rights::Ours }).await?;
        for request in requests {
            let header = Header::request(request.command());
            let message = Message { header, command: request.command(), request };
            self.handle(Event::Request { client: OURSELVES, message }).await?;
        }
        self.handle(Event::Closed { client: OURSELVES }).await
    }

    /// The configuration was read again: what can change while leases are held does, and lockspaces that are new are joined.
    /// One that cannot be read changes nothing.
    async fn reload(&mut self, read: Result<Config, ConfigError>) -> Result<(), WorksError> {
        let loaded =
            read.map_err(|e| codes::chain(&e)).and_then(|new| Ok((joins(&new).map_err(|e| codes::chain(&e))?, new)));
        let (wanted, new) = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                tracing::error!(why, "the configuration was not read again: the one before stays in force");
                return Ok(());
            }
        };
        for (what, waits) in self.config.news(&self.read, &new) {
            if waits {
                tracing::warn!(what, "was changed: what was in force at the start stays so until a restart");
            } else {
                tracing::info!(what, "was changed back to what is in force");
            }
        }
        (self.config, self.read) = (self.config.taking(&new), new.clone());
        let change =
            Reloaded { io_timeout: new.io_timeout, kill_grace: new.kill_grace, strict_clients: new.strict_clients };
        self.handle(Event::Reloaded(change)).await?;
        self.want(wanted).await
    }

    async fn accept(&mut self, accepted: std::io::Result<Accepted>) -> Result<(), WorksError> {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(target: AT_WILL, %error, "a connection could not be accepted");
                self.door.turn_away(self.works.platform().clock().now()).await;
                return Ok(());
            }
        };
        // A peer that is gone before it is looked at had nothing to say.
        let Some(peer) = Peer::of(&stream) else { return Ok(()) };
        let Some(seat) = self.seat(&peer).await? else { return Ok(()) };
        self.guests.last_client += 1;
        let (client, pid, rights) = (ClientId(self.guests.last_client), peer.pid(), peer.rights().clone());
        let seat = Rc::new(seat);
        let unread = Unread { uid: peer.uid(), bytes: self.guests.desk.unread.clone() };
        let (notes, clock) = (self.works.notes(), self.works.platform().clock());
        let connection = Connection::start(client, stream, (Rc::clone(&seat), unread), notes, clock);
        self.guests.guests.insert(client, Guest { connection, peer, _seat: seat });
        self.handle(Event::Connected { client, pid, rights }).await
    }

    /// A place for one more connection. Those that nobody uses must not keep clients and administrators out: where there is no
    /// place, the oldest of them goes. A client's stays, and where there are only such, whoever comes is turned away.
    async fn seat(&mut self, peer: &Peer) -> Result<Option<Share>, WorksError> {
        let (seats, uid) = (self.guests.desk.seats.clone(), peer.uid());
        let none = match seats.ask(uid, 1) {
            Ok(seat) => return Ok(Some(seat)),
            Err(none) => none,
        };
        let may_go = |owner: u32| seats.yields(none, owner, uid);
        if let Some(leaving) = self.guests.leaving_one(may_go) {
            leaving.cut();
        } else if let Some(client) = self.idle_guest(may_go) {
            tracing::debug!(client = client.0, most = seats.most(), "too many connections: an idle one is closed");
            self.guests.with(client, |g| g.connection.cut());
            self.handle(Event::Closed { client }).await?;
        } else {
            let now = self.works.platform().clock().now();
            self.door.refused(now, |refused| self.guests.say_full(refused, peer, none));
            return Ok(None);
        }
        // What was cut gives its own back in a moment.
        Ok(Some(seats.take(uid, 1)))
    }

    /// The oldest connection of those whose users yield that stands for no client, wants nothing at present and waits for no event.
    fn idle_guest(&self, may_go: impl Fn(u32) -> bool) -> Option<ClientId> {
        let of = &self.works.supervisor;
        let idle = |(id, guest): &(&ClientId, &Guest)| {
            may_go(guest.peer.uid()) && !guest.connection.is_busy() && !of.is_registered(**id) && !of.listens(**id)
        };
        self.guests.guests.iter().find(idle).map(|(id, _)| *id)
    }
}

/// How long between two warnings that there are too many connections, and how long until a new attempt where no descriptor
/// is to be had.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);
const NO_DESCRIPTOR: Duration = Duration::from_millis(20);

type Accepted = (UnixStream, tokio::net::unix::SocketAddr);

/// Where connections come in.
struct Door {
    listener: UnixListener,
    /// A descriptor kept back, so that where there are no others whoever comes can at least be told.
    spare: Option<File>,
    /// Nobody is let in before.
    opens: LocalInstant,
    /// Turned away since there was last a word about it.
    refused: u64,
    said: Option<LocalInstant>,
}

impl Door {
    fn new(listener: UnixListener) -> Self {
        Door { listener, spare: spare(), opens: LocalInstant::EARLIEST, refused: 0, said: None }
    }

    async fn next(&self, clock: &BootClock) -> std::io::Result<Accepted> {
        clock.sleep_until(self.opens).await;
        self.listener.accept().await
    }

    /// There is no descriptor for whoever waits: closed at once, it knows. The others are not held up by it.
    async fn turn_away(&mut self, now: LocalInstant) {
        self.spare = None;
        let refused = first_of(self.listener.accept(), std::future::ready(())).await;
        if !matches!(refused, First::A(Ok(_))) {
            self.opens = now.after(NO_DESCRIPTOR);
        }
        drop(refused);
        self.spare = spare();
    }

    /// One more is turned away; the first, and then one in a while, is worth a word.
    fn refused(&mut self, now: LocalInstant, say: impl FnOnce(u64)) {
        self.refused += 1;
        if self.said.is_none_or(|said| now.since(said) >= BETWEEN_WARNINGS) {
            self.said = Some(now);
            say(std::mem::take(&mut self.refused));
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Front<Linux> for Guests {
    fn perform(&mut self, works: &mut Works<Linux>, effect: Effect<Held>) -> Option<Event<Held>> {
        match effect {
            Effect::Reply { client, bytes } => self.with(client, |g| g.connection.send(bytes)),
            Effect::Next { client } => self.with(client, |g| g.connection.next()),
            Effect::Tell { client, bytes } => {
                let guest = self.guests.get(&client)?;
                // A client's connection is its life: what it does not take it misses.
                if guest.connection.tell(bytes) || works.supervisor.is_registered(client) {
                    return None;
                }
                guest.connection.cut();
                return Some(Event::Closed { client });
            }
            Effect::Close { client } => {
                self.with(client, |g| g.connection.close());
                return Some(Event::Closed { client });
            }
            Effect::Forget { client } => {
                if let Some(Guest { connection, peer, .. }) = self.guests.remove(&client) {
                    self.leaving.retain(|(_, gone)| !gone.is_over());
                    self.leaving.push((peer.uid(), connection.last_words()));
                }
            }
            Effect::Identify { client } => return self.identify(works, client),
            Effect::WatchGroup { client } => {
                if let Some(leader) = works.supervisor.process_of(client) {
                    let (notes, clock) = (works.notes().clone(), works.platform().clock().clone());
                    spawn_local(group::watch(leader, client, notes, clock));
                }
            }
            Effect::WatchWrites { client, exited } => return self.watch_writes(works, client, exited),
            Effect::DrainWrites { client } => return self.drain_writes(works, client),
            Effect::Answer { to, request } => self.answer(works, to, request),
            Effect::AnswerStatus { to } => self.answer_status(works, to),
            Effect::Kill(kill) => self.kill(works, kill),
            Effect::RunProgram { client, program } => {
                self.with(client, |g| run_program(program, g.peer.pid()));
            }
            Effect::Exit => self.exit = true,
            // Everything else is the works' own.
            other => unreachable!("{other:?} does not concern clients"),
        }
        None
    }
}

impl Guests {
    fn with(&self, client: ClientId, act: impl FnOnce(&Guest)) {
        if let Some(guest) = self.guests.get(&client) {
            act(guest);
        }
    }

    /// The one of those whose users yield that has been leaving for the longest time.
    fn leaving_one(&mut self, may_go: impl Fn(u32) -> bool) -> Option<Leaving> {
        self.leaving.retain(|(_, gone)| !gone.is_over());
        let at = self.leaving.iter().position(|(uid, _)| may_go(*uid))?;
        Some(self.leaving.remove(at).1)
    }

    /// There are too many connections, and these have the most.
    fn say_full(&self, refused: u64, peer: &Peer, none: NoShare) {
        let mut of_processes = BTreeMap::<(i32, u32), usize>::new();
        for guest in self.guests.values() {
            *of_processes.entry((guest.peer.pid(), guest.peer.uid())).or_default() += 1;
        }
        let most = of_processes.into_iter().max_by_key(|(_, connections)| *connections);
        let ((most_pid, most_uid), its) = most.unwrap_or_default();
        let (uid, pid, seats) = (peer.uid(), peer.pid(), &self.desk.seats);
        tracing::warn!(
            refused,
            uid,
            pid,
            ?none,
            theirs = seats.of(uid),
            all = seats.taken(),
            most = seats.most(),
            most_pid,
            most_uid,
            its,
            "too many connections"
        );
    }

    fn identify(&mut self, works: &Works<Linux>, client: ClientId) -> Option<Event<Held>> {
        let guest = self.guests.get(&client)?;
        let process = guest.peer.identify(&self.procfs);
        guest.peer.watch(client, works.notes());
        Some(Event::Registered { client, process })
    }

    /// With blocking writes and with libaio a process has exited, and its connection is closed, only when its last write is
    /// over. With an io_uring it takes a look. On NFS neither is so, and once a lockspace is lost there is nothing to go by: nobody answers.
    fn watch_writes(&self, works: &Works<Linux>, client: ClientId, exited: bool) -> Option<Event<Held>> {
        let of = works.supervisor.guarded_of(client);
        if let Some(through) = of.filter(|_| exited).and_then(|of| self.rings.outlived(of))
            && works.supervisor.is_of_a_lost_lockspace(client)
        {
            tracing::error!(
                pid = of.map(|of| of.pid),
                through,
                "a client has ended, and what it wrote last may be sent again by the kernel until the server answers: this host is left to its watchdog"
            );
            return None;
        }
        let Some(of) = of.filter(|of| self.rings.knows(of)).cloned() else {
            of.filter(|_| exited).into_iter().for_each(|of| self.rings.forget(of));
            return Some(Event::WritesOver { client, exited });
        };
        self.ends.wait(client, of, exited, works.notes(), works.platform().clock());
        None
    }

    /// Who has no ring, or nothing in flight, does not wait: that is known without a look at any process.
    fn drain_writes(&self, works: &Works<Linux>, client: ClientId) -> Option<Event<Held>> {
        let of = works.supervisor.guarded_of(client);
        let Some(drain) = of.and_then(|of| self.rings.drain(of)) else {
            return Some(Event::WritesDrained { client, idle: true });
        };
        let (notes, clock) = (works.notes().clone(), works.platform().clock().clone());
        spawn_local(async move {
            let idle = drain.over(&clock).await;
            notes.event(Event::WritesDrained { client, idle });
        });
        None
    }

    fn kill(&self, works: &Works<Linux>, kill: Kill) {
        let group = works.supervisor.leads_group(kill.client);
        self.with(kill.client, |g| g.peer.kill(kill.signal, group, &self.heirs));
    }

    fn answer(&self, works: &Works<Linux>, to: ReplyTo, request: Request) {
        let Some(guest) = self.guests.get(&to.client) else { return };
        let (named, lost_too) = match &request {
            Request::GetHosts { lockspace } | Request::HostStatus { lockspace } => (Some(&lockspace.name), true),
            Request::ConfirmDead { lockspace, .. } => (Some(&lockspace.name), false),
            Request::Explain { resource } => (Some(&resource.head.lockspace_name), false),
            _ => (None, false),
        };
        let known = |n: &SpaceName| works.supervisor.is_active(n) || lost_too && works.supervisor.tells_hosts(n);
        let name = named.and_then(|n| SpaceName::new(n.as_bytes()).ok()).filter(known);
        let used = works.in_use();
        let context = Context {
            clock: works.platform().clock().clone(),
            nodes: works.platform().shared_nodes(),
            engines: works.platform().shared_engines(),
            patience: queries::PATIENCE,
            machine: works.machine(),
            space: name.and_then(|n| works.shared(n)),
            used: Rc::new(used),
            formats: works.formats().clone(),
            log: self.desk.log.clone(),
            asking: Asking { pid: guest.peer.pid(), uid: guest.peer.uid(), rights: guest.peer.rights().clone() },
        };
        let closes = request.command().class() == Class::MainClose && !works.supervisor.is_registered(to.client);
        let reply = guest.connection.clone();
        let notes = works.notes().clone();
        spawn_local(async move {
            let (command, formats) = (request.command(), queries::formats(&request));
            let (pid, uid) = (context.asking.pid, context.asking.uid);
            let Answer { code, data2, payload, why } = queries::answer(context, request).await;
            if let Some(why) = why {
                tracing::info!(target: AT_WILL, command = command.name(), pid, uid, code = code.number(), why, "refused");
            } else if let Some(what) = formats {
                tracing::info!(target: AT_WILL, command = command.name(), pid, uid, code = code.number(), what, "formatted");
            }
            // A stream is not counted: it ends with its connection (spec A 2).
            let counted = if command.is_stream() { 0 } else { payload.len() };
            let data2 = if command.echoes_data2() { to.header.data2 } else { data2 };
            let mut bytes = to.header.answer(code, data2, counted).encode().to_vec();
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

    fn answer_status(&self, works: &Works<Linux>, to: ReplyTo) {
        let now = works.platform().clock().now();
        let mut document = works.supervisor.snapshot(now);
        let hosts: serde_json::Map<String, serde_json::Value> = works
            .spaces
            .iter()
            .filter_map(|(name, joined)| Some((name.to_string(), hosts_of(joined.shared.as_ref()?, now))))
            .collect();
        document["hosts"] = serde_json::Value::Object(hosts);
        add_copies(works, &mut document["leases"]);
        self.add_heirs(works, &mut document["clients"]);
        let payload = document.to_string().into_bytes();
        let mut bytes = to.header.answer(ResultCode::OK, 0, payload.len()).encode().to_vec();
        bytes.extend_from_slice(&payload);
        self.with(to.client, |g| {
            g.connection.send(bytes);
            g.connection.next();
        });
    }

    /// To each client that uses a lease, who else had its connection at the latest look. Nobody is looked for here.
    fn add_heirs(&self, works: &Works<Linux>, clients: &mut serde_json::Value) {
        let looked_for = works.supervisor.users().into_iter().map(|(process, _)| process.connection_inode);
        let looked_for: BTreeSet<u64> = looked_for.collect();
        for client in clients.as_array_mut().into_iter().flatten() {
            let inode = client["connection_inode"].as_u64().filter(|inode| looked_for.contains(inode));
            client["heirs"] = inode.map(|inode| self.rings.heirs_of(inode)).unwrap_or_default().into();
        }
    }
}

/// Has a program replace a shell. Whoever forks has all that we have open, the watchdog device and the fences among them, until
/// its exec is through; that of a client's program may hang, on a dead server's file system. That of the shell is ours, and local.
const REPLACE_SHELL: [&str; 2] = ["-c", r#"exec "$0" "$@""#];

/// Runs a program beside the daemon, by the rights of the client that named it, and says how it ended. It has nothing of ours but
/// standard error, and its thread is its own: nothing that hangs elsewhere keeps it from being run.
fn run_program(program: Program, of: i32) {
    let Program { path, arguments, by, .. } = program;
    let name = path.display().to_string();
    let run = move || {
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(REPLACE_SHELL)
            .arg(&path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .env_remove("NOTIFY_SOCKET");
        if by != Rights::Ours {
            // Our standard error may be a log of root's, or his terminal.
            command.stderr(Stdio::null()).current_dir("/");
        }
        by.apply(&mut command);
        let ended = command.spawn().and_then(|mut child| {
            oom::may_choose(child.id());
            child.wait()
        });
        match ended {
            // What a shell says of what it cannot run, or not find.
            Ok(status) if matches!(status.code(), Some(126 | 127)) => {
                tracing::error!(program = %path.display(), of, %by, %status, "killpath cannot be run");
            }
            Ok(status) => tracing::info!(program = %path.display(), of, %by, %status, "killpath ended"),
            Err(error) => tracing::error!(program = %path.display(), of, %by, %error, "killpath cannot be run"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("killpath".into()).spawn(run) {
        tracing::error!(program = name, %error, "no thread for a killpath");
    }
}

/// To each lease on several disks, how they stand.
fn add_copies(works: &Works<Linux>, leases: &mut serde_json::Value) {
    let spaces =
        works.spaces.iter().filter_map(|(name, joined)| Some((name.to_string(), joined.shared.as_ref()?.copies())));
    let copies: BTreeMap<_, _> = spaces.collect();
    for lease in leases.as_array_mut().into_iter().flatten() {
        let of = |field: &str| lease[field].as_str().unwrap_or_default();
        if let Some(disks) = copies.get(of("lockspace")).and_then(|space| space.get(of("resource"))) {
            lease["copies"] = disks.clone();
        }
    }
}

fn hosts_of(shared: &SpaceShared, now: holdfast_io::clock::LocalInstant) -> serde_json::Value {
    let used: Vec<_> = {
        let hosts = shared.hosts.borrow();
        hosts.hosts().filter(|(_, seen)| seen.was_used() || seen.damage.is_some()).map(|(id, _)| id).collect()
    };
    used.into_iter().filter_map(|id| queries::host_facts(shared, id, now)).collect()
}
