//! The house rules that neither the compiler nor clippy knows.

use std::fs;
use std::path::{Path, PathBuf};

/// Which room imports which. A room imports those on the rows below its own, and those that it reaches by arrows.
const ROOMS: &[&str] = &[
    "main -> cli",
    "cli -> control",
    "fuse, client, check",
    "fs",
    "writeback -> journal, dirnode",
    "immutable, mutable",
    "grid, node, cache",
    "storage -> config",
    "share -> merkle, codec",
    "cap -> crypto -> util",
];

/// Stricter than the table: what a room may not import although it stands lower.
const NEVER: &[(&str, &[&str])] =
    &[("fs", &["grid", "storage", "immutable", "mutable"]), ("codec", &["cap", "crypto", "util"])];

/// Where `unsafe` may stand: the kernels and the FUSE glue.
const UNSAFE_ROOMS: &[&str] = &["codec", "crypto", "fuse"];

/// Further files in which `unsafe` may stand, each with its reason.
const UNSAFE_FILES: &[(&str, &str)] = &[("src/cli/daemon.rs", "forks before the runtime starts")];

/// The longest file under `src/`, in lines.
const LONGEST: usize = 800;

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut complaints = Vec::new();
    let mut sources = 0;
    for path in files_below(root, root) {
        let Ok(text) = fs::read_to_string(root.join(&path)) else {
            continue;
        };
        let path = path.to_str().expect("a file name in UTF-8");
        sources += usize::from(path.starts_with("src/") && path.ends_with(".rs"));
        complaints.extend(complaints_about(path, &text));
    }
    assert!(sources > 2, "found only {sources} source files");
    for (file, _) in UNSAFE_FILES {
        if !root.join(file).exists() {
            complaints.push(format!("{file}: is gone; take it off the list of files with unsafe code"));
        }
    }
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// Every file of the checkout, relative to `root`, but for what the build makes.
fn files_below(root: &Path, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of the checkout") {
        let entry = entry.expect("its entry");
        let path = entry.path();
        let name = entry.file_name();
        if entry.file_type().expect("its type").is_dir() {
            if name != "target" && name != ".git" {
                found.extend(files_below(root, &path));
            }
        } else if name != ".git" && path.extension().is_none_or(|e| e != "profraw") {
            found.push(path.strip_prefix(root).expect("below the root").to_owned());
        }
    }
    found
}

/// What is wrong with the file at `path` (relative, with slashes), each with its line.
fn complaints_about(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut complain = |line: usize, what: String| found.push(format!("{path}:{line}: {what}"));
    for (i, line) in text.lines().enumerate() {
        for place in forbidden_places(line) {
            complain(i + 1, format!("names {place}, which is a place on somebody's machine"));
        }
        if !path.starts_with("tests/data/") {
            if line.contains('\t') {
                complain(i + 1, "has a tab".into());
            }
            if line.ends_with([' ', '\r']) {
                complain(i + 1, "ends in white space".into());
            }
        }
    }
    if !path.ends_with(".rs") {
        return found;
    }

    let tokens = tokens_of(text);
    let room = room_of(path);
    for (i, token) in tokens.iter().enumerate() {
        let line = token.line;
        let next = tokens.get(i + 1).map_or("", |t| t.text);
        match token.text {
            "todo" | "unimplemented" | "dbg" if next == "!" => complain(line, format!("has a {}!", token.text)),
            "fuser" if room.is_some_and(|room| room != "fuse") => complain(line, "has fuser outside src/fuse".into()),
            "unsafe"
                if room.is_some_and(|room| !UNSAFE_ROOMS.contains(&room))
                    && !UNSAFE_FILES.iter().any(|(file, _)| *file == path) =>
            {
                complain(line, "has unsafe code, which belongs to kernels and FUSE glue".into());
            }
            other if !other.is_ascii() => complain(line, format!("has {other:?} in its code")),
            _ => {}
        }
    }
    if let Some(room) = room {
        let lines = text.lines().count();
        if lines > LONGEST {
            complain(lines, format!("is longer than {LONGEST} lines"));
        }
        for (line, import) in imports_of(path, &tokens) {
            if let Err(why) = may_import(room, import) {
                complain(line, why);
            }
        }
    }
    found
}

/// The room that a file under `src/` belongs to.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

