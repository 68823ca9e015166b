//! The supervisor against a scripted world: no disk, no socket, no process, and a clock that moves when told.

use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Generation, Lver, SpaceName};
use holdfast_io::seal::SealedFire;
use holdfast_io::stop::Stop;
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::{FireTimeout, IoTimeout};
use holdfast_io::units::{Geometry, SectorSize};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{
    AcquireFlags, AddLockspaceFlags, InqLockspaceFlags, LeaseFlags, ReleaseFlags, RemLockspaceFlags, RestrictFlags,
};
use holdfast_protocol::header::Header;
use holdfast_protocol::payload::{Disk, Lockspace, Options, Resource, ResourceHead};
use holdfast_protocol::request::{Message, Request, Target};
use holdfast_protocol::text::{DiskPath, Name48};
use nix::sys::signal::Signal;
use paxos_lease::{Loss, Mode, Standing};
use proptest::prelude::*;

use super::event::{AcquireEnd, ClientId, Converted, Effect, Event, Join, LeaseKey, LostTo, Prepared, TaskId, Took};
use super::{Life, Report, Settings, Supervisor};
use crate::state_file::{FenceRecord, Guarded, SpaceRecord};
use crate::watchdog::Kind;

mod audit;
mod events;
mod index;
mod killpath;
mod losses;
mod orphans;
mod refusals;
mod requests;
mod rights;
mod sharing;
mod shutdown;
mod status;
mod values;
mod wdmd;

const IO: u64 = 1; // D2 comes 8 s after the start of a renewal
const GRACE: u64 = 5;

fn settings() -> Settings {
    Settings {
        host_name: "hostA".into(),
        io_timeout: IoTimeout::DEFAULT,
        fire_timeout: FireTimeout::SANLOCK,
        sealed: SealedFire::Within(FireTimeout::SANLOCK),
        watchdog: Kind::Device,
        kill_grace: Duration::from_secs(GRACE),
        strict_clients: false,
        boot_id: "boot".into(),
        report: Report::default(),
    }
}

struct World {
    daemon: Supervisor<u32>,
    now: LocalInstant,
    log: Vec<Effect<u32>>,
    unanswered_pets: usize,
    /// What clients have written does not land at once.
    writes_in_flight: bool,
}

fn name(text: &str) -> SpaceName {
    text.parse().unwrap()
}

fn wire_space(space: &str, host_id: u64) -> Lockspace {
    let path = DiskPath::new(format!("/dev/{space}")).unwrap();
    Lockspace::new(Name48::new(space).unwrap(), host_id, Disk::new(path, 0))
}

fn wire_lease(space: &str, resource: &str) -> Resource {
    let head = ResourceHead::named(Name48::new(space).unwrap(), Name48::new(resource).unwrap());
    Resource::new(head, vec![Disk::new(DiskPath::new("/dev/res").unwrap(), 0)])
}

fn join_record(space: &str, generation: u64) -> SpaceRecord {
    let path: std::path::PathBuf = format!("/dev/{space}").into();
    SpaceRecord {
        name: space.into(),
        host_id: 1,
        generation,
        joined: true,
        path,
        offset: 0,
        fences: Vec::new(),
        unseen: false,
        over: false,
    }
}

fn fence() -> FenceRecord {
    FenceRecord { path: "/dev/LS".into(), dev: 1, ino: 2, start: 0, len: 512, locked: true }
}

impl World {
    fn new() -> Self {
        Self::inheriting(Vec::new())
    }

    fn inheriting(spaces: Vec<SpaceRecord>) -> Self {
        World {
            daemon: Supervisor::new(settings(), spaces),
            now: LocalInstant::from_nanos(1_000_000_000_000),
            log: Vec::new(),
            unanswered_pets: 0,
            writes_in_flight: false,
        }
    }

    /// A world with lockspace LS joined at generation 1 and client 1 registered.
    fn joined() -> Self {
        let mut w = Self::new();
        w.join("LS");
        w.client(1);
        w.log.clear();
        w
    }

    fn apply(&mut self, event: Event<u32>) -> &mut Self {
        let effects = self.daemon.apply(event, self.now);
        self.unanswered_pets += effects.iter().filter(|e| matches!(e, Effect::Pet { .. })).count();
        let over = |e: &Effect<u32>| match e {
            Effect::WatchWrites { client, exited } => Some(Event::WritesOver { client: *client, exited: *exited }),
            Effect::DrainWrites { client } => Some(Event::WritesDrained { client: *client, idle: true }),
            _ => None,
        };
        let over: Vec<_> = effects.iter().filter(|_| !self.writes_in_flight).filter_map(over).collect();
        self.log.extend(effects);
        for event in over {
            self.apply(event);
        }
        self
    }

    fn ask(&mut self, client: u64, request: Request) -> &mut Self {
        let header = Header::request(request.command());
        let message = Message { header, command: request.command(), request };
        self.apply(Event::Request { client: ClientId(client), message })
    }

    fn wait(&mut self, millis: u64) -> &mut Self {
        self.now = self.now.after(Duration::from_millis(millis));
        self
    }

    /// Lets time pass tick by tick, as the daemon's own wake-ups would.
    fn pass(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds * 10 {
            self.wait(100).apply(Event::Tick);
            self.answer_pets();
        }
        self
    }

    fn answer_pets(&mut self) {
        if std::mem::take(&mut self.unanswered_pets) > 0 {
            self.apply(Event::Petted { result: Ok(()), until: LocalInstant::NEVER });
        }
    }

    fn client(&mut self, client: u64) -> &mut Self {
        let pid = 100 + i32::try_from(client).unwrap();
        self.apply(Event::Connected { client: ClientId(client), pid, rights: Rights::Ours });
        self.ask(client, Request::Register);
        let process = Guarded { pid, start_time: 7, connection_inode: client, group: false };
        self.apply(Event::Registered { client: ClientId(client), process: Some(process) })
    }

