//! Man pages and completions, made from the command line's own definition and from `docs/SEMANTICS.md`, for packages.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Cli;
use super::exit::Failure;

/// What the foot of each page says.
const SOURCE: &str = concat!("tahoefs ", env!("CARGO_PKG_VERSION"));
/// When the manual was last gone over; not the day of the build, so that builds can be repeated.
const DATE: &str = "2026-11-23";
const SEMANTICS: &str = include_str!("../../docs/SEMANTICS.md");

/// What stands at the end of tahoefs(1).
const MAIN_SECTIONS: &str = "
## Exit status

- 0: done
- 1: the operation failed
- 2: the arguments, a capability or a setting cannot be
- 3: a name, an alias, a file or the node directory was not found
- 4: not enough shares, servers or room, or no answer in time
- 5: the capability gives no write authority
- 6: mount or FUSE trouble
- 7: an unmount left work behind: not everything is on the grid; without `--force` the mount stays

## Capabilities

A capability is a secret, and everybody can read arguments. It is taken from standard input (`-`) or from a file
(`--cap-file`), never as an argument; `tahoefs add-alias` gives it a name.

## Environment

`TAHOEFS_NODE_DIRECTORY` names the node directory unless `-d` does. `TAHOEFS_LOG` chooses what is logged in
place of `-v` and `-q`, such as `info` or `info,tahoefs::grid=debug`.

## Files

`~/.tahoefs`, else `~/.tahoe`, is the node directory. What is tahoefs's own stands in its subfolder `tahoefs`.

## See also

tahoefs-semantics(7), mount.tahoefs(8), mount(8), fusermount3(1)
";
/// What stands at the end of a command's page.
const COMMAND_SECTIONS: &str = "
## See also

tahoefs(1), tahoefs-semantics(7)
";
/// The same for `mount` and `unmount`.
const MOUNT_SECTIONS: &str = "
## See also

tahoefs(1), mount.tahoefs(8) for the mount options, tahoefs-semantics(7)
";

/// Writes `man/*.1`, `man/tahoefs-semantics.7` and `completions/` (bash, zsh, fish) into `dir`.
///
/// # Errors
/// They cannot be written.
pub fn generate(dir: &Path) -> Result<(), Failure> {
    write(dir).map_err(|e| Failure::io(dir.display(), &e))
}

fn write(dir: &Path) -> io::Result<()> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    pages(&command, &man)?;
    fs::write(man.join("tahoefs-semantics.7"), semantics())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "tahoefs", &completions)?;
    }
    Ok(())
}

/// The page of `command`, and those of its subcommands.
fn pages(command: &clap::Command, dir: &Path) -> io::Result<()> {
    let sections = match command.get_display_name().unwrap_or(command.get_name()) {
        "tahoefs" => MAIN_SECTIONS,
        "tahoefs-mount" | "tahoefs-unmount" => MOUNT_SECTIONS,
        _ => COMMAND_SECTIONS,
    };
    let page = Man::new(command.clone()).manual("tahoefs").source(SOURCE).date(DATE);
    let mut text = Vec::new();
    page.render(&mut text)?;
    // Breaks around a blank line are one too many.
    let text = String::from_utf8_lossy(&text).replace("\n.br\n\n.br\n", "\n.sp\n");
    let text = text + &roff(sections);
    fs::write(dir.join(page.get_filename()), ascii(&text))?;
    command.get_subcommands().filter(|c| !c.is_hide_set()).try_for_each(|c| pages(c, dir))
}

/// tahoefs-semantics(7).
fn semantics() -> String {
    let body = SEMANTICS.find("\n## ").map_or("", |at| &SEMANTICS[at..]);
    let head = format!(
        ".TH tahoefs\\-semantics 7 {DATE} \"{SOURCE}\" tahoefs\n.SH NAME\ntahoefs\\-semantics \\- what a program can \
         rely on in a tahoefs mount\n"
    );
    ascii(&(head + &roff(body) + &roff(COMMAND_SECTIONS.replace(", tahoefs-semantics(7)", "").as_str())))
}