/// Whether `room` may import `import`; if not, why.
fn may_import(room: &str, import: &str) -> Result<(), String> {
    let row_of = |name: &str| ROOMS.iter().position(|row| rooms_in(row).any(|r| r == name));
    if room == import || room == "lib" {
        return Ok(());
    }
    let row = row_of(room).ok_or_else(|| format!("{room} is no room of the table in {}", file!()))?;
    let import_row = row_of(import).ok_or_else(|| format!("{room} imports {import}, which is no room"))?;
    let is_never = NEVER.iter().any(|(r, never)| *r == room && never.contains(&import));
    if is_never || import_row < row || (import_row == row && !reaches(ROOMS[row], room, import)) {
        return Err(format!("{room} imports {import}, which is not below it"));
    }
    Ok(())
}

fn rooms_in(row: &str) -> impl Iterator<Item = &str> {
    row.split(',').flat_map(|chain| chain.split("->")).map(str::trim)
}

/// Whether arrows lead from `from` to `to` in `row`.
fn reaches(row: &str, from: &str, to: &str) -> bool {
    row.split(',').any(|chain| {
        let chain: Vec<&str> = chain.split("->").map(str::trim).collect();
        let place = |name| chain.iter().position(|room| *room == name);
        place(from).zip(place(to)).is_some_and(|(from, to)| from < to)
    })
}

/// The rooms that a file names, with the lines: through `crate::`, through enough `super::`, or, in the binary,
/// through the library's name.
fn imports_of<'a>(path: &str, tokens: &[Token<'a>]) -> Vec<(usize, &'a str)> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let file_depth = inside.split('/').filter(|part| !["lib", "main"].contains(part)).count();
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text);
    let is_path = |i: usize| text(i) == ":" && text(i + 1) == ":";
    let mut found = Vec::new();
    let mut inline_modules = Vec::new();
    let mut braces = 0;
    let mut i = 0;
    while i < tokens.len() {
        let mut after = None;
        match text(i) {
            "{" => {
                braces += 1;
                if i >= 2 && text(i - 2) == "mod" {
                    inline_modules.push(braces);
                }
            }
            "}" => {
                if inline_modules.last() == Some(&braces) {
                    inline_modules.pop();
                }
                braces -= 1;
            }
            "crate" if is_path(i + 1) => after = Some(i + 3),
            "tahoefs" if is_path(i + 1) => after = Some(i + 3),
            "super" if is_path(i + 1) => {
                let mut depth = 1;
                while text(i + 3) == "super" && is_path(i + 4) {
                    depth += 1;
                    i += 3;
                }
                if depth == file_depth + inline_modules.len() {
                    after = Some(i + 3);
                }
            }
            _ => {}
        }
        match after {
            Some(at) if text(at) == "{" => found.extend(heads_of_group(&tokens[at..])),
            Some(at) if at < tokens.len() => found.push((tokens[at].line, text(at))),
            _ => {}
        }
        i += 1;
    }
    found
}

/// The first names of the paths in a group `{a::b, c::{d, e}}`, which `tokens` start with.
fn heads_of_group<'a>(tokens: &[Token<'a>]) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    let mut depth = 0;
    for pair in tokens.windows(2) {
        match pair[0].text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && ["{", ","].contains(&pair[0].text) && pair[1].text != "}" {
            found.push((pair[1].line, pair[1].text));
        }
    }
    found
}

/// The places in a line that no file of the project should name.
fn forbidden_places(line: &str) -> Vec<&'static str> {
    // Put together here, so that this file does not name them.
    const PLACES: [&str; 3] = [concat!("/", "work"), concat!("..", "/shared"), concat!("/", "root/")];
    let is_word = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    let stands_in = |place: &&str| {
        line.match_indices(*place).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + place.len()..].chars().next();
            !before.is_some_and(is_word) && (place.ends_with('/') || !after.is_some_and(is_word))
        })
    };
    PLACES.into_iter().filter(stands_in).collect()
}

/// A word or a sign of Rust code.
#[derive(Debug)]
struct Token<'a> {
    line: usize,
    text: &'a str,
}

