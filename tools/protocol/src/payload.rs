//! The fixed structures of the wire (A 3): sizes and layouts are those of sanlock on x86_64, padding included.
//!
//! Every structure has `SIZE`, `decode` from exactly that many bytes (which cannot fail: every bit pattern is some
//! structure) and `encode`, which appends them. Padding and reserved words are fields, kept as they came. A
//! resource is two things: its head of 128 bytes, whose `num_disks` may lie when no disks follow (RELEASE, CONVERT,
//! INQUIRE), and the whole [`Resource`] with its disks.

use crate::command::{LeaseFlags, LockspaceFlags};
use crate::header::{Header, MAGIC, VERSION};
use crate::text::{DiskPath, FixedText, KillText, Name48};

/// Most disks one resource may have.
pub const MAX_DISKS: usize = 4;
/// Most resources one ACQUIRE may name.
pub const MAX_RESOURCES: usize = 8;

/// Takes fields off the front of a structure; past its end everything reads as zero.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *head
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
    fn name(&mut self) -> Name48 {
        Name48::from_raw(self.bytes())
    }
    fn text<const N: usize>(&mut self) -> FixedText<N> {
        FixedText::from_raw(self.bytes())
    }
    fn disk(&mut self) -> Disk {
        Disk { path: self.text(), offset: self.u64(), pad1: self.u32(), pad2: self.u32() }
    }
}

macro_rules! sized {
    ($name:ident, $size:literal) => {
        impl $name {
            /// Bytes on the wire.
            pub const SIZE: usize = $size;

            /// The structure from its bytes.
            #[must_use]
            pub fn decode(bytes: &[u8; $size]) -> Self {
                Self::take(&mut Fields(bytes))
            }

            /// The structure at the front of `bytes`, which loses it; None if it is not all there.
            pub fn split_from(bytes: &mut &[u8]) -> Option<Self> {
                let (head, rest) = bytes.split_first_chunk::<$size>()?;
                *bytes = rest;
                Some(Self::decode(head))
            }
        }
    };
}

fn put32(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

fn put64(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

/// A place on a disk: 1040 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// Path of the device or file.
    pub path: DiskPath,
    /// Where the area starts, in bytes.
    pub offset: u64,
    /// Padding on input; STATUS replies carry the sector size here.
    pub pad1: u32,
    /// Padding on input; sanlock's STATUS replies leak a descriptor number or -1 here.
    pub pad2: u32,
}

sized!(Disk, 1040);

impl Disk {
    /// A place with zero padding.
    #[must_use]
    pub fn new(path: DiskPath, offset: u64) -> Self {
        Self { path, offset, pad1: 0, pad2: 0 }
    }
    fn take(fields: &mut Fields<'_>) -> Self {
        fields.disk()
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.path.raw());
        put64(out, &[self.offset]);
        put32(out, &[self.pad1, self.pad2]);
    }
}

/// The 128 bytes that name a resource, without its disks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceHead {
    /// The lockspace it belongs to.
    pub lockspace_name: Name48,
    /// Its own name.
    pub name: Name48,
    /// Lease version; in requests it counts only with [`LeaseFlags::LVER`].
    pub lver: u64,
    /// Unused by every command here.
    pub data64: u64,
    /// New number of hosts, with [`LeaseFlags::NUM_HOSTS`].
    pub data32: u32,
    /// Reserved.
    pub unused: u32,
    /// Mode, persistence and geometry.
    pub flags: LeaseFlags,
    /// Disks the sender counts; they follow only where the command has them.
    pub num_disks: u32,
}

sized!(ResourceHead, 128);

impl ResourceHead {
    /// A head with these names and everything else zero.
    #[must_use]
    pub fn named(lockspace_name: Name48, name: Name48) -> Self {
        Self { lockspace_name, name, ..Self::default() }
    }
    fn take(fields: &mut Fields<'_>) -> Self {
        Self {
            lockspace_name: fields.name(),
            name: fields.name(),
            lver: fields.u64(),
            data64: fields.u64(),
            data32: fields.u32(),
            unused: fields.u32(),
            flags: LeaseFlags::from_bits(fields.u32()),
            num_disks: fields.u32(),
        }
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.lockspace_name.raw());
        out.extend_from_slice(self.name.raw());
        put64(out, &[self.lver, self.data64]);
        put32(out, &[self.data32, self.unused, self.flags.bits(), self.num_disks]);
    }
}

