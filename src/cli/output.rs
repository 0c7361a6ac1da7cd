//! What commands print: results on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::Failure;
use crate::util::Utc;

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speech {
    /// `-q`: errors alone.
    pub quiet: bool,
}

impl Speech {
    /// A line for people, unless `-q`.
    pub fn note(&self, line: impl AsRef<str>) {
        if !self.quiet {
            // Nobody to tell it to is no reason to fail.
            let _ = writeln!(io::stderr(), "{}", line.as_ref());
        }
    }

    /// A progress bar over `total` bytes on standard error, if that is a terminal and `-q` was not given.
    pub fn bytes(&self, what: &str, total: u64) -> ProgressBar {
        self.bar(total, what, "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}")
    }

    /// A progress bar without a known end.
    pub fn waiting(&self, what: &str) -> ProgressBar {
        let bar = self.bar(0, what, "{spinner} {msg}");
        if !bar.is_hidden() {
            bar.enable_steady_tick(std::time::Duration::from_millis(120));
        }
        bar
    }

    fn bar(&self, total: u64, what: &str, template: &str) -> ProgressBar {
        if self.quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar
    }
}

/// Writes a result to standard output. A reader that has gone away is no failure.
///
/// # Errors
/// Standard output cannot be written.
pub fn result(text: &str) -> Result<(), Failure> {
    more(text).map(drop)
}

/// As [`result`]; whether there still is a reader.
///
/// # Errors
/// Standard output cannot be written.
pub fn more(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).map_err(|e| Failure::io("standard output", &e)),
    }
}

/// One page after another: on a terminal each takes the place of the one before, else it follows it behind a blank line.
#[derive(Debug, Default)]
pub struct Pages {
    shown: u64,
}

impl Pages {
    /// Shows a page; whether there still is a reader.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn show(&mut self, page: &str) -> Result<bool, Failure> {
        let stdout = io::stdout();
        let rows = || rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_row);
        // One that does not say how high it is gets all.
        let rows = stdout.is_terminal().then(|| Some(rows()).filter(|rows| *rows > 1).unwrap_or(u16::MAX));
        let text = self.next(page, rows.map(usize::from));
        more(&text)
    }

    /// What is written for a page, on a terminal of so many rows or elsewhere.
    fn next(&mut self, page: &str, rows: Option<usize>) -> String {
        let is_first = self.shown == 0;
        self.shown += 1;
        let Some(rows) = rows else {
            return if is_first { page.to_owned() } else { format!("\n{page}") };
        };
        let clear = if is_first { "\x1b[2J" } else { "" };
        let room = rows - 1;
        let mut lines: Vec<&str> = page.lines().collect();
        if lines.len() > room {
            lines.truncate(room - 1);
            lines.push("...");
        }
        // Long lines are cut, not wrapped, and what was there before goes.
        format!("{clear}\x1b[?7l\x1b[H{}\x1b[K\n\x1b[J\x1b[?7h", lines.join("\x1b[K\n"))
    }
}

/// One of several errors; the last is the command's own.
pub fn error(message: &str) {
    // Nobody to tell it to is no reason for another exit code.
    let _ = writeln!(io::stderr(), "tahoefs: {}", message.replace('\n', " "));
}

/// JSON on standard output.
///
/// # Errors
/// Standard output cannot be written.
pub fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    result(&json_text(value, serde_json::to_string_pretty)?)
}

/// JSON on one line.
///
/// # Errors
/// It cannot be spelled.
pub fn json_line<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    json_text(value, serde_json::to_string)
}

fn json_text<'a, T>(value: &'a T, spell: impl Fn(&'a T) -> serde_json::Result<String>) -> Result<String, Failure> {
    let mut text = spell(value)
        .map_err(|e| Failure::new(super::exit::Exit::Failed, format!("the result cannot be printed: {e}")))?;
    text.push('\n');
    Ok(text)
}

/// A name as one line shows it: control characters escaped.
pub fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// So many things of a kind, for people: `1 file`, `2 files`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Seconds for people: `42 s`, `3 min`, `2 h 5 min`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `YYYY-MM-DDTHH:MM:SSZ`.
pub fn time(secs: i64) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::at(secs);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_or_take_each_others_place() {
        let mut pages = Pages::default();
        assert_eq!(pages.next("a\nb\n", None), "a\nb\n");
        assert_eq!(pages.next("c\n", None), "\nc\n");
        let mut pages = Pages::default();
        assert_eq!(pages.next("a\nb\n", Some(24)), "\x1b[2J\x1b[?7l\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
        assert_eq!(pages.next("a\nb\nc\nd", Some(4)), "\x1b[?7l\x1b[Ha\x1b[K\nb\x1b[K\n...\x1b[K\n\x1b[J\x1b[?7h");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([1, 89, 90, 5399, 7530].map(span), ["1 s", "89 s", "2 min", "90 min", "2 h 5 min"]);
    }

    #[test]
    fn dates_are_civil() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(time(secs), text);
        }
    }

    #[test]
    fn names_stay_on_their_line() {
        assert_eq!(shown("a\nb\u{1b}ü"), "a\\nb\\u{1b}ü");
    }
}
