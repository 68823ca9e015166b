//! Which fault struck a host in which phase of its daemon, and how often.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$item])* $variant,)*
        }
        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),*];
            /// The word for it.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// What goes wrong.
    Fault {
        /// A read fails.
        ReadFails = "read fails",
        /// A write fails, landed or not.
        WriteFails = "write fails",
        /// A read comes back late.
        LateRead = "late read",
        /// A write lands late.
        LateWrite = "late write",
        /// An I/O never ends.
        Never = "I/O never ends",
        /// An I/O waits long in its process's queue.
        Queued = "I/O queued",
        /// An I/O is done sector by sector, with others in between.
        Torn = "torn I/O",
        /// A bit is wrong in what is read, once.
        DamagedRead = "damaged read",
        /// A bit is wrong on the disk.
        Damage = "damaged sector",
        /// Everything on a path fails.
        PathFails = "path fails",
        /// Everything on a path hangs.
        PathHangs = "path hangs",
        /// The daemon is killed.
        Crash = "daemon killed",
        /// The daemon is killed while a lease write of it is in flight.
        CrashInWrite = "killed in a write",
        /// The daemon stands still.
        Freeze = "daemon frozen",
        /// It stops between two effects of one event.
        Stop = "stopped mid-step",
        /// The host loses power.
        PowerCut = "power cut",
        /// The host is paused, clocks and all.
        Pause = "host paused",
        /// The host sleeps.
        Sleep = "host asleep",
        /// The state file is lost with the daemon.
        StateLost = "state file lost",
        /// A client is killed by somebody else.
        ClientKilled = "client killed",
        /// The watchdog fires.
        Fired = "watchdog fired",
    }
}

words! {
    /// What a host's daemon is at.
    Phase {
        /// There is none.
        Down = "down",
        /// It settles what its predecessor left.
        Starting = "starting",
        /// It is in no lockspace.
        Apart = "apart",
        /// It joins.
        Joining = "joining",
        /// It has joined, and no lease.
        Joined = "joined",
        /// It opens a resource's device.
        Opening = "opening",
        /// It runs for a lease.
        Acquiring = "acquiring",
        /// It holds one.
        Holding = "holding",
        /// A lease is being converted.
        Converting = "converting",
        /// It gives one back.
        Releasing = "releasing",
        /// It has lost its lockspace.
        Failing = "failing",
        /// It was asked to leave.
        Removing = "removing",
        /// It leaves.
        Leaving = "leaving",
    }
}

impl Phase {
    /// From the words of the supervisor: where the lockspace stands, and what is done with its leases.
    #[must_use]
    pub fn of(standing: (Option<&str>, Option<&str>)) -> Self {
        match standing {
            (None, _) => Phase::Apart,
            (Some("joining"), _) => Phase::Joining,
            (Some("removing"), _) => Phase::Removing,
            (Some("failing"), _) => Phase::Failing,
            (Some("leaving"), _) => Phase::Leaving,
            (_, Some("opening")) => Phase::Opening,
            (_, Some("acquiring")) => Phase::Acquiring,
            (_, Some("converting")) => Phase::Converting,
            (_, Some("held")) => Phase::Holding,
            (_, Some("releasing")) => Phase::Releasing,
            _ => Phase::Joined,
        }
    }
}

/// How often what struck when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<(Fault, Phase), u64>);

impl Coverage {
    /// Once more.
    pub fn add(&mut self, fault: Fault, phase: Phase) {
        *self.0.entry((fault, phase)).or_default() += 1;
    }

    /// All of another run as well.
    pub fn merge(&mut self, other: &Coverage) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }

    /// How often this struck in that phase.
    #[must_use]
    pub fn count(&self, fault: Fault, phase: Phase) -> u64 {
        self.0.get(&(fault, phase)).copied().unwrap_or(0)
    }

    /// How often this struck.
    #[must_use]
    pub fn of_fault(&self, fault: Fault) -> u64 {
        Phase::ALL.iter().map(|phase| self.count(fault, *phase)).sum()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:18}", "")?;
        for phase in Phase::ALL {
            write!(f, "{:>11}", phase.word())?;
        }
        writeln!(f)?;
        for fault in Fault::ALL {
            write!(f, "{:18}", fault.word())?;
            for phase in Phase::ALL {
                match self.count(*fault, *phase) {
                    0 => write!(f, "{:>11}", ".")?,
                    count => write!(f, "{count:>11}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