/// A resource with the disks its lease lies on: 128 + 1040 for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resource {
    /// Names, version, flags. Its `num_disks` is what the sender wrote.
    pub head: ResourceHead,
    /// The disks.
    pub disks: Vec<Disk>,
}

impl Resource {
    /// A resource on `disks`, counted in the head.
    #[must_use]
    pub fn new(mut head: ResourceHead, disks: Vec<Disk>) -> Self {
        head.num_disks = u32::try_from(disks.len()).unwrap_or(u32::MAX);
        Self { head, disks }
    }
    /// Head and `num_disks` disks off the front of `bytes`; None if they are not all there.
    pub fn split_from(bytes: &mut &[u8]) -> Option<Self> {
        let mut rest = *bytes;
        let head = ResourceHead::split_from(&mut rest)?;
        let count = usize::try_from(head.num_disks).ok().filter(|n| *n <= rest.len() / Disk::SIZE)?;
        let disks = (0..count).map(|_| Disk::split_from(&mut rest)).collect::<Option<_>>()?;
        *bytes = rest;
        Some(Self { head, disks })
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.head.encode(out);
        self.disks.iter().for_each(|disk| disk.encode(out));
    }
}

/// A lockspace, our host_id in it, and where it lies: 1104 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lockspace {
    /// Its name.
    pub name: Name48,
    /// The host_id meant; 0 where it does not matter.
    pub host_id: u64,
    /// State (in replies) and geometry.
    pub flags: LockspaceFlags,
    /// Padding.
    pub pad: u32,
    /// Where it lies.
    pub disk: Disk,
}

sized!(Lockspace, 1104);

impl Lockspace {
    /// A lockspace with this name and place and everything else zero.
    #[must_use]
    pub fn new(name: Name48, host_id: u64, disk: Disk) -> Self {
        Self { name, host_id, disk, ..Self::default() }
    }
    fn take(fields: &mut Fields<'_>) -> Self {
        Self {
            name: fields.name(),
            host_id: fields.u64(),
            flags: LockspaceFlags::from_bits(fields.u32()),
            pad: fields.u32(),
            disk: fields.disk(),
        }
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.raw());
        put64(out, &[self.host_id]);
        put32(out, &[self.flags.bits(), self.pad]);
        self.disk.encode(out);
    }
}

/// The options at the end of an ACQUIRE: 56 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Becomes the client's display name, even when empty.
    pub owner_name: Name48,
    /// Ignored.
    pub flags: u32,
    /// Ignored: nothing follows.
    pub len: u32,
}

sized!(Options, 56);

impl Options {
    fn take(fields: &mut Fields<'_>) -> Self {
        Self { owner_name: fields.name(), flags: fields.u32(), len: fields.u32() }
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.owner_name.raw());
        put32(out, &[self.flags, self.len]);
    }
}

/// How alive a host is, as GET_HOSTS tells it (A 3: `host.flags & 0xF`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// Not watched for long enough to say.
    Unknown,
    /// Its host_id is not in use.
    Free,
    /// Seen renewing.
    Live,
    /// Not renewing, not yet dead.
    Fail,
    /// Silent for so long that its watchdog must have ended it.
    Dead,
}

impl HostState {
    /// The number in the flag word.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Unknown => 1,
            Self::Free => 2,
            Self::Live => 3,
            Self::Fail => 4,
            Self::Dead => 5,
        }
    }
    /// The word the command line prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Free => "FREE",
            Self::Live => "LIVE",
            Self::Fail => "FAIL",
            Self::Dead => "DEAD",
        }
    }
}

/// One host of a lockspace: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Host {
    /// Its id in the lockspace.
    pub host_id: u64,
    /// Its generation.
    pub generation: u64,
    /// The timestamp it last wrote, on its own clock; 0 is free.
    pub timestamp: u64,
    /// Its io_timeout in seconds.
    pub io_timeout: u32,
    /// The low four bits are its [`HostState`].
    pub flags: u32,
}

sized!(Host, 32);

