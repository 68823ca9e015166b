//! Replies that need nothing but the supervisor's own state: INQUIRE, GET_LOCKSPACES, STATUS, VERSION (spec A 6, 11).

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::SpaceName;
use holdfast_io::units::Geometry;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{LeaseFlags, LockspaceFlags, RestrictFlags};
use holdfast_protocol::payload::{Disk, Lockspace, Resource, ResourceHead};
use holdfast_protocol::request::Target;
use holdfast_protocol::state::{StateKind, StateRecord, StateText};
use holdfast_protocol::strings;
use holdfast_protocol::text::{DiskPath, Name48};
use paxos_lease::Mode;

use super::event::{ClientId, Effect, Place, ReplyTo};
use super::leases::{Lease, Phase, Token, WaitingAcquire, mode_word};
use super::spaces::{Life, Space};
use super::{Client, Supervisor, history};

/// The version we answer with: that of the sanlock whose protocol this is.
pub const SANLOCK_VERSION: u32 = 0x0308_0500;

/// The path in a wire field; `None` where it is empty.
pub(super) fn path_of(field: &DiskPath) -> Option<PathBuf> {
    let bytes = field.as_bytes();
    (!bytes.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec())))
}

fn disk_of(place: &Place) -> Disk {
    // A path came in through such a field, so it fits one.
    let path = DiskPath::new(place.path.as_os_str().as_bytes()).unwrap_or_else(|_| DiskPath::from_raw([0; 1024]));
    Disk::new(path, place.offset)
}

