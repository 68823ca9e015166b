//! SET_LVB and GET_LVB: the value of a lease that is held here, whoever holds it (spec A 6).

use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::header::Header;
use holdfast_protocol::payload::ResourceHead;

use super::Supervisor;
use super::event::{Effect, ReplyTo};
use super::leases::{Phase, Value, key_of};

/// The most that is sent of a value: no sector has as much by far.
const MOST_ASKED: usize = 64 * 1024;

/// So many bytes of a value; 0 is all of it.
fn of_length(mut value: Vec<u8>, length: u32) -> Result<Vec<u8>, ResultCode> {
    match usize::try_from(length).unwrap_or(usize::MAX) {
        0 => {}
        length @ 1..=MOST_ASKED => value.resize(length, 0),
        _ => return Err(ResultCode::ENOMEM),
    }
    Ok(value)
}

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

    /// All of its sector, or as much as is asked for: behind its end that is zeros, where sanlock sends what its memory has there.
    pub(super) fn get_lvb(&mut self, to: ReplyTo, resource: &ResourceHead, length: u32) {
        let value = self.value_of(resource).map(|value| value.bytes.clone());
        match value.and_then(|bytes| of_length(bytes, length)) {
            Ok(bytes) => self.reply_with(to, ResultCode::OK, 0, &bytes),
            Err(code) => {
                // Its length is what was asked for even so, and nothing follows.
                let answer = to.header.answer(code, 0, 0);
                let bytes = Header { length: answer.length.wrapping_add(length), ..answer }.encode().to_vec();
                self.effects.push(Effect::Reply { client: to.client, bytes });
                self.effects.push(Effect::Next { client: to.client });
            }
        }
    }
}
