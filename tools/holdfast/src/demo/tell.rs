//! The timeline: one line an event for a person, or one JSON object a line.
//!
//! JSON: `t` (seconds since the start), `host` (absent for what concerns all), `event`, `text`, and the event's own
//! fields. Instants in further fields are seconds since the start, too.

use std::io::{IsTerminal as _, Write as _};

use holdfast_io::clock::{LocalInstant, boot_now};
use serde_json::{Map, Value};

/// Where the timeline goes.
#[derive(Debug)]
pub struct Teller {
    start: LocalInstant,
    json: bool,
    colour: bool,
}

/// Standard output is closed.
#[derive(Debug, thiserror::Error)]
#[error("the timeline cannot be written: {0}")]
pub struct TellError(#[from] std::io::Error);

const NORMAL: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GOOD: &str = "\x1b[1;32m";
const BAD: &str = "\x1b[1;31m";
const OF_HOSTS: [&str; 3] = ["\x1b[33m", "\x1b[36m", "\x1b[35m"];

impl Teller {
    /// Begins the timeline.
    #[must_use]
    pub fn new(json: bool) -> Self {
        let colour = !json && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Teller { start: boot_now(), json, colour }
    }

    /// Seconds since the start.
    #[must_use]
    pub fn seconds(&self, at: LocalInstant) -> f64 {
        at.since(self.start).as_secs_f64()
    }

    /// Tells of something at `at`; further lines of `text` are indented. `fields` is a JSON object or null.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn tell(
        &self,
        at: LocalInstant,
        host: Option<u64>,
        event: &str,
        text: &str,
        fields: Value,
    ) -> Result<(), TellError> {
        let t = self.seconds(at);
        let line = match self.json {
            true => object(t, host, event, text, fields),
            false => self.lines(t, host, colour_of(host, event, fields.get("holds")), text),
        };
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Tells of something that is happening now.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn now(&self, host: Option<u64>, event: &str, text: &str, fields: Value) -> Result<(), TellError> {
        self.tell(boot_now(), host, event, text, fields)
    }

    fn lines(&self, t: f64, host: Option<u64>, colour: &str, text: &str) -> String {
        let who = host.map_or_else(String::new, |host| format!("host{host}"));
        let mut out = String::new();
        for (n, line) in text.lines().enumerate() {
            let head = if n == 0 { format!("{t:6.2}  {who:<6} ") } else { " ".repeat(15) };
            out.push_str(&match self.colour {
                true => format!("{DIM}{}{NORMAL}{colour}{}{line}{NORMAL}\n", &head[..8], &head[8..]),
                false => format!("{head}{line}\n"),
            });
        }
        out
    }
}

fn colour_of(host: Option<u64>, event: &str, holds: Option<&Value>) -> &'static str {
    let index = host.and_then(|host| usize::try_from(host).ok()).and_then(|host| host.checked_sub(1));
    match (event, holds, index) {
        ("verdict", Some(Value::Bool(true)), _) => GOOD,
        ("verdict" | "overlap" | "fault" | "sabotage", _, _) => BAD,
        (_, _, Some(index)) => OF_HOSTS.get(index).copied().unwrap_or(BOLD),
        _ => BOLD,
    }
}

fn object(t: f64, host: Option<u64>, event: &str, text: &str, fields: Value) -> String {
    let mut object = Map::new();
    object.insert("t".into(), rounded(t));
    if let Some(host) = host {
        object.insert("host".into(), format!("host{host}").into());
    }
    object.insert("event".into(), event.into());
    object.insert("text".into(), text.into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    format!("{}\n", Value::Object(object))
}

/// Seconds to the microsecond: more digits would be noise.
#[must_use]
pub fn rounded(seconds: f64) -> Value {
    Value::from((seconds * 1e6).round() / 1e6)
}
