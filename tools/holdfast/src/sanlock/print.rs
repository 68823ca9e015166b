//! What scripts read: the lines of status, host_status, gets and renewal (spec B 5.1 to 5.4).

use holdfast_protocol::command::LockspaceFlags;
use holdfast_protocol::payload::{Host, Lockspace};
use holdfast_protocol::state::{StateBody, StateKind, StateRecord};
use holdfast_protocol::strings::{print_lockspace, print_resource};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn suffix(record: &StateRecord) -> &'static str {
    let list = record.text.get("list");
    match list.as_deref() {
        Some("add") => " ADD",
        Some("rem") => " REM",
        Some("orphan") => " ORPHAN",
        _ => "",
    }
}

/// The first line of a record of STATUS.
fn line(record: &StateRecord) -> String {
    match &record.body {
        StateBody::Lockspace(lockspace) => format!("s {}{}", text(&print_lockspace(lockspace)), suffix(record)),
        StateBody::Resource(resource) => {
            let mut resource = resource.clone();
            resource.head.lver = record.data64;
            format!("r {} p {}{}", text(&print_resource(&resource)), record.pid(), suffix(record))
        }
        StateBody::None => match record.kind {
            StateKind::Daemon => format!("daemon {}", record.name),
            StateKind::Client => format!("p {} {}", record.pid(), record.name),
            _ => format!("{} timestamp {}", record.data32, record.data64),
        },
    }
}

fn print(record: &StateRecord, detail: bool) {
    println!("{}", line(record));
    if detail {
        print_detail(record);
    }
}

fn print_detail(record: &StateRecord) {
    let raw = text(record.text.raw());
    for word in raw.trim_end_matches('\0').split(' ').filter(|word| !word.is_empty()) {
        println!("    {word}");
    }
}

/// STATUS: as it comes, or sorted by process (`p`) or lockspace (`s`).
pub(super) fn status(records: &[StateRecord], detail: bool, sort: Option<&str>) {
    let of = |kind: StateKind| records.iter().filter(move |r| r.kind == kind);
    let (clients, spaces) = (of(StateKind::Client), of(StateKind::Lockspace));
    let leases: Vec<&StateRecord> = of(StateKind::Resource).collect();
    let show = |record: &StateRecord| print(record, detail);
    let (nobody, somebody): (Vec<_>, Vec<_>) = clients.partition(|c| c.pid() == -1);
    let left = |wanted: &dyn Fn(&StateRecord) -> bool| {
        let rest: Vec<_> = leases.iter().filter(|lease| !wanted(lease)).collect();
        if !rest.is_empty() {
            println!("-");
        }
        rest.into_iter().for_each(|lease| show(lease));
    };
    match sort {
        Some("p") => {
            of(StateKind::Daemon).chain(nobody).chain(spaces).for_each(show);
            for client in &somebody {
                show(client);
                leases.iter().filter(|l| l.pid() == client.pid()).for_each(|l| show(l));
            }
            left(&|lease| somebody.iter().any(|c| c.pid() == lease.pid()));
        }
        Some("s") => {
            let spaces: Vec<_> = spaces.collect();
            of(StateKind::Daemon).chain(nobody).chain(somebody).for_each(show);
            for space in &spaces {
                show(space);
                leases.iter().filter(|l| is_in(l, space)).for_each(|l| show(l));
            }
            left(&|lease| spaces.iter().any(|space| is_in(lease, space)));
        }
        _ => records.iter().for_each(show),
    }
}

fn is_in(lease: &StateRecord, space: &StateRecord) -> bool {
    matches!(&lease.body, StateBody::Resource(resource) if resource.head.lockspace_name == space.name)
}

/// HOST_STATUS.
pub(super) fn hosts(records: &[StateRecord], detail: bool) {
    for record in records {
        println!("{} timestamp {}", record.data32, record.data64);
        if detail {
            print_detail(record);
        }
    }
}

/// RENEWAL.
pub(super) fn renewals(records: &[StateRecord]) {
    for record in records {
        println!("{}", text(record.text.raw()).trim_end_matches('\0'));
    }
}

/// A lockspace of GET_LOCKSPACES.
pub(super) fn space(lockspace: &Lockspace) {
    let state = match lockspace.flags {
        flags if flags.contains(LockspaceFlags::ADD) => "ADD ",
        flags if flags.contains(LockspaceFlags::REM) => "REM ",
        _ => "",
    };
    println!("s {} {state}", plain(lockspace));
}

/// A lockspace with its path as it is.
pub(super) fn plain(lockspace: &Lockspace) -> String {
    let Lockspace { name, host_id, disk, .. } = lockspace;
    format!("{name}:{host_id}:{}:{}", disk.path, disk.offset)
}

/// A host of GET_HOSTS.
pub(super) fn host(host: &Host) {
    let state = host.state().map_or("UNKNOWN", holdfast_protocol::payload::HostState::name);
    println!("h {} gen {} timestamp {} {state}", host.host_id, host.generation, host.timestamp);
}
