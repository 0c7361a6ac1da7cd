//! The command line: arguments, output, exit codes.

mod alias;
mod args;
mod copy;
mod daemon;
mod doctor;
mod exit;
mod files;
mod folder;
mod link;
mod local;
mod log;
mod manual;
mod mount;
mod mountpoint;
mod movement;
mod neighbours;
mod notify;
mod output;
mod pace;
mod place;
mod put;
mod serving;
mod session;
mod setup;
mod status;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use exit::{Exit, Failure};
use output::Speech;
use session::Session;

/// Runs a command line, program name included, and returns its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    daemon::keep_memory_private();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let outcome = place::refuse_caps(arguments.iter().skip(1).map(OsString::as_os_str)).and_then(|()| run(&arguments));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let name = arguments.first().map_or(OsStr::new("tahoefs"), |a| a.as_os_str());
            let name = Path::new(name).file_name().unwrap_or(name).to_string_lossy().into_owned();
            // Nobody to tell it to is no reason for another exit code.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{name}: {}\n", failure.message.replace('\n', " ")).as_bytes(),
            );
            ExitCode::from(failure.code)
        }
    }
}

fn run(arguments: &[OsString]) -> Result<u8, Failure> {
    // For those who make packages, and for ourselves; no commands of the contract, so that neither help nor completions
    // show them.
    if let [_, command, dir] = arguments
        && command == "generate-docs"
    {
        return manual::generate(Path::new(dir)).map(|()| Exit::Done as u8);
    }
    if let [_, command] = arguments
        && command == doctor::ASK_MOUNT
    {
        return Ok(doctor::ask_mount());
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                output::result(&error.render().to_string())?;
                return Ok(Exit::Done as u8);
            }
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            return Err(Failure::usage(
                text.split("\n\n").next().unwrap_or_default().trim().to_owned() + "; see --help",
            ));
        }
    };
    log::start(cli.verbose, cli.quiet);
    let session = Session { given: cli.node_directory, speech: Speech { quiet: cli.quiet } };
    let session = &session;
    let done = |outcome: Result<(), Failure>| outcome.map(|()| Exit::Done as u8);
    match &cli.command {
        Command::Init(args) => done(setup::init(session, args)),
        Command::Store(command) => done(setup::store(session, command)),
        Command::ExportKeys { file } => done(setup::export_keys(session, file)),
        Command::ImportKeys { file, stores } => done(setup::import_keys(session, file, stores)),
        Command::Mount(args) => mount::mount(session, args),
        Command::Unmount { mountpoint, force } => status::unmount(session, mountpoint, *force),
        Command::Flush { path } => done(status::flush(session, path.as_deref())),
        Command::Status { mountpoint, watch, json } => {
            done(status::status(session, mountpoint.as_deref(), *json, *watch))
        }
        Command::Doctor { json } => doctor::doctor(session, *json),
        Command::CreateAlias { alias } => done(alias::create_alias(session, alias)),
        Command::AddAlias { alias, cap_file } => done(alias::add_alias(session, alias, cap_file.as_deref())),
        Command::ListAliases { json } => done(alias::list_aliases(session, *json)),
        Command::Mkdir { format, place } => done(files::mkdir(session, *format, place.as_deref())),
        Command::Ls { long, json, at } => done(files::ls(session, *long, *json, at)),
        Command::Get { cap_file, operands } => done(files::get(session, cap_file.as_deref(), operands)),
        Command::Put(args) => done(put::put(session, args)),
        Command::Cp(args) => done(copy::cp(session, args)),
        Command::Mv(args) => done(link::mv(session, args)),
        Command::Ln(args) => done(link::ln(session, args)),
        Command::Rm { place } => done(files::rm(session, place)),
    }
}
