//! `create-alias`, `add-alias`, `list-aliases`.

use std::path::Path;

use super::exit::{Exit, Failure};
use super::output;
use super::place::{file_cap, stdin_cap};
use super::session::Session;
use crate::cap::Cap;
use crate::client::Client;
use crate::config::{Aliases, NodeDir, check_alias_name};
use crate::node::NodeFactory;

/// `name:` is `name`, as the tahoe command has it.
fn bare(name: &str) -> &str {
    name.strip_suffix(':').unwrap_or(name)
}

fn check_free(dir: &NodeDir, name: &str) -> Result<(), Failure> {
    check_alias_name(name)?;
    if Aliases::load(dir)?.get(name).is_some() {
        return Err(Failure::new(Exit::Failed, format!("{name}: the alias exists already; nothing was changed")));
    }
    Ok(())
}

/// Makes a directory and an alias for it.
pub async fn create(client: &Client, name: &str) -> Result<Cap, Failure> {
    check_free(client.dir(), name)?;
    let cx = client.cx();
    let named = |e| Failure::node(format_args!("{name}:"), &e);
    let cap = client.create_directory(&cx, &[]).await.map_err(named)?;
    client.sync(&cx).await.map_err(named)?;
    Aliases::add(client.dir(), name, &cap.to_uri())?;
    Ok(cap)
}

pub fn create_alias(session: &Session, name: &str) -> Result<(), Failure> {
    let name = bare(name);
    check_free(&session.node_dir()?, name)?;
    session.with_client(async |client| create(&client, name).await)?;
    session.speech.note(format!("Alias {name}: created."));
    Ok(())
}

pub fn add_alias(session: &Session, name: &str, cap_from: Option<&Path>) -> Result<(), Failure> {
    let name = bare(name);
    let dir = session.node_dir()?;
    check_free(&dir, name)?;
    let cap = match cap_from {
        Some(file) => file_cap(file)?,
        None => stdin_cap()?,
    };
    if !cap.is_directory() {
        return Err(Failure::usage(format!("{name}: the capability is not a directory's, so it can have no alias")));
    }
    dir.make()?;
    Aliases::add(&dir, name, &cap.to_uri())?;
    session.speech.note(format!("Alias {name}: added."));
    Ok(())
}

pub fn list_aliases(session: &Session, json: bool) -> Result<(), Failure> {
    let aliases = Aliases::load(&session.node_dir()?)?;
    let rows = aliases.iter().map(|(name, cap)| {
        let kind = Cap::parse(cap).ok();
        let writeable = kind.is_some_and(|c| c.is_mutable() && !c.is_readonly());
        (name, writeable, cap)
    });
    if json {
        // As `tahoe list-aliases --json`: what is asked for by this command is the caps.
        let object = |(name, writeable, cap): (&str, bool, &str)| {
            let parsed = Cap::parse(cap).ok();
            let readonly = parsed.map(|c| c.readonly().to_uri());
            let value = serde_json::json!({ "readwrite": writeable.then_some(cap), "readonly": readonly });
            (name.to_owned(), value)
        };
        return output::json(&rows.map(object).collect::<serde_json::Map<_, _>>());
    }
    let text: String = rows.map(|(name, _, cap)| format!("{name}: {cap}\n")).collect();
    output::result(&text)
}
