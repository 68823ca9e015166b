//! Lockspaces and resources as a person types them: sanlock's strings, read strictly.
//!
//! ```text
//! LOCKSPACE  name:host_id:path[:offset]
//! RESOURCE   lockspace:name:path:offset[:path:offset]..[:lver|:SH]
//! size       123   64k   1M   1MiB   2G   1T   4096s
//! ```
//!
//! Units: `k M G T` are powers of 1024, with or without `iB`, in either case; `s` is a sector of 512 bytes, whatever
//! the device's, as the block layer and LVM count them. A colon or backslash in a path is written `\:` or `\\`.
//! Unlike sanlock's own reading (`strings`) nothing is guessed, cut or ignored: every refusal names the field, what
//! was found in it and what was expected. Source: the product's grammar, A 10, and A 3 for the limits.

use crate::command::LeaseFlags;
use crate::payload::{Disk, Lockspace, MAX_DISKS, Resource, ResourceHead};
use crate::strings::colon_fields;
use crate::text::{DiskPath, Name48};

/// The largest host_id any geometry has room for.
pub const MAX_HOST_ID: u64 = 2000;

const LOCKSPACE_GRAMMAR: &str = "LOCKSPACE:HOST_ID:PATH[:OFFSET]";
const RESOURCE_GRAMMAR: &str = "LOCKSPACE:RESOURCE:PATH:OFFSET[:PATH:OFFSET..][:LVER|:SH]";

/// What is wrong with an argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// Too few or too many fields.
    #[error("{input:?}: {problem}; expected {expected}")]
    Shape {
        /// The whole argument.
        input: String,
        /// What is missing or too much.
        problem: String,
        /// The grammar.
        expected: &'static str,
    },
    /// One field is wrong.
    #[error("{input:?}: the {field} is {found:?}, expected {expected}")]
    Field {
        /// The whole argument.
        input: String,
        /// Which field.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
}

/// One argument being read.
struct Argument<'a> {
    input: &'a str,
}

impl Argument<'_> {
    fn shape(&self, problem: impl Into<String>, expected: &'static str) -> ArgumentError {
        ArgumentError::Shape { input: self.input.to_owned(), problem: problem.into(), expected }
    }

    fn wrong(&self, field: &'static str, found: &[u8], expected: &'static str) -> ArgumentError {
        let found = String::from_utf8_lossy(found).into_owned();
        ArgumentError::Field { input: self.input.to_owned(), field, found, expected }
    }

    fn fields(&self, grammar: &'static str) -> Result<Vec<Vec<u8>>, ArgumentError> {
        colon_fields(self.input.as_bytes()).ok_or_else(|| self.shape("ends in a lone backslash", grammar))
    }

    fn name(&self, field: &'static str, text: &[u8]) -> Result<Name48, ArgumentError> {
        // Names stand unescaped in sanlock's own state strings, so what separates there must not be in one.
        let separates = |byte: &u8| matches!(byte, b':' | b'\\' | b' ') || byte.is_ascii_control();
        let expected = "1 to 48 bytes without spaces, colons, backslashes or control characters";
        match Name48::new(text) {
            Ok(name) if !name.is_empty() && !text.iter().any(separates) => Ok(name),
            _ => Err(self.wrong(field, text, expected)),
        }
    }

    fn path(&self, text: &[u8]) -> Result<DiskPath, ArgumentError> {
        let path = DiskPath::new(text).ok().filter(|path| !path.is_empty());
        path.ok_or_else(|| self.wrong("path", text, "1 to 1023 bytes"))
    }

    fn offset(&self, text: &[u8]) -> Result<u64, ArgumentError> {
        let size = std::str::from_utf8(text).ok().and_then(|text| parse_size(text).ok());
        size.ok_or_else(|| self.wrong("offset", text, SIZE_FORMS))
    }

    fn disk(&self, path: &[u8], offset: &[u8]) -> Result<Disk, ArgumentError> {
        Ok(Disk::new(self.path(path)?, self.offset(offset)?))
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

const SIZE_FORMS: &str = "bytes such as 0, 1048576, 64k, 1M, 2G or 2048s (sectors of 512 bytes), below 2^64";

/// A number of bytes, with a unit if one is given.
pub fn parse_size(text: &str) -> Result<u64, ArgumentError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let factor: Option<u64> = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "s" => Some(512),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        "t" | "tib" => Some(1 << 40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| Argument { input: text }.wrong("size", text.as_bytes(), SIZE_FORMS))
}

/// `name:host_id:path[:offset]`; the offset is 0 if left out, host_id 0 stands for none.
pub fn parse_lockspace(input: &str) -> Result<Lockspace, ArgumentError> {
    let argument = Argument { input };
    let fields = argument.fields(LOCKSPACE_GRAMMAR)?;
    let (name, host_id, path, offset) = match fields.as_slice() {
        [name, host_id, path] => (name, host_id, path, None),
        [name, host_id, path, offset] => (name, host_id, path, Some(offset)),
        [_] => return Err(argument.shape("host_id and path are missing", LOCKSPACE_GRAMMAR)),
        [_, _] => return Err(argument.shape("the path is missing", LOCKSPACE_GRAMMAR)),
        more => {
            let problem = format!("{} fields, at most 4 (write a colon in a path as \\:)", more.len());
            return Err(argument.shape(problem, LOCKSPACE_GRAMMAR));
        }
    };
    let id = decimal(host_id).filter(|id| *id <= MAX_HOST_ID);
    let id =
        id.ok_or_else(|| argument.wrong("host_id", host_id, "a number from 1 to 2000 (0 where none is needed)"))?;
    let offset = offset.map_or(Ok(0), |text| argument.offset(text))?;
    Ok(Lockspace::new(argument.name("lockspace name", name)?, id, Disk::new(argument.path(path)?, offset)))
}

