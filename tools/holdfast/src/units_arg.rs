//! What people type for places and sizes: `PATH[:OFFSET[:LENGTH]]`, `1M`, `4096s`, and sanlock's lease strings.
//!
//! | written | means |
//! | --- | --- |
//! | `8388608` | bytes |
//! | `64K` `8M` `1G` `1T`, also `8MiB` | times 1024, 1024^2, 1024^3, 1024^4 |
//! | `4096s` | sectors of 512 bytes, whatever the device's own sectors are (as LVM and dmsetup count) |
//!
//! A `:` or `\` inside a path or name is written `\:` and `\\`. Strict: anything else is refused by name.

use std::str::FromStr;

use holdfast_io::ids::{NameError, ResourceName, SpaceName};
use holdfast_io::units::{AlignSize, SectorSize};

/// What was typed cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgError {
    /// Not a size.
    #[error(
        "{found:?} is not a size: expected bytes such as 8388608, or a unit as in 64K, 8M, 1G, 4096s (512-byte sectors)"
    )]
    Size {
        /// As typed.
        found: String,
    },
    /// More than 2^63 bytes: no device is that long.
    #[error("{found:?} is more than any device holds")]
    TooLarge {
        /// As typed.
        found: String,
    },
    /// Fields missing or too many.
    #[error("{found:?} is not of the form {expected}")]
    Shape {
        /// As typed.
        found: String,
        /// The form.
        expected: &'static str,
    },
    /// A name that fits no name field.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The host id in a lockspace string that is to be formatted.
    #[error(
        "{found:?} names host id {}: a lockspace is formatted for all hosts, so write 0 there",
        .host_id.escape_debug()
    )]
    HostId {
        /// As typed.
        found: String,
        /// The host id as typed.
        host_id: String,
    },
    /// Sector sizes are 512 and 4096.
    #[error("{found:?} is not a sector size: expected 512 or 4096")]
    Sector {
        /// As typed.
        found: String,
    },
    /// Area lengths are 1M, 2M, 4M and 8M.
    #[error("{found:?} is not the length of a lease area: expected 1M, 2M, 4M or 8M")]
    Align {
        /// As typed.
        found: String,
    },
}

/// A number of bytes.
///
/// # Errors
/// [`ArgError::Size`], [`ArgError::TooLarge`].
pub fn bytes(text: &str) -> Result<u64, ArgError> {
    let not_a_size = || ArgError::Size { found: text.into() };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "s" => 9,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err(not_a_size()),
    };
    if number.is_empty() {
        return Err(not_a_size());
    }
    let too_large = || ArgError::TooLarge { found: text.into() };
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(1 << shift).filter(|n| i64::try_from(*n).is_ok()).ok_or_else(too_large)
}

/// `--sector`.
///
/// # Errors
/// [`ArgError::Sector`].
pub fn sector(text: &str) -> Result<SectorSize, ArgError> {
    let size = bytes(text).ok().and_then(SectorSize::from_bytes);
    size.ok_or_else(|| ArgError::Sector { found: text.into() })
}

/// `--align`.
///
/// # Errors
/// [`ArgError::Align`].
pub fn align(text: &str) -> Result<AlignSize, ArgError> {
    let size = bytes(text).ok().and_then(AlignSize::from_bytes);
    size.ok_or_else(|| ArgError::Align { found: text.into() })
}

/// `PATH[:OFFSET]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The device or file.
    pub path: String,
    /// Bytes from its start; 0 if not given.
    pub offset: u64,
}

impl FromStr for Place {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let shape = || ArgError::Shape { found: text.into(), expected: "PATH[:OFFSET]" };
        let fields = fields(text).ok_or_else(shape)?;
        match fields.as_slice() {
            [path] if !path.is_empty() => Ok(Place { path: path.clone(), offset: 0 }),
            [path, offset] if !path.is_empty() => Ok(Place { path: path.clone(), offset: bytes(offset)? }),
            _ => Err(shape()),
        }
    }
}

/// `PATH[:OFFSET[:LENGTH]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The device or file.
    pub path: String,
    /// Where to begin, bytes from its start.
    pub offset: u64,
    /// How far to look; `None` as far as it makes sense.
    pub length: Option<u64>,
}

impl FromStr for Stretch {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let shape = || ArgError::Shape { found: text.into(), expected: "PATH[:OFFSET[:LENGTH]]" };
        let fields = fields(text).ok_or_else(shape)?;
        let (path, offset, length) = match fields.as_slice() {
            [path] => (path, 0, None),
            [path, offset] => (path, bytes(offset)?, None),
            [path, offset, length] => (path, bytes(offset)?, Some(bytes(length)?)),
            _ => return Err(shape()),
        };
        if path.is_empty() {
            return Err(shape());
        }
        Ok(Stretch { path: path.clone(), offset, length })
    }
}

