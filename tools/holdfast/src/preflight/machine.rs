//! Where everything about this machine is read: the real `/sys`, `/proc` and `/etc`, or a tree that a test made up.

use std::path::Path;
use std::process::Command;

use holdfast_daemon::sysfs::Sysfs;

/// A machine as its kernel and its files tell of it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/sys`.
    pub sys: Sysfs,
    /// `/proc`.
    pub proc: Sysfs,
    /// `/etc`.
    pub etc: Sysfs,
    /// What device-mapper says of a device, if it can be asked.
    pub dm_table: fn(name: &str) -> Result<String, String>,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { dm_table: ask_dmsetup, ..Machine::at(Path::new("/")) }
    }
}

impl Machine {
    /// The machine below this directory, of whose device-mapper nothing is known.
    pub fn at(root: &Path) -> Self {
        let at = |name: &str| Sysfs::at(&root.join(name));
        Machine { sys: at("sys"), proc: at("proc"), etc: at("etc"), dm_table: |_| Err("it is not asked".to_owned()) }
    }
}

/// The kernel tells a table to none but root, and by ioctl alone: `dmsetup` asks it.
fn ask_dmsetup(name: &str) -> Result<String, String> {
    let mut latest = String::new();
    for program in ["dmsetup", "/usr/sbin/dmsetup", "/sbin/dmsetup"] {
        match Command::new(program).args(["table", name]).output() {
            Ok(output) if output.status.success() => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => latest = format!("{program} does not run: {error}"),
        }
    }
    Err(latest)
}

/// Trees for tests.
#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use super::Machine;

    /// A machine whose files have this content. `TARGET -> DIRECTORY` as a path makes a link.
    pub fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(root.path().join(target), path).unwrap(),
                None => std::fs::write(path, format!("{content}\n")).unwrap(),
            }
        }
        let machine = Machine::at(root.path());
        (root, machine)
    }

    #[test]
    fn a_made_up_machine_is_read_through_its_links() {
        let (_root, machine) = machine(&[("sys/devices/a/size", "7"), ("sys/class/b", "-> sys/devices/a")]);
        assert_eq!(machine.sys.number("class/b/size"), Some(7));
        assert_eq!(machine.sys.place(Path::new("class/b")).unwrap().file_name().unwrap(), "a");
        assert!((machine.dm_table)("x").is_err());
    }
}