    fn add(&mut self, client: u64, space: &str) -> &mut Self {
        let request = Request::AddLockspace {
            flags: AddLockspaceFlags::NONE,
            io_timeout: u32::try_from(IO).unwrap(),
            lockspace: wire_space(space, 1),
        };
        self.apply(Event::Connected { client: ClientId(client), pid: 50, rights: Rights::Ours }).ask(client, request)
    }

    fn armed(&mut self) -> &mut Self {
        self.apply(Event::Armed { result: Ok(()), device_seconds: Some(29), stays_on: false })
    }

    fn join(&mut self, space: &str) -> &mut Self {
        self.add(900, space).fenced(space, 1);
        if matches!(self.log.last(), Some(Effect::Arm(_))) {
            self.armed();
        }
        let geometry = Geometry::default_for(SectorSize::B512);
        let join = Join { generation: Generation(1), started_at: self.now, geometry };
        self.apply(Event::Joined { space: name(space), result: Ok(join) })
    }

    fn fenced(&mut self, space: &str, generation: u64) -> &mut Self {
        let (space, generation) = (name(space), Generation(generation));
        self.apply(Event::JoinFenced { space, generation, fences: vec![fence()] })
    }

    /// What the latest join was told of our earlier terms: the generation that is proven over, and the highest.
    fn past(&self) -> (Option<u64>, Option<u64>) {
        self.log
            .iter()
            .rev()
            .find_map(|e| match e {
                Effect::StartJoin(j) => Some((j.past.predecessor.map(|g| g.0), j.past.used.map(|g| g.0))),
                _ => None,
            })
            .unwrap()
    }

    fn acquire(&mut self, client: u64, resources: &[&str], flags: AcquireFlags) -> &mut Self {
        let resources = resources.iter().map(|r| wire_lease("LS", r)).collect();
        let options = Options::default();
        self.ask(client, Request::Acquire { flags, target: Target::This, resources, options })
    }

    fn release_all(&mut self, client: u64) -> &mut Self {
        let request = Request::Release { flags: ReleaseFlags::ALL, target: Target::This, resources: Vec::new() };
        self.ask(client, request)
    }

    fn last_task(&self) -> TaskId {
        self.log
            .iter()
            .rev()
            .find_map(|e| match e {
                Effect::OpenDevice { task, .. } | Effect::StartRelease { task, .. } => Some(*task),
                _ => None,
            })
            .unwrap()
    }

    fn device_ready(&mut self) -> &mut Self {
        let task = self.last_task();
        self.apply(Event::DeviceReady { task, prepared: Prepared { fences: vec![fence()], result: Ok(()) } })
    }

    fn ours(&mut self) -> &mut Self {
        let task = self.last_task();
        self.apply(Event::Acquired {
            task,
            end: AcquireEnd::Ours {
                held: 7,
                lver: Lver(3),
                geometry: Geometry::default_for(SectorSize::B512),
                value: None,
            },
        })
    }

    fn theirs(&mut self) -> &mut Self {
        let task = self.last_task();
        let end = AcquireEnd::Refused {
            code: ResultCode::HELD_BY_LIVE_HOST,
            why: "held".into(),
            may_change: true,
            undoing: false,
        };
        self.apply(Event::Acquired { task, end })
    }

    fn hold(&mut self, client: u64, resource: &str) -> &mut Self {
        self.acquire(client, &[resource], AcquireFlags::NONE).device_ready().ours()
    }

    fn released(&mut self) -> &mut Self {
        let task = self.last_task();
        self.apply(Event::Released { task, code: ResultCode::OK, why: None, done: true })
    }

    fn closed(&mut self, client: u64) -> &mut Self {
        self.apply(Event::Closed { client: ClientId(client) })
    }

    fn exited(&mut self, client: u64) -> &mut Self {
        self.apply(Event::Exited { client: ClientId(client) })
    }

    fn renewed(&mut self, seconds_ago: u64) -> &mut Self {
        let started_at = self.now.before(Duration::from_secs(seconds_ago));
        self.apply(Event::Renewed { space: name("LS"), started_at, took: Took::default() })
    }

    fn codes(&self, client: u64) -> Vec<i32> {
        self.log
            .iter()
            .filter_map(|e| match e {
                Effect::Reply { client: to, bytes } if *to == ClientId(client) => {
                    let head: [u8; 32] = bytes[..32].try_into().unwrap();
                    Some(Header::decode(&head).result().number())
                }
                _ => None,
            })
            .collect()
    }

    fn count(&self, wanted: impl Fn(&Effect<u32>) -> bool) -> usize {
        self.log.iter().filter(|e| wanted(e)).count()
    }

    fn index(&self, wanted: impl Fn(&Effect<u32>) -> bool) -> usize {
        self.log.iter().position(wanted).unwrap()
    }

    fn signals(&self, client: u64) -> Vec<Signal> {
        self.log
            .iter()
            .filter_map(|e| match e {
                Effect::Kill(k) if k.client == ClientId(client) => Some(k.signal),
                _ => None,
            })
            .collect()
    }

    fn leaves(&self) -> Vec<bool> {
        self.log
            .iter()
            .filter_map(|e| match e {
                Effect::Leave { free, .. } => Some(*free),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn d3_no_join_writes_before_the_watchdog_is_armed_and_none_arms_it_before_it_is_about_to_write() {
    let mut w = World::new();
    w.add(1, "LS");
    assert_eq!(w.count(|e| matches!(e, Effect::StartJoin(_))), 1);
    assert_eq!(w.count(|e| matches!(e, Effect::Arm(_))), 0, "its host_id may still be a dead daemon's of this boot");
    w.fenced("LS", 1);
    assert_eq!(w.count(|e| matches!(e, Effect::Arm(_))), 1);
    assert_eq!(w.count(|e| matches!(e, Effect::AllowJoin { .. })), 0);
    w.armed();
    assert_eq!(w.count(|e| matches!(e, Effect::AllowJoin { .. })), 1);
}

#[test]
fn a_watchdog_that_cannot_be_armed_refuses_the_join_without_a_write() {
    let mut w = World::new();
    w.add(1, "LS").fenced("LS", 1).apply(Event::Armed {
        result: Err("busy".into()),
        device_seconds: None,
        stays_on: false,
    });
    assert!(w.daemon.spaces[&name("LS")].stop.is_set(), "the join finds that out before it writes");
    w.apply(Event::Joined { space: name("LS"), result: Err((ResultCode::GENERAL_ERROR, "stopped".into())) });
    assert_eq!(w.codes(1), [ResultCode::WATCHDOG_ERROR.number()]);
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Disarm | Effect::Pet { .. })), 0);
}

#[test]
fn a_join_refused_before_its_write_never_touches_the_watchdog() {
    let mut w = World::new();
    w.add(1, "LS").apply(Event::Joined { space: name("LS"), result: Err((ResultCode::HOST_ID_BUSY, "b".into())) });
    assert_eq!(w.codes(1), [ResultCode::HOST_ID_BUSY.number()]);
    w.pass(1).apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Arm(_) | Effect::Pet { .. } | Effect::Disarm)), 0);
}

