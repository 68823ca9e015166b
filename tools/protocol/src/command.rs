//! The commands: their numbers, how each is dispatched, and their flag words (A 3, 4, 5).
//!
//! Forty of them are sanlock's. Holdfast's own start at 0x4846_0001 ("HF"), where sanlock has none: a real sanlock
//! daemon meets them with silence, which a client sees as its deadline passing. A flag word keeps bits it does not
//! know, so that what a newer client sends is echoed and shown as it came.

/// How a command is served and what becomes of the connection after the reply (A 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Answered at once; then the daemon closes the connection, unless it is a registered one.
    MainClose,
    /// Answered at once; the connection stays.
    MainKeep,
    /// Work that may wait for a disk; the connection stays.
    Worker,
    /// Work tied to a registered client, the [`Target`](crate::Target): one at a time for each target.
    Targeted,
}

macro_rules! commands {
    ($($number:literal $name:ident $wire:literal $class:ident $doc:literal;)*) => {
        /// A command of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Command { $(#[doc = $doc] $name,)* }

        impl Command {
            /// Every command, by rising number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// The command with this number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The name as words of the command line write it: `add_lockspace`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $wire,)* }
            }

            /// How it is dispatched.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }
        }
    };
}

commands! {
    1 Register "register" MainKeep "Makes this connection a client that may own leases. Has no reply.";
    2 AddLockspace "add_lockspace" Worker "Join a lockspace.";
    3 RemLockspace "rem_lockspace" Worker "Leave a lockspace.";
    4 Shutdown "shutdown" MainClose "End the daemon. Has no reply.";
    5 Status "status" MainClose "Everything the daemon knows, as a stream of records.";
    6 LogDump "log_dump" MainClose "The daemon's recent log lines.";
    7 Acquire "acquire" Targeted "Take leases.";
    8 Release "release" Targeted "Give leases back.";
    9 Inquire "inquire" Targeted "Which leases a client owns.";
    10 Restrict "restrict" MainKeep "Limit what this connection may do and how its process is ended.";
    11 Request "request" Worker "Ask a lease's owner to give it up.";
    12 Align "align" Worker "The alignment of a disk.";
    13 ExamineLockspace "examine_lockspace" Worker "Look for requests to every lease held in a lockspace.";
    14 ExamineResource "examine_resource" Worker "Look for a request to one lease.";
    15 HostStatus "host_status" MainClose "The hosts of a lockspace, as a stream of records.";
    16 InqLockspace "inq_lockspace" Worker "Whether a lockspace is joined.";
    17 KillPath "killpath" Targeted "The program to run instead of killing this client first.";
    18 WriteLockspace "write_lockspace" Worker "Format a lockspace.";
    19 WriteResource "write_resource" Worker "Format a resource, or clear one.";
    20 ReadLockspace "read_lockspace" Worker "What lockspace lies at a place on disk.";
    21 ReadResource "read_resource" Worker "What resource lies at a place on disk.";
    22 GetLockspaces "get_lockspaces" MainClose "The lockspaces of this daemon.";
    23 GetHosts "get_hosts" MainClose "The hosts of a lockspace and how alive they are.";
    24 ReadResourceOwners "read_resource_owners" Worker "Who owns a resource on disk.";
    25 SetLvb "set_lvb" Worker "Set the value of a held lease.";
    26 GetLvb "get_lvb" Worker "Get the value of a held lease.";
    27 Convert "convert" Targeted "Change a lease between shared and exclusive.";
    28 Version "version" MainKeep "The daemon's version.";
    29 ShutdownWait "shutdown_wait" Worker "End the daemon and hear when it is over.";
    30 RegEvent "reg_event" MainClose "Turn this connection into a source of lockspace events.";
    31 EndEvent "end_event" MainClose "End event connections.";
    32 SetEvent "set_event" Worker "Send an event to another host.";
    33 SetConfig "set_config" MainClose "Mark a lockspace as used.";
    34 Renewal "renewal" MainClose "The history of a lockspace's renewals, as a stream of records.";
    35 FormatRindex "format_rindex" Worker "Format a resource index.";
    36 UpdateRindex "update_rindex" Worker "Add or remove an entry of a resource index.";
    37 LookupRindex "lookup_rindex" Worker "Find an entry of a resource index.";
    38 CreateResource "create_resource" Worker "Format a resource in the first free place of an index.";
    39 DeleteResource "delete_resource" Worker "Clear a resource of an index.";
    40 RebuildRindex "rebuild_rindex" Worker "Rebuild a resource index from the leases.";
    0x4846_0001 Explain "explain" Worker "Holdfast: who owns a lease, since when, and when it could expire; JSON.";
    0x4846_0002 HoldfastStatus "holdfast_status" MainKeep "Holdfast: everything the daemon knows; JSON.";
    0x4846_0003 ConfirmDead "confirm_dead" Worker "Holdfast: an operator's word that a silent host is dead.";
}

