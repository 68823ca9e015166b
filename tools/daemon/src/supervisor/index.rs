//! The resource index: its commands, and whose turn it is (spec A 6, RINDEX; D 5).
//!
//! What changes an index runs as a task of its lockspace, under the index's own lease, like an acquire: it begins only in a
//! lockspace that is active, it is counted before the lockspace is left, it ends with it, and what it writes is bound by D2. One at a
//! time in each lockspace; meanwhile nobody here gets the leases that it works on. A lookup only reads. What is to be done
//! *without* the lockspace (the flag NO_LOCKSPACE), and is not joined here either, is done like a format: by `queries/index.rs`.
//!
//! Once its writes are over and the index is given back, the answer follows. Where a write is held up, the answer comes first, and
//! the turn ends with the write.

use std::collections::BTreeMap;

use crate::log_ring::AT_WILL;
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::stop::Stop;
use holdfast_io::sys::rights::Rights;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{Command, RindexFlags};
use holdfast_protocol::payload::{Rindex, RindexEntry};
use holdfast_protocol::request::Request;
use holdfast_protocol::text::Name48;
use paxos_lease::index::lease_name;

use super::Supervisor;
use super::answers::path_of;
use super::event::{Effect, LeaseKey, Place, Prepared, ReplyTo, TaskId};
use super::spaces::Life;

/// A change of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRequest {
    /// Whose index.
    pub space: SpaceName,
    /// Where it begins.
    pub place: Place,
    /// What is to be done.
    pub work: IndexWork,
}

impl IndexRequest {
    /// The lease that guards the index.
    #[must_use]
    pub fn key(&self) -> LeaseKey {
        LeaseKey { space: self.space, resource: lease_name() }
    }
}

/// What is to be done with an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexWork {
    /// Create a resource.
    Create {
        /// Its name.
        name: ResourceName,
        /// Host ids that it is to serve, if they fit; 0 for as many as do.
        num_hosts: u32,
    },
    /// Delete a resource.
    Delete {
        /// Its name.
        name: ResourceName,
        /// Where it is expected.
        offset: Option<u64>,
    },
    /// List what is there, whatever it is.
    Add {
        /// Its name.
        name: ResourceName,
        /// Its area.
        offset: u64,
    },
    /// Take it off the list.
    Remove {
        /// Its name, if that is given.
        name: Option<ResourceName>,
        /// Its area.
        offset: u64,
    },
    /// List anew what is there.
    Rebuild,
}

impl IndexWork {
    /// What a command asks for.
    ///
    /// # Errors
    /// It cannot be: the code, and the reason.
    pub fn read(
        command: Command,
        flags: RindexFlags,
        num_hosts: u32,
        entry: &RindexEntry,
    ) -> Result<Self, (ResultCode, &'static str)> {
        let name = ResourceName::new(entry.name.as_bytes()).ok();
        let offset = Some(entry.offset).filter(|offset| *offset != 0);
        let invalid = |why| (ResultCode::EINVAL, why);
        match command {
            Command::CreateResource => {
                let name = name.ok_or(invalid("a resource needs a name"))?;
                Ok(IndexWork::Create { name, num_hosts })
            }
            Command::DeleteResource => {
                let name = name.ok_or((ResultCode::ENOENT, "no resource has an empty name"))?;
                Ok(IndexWork::Delete { name, offset })
            }
            Command::UpdateRindex if flags.contains(RindexFlags::REM) => {
                let offset = offset.ok_or(invalid("an entry is removed by its offset"))?;
                Ok(IndexWork::Remove { name, offset })
            }
            Command::UpdateRindex if flags.contains(RindexFlags::ADD) => match (name, offset) {
                (Some(name), Some(offset)) => Ok(IndexWork::Add { name, offset }),
                _ => Err(invalid("an entry is added by name and offset")),
            },
            Command::RebuildRindex => Ok(IndexWork::Rebuild),
            _ => Err(invalid("neither to add nor to remove")),
        }
    }

    /// The resource that it is about, if it is one that may be held.
    fn target(&self) -> Option<ResourceName> {
        match self {
            IndexWork::Create { name, .. } | IndexWork::Delete { name, .. } => Some(*name),
            IndexWork::Add { .. } | IndexWork::Remove { .. } | IndexWork::Rebuild => None,
        }
    }
}