#[test]
fn a_join_of_what_cannot_be_opened_is_answered_when_it_can_be_asked_for_again() {
    let mut w = World::new();
    w.add(1, "LS").apply(Event::Joined { space: name("LS"), result: Err((ResultCode::ENODEV, "not there".into())) });
    assert_eq!(w.codes(1), [] as [i32; 0]);
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.codes(1), [ResultCode::ENODEV.number()]);
    assert!(w.add(2, "LS").codes(2).is_empty(), "it is being joined anew");
}

#[test]
fn p1_generation_and_fences_are_saved_before_the_join_may_write() {
    let mut w = World::new();
    w.join("LS");
    let saved = w.index(|e| matches!(e, Effect::Save(s) if s.lockspaces.iter().any(|l| l.fences == [fence()])));
    assert!(saved < w.index(|e| matches!(e, Effect::AllowJoin { .. })));
    assert_eq!(w.codes(900), [0]);
}

#[test]
fn p1_the_fence_of_a_disk_that_is_back_is_saved_before_it_is_used() {
    let (mut w, saved) = (World::joined(), Stop::new());
    let fence = FenceRecord { start: 4096, ..fence() };
    w.apply(Event::Fenced { space: name("LS"), fence: fence.clone(), saved });
    let written = w.index(|e| matches!(e, Effect::Save(s) if s.lockspaces.iter().any(|l| l.fences.contains(&fence))));
    assert!(written < w.index(|e| matches!(e, Effect::FenceSaved { .. })));
}

#[test]
fn p1_a_process_is_in_the_state_file_before_its_acquire_begins() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::NONE);
    assert_eq!(w.count(|e| matches!(e, Effect::StartAcquire { .. })), 0);
    w.device_ready();
    let saved = w.index(|e| matches!(e, Effect::Save(s) if s.guarded.iter().any(|g| g.pid == 101)));
    assert!(saved < w.index(|e| matches!(e, Effect::StartAcquire { .. })));
    w.ours();
    assert_eq!(w.codes(1), [0]);
}

#[test]
fn a_client_whose_process_is_unknown_gets_no_lease() {
    let mut w = World::joined();
    w.apply(Event::Connected { client: ClientId(2), pid: 5, rights: Rights::Ours }).ask(2, Request::Register);
    w.apply(Event::Registered { client: ClientId(2), process: None });
    w.acquire(2, &["R"], AcquireFlags::NONE);
    assert_eq!(w.codes(2), [ResultCode::ESTALE.number()]);
}

#[test]
fn a_device_that_cannot_be_stopped_is_petted_with_nothing_to_guard_until_the_daemon_ends() {
    let mut w = World::new();
    w.apply(Event::CountsOn);
    assert_eq!(w.count(|e| matches!(e, Effect::Arm(_))), 1);
    w.apply(Event::Armed { result: Ok(()), device_seconds: Some(28), stays_on: true });
    let pets = w.count(|e| matches!(e, Effect::Pet { .. }));
    w.pass(8);
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. })), pets + 1);
    assert_eq!(w.count(|e| matches!(e, Effect::Disarm)), 0);
    w.apply(Event::ShutdownSignal);
    let disarmed = w.index(|e| matches!(e, Effect::Disarm));
    assert!(disarmed < w.index(|e| matches!(e, Effect::Exit)));
}

#[test]
fn a_device_that_counts_at_the_start_and_can_be_stopped_is() {
    let mut w = World::new();
    w.apply(Event::CountsOn).apply(Event::Armed { result: Ok(()), device_seconds: Some(28), stays_on: false });
    assert_eq!(w.count(|e| matches!(e, Effect::Disarm)), 1);
}

#[test]
fn a_join_that_is_refused_for_the_watchdog_says_what_is_the_matter_with_it() {
    let mut w = World::new();
    let held = "the watchdog is held by wdmd (process 7): use it through wdmd".to_owned();
    w.add(1, "LS").fenced("LS", 1).apply(Event::Armed { result: Err(held), device_seconds: None, stays_on: false });
    let stopped = Err((ResultCode::GENERAL_ERROR, "asked to leave while joining".into()));
    w.apply(Event::Joined { space: name("LS"), result: stopped });
    assert_eq!(w.codes(1), [ResultCode::WATCHDOG_ERROR.number()]);
    let refusals = w.daemon.snapshot(w.now)["refusals"].to_string();
    assert!(refusals.contains("held by wdmd (process 7)") && !refusals.contains("asked to leave"), "{refusals}");
}

#[test]
fn a_refusal_says_that_the_kernel_tells_of_no_process() {
    let why = "sock_diag: ENOENT. The kernel's module unix_diag is not loaded".to_owned();
    let report = Report { no_peers: Some(why), ..Report::default() };
    let mut w = World { daemon: Supervisor::new(Settings { report, ..settings() }, Vec::new()), ..World::new() };
    w.join("LS");
    w.apply(Event::Connected { client: ClientId(2), pid: 5, rights: Rights::Ours }).ask(2, Request::Register);
    w.apply(Event::Registered { client: ClientId(2), process: None });
    w.acquire(2, &["R"], AcquireFlags::NONE);
    assert_eq!(w.codes(2), [ResultCode::ESTALE.number()]);
    let status = w.daemon.snapshot(w.now).to_string();
    assert!(status.contains("no process can be identified on this host: sock_diag: ENOENT"), "{status}");
}