impl Command {
    /// Whether its reply's `length` leaves out what follows the header (A 2).
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Status | Self::HostStatus | Self::Renewal | Self::LogDump)
    }

    /// Whether the reply's `data2` repeats the request's when it carries nothing of its own (A 5, "(echo)").
    #[must_use]
    pub const fn echoes_data2(self) -> bool {
        matches!(
            self,
            Self::Status | Self::LogDump | Self::HostStatus | Self::RegEvent | Self::EndEvent | Self::SetConfig
        )
    }
}

macro_rules! flag_words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$bit_doc:meta])* $bit:ident = $value:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name(u32);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: Self = Self($value);)*
            const NAMED: &'static [(u32, &'static str)] = &[$(($value, stringify!($bit)),)*];

            /// No bit set.
            pub const NONE: Self = Self(0);

            /// The word as it stands on the wire, unknown bits and all.
            #[must_use]
            pub const fn from_bits(bits: u32) -> Self {
                Self(bits)
            }

            /// The word for the wire.
            #[must_use]
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// Whether every bit of `other` is set here.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The bits that have no name.
            #[must_use]
            pub const fn unknown(self) -> u32 {
                self.0 & !(0 $(| $value)*)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                show_flags(f, self.0, Self::NAMED)
            }
        }
    )*};
}

fn show_flags(f: &mut std::fmt::Formatter<'_>, bits: u32, named: &[(u32, &str)]) -> std::fmt::Result {
    let mut left = bits;
    let mut separator = "";
    for (bit, name) in named.iter().filter(|(bit, _)| bits & bit == *bit) {
        write!(f, "{separator}{name}")?;
        left &= !bit;
        separator = "|";
    }
    if left != 0 || bits == 0 { write!(f, "{separator}{left:#x}") } else { Ok(()) }
}

flag_words! {
    /// `flags` of a resource (A 3), those of its area's geometry included.
    LeaseFlags {
        /// `lver` is the version the lease must have.
        LVER = 0x1,
        /// `data32` is a new number of hosts.
        NUM_HOSTS = 0x2,
        /// Shared, not exclusive.
        SHARED = 0x4,
        /// Stays owned when the client exits.
        PERSISTENT = 0x8,
        /// Areas of 1 MiB.
        ALIGN_1M = 0x10,
        /// Areas of 2 MiB.
        ALIGN_2M = 0x20,
        /// Areas of 4 MiB.
        ALIGN_4M = 0x40,
        /// Areas of 8 MiB.
        ALIGN_8M = 0x80,
        /// 512-byte sectors.
        SECTOR_512 = 0x100,
        /// 4096-byte sectors.
        SECTOR_4K = 0x200,
    }
    /// `flags` of a lockspace or a resource index (A 3).
    LockspaceFlags {
        /// In a reply: being joined.
        ADD = 0x1,
        /// In a reply: being left.
        REM = 0x2,
        /// Areas of 1 MiB.
        ALIGN_1M = 0x10,
        /// Areas of 2 MiB.
        ALIGN_2M = 0x20,
        /// Areas of 4 MiB.
        ALIGN_4M = 0x40,
        /// Areas of 8 MiB.
        ALIGN_8M = 0x80,
        /// 512-byte sectors.
        SECTOR_512 = 0x100,
        /// 4096-byte sectors.
        SECTOR_4K = 0x200,
    }
    /// `cmd_flags` of ADD_LOCKSPACE.
    AddLockspaceFlags {
        /// Answer when the join has begun, not when it is done.
        ASYNC = 0x1,
    }
    /// `cmd_flags` of REM_LOCKSPACE.
    RemLockspaceFlags {
        /// Answer when leaving has begun, not when it is done.
        ASYNC = 0x1,
        /// Refuse if any lease of the lockspace is in use.
        UNUSED = 0x2,
    }
    /// `cmd_flags` of INQ_LOCKSPACE.
    InqLockspaceFlags {
        /// Answer only when joining or leaving is over.
        WAIT = 0x1,
    }
    /// `cmd_flags` of ACQUIRE; CONVERT knows OWNER_NOWAIT only.
    AcquireFlags {
        /// The lease has a value.
        LVB = 0x1,
        /// Adopt an orphan if there is one.
        ORPHAN = 0x2,
        /// Adopt an orphan or fail.
        ORPHAN_ONLY = 0x4,
        /// Do not wait for an owner that may be dying.
        OWNER_NOWAIT = 0x8,
        /// Holdfast: wait for whoever holds the lease, in order of arrival, until this connection ends.
        WAIT = 0x1000_0000,
        /// Holdfast: the registered process leads a process group of its own, which the kill ladder ends as a whole.
        GROUP = 0x2000_0000,
    }
    /// `cmd_flags` of REQUEST.
    RequestFlags {
        /// A request without a version is for the next one.
        NEXT_LVER = 0x1,
    }
    /// `cmd_flags` of SET_EVENT.
    SetEventFlags {
        /// A generation of 0 is the host's current one.
        CUR_GENERATION = 0x1,
        /// Clear the host's bit.
        CLEAR_HOSTID = 0x2,
        /// Clear the event.
        CLEAR_EVENT = 0x4,
        /// Even over an event that is still out.
        REPLACE_EVENT = 0x8,
        /// To every host.
        ALL_HOSTS = 0x10,
    }
    /// `cmd_flags` of the resource index's commands.
    RindexFlags {
        /// Without the lockspace being joined.
        NO_LOCKSPACE = 0x1,
        /// UPDATE_RINDEX: add the entry.
        ADD = 0x1_0000,
        /// UPDATE_RINDEX: remove the entry.
        REM = 0x2_0000,
    }
    /// `cmd_flags` of RELEASE.
    ReleaseFlags {
        /// Everything the client owns.
        ALL = 0x1,
        /// The first lease, giving it the second's name.
        RENAME = 0x2,
        /// Orphans, not the client's leases.
        ORPHAN = 0x4,
    }
    /// `cmd_flags` of RESTRICT.
    RestrictFlags {
        /// Serve no further command on this connection.
        ALL = 0x1,
        /// Never SIGKILL this client's process.
        SIGKILL = 0x2,
        /// Never SIGTERM this client's process.
        SIGTERM = 0x4,
    }
    /// `cmd_flags` of KILLPATH.
    KillPathFlags {
        /// Append the client's pid to the arguments.
        PID = 0x1,
    }
    /// `cmd_flags` of WRITE_RESOURCE.
    WriteResourceFlags {
        /// Write a cleared record, not a fresh one.
        CLEAR = 0x1,
    }
}

