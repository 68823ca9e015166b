//! A guarded program, and what it wrote down.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Area, LocalInstant, Machine, Process, SPACE, wait_for};

/// `guest.py` at work.
pub struct Guest {
    /// It.
    pub process: Process,
    events: PathBuf,
    beats: PathBuf,
}

impl Guest {
    /// Starts one on a host, for a resource of an area. Its beats go to `beats_in`.
    pub fn start(machine: &mut Machine, area: &Area, resource: &str, options: &str, beats_in: &Path) -> Guest {
        let name = machine.next_name("guest");
        let (events, beats) = (machine.path(&format!("{name}.events")), beats_in.join(format!("{name}.beats")));
        let command = format!(
            "/usr/bin/python3 {script} --space {SPACE} --resource {resource} --path {path} --offset {offset} \
             --events {events} --beats {beats} {options}",
            script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/system/guest.py"),
            path = area.path.display(),
            offset = Area::offset_of(resource),
            events = events.display(),
            beats = beats.display(),
        );
        let process = machine.start(&name, &command);
        Guest { process, events, beats }
    }

    /// A guest that has its lease.
    pub fn holding(machine: &mut Machine, area: &Area, resource: &str, options: &str) -> Guest {
        let beats_in = machine.path("");
        let guest = Guest::start(machine, area, resource, options, &beats_in);
        guest.held();
        guest
    }

    /// Its beats so far; an empty file has none.
    pub fn last_beat(&self) -> Option<LocalInstant> {
        let text = fs::read_to_string(&self.beats).ok()?;
        text.parse().ok().map(LocalInstant::from_nanos)
    }

    /// When it first said so.
    pub fn said(&self, event: &str) -> Option<LocalInstant> {
        self.line(event).map(|line| LocalInstant::from_nanos(line["at"].as_u64().unwrap()))
    }

    /// The process that said so.
    pub fn pid_of(&self, event: &str) -> Option<i32> {
        self.line(event).map(|line| i32::try_from(line["pid"].as_i64().unwrap()).unwrap())
    }

    /// The process that holds the lease.
    pub fn process_id(&self) -> i32 {
        self.pid_of("held").unwrap()
    }

    /// What it wrote last through its ring, when it said that this hangs.
    pub fn last_word(&self) -> String {
        self.line("hangs").unwrap()["word"].as_str().unwrap().to_owned()
    }

    /// Waits until it says so.
    pub fn wait_said(&self, event: &str, within: Duration) -> LocalInstant {
        wait_for(&format!("a guest says {event}; it said {:?}", self.events()), within, || self.said(event))
    }

    /// Waits until it holds the lease.
    pub fn held(&self) -> LocalInstant {
        self.wait_said("held", super::AT_MOST)
    }

    fn line(&self, event: &str) -> Option<Value> {
        self.events().into_iter().find(|line| line["event"] == event)
    }

    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
