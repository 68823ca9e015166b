//! Text: lease strings as sanlock reads them, the same as a person types them, the state file, the configuration.

use std::fs;

use holdfast::units_arg::{self, LockspaceArg, Place, ResourceArg, Stretch};
use holdfast_daemon::config::{ConfigError, ConfigFile};
use holdfast_daemon::state_file::{FILE_NAME, StateFile};
use holdfast_io::timing::Timing;
use holdfast_protocol::payload::MAX_DISKS;
use holdfast_protocol::strings::{self, print_lockspace, print_resource, print_state};
use holdfast_protocol::{LeaseFlags, Lockspace, Resource, arguments};

use super::one_line;

/// Whether a printed resource says all of it: sanlock's strings escape nothing in names and no backslash in paths.
fn sayable(resource: &Resource) -> bool {
    let name = |bytes: &[u8]| !bytes.iter().any(|b| matches!(b, b':' | b'\\'));
    let head = &resource.head;
    name(head.lockspace_name.as_bytes())
        && name(head.name.as_bytes())
        && !resource.disks.is_empty()
        && resource.disks.iter().all(|disk| !disk.path.as_bytes().contains(&b'\\'))
}

/// What a resource is after it has been printed: its version is always said.
fn as_printed(resource: &Resource) -> Resource {
    let mut printed = resource.clone();
    if printed.head.flags.contains(LeaseFlags::SHARED) {
        printed.head.flags = LeaseFlags::SHARED;
        printed.head.lver = 0;
    } else {
        printed.head.flags = LeaseFlags::LVER;
    }
    printed
}

/// RESOURCE, LOCKSPACE and STATE strings.
pub fn lease_strings(data: &[u8]) {
    match strings::parse_resource(data) {
        Err(fault) => one_line(&fault),
        Ok(resource) => {
            assert!(resource.disks.len() <= MAX_DISKS);
            if sayable(&resource) {
                assert_eq!(strings::parse_resource(&print_resource(&resource)), Ok(as_printed(&resource)));
            }
        }
    }
    let lockspace = strings::parse_lockspace(data);
    if lockspace_sayable(&lockspace) && !data.contains(&0) {
        assert_eq!(strings::parse_lockspace(&print_lockspace(&lockspace)), lockspace);
    }
    match strings::parse_state(data) {
        Err(fault) => one_line(&fault),
        Ok(resources) if resources.iter().all(sayable) => {
            let again: Vec<_> = resources.iter().map(as_printed).collect();
            assert_eq!(strings::parse_state(&print_state(&resources)), Ok(again));
        }
        Ok(_) => {}
    }
    assert!(strings::export_path(data).len() <= 2 * data.len());
    assert!(strings::import_path(data).len() <= data.len());
}

fn lockspace_sayable(lockspace: &Lockspace) -> bool {
    let number = |n: u64| i64::try_from(n).is_ok();
    !lockspace.name.as_bytes().iter().any(|b| matches!(b, b':' | b'\\'))
        && !lockspace.disk.path.as_bytes().contains(&b'\\')
        && number(lockspace.host_id)
        && number(lockspace.disk.offset)
}

/// Arguments as a person types them: what is accepted, sanlock's own reading of it says as well.
pub fn arguments(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match arguments::parse_resource(&text) {
        Err(error) => one_line(&error),
        Ok(resource) if sayable(&resource) => {
            assert_eq!(strings::parse_resource(&print_resource(&resource)), Ok(as_printed(&resource)));
        }
        Ok(_) => {}
    }
    match arguments::parse_lockspace(&text) {
        Err(error) => one_line(&error),
        Ok(lockspace) if lockspace_sayable(&lockspace) => {
            assert_eq!(strings::parse_lockspace(&print_lockspace(&lockspace)), lockspace);
        }
        Ok(_) => {}
    }
    if let (Ok(one), Ok(other)) = (arguments::parse_size(&text), units_arg::bytes(&text)) {
        assert_eq!(one, other, "{text:?} means one size");
    }
    let _ = text.parse::<Place>().map_err(|error| one_line(&error));
    let _ = text.parse::<Stretch>().map_err(|error| one_line(&error));
    let _ = text.parse::<LockspaceArg>().map_err(|error| one_line(&error));
    let _ = text.parse::<ResourceArg>().map_err(|error| one_line(&error));
    let _ = units_arg::sector(&text).map_err(|error| one_line(&error));
    let _ = units_arg::align(&text).map_err(|error| one_line(&error));
}

/// The daemon's state file.
pub fn state_file(data: &[u8]) {
    let Some(dir) = super::scratch() else { return };
    if fs::write(dir.path().join(FILE_NAME), data).is_err() {
        return;
    }
    match StateFile::read(dir.path()) {
        Err(error) => one_line(&error),
        Ok(None) => unreachable!("the file is there"),
        Ok(Some(state)) => {
            let written = state.write(dir.path());
            assert!(written.is_ok(), "{written:?}");
            let again = StateFile::read(dir.path());
            assert!(matches!(&again, Ok(Some(same)) if *same == state), "{again:?}");
        }
    }
}

/// The configuration file.
pub fn config(data: &[u8]) {
    let Some(dir) = super::scratch() else { return };
    let path = dir.path().join("holdfast.toml");
    if fs::write(&path, data).is_err() {
        return;
    }
    match ConfigFile::read(Some(&path)).and_then(ConfigFile::decide) {
        // What toml says of a file shows the lines concerned, below each other.
        Err(ConfigError::Parse { source, .. }) => assert!(!source.to_string().is_empty()),
        Err(error) => one_line(&error),
        Ok(config) => {
            assert!(config.kill_grace <= Timing::longest_kill_grace(config.fire_timeout));
            assert!(config.asked_grace.is_none_or(|asked| asked > config.kill_grace));
            assert!(!config.host_name.is_empty());
        }
    }
}