impl Host {
    /// The state in the flag word, if it is one we know.
    #[must_use]
    pub fn state(&self) -> Option<HostState> {
        use HostState::{Dead, Fail, Free, Live, Unknown};
        [Unknown, Free, Live, Fail, Dead].into_iter().find(|state| state.number() == self.flags & 0xf)
    }
    fn take(fields: &mut Fields<'_>) -> Self {
        Self {
            host_id: fields.u64(),
            generation: fields.u64(),
            timestamp: fields.u64(),
            io_timeout: fields.u32(),
            flags: fields.u32(),
        }
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, &[self.host_id, self.generation, self.timestamp]);
        put32(out, &[self.io_timeout, self.flags]);
    }
}

/// What a KILLPATH carries: a program and its arguments, 128 bytes each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KillPath {
    /// The program.
    pub path: KillText,
    /// Its arguments, separated by white space, `\` before a space or backslash that belongs to one.
    pub args: KillText,
}

sized!(KillPath, 256);

impl KillPath {
    fn take(fields: &mut Fields<'_>) -> Self {
        Self { path: fields.text(), args: fields.text() }
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.path.raw());
        out.extend_from_slice(self.args.raw());
    }
}

/// An event for a host: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostEvent {
    /// The host it is for.
    pub host_id: u64,
    /// That host's generation.
    pub generation: u64,
    /// The event; 0 is none.
    pub event: u64,
    /// Whatever the sender adds.
    pub data: u64,
}

sized!(HostEvent, 32);

impl HostEvent {
    fn take(fields: &mut Fields<'_>) -> Self {
        Self { host_id: fields.u64(), generation: fields.u64(), event: fields.u64(), data: fields.u64() }
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, &[self.host_id, self.generation, self.event, self.data]);
    }
}

/// What a daemon sends on an event connection: 80 bytes, a header of its own included (spec A 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCallback {
    /// What happened, with the receiver's own host_id.
    pub event: HostEvent,
    /// Who sent it.
    pub from_host_id: u64,
    /// In which generation.
    pub from_generation: u64,
}

impl EventCallback {
    /// Its length in bytes.
    pub const SIZE: usize = 80;
    /// The command in its header.
    const CMD: u32 = 1;

    /// The bytes, as they go out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(Self::SIZE).unwrap_or(u32::MAX);
        let (magic, version, cmd) = (MAGIC, VERSION, Self::CMD);
        let head = Header { magic, version, cmd, cmd_flags: 0, length, seq: 0, data: 0, data2: 0 };
        let mut out = head.encode().to_vec();
        self.event.encode(&mut out);
        put64(&mut out, &[self.from_host_id, self.from_generation]);
        out
    }
}

/// A resource index: 1104 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rindex {
    /// Geometry.
    pub flags: LockspaceFlags,
    /// How many entries it has room for.
    pub max_resources: u32,
    /// Reserved.
    pub unused: u64,
    /// The lockspace it belongs to.
    pub lockspace_name: Name48,
    /// Where it lies.
    pub disk: Disk,
}

sized!(Rindex, 1104);

impl Rindex {
    fn take(fields: &mut Fields<'_>) -> Self {
        Self {
            flags: LockspaceFlags::from_bits(fields.u32()),
            max_resources: fields.u32(),
            unused: fields.u64(),
            lockspace_name: fields.name(),
            disk: fields.disk(),
        }
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put32(out, &[self.flags.bits(), self.max_resources]);
        put64(out, &[self.unused]);
        out.extend_from_slice(self.lockspace_name.raw());
        self.disk.encode(out);
    }
}

/// One entry of a resource index: 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RindexEntry {
    /// The resource's name; empty for a free place.
    pub name: Name48,
    /// Where its lease area starts, in bytes.
    pub offset: u64,
    /// Flags.
    pub flags: u32,
    /// Reserved.
    pub unused: u32,
}

sized!(RindexEntry, 64);

