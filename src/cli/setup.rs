//! `init`, `store`, `export-keys`, `import-keys`.

use std::path::{Path, PathBuf};

use super::args;
use super::exit::{Exit, Failure};
use super::output::{self, Speech};
use super::session::Session;
use crate::config::{self, Imported, InitOptions, Located, NodeDir, ShareCounts, Stores};
use crate::util::Rng;

pub fn init(session: &Session, args: &args::Init) -> Result<(), Failure> {
    let total = args.total.unwrap_or(args.stores);
    let happy = args.happy.unwrap_or(args.stores.min(total));
    let needed = args.needed.unwrap_or((u32::from(total) * 3 / 5).max(1) as u16);
    let options = InitOptions { stores: args.stores, shares: ShareCounts { needed, happy, total } };
    let dir = match session.locate()? {
        Located::Absent(dir) => dir,
        Located::Found(dir) => {
            return Err(Failure::new(
                Exit::Failed,
                format!("{} is a node directory already; nothing was changed", dir.path().display()),
            ));
        }
    };
    config::init(&dir, &options, &Rng::os())?;
    announce(session.speech, &dir, &options);
    Ok(())
}

/// Says what was made and what must be saved.
pub fn announce(speech: Speech, dir: &NodeDir, options: &InitOptions) {
    let ShareCounts { needed, total, .. } = options.shares;
    let stores = options.stores;
    speech.note(format!(
        "Made {} with an embedded grid of {stores} stores; any {needed} of the {total} shares of a file suffice to \
         read it.",
        dir.path().display()
    ));
    speech.note("Stores on one disk are no backup: move them to others with `tahoefs store move NAME DIR`.");
    speech.note("Save the keys elsewhere, or all is lost with this directory: `tahoefs export-keys FILE`.");
}

pub fn store(session: &Session, command: &args::Store) -> Result<(), Failure> {
    let dir = session.node_dir()?;
    match command {
        args::Store::List => list_stores(&dir),
        args::Store::Add { dir: path } => {
            let entry = config::add_store(&dir, path, &Rng::os())?;
            session.speech.note(format!("{} is the store `{}`.", path.display(), entry.name));
            Ok(())
        }
        args::Store::Move { name, dir: path } => {
            let bar = session.speech.waiting("moving the store");
            let moved = config::move_store(&dir, name, path);
            bar.finish_and_clear();
            moved?;
            session.speech.note(format!("The store `{name}` is at {} now.", path.display()));
            Ok(())
        }
        args::Store::Remove { name } => {
            let path = config::remove_store(&dir, name)?.directory(&dir);
            session.speech.note(format!("The store `{name}` is not used any more; {} stays as it is.", path.display()));
            Ok(())
        }
    }
}

fn list_stores(dir: &NodeDir) -> Result<(), Failure> {
    let mut text = String::new();
    for entry in Stores::load(dir)?.entries {
        let path = entry.directory(dir);
        let state = entry.verify_at(&path).err().map_or_else(|| "ok".to_owned(), |why| format!("unreachable: {why}"));
        text.push_str(&format!("{}\t{}\t{state}\n", output::shown(&entry.name), path.display()));
    }
    output::result(&text)
}

pub fn export_keys(session: &Session, file: &Path) -> Result<(), Failure> {
    config::export_keys(&session.node_dir()?, file, &Rng::os())?;
    session.speech.note(format!(
        "{} holds the keys to all that is stored. Keep it safe and away from this computer.",
        file.display()
    ));
    Ok(())
}

pub fn import_keys(session: &Session, file: &Path, stores: &[PathBuf]) -> Result<(), Failure> {
    let dir = match session.locate()? {
        Located::Absent(dir) => dir,
        Located::Found(dir) => {
            return Err(Failure::new(
                Exit::Failed,
                format!("{} is a node directory already; import into another with -d DIR", dir.path().display()),
            ));
        }
    };
    let imported = config::import_keys(&dir, file, stores)?;
    let Imported { adopted, missing, shares } = imported;
    let all = adopted.len() + missing.len();
    session.speech.note(format!("Made {} with {} of {all} stores.", dir.path().display(), adopted.len()));
    for entry in &adopted {
        let name = output::shown(&entry.name);
        session.speech.note(format!("The store `{name}` is at {}.", entry.directory(&dir).display()));
    }
    for entry in &missing {
        session.speech.note(format!(
            "The store `{}` is missing: it was at {}. Bring it back there, or import again with --store DIR.",
            output::shown(&entry.name),
            entry.path.display()
        ));
    }
    let (few, there) = (usize::from(shares.needed), adopted.len());
    if all > 0 && there < few {
        session.speech.note(format!("With {there} stores most files cannot be read: {few} shares are needed of each."));
    } else if all > 0 && there < usize::from(shares.happy) {
        session.speech.note(format!(
            "With {there} stores nothing new can be stored: `shares.happy` in tahoe.cfg asks for {}.",
            shares.happy
        ));
    }
    Ok(())
}