/// What SET_CONFIG says of a lockspace (spec A 3): whether something uses it that the daemon does not guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum LockspaceUse {
    /// Something does: once lost it takes the host with it, and it is not left.
    Used = 1,
    /// Nothing does.
    Unused = 2,
    /// The same, as long as it has orphans.
    UsedByOrphans = 4,
    /// Its orphans are in nobody's use.
    UnusedByOrphans = 8,
}

impl LockspaceUse {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The use with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Used),
            2 => Some(Self::Unused),
            4 => Some(Self::UsedByOrphans),
            8 => Some(Self::UnusedByOrphans),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_from_1_to_40_and_our_three_are_commands_and_no_other() {
        for number in 1..=40 {
            assert_eq!(Command::from_number(number).map(Command::number), Some(number));
        }
        assert_eq!(Command::ALL.len(), 43);
        assert_eq!(Command::from_number(0x4846_0001), Some(Command::Explain));
        assert_eq!(Command::from_number(0x4846_0002), Some(Command::HoldfastStatus));
        assert_eq!(Command::from_number(0x4846_0003), Some(Command::ConfirmDead));
        for number in [0, 41, 99, 0x4846_0000, 0x4846_0004, u32::MAX] {
            assert_eq!(Command::from_number(number), None);
        }
    }

    #[test]
    fn the_classes_are_those_of_the_specification() {
        let of = |class| {
            Command::ALL
                .iter()
                .filter(|c| c.class() == class)
                .map(|c| c.number())
                .filter(|n| *n <= 40)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(Class::MainClose), [4, 5, 6, 15, 22, 23, 30, 31, 33, 34]);
        assert_eq!(of(Class::MainKeep), [1, 10, 28]);
        assert_eq!(of(Class::Targeted), [7, 8, 9, 17, 27]);
    }

    #[test]
    fn unknown_flag_bits_are_kept_and_shown() {
        let flags = AcquireFlags::from_bits(0x8000_0009);
        assert!(flags.contains(AcquireFlags::LVB | AcquireFlags::OWNER_NOWAIT));
        assert!(!flags.contains(AcquireFlags::ORPHAN));
        assert_eq!(flags.unknown(), 0x8000_0000);
        assert_eq!(flags.bits(), 0x8000_0009);
        assert_eq!(format!("{flags:?}"), "LVB|OWNER_NOWAIT|0x80000000");
        assert_eq!(format!("{:?}", AcquireFlags::NONE), "0x0");
    }
}
