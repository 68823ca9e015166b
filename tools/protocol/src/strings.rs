//! The RESOURCE, LOCKSPACE and STATE strings exactly as sanlock reads and prints them (A 10).
//!
//! ```text
//! RESOURCE   lockspace:name:path:offset[:path:offset]..[:lver|SH]     \x is a literal x anywhere
//! LOCKSPACE  name[:host_id[:path[:offset]]]                           never fails
//! STATE      RESOURCE RESOURCE ..
//! ```
//!
//! Faithful means lenient where sanlock is: `12abc` is 12, `1M` is 1, `-1` is 2^64-1, a wrong lockspace number is 0.
//! What a person types goes through `arguments` instead, which is strict and says what is wrong. Errors carry the
//! number sanlock's own library returns. Source: A 10, every case compared with the installed library.

use crate::codes::ResultCode;
use crate::command::LeaseFlags;
use crate::payload::{Disk, Lockspace, MAX_DISKS, Resource, ResourceHead, Rindex, RindexEntry};
use crate::text::{DiskPath, Name48};

/// Why a string is not a RESOURCE or STATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StringFault {
    /// Fields missing, empty, too long or not numbers.
    #[error("malformed resource string")]
    Malformed,
    /// More than four path:offset pairs.
    #[error("more than {MAX_DISKS} disks in a resource string")]
    TooManyDisks,
    /// Shorter than the shortest resource, `a:b`.
    #[error("resource string shorter than 3 bytes")]
    TooShort,
}

impl StringFault {
    /// What sanlock's library returns for it.
    #[must_use]
    pub fn code(self) -> ResultCode {
        match self {
            Self::Malformed => ResultCode::new(-1),
            Self::TooManyDisks => ResultCode::new(-2),
            Self::TooShort => ResultCode::ENXIO,
        }
    }
}

/// Fields between unescaped colons, `\x` replaced by x; None if the text ends in a lone backslash.
pub(crate) fn colon_fields(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut fields = vec![Vec::new()];
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let literal = match byte {
            b'\\' => *bytes.next()?,
            b':' => {
                fields.push(Vec::new());
                continue;
            }
            other => *other,
        };
        if let Some(field) = fields.last_mut() {
            field.push(literal);
        }
    }
    Some(fields)
}

/// A RESOURCE string, as `sanlock_str_to_res` reads it.
pub fn parse_resource(text: &[u8]) -> Result<Resource, StringFault> {
    if text.len() < 3 {
        return Err(StringFault::TooShort);
    }
    // The library counts the disks before it looks at anything else.
    if raw_fields(text).len().saturating_sub(2) / 2 > MAX_DISKS {
        return Err(StringFault::TooManyDisks);
    }
    let fields = colon_fields(text).ok_or(StringFault::Malformed)?;
    let [lockspace_name, name, rest @ ..] = fields.as_slice() else { return Err(StringFault::Malformed) };
    let (pairs, trailing) = rest.as_chunks::<2>();
    if pairs.is_empty() && !trailing.is_empty() {
        return Err(StringFault::Malformed);
    }
    let name_of = |bytes: &Vec<u8>| Name48::new(bytes).map_err(|_| StringFault::Malformed);
    let mut head = ResourceHead::named(name_of(lockspace_name)?, name_of(name)?);
    let disks = pairs.iter().map(|[path, offset]| parse_disk(path, offset)).collect::<Result<_, _>>()?;
    match trailing {
        [] => {}
        [last] if last.is_empty() => return Err(StringFault::Malformed),
        [last, ..] if last.starts_with(b"SH") => head.flags = LeaseFlags::SHARED,
        [last, ..] => {
            head.flags = LeaseFlags::LVER;
            head.lver = number_any_base(last);
        }
    }
    Ok(Resource::new(head, disks))
}

fn parse_disk(path: &[u8], offset: &[u8]) -> Result<Disk, StringFault> {
    let path = DiskPath::new(path).ok().filter(|path| !path.is_empty()).ok_or(StringFault::Malformed)?;
    let offset = number(offset, 10).ok_or(StringFault::Malformed)?;
    Ok(Disk::new(path, offset))
}

