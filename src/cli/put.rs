//! `put`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64;
use indicatif::ProgressBar;
use zeroize::Zeroizing;

use super::args::{FileFormat, Put};
use super::exit::{Exit, Failure};
use super::files::{modify, split_last};
use super::output;
use super::place::Place;
use super::session::Session;
use crate::cap::Cap;
use crate::client::{Client, ResolveError};
use crate::config::{NodeDir, read_optional};
use crate::crypto::SigningKey;
use crate::node::{Edit, Expect, Name, NodeFactory, Source};
use crate::util::Cx;

/// The largest mutable file that is written, in bytes: it is in memory whole.
const MUTABLE_LIMIT: u64 = 1 << 30;

pub fn put(session: &Session, args: &Put) -> Result<(), Failure> {
    let (file, place) = match (&args.cap_file, args.operands.as_slice()) {
        (Some(_), [_, _]) => return Err(Failure::usage("put --cap-file takes one FILE and no WHERE")),
        (_, operands) => (operands.first(), operands.get(1)),
    };
    let place = match (place, &args.cap_file) {
        (None, None) => None,
        (place, cap_file) => Some(Place::of(place.map(String::as_str), cap_file.as_deref())?),
    };
    let file = file.filter(|f| *f != "-").map(Path::new);
    if file.is_none() && place == Some(Place::Stdin) {
        return Err(Failure::usage("put: the file and the capability cannot both come from standard input"));
    }
    if args.format == Some(FileFormat::Mdmf) {
        return Err(Failure::usage("put --format MDMF is not supported yet; SDMF is"));
    }
    let key = match &args.private_key_path {
        Some(_) if args.format != Some(FileFormat::Sdmf) => {
            return Err(Failure::usage("put --private-key-path is for mutable files: add --format SDMF"));
        }
        Some(path) => Some(read_key(path)?),
        None => None,
    };
    session.with_client(async |client| {
        let input = Input::open(client.dir(), file)?;
        match place {
            None => {
                let cap = store(session, &client, args.format, key, &input).await?;
                client.sync(&client.cx()).await.map_err(|e| Failure::node(&input.name, &e))?;
                output::result(&format!("{}\n", cap.to_uri()))
            }
            Some(place) => put_at(session, &client, args.format, key, &input, &place).await,
        }
    })
}

/// Stores the input as a new file and returns its cap.
async fn store(
    session: &Session,
    client: &Client,
    format: Option<FileFormat>,
    key: Option<SigningKey>,
    input: &Input,
) -> Result<Cap, Failure> {
    let cx = client.cx();
    let named = |e| Failure::node(&input.name, &e);
    if format == Some(FileFormat::Sdmf) {
        return client.create_mutable(&cx, key, input.whole(&cx).await?).await.map_err(named);
    }
    // The content is read twice: once for its key, once to be sent.
    let bar = session.speech.bytes(&input.name, input.size.saturating_mul(2));
    let source = FileSource { file: Arc::clone(&input.file), size: input.size, bar: bar.clone() };
    let stored = client.store_file(&cx, Arc::new(source)).await.map_err(named);
    bar.finish_and_clear();
    stored
}

async fn put_at(
    session: &Session,
    client: &Client,
    format: Option<FileFormat>,
    key: Option<SigningKey>,
    input: &Input,
    place: &Place,
) -> Result<(), Failure> {
    let cx = client.cx();
    let shown = place.shown();
    let named = |e| Failure::node(&shown, &e);
    let root = place.root(client)?;
    let mut path: Vec<Name> = place.path().to_vec();
    if matches!(place, Place::Alias { slash, path, .. } if *slash || path.is_empty()) {
        let name = input.base_name.as_deref().ok_or_else(|| {
            Failure::at(Exit::Usage, &shown, "say the name that what comes from standard input is to have")
        })?;
        path.push(name.into());
    }
    let found = match client.resolve(&cx, &root, &path).await {
        Ok(found) => Some(found),
        Err(ResolveError::NotFound { .. }) => None,
        Err(e) => return Err(Failure::resolve(&place.base(), &e)),
    };
    if let Some(found) = &found {
        if found.cap.is_directory() {
            return Err(Failure::at(Exit::Failed, &shown, "is a directory; add a slash to put the file into it"));
        }
        if found.cap.is_mutable() && format.is_none() || found.edge.is_none() {
            let file = client.writeable(&found.cap).map_err(named)?;
            file.overwrite(&cx, input.whole(&cx).await?).await.map_err(named)?;
            return client.sync(&cx).await.map_err(named);
        }
    }
    // Whether the directory can be changed is known before anything is uploaded.
    let Some((above, name)) = split_last(&path) else {
        return Err(Failure::at(Exit::Usage, &shown, "say the name that the file is to have"));
    };
    let parent = client.make_directories(&cx, &root, above).await;
    let parent = parent.map_err(|e| Failure::resolve(&place.base(), &e))?;
    if !client.directory(&parent).map_err(named)?.is_writeable() {
        return Err(named(crate::node::NodeError::NotWriteable));
    }
    let cap = store(session, client, format, key, input).await?;
    let edit = Edit::Link { name: name.clone(), cap, metadata: None, expect: Expect::Anything };
    modify(client, &cx, &parent, edit, &shown).await
}