#[test]
fn a_second_local_owner_is_refused_at_once() {
    let mut w = World::joined();
    w.hold(1, "R").client(2).acquire(2, &["R"], AcquireFlags::NONE);
    assert_eq!(w.codes(2), [ResultCode::EEXIST.number()]);
    assert_eq!(w.count(|e| matches!(e, Effect::OpenDevice { .. })), 1);
}

#[test]
fn the_first_refusal_gives_back_what_the_call_already_got() {
    let mut w = World::joined();
    w.acquire(1, &["R1", "R2"], AcquireFlags::NONE).device_ready().ours().device_ready().theirs();
    assert_eq!(w.codes(1), [] as [i32; 0], "not before the first lease is given back");
    w.released();
    assert_eq!(w.codes(1), [ResultCode::HELD_BY_LIVE_HOST.number()]);
    assert!(w.daemon.leases.is_empty());
}

#[test]
fn d2_an_acquire_that_ends_after_the_instant_is_neither_granted_nor_released_on_disk() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::NONE).device_ready();
    w.wait(8 * IO * 1000).ours();
    assert_eq!(w.codes(1), [ResultCode::ENOSPC.number()]);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0);
    assert_eq!(w.count(|e| matches!(e, Effect::CloseLimit { .. })), 1);
}

#[test]
fn an_acquire_that_ends_after_its_client_is_given_back() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::NONE).device_ready().closed(1);
    w.ours();
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 1);
    w.exited(1).released();
    assert!(w.daemon.leases.is_empty());
    assert!(!w.daemon.clients.contains_key(&ClientId(1)));
}

#[test]
fn the_end_of_a_connection_releases_and_the_exit_of_a_process_alone_does_not() {
    let mut w = World::joined();
    w.hold(1, "R").exited(1);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0, "the connection was inherited");
    assert!(w.daemon.clients[&ClientId(1)].is_inherited());
    w.closed(1);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 1);
}

#[test]
fn a_group_leader_that_closes_its_connection_keeps_its_lease_until_it_exits() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::GROUP).device_ready().ours().closed(1);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0);
    w.exited(1);
    assert_eq!(w.count(|e| matches!(e, Effect::WatchGroup { .. })), 1);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0, "a member of its group may still write");
    w.apply(Event::GroupGone { client: ClientId(1) });
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 1);
    w.released();
    assert_eq!(w.count(|e| matches!(e, Effect::Forget { .. })), 1);
}

#[test]
fn with_strict_clients_a_lease_outlives_its_connection_until_the_process_is_gone() {
    let mut w =
        World { daemon: Supervisor::new(Settings { strict_clients: true, ..settings() }, Vec::new()), ..World::new() };
    w.join("LS");
    w.client(1).client(2).hold(1, "R").closed(1).pass(1);
    assert_eq!(w.releases(), 0);
    w.acquire(2, &["R"], AcquireFlags::NONE);
    assert_eq!(w.codes(2), [ResultCode::EEXIST.number()]);
    w.exited(1);
    assert_eq!(w.releases(), 1);
    w.released().hold(2, "R");
    assert_eq!(w.codes(2).last(), Some(&0));
}

#[test]
fn s1_a_lost_lockspace_is_not_left_while_a_member_of_a_guarded_group_runs() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::GROUP).device_ready().ours().pass(8 * IO + 1);
    w.exited(1).closed(1).pass(GRACE + 1);
    assert_eq!(w.leaves(), [] as [bool; 0]);
    assert_eq!(*w.signals(1).last().unwrap(), Signal::SIGKILL, "the ladder goes on for the rest of the group");
    w.apply(Event::GroupGone { client: ClientId(1) });
    assert_eq!(w.leaves(), [false]);
}

#[test]
fn s1_what_a_client_has_written_lands_before_its_lease_is_given_back_or_its_lockspace_left() {
    let mut w = World::joined();
    w.writes_in_flight = true;
    w.hold(1, "R").closed(1).exited(1);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0);
    w.apply(Event::WritesOver { client: ClientId(1), exited: true });
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 1);

    let mut w = World::joined();
    w.writes_in_flight = true;
    w.hold(1, "R").pass(8 * IO + 1).closed(1).exited(1).pass(1);
    assert_eq!(w.leaves(), [] as [bool; 0]);
    // What is answered of the time before it exited says nothing of its last writes.
    w.apply(Event::WritesOver { client: ClientId(1), exited: false });
    assert_eq!(w.leaves(), [] as [bool; 0]);
    w.apply(Event::WritesOver { client: ClientId(1), exited: true });
    assert_eq!(w.leaves(), [false]);
}

#[test]
fn s1_what_a_living_client_has_in_flight_is_waited_for_before_a_release_begins() {
    let releases = |w: &World| w.count(|e| matches!(e, Effect::StartRelease { .. }));
    let drained = |idle| Event::WritesDrained { client: ClientId(1), idle };
    for idle in [true, false] {
        let mut w = World::joined();
        w.writes_in_flight = true;
        w.hold(1, "R");
        w.log.clear();
        w.release_all(1);
        assert_eq!(w.count(|e| matches!(e, Effect::DrainWrites { client: ClientId(1) })), 1);
        w.renewed(0).pass(1);
        assert_eq!((releases(&w), w.codes(1)), (0, vec![]));
        w.acquire(1, &["S"], AcquireFlags::NONE);
        assert_eq!(w.codes(1), [ResultCode::EBUSY.number()], "it runs a command");
        // Waited for long enough in a lockspace that is well it is taken at its word.
        w.apply(drained(idle));
        assert_eq!(releases(&w), 1);
        w.released();
        assert_eq!(w.codes(1)[1..], [0]);
        w.release_all(1);
        assert_eq!(w.count(|e| matches!(e, Effect::DrainWrites { .. })), 1, "there is nothing to wait for");
        assert_eq!(w.codes(1)[2..], [0]);
    }

    // A client that goes meanwhile is waited for like any other, whatever its devices show.
    let mut w = World::joined();
    w.writes_in_flight = true;
    w.hold(1, "R").release_all(1).closed(1).exited(1).apply(drained(true));
    assert_eq!(releases(&w), 0);
    w.apply(Event::WritesOver { client: ClientId(1), exited: true });
    assert_eq!(releases(&w), 1);
    w.released();
    assert_eq!(w.count(|e| matches!(e, Effect::Forget { client: ClientId(1) })), 1);
}