/// A RESOURCE string, as `sanlock_res_to_str` and INQUIRE print it: the mode or version is always there.
#[must_use]
pub fn print_resource(resource: &Resource) -> Vec<u8> {
    let head = &resource.head;
    let mut out = [head.lockspace_name.as_bytes(), b":", head.name.as_bytes()].concat();
    for disk in &resource.disks {
        out.push(b':');
        out.extend(export_path(disk.path.as_bytes()));
        out.extend(format!(":{}", disk.offset).bytes());
    }
    if head.flags.contains(LeaseFlags::SHARED) {
        out.extend(b":SH");
    } else {
        out.extend(format!(":{}", head.lver).bytes());
    }
    out
}

/// A resource index: `lockspace:path:offset`, read as a LOCKSPACE string is.
#[must_use]
pub fn parse_rindex(text: &[u8]) -> Rindex {
    let mut fields = raw_fields(text).into_iter();
    let lockspace_name = Name48::cut(fields.next().unwrap_or(&[]));
    let mut path = import_path(fields.next().unwrap_or(&[]));
    path.truncate(DiskPath::default().raw().len() - 1);
    let offset = decimal_as_atoll(fields.next().unwrap_or(&[]));
    Rindex { lockspace_name, disk: Disk::new(DiskPath::new(path).unwrap_or_default(), offset), ..Rindex::default() }
}

/// An entry of a resource index: `name[:offset]`, or `:offset`. Here a backslash makes no colon part of the name.
#[must_use]
pub fn parse_rindex_entry(text: &[u8]) -> RindexEntry {
    let mut fields = text.split(|byte| *byte == b':');
    let name = Name48::cut(fields.next().unwrap_or(&[]));
    RindexEntry { name, offset: decimal_as_atoll(fields.next().unwrap_or(&[])), ..RindexEntry::default() }
}

/// A LOCKSPACE string, as `sanlock_str_to_lockspace` reads it: whatever is missing or wrong becomes empty or 0.
///
/// The name keeps its backslashes and is cut at 48 bytes; the path loses its backslashes.
#[must_use]
pub fn parse_lockspace(text: &[u8]) -> Lockspace {
    let mut fields = raw_fields(text).into_iter();
    let name = Name48::cut(fields.next().unwrap_or(&[]));
    let host_id = decimal_as_atoll(fields.next().unwrap_or(&[]));
    let mut path = import_path(fields.next().unwrap_or(&[]));
    path.truncate(DiskPath::default().raw().len() - 1);
    let offset = decimal_as_atoll(fields.next().unwrap_or(&[]));
    // A path cut to 1023 bytes can only fail to fit by a NUL inside, which ends it for sanlock as well.
    Lockspace::new(name, host_id, Disk::new(DiskPath::new(path).unwrap_or_default(), offset))
}

/// Fields between unescaped colons with their backslashes still in.
#[must_use]
pub fn raw_fields(text: &[u8]) -> Vec<&[u8]> {
    let mut fields = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.iter().enumerate() {
        if *byte == b':' && !escaped {
            fields.push(text.get(start..at).unwrap_or(&[]));
            start = at + 1;
        }
        escaped = *byte == b'\\' && !escaped;
    }
    fields.push(text.get(start..).unwrap_or(&[]));
    fields
}

/// A LOCKSPACE string with its path exported.
#[must_use]
pub fn print_lockspace(lockspace: &Lockspace) -> Vec<u8> {
    let mut out = lockspace.name.as_bytes().to_vec();
    out.extend(format!(":{}:", lockspace.host_id).bytes());
    out.extend(export_path(lockspace.disk.path.as_bytes()));
    out.extend(format!(":{}", lockspace.disk.offset).bytes());
    out
}

/// A STATE string: resources joined by one space.
#[must_use]
pub fn print_state(resources: &[Resource]) -> Vec<u8> {
    resources.iter().map(print_resource).collect::<Vec<_>>().join(&b' ')
}

