//! The demonstration as a user runs it, and its sabotage, whose overlap the final check must find.
//!
//! Asserted is the order of what happens and the side of each computed instant on which it happens, never a duration: a
//! busy machine may be slow, but not wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy exempts only #[test]

use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A demonstration that is over.
struct Played {
    status: Option<i32>,
    timeline: Vec<Value>,
    said: String,
    directory: TempDir,
}

impl Played {
    fn play(options: &[&str]) -> Played {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["demo", "--json"])
            .args(options)
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let timeline: Vec<Value> =
            String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Played { status: output.status.code(), timeline, said, directory }
    }

    fn all(&self, event: &str) -> Vec<&Value> {
        self.timeline.iter().filter(|told| told["event"] == event).collect()
    }

    fn one(&self, event: &str) -> &Value {
        let found = self.all(event);
        assert_eq!(found.len(), 1, "{event}: {found:?}; {}", self.said);
        found[0]
    }

    /// What both plays have in common, up to the takeover; the host that took over.
    fn failover(&self) -> String {
        let refused: Vec<&Value> = self.all("refused").into_iter().map(|told| &told["host"]).collect();
        assert_eq!(refused, ["host2", "host3"], "{}", self.said);
        assert!(
            self.all("refused")
                .iter()
                .all(|told| told["owner"] == "host1" && seconds(told, "takeover_possible_in_s") > 0.0)
        );
        let (frozen, fired, takeover) = (self.one("frozen"), self.one("fired"), self.one("takeover"));
        assert!(self.all("refused").iter().all(|told| seconds(told, "t") < seconds(frozen, "t")));
        assert!(seconds(frozen, "t") < seconds(fired, "t") && seconds(fired, "t") < seconds(takeover, "t"));
        assert!(seconds(fired, "records_after_freeze") > 0.0, "the program wrote on while its daemon was frozen");
        assert!(seconds(fired, "measured") <= seconds(fired, "computed_latest"), "{fired}");
        let host = takeover["host"].as_str().unwrap().to_owned();
        let computed: Vec<&Value> =
            self.all("computed_takeover").into_iter().filter(|told| told["host"] == *host).collect();
        assert_eq!(seconds(computed[0], "takeover"), seconds(takeover, "computed_earliest"));
        assert!(seconds(takeover, "measured") >= seconds(takeover, "computed_earliest"), "{takeover}");
        assert!(self.all("fault").is_empty(), "{:?}", self.all("fault"));
        host
    }

    fn left_nothing_behind(&self) {
        let left: Vec<_> = std::fs::read_dir(self.directory.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn seconds(told: &Value, field: &str) -> f64 {
    told[field].as_f64().unwrap_or_else(|| panic!("no number {field} in {told}"))
}

#[test]
fn a_frozen_owner_is_reset_before_another_takes_over_and_no_writes_overlap() {
    let played = Played::play(&[]);
    assert_eq!(played.status, Some(0), "{}", played.said);
    let taker = played.failover();
    assert_eq!(seconds(played.one("fired"), "killed"), 3.0, "the first process, the daemon and the program");
    assert_ne!(played.one("handover")["host"], *taker);
    let ended: Vec<&Value> = played.all("ended").into_iter().map(|told| &told["status"]).collect();
    assert_eq!(ended, [0, 0], "the survivors end by themselves, their watchdogs disarmed");
    let verdict = played.one("verdict");
    assert_eq!(verdict["holds"], true);
    assert!(seconds(verdict, "gap_s") > 0.0);
    assert!(played.all("overlap").is_empty());
    played.left_nothing_behind();
}

#[test]
fn a_program_out_of_its_watchdogs_reach_is_found_by_the_final_check() {
    let played = Played::play(&["--sabotage"]);
    assert_eq!(played.status, Some(3), "{}", played.said);
    let taker = played.failover();
    assert_eq!(seconds(played.one("fired"), "killed"), 2.0, "the first process and the daemon alone");
    let overlaps = played.all("overlap");
    let with_taker = overlaps.iter().find(|told| told["later"] == *taker).expect("an overlap with the new owner");
    assert_eq!(with_taker["earlier"], "host1");
    assert!(seconds(with_taker, "late_records") > 0.0);
    assert!(seconds(with_taker, "first_record") < seconds(with_taker, "last_record"));
    assert_eq!(played.one("verdict")["holds"], false);
    played.left_nothing_behind();
}
