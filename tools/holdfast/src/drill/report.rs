//! What came of a drill: the note of before the reset, beside what the machine tells after it.

use std::path::Path;
use std::time::SystemTime;

use holdfast_daemon::procfs::Procfs;
use holdfast_daemon::sysfs::Sysfs;
use holdfast_daemon::watchdog::facts::{self, Facts};
use holdfast_daemon::watchdog::{Choice, Kind};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::DrillError;
use super::note::{Armed, Note};

/// What the machine tells after a drill.
#[derive(Clone, Copy, Debug)]
struct After {
    /// It has come up since.
    rebooted: bool,
    /// When.
    up_since: Option<Timestamp>,
    /// Its watchdog says that it has reset it, or that it has not.
    by_watchdog: Option<bool>,
    now: Timestamp,
}

/// What is to be said, and whether the drill was passed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    passed: bool,
    words: String,
}

/// Tells it. Whether the drill was passed.
pub fn run(path: &Path, json: bool) -> Result<bool, DrillError> {
    let note = Note::read(path)?;
    let after = look(&note)?;
    let verdict = judge(&note, &after);
    if json {
        let document = json!({
            "passed": verdict.passed,
            "verdict": verdict.words,
            "note": note,
            "rebooted": after.rebooted,
            "up_since": after.up_since,
            "reset_by_watchdog": after.by_watchdog,
        });
        println!("{document:#}");
    } else {
        print!("{}", tell(&note, &after));
        println!("{}: {}", if verdict.passed { "PASSED" } else { "NOT PASSED" }, verdict.words);
    }
    Ok(verdict.passed)
}

fn look(note: &Note) -> Result<After, DrillError> {
    let now = Timestamp::now();
    if note.fake {
        // Its host comes up with the next fake-watchdog on the same socket, which says then why.
        let told = Facts::of_fake(&note.watchdog);
        let by_watchdog = told.and_then(|facts| facts.has_reset_us());
        let written = |at: SystemTime| Timestamp::try_from(at).ok();
        let told_at = std::fs::metadata(facts::beside(&note.watchdog).join("bootstatus")).and_then(|m| m.modified());
        let up_since = told_at.ok().and_then(written);
        let rebooted = note.armed.as_ref().is_some_and(|armed| up_since.is_some_and(|up| up > armed.at));
        return Ok(After { rebooted, up_since, by_watchdog, now });
    }
    let procfs = Procfs::default();
    let rebooted = procfs.boot_id()? != note.boot_id;
    // Under wdmd the device is the oldest one.
    let device = Choice::parse(&note.watchdog.display().to_string()).ok();
    let device =
        device.map(|choice| if choice.kind() == Kind::Wdmd { Choice::Device("/dev/watchdog".into()) } else { choice });
    let by_watchdog =
        device.and_then(|choice| Facts::of(&choice, &Sysfs::default())).and_then(|facts| facts.has_reset_us());
    Ok(After { rebooted, up_since: procfs.up_since().map(|up| up.timestamp()), by_watchdog, now })
}

/// A note is written once a second, and synced: that long may the host have lived on unseen.
const UNSEEN_MS: u64 = 2000;

fn judge(note: &Note, after: &After) -> Verdict {
    let verdict = |passed, words: String| Verdict { passed, words };
    let Some(armed) = &note.armed else {
        return verdict(false, "the watchdog was not armed: the drill ended before".to_owned());
    };
    let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    let (within, alive) = (seconds(armed.within_ms), seconds(armed.alive_ms));
    if armed.outlived || armed.alive_ms > armed.within_ms {
        return verdict(
            false,
            format!(
                "this host was alive {alive} after it, and was to be reset within {within}: others may have taken over from it"
            ),
        );
    }
    if !after.rebooted {
        return match after.now.duration_since(armed.at)
            <= SignedDuration::from_millis(i64::try_from(armed.within_ms).unwrap_or(i64::MAX))
        {
            true => verdict(false, "the watchdog counts still".to_owned()),
            false => verdict(
                false,
                format!("this host has not been reset; the drill ended {alive} after the watchdog was armed"),
            ),
        };
    }
    let when = format!("{alive} to {} after it was armed, and had {within}", seconds(armed.alive_ms + UNSEEN_MS));
    match after.by_watchdog {
        Some(false) => {
            verdict(false, format!("this host went down {when}, but its watchdog says that it was not what reset it"))
        }
        Some(true) => verdict(true, format!("the watchdog has reset this host, {when}")),
        None => {
            verdict(true, format!("this host was reset, {when}; its watchdog does not tell whether it was what did it"))
        }
    }
}

fn tell(note: &Note, after: &After) -> String {
    let mut text = format!("host {}, watchdog {}\n", note.host_name, note.watchdog.display());
    if let Some(Armed { device, at, within_ms, alive_ms, .. }) = &note.armed {
        let later = |ms: u64| *at + SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
        text += &format!("armed            {}  {device}\n", shown(*at));
        text += &format!("last seen alive  {}\n", shown(later(*alive_ms)));
        text += &format!("to be reset by   {}\n", shown(later(*within_ms)));
    }
    if after.rebooted {
        text += &format!("came up          {}\n", after.up_since.map_or("at a time not known".to_owned(), shown));
    }
    let by = match after.by_watchdog {
        Some(true) => "the watchdog has reset this host",
        Some(false) => "the watchdog has not reset this host",
        None => "not told",
    };
    text + &format!("boot status      {by}\n")
}

fn shown(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(alive_ms: u64) -> Note {
        let armed = json!({ "device": "d", "at": "2026-01-01T00:00:00Z", "within_ms": 29000, "alive_ms": alive_ms, "outlived": false });
        serde_json::from_value(json!({
            "host_name": "a", "boot_id": "b", "watchdog": "/dev/watchdog0", "fake": false, "armed": armed,
        }))
        .unwrap()
    }

    fn after(rebooted: bool, by_watchdog: Option<bool>) -> After {
        let up = Timestamp::from_second(1_767_225_640).unwrap();
        After { rebooted, up_since: Some(up), by_watchdog, now: up }
    }

    #[test]
    fn a_drill_is_passed_if_the_watchdog_has_reset_the_host_in_time() {
        let passed = judge(&note(27_100), &after(true, Some(true)));
        assert_eq!(
            (passed.passed, passed.words.as_str()),
            (true, "the watchdog has reset this host, 27.1 s to 29.1 s after it was armed, and had 29.0 s")
        );
        assert!(judge(&note(27_100), &after(true, None)).passed, "some do not tell");
    }

    #[test]
    fn a_drill_is_not_passed_if_it_was_late_or_not_the_watchdog_or_never_came() {
        let words = |note: &Note, after: &After| {
            let verdict = judge(note, after);
            assert!(!verdict.passed, "{verdict:?}");
            verdict.words
        };
        assert!(words(&note(31_000), &after(true, Some(true))).contains("was alive 31.0 s after it"));
        assert!(words(&note(12_000), &after(true, Some(false))).contains("was not what reset it"));
        assert!(words(&note(12_000), &after(false, None)).contains("has not been reset"));
        let early = After { now: "2026-01-01T00:00:05Z".parse().unwrap(), ..after(false, None) };
        assert_eq!(words(&note(4000), &early), "the watchdog counts still");
        let mut never = note(0);
        never.armed = None;
        assert!(words(&never, &after(true, Some(true))).contains("was not armed"));
    }
}
