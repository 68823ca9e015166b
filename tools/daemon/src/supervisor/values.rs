//! SET_LVB and GET_LVB: the value of a lease that is held here, whoever holds it (spec A 6).

use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::payload::ResourceHead;

use super::Supervisor;
use super::event::ReplyTo;
use super::leases::{Phase, Value, key_of};

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    fn value_of(&mut self, resource: &ResourceHead) -> Result<&mut Value, ResultCode> {
        let lease = key_of(resource).and_then(|key| self.leases.get_mut(&key));
        let lease = lease.filter(|l| matches!(l.phase, Phase::Held { .. }) && !l.tokens.is_empty());
        lease.ok_or(ResultCode::ENOENT)?.value.as_mut().ok_or(ResultCode::EINVAL)
    }

    /// It is on the disk when the lease is given back, or shared. A value lies over the one before: of a longer one the end
    /// stays, as sanlock has it.
    pub(super) fn set_lvb(&mut self, to: ReplyTo, resource: &ResourceHead, value: &[u8]) {
        let code = match self.value_of(resource) {
            Err(code) => code,
            Ok(known) if value.len() > known.bytes.len() => ResultCode::E2BIG,
            Ok(known) => {
                known.bytes[..value.len()].copy_from_slice(value);
                known.set = true;
                ResultCode::OK
            }
        };
        self.reply(to, code);
    }

    /// All of its sector, however much was asked for: the library cuts it.
    pub(super) fn get_lvb(&mut self, to: ReplyTo, resource: &ResourceHead) {
        match self.value_of(resource).map(|value| value.bytes.clone()) {
            Err(code) => self.reply(to, code),
            Ok(bytes) => self.reply_with(to, ResultCode::OK, 0, &bytes),
        }
    }
}
