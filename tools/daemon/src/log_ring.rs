//! The daemon's latest log lines, for LOG_DUMP (spec A 11): at most [`MOST`] bytes of them, the oldest going first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The target of lines that clients can cause at will, as often as they like: whoever writes a log limits these, and these alone.
/// What the ladder and the watchdog do, and who takes or loses a lease, is not among them.
pub const AT_WILL: &str = "holdfast_daemon::at_will";

/// Bytes kept, as many as sanlock keeps.
pub const MOST: usize = 1 << 20;

/// The lines. Cloned, it is the same ring.
#[derive(Clone, Debug, Default)]
pub struct LogRing(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl LogRing {
    /// Adds a line, without its end.
    pub fn add(&self, line: String) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.bytes += line.len() + 1;
        ring.lines.push_back(line);
        while ring.bytes > MOST {
            let Some(oldest) = ring.lines.pop_front() else { break };
            ring.bytes -= oldest.len() + 1;
        }
    }

    /// All of it: a newline between two lines, none at the end.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::with_capacity(ring.bytes);
        for line in &ring.lines {
            if !text.is_empty() {
                text.push(b'\n');
            }
            text.extend_from_slice(line.as_bytes());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_go_when_there_are_too_many() {
        let ring = LogRing::default();
        assert_eq!(ring.text(), b"");
        ring.add("first".into());
        ring.add("second".into());
        assert_eq!(ring.text(), b"first\nsecond");
        ring.add("x".repeat(MOST - "second".len() - 2));
        let text = ring.text();
        assert!(text.starts_with(b"second\nxxx") && text.len() < MOST, "{}", text.len());
        ring.add("y".repeat(2 * MOST));
        assert_eq!(ring.text(), b"", "what does not fit at all is not kept");
    }
}
