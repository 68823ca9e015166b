//! sanlock's options: two characters each, the value a word of its own (spec B 1). Numbers are read as C reads them, with
//! all that it lets pass: of one command line both programs must make the same request.

use std::collections::BTreeMap;

use holdfast_protocol::command::{LeaseFlags, LockspaceFlags};
use holdfast_protocol::payload::{Disk, Lockspace, Resource, Rindex, RindexEntry};
use holdfast_protocol::strings::{
    decimal_as_atoll, number, number_any_base, parse_lockspace, parse_resource, parse_rindex, parse_rindex_entry,
    raw_fields,
};

/// Letters with a value.
const LETTERS: &str = "QRHLSFatwhlobnmpigedfsrxUGOPuzAZ";
/// Resources of one command line.
const MOST_RESOURCES: usize = 8;
const MIB: u64 = 1 << 20;

/// A command line.
#[derive(Debug, Default)]
pub(super) struct Options {
    values: BTreeMap<char, String>,
    /// `-D`.
    pub(super) detail: bool,
    /// Each `-r`, without `-Z` and `-A`.
    pub(super) resources: Vec<Resource>,
    /// What `-c` says, up to the end of the line.
    pub(super) command: Vec<String>,
    /// `-Z` and `-A` as flags, which are the same in lockspaces, resources and indexes.
    pub(super) geometry: u32,
}

impl Options {
    /// Reads the options; a complaint, as sanlock prints it.
    pub(super) fn parse(words: &[&str]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let letter = match word.as_bytes() {
                [b'-', letter] => char::from(*letter),
                _ => return Err(format!("unknown option {word}\nspace required before option value")),
            };
            if letter == 'D' {
                options.detail = true;
                continue;
            }
            let Some(value) = words.next() else { return Err(format!("option '{letter}' requires arg")) };
            match letter {
                'c' => {
                    options.command = std::iter::once(value).chain(words.by_ref()).map(|w| (*w).to_owned()).collect();
                }
                'r' => options.read_resource(value),
                letter if LETTERS.contains(letter) => {
                    options.values.insert(letter, (*value).to_owned());
                }
                letter => return Err(format!("unknown option: {letter}")),
            }
        }
        options.geometry = options.read_geometry()?;
        Ok(options)
    }

    /// Sizes that cannot be are refused; where sanlock finds none in what is said, it goes on without.
    fn read_geometry(&self) -> Result<u32, String> {
        let sector = match self.number('Z').unwrap_or(0) {
            0 => 0,
            512 => LeaseFlags::SECTOR_512.bits(),
            4096 => LeaseFlags::SECTOR_4K.bits(),
            _ => return Err(self.wrong_sizes()),
        };
        let align = match (self.text('A'), sector == LeaseFlags::SECTOR_4K.bits()) {
            (None, _) => 0,
            (Some("1M"), _) if sector != 0 => LeaseFlags::ALIGN_1M.bits(),
            (Some("2M"), true) => LeaseFlags::ALIGN_2M.bits(),
            (Some("4M"), true) => LeaseFlags::ALIGN_4M.bits(),
            (Some("8M"), true) => LeaseFlags::ALIGN_8M.bits(),
            (Some(_), _) => return Err(self.wrong_sizes()),
        };
        Ok(sector | align)
    }

    fn wrong_sizes(&self) -> String {
        let (sector, align) = (self.number('Z').unwrap_or(0), self.text('A').and_then(megabytes).unwrap_or(0));
        format!(
            "Invalid sector_size/align_size combination ({sector}/{align})\n\
             Use one of: 512/1M, 4096/1M, 4096/2M, 4096/4M, 4096/8M."
        )
    }

    /// What cannot be read is said, and left out.
    fn read_resource(&mut self, text: &str) {
        if self.resources.len() == MOST_RESOURCES {
            say!("resource args over max {MOST_RESOURCES}");
            return;
        }
        // Offsets stand behind paths; a version or a mode would stand where the next path does.
        match parse_resource(&in_bytes(text, |field| field >= 3 && field % 2 == 1)) {
            Ok(resource) => self.resources.push(resource),
            Err(fault) => say!("resource arg parse error {}\n", fault.code().number()),
        }
    }

    /// An option's value.
    pub(super) fn text(&self, letter: char) -> Option<&str> {
        self.values.get(&letter).map(String::as_str)
    }

    /// As `atoi` reads it: the digits at its front, and of a number that is too large the low half.
    pub(super) fn number(&self, letter: char) -> Option<i32> {
        let wide = decimal_as_atoll(self.text(letter)?.as_bytes());
        u32::try_from(wide & u64::from(u32::MAX)).ok().map(u32::cast_signed)
    }

    /// As an unsigned word of a request; 0 where it is not said.
    pub(super) fn count(&self, letter: char) -> u32 {
        self.number(letter).unwrap_or(0).cast_unsigned()
    }

    /// As `strtoull` reads it; 0 where it is not said.
    pub(super) fn wide(&self, letter: char) -> u64 {
        self.text(letter).and_then(|text| number(text.as_bytes(), 10)).unwrap_or(0)
    }

    /// In decimal, octal or hexadecimal.
    pub(super) fn any_base(&self, letter: char) -> u64 {
        number_any_base(self.text(letter).unwrap_or("").as_bytes())
    }

    /// Whether a switch is on.
    pub(super) fn is_on(&self, letter: char) -> bool {
        self.count(letter) != 0
    }

    /// `-s`; empty where it is not said.
    pub(super) fn lockspace(&self) -> Lockspace {
        parse_lockspace(&in_bytes(self.text('s').unwrap_or(""), |field| field == 3))
    }

    /// The lockspace of `-s` with `-Z` and `-A`, if its place is said.
    pub(super) fn placed_lockspace(&self) -> Option<Lockspace> {
        let found = self.lockspace();
        let flags = LockspaceFlags::from_bits(found.flags.bits() | self.geometry);
        Some(Lockspace { flags, ..found }).filter(|lockspace| !lockspace.disk.path.is_empty())
    }

    /// The name alone of `-s`, for what asks about a lockspace that is joined; `None` where there is none.
    pub(super) fn named_lockspace(&self) -> Option<Lockspace> {
        let name = self.lockspace().name;
        Some(Lockspace::new(name, 0, Disk::default())).filter(|lockspace| !lockspace.name.is_empty())
    }

    /// The first `-r` with `-Z` and `-A`, if its place is said.
    pub(super) fn placed_resource(&self) -> Option<Resource> {
        let mut resource = self.resources.first().filter(|resource| !resource.disks.is_empty())?.clone();
        resource.head.flags = LeaseFlags::from_bits(resource.head.flags.bits() | self.geometry);
        Some(resource)
    }

    /// `-x`; `None` where it is not said.
    pub(super) fn index(&self) -> Option<Rindex> {
        Some(parse_rindex(&in_bytes(self.text('x')?, |field| field == 2)))
    }

    /// `-e` of an index's action; empty where it is not said.
    pub(super) fn entry(&self) -> RindexEntry {
        let text = self.text('e').unwrap_or("");
        let in_bytes = text.split_once(':').and_then(|(name, at)| Some(format!("{name}:{}", megabytes(at)?)));
        parse_rindex_entry(in_bytes.as_deref().unwrap_or(text).as_bytes())
    }

    /// `-p`.
    pub(super) fn pid(&self) -> i32 {
        self.number('p').unwrap_or(-1)
    }
}