/// How work on an index has ended, for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEnd {
    /// 0, or what went wrong.
    pub code: ResultCode,
    /// The entry that a command about one is answered with.
    pub entry: RindexEntry,
    /// What went wrong, in words.
    pub why: Option<String>,
}

impl IndexEnd {
    /// A failure.
    #[must_use]
    pub fn failed(code: ResultCode, why: impl Into<String>) -> Self {
        IndexEnd { code, entry: RindexEntry::default(), why: Some(why.into()) }
    }
}

/// Work on an index that is not over.
#[derive(Debug)]
struct Turn {
    /// Who is to be answered; nobody any more once that is done.
    to: Option<ReplyTo>,
    request: IndexRequest,
    stop: Stop,
    /// Its device is being opened: nothing was written yet.
    opening: bool,
}

/// All of it, by its task.
#[derive(Debug, Default)]
pub(super) struct Turns(BTreeMap<TaskId, Turn>);

impl Turns {
    /// Whether a lockspace's index is being worked on.
    pub(super) fn any_in(&self, space: &SpaceName) -> bool {
        self.0.values().any(|turn| turn.request.space == *space)
    }

    /// Whether a lease is being worked on: that of an index, or of a resource that is being created or deleted.
    pub(super) fn works_on(&self, key: &LeaseKey) -> bool {
        self.0.values().any(|turn| {
            let target = turn.request.work.target();
            turn.request.space == key.space && (key.resource == lease_name() || target == Some(key.resource))
        })
    }
}