impl RindexEntry {
    fn take(fields: &mut Fields<'_>) -> Self {
        Self { name: fields.name(), offset: fields.u64(), flags: fields.u32(), unused: fields.u32() }
    }
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.raw());
        put64(out, &[self.offset]);
        put32(out, &[self.flags, self.unused]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    /// Every bit pattern is some structure, and encodes to itself: no field, pad or reserved word is lost.
    macro_rules! any_bytes_round_trip {
        ($($test:ident $name:ident;)*) => { proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            $(#[test]
            fn $test(bytes in proptest::collection::vec(any::<u8>(), $name::SIZE)) {
                let mut out = Vec::new();
                let mut front = bytes.as_slice();
                $name::split_from(&mut front).unwrap().encode(&mut out);
                prop_assert!(front.is_empty());
                prop_assert_eq!(out, bytes);
            })*
        }};
    }

    any_bytes_round_trip! {
        any_disk_round_trips Disk;
        any_resource_head_round_trips ResourceHead;
        any_lockspace_round_trips Lockspace;
        any_options_round_trip Options;
        any_host_round_trips Host;
        any_killpath_round_trips KillPath;
        any_host_event_round_trips HostEvent;
        any_rindex_round_trips Rindex;
        any_rindex_entry_round_trips RindexEntry;
    }

    proptest! {
        #[test]
        fn any_resource_round_trips(resource in testing::resource()) {
            let mut out = Vec::new();
            resource.encode(&mut out);
            prop_assert_eq!(out.len(), 128 + 1040 * resource.disks.len());
            let mut front = out.as_slice();
            prop_assert_eq!(Resource::split_from(&mut front), Some(resource));
            prop_assert!(front.is_empty());
        }
    }

    #[test]
    fn fields_lie_where_the_c_structures_have_them() {
        let place = |encode: &dyn Fn(&mut Vec<u8>), offset: usize| {
            let mut out = Vec::new();
            encode(&mut out);
            assert_eq!(out[offset], 0xa5, "offset {offset}");
            assert_eq!(out.iter().filter(|b| **b != 0).count(), 1);
        };
        let mark = 0xa5;
        let name = Name48::new([mark]).unwrap();
        let path = DiskPath::new([mark]).unwrap();
        place(&|o| Disk { offset: 0xa5, ..Disk::default() }.encode(o), 1024);
        place(&|o| Disk { pad2: 0xa5, ..Disk::default() }.encode(o), 1036);
        place(&|o| ResourceHead { name, ..ResourceHead::default() }.encode(o), 48);
        place(&|o| ResourceHead { lver: 0xa5, ..ResourceHead::default() }.encode(o), 96);
        place(&|o| ResourceHead { data32: 0xa5, ..ResourceHead::default() }.encode(o), 112);
        place(&|o| ResourceHead { flags: LeaseFlags::from_bits(0xa5), ..ResourceHead::default() }.encode(o), 120);
        place(&|o| ResourceHead { num_disks: 0xa5, ..ResourceHead::default() }.encode(o), 124);
        place(&|o| Lockspace { host_id: 0xa5, ..Lockspace::default() }.encode(o), 48);
        place(&|o| Lockspace { pad: 0xa5, ..Lockspace::default() }.encode(o), 60);
        place(&|o| Lockspace { disk: Disk::new(path.clone(), 0), ..Lockspace::default() }.encode(o), 64);
        place(&|o| Lockspace { disk: Disk::new(DiskPath::default(), 0xa5), ..Lockspace::default() }.encode(o), 1088);
        place(&|o| Options { len: 0xa5, ..Options::default() }.encode(o), 52);
        place(&|o| Host { flags: 0xa5, ..Host::default() }.encode(o), 28);
        place(&|o| Rindex { lockspace_name: name, ..Rindex::default() }.encode(o), 16);
        place(&|o| Rindex { disk: Disk::new(path.clone(), 0), ..Rindex::default() }.encode(o), 64);
        place(&|o| RindexEntry { flags: 0xa5, ..RindexEntry::default() }.encode(o), 56);
    }

    #[test]
    fn a_resource_whose_disks_are_missing_is_none() {
        let head = ResourceHead { num_disks: u32::MAX, ..ResourceHead::default() };
        let mut out = Vec::new();
        head.encode(&mut out);
        let mut front = out.as_slice();
        assert_eq!(Resource::split_from(&mut front), None);
        assert_eq!(front.len(), 128, "nothing is taken when not all is there");
    }

    #[test]
    fn host_states_are_read_from_the_low_four_bits() {
        assert_eq!(Host { flags: 0x13, ..Host::default() }.state(), Some(HostState::Live));
        assert_eq!(Host { flags: 0, ..Host::default() }.state(), None);
    }
}
