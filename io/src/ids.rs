//! Who and which: host ids, generations, lease versions and names.
//!
//! A newtype says how its value can come to exist, and which comparisons make sense. Source: spec D 2.2.

use std::fmt;
use std::str::FromStr;

/// The most hosts any lease area has room for.
pub const MAX_HOSTS: u32 = 2000;

/// A host's number in a lockspace, 1 to 2000. Host N owns delta sector N-1 and dblock N of every resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u16);

impl HostId {
    /// `None` for 0 and for anything above [`MAX_HOSTS`].
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        match u16::try_from(number) {
            Ok(n) if n >= 1 && u32::from(n) <= MAX_HOSTS => Some(HostId(n)),
            _ => None,
        }
    }

    /// The number as it stands on disk.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0 as u64
    }

    /// The host's place in an area's table of hosts, from 0: the only spot where the "- 1" is written.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 as u32 - 1
    }

    /// The host of slot `slot` (the inverse of [`HostId::slot`]).
    #[must_use]
    pub fn from_slot(slot: u32) -> Option<Self> {
        Self::new(u64::from(slot) + 1)
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a host_id has been taken: one more at each join. A newer generation proves that the older one is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the next join. Saturates: 2^64 joins do not happen, a damaged record may claim them.
    #[must_use]
    pub const fn next(self) -> Self {
        Generation(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A resource's lease version: one more at each change of ownership, one Disk Synod for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lver(pub u64);

impl Lver {
    /// The version of the next ownership.
    #[must_use]
    pub const fn next(self) -> Self {
        Lver(self.0.saturating_add(1))
    }
}

impl fmt::Display for Lver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A timestamp that another host wrote, in seconds of that host's own clock. It can be compared for change and with
/// nothing else, least of all with our clock: so `==` is all it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RemoteTimestamp(pub u64);

impl RemoteTimestamp {
    /// What stands for "nobody holds this lease".
    pub const FREE: RemoteTimestamp = RemoteTimestamp(0);

    /// Whether the lease was given back.
    #[must_use]
    pub const fn is_free(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for RemoteTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes in a name field on disk and on the wire.
pub const NAME_LEN: usize = 48;

/// A name that does not fit its field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than 48 bytes.
    #[error("name {name:?} is {found} bytes long, at most {NAME_LEN} fit")]
    TooLong {
        /// The name, as far as it is text.
        name: String,
        /// Its length in bytes.
        found: usize,
    },
    /// Nothing in it.
    #[error("a name must not be empty")]
    Empty,
    /// A NUL in the middle would cut it short on disk.
    #[error("name {name:?} has a NUL byte in it")]
    Nul {
        /// The name, as far as it is text.
        name: String,
    },
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; NAME_LEN]);

        impl $name {
            /// The field as it stands on disk; what follows the first NUL does not count (as strncmp reads it).
            #[must_use]
            pub fn from_field(field: &[u8; NAME_LEN]) -> Self {
                let mut kept = [0; NAME_LEN];
                for (to, from) in kept.iter_mut().zip(field.iter().take_while(|b| **b != 0)) {
                    *to = *from;
                }
                $name(kept)
            }

            /// # Errors
            /// Empty, longer than 48 bytes, or with a NUL inside.
            pub fn new(name: &[u8]) -> Result<Self, NameError> {
                let text = || String::from_utf8_lossy(name).into_owned();
                if name.is_empty() {
                    return Err(NameError::Empty);
                }
                if name.len() > NAME_LEN {
                    return Err(NameError::TooLong { name: text(), found: name.len() });
                }
                if name.contains(&0) {
                    return Err(NameError::Nul { name: text() });
                }
                let mut field = [0; NAME_LEN];
                field[..name.len()].copy_from_slice(name);
                Ok($name(field))
            }

            /// The 48 bytes, padded with NUL.
            #[must_use]
            pub const fn field(&self) -> &[u8; NAME_LEN] {
                &self.0
            }

            /// The bytes of the name itself.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                let end = self.0.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
                &self.0[..end]
            }

            /// Whether the field holds no name at all (a sector that nobody has used).
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.0[0] == 0
            }

            /// The field without a name.
            #[must_use]
            pub const fn empty() -> Self {
                $name([0; NAME_LEN])
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::new(s.as_bytes())
            }
        }

        impl fmt::Display for $name {
            /// Printable text; other bytes as `\xNN`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.as_bytes().escape_ascii().to_string())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.to_string())
            }
        }
    };
}

name_type!(
    /// A lockspace's name.
    SpaceName
);
name_type!(
    /// A resource's name, unique inside its lockspace.
    ResourceName
);
name_type!(
    /// The name a host gives itself; it stands in the resource-name field of its delta sector.
    HostName
);

/// One host's tenure: the host_id and the generation of that join. Ownership is always by such a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostTerm {
    /// Which host.
    pub host_id: HostId,
    /// Which join of it.
    pub generation: Generation,
}

impl fmt::Display for HostTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host_id {} generation {}", self.host_id, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ids_run_from_1_to_2000() {
        assert_eq!(HostId::new(0), None);
        assert_eq!(HostId::new(2001), None);
        assert_eq!(HostId::new(u64::MAX), None);
        let last = HostId::new(2000).unwrap();
        assert_eq!(last.slot(), 1999);
        assert_eq!(HostId::from_slot(1999), Some(last));
        assert_eq!(HostId::from_slot(u32::MAX), None);
    }

    #[test]
    fn a_name_may_fill_its_field_without_a_nul() {
        let full = SpaceName::new(&[b'a'; 48]).unwrap();
        assert_eq!(full.as_bytes().len(), 48);
        assert!(SpaceName::new(&[b'a'; 49]).is_err());
        assert_eq!(SpaceName::new(b""), Err(NameError::Empty));
        assert!(SpaceName::new(b"a\0b").is_err());
    }

    #[test]
    fn bytes_behind_the_first_nul_do_not_count() {
        let mut field = [0; 48];
        field[..4].copy_from_slice(b"a\0bc");
        assert_eq!(SpaceName::from_field(&field), SpaceName::new(b"a").unwrap());
    }

    #[test]
    fn unprintable_bytes_are_shown_escaped() {
        assert_eq!(SpaceName::new(b"a\x07").unwrap().to_string(), r"a\x07");
    }
}
