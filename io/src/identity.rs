//! Which machine, and which boot of it: 8-byte hashes for the seal (P1).
//!
//! The machine hash takes /etc/machine-id together with the DMI product UUID, where there is one: images are cloned,
//! and a clone carries its machine-id along.

use std::path::Path;
use std::{fs, io};

use sha2::{Digest, Sha256};

use crate::bytes::u64_at;

/// The first 8 bytes of a SHA-256 over what names this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineHash(pub u64);

/// The first 8 bytes of a SHA-256 over the kernel's boot id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootHash(pub u64);

/// This machine in this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Which machine.
    pub machine: MachineHash,
    /// Which boot of it.
    pub boot: BootHash,
}

/// A host that cannot say which machine it is.
#[derive(Debug, thiserror::Error)]
#[error("cannot tell which machine this is: {path}: {source}")]
pub struct IdentityError {
    /// The file that would say.
    pub path: &'static str,
    /// Why it does not.
    pub source: io::Error,
}

impl Machine {
    /// Reads the identity of the machine we run on.
    ///
    /// # Errors
    /// /etc/machine-id or the kernel's boot id cannot be read. (No DMI product UUID is no error.)
    pub fn of_this_host() -> Result<Self, IdentityError> {
        let read =
            |path: &'static str| fs::read_to_string(Path::new(path)).map_err(|source| IdentityError { path, source });
        let machine_id = read("/etc/machine-id")?;
        let product = fs::read_to_string("/sys/class/dmi/id/product_uuid").unwrap_or_default();
        let boot_id = read("/proc/sys/kernel/random/boot_id")?;
        Ok(Self::from_ids(&machine_id, &product, &boot_id))
    }

    /// From the texts themselves.
    #[must_use]
    pub fn from_ids(machine_id: &str, product_uuid: &str, boot_id: &str) -> Self {
        Machine {
            machine: MachineHash(hash(&["machine", machine_id.trim(), product_uuid.trim()])),
            boot: BootHash(hash(&["boot", boot_id.trim()])),
        }
    }
}

fn hash(pieces: &[&str]) -> u64 {
    let mut sha = Sha256::new();
    for piece in pieces {
        sha.update(piece.as_bytes());
        sha.update([0]);
    }
    u64_at(&sha.finalize(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloned_image_on_other_hardware_is_another_machine() {
        let original = Machine::from_ids("aa\n", "uuid-1\n", "b");
        let clone = Machine::from_ids("aa\n", "uuid-2\n", "b");
        assert_ne!(original.machine, clone.machine);
        assert_eq!(original.boot, clone.boot);
    }

    #[test]
    fn this_host_knows_itself() {
        assert_eq!(Machine::of_this_host().unwrap(), Machine::of_this_host().unwrap());
    }
}