/// `lockspace:name:path:offset[:path:offset]..[:lver|:SH]`.
pub fn parse_resource(input: &str) -> Result<Resource, ArgumentError> {
    let argument = Argument { input };
    let fields = argument.fields(RESOURCE_GRAMMAR)?;
    let [lockspace_name, name, rest @ ..] = fields.as_slice() else {
        return Err(argument.shape("the resource name is missing", RESOURCE_GRAMMAR));
    };
    let (pairs, trailing) = rest.as_chunks::<2>();
    if pairs.is_empty() {
        let problem = if trailing.is_empty() { "path and offset are missing" } else { "the offset is missing" };
        return Err(argument.shape(problem, RESOURCE_GRAMMAR));
    }
    if pairs.len() > MAX_DISKS {
        return Err(argument.shape(format!("{} disks, at most {MAX_DISKS}", pairs.len()), RESOURCE_GRAMMAR));
    }
    let mut head =
        ResourceHead::named(argument.name("lockspace name", lockspace_name)?, argument.name("resource name", name)?);
    let disks = pairs.iter().map(|[path, offset]| argument.disk(path, offset)).collect::<Result<_, _>>()?;
    match trailing.first().map(Vec::as_slice) {
        None => {}
        Some(b"SH") => head.flags = LeaseFlags::SHARED,
        Some(text) => {
            let lver = decimal(text);
            head.lver = lver.ok_or_else(|| argument.wrong("last field", text, "a lease version (a number) or SH"))?;
            head.flags = LeaseFlags::LVER;
        }
    }
    Ok(Resource::new(head, disks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{strings, testing};
    use proptest::prelude::*;

    #[test]
    fn sizes_take_units_and_nothing_else() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("1M", 1 << 20),
            ("1m", 1 << 20),
            ("1MiB", 1 << 20),
            ("4096s", 2 << 20),
            ("64k", 65536),
            ("2G", 2 << 30),
            ("1T", 1 << 40),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "+1", "1 M", " 1", "1MB", "0x10", "1.5M", "1é", "99999999999999999999", "16777216T"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn good_arguments_are_read() {
        let space = parse_lockspace("LS1:1:/dev/vg/leases:1M").unwrap();
        assert_eq!((space.name.as_bytes(), space.host_id, space.disk.offset), (b"LS1".as_slice(), 1, 1 << 20));
        assert_eq!(parse_lockspace("LS1:1:/dev/vg/leases").unwrap().disk.offset, 0);
        let resource = parse_resource("LS1:vm:/a\\:b\\\\c:4096s:/d:8M:SH").unwrap();
        assert_eq!(resource.disks[0], Disk::new(DiskPath::new("/a:b\\c").unwrap(), 2 << 20));
        assert_eq!(resource.disks[1].offset, 8 << 20);
        assert_eq!(resource.head.flags, LeaseFlags::SHARED);
        let versioned = parse_resource("LS1:vm:/a:0:7").unwrap();
        assert_eq!((versioned.head.lver, versioned.head.flags), (7, LeaseFlags::LVER));
        assert_eq!(parse_resource("LS1:vm:/a:0").unwrap().head.flags, LeaseFlags::NONE);
    }

    #[test]
    fn every_refusal_says_what_is_wrong() {
        let grammar = "expected LOCKSPACE:RESOURCE:PATH:OFFSET[:PATH:OFFSET..][:LVER|:SH]";
        let resources = [
            ("LS1", format!("\"LS1\": the resource name is missing; {grammar}")),
            ("LS1:vm", format!("\"LS1:vm\": path and offset are missing; {grammar}")),
            ("LS1:vm:/a", format!("\"LS1:vm:/a\": the offset is missing; {grammar}")),
            ("LS1:vm:/a:0\\", format!("\"LS1:vm:/a:0\\\\\": ends in a lone backslash; {grammar}")),
            ("l:r:/:0:/:0:/:0:/:0:/:0", format!("\"l:r:/:0:/:0:/:0:/:0:/:0\": 5 disks, at most 4; {grammar}")),
            ("LS1:vm:/a:1X", format!("\"LS1:vm:/a:1X\": the offset is \"1X\", expected {SIZE_FORMS}")),
            ("LS1:vm:/a:0:sh", "\"LS1:vm:/a:0:sh\": the last field is \"sh\", expected a lease version (a number) or SH".into()),
            ("LS1:vm::0", "\"LS1:vm::0\": the path is \"\", expected 1 to 1023 bytes".into()),
            (
                ":vm:/a:0",
                "\":vm:/a:0\": the lockspace name is \"\", expected 1 to 48 bytes without spaces, colons, backslashes or control characters".into(),
            ),
        ];
        for (text, want) in resources {
            assert_eq!(parse_resource(text).unwrap_err().to_string(), want);
        }
        for (text, part) in [
            ("LS1", "host_id and path are missing"),
            ("LS1:1", "the path is missing"),
            ("LS1:1:/a:0:5", "5 fields, at most 4"),
            ("LS1:2001:/a", "the host_id is \"2001\", expected a number from 1 to 2000"),
            ("LS1:one:/a", "the host_id is \"one\""),
            ("LS1:+1:/a", "the host_id is \"+1\""),
            ("L S:1:/a", "the lockspace name is \"L S\""),
        ] {
            let error = parse_lockspace(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_we_accept_sanlock_reads_alike_once_printed(resource in testing::plain_resource()) {
            let printed = String::from_utf8(strings::print_resource(&resource)).unwrap();
            prop_assert_eq!(parse_resource(&printed).ok(), strings::parse_resource(printed.as_bytes()).ok());
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,80}") {
            let _ = (parse_resource(&text), parse_lockspace(&text), parse_size(&text));
        }
    }
}