fn flag(on: bool) -> String {
    u8::from(on).to_string()
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(super) fn version(&mut self, to: ReplyTo) {
        // VERSION echoes neither flags nor seq (spec A 2).
        let header = holdfast_protocol::header::Header { cmd_flags: 0, seq: 0, ..to.header };
        self.reply_with(ReplyTo { header, ..to }, ResultCode::OK, SANLOCK_VERSION, &[]);
    }

    /// The leases of a client as one string, in the order of their acquisition.
    pub(super) fn inquire(&mut self, to: ReplyTo, target: Target) {
        let target = match self.target(to, target) {
            Ok(target) if self.clients.get(&target).is_none_or(|c| c.running.is_some()) => {
                return self.reply(to, ResultCode::EBUSY);
            }
            Ok(target) => target,
            Err(code) => return self.reply(to, code),
        };
        let held: Vec<Resource> = self.held_by(target).into_iter().map(|(lease, _)| wire_lease(lease)).collect();
        let count = u32::try_from(held.len()).unwrap_or(u32::MAX);
        if held.is_empty() {
            return self.reply(to, ResultCode::OK);
        }
        let mut text = strings::print_state(&held);
        text.push(0);
        self.reply_with(to, ResultCode::OK, count, &text);
    }

    /// What a client holds, as often as it does.
    fn held_by(&self, client: ClientId) -> Vec<(&Lease<L>, &Token)> {
        let leases = self.leases.values().filter(|l| l.is_held_by(client));
        let tokens = leases.flat_map(|l| l.tokens.iter().map(move |t| (l, t))).filter(|(_, t)| t.client == client);
        let mut held: Vec<_> = tokens.collect();
        held.sort_by_key(|(_, token)| token.slot);
        held
    }

    pub(super) fn get_lockspaces(&mut self, to: ReplyTo) {
        let mut payload = Vec::new();
        let mut spaces: Vec<Lockspace> =
            self.newest_spaces().into_iter().map(|(name, s)| wire_space(name.field(), s)).collect();
        spaces.sort_by_key(|s| match s.flags {
            LockspaceFlags::NONE => 0,
            LockspaceFlags::REM => 1,
            _ => 2,
        });
        spaces.iter().for_each(|s| s.encode(&mut payload));
        let count = u32::try_from(spaces.len()).unwrap_or(u32::MAX);
        let mut bytes = to.header.answer(ResultCode::OK, count, payload.len()).encode().to_vec();
        bytes.append(&mut payload);
        self.effects.push(Effect::Reply { client: to.client, bytes });
        self.close(to.client);
    }

    /// Everything as a record stream, which ends with the connection.
    pub(super) fn status(&mut self, to: ReplyTo, stop_after: u32, now: LocalInstant) {
        let mut records = vec![self.daemon_record(now)];
        if stop_after == 0 || stop_after >= 2 {
            // sanlock's own two slots: tools count on them.
            records.extend([own_record(0, "helper"), own_record(1, "listener")]);
            let mut clients: Vec<&Client> = self.clients.values().filter(|c| c.slot.is_some()).collect();
            clients.sort_by_key(|c| c.slot);
            records.extend(clients.into_iter().map(client_record));
        }
        if stop_after == 0 || stop_after >= 3 {
            records.extend(self.newest_spaces().into_iter().map(|(name, s)| space_record(name.field(), s)));
        }
        if stop_after == 0 || stop_after >= 4 {
            records.extend(self.listed_leases().into_iter().flat_map(|l| self.lease_records(l)));
        }
        let mut bytes = to.header.answer(ResultCode::OK, to.header.data2, 0).encode().to_vec();
        records.iter().for_each(|r| r.encode(&mut bytes));
        self.effects.push(Effect::Reply { client: to.client, bytes });
        self.close(to.client);
    }

    /// The lockspaces, the latest first, as sanlock lists them.
    fn newest_spaces(&self) -> Vec<(&SpaceName, &Space)> {
        let mut spaces: Vec<_> = self.spaces.iter().collect();
        spaces.sort_by_key(|(_, space)| std::cmp::Reverse(space.number));
        spaces
    }

    /// The leases as sanlock lists them: those that are held, those on their way, those that are given back, the orphans; of each
    /// the latest first.
    fn listed_leases(&self) -> Vec<&Lease<L>> {
        let mut leases: Vec<_> = self.leases.values().collect();
        leases.sort_by_key(|lease| {
            let list = match list_of(lease) {
                "held" => 0,
                "add" => 1,
                "rem" => 2,
                _ => 3,
            };
            (list, std::cmp::Reverse(lease.res_id))
        });
        leases
    }

    /// The latest renewals of a lockspace as a record stream.
    pub(super) fn renewals(&mut self, to: ReplyTo, lockspace: &Lockspace) {
        let found = self.space_named(&lockspace.name);
        let (code, io_timeout) = match found {
            Some((_, space)) => (ResultCode::OK, u32::from(space.io_timeout.seconds())),
            None => (ResultCode::ENOSPC, 0),
        };
        let mut bytes = to.header.answer(code, io_timeout, 0).encode().to_vec();
        found.into_iter().flat_map(|(_, space)| space.history.records()).for_each(|r| r.encode(&mut bytes));
        self.effects.push(Effect::Reply { client: to.client, bytes });
        self.close(to.client);
    }

    fn daemon_record(&self, now: LocalInstant) -> StateRecord {
        let s = &self.settings;
        let fixed = |n: u64| n.to_string();
        let pairs: Vec<(&str, String)> = vec![
            ("our_host_name", s.host_name.clone()),
            ("use_watchdog", flag(s.report.use_watchdog)),
            ("high_priority", flag(s.report.high_priority)),
            ("mlock_level", fixed(u64::from(s.report.mlock_level))),
            ("quiet_fail", fixed(1)),
            ("debug_renew", fixed(0)),
            ("debug_clients", fixed(0)),
            ("debug_cmds", "0xfffffffffe06ffff".into()),
            ("renewal_history_size", history::MOST.to_string()),
            ("gid", fixed(u64::from(s.report.gid))),
            ("uid", fixed(u64::from(s.report.uid))),
            ("sh_retries", fixed(8)),
            ("max_sectors_kb_ignore", fixed(1)),
            ("max_sectors_kb_align", fixed(0)),
            ("max_sectors_kb_num", fixed(0)),
            ("max_worker_threads", fixed(8)),
            ("write_init_io_timeout", fixed(60)),
            ("use_aio", fixed(0)),
            ("kill_grace_seconds", fixed(s.kill_grace.as_secs())),
            ("helper_pid", "-1".into()),
            ("helper_kill_fd", "-1".into()),
            ("helper_full_count", fixed(0)),
            ("helper_last_status", fixed(0)),
            ("monotime", fixed(now.disk_seconds())),
            ("version_str", format!("3.8.5-holdfast-{}", env!("CARGO_PKG_VERSION"))),
            ("version_num", "3.8.5".into()),
            ("version_hex", format!("{SANLOCK_VERSION:08x}")),
            ("smproto_hex", format!("{:08x}", 1)),
        ];
        StateRecord::daemon(Name48::cut(s.host_name.as_bytes()), StateText::from_pairs(pairs))
    }

    /// One record for each token, the latest first, or one for a lease that is nobody's any more.
    fn lease_records(&self, lease: &Lease<L>) -> Vec<StateRecord> {
        match lease.tokens.as_slice() {
            [] => vec![self.lease_record(lease, None)],
            tokens => tokens.iter().rev().map(|token| self.lease_record(lease, Some(token))).collect(),
        }
    }

    fn lease_record(&self, lease: &Lease<L>, token: Option<&Token>) -> StateRecord {
        let client = token.and_then(|t| self.clients.get(&t.client));
        // As in sanlock, which knows who left an exclusive lease alone.
        let left_by = lease.left_by.first().map(|pid| if lease.mode == Mode::Shared { 0 } else { *pid });
        let pid = client.map(|c| c.pid).or(left_by).or(lease.given_back_by).unwrap_or(-1);
        let (sector_size, align_size) = sizes(lease.geometry);
        let pairs = [
            ("list", list_of(lease).to_owned()),
            ("flags", format!("{:x}", resource_flags(lease))),
            ("sector_size", sector_size.to_string()),
            ("align_size", align_size.to_string()),
            ("lver", lease.lver.to_string()),
            ("reused", lease.reused.to_string()),
            ("res_id", lease.res_id.to_string()),
            ("token_id", token.map_or(0, |t| t.number).to_string()),
        ];
        let mut wire = wire_lease(lease);
        wire.head.lver = 0; // in the stream the version stands in the record itself (spec A V9)
        wire.disks.iter_mut().for_each(|disk| disk.pad1 = sector_size);
        StateRecord::resource(pid, lease.lver.0, wire, StateText::from_pairs(pairs))
    }

    /// The state for people, as far as the supervisor knows it. Hosts are added by whoever watches the disks.
    #[must_use]
    pub fn snapshot(&self, now: LocalInstant) -> serde_json::Value {
        let ago = |t: LocalInstant| now.since(t).as_millis();
        let until = |t: LocalInstant| t.since(now).as_millis();
        let spaces: Vec<_> = self
            .spaces
            .iter()
            .map(|(name, s)| {
                let fail_at = match s.life {
                    Life::Active { fail_at, .. } | Life::Removing { fail_at } => Some(until(fail_at)),
                    _ => None,
                };
                serde_json::json!({
                    "name": name.to_string(),
                    "host_id": s.host_id.get(),
                    "generation": s.record.as_ref().map(|r| r.generation),
                    "path": s.place.path.display().to_string(),
                    "offset": s.place.offset,
                    "io_timeout_s": s.io_timeout.seconds(),
                    "state": s.life.word(),
                    "last_renewal_ms_ago": s.last_success.map(ago),
                    "fails_in_ms": fail_at,
                    "failed_renewals": s.failures,
                    "guarded": s.guards.len(),
                })
            })
            .collect();
        let leases: Vec<_> = self.leases.values().flat_map(|l| self.lease_snapshots(l, now)).collect();
        let clients: Vec<_> = self.clients.values().filter(|c| c.registered).map(client_snapshot).collect();
        let waiting: Vec<_> = self.waiting.iter().map(|w| self.waiting_snapshot(w)).collect();
        serde_json::json!({
            "host_name": self.settings.host_name,
            "watchdog": {
                "kind": self.settings.watchdog,
                "armed": self.care.armed,
                "device_timeout_s": self.care.device_seconds,
                "last_pet_ms_ago": self.care.last_pet.map(ago),
                "stays_on": self.care.stays_on,
                "reset_this_host": self.settings.report.reset_by_watchdog,
            },
            "lockspaces": spaces,
            "leases": leases,
            "waiting": waiting,
            "clients": clients,
            "refusals": self.refusals.iter().map(|r| serde_json::json!({
                "ms_ago": ago(r.at), "about": r.about, "code": r.code.number(), "why": r.why,
            })).collect::<Vec<_>>(),
        })
    }

    /// An acquire that waits; those for one lease stand in the order in which they will get it.
    fn waiting_snapshot(&self, waiting: &WaitingAcquire) -> serde_json::Value {
        let client = self.clients.get(&waiting.client);
        serde_json::json!({
            "lockspace": waiting.key.space.to_string(),
            "resource": waiting.key.resource.to_string(),
            "pid": client.map(|c| c.pid),
            "name": client.map(|c| c.name.to_string()),
        })
    }

    fn lease_snapshots(&self, lease: &Lease<L>, now: LocalInstant) -> Vec<serde_json::Value> {
        match lease.tokens.as_slice() {
            [] => vec![self.lease_snapshot(lease, None, now)],
            tokens => tokens.iter().map(|token| self.lease_snapshot(lease, Some(token), now)).collect(),
        }
    }

    fn lease_snapshot(&self, lease: &Lease<L>, token: Option<&Token>, now: LocalInstant) -> serde_json::Value {
        let client = token.and_then(|t| self.clients.get(&t.client));
        serde_json::json!({
            "lockspace": lease.key.space.to_string(),
            "resource": lease.key.resource.to_string(),
            "path": lease.places.first().map(|place| place.path.display().to_string()),
            "offset": lease.places.first().map(|place| place.offset),
            "disks": lease.places.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "lver": lease.lver.0,
            "mode": mode_word(lease.mode),
            "state": match lease.phase {
                Phase::Held { .. } if lease.is_orphan() => "orphan",
                Phase::Held { .. } => "held",
                Phase::Converting { .. } => "converting",
                Phase::Opening(_) | Phase::Acquiring => "acquiring",
                Phase::Releasing => "releasing",
                Phase::Lost { .. } => "lost",
            },
            "pid": client.map(|c| c.pid),
            "name": client.map(|c| c.name.to_string()),
            "inherited": client.is_some_and(Client::is_inherited),
            "held_for_ms": lease.since.map(|since| now.since(since).as_millis()),
        })
    }
}

