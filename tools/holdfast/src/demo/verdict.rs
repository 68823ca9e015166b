//! The end of the story: computed instants beside measured ones, and what the shared file proves.

use serde_json::json;

use super::failover::{Computed, Measured};
use super::records::{Overlap, Proof, Record, Term};
use super::story::{FIRST, Story, StoryError};
use super::tell::rounded;

/// Tells it; whether the proof holds.
///
/// # Errors
/// Standard output is closed.
pub fn tell(story: &Story<'_>, computed: &Computed, measured: &Measured, proof: &Proof) -> Result<bool, StoryError> {
    let text = instants(story, computed, measured);
    story.teller.now(None, "instants", &text, json!({ "taker": format!("host{}", measured.taker) }))?;
    story.teller.now(None, "file", &file(story, proof), json!({ "records": proof.records.len() }))?;
    let mut faults = story.faults.clone();
    faults.extend(expected_terms(measured, proof));
    for overlap in &proof.overlaps {
        let fields = json!({
            "earlier": format!("host{}", overlap.earlier.host),
            "later": format!("host{}", overlap.later.host),
            "late_records": overlap.late_records,
            "first_record": overlap.later.first_index,
            "last_record": overlap.earlier.last_index,
        });
        story.teller.now(None, "overlap", &describe(story, overlap, proof), fields)?;
    }
    for fault in &faults {
        story.teller.now(None, "fault", &format!("FAULT: {fault}"), json!({}))?;
    }
    let holds = faults.is_empty() && proof.overlaps.is_empty();
    let between = proof.gaps().find(|(before, _, _)| before.host == FIRST);
    let text = match (holds, between) {
        (true, Some((_, after, gap))) => format!(
            "PROVEN: no two hosts' writes overlapped. Between host1's last write and host{}'s first lie {:.3} s",
            after.host,
            gap.as_secs_f64()
        ),
        (true, None) => "PROVEN: no two hosts' writes overlapped".to_owned(),
        (false, _) if !proof.overlaps.is_empty() => {
            "NOT SAFE: two hosts wrote under one exclusive lease, as shown above".to_owned()
        }
        (false, _) => "NOT PROVEN: see the faults above".to_owned(),
    };
    let gap = between.filter(|_| holds).map(|(_, _, gap)| rounded(gap.as_secs_f64()));
    let fields = json!({ "holds": holds, "overlaps": proof.overlaps.len(), "faults": faults.len(), "gap_s": gap });
    story.teller.now(None, "verdict", &text, fields)?;
    Ok(holds)
}

/// An empty file would prove nothing: host1's term, the taker's and the last host's must be in it.
fn expected_terms(measured: &Measured, proof: &Proof) -> Option<String> {
    let found: Vec<u64> = proof.terms.iter().map(|term| term.host).collect();
    let expected = [FIRST, measured.taker];
    let right = found.len() == 3 && found.starts_with(&expected) && !expected.contains(found.last().unwrap_or(&FIRST));
    (!right).then(|| {
        format!(
            "expected a term of host{FIRST}, then of host{}, then of the third host, found {found:?}",
            measured.taker
        )
    })
}

fn instants(story: &Story<'_>, computed: &Computed, measured: &Measured) -> String {
    let t = |at| story.t(at);
    let mut out = "computed and measured, in seconds since the start:\n".to_owned();
    let mut row = |what: &str, computed: String, measured: String, margin: String| {
        let line = format!("{what:<40}{computed:>12}{measured:>10}  {margin}");
        out.push_str(line.trim_end());
        out.push('\n');
    };
    row("", "computed".into(), "measured".into(), "margin".into());
    let (reset, over) = (computed.reset_by, measured.fired.over());
    row(
        "host1's daemon frozen",
        String::new(),
        format!("{:.2}", t(computed.frozen)),
        format!("its program wrote {} records after that", measured.after_freeze),
    );
    row(
        "host1's last renewal",
        format!("{:.2}", t(computed.renewal)),
        String::new(),
        "as it stands on the disk".into(),
    );
    row("host1 protects nothing any more (D2)", format!("from {:.2}", t(computed.d2)), String::new(), String::new());
    let spare = if over > reset { -over.since(reset).as_secs_f64() } else { reset.since(over).as_secs_f64() };
    row("host1 reset (D3)", format!("by {:.2}", t(reset)), format!("{:.2}", t(over)), format!("{spare:.2} s early"));
    for (id, at) in &computed.takeover {
        let (measured, margin) = if *id == measured.taker {
            let got = measured.takeover.at;
            let late = if got < *at { -at.since(got).as_secs_f64() } else { got.since(*at).as_secs_f64() };
            (format!("{:.2}", t(got)), format!("{late:.2} s late"))
        } else {
            (String::new(), format!("host{} was first", measured.taker))
        };
        row(&format!("takeover by host{id} (D1)"), format!("from {:.2}", t(*at)), measured, margin);
    }
    out
}

fn file(story: &Story<'_>, proof: &Proof) -> String {
    let mut out = format!("the shared file, {} records in the order they were written:\n", proof.records.len());
    for (n, term) in proof.terms.iter().enumerate() {
        let before = n.checked_sub(1).and_then(|n| proof.terms.get(n));
        let gap = before.map_or(String::new(), |before| {
            let gap = if term.first < before.last {
                -before.last.since(term.first).as_secs_f64()
            } else {
                term.first.since(before.last).as_secs_f64()
            };
            format!(", {gap:.3} s after host{}'s last", before.host)
        });
        let Term { host, lver, first_index, last_index, first, last, count } = term;
        out.push_str(&format!(
            "host{host} at lver {lver}: records {first_index}..{last_index} ({count}), written {:.3}..{:.3}{gap}\n",
            story.t(*first),
            story.t(*last),
        ));
    }
    out
}

/// The records around the point where the second writer begins, and the last one of the first writer.
fn describe(story: &Story<'_>, overlap: &Overlap, proof: &Proof) -> String {
    let Overlap { earlier, later, late_records } = overlap;
    let mut out = format!(
        "OVERLAP: {late_records} records of host{} (lver {}) stand behind the first record of host{} (lver {}):\n",
        earlier.host, earlier.lver, later.host, later.lver
    );
    let from = later.first_index.saturating_sub(2);
    let line = |index: usize, record: &Record| {
        let Record { host, lver, seq, at } = record;
        format!("record {index:>6}  host{host}  lver {lver}  seq {seq:>6}  at {:.4}\n", story.t(*at))
    };
    for (index, record) in proof.records.iter().enumerate().skip(from).take(6) {
        out.push_str(&line(index, record));
    }
    if let Some(last) = proof.records.get(earlier.last_index) {
        out.push_str("..\n");
        out.push_str(&line(earlier.last_index, last));
    }
    out
}
