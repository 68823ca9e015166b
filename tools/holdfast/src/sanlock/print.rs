//! What scripts read: the lines of status, host_status, gets and renewal (spec B 5.1 to 5.4).

use holdfast_protocol::command::LockspaceFlags;
use holdfast_protocol::payload::{Host, HostState, Lockspace, Resource};
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
            // Without a sign, as sanlock has it: what nobody holds is held by 4294967295.
            format!("r {} p {}{}", text(&print_resource(&resource)), record.data32, suffix(record))
        }
        StateBody::None => match record.kind {
            StateKind::Daemon => format!("daemon {}", record.name),
            StateKind::Client => format!("p {} {}", record.pid(), record.name),
            _ => format!("{} timestamp {}", record.data32, record.data64),
        },
    }
}

fn print(record: &StateRecord, detail: bool) {
    say!("{}", line(record));
    if detail {
        print_detail(record);
    }
}

fn print_detail(record: &StateRecord) {
    let raw = text(record.text.raw());
    for word in raw.trim_end_matches('\0').split(' ').filter(|word| !word.is_empty()) {
        say!("    {word}");
    }
}

/// STATUS: as it comes, or sorted by process (`p`) or lockspace (`s`), whatever follows these letters.
pub(super) fn status(records: &[StateRecord], detail: bool, sort: Option<&str>) {
    let show = |record: &StateRecord| print(record, detail);
    in_order(records, sort.and_then(|text| text.chars().next())).into_iter().for_each(|next| match next {
        Next::Record(record) => show(record),
        Next::Rest => say!("-"),
    });
}

/// What is printed next.
#[derive(Debug, PartialEq)]
enum Next<'a> {
    Record(&'a StateRecord),
    /// The line before leases that belong to nothing that was listed.
    Rest,
}

/// Who asks or helps comes first; then everybody, or every lockspace, with its leases, each lease once.
fn in_order(records: &[StateRecord], sort: Option<char>) -> Vec<Next<'_>> {
    type Owns = fn(&StateRecord, &StateRecord) -> bool;
    let of = |kind: StateKind| records.iter().filter(move |record| record.kind == kind);
    let (nobody, clients): (Vec<_>, Vec<_>) = of(StateKind::Client).partition(|client| client.pid() == -1);
    let spaces: Vec<_> = of(StateKind::Lockspace).collect();
    let (before, owners, owns): (_, _, Owns) = match sort {
        Some('p') => (spaces, clients, |client, lease| lease.pid() == client.pid()),
        Some('s') => (clients, spaces, |space, lease| is_in(lease, space)),
        _ => return records.iter().map(Next::Record).collect(),
    };
    let mut ordered: Vec<_> = of(StateKind::Daemon).chain(nobody).chain(before).map(Next::Record).collect();
    let mut leases: Vec<_> = of(StateKind::Resource).collect();
    for owner in owners {
        let (its, others): (Vec<_>, Vec<_>) = leases.into_iter().partition(|lease| owns(owner, lease));
        ordered.push(Next::Record(owner));
        ordered.extend(its.into_iter().map(Next::Record));
        leases = others;
    }
    if !leases.is_empty() {
        ordered.push(Next::Rest);
    }
    ordered.extend(leases.into_iter().map(Next::Record));
    ordered
}

fn is_in(lease: &StateRecord, space: &StateRecord) -> bool {
    matches!(&lease.body, StateBody::Resource(resource) if resource.head.lockspace_name == space.name)
}

/// HOST_STATUS.
pub(super) fn hosts(records: &[StateRecord], detail: bool) {
    for record in records {
        say!("{} timestamp {}", record.data32, record.data64);
        if detail {
            print_detail(record);
        }
    }
}

/// RENEWAL.
pub(super) fn renewals(records: &[StateRecord]) {
    for record in records {
        say!("{}", text(record.text.raw()).trim_end_matches('\0'));
    }
}

/// A lockspace of GET_LOCKSPACES.
pub(super) fn space(lockspace: &Lockspace) {
    let state = |flag, word| if lockspace.flags.contains(flag) { word } else { "" };
    let (add, rem) = (state(LockspaceFlags::ADD, "ADD "), state(LockspaceFlags::REM, "REM "));
    say!("s {} {add}{rem}", plain(lockspace));
}

/// A lockspace with its path as it is.
pub(super) fn plain(lockspace: &Lockspace) -> String {
    let Lockspace { name, host_id, disk, .. } = lockspace;
    format!("{name}:{host_id}:{}:{}", disk.path, disk.offset)
}

/// A host of GET_HOSTS.
pub(super) fn host(host: &Host) {
    let state = host.state().map_or("ERROR", HostState::name);
    say!("h {} gen {} timestamp {} {state}", host.host_id, host.generation, host.timestamp);
}

/// A host of READ_RESOURCE_OWNERS: one that shares a lease has taken it at no time.
pub(super) fn owner(host: &Host) {
    match host.timestamp {
        0 => say!("h {} gen {}", host.host_id, host.generation),
        timestamp => say!("h {} gen {} timestamp {timestamp}", host.host_id, host.generation),
    }
}

/// A lease with its paths as they are, and its version, which is 0 where it is shared.
pub(super) fn by_version(resource: &Resource) -> String {
    let disks = resource.disks.iter().map(|disk| format!(":{}:{}", disk.path, disk.offset));
    let head = &resource.head;
    format!("{}:{}{}:{}", head.lockspace_name, head.name, disks.collect::<String>(), head.lver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_protocol::payload::{Disk, ResourceHead};
    use holdfast_protocol::state::StateText;
    use holdfast_protocol::text::Name48;

    fn name(text: &str) -> Name48 {
        Name48::cut(text.as_bytes())
    }

    fn client(pid: i32) -> StateRecord {
        StateRecord::client(pid, name("c"), StateText::default())
    }

    fn lease(space: &str, resource: &str, pid: i32) -> StateRecord {
        let head = ResourceHead::named(name(space), name(resource));
        StateRecord::resource(pid, 1, Resource::new(head, vec![Disk::default()]), StateText::default())
    }

    /// What is told of each record, in short: what it is, and of a lease its name.
    fn told(records: &[StateRecord], sort: char) -> Vec<String> {
        let short = |next: &Next<'_>| match next {
            Next::Rest => "-".to_owned(),
            Next::Record(record) => match &record.body {
                StateBody::Resource(resource) => resource.head.name.to_string(),
                _ => format!("p{}", record.pid()),
            },
        };
        in_order(records, Some(sort)).iter().map(short).collect()
    }

    #[test]
    fn a_lease_is_listed_once_and_those_of_nobody_come_last() {
        let records = [
            client(-1),
            client(7),
            client(9),
            client(7),
            lease("A", "r1", 9),
            lease("B", "r2", 7),
            lease("A", "r3", -1),
            lease("A", "r4", 7),
        ];
        assert_eq!(told(&records, 'p'), ["p-1", "p7", "r2", "r4", "p9", "r1", "p7", "-", "r3"]);
        assert_eq!(told(&records, 's'), ["p-1", "p7", "p9", "p7", "-", "r1", "r2", "r3", "r4"]);
        assert_eq!(told(&records, 'x').len(), records.len());
        assert_eq!(line(&records[6]), "r A:r3::0:1 p 4294967295");
    }
}