fn client_snapshot(client: &Client) -> serde_json::Value {
    serde_json::json!({
        "pid": client.pid,
        "name": client.name.to_string(),
        "exited": client.exited,
        "inherited": client.is_inherited(),
        "writes_in_flight": client.waits_for_its_writes(),
        "connection_inode": client.process.as_ref().map(|process| process.connection_inode),
        "signals_sent": client.signals_sent,
    })
}

fn wire_space(name: &[u8; 48], space: &Space) -> Lockspace {
    let flags = match space.life {
        Life::Joining => LockspaceFlags::ADD,
        Life::Active { .. } => LockspaceFlags::NONE,
        Life::Removing { .. } | Life::Failing { .. } | Life::Leaving { .. } => LockspaceFlags::REM,
    };
    Lockspace { flags, ..Lockspace::new(Name48::from_raw(*name), space.host_id.get(), disk_of(&space.place)) }
}

/// What sanlock's STATUS says of a lease in bits: that it is shared, what was restricted for it, that its value is new.
fn resource_flags<L>(lease: &Lease<L>) -> u32 {
    let restrict = lease.manners.restrict;
    [
        (0x1, lease.mode == Mode::Shared),
        (0x8, restrict.contains(RestrictFlags::SIGKILL)),
        (0x10, restrict.contains(RestrictFlags::SIGTERM)),
        (0x20, lease.value.as_ref().is_some_and(|value| value.set)),
    ]
    .into_iter()
    .filter(|(_, is_so)| *is_so)
    .fold(0, |flags, (bit, _)| flags | bit)
}