/// An offset with an M anywhere, in bytes; `None` for any other. What fits no offset is the largest, which is on no device:
/// sanlock's multiplication wraps around to places that are.
pub(super) fn megabytes(text: &str) -> Option<u64> {
    let count = number(text.as_bytes(), 10).filter(|_| text.contains('M'))?;
    Some(count.saturating_mul(MIB))
}

/// The offsets in MiB among the fields between colons, in bytes.
fn in_bytes(text: &str, is_offset: impl Fn(usize) -> bool) -> Vec<u8> {
    let converted = |(at, field): (usize, &[u8])| {
        let bytes = std::str::from_utf8(field).ok().filter(|_| is_offset(at)).and_then(megabytes);
        bytes.map_or_else(|| field.to_vec(), |bytes| bytes.to_string().into_bytes())
    };
    raw_fields(text.as_bytes()).into_iter().enumerate().map(converted).collect::<Vec<_>>().join(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_in_megabytes_and_sizes_are_read() {
        let words = ["-s", "LS:3:/dev/a:4M", "-r", "LS:R:/dev/b:2M:SH", "-Z", "4096", "-A", "8M", "-D", "-e", "0x1f"];
        let options = Options::parse(&words).unwrap();
        let lockspace = options.placed_lockspace().unwrap();
        assert_eq!((lockspace.host_id, lockspace.disk.offset), (3, 4 << 20));
        assert_eq!(lockspace.flags, LockspaceFlags::ALIGN_8M | LockspaceFlags::SECTOR_4K);
        let resource = options.placed_resource().unwrap();
        assert_eq!(resource.disks[0].offset, 2 << 20);
        assert_eq!(resource.head.flags, LeaseFlags::SHARED | LeaseFlags::ALIGN_8M | LeaseFlags::SECTOR_4K);
        // What joins and acquires is found by itself.
        assert_eq!(options.lockspace().flags, LockspaceFlags::NONE);
        assert_eq!(options.resources[0].head.flags, LeaseFlags::SHARED);
        assert_eq!((options.any_base('e'), options.pid(), options.is_on('O'), options.detail), (31, -1, false, true));
    }

    /// The offsets that are read from `-r` and `-s`.
    fn offsets(resource: &str, lockspace: &str) -> (Vec<u64>, u64) {
        let options = Options::parse(&["-r", resource, "-s", lockspace]).unwrap();
        let disks = options.resources.first().map(|r| r.disks.iter().map(|d| d.offset).collect());
        (disks.unwrap_or_default(), options.lockspace().disk.offset)
    }

    #[test]
    fn an_offset_is_in_megabytes_if_it_has_an_m_and_is_never_too_large() {
        assert_eq!(offsets("L:R:/d:5MB", "L:1:/d:5xM"), (vec![5 << 20], 5 << 20));
        assert_eq!(offsets("L:R:/M: 5M:7M", "L:1M:/M:5"), (vec![5 << 20], 5));
        assert_eq!(offsets("L:R:/d:5:/M:6M:SH", "L:1:/d:5:6M"), (vec![5, 6 << 20], 5));
        assert_eq!(offsets(r"L:R:/a\:M:2M", r"L:1:/a\:M:2M"), (vec![2 << 20], 2 << 20));
        assert_eq!(offsets("L:R:/d:M", "L:1:/d:M"), (vec![], 0));
        // 2^44 MiB is 2^64 bytes.
        for large in ["17592186044416M", "18446744073709551615M", "99999999999999999999M", "-1M"] {
            let (disks, lockspace) = offsets(&format!("L:R:/d:{large}"), &format!("L:1:/d:{large}"));
            assert_eq!((disks, lockspace), (vec![u64::MAX], i64::MAX.cast_unsigned()), "{large}");
        }
    }

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        let options = |value: &str| Options::parse(&["-p", value, "-i", value, "-e", value]).unwrap();
        for (text, number, wide, any_base) in [
            ("7abc", 7, 7, 7),
            ("+5", 5, 5, 5),
            (" 7", 7, 7, 7),
            ("x", 0, 0, 0),
            ("-2", -2, u64::MAX - 1, u64::MAX - 1),
            ("010", 10, 10, 8),
            ("0x10", 0, 0, 16),
            ("4294967297", 1, 4_294_967_297, 4_294_967_297),
            ("99999999999999999999", -1, u64::MAX, u64::MAX),
        ] {
            let read = options(text);
            assert_eq!((read.pid(), read.wide('i'), read.any_base('e')), (number, wide, any_base), "{text}");
        }
        assert_eq!(options("-3").count('p'), u32::MAX - 2);
    }

    #[test]
    fn an_index_and_its_entries_are_read() {
        let options = Options::parse(&["-x", "LS:/dev/a:3M", "-e", "R:5M", "-Z", "512", "-A", "1M"]).unwrap();
        let (index, entry) = (options.index().unwrap(), options.entry());
        assert_eq!((index.lockspace_name.as_bytes(), index.disk.offset), (b"LS".as_slice(), 3 << 20));
        assert_eq!(options.geometry, (LeaseFlags::ALIGN_1M | LeaseFlags::SECTOR_512).bits());
        assert_eq!((entry.name.as_bytes(), entry.offset), (b"R".as_slice(), 5 << 20));
        let unsaid = Options::parse(&["-e", ":77"]).unwrap();
        assert_eq!((unsaid.index(), unsaid.entry().name.is_empty(), unsaid.entry().offset), (None, true, 77));
        let entry = |text| Options::parse(&["-e", text]).unwrap().entry();
        let (colons, large) = (entry(r"a\:b:3M"), entry("R:18446744073709551615M"));
        assert_eq!((colons.name.as_bytes(), colons.offset), (br"a\".as_slice(), 0));
        assert_eq!(large.offset, i64::MAX.cast_unsigned());
    }

    #[test]
    fn complaints_are_sanlocks() {
        let complaint = |words: &[&str]| Options::parse(words).unwrap_err();
        assert_eq!(complaint(&["-sLS"]), "unknown option -sLS\nspace required before option value");
        assert_eq!(complaint(&["-é"]), "unknown option -é\nspace required before option value");
        assert_eq!(complaint(&["-p"]), "option 'p' requires arg");
        assert_eq!(complaint(&["-j"]), "option 'j' requires arg");
        assert_eq!(complaint(&["-j", "1"]), "unknown option: j");
        let sizes = |words: &[&str]| complaint(words).lines().next().unwrap().to_owned();
        assert_eq!(sizes(&["-Z", "512", "-A", "2M"]), "Invalid sector_size/align_size combination (512/2097152)");
        assert_eq!(sizes(&["-Z", "x", "-A", "1M"]), "Invalid sector_size/align_size combination (0/1048576)");
        // The ninth is said, and left out.
        assert_eq!(Options::parse(&["-r", "L:R:/d:0"].repeat(9)).unwrap().resources.len(), 8);
    }
}
