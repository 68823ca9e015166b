//! CONFIRM_DEAD: an operator's word that a host is over, in place of the silence that D1 asks for.
//!
//! S1 then rests on that word as it otherwise rests on D1 and D3: the host's power is off, or it was cut off from the storage, and
//! nothing that it wrote is on its way. So it is taken from root and from the daemon's own user alone; it names the very record that
//! is the host's last; a fresh look must show that record still, and that a renewal has been missed; and a record that changes
//! later takes it back ([`HostTable::confirm_dead`](delta_lease::HostTable::confirm_dead)). Nothing is written to the disk, and other
//! hosts are not told: each of them waits for D1, or is told by an operator as well.

use delta_lease::NotConfirmed;
use holdfast_io::ids::{Generation, HostId, HostTerm, RemoteTimestamp};
use holdfast_protocol::payload::Host;
use nix::unistd::getuid;

use super::{Answer, Context, Refused};
use crate::codes;
use holdfast_io::clock::Clock;
use holdfast_protocol::codes::ResultCode;

impl Context {
    pub(super) async fn confirm_dead(&self, host: &Host) -> Answer {
        match self.take_word(host).await {
            Ok(()) => Answer::ok(Vec::new()),
            Err((code, why)) => Answer { code, data2: 0, payload: why.clone().into_bytes(), why: Some(why) },
        }
    }

    async fn take_word(&self, host: &Host) -> Result<(), Refused> {
        let (uid, pid) = (self.asking.uid, self.asking.pid);
        if uid != 0 && uid != getuid().as_raw() {
            return Err((ResultCode::EACCES, format!("only root may say that a host is dead (this is uid {uid})")));
        }
        let not_joined = || (ResultCode::ENOSPC, "the lockspace is not joined on this host".to_owned());
        let space = self.space.as_ref().ok_or_else(not_joined)?;
        let unknown = || (ResultCode::ENOENT, format!("there is no host_id {} in this lockspace", host.host_id));
        let host_id = HostId::new(host.host_id).ok_or_else(unknown)?;
        let of = HostTerm { host_id, generation: Generation(host.generation) };
        if host_id == space.me.term.host_id {
            return Err((ResultCode::EINVAL, format!("host_id {host_id} is this very host's")));
        }
        // Without a look of this moment it could have renewed since the last one, and nobody would know.
        space.look_at(of).await.map_err(|e| (ResultCode::EIO, codes::chain(&e)))?;
        let name = {
            let hosts = space.hosts.borrow();
            let sector = hosts.observation(host_id).and_then(|seen| seen.sector()).ok_or_else(unknown)?;
            let here = sector.seal.is_some_and(|s| s.machine == self.machine.machine && s.boot == self.machine.boot);
            if here && sector.holder().is_some() {
                let why = format!(
                    "host_id {host_id} was last held by a daemon of this very machine in this boot, {:?}: its power is on",
                    sector.host_name()
                );
                return Err((ResultCode::EINVAL, why));
            }
            sector.host_name()
        };
        let confirmed = space.hosts.borrow_mut().confirm_dead(of, RemoteTimestamp(host.timestamp), self.clock.now());
        confirmed.map_err(|why| (code_of(&why), why.to_string()))?;
        let (lockspace, generation) = (&space.area.space, host.generation);
        tracing::warn!(
            %lockspace, %host_id, generation, %name, renewed_at = host.timestamp, uid, pid,
            "an operator says that this host is dead: what it holds can be taken from now on"
        );
        Ok(())
    }
}

fn code_of(why: &NotConfirmed) -> ResultCode {
    match why {
        NotConfirmed::NotSeen | NotConfirmed::Free => ResultCode::ENOENT,
        NotConfirmed::Damaged { .. } => ResultCode::LEADER_CHECKSUM,
        NotConfirmed::OtherGeneration { .. } | NotConfirmed::Renewed { .. } => ResultCode::HOST_ID_BUSY,
        NotConfirmed::TooEarly { .. } => ResultCode::EAGAIN,
    }
}