/// A STATE string, as `sanlock_state_to_args` reads it. A space counts as part of a name or path until three
/// unescaped colons of the item have been seen. (One known difference: items of two bytes, a space among them, which
/// no daemon prints, are too short here and taken as they are there.)
pub fn parse_state(text: &[u8]) -> Result<Vec<Resource>, StringFault> {
    let mut items = Vec::new();
    let (mut start, mut colons, mut escaped) = (0, 0, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b':' if !escaped => colons += 1,
            b' ' if !escaped && colons >= 3 => {
                items.push(text.get(start..at).unwrap_or(&[]));
                (start, colons) = (at + 1, 0);
            }
            _ => {}
        }
        // The byte before decides, as in the library's splitter: here `\\\\` does not escape itself.
        escaped = *byte == b'\\';
    }
    items.push(text.get(start..).unwrap_or(&[]));
    items.into_iter().map(parse_resource).collect()
}

/// A path made safe for the strings: a backslash before each space or colon that has none; `\x` stays as it is.
#[must_use]
pub fn export_path(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        if matches!(byte, b' ' | b':') {
            out.push(b'\\');
        }
        out.push(*byte);
        if *byte == b'\\' {
            out.extend(bytes.next());
        }
    }
    out
}

/// The reverse: every backslash is dropped, so that a path with a backslash cannot be said.
#[must_use]
pub fn import_path(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != b'\\').collect()
}

/// White space as C's `isspace` has it, an optional sign, and what is left.
fn sign(text: &[u8]) -> (bool, &[u8]) {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    match text.get(start..).unwrap_or(&[]) {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    }
}

/// The digits at the front of `text`, saturating; the flag says that the number did not fit.
fn digits(text: &[u8], base: u32) -> Option<(u64, bool)> {
    let mut value = None;
    let mut overflow = false;
    for digit in text.iter().map_while(|byte| char::from(*byte).to_digit(base)) {
        let longer = value.unwrap_or(0_u64).checked_mul(u64::from(base)).and_then(|v| v.checked_add(u64::from(digit)));
        overflow |= longer.is_none();
        value = Some(longer.unwrap_or(u64::MAX));
    }
    value.map(|value| (if overflow { u64::MAX } else { value }, overflow))
}

/// As `%llu` and `strtoull` read: prefix, sign wraps, too large is 2^64-1; None without a digit.
#[must_use]
pub fn number(text: &[u8], base: u32) -> Option<u64> {
    let (negative, rest) = sign(text);
    let (value, overflow) = digits(rest, base)?;
    Some(if negative && !overflow { value.wrapping_neg() } else { value })
}

/// As `strtoull` with base 0: `0x1f`, `017`, `9`; nothing readable is 0.
#[must_use]
pub fn number_any_base(text: &[u8]) -> u64 {
    let (_, rest) = sign(text);
    let base = match rest {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => 16,
        [b'0', ..] => 8,
        _ => 10,
    };
    if base != 16 {
        return number(text, base).unwrap_or(0);
    }
    let (negative, rest) = sign(text);
    let (value, overflow) = digits(rest.get(2..).unwrap_or(&[]), 16).unwrap_or((0, false));
    if negative && !overflow { value.wrapping_neg() } else { value }
}

