//! A file: on which file system it lies, and of NFS whether an I/O to a server that is gone ever ends.

use std::path::{Path, PathBuf};

use holdfast_daemon::config::Config;
use holdfast_io::timing::Timing;

use super::finding::Finding;
use super::machine::Machine;

/// Looks at the file system that a path lies on.
pub fn look(machine: &Machine, config: &Config, path: &str, is_remote: bool) -> Vec<Finding> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    let table = machine.proc.text("self/mountinfo").unwrap_or_default();
    let Some(mount) = Mount::of(&table, &real) else {
        return vec![Finding::warn(path, "it is not told on which file system it lies", "see with `findmnt`")];
    };
    let mut findings = vec![match (mount.is_nfs(), is_remote) {
        (true, _) | (_, true) => Finding::ok(path, format!("a file on {} ({})", mount.kind, mount.point.display())),
        (false, false) => Finding::warn(
            path,
            format!("a file on {} ({}), which other hosts do not see", mount.kind, mount.point.display()),
            "use a shared device, or NFS, unless this is a trial",
        ),
    }];
    if mount.has("ro") {
        findings.push(Finding::fail(path, "mounted read-only: no lease can be written", "mount it read-write"));
    }
    if mount.is_nfs() {
        findings.extend(nfs(config, path, &mount));
    }
    findings
}

/// A line of mountinfo.
#[derive(Debug)]
struct Mount {
    point: PathBuf,
    kind: String,
    options: Vec<String>,
}

impl Mount {
    /// The mount that a path lies on: the longest of those that lead to it, and of two on one place the later.
    fn of(table: &str, path: &Path) -> Option<Self> {
        let mounts = table.lines().filter_map(Self::parse).filter(|mount| path.starts_with(&mount.point));
        mounts.max_by_key(|mount| mount.point.as_os_str().len())
    }

    /// ID, parent, device, root, mount point, options, any number of tags, "-", kind, source, options of the file system.
    fn parse(line: &str) -> Option<Self> {
        let (head, tail) = line.split_once(" - ")?;
        let (head, tail): (Vec<&str>, Vec<&str>) = (head.split(' ').collect(), tail.split(' ').collect());
        let options = head.get(5)?.split(',').chain(tail.get(2)?.split(','));
        Some(Mount {
            point: PathBuf::from(unescaped(head.get(4)?)),
            kind: (*tail.first()?).to_owned(),
            options: options.map(str::to_owned).collect(),
        })
    }

    fn is_nfs(&self) -> bool {
        self.kind == "nfs" || self.kind == "nfs4"
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.options.iter().find_map(|o| o.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    }
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescaped(text: &str) -> String {
    ["\\040", "\\011", "\\012"]
        .iter()
        .zip([" ", "\t", "\n"])
        .fold(text.to_owned(), |t, (from, to)| t.replace(from, to))
        .replace("\\134", "\\")
}

fn nfs(config: &Config, path: &str, mount: &Mount) -> Vec<Finding> {
    let fails = Timing::new(config.io_timeout, config.fire_timeout).id_renewal_fail().as_secs();
    let (timeo, retrans) = (mount.number("timeo"), mount.number("retrans"));
    let words = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
    let told = format!("timeo {} tenths of a second, retrans {}", words(timeo), words(retrans));
    // Over TCP each attempt waits for longer by timeo; 2 and 600 are the kernel's own numbers.
    let attempts: u64 = (1..=retrans.unwrap_or(2) + 1).sum();
    let gives_up = timeo.unwrap_or(600).saturating_mul(attempts) / 10;
    let what = format!("{path} NFS");
    let advice = format!(
        "for a mount that carries leases alone: soft,timeo=50,retrans=1, so that I/O fails before {fails} s are over"
    );
    let mut findings = vec![if mount.has("hard") || !(mount.has("soft") || mount.has("softerr")) {
        Finding::warn(
            &what,
            format!(
                "hard ({told}): I/O to a server that is gone never ends; what hangs in it cannot be ended, and the watchdog resets this host"
            ),
            advice,
        )
    } else if gives_up >= fails {
        Finding::warn(
            &what,
            format!("soft ({told}): I/O fails after {gives_up} s, when the lease is long lost"),
            advice,
        )
    } else {
        Finding::ok(&what, format!("soft ({told}): I/O fails after {gives_up} s; the lease is lost after {fails} s"))
    }];
    if mount.has("fsc") {
        findings.push(Finding::warn(
            &what,
            "fsc: what is read may be kept on this host",
            "mount it without fsc; leases are read past the cache, images may not be",
        ));
    }
    if mount.has("nolock") || mount.has("local_lock=all") || mount.has("local_lock=posix") {
        findings.push(Finding::ok(&what, "locks are this host's own; leases need none of a server"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::finding::tests::about;
    use super::super::machine::tests::machine;
    use super::*;
    use holdfast_daemon::config::ConfigFile;

    fn found(options: &str) -> Vec<Finding> {
        let file = ConfigFile { host_name: Some("a".into()), watchdog: Some("none".into()), ..ConfigFile::default() };
        let table = format!(
            "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 21 0:50 / /no\\040where rw,relatime shared:3 - nfs4 server:/x {options}"
        );
        let (_root, machine) = machine(&[("proc/self/mountinfo", &table)]);
        look(&machine, &file.decide().unwrap(), "/no where/leases", true)
    }

    #[test]
    fn a_hard_mount_and_one_that_gives_up_too_late_are_warnings() {
        assert_eq!(about(&found("rw,vers=4.2,hard,timeo=600,retrans=2"), "NFS: hard").0, Grade::Warn);
        // 60 s, then 120, then 180.
        let (grade, line) = about(&found("rw,soft,timeo=600,retrans=2"), "NFS: soft");
        assert!(grade == Grade::Warn && line.contains("I/O fails after 360 s, when the lease is long lost"), "{line}");
        let (grade, line) = about(&found("rw,soft,timeo=50,retrans=1"), "NFS: soft");
        assert!(grade == Grade::Ok && line.contains("I/O fails after 15 s; the lease is lost after 80 s"), "{line}");
    }

    #[test]
    fn read_only_fails_and_a_local_cache_is_named() {
        let findings = found("ro,soft,timeo=50,retrans=1,fsc,local_lock=all");
        assert_eq!(about(&findings, "mounted read-only").0, Grade::Fail);
        assert_eq!(about(&findings, "fsc:").0, Grade::Warn);
        assert_eq!(about(&findings, "locks are this host's own").0, Grade::Ok);
        assert_eq!(about(&findings, "a file on nfs4 (/no where)").0, Grade::Ok);
    }

    #[test]
    fn a_file_of_this_host_alone_is_a_warning() {
        let (_root, machine) = machine(&[("proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n")]);
        let file = ConfigFile { host_name: Some("a".into()), watchdog: Some("none".into()), ..ConfigFile::default() };
        let config = file.decide().unwrap();
        assert_eq!(about(&look(&machine, &config, "/nowhere/leases", false), "a file on ext4 (/)").0, Grade::Warn);
        assert_eq!(about(&look(&Machine::at(Path::new("/nowhere")), &config, "/x", false), "not told").0, Grade::Warn);
    }
}
