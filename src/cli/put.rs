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
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::args::{FileFormat, Put};
use super::exit::{Exit, Failure};
use super::files::{modify, split_last};
use super::output;
use super::place::Place;
use super::session::Session;
use crate::cap::{Cap, MutableFormat};
use crate::client::{Client, ClientOptions, ResolveError};
use crate::config::{NodeDir, read_optional};
use crate::crypto::SigningKey;
use crate::immutable::{UploadResults, Uploaded};
use crate::mutable::MAX_CONTENT;
use crate::node::{Changes, Edit, Expect, Name, NodeFactory, Source};
use crate::util::{Cx, base32};

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
    let key = match &args.private_key_path {
        Some(_) if mutable(args.format).is_none() => {
            return Err(Failure::usage("put --private-key-path is for mutable files: add --format SDMF or MDMF"));
        }
        Some(path) => Some(read_key(path)?),
        None => None,
    };
    session.with_tree(true, ClientOptions::default(), async |client| {
        let input = Input::open(client.dir(), file)?;
        match place {
            None => {
                let stored = store(session, &client, args.format, key, &input).await?;
                client.sync(&client.cx()).await.map_err(|e| Failure::node(&input.name, &e))?;
                if args.json { say(&stored) } else { output::result(&format!("{}\n", stored.cap.to_uri())) }
            }
            Some(place) => {
                let stored = put_at(session, &client, args.format, key, &input, &place).await?;
                if args.json { say(&stored) } else { Ok(()) }
            }
        }
    })
}

/// Prints how an upload went.
fn say(uploaded: &Uploaded) -> Result<(), Failure> {
    let Uploaded { cap, results } = uploaded;
    let ueb = results.ueb.as_ref().map(|ueb| {
        json!({
            "codec_name": ueb.codec_name,
            "codec_params": ueb.codec_params.map(|p| p.to_string()),
            "tail_codec_params": ueb.tail_codec_params.map(|p| p.to_string()),
            "segment_size": ueb.segment_size,
            "num_segments": ueb.num_segments,
            "size": ueb.size,
            "needed_shares": ueb.needed_shares,
            "total_shares": ueb.total_shares,
            "crypttext_hash": ueb.crypttext_hash.map(|hash| base32::encode(&hash)),
            "crypttext_root_hash": base32::encode(&ueb.crypttext_root_hash),
            "share_root_hash": base32::encode(&ueb.share_root_hash),
        })
    });
    let share_map: Map<String, Value> =
        results.share_map.iter().map(|(share, servers)| (share.to_string(), json!(servers))).collect();
    let timings = results.timings;
    output::json(&json!({
        "cap": cap.to_uri(),
        "file_size": results.file_size,
        "pushed_shares": results.pushed_shares,
        "preexisting_shares": results.preexisting_shares,
        "happiness": results.happiness,
        "sharemap": share_map,
        "servermap": results.server_map,
        "nicknames": results.nicknames,
        "timings": {
            "storage_index": timings.storage_index.as_secs_f64(),
            "peer_selection": timings.server_selection.as_secs_f64(),
            "encode_and_push": timings.encode_and_push.as_secs_f64(),
            "total": timings.total.as_secs_f64(),
        },
        "uri_extension_data": ueb,
        "uri_extension_hash": results.ueb_hash.map(|hash| base32::encode(&hash)),
        "verifycap": results.verify_cap.as_ref().map(Cap::to_uri),
    }))
}

/// What is known of a mutable file that was written: how its shares went is not counted.
fn written(cap: Cap, size: u64) -> Uploaded {
    Uploaded { cap, results: UploadResults { file_size: size, ..UploadResults::default() } }
}

/// The format of a mutable file, if one is asked for.
fn mutable(format: Option<FileFormat>) -> Option<MutableFormat> {
    match format {
        Some(FileFormat::Sdmf) => Some(MutableFormat::Sdmf),
        Some(FileFormat::Mdmf) => Some(MutableFormat::Mdmf),
        Some(FileFormat::Chk) | None => None,
    }
}

/// Stores the input as a new file.
async fn store(
    session: &Session,
    client: &Client,
    format: Option<FileFormat>,
    key: Option<SigningKey>,
    input: &Input,
) -> Result<Uploaded, Failure> {
    let cx = client.cx();
    let named = |e| Failure::node(&input.name, &e);
    if let Some(format) = mutable(format) {
        let cap = client.create_mutable(&cx, key, format, input.whole(&cx).await?).await.map_err(named)?;
        return Ok(written(cap, input.size));
    }
    // The content is read twice: once for its key, once to be sent.
    let bar = session.speech.bytes(&input.name, input.size.saturating_mul(2));
    let stored = client.upload(&cx, Arc::new(input.source(bar.clone()))).await.map_err(named);
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
) -> Result<Uploaded, Failure> {
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
            let bar = session.speech.bytes(&input.name, input.size);
            let changes = Changes::whole(Arc::new(input.source(bar.clone())));
            let wrote = file.write(&cx, None, &changes).await.map_err(named);
            bar.finish_and_clear();
            wrote?;
            client.sync(&cx).await.map_err(named)?;
            return Ok(written(found.cap.clone(), input.size));
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
    let stored = store(session, client, format, key, input).await?;
    let edit = Edit::Link { name: name.clone(), cap: stored.cap.clone(), metadata: None, expect: Expect::Anything };
    modify(client, &cx, &parent, edit, &shown).await?;
    Ok(stored)
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

    fn source(&self, bar: ProgressBar) -> FileSource {
        FileSource { file: Arc::clone(&self.file), size: self.size, bar }
    }

    /// All of it, for a mutable file.
    async fn whole(&self, cx: &Cx) -> Result<Bytes, Failure> {
        if self.size > MAX_CONTENT {
            return Err(Failure::node(&self.name, &crate::node::NodeError::TooLarge));
        }
        let read = cx.run(self.source(ProgressBar::hidden()).read_at(0, self.size as usize)).await;
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
pub struct FileSource {
    /// The file.
    pub file: Arc<File>,
    /// Its bytes.
    pub size: u64,
    /// Moves on by what is read.
    pub bar: ProgressBar,
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
