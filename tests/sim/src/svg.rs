//! A run's story as a picture: a lane for each host, time downwards.
//!
//! Time is not linear, or a run of minutes in which everything happens within milliseconds could not be read: a row takes at
//! least the height of its label, and a gap longer than `BREAK` is cut short and marked. Rows keep their order, and rows
//! of one instant may stand side by side.
//!
//! | seen | means |
//! | --- | --- |
//! | a thick bar | clients write under an exclusive lease; twice as thick: two do |
//! | a grey lane | the host is down |
//! | a blue lane | its daemon or all of it stands still |
//! | a band over all lanes | what concerns all hosts; in red, a broken rule |
//!
//! Labels are cut to the width of their lane; the whole text is each row's `<title>`, which viewers show under the pointer.

use std::fmt::Write as _;
use std::time::Duration;

use crate::checkers::Row;
use crate::cluster::Story;
use crate::disk::HostIndex;

/// The least width of the picture, and of one lane.
const WIDTH: usize = 1200;
const LEAST_LANE: usize = 260;
/// Where the times stand.
const GUTTER: usize = 96;
const MARGIN: usize = 16;
/// Title, legend and the heads of the lanes.
const HEAD: usize = 96;
/// Height of a label, and of a line within a band.
const LINE: usize = 15;
/// From a lane's left edge to its spine, and to its labels.
const SPINE: usize = 14;
const LABEL: usize = 30;
/// Width of a letter.
const LETTER: f64 = 6.65;
/// A longer time in which nothing happens is cut short.
const BREAK: Duration = Duration::from_secs(3);
/// How much room a cut takes, and a second that is not cut.
const CUT: usize = 34;
const SECOND: usize = 10;