/// In which of sanlock's lists a lease would be.
fn list_of<L>(lease: &Lease<L>) -> &'static str {
    match lease.phase {
        Phase::Held { .. } if lease.is_orphan() => "orphan",
        Phase::Held { .. } | Phase::Converting { .. } => "held",
        Phase::Opening(_) | Phase::Acquiring => "add",
        Phase::Releasing | Phase::Lost { .. } => "rem",
    }
}

fn wire_lease<L>(lease: &Lease<L>) -> Resource {
    let names = (Name48::from_raw(*lease.key.space.field()), Name48::from_raw(*lease.key.resource.field()));
    let flags = if lease.mode == Mode::Shared { LeaseFlags::SHARED } else { LeaseFlags::NONE };
    let head = ResourceHead { lver: lease.lver.0, flags, ..ResourceHead::named(names.0, names.1) };
    Resource::new(head, lease.places.iter().map(disk_of).collect())
}

/// Sector and align size, bytes; 0 where they are not known yet.
fn sizes(geometry: Option<Geometry>) -> (u32, u64) {
    geometry.map_or((0, 0), |g| (u32::try_from(g.sector().bytes()).unwrap_or(0), g.align().bytes()))
}

/// A slot of sanlock's own: nobody is behind it.
fn own_record(slot: u32, name: &str) -> StateRecord {
    let slot = slot.to_string();
    let value = |key: &str| match key {
        "ci" => slot.clone(),
        "fd" | "pid" => "-1".to_owned(),
        _ => "0".to_owned(),
    };
    let pairs = StateKind::Client.keys().iter().map(|key| (*key, value(key)));
    StateRecord::client(-1, Name48::cut(name.as_bytes()), StateText::from_pairs(pairs))
}

