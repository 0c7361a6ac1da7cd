//! `tahoe.cfg` as Python's `ConfigParser(strict=False)` reads it.
//!
//! Option names ignore case; a line indented deeper than its option continues it; `=` or `:` ends a name; `#` and `;`
//! comment at the start of a line only; the last of several values wins; `%%` is a percent sign and `%(name)s` another
//! option of the section; `[DEFAULT]` stands behind every section.

use std::collections::HashMap;

/// How deep `%(name)s` may lead.
const DEPTH_LIMIT: usize = 10;
/// More than any value becomes by interpolation, in bytes.
const VALUE_LIMIT: usize = 1 << 20;

/// The text cannot be read, or a value's `%` leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct IniError {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong there.
    pub why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    lines: Vec<String>,
    line: usize,
}

/// A parsed file.
#[derive(Clone, Debug, Default)]
pub struct Ini {
    defaults: HashMap<String, Entry>,
    sections: HashMap<String, HashMap<String, Entry>>,
}

/// White space as Python sees it in text.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

impl Ini {
    /// Parses a whole file; a byte order mark in front is skipped.
    pub fn parse(text: &str) -> Result<Ini, IniError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
        let mut ini = Ini::default();
        let mut section: Option<String> = None;
        let mut option: Option<String> = None;
        let mut indent = 0;
        let mut lines: Vec<&str> = text.split('\n').collect();
        if lines.last() == Some(&"") {
            lines.pop();
        }
        for (line, number) in lines.into_iter().zip(1..) {
            let value = strip(line);
            let comment = value.starts_with(['#', ';']);
            if value.is_empty() || comment {
                if !comment && let (Some(s), Some(o)) = (&section, &option) {
                    ini.continue_value(s, o, "");
                }
                continue;
            }
            let depth = line.chars().take_while(|&c| is_space(c)).count();
            if let (Some(s), Some(o)) = (&section, &option)
                && depth > indent
            {
                ini.continue_value(s, o, value);
                continue;
            }
            indent = depth;
            if let Some(name) = header(value) {
                if name != "DEFAULT" {
                    ini.sections.entry(name.to_owned()).or_default();
                }
                section = Some(name.to_owned());
                option = None;
                continue;
            }
            let Some(s) = &section else {
                return Err(IniError { line: number, why: "stands before the first [section]" });
            };
            let Some(at) = value.find(['=', ':']) else {
                return Err(IniError { line: number, why: "is neither a [section] nor `name = value`" });
            };
            let name = value[..at].trim_end_matches(is_space).to_lowercase();
            if name.is_empty() {
                return Err(IniError { line: number, why: "has no name before the value" });
            }
            let entry = Entry { lines: vec![strip(&value[at + 1..]).to_owned()], line: number };
            ini.options(s).insert(name.clone(), entry);
            option = Some(name);
        }
        Ok(ini)
    }

    fn options(&mut self, section: &str) -> &mut HashMap<String, Entry> {
        if section == "DEFAULT" { &mut self.defaults } else { self.sections.entry(section.to_owned()).or_default() }
    }

    fn continue_value(&mut self, section: &str, option: &str, value: &str) {
        if let Some(entry) = self.options(section).get_mut(option) {
            entry.lines.push(value.to_owned());
        }
    }

    fn entry(&self, section: &str, option: &str) -> Option<&Entry> {
        let name = option.to_lowercase();
        self.sections.get(section)?.get(&name).or_else(|| self.defaults.get(&name))
    }

    /// The names of the options that stand in `section` itself, sorted.
    pub fn names(&self, section: &str) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.sections.get(section).into_iter().flat_map(|s| s.keys().map(|n| &**n)).collect();
        names.sort_unstable();
        names
    }

    /// The line on which `option` of `section` begins.
    pub fn line(&self, section: &str, option: &str) -> Option<usize> {
        self.entry(section, option).map(|e| e.line)
    }

    /// The value of `option` in `section`, interpolated.
    pub fn get(&self, section: &str, option: &str) -> Result<Option<String>, IniError> {
        let Some(entry) = self.entry(section, option) else {
            return Ok(None);
        };
        let mut out = String::new();
        self.interpolate(section, entry, 1, &mut out)?;
        Ok(Some(out))
    }

    fn interpolate(&self, section: &str, entry: &Entry, depth: usize, out: &mut String) -> Result<(), IniError> {
        let fail = |why| Err(IniError { line: entry.line, why });
        if depth > DEPTH_LIMIT {
            return fail("leads from option to option too often");
        }
        let raw = entry.lines.join("\n");
        let mut rest = raw.trim_end_matches(is_space);
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                out.push('%');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('(') {
                let Some((name, after)) = after.split_once(')').filter(|(n, a)| !n.is_empty() && a.starts_with('s'))
                else {
                    return fail("has a broken `%(name)s`");
                };
                let Some(inner) = self.entry(section, name) else {
                    return fail("names an option that is not there with `%(name)s`");
                };
                self.interpolate(section, inner, depth + 1, out)?;
                rest = &after[1..];
            } else {
                return fail("has a single `%`; a percent sign is written `%%`");
            }
            if out.len() > VALUE_LIMIT {
                return fail("grows too long by `%(name)s`");
            }
        }
        out.push_str(rest);
        Ok(())
    }
}

/// The name in `[name]`: up to the last bracket of the line, and not empty.
fn header(value: &str) -> Option<&str> {
    let rest = value.strip_prefix('[')?;
    rest.rfind(']').filter(|&end| end > 0).map(|end| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(text: &str, section: &str, option: &str) -> Option<String> {
        Ini::parse(text).unwrap().get(section, option).unwrap()
    }

    #[test]
    fn values_are_read_as_python_reads_them() {
        let text = "\u{feff}# comment\n[client]\nShares.Needed = 3\nshares.total: 10 # kept\r\n; c\n\
                    shares.needed=4\nlong = one\n  two\n\n   # no\n   three\nempty =\npct = 100%%\n\
                    [a]b]\nx=1\n[client]\nname = %(pct)s!\n[DEFAULT]\nback = here\n";
        assert_eq!(get(text, "client", "shares.needed").as_deref(), Some("4"));
        assert_eq!(get(text, "client", "SHARES.TOTAL").as_deref(), Some("10 # kept"));
        assert_eq!(get(text, "client", "long").as_deref(), Some("one\ntwo\n\nthree"));
        assert_eq!(get(text, "client", "empty").as_deref(), Some(""));
        assert_eq!(get(text, "client", "name").as_deref(), Some("100%!"));
        assert_eq!(get(text, "a]b", "x").as_deref(), Some("1"));
        assert_eq!(get(text, "client", "back").as_deref(), Some("here"));
        assert_eq!(get(text, "node", "back"), None);
        assert_eq!(Ini::parse(text).unwrap().line("client", "shares.needed"), Some(6));
    }

    #[test]
    fn errors_name_their_line() {
        for (text, line) in [("x = 1\n", 1), ("[a]\nnothing\n", 2), ("[a]\n\n= 3\n", 3)] {
            assert_eq!(Ini::parse(text).unwrap_err().line, line, "{text:?}");
        }
        for text in ["[a]\nx = 50%\n", "[a]\nx = %(y)s\n", "[a]\nx = %(x)s\n", "[a]\nx = %(y\ny = 1\n"] {
            assert_eq!(Ini::parse(text).unwrap().get("a", "x").unwrap_err().line, 2, "{text:?}");
        }
    }
}
