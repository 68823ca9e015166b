//! sanlock's options: two characters each, the value a word of its own (spec B 1).

use std::collections::BTreeMap;

use holdfast_protocol::command::{LeaseFlags, LockspaceFlags};
use holdfast_protocol::payload::{Lockspace, Resource, Rindex, RindexEntry};
use holdfast_protocol::strings::{parse_lockspace, parse_resource, parse_rindex, parse_rindex_entry};

/// Letters with a value.
const LETTERS: &str = "QRHLSFatwhlobnmpigedfsrxUGOPuzAZ";
/// Resources of one command line.
const MOST_RESOURCES: usize = 8;

/// A command line.
#[derive(Debug, Default)]
pub(super) struct Options {
    values: BTreeMap<char, String>,
    /// `-D`.
    pub(super) detail: bool,
    /// Each `-r`.
    pub(super) resources: Vec<Resource>,
    /// What `-c` says, up to the end of the line.
    pub(super) command: Vec<String>,
    geometry: u32,
}

impl Options {
    /// Reads the options; a complaint, as sanlock prints it.
    pub(super) fn parse(words: &[&str]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut words = words.iter();
        let mut strings = Vec::new();
        while let Some(word) = words.next() {
            let letter = match word.chars().collect::<Vec<_>>().as_slice() {
                ['-', letter] => *letter,
                _ => return Err(format!("unknown option {word}\nspace required before option value")),
            };
            if letter == 'D' {
                options.detail = true;
                continue;
            }
            if letter == 'c' {
                options.command = words.by_ref().map(|w| (*w).to_owned()).collect();
                if options.command.is_empty() {
                    return Err("option 'c' requires arg".to_owned());
                }
                break;
            }
            if !LETTERS.contains(letter) {
                return Err(format!("unknown option: {letter}"));
            }
            let Some(value) = words.next() else { return Err(format!("option '{letter}' requires arg")) };
            if letter == 'r' {
                strings.push(*value);
            } else {
                options.values.insert(letter, (*value).to_owned());
            }
        }
        options.geometry = options.geometry()?;
        options.read_resources(&strings)?;
        Ok(options)
    }

    fn geometry(&self) -> Result<u32, String> {
        let sector = match self.text('Z') {
            None => 0,
            Some("512") => LeaseFlags::SECTOR_512.bits(),
            Some("4096") => LeaseFlags::SECTOR_4K.bits(),
            Some(_) => return Err(self.wrong_sizes()),
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
        let sector = self.text('Z').unwrap_or("0");
        let align = self.text('A').and_then(|a| a.strip_suffix('M')).and_then(|n| n.parse::<u64>().ok());
        let align = align.map_or(0, |n| n.saturating_mul(1 << 20));
        format!(
            "Invalid sector_size/align_size combination ({sector}/{align})\n\
             Use one of: 512/1M, 4096/1M, 4096/2M, 4096/4M, 4096/8M."
        )
    }

    fn read_resources(&mut self, strings: &[&str]) -> Result<(), String> {
        for string in strings {
            if self.resources.len() == MOST_RESOURCES {
                return Err(format!("resource args over max {MOST_RESOURCES}"));
            }
            match parse_resource(in_bytes(string).as_bytes()) {
                Ok(mut resource) => {
                    resource.head.flags = LeaseFlags::from_bits(resource.head.flags.bits() | self.geometry);
                    self.resources.push(resource);
                }
                Err(fault) => println!("resource arg parse error {}\n", fault.code().number()),
            }
        }
        Ok(())
    }

    /// An option's value.
    pub(super) fn text(&self, letter: char) -> Option<&str> {
        self.values.get(&letter).map(String::as_str)
    }

    /// As a number: what stands before the first character that is no digit, as C has it.
    pub(super) fn number(&self, letter: char) -> Option<i64> {
        let text = self.text(letter)?.trim_start();
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        Some(sign * digits.get(..end).and_then(|d| d.parse().ok()).unwrap_or(0))
    }

    /// As a count; 0 where it is not said.
    pub(super) fn count(&self, letter: char) -> u32 {
        self.number(letter).map_or(0, |n| u32::try_from(n).unwrap_or(0))
    }

    /// In decimal, octal or hexadecimal.
    pub(super) fn any_base(&self, letter: char) -> u64 {
        let text = self.text(letter).unwrap_or("");
        let parsed = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
            (Some(hex), _) => u64::from_str_radix(hex, 16),
            (None, Some(octal)) if !octal.is_empty() => u64::from_str_radix(octal, 8),
            _ => text.parse(),
        };
        parsed.unwrap_or(0)
    }

