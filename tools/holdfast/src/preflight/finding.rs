//! What a check says: a grade, what was looked at, what was found, and what to do.

use std::fmt;

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it ought to be.
    Ok,
    /// It will hurt some day.
    Warn,
    /// The daemon will not work here, or the promise is not kept.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub grade: Grade,
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    /// As it ought to be.
    pub fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Finding { grade: Grade::Ok, what: what.into(), found: found.into(), advice: None }
    }

    /// It will hurt some day.
    pub fn warn(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { grade: Grade::Warn, what: what.into(), found: found.into(), advice: Some(advice.into()) }
    }

    /// The daemon will not work here, or the promise is not kept.
    pub fn fail(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { grade: Grade::Fail, ..Self::warn(what, found, advice) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        let advice = self.advice.iter().map(|advice| format!(" - {advice}")).collect::<String>();
        let line = format!("{grade:<5} {}: {}{advice}", self.what, self.found);
        // Names of hosts and devices are others' words.
        f.write_str(&crate::client_cmd::plain(&line))
    }
}

/// What tests ask of findings.
#[cfg(test)]
pub mod tests {
    use super::{Finding, Grade};

    /// The one finding that speaks of it, by its grade and as a line.
    pub fn about(findings: &[Finding], words: &str) -> (Grade, String) {
        let said: Vec<_> = findings.iter().filter(|f| f.to_string().contains(words)).collect();
        assert_eq!(said.len(), 1, "{words:?} is said once: {findings:#?}");
        (said[0].grade, said[0].to_string())
    }

    #[test]
    fn a_line_is_graded_and_says_what_to_do_and_moves_no_cursor() {
        assert_eq!(Finding::ok("clock source", "tsc").to_string(), "ok    clock source: tsc");
        let line = Finding::fail("lockspace", "host_id 2 is \"a\u{1b}[2J\"", "another one").to_string();
        assert!(line.starts_with("FAIL  lockspace: host_id 2 is ") && !line.contains('\u{1b}'), "{line}");
        assert!(line.ends_with(" - another one"), "{line}");
    }
}