/// sanlock's `LOCKSPACE:HOST_ID:PATH:OFFSET`, as far as it says what to format: HOST_ID is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockspaceArg {
    /// Its name.
    pub name: SpaceName,
    /// Where.
    pub place: Place,
}

impl FromStr for LockspaceArg {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let fields = fields(text).unwrap_or_default();
        let [name, host_id, path, offset] = fields.as_slice() else {
            return Err(ArgError::Shape { found: text.into(), expected: "LOCKSPACE:0:PATH:OFFSET" });
        };
        if !host_id.is_empty() && host_id != "0" {
            return Err(ArgError::HostId { found: text.into(), host_id: host_id.clone() });
        }
        Ok(LockspaceArg { name: name.parse()?, place: place(text, path, offset, "LOCKSPACE:0:PATH:OFFSET")? })
    }
}

/// sanlock's `LOCKSPACE:RESOURCE:PATH:OFFSET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceArg {
    /// The lockspace it belongs to.
    pub space: SpaceName,
    /// Its name.
    pub name: ResourceName,
    /// Where.
    pub place: Place,
}

impl FromStr for ResourceArg {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let expected = "LOCKSPACE:RESOURCE:PATH:OFFSET";
        let fields = fields(text).unwrap_or_default();
        let [space, name, path, offset] = fields.as_slice() else {
            return Err(ArgError::Shape { found: text.into(), expected });
        };
        Ok(ResourceArg { space: space.parse()?, name: name.parse()?, place: place(text, path, offset, expected)? })
    }
}

fn place(text: &str, path: &str, offset: &str, expected: &'static str) -> Result<Place, ArgError> {
    if path.is_empty() {
        return Err(ArgError::Shape { found: text.into(), expected });
    }
    Ok(Place { path: path.into(), offset: bytes(offset)? })
}

/// Splits at colons; `\x` stands for x. `None` if the text ends in a lone backslash.
fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => field.push(chars.next()?),
            ':' => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    Some(fields)
}

/// A number of bytes as a person writes it: `8M`, `1G`, and plain bytes where no unit divides it.
#[must_use]
pub fn short_bytes(n: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    match units.into_iter().find(|(shift, _)| n != 0 && n.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{}{unit}", n >> shift),
        None => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_sectors_are_512_bytes() {
        for (text, found) in
            [("0", 0), ("8388608", 8 << 20), ("64K", 65536), ("8MiB", 8 << 20), ("1G", 1 << 30), ("4096s", 2 << 20)]
        {
            assert_eq!(bytes(text), Ok(found), "{text}");
        }
        for text in ["", "M", "1Q", "-1", "1 M", "0x10", "1.5M", "99999999T", "18446744073709551615"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_place_is_a_path_and_perhaps_an_offset() {
        let place = |path: &str, offset| Ok(Place { path: path.into(), offset });
        assert_eq!("/dev/sdb".parse(), place("/dev/sdb", 0));
        assert_eq!("/dev/sdb:8M".parse(), place("/dev/sdb", 8 << 20));
        assert_eq!(r"/dev/a\:b:1M".parse(), place("/dev/a:b", 1 << 20));
        for text in ["", ":1M", "/dev/sdb:", "/dev/sdb:1M:2M", "/dev/sdb\\", "/dev/sdb:x"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        assert_eq!("d:1M:2M".parse(), Ok(Stretch { path: "d".into(), offset: 1 << 20, length: Some(2 << 20) }));
    }

    #[test]
    fn a_lockspace_string_to_be_formatted_has_host_id_0() {
        let arg: LockspaceArg = "LS:0:/dev/sdb:1M".parse().unwrap();
        assert_eq!((arg.name.to_string(), arg.place.offset), ("LS".into(), 1 << 20));
        assert!(matches!("LS:7:/dev/sdb:0".parse::<LockspaceArg>(), Err(ArgError::HostId { .. })));
        assert!(matches!("LS:0:/dev/sdb".parse::<LockspaceArg>(), Err(ArgError::Shape { .. })));
        let long = format!("{}:0:/dev/sdb:0", "x".repeat(49));
        assert!(matches!(long.parse::<LockspaceArg>(), Err(ArgError::Name(_))));
    }

    #[test]
    fn a_resource_string_names_its_lockspace() {
        let arg: ResourceArg = "LS:vm1:/dev/sdb:4096s".parse().unwrap();
        assert_eq!((arg.space.to_string(), arg.name.to_string()), ("LS".into(), "vm1".into()));
        assert_eq!(arg.place.offset, 2 << 20);
        assert!("LS::/dev/sdb:0".parse::<ResourceArg>().is_err());
    }

    #[test]
    fn short_sizes_are_read_back() {
        for n in [0, 1, 512, 1024, 1536, 8 << 20, 3 << 30, 5 << 40] {
            assert_eq!(bytes(&short_bytes(n)), Ok(n));
        }
    }
}