#[test]
fn d2_a_lost_lockspace_does_not_wait_for_a_release_that_waits_for_writes() {
    for idle in [true, false] {
        let mut w = World::joined();
        w.writes_in_flight = true;
        w.hold(1, "R");
        w.log.clear();
        w.release_all(1).pass(8 * IO + GRACE + 1);
        assert_eq!(w.signals(1)[0], Signal::SIGTERM);
        assert_eq!(*w.signals(1).last().unwrap(), Signal::SIGKILL, "its time is the ladder's");
        assert_eq!(w.leaves(), [] as [bool; 0]);
        w.apply(Event::WritesDrained { client: ClientId(1), idle });
        assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0, "nothing is written (D2)");
        if idle {
            assert_eq!(
                (w.codes(1), w.leaves()),
                (vec![0], vec![false]),
                "nothing of it is in flight, and it gave all back"
            );
            continue;
        }
        assert_eq!((w.codes(1), w.leaves()), (vec![ResultCode::EBUSY.number()], vec![]));
        w.closed(1).exited(1).apply(Event::WritesOver { client: ClientId(1), exited: true });
        assert_eq!(w.leaves(), [false]);
    }
}

#[test]
fn p1_a_client_that_turns_out_to_lead_a_group_is_named_anew_in_the_state_file() {
    let mut w = World::joined();
    w.hold(1, "R").acquire(1, &["S"], AcquireFlags::GROUP);
    assert!(w.daemon.last_saved.guarded.iter().any(|g| g.pid == 101 && g.group));
}

#[test]
fn renewals_blocked_end_in_sigterm_then_sigkill_and_no_pet_after_the_instant() {
    let mut w = World::joined();
    w.hold(1, "R").pass(8 * IO);
    assert_eq!(w.signals(1)[0], Signal::SIGTERM);
    w.log.clear();
    w.pass(GRACE - 1);
    assert!(w.signals(1).iter().all(|s| *s == Signal::SIGTERM));
    w.pass(2);
    assert_eq!(*w.signals(1).last().unwrap(), Signal::SIGKILL);
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. })), 0);
    assert_eq!(w.leaves(), [] as [bool; 0]);
    w.closed(1);
    assert_eq!(w.leaves(), [] as [bool; 0], "a closed connection is not an ended process");
    w.exited(1);
    assert_eq!(w.leaves(), [false], "left without a write (D2)");
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Disarm)), 1);
}

#[test]
fn d2_a_renewal_that_succeeds_too_late_revives_nothing() {
    let mut w = World::joined();
    w.hold(1, "R").wait(8 * IO * 1000).renewed(0);
    assert!(matches!(w.daemon.spaces[&name("LS")].life, Life::Failing { .. }));
    w.client(2).acquire(2, &["S"], AcquireFlags::NONE);
    assert_eq!(w.codes(2), [ResultCode::ENOSPC.number()]);
}

#[test]
fn a_device_that_hangs_in_open_does_not_keep_a_lost_lockspace() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::NONE).wait(8 * IO * 1000).apply(Event::Tick);
    assert_eq!(w.codes(1), [ResultCode::ENOSPC.number()]);
    w.exited(1).closed(1);
    assert_eq!(w.leaves(), [false]);
    w.device_ready();
    assert_eq!(w.count(|e| matches!(e, Effect::StartAcquire { .. })), 0);
}

#[test]
fn d2_counts_from_the_start_of_the_renewal_and_not_from_its_news() {
    let mut w = World::joined();
    w.wait(7000).renewed(5);
    w.wait(2999).apply(Event::Tick);
    assert!(w.daemon.spaces[&name("LS")].life.is_active());
    w.wait(1).apply(Event::Tick);
    assert!(!w.daemon.spaces[&name("LS")].life.is_active());
}

#[test]
fn a_lost_delta_lease_is_acted_on_at_once() {
    let mut w = World::joined();
    w.hold(1, "R").apply(Event::RenewalFailed {
        space: name("LS"),
        why: "changed".into(),
        lost: Some(LostTo::Nobody),
        code: ResultCode::EIO,
    });
    assert_eq!(w.signals(1), [Signal::SIGTERM]);
    assert_eq!(w.count(|e| matches!(e, Effect::CloseLimit { .. })), 1);
}

/// Another host may have the leases at this moment: there is no grace to give.
#[test]
fn s1_who_uses_what_another_host_has_taken_with_the_host_id_is_killed_at_once() {
    let mut w = World::joined();
    let (space, lost) = (name("LS"), Some(LostTo::Another));
    w.hold(1, "R").apply(Event::RenewalFailed { space, why: "taken".into(), lost, code: ResultCode::RENEW_OWNER });
    assert_eq!(w.signals(1), [Signal::SIGKILL]);
    assert_eq!(w.count(|e| matches!(e, Effect::CloseLimit { .. })), 1);
    // Also where the lockspace was lost before that was known.
    let mut w = World::joined();
    let failed =
        |lost| Event::RenewalFailed { space, why: "lost".into(), lost: Some(lost), code: ResultCode::RENEW_DIFFERS };
    w.hold(1, "R").apply(failed(LostTo::Nobody)).pass(2).apply(failed(LostTo::Another)).pass(1);
    assert_eq!(w.signals(1).last(), Some(&Signal::SIGKILL));
}

