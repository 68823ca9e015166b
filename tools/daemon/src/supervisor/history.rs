//! The latest renewals of a lockspace, for RENEWAL: how long each took, and what failed before the next (spec A 11).

use std::collections::VecDeque;

use holdfast_io::clock::LocalInstant;
use holdfast_protocol::state::{StateRecord, StateText};

use super::event::Took;

/// How many renewals are kept, as many as sanlock keeps.
pub const MOST: usize = 180;

/// One renewal.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    started_at: LocalInstant,
    took: Took,
    /// Attempts after it, before the next success, that the disk did not answer in time.
    timeouts: u32,
    /// And that failed otherwise.
    errors: u32,
}

/// The renewals of one lockspace, the oldest first. The first is its join.
#[derive(Debug, Default)]
pub struct History(VecDeque<Renewal>);

impl History {
    /// A renewal succeeded.
    pub fn renewed(&mut self, started_at: LocalInstant, took: Took) {
        self.0.push_back(Renewal { started_at, took, timeouts: 0, errors: 0 });
        if self.0.len() > MOST {
            self.0.pop_front();
        }
    }

    /// One failed.
    pub fn failed(&mut self, timed_out: bool) {
        let Some(last) = self.0.back_mut() else { return };
        if timed_out {
            last.timeouts += 1;
        } else {
            last.errors += 1;
        }
    }

    /// As RENEWAL's records.
    pub fn records(&self) -> impl Iterator<Item = StateRecord> {
        self.0.iter().map(|renewal| {
            let timestamp = renewal.started_at.disk_seconds();
            let pairs = [
                ("timestamp", timestamp.to_string()),
                ("read_ms", renewal.took.read.as_millis().to_string()),
                ("write_ms", renewal.took.write.as_millis().to_string()),
                ("next_timeouts", renewal.timeouts.to_string()),
                ("next_errors", renewal.errors.to_string()),
            ];
            StateRecord::renewal(timestamp, StateText::from_pairs(pairs))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_counted_at_the_renewal_before_it_and_the_oldest_go() {
        let mut history = History::default();
        history.failed(true);
        assert_eq!(history.records().count(), 0, "nothing was renewed yet");
        for second in 0..MOST as u64 + 5 {
            history.renewed(LocalInstant::from_nanos(second * 1_000_000_000), Took::default());
        }
        for timed_out in [true, false, true] {
            history.failed(timed_out);
        }
        let records: Vec<StateRecord> = history.records().collect();
        assert_eq!(records.len(), MOST);
        assert_eq!(records[0].data64, 5);
        let last = &records[MOST - 1].text;
        assert_eq!(last.get("next_timeouts").as_deref(), Some("2"));
        assert_eq!(last.get("next_errors").as_deref(), Some("1"));
    }
}
