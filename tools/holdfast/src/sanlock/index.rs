//! `sanlock client` and `sanlock direct`: the actions about a resource index (spec B 3, 4).

use holdfast_daemon::codes;
use holdfast_io::clock::BootClock;
use holdfast_io::device::Device;
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::seal::AreaUuid;
use holdfast_io::stop::Stop;
use holdfast_io::sys::linux::ThreadsEngine;
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::command::{Command, LockspaceFlags, RindexFlags};
use holdfast_protocol::payload::{Rindex, RindexEntry};
use holdfast_protocol::request::Request;
use paxos_lease::index::{self, Header, IndexAt, IndexError, Reader};

use super::offline::{EINVAL, Offline, PATIENCE, writer};
use super::options::Options;
use super::wire::{ask, result_of};

/// What the daemon is asked for.
pub(super) const CLIENT_ACTIONS: &[&str] = &["format", "create", "delete", "lookup", "update", "rebuild"];
/// What is done without one.
pub(super) const DIRECT_ACTIONS: &[&str] = &["format", "lookup", "update", "rebuild"];

const ENOENT: i32 = -2;
const NO_ANSWER: i32 = -1;

fn done(action: &str, result: i32) -> i32 {
    say!("{action} done {result}");
    result
}

fn looked_up(result: Result<RindexEntry, i32>) -> i32 {
    let code = done("lookup", result.as_ref().err().copied().unwrap_or(0));
    if let Ok(entry) = result {
        let name = entry.name.to_string();
        say!("name {} offset {}", if name.is_empty() { "-" } else { &name }, entry.offset);
    }
    code
}

/// `sanlock client ACTION`.
pub(super) fn client(action: &str, options: &Options) -> i32 {
    let Some(index) = options.index().filter(|i| !i.lockspace_name.is_empty() && !i.disk.path.is_empty()) else {
        // Asked of nobody.
        return done(printed(action), EINVAL);
    };
    let entry = options.entry();
    let about = |command, flags| Request::RindexEntry { command, flags, hosts: (0, 0), index: index.clone(), entry };
    match action {
        "format" => {
            let flags = LockspaceFlags::from_bits(options.geometry);
            done(action, result_of(&Request::FormatRindex { index: Rindex { flags, ..index } }))
        }
        "rebuild" => done(action, result_of(&Request::RebuildRindex { flags: RindexFlags::NONE, index })),
        "lookup" => looked_up(ask_entry(&about(Command::LookupRindex, RindexFlags::NONE))),
        "create" => match ask_entry(&about(Command::CreateResource, RindexFlags::NONE)) {
            Ok(created) => {
                done(printed(action), 0);
                say!("offset {}", created.offset);
                0
            }
            Err(failed) => done(printed(action), failed),
        },
        "delete" => done(printed(action), result_of(&about(Command::DeleteResource, RindexFlags::NONE))),
        _ => {
            let flags = if options.text('z').is_some() { RindexFlags::REM } else { RindexFlags::ADD };
            done(action, result_of(&about(Command::UpdateRindex, flags)))
        }
    }
}

/// The action as it is printed.
fn printed(action: &str) -> &str {
    match action {
        "create" => "create_resource",
        "delete" => "delete_resource",
        other => other,
    }
}

fn ask_entry(request: &Request) -> Result<RindexEntry, i32> {
    let answer = ask(request)?;
    match answer.result() {
        0 => RindexEntry::split_from(&mut answer.payload.as_slice()).ok_or(NO_ANSWER),
        failed => Err(failed),
    }
}

/// `sanlock direct ACTION`.
pub(super) fn direct(action: &str, options: &Options) -> i32 {
    let Some(index) = options.index() else { return done(action, ENOENT) };
    let medium = match Medium::open(&index) {
        Ok(medium) => medium,
        Err(failed) => return done(action, failed),
    };
    let entry = options.entry();
    match action {
        "format" => done(action, number(medium.format(&index, options.geometry))),
        "lookup" => looked_up(medium.lookup(&entry)),
        "rebuild" => {
            let rebuilt = pollster::block_on(index::rebuild(&medium.reader(), &Stop::new()));
            done(action, number(rebuilt.map(|_| ()).map_err(|e| refuse(&e))))
        }
        _ => done(action, number(medium.update(&entry, options.text('z').is_some()))),
    }
}

fn number(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(0)
}

fn refuse(e: &IndexError) -> i32 {
    codes::of_index(e).number()
}

/// The device of an index, and where it is.
struct Medium {
    device: Offline,
    index: IndexAt,
}

impl Medium {
    fn open(index: &Rindex) -> Result<Self, i32> {
        let device = Offline::open(&index.disk.path.to_string(), |e| codes::of_open(e).number())?;
        let at = LeaseOffset(index.disk.offset);
        let index = IndexAt { at, space: SpaceName::from_field(index.lockspace_name.raw()) };
        Ok(Medium { device, index })
    }

    fn reader(&self) -> Reader<'_, Device<ThreadsEngine, BootClock>, BootClock> {
        Reader { disk: &self.device.disk, clock: &self.device.clock, index: self.index, patience: PATIENCE }
    }

    fn lookup(&self, entry: &RindexEntry) -> Result<RindexEntry, i32> {
        let name = ResourceName::from_field(entry.name.raw());
        let name = Some(name).filter(|name| !name.is_empty());
        let offset = Some(entry.offset).filter(|offset| *offset != 0);
        match pollster::block_on(self.reader().lookup(name, offset)) {
            Ok(Ok(found)) => Ok(holdfast_daemon::queries::wire_entry(&found)),
            Ok(Err(_)) => Err(holdfast_protocol::ResultCode::RINDEX_DIFFERS.number()),
            Err(e) => Err(refuse(&e)),
        }
    }

    fn update(&self, entry: &RindexEntry, remove: bool) -> Result<(), i32> {
        let name = ResourceName::new(entry.name.as_bytes()).ok();
        let done = match (remove, name, entry.offset) {
            (_, _, 0) | (false, None, _) => return Err(EINVAL),
            (true, name, offset) => pollster::block_on(index::remove(&self.reader(), name, offset)),
            (false, Some(name), offset) => pollster::block_on(index::add(&self.reader(), name, offset)).map(|_| ()),
        };
        done.map_err(|e| refuse(&e))
    }

    fn format(&self, asked: &Rindex, sizes: u32) -> Result<(), i32> {
        let geometry = self.device.geometry(sizes)?;
        if self.index.space.is_empty() {
            return Err(EINVAL);
        }
        let header = Header::new(self.index, geometry, asked.max_resources, AreaUuid::random());
        let writes = index::format::plan(&header, &writer()?).map_err(|_| EINVAL)?;
        self.device.write_all(self.index.at.0, writes.into_iter().map(|w| (w.offset_in_area, w.bytes)))
    }
}