/// The code of a Rust file without comments and the contents of literals.
fn tokens_of(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (length, is_code) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment(rest), false)
        } else if let Some(length) = raw_string(rest) {
            (length, false)
        } else if first == '"' {
            (quoted(rest, '"'), false)
        } else if first == '\'' {
            (char_literal(rest), false)
        } else if word > 0 {
            (word, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        if is_code {
            tokens.push(Token { line, text: &rest[..length] });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of the raw string that `rest` starts with, if it does.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let after = &rest[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |i| i + end.len());
    Some(rest.len() - body.len() + length)
}

/// The length of the literal that `rest` starts with, up to the next `quote` that no backslash precedes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return i + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal, or 1 for the quote of a lifetime or label.
fn char_literal(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(rest, '\''),
        _ => 1,
    }
}

#[test]
fn the_rules_catch_what_breaks_them() {
    let bad = [
        ("src/fs/ops.rs", "use crate::grid::Grid;", "fs imports grid"),
        ("src/fs/ops.rs", "use crate::{util::Cx, storage::{self, Server}};", "fs imports storage"),
        ("src/fs/ops.rs", "fn f() -> crate::fuse::Error {}", "fs imports fuse"),
        ("src/fs/mod.rs", "use super::mutable::File;", "fs imports mutable"),
        ("src/fs/ops.rs", "mod tests { use super::super::super::client::X; }", "fs imports client"),
        ("src/util/a.rs", "#[cfg(test)] mod tests { use crate::crypto::Tag; }", "util imports crypto"),
        ("src/codec/mod.rs", "use crate::util::Cpu;", "codec imports util"),
        ("src/journal/mod.rs", "pub(crate) use crate::writeback::X;", "journal imports writeback"),
        ("src/dirnode/mod.rs", "use crate::journal::X;", "dirnode imports journal"),
        ("src/check/mod.rs", "use crate::client::X;", "check imports client"),
        ("src/control/mod.rs", "use crate::cli::X;", "control imports cli"),
        ("src/cellar/mod.rs", "use crate::util::X;", "cellar is no room"),
        ("src/cli/mod.rs", "crate::cellar::x()", "imports cellar, which is no room"),
        ("src/fs/mod.rs", "use fuser::Errno;", "fuser outside"),
        ("src/fs/mod.rs", "fn f() { unsafe { g() } }", "unsafe code"),
        ("src/fs/mod.rs", "fn f() { let c = '\"'; todo!(\"later\") }", "has a todo!"),
        ("tests/it/x.rs", "fn f() { r#\"a \"quoted\" word\"#; dbg!(1) }", "has a dbg!"),
        ("src/fs/mod.rs", "fn f() { let gr\u{f6}\u{df}e = 1; }", "in its code"),
        ("src/fs/mod.rs", "fn f() {} ", "white space"),
        ("README.md", "a\tb", "tab"),
        ("tests/run", concat!("cat /", "root/x"), "somebody's machine"),
        ("docs/X.md", concat!("see ..", "/shared/y"), "somebody's machine"),
        ("docs/X.md", concat!("below `/", "work`"), "somebody's machine"),
    ];
    for (path, text, expected) in bad {
        let found = complaints_about(path, text);
        assert!(found.len() == 1 && found[0].contains(expected), "{path}: {text}\nyields {found:?}");
    }
    let long = "// a line\n".repeat(LONGEST + 1);
    assert_eq!(complaints_about("src/fs/mod.rs", &long).len(), 1);

    let good = [
        ("src/fs/ops.rs", "use crate::fs::X; use crate::{writeback, node::Table}; use super::handles;"),
        ("src/share/mod.rs", "mod immutable; mod tests { use super::immutable::Layout; use super::super::merkle; }"),
        ("src/share/lease.rs", "use super::immutable::Layout; // not crate::fs::X\n/* crate::fuse /* */ dbg!() */"),
        ("src/cli/mod.rs", "use crate::control; use crate::fuse::mount; struct A<'a>(&'a str); const X: char = '\\'';"),
        ("src/main.rs", "fn main() { tahoefs::cli::run() }"),
        ("src/cap/mod.rs", "use crate::util::base32; const S: &str = \"crate::fs::X todo!() gr\u{f6}\u{df}e\";"),
        ("src/fuse/glue.rs", "use fuser::Session; fn f() { unsafe { g() } }"),
        ("docs/X.md", concat!("client/", "worker.rs and target", "/work.rs")),
        ("tests/data/x.json", "{ \t "),
    ];
    for (path, text) in good {
        assert_eq!(complaints_about(path, text), [""; 0], "{path}: {text}");
    }
}