#[test]
fn a_join_whose_thread_has_panicked_is_answered_and_no_other_begins_while_its_write_may_land() {
    let mut w = World::new();
    w.add(1, "LS").fenced("LS", 1).armed();
    w.apply(Event::RenewalFailed {
        space: name("LS"),
        why: "panicked".into(),
        lost: Some(LostTo::Nobody),
        code: ResultCode::EIO,
    });
    assert_eq!(w.codes(1), [ResultCode::RENEW_DIFFERS.number()]);
    assert_eq!(w.leaves(), [false]);
    w.pass(60);
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. })), 0, "it is not fresh");
    w.add(2, "LS");
    assert_eq!(w.codes(2), [ResultCode::EAGAIN.number()]);
    // No lease was had in it, or none is in flight: the watchdog need not act.
    w.apply(Event::Reaped { space: name("LS") }).pass(60);
    assert!(w.count(|e| matches!(e, Effect::Pet { .. })) > 0);
}

#[test]
fn d3_the_watchdog_is_petted_with_no_client_at_all_only_while_fresh() {
    let mut w = World::joined();
    w.pass(8 * IO);
    let pets = w.count(|e| matches!(e, Effect::Pet { .. }));
    assert!(pets > 0, "without any client");
    w.pass(30);
    assert_eq!(w.leaves(), [false], "nothing was guarded: left at once");
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. })), pets, "not petted again before Left");
}

#[test]
fn d3_a_lockspace_that_still_has_writes_in_flight_keeps_the_watchdog_unpetted() {
    let mut w = World::joined();
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace: wire_space("LS", 1) });
    assert_eq!(w.leaves(), [true]);
    w.pass(60);
    let last_pet = w.log.iter().rposition(|e| matches!(e, Effect::Pet { .. }));
    assert_eq!(w.count(|e| matches!(e, Effect::Disarm)), 0, "the freeing write is not reaped");
    w.log.clear();
    w.pass(10);
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. })), 0, "{last_pet:?}");
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Disarm)), 1);
}

/// One of three disks hangs for an hour, and a write to it has to end before the host_id may be given back.
#[test]
fn a_lockspace_that_waits_for_a_write_to_end_is_renewed_and_vouched_for_meanwhile() {
    let mut w = World::joined();
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace: wire_space("LS", 1) });
    assert_eq!(w.leaves(), [true]);
    let pets = |w: &World| w.count(|e| matches!(e, Effect::Pet { .. }));
    for round in 0..60 {
        let before = pets(&w);
        w.renewed(0).pass(6).renewed(0).pass(6);
        assert!(pets(&w) > before, "not petted any more after {round} rounds");
    }
    assert_eq!(w.count(|e| matches!(e, Effect::Fire | Effect::SetLimit { .. })), 0, "no lease is written any more");
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Disarm)), 1);

    // One that comes after D2's instant vouches for nothing.
    let mut w = World::joined();
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace: wire_space("LS", 1) });
    w.pass(9);
    let before = pets(&w);
    w.renewed(0).pass(30);
    assert_eq!(pets(&w), before);
}

#[test]
fn w1_a_pet_after_the_deadline_resets_the_host_at_once() {
    let mut w = World::joined();
    w.renewed(0).wait(7900).apply(Event::Tick);
    assert!(matches!(w.log.last(), Some(Effect::Pet { .. })));
    w.wait(200).apply(Event::Petted { result: Ok(()), until: LocalInstant::NEVER });
    assert_eq!(w.count(|e| matches!(e, Effect::Fire)), 1);
    w.log.clear();
    w.pass(60);
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. } | Effect::Disarm)), 0, "never petted nor disarmed again");
}

#[test]
fn one_failing_lockspace_does_not_end_the_clients_of_another() {
    let mut w = World::joined();
    w.join("OTHER").hold(1, "R");
    w.client(2);
    let resources = vec![wire_lease("OTHER", "X")];
    let request =
        Request::Acquire { flags: AcquireFlags::NONE, target: Target::This, resources, options: Options::default() };
    w.ask(2, request).device_ready().ours();
    let started_at = w.wait(7000).now;
    w.apply(Event::Renewed { space: name("OTHER"), started_at, took: Took::default() });
    w.pass(4);
    assert!(!w.signals(1).is_empty());
    assert!(w.signals(2).is_empty());
    assert!(w.daemon.spaces[&name("OTHER")].life.is_active());
}

#[test]
fn a_client_that_gives_everything_back_survives_a_lost_lockspace_without_a_write() {
    let mut w = World::joined();
    w.hold(1, "R").wait(8 * IO * 1000).apply(Event::Tick).release_all(1);
    assert_eq!(*w.codes(1).last().unwrap(), 0);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0);
    assert_eq!(w.leaves(), [false]);
}

#[test]
fn restricted_signals_are_replaced() {
    let mut w = World::joined();
    w.client(2).hold(1, "R").hold(2, "S");
    w.ask(1, Request::Restrict { flags: RestrictFlags::SIGTERM });
    w.ask(2, Request::Restrict { flags: RestrictFlags::SIGKILL });
    w.pass(8 * IO + GRACE + 2);
    assert!(w.signals(1).iter().all(|s| *s == Signal::SIGKILL));
    assert!(w.signals(2).iter().all(|s| *s == Signal::SIGTERM));
}

#[test]
fn leaving_kills_at_once_and_frees_the_host_id_when_all_are_gone() {
    let mut w = World::joined();
    w.hold(1, "R");
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace: wire_space("LS", 1) });
    assert_eq!(w.signals(1), [Signal::SIGKILL]);
    assert_eq!(w.codes(900), [] as [i32; 0]);
    w.exited(1).closed(1);
    assert_eq!(w.leaves(), [true]);
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.codes(900), [0]);
}

