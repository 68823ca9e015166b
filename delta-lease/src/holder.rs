//! Who holds a host_id that we asked for, and what to tell the person who asked.

use std::fmt;
use std::time::Duration;

use holdfast_io::identity::Machine;
use holdfast_io::ids::{Generation, HostId, HostName, RemoteTimestamp, SpaceName};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::Seal;
use holdfast_io::timing::IoTimeout;

use crate::sector::DeltaSector;

/// What a sector's last writer is to this host, as far as name and seal tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// Another host name; another machine, or one without a seal.
    OtherHost,
    /// Another host name, on this machine in this boot.
    OtherNameHere,
    /// Our host name, on another machine.
    OurNameElsewhere,
    /// Our host name, on this machine in this boot: another daemon, or our predecessor.
    OurNameHere,
    /// Our host name and machine in another boot: ourselves before a reboot, or a clone of this machine.
    OurNameOtherBoot,
    /// Our host name, written by a program that seals nothing.
    OurNameUnsealed,
}

impl Relation {
    /// What the last writer of `sector` is to the host `name` on `machine`.
    #[must_use]
    pub fn of(sector: &DeltaSector, name: &HostName, machine: Machine) -> Self {
        let believed = planted(Bug::CloneBelieved);
        let here = sector.seal.map(|s| (s.machine == machine.machine || believed, s.boot == machine.boot));
        match (sector.host_name() == *name, here) {
            (false, Some((true, true))) => Relation::OtherNameHere,
            (false, _) => Relation::OtherHost,
            (true, None) => Relation::OurNameUnsealed,
            (true, Some((true, true))) => Relation::OurNameHere,
            (true, Some((true, false))) => Relation::OurNameOtherBoot,
            (true, Some((false, _))) => Relation::OurNameElsewhere,
        }
    }
}

/// How a holder was found to be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It renewed the lease we had begun to watch this long before.
    Renewed {
        /// Since we began to watch.
        after: Duration,
    },
    /// It joined under this host_id while we watched the one before it.
    Joined {
        /// Since we began to watch.
        after: Duration,
    },
    /// It wrote over what we had just written: two hosts joined at once, and it was the later.
    Overwrote,
}

/// A living holder of the host_id we asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// The lockspace.
    pub space: SpaceName,
    /// The host_id.
    pub host_id: HostId,
    /// The holder's name.
    pub name: HostName,
    /// Its generation.
    pub generation: Generation,
    /// Its last renewal, by its own clock.
    pub timestamp: RemoteTimestamp,
    /// Its io_timeout, if it says.
    pub io_timeout: Option<IoTimeout>,
    /// Its seal, if it has one.
    pub seal: Option<Seal>,
    /// What it is to us.
    pub relation: Relation,
    /// How it was seen to live.
    pub evidence: Evidence,
}

impl HeldBy {
    pub(crate) fn new(sector: &DeltaSector, host_id: HostId, relation: Relation, evidence: Evidence) -> Self {
        HeldBy {
            space: sector.leader.space_name,
            host_id,
            name: sector.host_name(),
            generation: sector.generation(),
            timestamp: sector.leader.timestamp,
            io_timeout: sector.leader.stored_io_timeout(),
            seal: sector.seal,
            relation,
            evidence,
        }
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HeldBy { space, host_id, name, generation, .. } = self;
        let id = format!("host_id {host_id} in lockspace {space} (generation {generation})");
        if self.timestamp.is_free() {
            return write!(f, "{id} was taken and given back by host {name:?} while we joined; try again");
        }
        match self.relation {
            Relation::OtherHost => write!(f, "{id} is in use by host {name:?}"),
            Relation::OtherNameHere => write!(f, "{id} is in use by another daemon on this machine, named {name:?}"),
            Relation::OurNameElsewhere => write!(f, "{id} is in use by another machine with our own name, {name:?}"),
            Relation::OurNameHere => write!(f, "{id} is in use by another daemon on this machine, also named {name:?}"),
            Relation::OurNameOtherBoot => {
                write!(
                    f,
                    "{id} is in use by a clone of this machine: same name {name:?}, same machine id, another boot"
                )
            }
            Relation::OurNameUnsealed => write!(f, "{id} is in use by a sanlock daemon with our own name, {name:?}"),
        }?;
        match self.evidence {
            Evidence::Renewed { after } => write!(f, ", which renewed it {} s into our watch", after.as_secs()),
            Evidence::Joined { after } => write!(f, ", which joined {} s into our watch", after.as_secs()),
            Evidence::Overwrote => write!(f, ", which joined at the same moment and wrote last"),
        }?;
        f.write_str(match self.relation {
            Relation::OtherHost | Relation::OtherNameHere => "; use another host_id here, or stop that daemon first",
            Relation::OurNameHere => "; stop one of the two daemons",
            Relation::OurNameElsewhere | Relation::OurNameOtherBoot | Relation::OurNameUnsealed => {
                "; give one of the two its own name and host_id"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{host_id, machine, sealed_sector};

    #[test]
    fn name_and_seal_tell_the_relation() {
        let me = machine(1, 1);
        let name = HostName::new(b"host").unwrap();
        let other = HostName::new(b"other").unwrap();
        let sealed = |m: Machine| {
            let mut sector = sealed_sector(1, 1, 5);
            sector.seal = sector.seal.map(|s| Seal { machine: m.machine, boot: m.boot, ..s });
            sector
        };
        let unsealed = DeltaSector { seal: None, ..sealed_sector(1, 1, 5) };
        let cases = [
            (sealed(machine(1, 1)), Relation::OurNameHere, Relation::OtherNameHere),
            (sealed(machine(1, 2)), Relation::OurNameOtherBoot, Relation::OtherHost),
            (sealed(machine(2, 1)), Relation::OurNameElsewhere, Relation::OtherHost),
            (sealed(machine(2, 2)), Relation::OurNameElsewhere, Relation::OtherHost),
            (unsealed, Relation::OurNameUnsealed, Relation::OtherHost),
        ];
        for (sector, ours, others) in cases {
            assert_eq!(Relation::of(&sector, &name, me), ours);
            assert_eq!(Relation::of(&sector, &other, me), others);
        }
    }

    #[test]
    fn a_refusal_is_a_sentence_that_says_who_and_what_to_do() {
        let evidence = Evidence::Renewed { after: Duration::from_millis(12_400) };
        let held = HeldBy::new(&sealed_sector(3, 7, 5), host_id(3), Relation::OurNameElsewhere, evidence);
        assert_eq!(
            held.to_string(),
            "host_id 3 in lockspace space (generation 7) is in use by another machine with our own name, \"host\", \
             which renewed it 12 s into our watch; give one of the two its own name and host_id"
        );
        let gone = HeldBy { timestamp: RemoteTimestamp::FREE, evidence: Evidence::Overwrote, ..held };
        assert_eq!(
            gone.to_string(),
            "host_id 3 in lockspace space (generation 7) was taken and given back by host \"host\" while we joined; try again"
        );
    }
}
