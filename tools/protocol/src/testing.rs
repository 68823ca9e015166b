//! Generators that vary every field, flags, padding and reserved words included.

use crate::command::{LeaseFlags, LockspaceFlags};
use crate::payload::{Disk, Host, Lockspace, Resource, ResourceHead};
use crate::text::{DiskPath, Name48};
use proptest::prelude::*;

/// Any 48 bytes: NULs and what follows them as well.
pub fn name() -> impl Strategy<Value = Name48> {
    prop_oneof![
        "[a-z0-9_.-]{0,48}".prop_map(|text| Name48::new(text).unwrap()),
        proptest::collection::vec(any::<u8>(), 48).prop_map(|raw| Name48::from_raw(raw.try_into().unwrap())),
    ]
}

pub fn path() -> impl Strategy<Value = DiskPath> {
    prop_oneof![
        "/[a-z/]{1,40}".prop_map(|text| DiskPath::new(text).unwrap()),
        proptest::collection::vec(any::<u8>(), 1024).prop_map(|raw| DiskPath::from_raw(raw.try_into().unwrap())),
    ]
}

pub fn disk() -> impl Strategy<Value = Disk> {
    (path(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(path, offset, pad1, pad2)| Disk {
        path,
        offset,
        pad1,
        pad2,
    })
}

pub fn head() -> impl Strategy<Value = ResourceHead> {
    (name(), name(), any::<[u64; 2]>(), any::<[u32; 4]>()).prop_map(
        |(lockspace_name, name, [lver, data64], [data32, unused, flags, num_disks])| ResourceHead {
            lockspace_name,
            name,
            lver,
            data64,
            data32,
            unused,
            flags: LeaseFlags::from_bits(flags),
            num_disks,
        },
    )
}

/// A resource whose head counts its disks, one to four.
pub fn resource() -> impl Strategy<Value = Resource> {
    (head(), proptest::collection::vec(disk(), 1..=4)).prop_map(|(head, disks)| Resource::new(head, disks))
}

/// A resource that a string can say: no colon, space or backslash in a name, no backslash in a path.
pub fn plain_resource() -> impl Strategy<Value = Resource> {
    let name = || "[a-z0-9_.-]{1,48}".prop_map(|text| Name48::new(text).unwrap());
    let disk = ("/[a-z :]{1,40}".prop_map(|p| DiskPath::new(p).unwrap()), any::<u64>());
    let disks = proptest::collection::vec(disk.prop_map(|(path, at)| Disk::new(path, at)), 1..=4);
    (name(), name(), any::<u64>(), any::<bool>(), disks).prop_map(|(space, name, lver, shared, disks)| {
        let flags = if shared { LeaseFlags::SHARED } else { LeaseFlags::NONE };
        Resource::new(ResourceHead { lver, flags, ..ResourceHead::named(space, name) }, disks)
    })
}

pub fn lockspace() -> impl Strategy<Value = Lockspace> {
    (name(), any::<u64>(), any::<[u32; 2]>(), disk()).prop_map(|(name, host_id, [flags, pad], disk)| Lockspace {
        name,
        host_id,
        flags: LockspaceFlags::from_bits(flags),
        pad,
        disk,
    })
}

pub fn host() -> impl Strategy<Value = Host> {
    (any::<[u64; 3]>(), any::<[u32; 2]>()).prop_map(|([host_id, generation, timestamp], [io_timeout, flags])| Host {
        host_id,
        generation,
        timestamp,
        io_timeout,
        flags,
    })
}