/// As `atoll` reads, then taken as unsigned: saturates at the ends of i64; nothing readable is 0.
#[must_use]
pub fn decimal_as_atoll(text: &[u8]) -> u64 {
    let (negative, rest) = sign(text);
    let (value, _) = digits(rest, 10).unwrap_or((0, false));
    if negative { value.min(i64::MIN.unsigned_abs()).wrapping_neg() } else { value.min(i64::MAX.cast_unsigned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    /// What the installed library made of each string: lockspace, name, lver, flags, disks; or its error number.
    type Read = Result<(&'static str, &'static str, u64, u32, Vec<(&'static str, u64)>), i32>;

    fn read(text: &str) -> Result<Resource, i32> {
        parse_resource(text.as_bytes()).map_err(|fault| fault.code().number())
    }

    fn built(want: Read) -> Result<Resource, i32> {
        want.map(|(space, name, lver, flags, disks)| {
            let mut head = ResourceHead::named(Name48::new(space).unwrap(), Name48::new(name).unwrap());
            head.lver = lver;
            head.flags = LeaseFlags::from_bits(flags);
            let disks = disks.into_iter().map(|(path, at)| Disk::new(DiskPath::new(path).unwrap(), at)).collect();
            Resource::new(head, disks)
        })
    }

    #[test]
    fn resource_strings_read_as_the_library_reads_them() {
        let one = |offset| vec![("/p", offset)];
        let table: Vec<(&str, Read)> = vec![
            ("a:b:/p:0", Ok(("a", "b", 0, 0, one(0)))),
            ("a:b:/p:0:5", Ok(("a", "b", 5, 1, one(0)))),
            ("a:b:/p:0:SH", Ok(("a", "b", 0, 4, one(0)))),
            ("a:b:/p:0:SHx", Ok(("a", "b", 0, 4, one(0)))),
            ("a:b:/p:0:\\SH", Ok(("a", "b", 0, 4, one(0)))),
            ("a:b:/p:0:sh", Ok(("a", "b", 0, 1, one(0)))),
            ("a:b:/p:0:0x10", Ok(("a", "b", 16, 1, one(0)))),
            ("a:b:/p:0:0X1f", Ok(("a", "b", 31, 1, one(0)))),
            ("a:b:/p:0:0xg", Ok(("a", "b", 0, 1, one(0)))),
            ("a:b:/p:0:-0x10", Ok(("a", "b", 18_446_744_073_709_551_600, 1, one(0)))),
            ("a:b:/p:0:-99999999999999999999", Ok(("a", "b", u64::MAX, 1, one(0)))),
            ("a:b:/p:0:010", Ok(("a", "b", 8, 1, one(0)))),
            ("a:b:/p:0:09", Ok(("a", "b", 0, 1, one(0)))),
            ("a:b:/p:0:5x", Ok(("a", "b", 5, 1, one(0)))),
            ("a:b:/p:0: 5", Ok(("a", "b", 5, 1, one(0)))),
            ("a:b:/p:0:-1", Ok(("a", "b", u64::MAX, 1, one(0)))),
            ("a:b:/p:0:99999999999999999999", Ok(("a", "b", u64::MAX, 1, one(0)))),
            ("a:b:/p:0:/q", Ok(("a", "b", 0, 1, one(0)))),
            ("a:b:/p:0:", Err(-1)),
            ("a:b:/p:12abc", Ok(("a", "b", 0, 0, one(12)))),
            ("a:b:/p:0x10", Ok(("a", "b", 0, 0, one(0)))),
            ("a:b:/p:1M", Ok(("a", "b", 0, 0, one(1)))),
            ("a:b:/p:1\\2", Ok(("a", "b", 0, 0, one(12)))),
            ("a:b:/p:-1", Ok(("a", "b", 0, 0, one(u64::MAX)))),
            ("a:b:/p: -3", Ok(("a", "b", 0, 0, one(u64::MAX - 2)))),
            ("a:b:/p:-18446744073709551615", Ok(("a", "b", 0, 0, one(1)))),
            ("a:b:/p:-18446744073709551616", Ok(("a", "b", 0, 0, one(u64::MAX)))),
            ("a:b:/p:99999999999999999999", Ok(("a", "b", 0, 0, one(u64::MAX)))),
            ("a:b:/p:\t7", Ok(("a", "b", 0, 0, one(7)))),
            ("a:b:/p:+7", Ok(("a", "b", 0, 0, one(7)))),
            ("a:b:/p:+-1", Err(-1)),
            ("a:b:/p:--1", Err(-1)),
            ("a:b:/p:x", Err(-1)),
            ("a:b:/p:", Err(-1)),
            ("a:b::0", Err(-1)),
            ("a:b", Ok(("a", "b", 0, 0, vec![]))),
            ("a:b:5", Err(-1)),
            ("abc", Err(-1)),
            ("ab", Err(-6)),
            ("", Err(-6)),
            (":b:/p:0", Ok(("", "b", 0, 0, one(0)))),
            ("::/p:0", Ok(("", "", 0, 0, one(0)))),
            ("a\\:x:b:/p:0", Ok(("a:x", "b", 0, 0, one(0)))),
            ("a\\:b", Err(-1)),
            ("a\\\\:b", Ok(("a\\", "b", 0, 0, vec![]))),
            ("a:b:/p\\:q:0", Ok(("a", "b", 0, 0, vec![("/p:q", 0)]))),
            ("a:b:/p\\\\q:0", Ok(("a", "b", 0, 0, vec![("/p\\q", 0)]))),
            ("a:b:/p q:0", Ok(("a", "b", 0, 0, vec![("/p q", 0)]))),
            ("a:b:/p\\ q:0:3", Ok(("a", "b", 3, 1, vec![("/p q", 0)]))),
            ("a:b:/p\\", Err(-1)),
            ("a:b:/p:0:5\\", Err(-1)),
            ("a:b:/1:0:/2:1", Ok(("a", "b", 0, 0, vec![("/1", 0), ("/2", 1)]))),
            ("a:b:/1:0:/2:1:SH", Ok(("a", "b", 0, 4, vec![("/1", 0), ("/2", 1)]))),
            ("a:b:/p:0:/q:x", Err(-1)),
            ("a:b:/1:0:/1:0:/1:0:/1:0:9", Ok(("a", "b", 9, 1, vec![("/1", 0); 4]))),
            ("a:b:/1:0:/1:0:/1:0:/1:0:/1:0", Err(-2)),
            ("a:b:/1:0:/1:0:/1:0:/1:0:/1:0:9", Err(-2)),
            ("a:b:/1:0:/1:0:/1:0:/1:0:/1:0\\", Err(-2)),
        ];
        for (text, want) in table {
            assert_eq!(read(text), built(want), "{text:?}");
        }
    }

    #[test]
    fn names_of_48_bytes_and_paths_of_1023_are_the_longest() {
        let n = |count: usize| "n".repeat(count);
        assert!(read(&format!("{}:b:/p:0", n(48))).is_ok());
        assert_eq!(read(&format!("{}:b:/p:0", n(49))), Err(-1));
        assert_eq!(read(&format!("a:{}:/p:0", n(49))), Err(-1));
        assert!(read(&format!("a:b:{}:0", n(1023))).is_ok());
        assert_eq!(read(&format!("a:b:{}:0", n(1024))), Err(-1));
        let too_many = "a:b:/1:0:/1:0:/1:0:/1:0:/1:0".replace('a', &n(49));
        assert_eq!(read(&too_many), Err(-2), "the disks are counted before the names are looked at");
    }

    #[test]
    fn resources_print_as_the_library_prints_them() {
        for (text, printed) in [
            ("a:b:/p:0", "a:b:/p:0:0"),
            ("a:b:/p:0:SH", "a:b:/p:0:SH"),
            ("a\\:x:b c:/p\\:q r:0:5", "a:x:b c:/p\\:q\\ r:0:5"),
            ("a:b:/p\\\\q:0", "a:b:/p\\q:0:0"),
            ("a:b", "a:b:0"),
            ("a:b:/1:0:/2:1", "a:b:/1:0:/2:1:0"),
        ] {
            assert_eq!(String::from_utf8(print_resource(&read(text).unwrap())).unwrap(), printed);
        }
    }

    #[test]
    fn lockspace_strings_never_fail() {
        let table: &[(&str, &str, u64, &str, u64)] = &[
            ("n", "n", 0, "", 0),
            ("n:1", "n", 1, "", 0),
            ("n:1:/p", "n", 1, "/p", 0),
            ("n:1:/p:5", "n", 1, "/p", 5),
            ("n:0x10:/p:0x10", "n", 0, "/p", 0),
            ("n:1:/p:5:7", "n", 1, "/p", 5),
            ("n:1:/p:0\\:5", "n", 1, "/p", 0),
            ("n:-1:/p:-1", "n", u64::MAX, "/p", u64::MAX),
            ("", "", 0, "", 0),
            (":1:/p:0", "", 1, "/p", 0),
            ("n:1:/p\\:q:5", "n", 1, "/p:q", 5),
            ("n:1:/p\\\\q:5", "n", 1, "/pq", 5),
            ("n:1:/p\\\\:q:5", "n", 1, "/p", 0),
            ("n\\:m:1:/p:0", "n\\:m", 1, "/p", 0),
            ("n\\\\:m:1:/p:0", "n\\\\", 0, "1", 0),
            ("n:1x:/p:5M", "n", 1, "/p", 5),
            ("n: 12:/p: 3", "n", 12, "/p", 3),
            ("n::/p:", "n", 0, "/p", 0),
        ];
        for (text, name, host_id, path, offset) in table {
            let disk = Disk::new(DiskPath::new(path).unwrap(), *offset);
            assert_eq!(
                parse_lockspace(text.as_bytes()),
                Lockspace::new(Name48::new(name).unwrap(), *host_id, disk),
                "{text}"
            );
        }
        let saturated = parse_lockspace(b"n:9223372036854775808:/p:99999999999999999999");
        assert_eq!((saturated.host_id, saturated.disk.offset), (i64::MAX.cast_unsigned(), i64::MAX.cast_unsigned()));
        let long = parse_lockspace(format!("{}:1:/p:0", "x".repeat(50)).as_bytes());
        assert_eq!(long.name.as_bytes(), [b'x'; 48]);
        assert_eq!(parse_lockspace(format!("n:1:{}:5", "/".repeat(2000)).as_bytes()).disk.offset, 5);
    }

    #[test]
    fn state_strings_split_where_the_library_splits_them() {
        let table: &[(&str, Result<&[&str], i32>)] = &[
            ("", Err(-6)),
            (" ", Err(-6)),
            ("a:b:/p:0:1", Ok(&["a:b:/p:0:1"])),
            ("a:b:/p:0:1 c:d:/q:1:SH", Ok(&["a:b:/p:0:1", "c:d:/q:1:SH"])),
            ("a:b:/p:0:1 ", Err(-6)),
            ("a b:c:/p:0:1", Ok(&["a b:c:/p:0:1"])),
            ("a:b:/p\\ q:0:1", Ok(&["a:b:/p\\ q:0:1"])),
            ("a:b:/p q:0:1", Ok(&["a:b:/p\\ q:0:1"])),
            ("a:b:/p:0:1  c:d:/q:0:1", Ok(&["a:b:/p:0:1", " c:d:/q:0:1"])),
            ("a:b:/p\\:x y:0:1 c:d:/q:0:1", Ok(&["a:b:/p\\:x\\ y:0:1", "c:d:/q:0:1"])),
            ("a:b:/p:0\\ 1 c:d:/p:0:1", Ok(&["a:b:/p:0:0", "c:d:/p:0:1"])),
            ("a:b", Ok(&["a:b:0"])),
            ("a:b:/p:0 1", Err(-6)),
            ("a:b c:d:/q:0:1", Err(-1)),
            ("xyz", Err(-1)),
        ];
        for (text, want) in table {
            let got = parse_state(text.as_bytes()).map_err(|fault| fault.code().number());
            let printed =
                got.map(|all| all.iter().map(|r| String::from_utf8(print_resource(r)).unwrap()).collect::<Vec<_>>());
            assert_eq!(printed, want.map(|all| all.iter().map(ToString::to_string).collect()), "{text:?}");
        }
    }

    #[test]
    fn paths_are_exported_and_imported_as_the_library_does() {
        for (path, exported, imported) in [
            ("/a b", "/a\\ b", "/a b"),
            ("/a:b", "/a\\:b", "/a:b"),
            ("/a\\:b", "/a\\:b", "/a:b"),
            ("/a\\b", "/a\\b", "/ab"),
            ("/a\\\\b", "/a\\\\b", "/ab"),
            ("/a\\", "/a\\", "/a"),
            ("\\\\:", "\\\\\\:", ":"),
        ] {
            assert_eq!(export_path(path.as_bytes()), exported.as_bytes());
            assert_eq!(import_path(path.as_bytes()), imported.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_printed_reads_back_with_the_version_flag_added(resource in testing::plain_resource()) {
            let read = parse_resource(&print_resource(&resource)).unwrap();
            prop_assert_eq!(&read.disks, &resource.disks);
            prop_assert_eq!(read.head.lockspace_name, resource.head.lockspace_name);
            let shared = resource.head.flags.contains(LeaseFlags::SHARED);
            prop_assert_eq!(read.head.flags, if shared { LeaseFlags::SHARED } else { LeaseFlags::LVER });
            prop_assert_eq!(read.head.lver, if shared { 0 } else { resource.head.lver });
        }

        #[test]
        fn no_bytes_make_a_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse_resource(&text), parse_state(&text), parse_lockspace(&text));
            prop_assert_eq!(import_path(&export_path(&text)), import_path(&text));
        }
    }
}