    /// Whether a switch is on.
    pub(super) fn is_on(&self, letter: char) -> bool {
        self.number(letter).is_some_and(|n| n != 0)
    }

    /// `-s`; empty where it is not said.
    pub(super) fn lockspace(&self) -> Lockspace {
        let found = parse_lockspace(in_bytes(self.text('s').unwrap_or("")).as_bytes());
        let flags = LockspaceFlags::from_bits(found.flags.bits() | self.geometry);
        Lockspace { flags, ..found }
    }

    /// `-x`; `None` where it is not said.
    pub(super) fn index(&self) -> Option<Rindex> {
        let found = parse_rindex(in_bytes_at(2, self.text('x')?).as_bytes());
        Some(Rindex { flags: LockspaceFlags::from_bits(self.geometry), ..found })
    }

    /// `-e` of an index's action; empty where it is not said.
    pub(super) fn entry(&self) -> RindexEntry {
        parse_rindex_entry(in_bytes_at(1, self.text('e').unwrap_or("")).as_bytes())
    }

    /// Whether `-s` is there.
    pub(super) fn has_lockspace(&self) -> bool {
        self.text('s').is_some_and(|text| !text.is_empty())
    }

    /// `-p`.
    pub(super) fn pid(&self) -> i32 {
        self.number('p').map_or(-1, |n| i32::try_from(n).unwrap_or(-1))
    }
}

/// The offset of a lockspace or a resource, if it is in MiB, in bytes.
fn in_bytes(text: &str) -> String {
    in_bytes_at(3, text)
}

/// An offset in MiB, in a field between colons counted from 0, in bytes.
fn in_bytes_at(field: usize, text: &str) -> String {
    let mut fields: Vec<String> = text.split(':').map(str::to_owned).collect();
    if let Some(offset) = fields.get_mut(field)
        && let Some(megabytes) = offset.strip_suffix('M').and_then(|n| n.parse::<u64>().ok())
    {
        *offset = megabytes.saturating_mul(1 << 20).to_string();
    }
    fields.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_in_megabytes_and_sizes_are_read() {
        let words = ["-s", "LS:3:/dev/a:4M", "-r", "LS:R:/dev/b:2M:SH", "-Z", "4096", "-A", "8M", "-D", "-e", "0x1f"];
        let options = Options::parse(&words).unwrap();
        let lockspace = options.lockspace();
        assert_eq!((lockspace.host_id, lockspace.disk.offset), (3, 4 << 20));
        assert_eq!(lockspace.flags, LockspaceFlags::ALIGN_8M | LockspaceFlags::SECTOR_4K);
        assert_eq!(options.resources[0].disks[0].offset, 2 << 20);
        assert!(options.resources[0].head.flags.contains(LeaseFlags::SHARED) && options.detail);
        assert_eq!((options.any_base('e'), options.pid(), options.is_on('O')), (31, -1, false));
    }

    #[test]
    fn an_index_and_its_entries_are_read() {
        let options = Options::parse(&["-x", "LS:/dev/a:3M", "-e", "R:5M", "-Z", "512", "-A", "1M"]).unwrap();
        let (index, entry) = (options.index().unwrap(), options.entry());
        assert_eq!((index.lockspace_name.as_bytes(), index.disk.offset), (b"LS".as_slice(), 3 << 20));
        assert_eq!(index.flags, LockspaceFlags::ALIGN_1M | LockspaceFlags::SECTOR_512);
        assert_eq!((entry.name.as_bytes(), entry.offset), (b"R".as_slice(), 5 << 20));
        let unsaid = Options::parse(&["-e", ":77"]).unwrap();
        assert_eq!((unsaid.index(), unsaid.entry().name.is_empty(), unsaid.entry().offset), (None, true, 77));
    }

    #[test]
    fn complaints_are_sanlocks() {
        let complaint = |words: &[&str]| Options::parse(words).unwrap_err();
        assert_eq!(complaint(&["-sLS"]), "unknown option -sLS\nspace required before option value");
        assert_eq!(complaint(&["-p"]), "option 'p' requires arg");
        assert_eq!(complaint(&["-j", "1"]), "unknown option: j");
        assert!(
            complaint(&["-Z", "512", "-A", "2M"])
                .starts_with("Invalid sector_size/align_size combination (512/2097152)")
        );
        assert_eq!(complaint(&["-r", "L:R:/d:0"].repeat(9)), "resource args over max 8");
    }
}
