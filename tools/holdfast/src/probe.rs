//! What else may live on a device: file systems, partition tables, RAID members, as libblkid knows them.
//!
//! Asked through util-linux's `blkid` in low-level mode (`-p`, which reads the device and no cache), once for a stretch
//! and once for the whole device: a RAID superblock or a GPT backup may stand far from where we want to write.
//! Source: blkid(8); exit status 0 found, 2 nothing found, 8 several signatures that contradict each other.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::process::{Command, Output, Stdio};

/// A signature that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `ext4`, `LVM2_member`, `gpt`, ..; `several that contradict each other` where blkid cannot decide.
    pub kind: String,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Its UUID, if it has one.
    pub uuid: Option<String>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} signature", self.kind)?;
        if let Some(label) = &self.label {
            write!(f, ", label {label:?}")?;
        }
        if let Some(uuid) = &self.uuid {
            write!(f, ", UUID {uuid}")?;
        }
        Ok(())
    }
}

/// Why nothing can be said about foreign signatures.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It cannot be run.
    #[error(
        "cannot look for file systems and other foreign signatures on {path}: blkid (package util-linux) does not run: {source}"
    )]
    NotRun {
        /// The device.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The device cannot be read; blkid itself would call that "nothing found".
    #[error("cannot look for foreign signatures on {path}: {source}")]
    Unreadable {
        /// The device.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It ran and failed.
    #[error("cannot look for foreign signatures on {path}: blkid ended with {status}: {said}")]
    Failed {
        /// The device.
        path: String,
        /// Its exit status.
        status: String,
        /// What it said.
        said: String,
    },
}

/// Where `blkid` is looked for, in this order: in PATH (which `HOLDFAST_BLKID` may replace), then where distributions
/// keep it, since an ordinary user's PATH often lacks sbin.
const PROGRAMS: [&str; 3] = ["blkid", "/usr/sbin/blkid", "/sbin/blkid"];

/// A part of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes from its start.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Looks at a part of the device, or at all of it.
///
/// # Errors
/// [`ProbeError`]: no answer, which is not "nothing there".
pub fn signature(path: &str, part: Option<Part>) -> Result<Option<Signature>, ProbeError> {
    std::fs::File::open(path).map_err(|source| ProbeError::Unreadable { path: path.into(), source })?;
    let mut args = vec!["-p".into(), "-o".into(), "export".into()];
    if let Some(part) = part {
        args.extend(["-O".into(), part.offset.to_string(), "-S".into(), part.length.to_string()]);
    }
    // "--" keeps a path that begins with a dash from being an option.
    args.extend(["--".into(), path.to_string()]);
    answer(path, run(&args).map_err(|source| ProbeError::NotRun { path: path.into(), source })?)
}

fn run(args: &[String]) -> io::Result<Output> {
    let named = std::env::var("HOLDFAST_BLKID").ok();
    let programs: Vec<&str> = named.as_deref().map_or_else(|| PROGRAMS.to_vec(), |one| vec![one]);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for program in programs {
        match Command::new(program).args(args).env("LC_ALL", "C").stdin(Stdio::null()).output() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => last = e,
            other => return other,
        }
    }
    Err(last)
}

fn answer(path: &str, output: Output) -> Result<Option<Signature>, ProbeError> {
    match output.status.code() {
        Some(0) => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        Some(2) if output.stderr.is_empty() => Ok(None),
        Some(8) => Ok(Some(Signature { kind: "several contradicting".into(), label: None, uuid: None })),
        _ => Err(ProbeError::Failed {
            path: path.into(),
            status: output.status.to_string(),
            said: String::from_utf8_lossy(&output.stderr).trim().into(),
        }),
    }
}

/// The signature in `KEY=value` lines. A partition without a file system gives PART_ENTRY_ lines alone: no signature.
fn parse(export: &str) -> Option<Signature> {
    let lines = export.lines().filter_map(|line| line.split_once('='));
    let fields: BTreeMap<&str, String> = lines.map(|(key, value)| (key, value.replace('\\', ""))).collect();
    let kind = fields.get("TYPE").or_else(|| fields.get("PTTYPE"))?;
    let uuid = fields.get("UUID").or_else(|| fields.get("PTUUID"));
    Some(Signature { kind: kind.clone(), label: fields.get("LABEL").cloned(), uuid: uuid.cloned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_file_system_is_named_with_its_label() {
        let found = parse("DEVNAME=/dev/x\nLABEL=data\\ one\nUUID=12-34\nTYPE=ext4\nUSAGE=filesystem\n").unwrap();
        assert_eq!(found.to_string(), r#"ext4 signature, label "data one", UUID 12-34"#);
    }

    #[test]
    fn an_empty_partition_has_no_signature() {
        assert_eq!(parse("DEVNAME=/dev/x1\nPART_ENTRY_SCHEME=gpt\nPART_ENTRY_NUMBER=1\n"), None);
        assert_eq!(parse("PTTYPE=gpt\nPTUUID=ab\n").unwrap().kind, "gpt");
    }

    #[test]
    fn a_signature_is_found_at_its_place_and_not_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        // The start of a swap area: its magic stands in the last 10 bytes of the first page.
        file.write_all_at(b"SWAPSPACE2", (1 << 20) + 4086).unwrap();
        file.write_all_at(&[1, 0, 0, 0, 0xFF, 0, 0, 0], (1 << 20) + 1024).unwrap();
        let path = path.to_str().unwrap();
        let part = |offset, length| Some(Part { offset, length });
        assert_eq!(signature(path, part(1 << 20, 1 << 20)).unwrap().map(|s| s.kind), Some("swap".into()));
        assert_eq!(signature(path, part(2 << 20, 1 << 20)).unwrap(), None);
    }

    #[test]
    fn a_path_that_is_not_there_is_no_empty_device() {
        assert!(matches!(signature("/nonexistent/disk", None), Err(ProbeError::Unreadable { .. })));
    }
}
