//! The convert command: a held lease becomes a shared one, or an exclusive one (spec A 6, D 4.9).
//!
//! While its task runs the lease is somebody's in one mode or the other, and nobody else's: a local client that wants to share
//! it is told to try again. It is not given back before the task is over, whoever goes.

use crate::log_ring::AT_WILL;
use holdfast_io::clock::LocalInstant;
use holdfast_io::stop::Stop;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{AcquireFlags, LeaseFlags};
use holdfast_protocol::payload::ResourceHead;
use holdfast_protocol::request::Target;
use paxos_lease::Mode;

use super::Supervisor;
use super::event::{ConvertRequest, Converted, Effect, ReplyTo, TaskId};
use super::leases::{Lease, Manners, NOT_JOINED, Phase, Running, key_of, mode_word, not_admitted};

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(super) fn convert(
        &mut self,
        to: ReplyTo,
        flags: AcquireFlags,
        target: Target,
        resource: &ResourceHead,
        now: LocalInstant,
    ) {
        let about = format!("lease {}:{}", resource.lockspace_name, resource.name);
        let target = match self.admit(to, target) {
            Ok(target) => target,
            Err(code) => return self.deny(to, about, code, not_admitted(code), now),
        };
        let mode = if resource.flags.contains(LeaseFlags::SHARED) { Mode::Shared } else { Mode::Exclusive };
        let found = key_of(resource).and_then(|key| self.leases.get_mut(&key)).filter(|l| l.is_held_by(target));
        let Some(lease) = found else {
            return self.deny(to, about, ResultCode::ENOENT, "its client does not hold it", now);
        };
        let key = lease.key;
        if lease.mode == mode {
            let why = format!("it is held {} already", mode_word(mode));
            return self.deny(to, about, ResultCode::EALREADY, &why, now);
        }
        if lease.tokens.len() > 1 || !lease.left_by.is_empty() {
            // sanlock grants it, beside whoever else on this host shares the lease. S1 does not.
            return self.deny(to, about, ResultCode::EAGAIN, "others on this host share it, or left it behind", now);
        }
        if !self.spaces.get(&key.space).is_some_and(|s| s.life.is_active()) {
            return self.deny(to, about, ResultCode::ENOSPC, NOT_JOINED, now);
        }
        if mode == Mode::Exclusive {
            // Whoever shares is asked for nothing.
            lease.manners = self.clients.get(&target).map(Manners::of).unwrap_or_default();
        }
        let converting = Phase::Converting { abandoned: false };
        let value = lease.value_to_write();
        if let Some(known) = lease.value.as_mut() {
            known.offered = value.is_some();
        }
        let Phase::Held { held } = std::mem::replace(&mut lease.phase, converting) else { return };
        let stop = Stop::new();
        if let Some(client) = self.clients.get_mut(&target) {
            client.running = Some(Running::convert(stop.clone(), to));
        }
        let task = self.next_task(key);
        let nowait = flags.contains(AcquireFlags::OWNER_NOWAIT);
        let request = ConvertRequest { key, held, mode, value, nowait };
        self.effects.push(Effect::StartConvert { task, request, stop });
    }

    pub(super) fn converted(&mut self, task: TaskId, end: Converted<L>, now: LocalInstant) {
        let Some(key) = self.tasks.remove(&task) else { return };
        let Converted { held, code, why } = end;
        if let Some(why) = why {
            let who = self.who(self.leases.get(&key).and_then(Lease::client));
            tracing::info!(target: AT_WILL, lease = %key, pid = who.pid, name = %who.name, code = code.number(), why, "not converted");
            self.refused(format!("lease {key}"), code, why, now);
        }
        let Some(lease) = self.leases.get_mut(&key) else { return };
        let Phase::Converting { abandoned } = lease.phase else { return };
        let client = lease.tokens.first().map(|t| t.client);
        match held {
            Some((held, mode, lver)) => {
                if mode != lease.mode {
                    let pid = client.and_then(|c| self.clients.get(&c)).map(|c| c.pid);
                    tracing::info!(lease = %key, pid, mode = mode_word(mode), %lver, "converted");
                }
                (lease.mode, lease.lver, lease.phase) = (mode, lver, Phase::Held { held });
                if let Some(value) = lease.value.as_mut().filter(|_| mode == Mode::Exclusive && code.is_error()) {
                    // What was to be written before it was shared may not have been. What nobody set is not written: it may not be what
                    // stands on the disk, but what was handed out since that could not be read.
                    value.set |= value.offered;
                }
            }
            None => {
                // Another host has it although we hold it: whoever uses it here must not go on.
                lease.phase = Phase::Lost { claim: None };
                self.end_users_of(key, true, now);
            }
        }
        // A lockspace that is lost, or being left, grants nothing.
        let active = self.spaces.get(&key.space).is_some_and(|s| s.life.is_active());
        let code = if active || code.is_error() { code } else { ResultCode::ENOSPC };
        let running = client.and_then(|c| self.clients.get_mut(&c)).and_then(|c| c.running.take());
        if let Some(running) = running {
            self.reply(running.reply_to(), code);
        }
        if let Some(client) = client {
            if abandoned {
                self.release_all_of(client);
            }
            self.forget_if_over(client);
        }
    }
}