/// A release that goes on trying ends with its lockspace: the freed host_id gives back what it could not.
#[test]
fn a_lockspace_whose_tasks_would_go_on_for_ever_is_left_all_the_same() {
    let ends = |e: &Effect<u32>| matches!(e, Effect::EndTasks { .. });
    let mut w = World::joined();
    w.hold(1, "R").release_all(1);
    let task = w.last_task();
    w.apply(Event::Released { task, code: ResultCode::new(-5), why: Some("no path".into()), done: false });
    assert_eq!(w.codes(1).last(), Some(&-5), "told at once, and tried again");
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace: wire_space("LS", 1) });
    w.pass(2);
    assert_eq!((w.count(ends), w.leaves()), (1, vec![]), "what is in flight is waited for");
    w.apply(Event::TaskDone { task }).pass(1);
    assert_eq!(w.leaves(), [true]);
}

#[test]
fn after_a_lost_join_the_daemon_is_its_own_predecessor() {
    let mut w = World::joined();
    w.pass(9).apply(Event::Left { space: name("LS") });
    w.add(901, "LS");
    assert_eq!(w.past(), (Some(1), Some(1)));
}

/// A client that goes while one of its leases is still being acquired gives back the others at once, and somebody else gets
/// one of them. When the acquire then fails, that one is not the call's to give back any more.
#[test]
fn s1_a_refused_acquire_gives_back_only_what_is_still_its_own() {
    let mut w = World::joined();
    w.client(2).acquire(1, &["R1", "R2"], AcquireFlags::NONE).device_ready().ours().device_ready();
    let second = w.last_task();
    w.exited(1).closed(1).released();
    w.hold(2, "R1");
    assert_eq!(w.codes(2).last(), Some(&0));
    let releases = |w: &World| w.count(|e| matches!(e, Effect::StartRelease { .. }));
    let before = releases(&w);
    let end =
        AcquireEnd::Refused { code: ResultCode::IO_TIMEOUT, why: "late".into(), may_change: false, undoing: false };
    w.apply(Event::Acquired { task: second, end });
    assert_eq!(releases(&w), before, "client 2 holds it");
}

/// Its write may have landed late, over a host with the same host_id that holds it.
#[test]
fn p1_a_join_that_failed_is_no_predecessor() {
    let mut w = World::new();
    w.add(900, "LS").fenced("LS", 1);
    w.apply(Event::Joined { space: name("LS"), result: Err((ResultCode::IO_TIMEOUT, "no answer".into())) });
    w.apply(Event::Left { space: name("LS") });
    w.add(901, "LS");
    assert_eq!(w.past(), (None, Some(1)), "and its generation is not used again");
}

/// Joined meanwhile under another host_id, it has not forgotten what it had under the first.
#[test]
fn p1_no_generation_of_one_host_id_is_forgotten_over_a_join_under_another() {
    let mut w = World::joined();
    w.pass(9).apply(Event::Left { space: name("LS") });
    let lockspace = wire_space("LS", 2);
    let join = Request::AddLockspace { flags: AddLockspaceFlags::NONE, io_timeout: 10, lockspace };
    w.apply(Event::Connected { client: ClientId(902), pid: 50, rights: Rights::Ours }).ask(902, join).fenced("LS", 7);
    assert_eq!(w.past(), (None, None));
    assert_eq!(w.daemon.last_saved.lockspaces.len(), 2, "a successor is told of both");
    w.apply(Event::Joined { space: name("LS"), result: Err((ResultCode::IO_TIMEOUT, "no answer".into())) });
    w.apply(Event::Left { space: name("LS") });
    w.add(903, "LS");
    assert_eq!(w.past(), (Some(1), Some(1)));
}

/// A write of a lost join may land after another host has taken the host_id, and then stands there as the latest.
#[test]
fn p1_a_join_whose_last_write_may_have_landed_after_host_dead_is_no_predecessor() {
    let mut w = World::joined();
    w.pass(9);
    assert!(!w.daemon.last_saved.lockspaces[0].joined, "nor for a successor, as long as a write may be on its way");
    w.pass(8 * IO + 60).apply(Event::Left { space: name("LS") });
    w.add(901, "LS");
    assert_eq!(w.past(), (None, Some(1)), "and its generation is not used again");
}

#[test]
fn what_a_predecessor_left_stays_in_the_state_file_until_joined_anew() {
    let mut w = World::inheriting(vec![join_record("LS", 4)]);
    w.add(1, "LS");
    assert_eq!(w.past(), (Some(4), Some(4)));
    w.fenced("LS", 5);
    let saved = w.daemon.last_saved.clone();
    assert_eq!(saved.lockspaces.len(), 1);
    assert_eq!(saved.lockspaces[0].generation, 5);
}

#[test]
fn waiting_acquires_are_served_in_the_order_of_their_arrival() {
    let mut w = World::joined();
    w.hold(1, "R").client(2).client(3);
    w.acquire(2, &["R"], AcquireFlags::WAIT).acquire(3, &["R"], AcquireFlags::WAIT);
    assert_eq!(w.codes(2), [] as [i32; 0]);
    w.renewed(0).release_all(1).released();
    w.log.clear();
    w.pass(1);
    assert_eq!(w.count(|e| matches!(e, Effect::OpenDevice { .. })), 1);
    w.device_ready().ours();
    assert_eq!(w.codes(2), [0]);
    assert_eq!(w.codes(3), [] as [i32; 0]);
    w.closed(3);
    assert!(w.daemon.waiting.is_empty(), "a wait ends with its caller");
}

#[test]
fn a_waiting_acquire_holds_nothing_while_it_waits() {
    let mut w = World::joined();
    w.acquire(1, &["R1", "R2"], AcquireFlags::WAIT).device_ready().ours().device_ready().theirs();
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 1);
    w.released();
    assert!(w.daemon.leases.is_empty());
    assert_eq!(w.daemon.waiting.len(), 1);
    w.pass(1).device_ready().ours().device_ready().ours();
    assert_eq!(w.codes(1), [0]);
}

