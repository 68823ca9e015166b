//! Commands of sanlock's that are not served yet: refused with ENOSYS, never with a success that is none.

use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::Command;

use super::Supervisor;
use super::event::ReplyTo;

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(super) fn not_served(&mut self, to: ReplyTo, command: Command) {
        tracing::info!(?command, "not served in this version");
        self.reply(to, ResultCode::ENOSYS);
    }
}