fn client_record(client: &Client) -> StateRecord {
    // As in sanlock, whose STATUS knows the pids of clients alone.
    let pid = if client.registered { client.pid } else { -1 };
    let pairs = [
        ("ci", client.slot.unwrap_or_default().to_string()),
        ("fd", "-1".to_owned()),
        ("pid", pid.to_string()),
        ("flags", (u32::from(client.killpath_pid) | u32::from(client.killpath_run) << 1).to_string()),
        ("restricted", format!("{:x}", client.restrict.bits())),
        ("cmd_active", client.running.as_ref().map_or(0, |_| client.last_command).to_string()),
        ("cmd_last", client.last_command.to_string()),
        ("pid_dead", flag(client.closed)),
        ("kill_count", client.kill_count.to_string()),
        ("kill_last", client.kill_last.map_or(0, LocalInstant::disk_seconds).to_string()),
        ("suspend", flag(client.waits)),
        ("need_free", "0".to_owned()),
    ];
    StateRecord::client(pid, client.name, StateText::from_pairs(pairs))
}

fn space_record(name: &[u8; 48], space: &Space) -> StateRecord {
    // A lost one is where it was until it is being left: STATUS says of it that it is dead.
    let (list, flags) = match space.life {
        Life::Joining => ("add", LockspaceFlags::ADD),
        Life::Active { .. } | Life::Failing { .. } => ("spaces", LockspaceFlags::NONE),
        Life::Removing { .. } | Life::Leaving { .. } => ("rem", LockspaceFlags::REM),
    };
    let at = |instant: Option<LocalInstant>| instant.map_or(0, LocalInstant::disk_seconds).to_string();
    let zero = || "0".to_owned();
    let (sector_size, align_size) = sizes(space.geometry);
    let of = |good: bool, fault: i32| if good { 1 } else { fault }.to_string();
    let result = of(space.failures == 0, space.last_fault.number());
    let failing = matches!(space.life, Life::Failing { .. });
    let pairs: Vec<(&str, String)> = vec![
        ("list", list.to_owned()),
        ("space_id", space.number.to_string()),
        ("io_timeout", space.io_timeout.seconds().to_string()),
        ("sector_size", sector_size.to_string()),
        ("align_size", align_size.to_string()),
        ("host_generation", space.record.as_ref().map_or(0, |r| r.generation).to_string()),
        ("renew_fail", flag(failing)),
        ("space_dead", flag(failing || matches!(space.life, Life::Removing { .. }))),
        ("killing_pids", flag(!space.guards.is_empty())),
        ("used_retries", zero()),
        ("external_used", flag(space.used)),
        ("used_by_orphans", flag(space.used_by_orphans)),
        ("renewal_read_extend_sec", space.io_timeout.seconds().to_string()),
        ("set_max_sectors_kb", zero()),
        ("corrupt_result", space.found_lost.number().to_string()),
        ("acquire_last_result", of(space.joined_at.is_some(), 0)),
        ("renewal_last_result", result),
        ("acquire_last_attempt", at(space.joined_at)),
        ("acquire_last_success", at(space.joined_at)),
        ("renewal_last_attempt", at(space.last_attempt)),
        ("renewal_last_success", at(space.last_success)),
    ];
    let mut wire = Lockspace { flags, ..wire_space(name, space) };
    wire.disk.pad1 = sector_size;
    StateRecord::lockspace(wire, StateText::from_pairs(pairs))
}