#[test]
fn adding_the_same_lockspace_again_says_what_stands_against_it() {
    let mut w = World::new();
    w.add(1, "LS").add(2, "LS");
    assert_eq!(w.codes(2), [ResultCode::EINPROGRESS.number()]);
    let mut w = World::joined();
    w.add(2, "LS");
    assert_eq!(w.codes(2), [ResultCode::EEXIST.number()]);
    w.apply(Event::Connected { client: ClientId(3), pid: 1, rights: Rights::Ours });
    let request =
        Request::AddLockspace { flags: AddLockspaceFlags::NONE, io_timeout: 1, lockspace: wire_space("LS", 2) };
    w.ask(3, request);
    assert_eq!(w.codes(3), [ResultCode::EINVAL.number()]);
}

#[test]
fn registering_twice_forgets_nothing() {
    let mut w = World::joined();
    w.hold(1, "R").ask(1, Request::Register).ask(1, Request::Inquire { target: Target::This });
    let Some(Effect::Reply { bytes, .. }) = w.log.iter().rev().find(|e| matches!(e, Effect::Reply { .. })) else {
        panic!("no reply")
    };
    assert_eq!(&bytes[32..], b"LS:R:/dev/res:0:3\0");
}

#[test]
fn commands_for_others_are_found_by_pid_or_answered_esrch_and_ebusy() {
    let mut w = World::joined();
    w.ask(900, Request::Inquire { target: Target::Pid(4711) });
    assert_eq!(*w.codes(900).last().unwrap(), ResultCode::ESRCH.number());
    w.ask(900, Request::Inquire { target: Target::This });
    assert_eq!(*w.codes(900).last().unwrap(), ResultCode::EBUSY.number());
    w.acquire(1, &["R"], AcquireFlags::NONE).ask(900, Request::Inquire { target: Target::Pid(101) });
    assert_eq!(*w.codes(900).last().unwrap(), ResultCode::EBUSY.number());
}

/// Any order of anything: the invariants in `check` hold and nothing panics.
fn any_event() -> impl Strategy<Value = (u8, u64, u64)> {
    (0u8..25, 1u64..4, 0u64..9000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_sequence_of_events_breaks_an_invariant(steps in proptest::collection::vec(any_event(), 1..80)) {
        let mut w = World::joined();
        w.client(2).client(3);
        for (what, who, n) in steps {
            w.wait(n / 10);
            let task = TaskId(1 + n % 12);
            let flags = [AcquireFlags::WAIT, AcquireFlags::NONE, AcquireFlags::GROUP][usize::try_from(n % 3).unwrap()];
            match what {
                0 | 1 => w.acquire(who, &["R1", "R2"][..1 + usize::try_from(n % 2).unwrap()], flags),
                2 => w.release_all(who),
                3 => w.closed(who),
                4 => w.exited(who),
                5 | 6 => w.renewed(n % 9),
                7 | 8 => w.apply(Event::DeviceReady { task, prepared: Prepared { fences: vec![fence()], result: Ok(()) } }),
                9 => w.apply(Event::DeviceReady { task, prepared: Prepared::refused(ResultCode::EIO, "e".into()) }),
                10 | 11 => w.apply(Event::Acquired { task, end: AcquireEnd::Ours { held: 1, lver: Lver(1), geometry: Geometry::default_for(SectorSize::B512), value: None } }),
                12 => w.apply(Event::Acquired { task, end: AcquireEnd::Refused {
                    code: ResultCode::LOST_BALLOT, why: String::new(), may_change: true, undoing: n % 2 == 0 } }),
                13 => w.apply(Event::Released { task, code: ResultCode::OK, why: None, done: n % 2 == 0 }),
                14 => w.apply(Event::TaskDone { task }),
                15 if n % 2 == 0 => w.apply(Event::GroupGone { client: ClientId(who) }),
                15 => w.apply(Event::Tick),
                16 => w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::ASYNC, lockspace: wire_space("LS", 1) }),
                17 => w.apply(Event::Left { space: name("LS") }),
                20 => w.acquire_shared(who, "R1"),
                21 => w.release(who, "R1"),
                22 => w.convert(who, "R1", [Mode::Shared, Mode::Exclusive][usize::try_from(n % 2).unwrap()]),
                23 => {
                    let mode = [Mode::Shared, Mode::Exclusive][usize::try_from(n % 2).unwrap()];
                    let held = (n % 5 != 0).then_some((1, mode, Lver(2)));
                    w.apply(Event::Converted { task, end: Converted { held, code: ResultCode::OK, why: None } })
                }
                24 => {
                    let mode = [Mode::Shared, Mode::Exclusive][usize::try_from(n % 2).unwrap()];
                    let loss = [Loss::ClaimCleared, Loss::Formatted][usize::try_from(n % 2).unwrap()];
                    let key = LeaseKey { space: name("LS"), resource: "R1".parse().unwrap() };
                    w.apply(Event::Verified { key, lver: Lver(1 + n % 2), mode, found: Ok(Standing::Lost(loss)) })
                }
                18 => { w.join("LS"); if n % 2 == 0 { w.armed(); } w.fenced("LS", n) }
                _ => w.ask(who, Request::InqLockspace { flags: InqLockspaceFlags::WAIT, lockspace: wire_space("LS", 0) }),
            };
            w.answer_pets();
        }
    }
}

#[test]
fn whether_a_lockspace_is_used_is_asked_of_its_name_alone() {
    let mut w = World::joined();
    let unused = |w: &mut World, host_id| {
        w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::UNUSED, lockspace: wire_space("LS", host_id) });
        *w.codes(900).last().unwrap()
    };
    assert_eq!(unused(&mut w, 2), -2);
    w.hold(1, "R");
    assert_eq!((unused(&mut w, 2), unused(&mut w, 1)), (-16, -16));
    w.release_all(1).released();
    assert_eq!((unused(&mut w, 2), w.leaves().len()), (-2, 0));
}

#[test]
fn all_leases_are_released_whatever_flag_is_beside_that() {
    for more in [ReleaseFlags::ORPHAN, ReleaseFlags::RENAME] {
        let mut w = World::joined();
        w.hold(1, "R").hold(1, "S");
        w.log.clear();
        let flags = ReleaseFlags::ALL | more;
        w.ask(1, Request::Release { flags, target: Target::This, resources: Vec::new() });
        assert_eq!(w.releases(), 2, "{more:?}");
    }
}