/// Turns Markdown into man macros: `##` headings, lists of one level, paragraphs, code between backticks. The names of
/// tests behind a sentence are left out.
fn roff(markdown: &str) -> String {
    let mut out = String::new();
    let mut is_first = false;
    for block in blocks(markdown) {
        // A paragraph under its heading needs no macro.
        let starts_section = std::mem::replace(&mut is_first, block.starts_with("## "));
        if let Some(heading) = block.strip_prefix("## ") {
            out.push_str(&format!(".SH \"{}\"\n", inline(heading).to_uppercase()));
        } else if let Some(item) = block.strip_prefix("- ") {
            out.push_str(&format!(".IP \\(bu 2\n{}\n", inline(without_tests(item))));
        } else {
            out.push_str(if starts_section { "" } else { ".PP\n" });
            out.push_str(&format!("{}\n", inline(without_tests(&block))));
        }
    }
    out
}

/// Headings, items and paragraphs, each on one line.
fn blocks(markdown: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut open = false;
    for line in markdown.lines() {
        let text = line.trim();
        let starts = text.starts_with("## ") || text.starts_with("- ");
        if text.is_empty() {
            open = false;
        } else if open && !starts {
            let last = blocks.last_mut().expect("an open block");
            last.push(' ');
            last.push_str(text);
        } else {
            blocks.push(text.to_owned());
            open = !text.starts_with("## ");
        }
    }
    blocks
}

/// `text` without the code spans at its end if they name tests.
fn without_tests(text: &str) -> &str {
    let mut end = text.len();
    let mut names = false;
    loop {
        let head = text[..end].trim_end_matches([' ', ',']).trim_end_matches("(unit tests)").trim_end();
        let Some(open) = head.strip_suffix('`').and_then(|h| h.rfind('`')) else { break };
        names |= head[open..].contains("::");
        // A sentence may end in code itself; the names stand behind its full stop.
        if !head[..open].trim_end().ends_with(['.', ',', ')', '`']) {
            break;
        }
        end = open;
    }
    if names { text[..end].trim_end() } else { text }
}

/// Escapes what troff would take for its own, and sets code in bold.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut is_code = false;
    for c in text.chars() {
        match c {
            '`' => {
                is_code = !is_code;
                out.push_str(if is_code { "\\fB" } else { "\\fR" });
            }
            '\\' => out.push_str("\\e"),
            '-' if is_code => out.push_str("\\-"),
            c => out.push(c),
        }
    }
    if out.starts_with(['.', '\'']) { format!("\\&{out}") } else { out }
}

/// Spells what is not ASCII as troff's characters, which every troff reads whatever the locale.
fn ascii(page: &str) -> String {
    page.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", c as u32) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_man_macros() {
        let text = "## What it is\n\nA `-o` pair\nof lines: a\\b.\n\n- one\n  more. `a::b`,\n  `c::d`\n- .two `x`\n";
        let wanted = ".SH \"WHAT IT IS\"\nA \\fB\\-o\\fR pair of lines: a\\eb.\n.IP \\(bu 2\none more.\n\
                      .IP \\(bu 2\n\\&.two \\fBx\\fR\n";
        assert_eq!(roff(text), wanted);
        assert_eq!(without_tests("Shown. `fs::names` (unit tests), `interop`"), "Shown.");
        assert_eq!(without_tests("Ends with `code`"), "Ends with `code`");
        assert_eq!(without_tests("Many, or `-o deadline=`). `fs::x`"), "Many, or `-o deadline=`).");
        assert_eq!(ascii("a\u{2026}"), "a\\[u2026]");
    }

    #[test]
    fn the_page_of_semantics_says_everything_but_the_tests() {
        let page = semantics();
        assert!(page.contains(".SH \"DURABILITY\"") && page.contains("survives power loss"));
        assert!(!page.contains("::"), "{page}");
        assert!(page.matches(".IP").count() > 20);
    }
}
