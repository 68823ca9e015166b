//! A client that is not root gets from a daemon that is nothing that it could not have itself: no file, and no program run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use harness::{AT_MOST, Area, Guest, Machine, must_be_root, wait_until};
use nix::unistd::User;

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_client_that_is_not_root_has_its_own_files_and_its_killpath_runs_as_itself() {
    must_be_root();
    let nobody = User::from_name("nobody").unwrap().expect("no user nobody").uid;
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    allow(&machine.path(""), 0o711);
    let daemon = machine.daemon("first", "--watchdog none -U nobody");
    daemon.format(&area);
    daemon.join(&area, 1);

    // The daemon has it open, and does not open it for a stranger.
    let beats_in = machine.path("");
    let stranger = Guest::start(&mut machine, &area, "one", &format!("--user {nobody}"), &beats_in);
    wait_until("the stranger is refused", AT_MOST, || stranger.said("refused").is_some());
    daemon.wait_said(&format!("by the rights of user {nobody}"), AT_MOST);

    allow(disk.path(), 0o711);
    allow(&area.path, 0o666);
    let (program, told) = (machine.path("program"), machine.path("told"));
    fs::create_dir(&told).unwrap();
    allow(&told, 0o777);
    fs::write(&program, format!("#!/bin/sh\nid -u >{0}/it && id -G >>{0}/it && mv {0}/it {0}/as\n", told.display()))
        .unwrap();
    allow(&program, 0o755);
    let options = format!("--user {nobody} --killpath {}", program.display());
    let _guest = Guest::holding(&mut machine, &area, "one", &options);

    // Nothing of the area can be read any more: the lockspace is lost in time, and the guest's program is run.
    fs::File::options().write(true).open(&area.path).unwrap().set_len(0).unwrap();
    let as_whom = told.join("as");
    wait_until("its killpath is run", AT_MOST + Duration::from_secs(10), || as_whom.exists());
    assert_eq!(fs::read_to_string(as_whom).unwrap(), format!("{nobody}\n{nobody}\n"));
}