/// What is to be stored: a file, or standard input spooled into one without a name.
struct Input {
    file: Arc<File>,
    size: u64,
    name: String,
    base_name: Option<String>,
}

impl Input {
    fn open(dir: &NodeDir, path: Option<&Path>) -> Result<Input, Failure> {
        let name = path.map_or_else(|| "standard input".to_owned(), |p| p.display().to_string());
        let failed = |e: io::Error| Failure::io(&name, &e);
        let base_name = match path.and_then(Path::file_name) {
            None => None,
            Some(base) => match base.to_str() {
                Some(base) => Some(base.to_owned()),
                None => {
                    return Err(Failure::usage(format!("{name}: its name is not UTF-8; say WHERE it goes")));
                }
            },
        };
        let file = match path {
            Some(path) => {
                let file = File::open(path).map_err(failed)?;
                if !file.metadata().map_err(failed)?.is_file() {
                    return Err(Failure::new(Exit::Failed, format!("{name}: is not a regular file")));
                }
                file
            }
            None => spool(dir)?,
        };
        let size = file.metadata().map_err(failed)?.len();
        Ok(Input { file: Arc::new(file), size, name, base_name })
    }

    /// All of it, for a mutable file.
    async fn whole(&self, cx: &Cx) -> Result<Bytes, Failure> {
        if self.size > MUTABLE_LIMIT {
            return Err(Failure::node(&self.name, &crate::node::NodeError::TooLarge));
        }
        let source = FileSource { file: Arc::clone(&self.file), size: self.size, bar: ProgressBar::hidden() };
        let read = cx.run(source.read_at(0, self.size as usize)).await;
        let read = read.map_err(|e| Failure::node(&self.name, &e.into()))?;
        read.map_err(|e| Failure::io(&self.name, &e))
    }
}

/// Copies standard input into a file of mode 0600 that has no name any more: the convergence key needs a pass of its own.
fn spool(dir: &NodeDir) -> Result<File, Failure> {
    let folder = dir.make_own("tmp")?;
    let path = folder.join(format!("put{}", std::process::id()));
    let failed = |e: io::Error| Failure::io(path.display(), &e);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    io::copy(&mut io::stdin().lock(), &mut file).map_err(|e| Failure::io("standard input", &e))?;
    Ok(file)
}

/// A file that is uploaded; moves a progress bar.
struct FileSource {
    file: Arc<File>,
    size: u64,
    bar: ProgressBar,
}

#[async_trait]
impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        let read = tokio::task::spawn_blocking(move || {
            let mut data = vec![0; length];
            file.read_exact_at(&mut data, offset).map(|()| data)
        });
        let data = read.await.map_err(io::Error::other)??;
        self.bar.inc(length as u64);
        Ok(data.into())
    }
}

/// An RSA key in PEM, PKCS#8 or PKCS#1.
fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let shown = path.display();
    let text = read_optional(path)?;
    let text = text.ok_or_else(|| Failure::new(Exit::NotFound, format!("{shown}: not found")))?;
    let der = if let Some(der) = pem(&text, "PRIVATE KEY") {
        der
    } else if let Some(der) = pem(&text, "RSA PRIVATE KEY") {
        pkcs8_of(&der)
    } else {
        return Err(Failure::at(Exit::Usage, &shown, "holds no unencrypted RSA private key in PEM"));
    };
    SigningKey::from_pkcs8_der(&der).map_err(|e| Failure::usage(format!("{shown}: {e}")))
}

fn pem(text: &str, label: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body = Zeroizing::new(body.split_ascii_whitespace().collect::<String>());
    BASE64.decode(body.as_bytes()).ok().map(Zeroizing::new)
}

/// A PKCS#1 key in the PKCS#8 that OpenSSL makes of it: version 0, rsaEncryption with NULL, the key.
fn pkcs8_of(pkcs1: &[u8]) -> Zeroizing<Vec<u8>> {
    const HEAD: [u8; 18] =
        [0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let mut body = Zeroizing::new(Vec::with_capacity(pkcs1.len() + 64));
    body.extend_from_slice(&HEAD);
    push_der(&mut body, 0x04, pkcs1);
    let mut out = Zeroizing::new(Vec::with_capacity(body.len() + 8));
    push_der(&mut out, 0x30, &body);
    out
}

fn push_der(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let bytes = &bytes[bytes.iter().take_while(|&&b| b == 0).count()..];
        out.push(0x80 | bytes.len() as u8);
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(content);
}