/// The bytes behind the header of an answer: an entry, where the command is about one.
pub(crate) fn entry_payload(command: Command, entry: &RindexEntry) -> Vec<u8> {
    let mut payload = Vec::new();
    if !matches!(command, Command::RebuildRindex | Command::FormatRindex) {
        entry.encode(&mut payload);
    }
    payload
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// LOOKUP_RINDEX, CREATE_RESOURCE, DELETE_RESOURCE, UPDATE_RINDEX, REBUILD_RINDEX.
    pub(super) fn rindex(&mut self, to: ReplyTo, request: Request) {
        match &request {
            Request::RindexEntry { command: Command::LookupRindex, flags, index, .. } => {
                let (flags, index) = (*flags, index.clone());
                self.lookup_rindex(to, flags, &index, request);
            }
            Request::RindexEntry { command, flags, hosts: (_, num_hosts), index, entry } => {
                let (flags, work) = (*flags, IndexWork::read(*command, *flags, *num_hosts, entry));
                let index = index.clone();
                self.change_rindex(to, flags, &index, work, request);
            }
            Request::RebuildRindex { flags, index } => {
                let (flags, index) = (*flags, index.clone());
                self.change_rindex(to, flags, &index, Ok(IndexWork::Rebuild), request);
            }
            _ => {}
        }
    }

    fn lookup_rindex(&mut self, to: ReplyTo, flags: RindexFlags, index: &Rindex, request: Request) {
        if flags.contains(RindexFlags::NO_LOCKSPACE) {
            return self.effects.push(Effect::Answer { to, request });
        }
        match self.index_space(&index.lockspace_name) {
            Ok(_) => self.effects.push(Effect::Answer { to, request }),
            Err(code) => self.end_index(to, &IndexEnd::failed(code, "the lockspace is not joined")),
        }
    }

    fn change_rindex(
        &mut self,
        to: ReplyTo,
        flags: RindexFlags,
        index: &Rindex,
        work: Result<IndexWork, (ResultCode, &'static str)>,
        request: Request,
    ) {
        let known = self.space_named(&index.lockspace_name).is_some();
        let by_hand = matches!(request.command(), Command::UpdateRindex | Command::RebuildRindex);
        if by_hand && flags.contains(RindexFlags::NO_LOCKSPACE) && !known {
            return self.effects.push(Effect::Answer { to, request });
        }
        let Some(by) = self.rights_of(to.client) else { return };
        match self.admit_index(index, work, by) {
            Ok(request) => {
                let task = self.next_task(request.key());
                let turn = Turn { to: Some(to), request: request.clone(), stop: Stop::new(), opening: true };
                self.turns.0.insert(task, turn);
                self.effects.push(Effect::OpenIndex { task, request });
            }
            Err((code, why)) => self.end_index(to, &IndexEnd::failed(code, why)),
        }
    }

    /// A lockspace in which an index may be worked on.
    fn index_space(&self, name: &Name48) -> Result<SpaceName, ResultCode> {
        match self.space_named(name) {
            Some((space, s)) if s.life.is_active() => Ok(space),
            Some((_, s)) if matches!(s.life, Life::Removing { .. } | Life::Failing { .. }) => Err(ResultCode::ENOSPC),
            _ => Err(ResultCode::ENOENT),
        }
    }

    fn admit_index(
        &self,
        index: &Rindex,
        work: Result<IndexWork, (ResultCode, &'static str)>,
        by: Rights,
    ) -> Result<IndexRequest, (ResultCode, &'static str)> {
        let space = self.index_space(&index.lockspace_name).map_err(|code| (code, "the lockspace is not joined"))?;
        let work = work?;
        let path = path_of(&index.disk.path).ok_or((ResultCode::ENOENT, "no path"))?;
        if self.turns.any_in(&space) {
            return Err((ResultCode::EBUSY, "an index of this lockspace is being worked on"));
        }
        let in_use = |resource| self.leases.contains_key(&LeaseKey { space, resource });
        if in_use(lease_name()) {
            return Err((ResultCode::EBUSY, "a client here uses the lease of the index"));
        }
        if matches!(&work, IndexWork::Delete { name, .. } if in_use(*name)) {
            return Err((ResultCode::EBUSY, "the resource is in use here"));
        }
        Ok(IndexRequest { space, place: Place { path, offset: index.disk.offset, by }, work })
    }

    /// The device of an index is open and fenced, or cannot be used.
    pub(super) fn index_ready(&mut self, task: TaskId, Prepared { fences, result }: Prepared, now: LocalInstant) {
        // Forgotten: its lockspace was lost or left while it opened the device.
        let Some(turn) = self.turns.0.get_mut(&task) else { return };
        turn.opening = false;
        let (request, stop) = (turn.request.clone(), turn.stop.clone());
        let space = self.spaces.get_mut(&request.space);
        let active = space.as_ref().is_some_and(|s| s.life.is_active());
        // The fence is in the state file before the first write through it, whatever comes of this.
        if let Some(record) = space.and_then(|s| s.record.as_mut()) {
            record.fences.extend(fences);
        }
        self.save();
        if let Err((code, why)) = result {
            return self.index_done(task, &IndexEnd::failed(code, why), true, now);
        }
        if active {
            self.effects.push(Effect::StartIndex { task, request, stop });
        } else {
            let end = IndexEnd::failed(ResultCode::ENOSPC, "the lockspace is not joined any more");
            self.index_done(task, &end, true, now);
        }
    }

    /// Work on an index has an answer; `over` when it has also come to its end.
    pub(super) fn index_done(&mut self, task: TaskId, end: &IndexEnd, over: bool, now: LocalInstant) {
        let Some(turn) = self.turns.0.get_mut(&task) else { return };
        let (to, request) = (turn.to.take(), turn.request.clone());
        if over {
            self.end_turn(task);
        }
        if let Some(why) = &end.why {
            let about = format!("index {} at {}", request.space, request.place);
            self.refused(about, end.code, why.clone(), now);
        }
        if let Some(to) = to {
            self.end_index(to, end);
        }
    }

    /// Work on an index that went on after its answer has come to its end. Whether the task was such work.
    pub(super) fn end_turn(&mut self, task: TaskId) -> bool {
        let over = self.turns.0.remove(&task).is_some();
        if over {
            self.tasks.remove(&task);
        }
        over
    }

    /// A lockspace is lost or left: what works on its indexes comes to its end. What still opens its device may hang in open(2)
    /// for ever, has written nothing, and is forgotten.
    pub(super) fn stop_turns_in(&mut self, space: &SpaceName, now: LocalInstant) {
        let mut opening = Vec::new();
        for (task, turn) in self.turns.0.iter().filter(|(_, turn)| turn.request.space == *space) {
            turn.stop.set();
            if turn.opening {
                opening.push(*task);
            }
        }
        for task in opening {
            let end = IndexEnd::failed(ResultCode::ENOSPC, "the lockspace is not joined any more");
            self.index_done(task, &end, true, now);
        }
    }

    fn end_index(&mut self, to: ReplyTo, end: &IndexEnd) {
        if let Some(why) = &end.why {
            tracing::info!(target: AT_WILL, code = end.code.number(), why, "index: refused");
        }
        let command = Command::from_number(to.header.cmd);
        let payload = command.map(|command| entry_payload(command, &end.entry)).unwrap_or_default();
        self.reply_with(to, end.code, 0, &payload);
    }
}
