//! Commands of sanlock's that are not served yet: refused with EOPNOTSUPP, never with a success that is none. Where what
//! they are about is not there, the answer is sanlock's own (spec A 6, 9).

use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::Command;
use holdfast_protocol::payload::Lockspace;
use holdfast_protocol::text::Name48;

use super::Supervisor;
use super::event::ReplyTo;

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(super) fn not_served(&mut self, to: ReplyTo, command: Command) {
        tracing::info!(?command, "not served in this version");
        self.reply(to, ResultCode::ENOSYS);
    }

    /// In an active lockspace there is something that we cannot do; elsewhere there is nothing.
    fn unserved_in(&self, space: &Name48, absent: ResultCode) -> ResultCode {
        if self.has_active(space) { ResultCode::EOPNOTSUPP } else { absent }
    }

    pub(super) fn events(&mut self, to: ReplyTo, lockspace: &Lockspace) {
        let absent = if lockspace.name.is_empty() { ResultCode::EINVAL } else { ResultCode::ENOENT };
        self.last_reply(to, self.unserved_in(&lockspace.name, absent));
    }

    pub(super) fn set_event(&mut self, to: ReplyTo, lockspace: &Lockspace, host_id: u64) {
        if !(1..=u64::from(holdfast_io::ids::MAX_HOSTS)).contains(&host_id) {
            return self.reply(to, ResultCode::EINVAL);
        }
        self.reply(to, self.unserved_in(&lockspace.name, ResultCode::ENOENT));
    }
}