const STYLE: &str = "
text{font:11px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#333}
.title{font-size:16px;font-weight:bold;fill:#111}.head{font-size:13px;font-weight:bold;fill:#111}
.time{fill:#777}.down{fill:#e9e9ec}.still{fill:#d6e8fa}.lane{fill:#fafafa;stroke:#ddd}.spine{stroke:#bbb;stroke-width:1.5}
.writes{fill:#1a8f3c}.cut{fill:none;stroke:#999;stroke-dasharray:2 3}.cuttext{fill:#999;font-style:italic}
.life{fill:#444}.renewal{fill:#6b7f99}.ballot{fill:#6a3fb5}.client{fill:#12742e;font-weight:bold}
.trouble{fill:#c05600;font-weight:bold}.disk{fill:#8a6d00}.other{fill:#333}.broken{fill:#c40018;font-weight:bold}
.all{fill:#eef1f6}.red{fill:#ffe1e3;stroke:#c40018}
";

/// What a row is about, which gives it its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Life,
    Renewal,
    Ballot,
    Client,
    Trouble,
    Disk,
    Broken,
    Other,
}

impl Kind {
    const LEGEND: [(Kind, &'static str); 7] = [
        (Kind::Client, "client writes"),
        (Kind::Ballot, "ballot, leader"),
        (Kind::Renewal, "join, renewal"),
        (Kind::Life, "boot, daemon"),
        (Kind::Trouble, "crash, freeze, reset"),
        (Kind::Disk, "disk, path"),
        (Kind::Broken, "broken rule"),
    ];

    /// From the words of the row: the story is kept as text.
    fn of(what: &str) -> Self {
        let begins = |with: &[&str]| with.iter().any(|w| what.starts_with(w));
        let trouble =
            ["FROZEN", "thawed", "PAUSED", "ASLEEP", "goes on", "RESET", "WATCHDOG", "power cut", "petted past"];
        match what {
            _ if begins(&["!!"]) => Kind::Broken,
            _ if begins(&["delta "]) => Kind::Renewal,
            _ if begins(&["dblock ", "leader "]) => Kind::Ballot,
            _ if begins(&["CLIENT", "client"]) => Kind::Client,
            _ if begins(&trouble) || what.ends_with("CRASHES") => Kind::Trouble,
            _ if begins(&["boot ", "daemon "]) => Kind::Life,
            _ if begins(&["path to", "write ", "(late"]) => Kind::Disk,
            _ => Kind::Other,
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Kind::Life => "life",
            Kind::Renewal => "renewal",
            Kind::Ballot => "ballot",
            Kind::Client => "client",
            Kind::Trouble => "trouble",
            Kind::Disk => "disk",
            Kind::Broken => "broken",
            Kind::Other => "other",
        }
    }
}

/// Draws a story under a title.
#[must_use]
pub fn draw(title: &str, story: &Story) -> String {
    let page = Page::of(story);
    let mut out = String::new();
    let (width, height) = (page.width, page.height);
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">"#
    );
    let _ = writeln!(out, r##"<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>"##);
    page.head(&mut out, title, story);
    page.states(&mut out, story);
    page.cuts(&mut out);
    page.times(&mut out, story);
    story.rows.iter().zip(&page.places).for_each(|(row, place)| page.row(&mut out, row, *place));
    out.push_str("</svg>\n");
    out
}

/// Where everything stands.
struct Page {
    width: usize,
    height: usize,
    lane: usize,
    lanes: usize,
    /// Of each row, where it begins.
    places: Vec<usize>,
    /// Where time was cut, and how much of it.
    cuts: Vec<(usize, Duration)>,
}

impl Page {
    fn of(story: &Story) -> Self {
        let lanes = story.columns.len().max(1);
        let lane = LEAST_LANE.max((WIDTH - GUTTER - MARGIN) / lanes);
        let width = GUTTER + lanes * lane + MARGIN;
        let mut page = Page { width, height: 0, lane, lanes, places: Vec::new(), cuts: Vec::new() };
        // Where the next label of each lane may stand at the earliest.
        let mut free = vec![HEAD + LINE; lanes];
        let (mut now, mut y) = (0, HEAD + LINE);
        for row in &story.rows {
            let gap = Duration::from_nanos(row.at.saturating_sub(now));
            let top = if gap > BREAK { free.iter().copied().max().unwrap_or(y) } else { y };
            y = top + page.room(gap);
            let taken = match page.lane_of(row) {
                Some(lane) => lane..lane + 1,
                None => 0..lanes,
            };
            y = free[taken.clone()].iter().copied().fold(y, usize::max);
            free[taken].fill(y + page.height_of(row));
            if gap > BREAK {
                page.cuts.push((top + CUT / 2 - LINE / 2, gap));
            }
            now = row.at;
            page.places.push(y);
        }
        page.height = free.iter().copied().max().unwrap_or(HEAD) + 2 * MARGIN;
        page
    }

    /// How much room a time takes in which nothing happens.
    fn room(&self, gap: Duration) -> usize {
        if gap > BREAK { CUT } else { usize::try_from(gap.as_millis()).unwrap_or(0) * SECOND / 1000 }
    }

    /// A row's lane; none if it goes over all of them.
    fn lane_of(&self, row: &Row) -> Option<usize> {
        let HostIndex(lane) = row.host.filter(|_| Kind::of(&row.what) != Kind::Broken)?;
        (lane < self.lanes).then_some(lane)
    }

    fn height_of(&self, row: &Row) -> usize {
        if self.lane_of(row).is_some() { LINE } else { self.wrapped(row).len() * LINE + LINE }
    }

    /// The text of a band, which may have several lines.
    fn wrapped(&self, row: &Row) -> Vec<String> {
        let text = match row.host {
            Some(HostIndex(host)) => format!("host {host}: {}", row.what),
            None => row.what.clone(),
        };
        wrap(&text, letters(self.width - GUTTER - 2 * MARGIN))
    }

    fn left_of(&self, lane: usize) -> usize {
        GUTTER + lane * self.lane
    }

    /// Where the lanes end.
    fn bottom(&self) -> usize {
        self.height - MARGIN
    }

    fn head(&self, out: &mut String, title: &str, story: &Story) {
        text(out, "title", MARGIN, 28, title);
        let mut x = MARGIN;
        for (kind, word) in Kind::LEGEND {
            let _ = writeln!(out, r#"<circle class="{}" cx="{}" cy="46" r="4"/>"#, kind.class(), x + 4);
            text(out, "life", x + 12, 50, word);
            x += 12 + width_of(word) + 18;
        }
        for (lane, name) in story.columns.iter().enumerate() {
            let (left, height) = (self.left_of(lane), self.bottom() - HEAD);
            text(out, "head", left + SPINE, HEAD - 14, name);
            let width = self.lane - 6;
            let _ = writeln!(out, r#"<rect class="lane" x="{left}" y="{HEAD}" width="{width}" height="{height}"/>"#);
        }
    }

    /// When hosts are down or stand still, and when their clients write.
    fn states(&self, out: &mut String, story: &Story) {
        for lane in 0..story.columns.len() {
            let mut spans = Spans::default();
            for (row, y) in story.rows.iter().zip(&self.places) {
                if row.host == Some(HostIndex(lane)) {
                    spans.row(&row.what, y + LINE / 2);
                }
            }
            spans.end(self.bottom());
            let left = self.left_of(lane);
            for Span { from, to, what } in spans.done {
                let (x, width, class) = match what {
                    State::Down => (left + 1, self.lane - 8, "down"),
                    State::Still => (left + 1, self.lane - 8, "still"),
                    // Never out of the lane, however many clients write.
                    State::Writes(n) => (left + SPINE - 3 * n.min(4), 6 * n.min(4), "writes"),
                };
                let height = to.saturating_sub(from).max(2);
                let _ =
                    writeln!(out, r#"<rect class="{class}" x="{x}" y="{from}" width="{width}" height="{height}"/>"#);
            }
            let (x, bottom) = (left + SPINE, self.bottom());
            let _ = writeln!(out, r#"<line class="spine" x1="{x}" y1="{HEAD}" x2="{x}" y2="{bottom}"/>"#);
        }
    }

    fn cuts(&self, out: &mut String) {
        for (y, gap) in &self.cuts {
            let right = self.width - MARGIN;
            let mut path = format!("M{MARGIN} {y}");
            (MARGIN..right).step_by(12).enumerate().for_each(|(n, x)| {
                let _ = write!(path, "L{x} {}", if n % 2 == 0 { y + 3 } else { y - 3 });
            });
            let _ = writeln!(out, r#"<path class="cut" d="{path}"/>"#);
            text(out, "cuttext", MARGIN, y - 5, &format!("+{:.1} s", gap.as_secs_f64()));
        }
    }

    /// The true time of each row that stands far enough below the one before.
    fn times(&self, out: &mut String, story: &Story) {
        let mut free = 0;
        for (row, y) in story.rows.iter().zip(&self.places).filter(|(row, _)| !row.what.is_empty()) {
            if *y >= free {
                let seconds = Duration::from_nanos(row.at).as_secs_f64();
                text(out, "time", MARGIN, y + LINE - 4, &format!("{seconds:>10.3}"));
                free = y + LINE;
            }
        }
    }

    fn row(&self, out: &mut String, row: &Row, y: usize) {
        let seconds = Duration::from_nanos(row.at).as_secs_f64();
        let class = Kind::of(&row.what).class();
        let _ = write!(out, "<g><title>{seconds:.6} s: {}</title>", escaped(&row.what));
        if let Some(lane) = self.lane_of(row) {
            let (left, middle) = (self.left_of(lane), y + LINE / 2);
            let _ = write!(out, r#"<circle class="{class}" cx="{}" cy="{middle}" r="3.2"/>"#, left + SPINE);
            text(out, class, left + LABEL, y + LINE - 4, &cut(&row.what, letters(self.lane - LABEL - 10)));
        } else {
            let lines = self.wrapped(row);
            let (width, height) = (self.width - GUTTER - MARGIN - 6, lines.len() * LINE + 6);
            let band = if class == "broken" { "red" } else { "all" };
            let _ = write!(out, r#"<rect class="{band}" x="{GUTTER}" y="{y}" width="{width}" height="{height}"/>"#);
            for (n, line) in lines.iter().enumerate() {
                text(out, class, GUTTER + SPINE, y + LINE * (n + 1) - 1, line);
            }
        }
        out.push_str("</g>\n");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Still,
    Writes(usize),
}

struct Span {
    from: usize,
    to: usize,
    what: State,
}

/// The states of one host, from the words of its rows.
#[derive(Default)]
struct Spans {
    done: Vec<Span>,
    up: bool,
    down_since: usize,
    still_since: Option<usize>,
    writers: usize,
    writing_since: usize,
}

impl Spans {
    fn row(&mut self, what: &str, y: usize) {
        self.down_since = self.down_since.max(HEAD);
        match what {
            _ if what.starts_with("boot ") => {
                self.done.push(Span { from: self.down_since, to: y, what: State::Down });
                self.up = true;
            }
            "RESET" => {
                self.goes_on(y);
                self.writers_are(0, y);
                (self.up, self.down_since) = (false, y);
            }
            "CLIENT WRITES" => self.writers_are(self.writers + 1, y),
            "client over" => self.writers_are(self.writers.saturating_sub(1), y),
            "FROZEN" | "PAUSED" | "ASLEEP" if self.up => {
                self.still_since.get_or_insert(y);
            }
            // Somebody moves again, or what stood still is gone.
            _ if ["thawed", "goes on", "daemon "].iter().any(|w| what.starts_with(w)) => self.goes_on(y),
            _ => (),
        }
    }

    fn goes_on(&mut self, y: usize) {
        if let Some(from) = self.still_since.take() {
            self.done.push(Span { from, to: y, what: State::Still });
        }
    }

    fn writers_are(&mut self, now: usize, y: usize) {
        if self.writers > 0 {
            self.done.push(Span { from: self.writing_since, to: y, what: State::Writes(self.writers) });
        }
        (self.writers, self.writing_since) = (now, y);
    }

    fn end(&mut self, y: usize) {
        self.goes_on(y);
        self.writers_are(0, y);
        if !self.up {
            self.done.push(Span { from: self.down_since.max(HEAD), to: y, what: State::Down });
        }
        // Bars over backgrounds.
        self.done.sort_by_key(|span| matches!(span.what, State::Writes(_)));
    }
}

fn text(out: &mut String, class: &str, x: usize, y: usize, what: &str) {
    let _ = writeln!(out, r#"<text class="{class}" x="{x}" y="{y}" xml:space="preserve">{}</text>"#, escaped(what));
}

/// As it may stand in XML, which has no place for control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            _ if letter.is_control() && letter != '\n' => out.push('\u{FFFD}'),
            _ => out.push(letter),
        }
    }
    out
}

/// How many letters fit.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a few thousand pixels
fn letters(width: usize) -> usize {
    (width as f64 / LETTER) as usize
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a few words
fn width_of(text: &str) -> usize {
    (text.chars().count() as f64 * LETTER) as usize
}

/// The beginning of a text that is too long.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(most.saturating_sub(1)).collect();
    beginning + "\u{2026}"
}

/// Lines of at most so many letters, broken between words where that is possible.
fn wrap(text: &str, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut rest: Vec<char> = line.chars().collect();
        while rest.len() > most {
            let at = rest[..most].iter().rposition(|c| *c == ' ').filter(|at| *at > 0).unwrap_or(most);
            lines.push(rest.drain(..at).collect());
            let blanks = rest.iter().take_while(|c| **c == ' ').count();
            rest.drain(..blanks);
        }
        lines.push(rest.into_iter().collect());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tell;
    use crate::plan::Plan;

    /// Fails unless every tag is closed in its order and every `&` begins an entity.
    fn assert_well_formed(svg: &str) {
        let (mut open, mut rest) = (Vec::new(), svg);
        while let Some((text, tail)) = rest.split_once('<') {
            for (at, _) in text.match_indices('&') {
                let entity = text[at..].split(';').next().unwrap();
                assert!(["&amp", "&lt", "&gt", "&quot", "&apos"].contains(&entity), "{entity}");
            }
            let (tag, tail) = tail.split_once('>').expect("a tag ends");
            assert!(tag.matches('"').count() % 2 == 0, "{tag}");
            let name = |tag: &str| tag.split([' ', '/']).next().unwrap_or_default().to_owned();
            match tag.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop().as_deref(), Some(closed)),
                None if tag.ends_with('/') => (),
                None => open.push(name(tag)),
            }
            rest = tail;
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
    }

    fn row(at: u64, host: Option<usize>, what: &str) -> Row {
        Row { at: at * 1_000_000, host: host.map(HostIndex), what: what.into() }
    }

    #[test]
    fn every_row_of_a_real_run_is_there_in_its_order() {
        let (story, _) = tell(&Plan::of_seed(3));
        let svg = draw("seed 3", &story);
        assert_well_formed(&svg);
        assert!(story.rows.len() > 20);
        let mut rest = svg.as_str();
        for row in &story.rows {
            let seconds = Duration::from_nanos(row.at).as_secs_f64();
            let title = format!("<title>{seconds:.6} s: {}</title>", escaped(&row.what));
            rest = rest.split_once(&title).unwrap_or_else(|| panic!("{title}")).1;
        }
    }

    #[test]
    fn every_row_that_a_run_tells_has_a_colour() {
        let known = ["the faults end", "client ", "("];
        for seed in 0..20 {
            let (story, _) = tell(&Plan::of_seed(seed));
            let other = story
                .rows
                .iter()
                .find(|row| Kind::of(&row.what) == Kind::Other && !known.iter().any(|w| row.what.starts_with(w)));
            assert!(other.is_none(), "{other:?}");
        }
    }

    #[test]
    fn text_is_escaped_and_long_text_is_whole_in_its_title() {
        let nasty = format!("path to <a href=\"x\">&'\u{1}{}", "long ".repeat(60));
        let rows = vec![row(0, Some(0), &nasty), row(1, None, &nasty), row(2, Some(7), "of a host without a lane")];
        let svg = draw("<&>", &Story { columns: vec!["\"host\"".into()], rows });
        assert_well_formed(&svg);
        assert_eq!(svg.matches(&escaped(&nasty)).count(), 2);
        assert!(svg.contains("&lt;&amp;&gt;") && svg.contains("&quot;host&quot;") && !svg.contains('\u{1}'));
    }

    #[test]
    fn a_client_is_a_bar_and_a_long_silence_is_cut() {
        let rows = vec![
            row(0, Some(0), "boot 1"),
            row(1000, Some(0), "CLIENT WRITES"),
            row(61_000, Some(0), "client over"),
            row(61_000, Some(1), "!! S1: broken"),
        ];
        let story = Story { columns: vec!["host 0".into(), "host 1".into()], rows };
        let svg = draw("two", &story);
        assert_well_formed(&svg);
        assert_eq!(svg.matches(r#"class="writes""#).count(), 1);
        assert_eq!(svg.matches(r#"class="cut""#).count(), 1);
        assert!(svg.contains("+60.0 s") && svg.contains(r#"class="red""#));
        let page = Page::of(&story);
        assert!(page.places.windows(2).all(|pair| pair[0] <= pair[1]) && page.height < 400, "{}", page.height);
    }

    #[test]
    fn an_empty_story_is_a_picture_too() {
        assert_well_formed(&draw("nothing", &Story::default()));
    }
}
