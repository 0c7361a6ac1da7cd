//! Random operations on the file system and on a model of it end the same, also for a mount that comes after.

use std::collections::BTreeMap;

use proptest::prelude::*;

use tahoefs::writeback::Scope;

use super::grid::Fault;
use super::*;

/// A path of up to two components out of few names, so that operations meet.
#[derive(Clone, Debug)]
struct Path(Vec<u8>);

#[derive(Clone, Debug)]
enum Op {
    Write(Path, u8, u16, u16),
    Truncate(Path, u16),
    Mkdir(Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path),
    Link(Path, Path),
    Chmod(Path, u16),
    Settle,
    /// Stores and publishes, without the barrier.
    Publish,
    /// The barrier, while something else is done.
    Beside(Box<Op>),
    Remount,
    PowerLoss(u64),
}

#[derive(Clone, Debug)]
enum Node {
    /// One of [`Model::files`].
    File(usize),
    Dir(BTreeMap<u8, Node>, u32),
}

struct Model {
    root: Node,
    /// Content and mode of every file that ever was, whatever names it has.
    files: Vec<(Vec<u8>, u32)>,
}

/// What stands at a path: mode, and of a file the content, how many names it has, and the first of them.
type Shown = BTreeMap<Vec<u8>, (u32, Option<(Vec<u8>, u32, Vec<u8>)>)>;

impl Model {
    fn new() -> Model {
        Model { root: Node::Dir(BTreeMap::new(), 0o755), files: Vec::new() }
    }

    fn shown(&self) -> Shown {
        let mut names: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        let mut shown = Shown::new();
        let mut next = vec![(Vec::new(), &self.root)];
        while let Some((path, node)) = next.pop() {
            match node {
                Node::File(file) => names.entry(*file).or_default().push(path),
                Node::Dir(children, mode) => {
                    next.extend(children.iter().map(|(name, node)| ([&path[..], &[*name]].concat(), node)));
                    shown.insert(path, (*mode, None));
                }
            }
        }
        for (file, paths) in names {
            let (content, mode) = &self.files[file];
            let first = paths.iter().min().unwrap();
            for path in &paths {
                shown.insert(path.clone(), (*mode, Some((content.clone(), paths.len() as u32, first.clone()))));
            }
        }
        shown
    }
}

/// The same without how many names each file has, for a mount that may not know.
fn uncounted(mut shown: Shown) -> Shown {
    for (_, file) in shown.values_mut() {
        if let Some((_, names, _)) = file {
            *names = 0;
        }
    }
    shown
}

impl Node {
    fn children(&mut self) -> Result<&mut BTreeMap<u8, Node>, FsError> {
        match self {
            Node::Dir(children, _) => Ok(children),
            Node::File(..) => Err(FsError::NotDirectory),
        }
    }

    fn at(&mut self, path: &[u8]) -> Result<&mut Node, FsError> {
        let Some((first, rest)) = path.split_first() else { return Ok(self) };
        self.children()?.get_mut(first).ok_or(FsError::NotFound)?.at(rest)
    }
}

fn paths() -> impl Strategy<Value = Path> {
    prop::collection::vec(0u8..3, 1..=3).prop_map(Path)
}

fn ops() -> impl Strategy<Value = Op> {
    let beside = changes().prop_map(|op| Op::Beside(Box::new(op)));
    prop_oneof![
        30 => changes(),
        3 => beside,
        2 => Just(Op::Settle),
        1 => Just(Op::Remount),
        1 => any::<u64>().prop_map(Op::PowerLoss),
    ]
}

fn changes() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (paths(), any::<u8>(), 0u16..200, 0u16..200).prop_map(|(p, b, o, n)| Op::Write(p, b, o, n)),
        2 => (paths(), 0u16..200).prop_map(|(p, n)| Op::Truncate(p, n)),
        5 => paths().prop_map(Op::Mkdir),
        2 => paths().prop_map(Op::Unlink),
        2 => paths().prop_map(Op::Rmdir),
        5 => (paths(), paths()).prop_map(|(a, b)| Op::Rename(a, b)),
        4 => (paths(), paths()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => (paths(), 0u16..0o1000).prop_map(|(p, m)| Op::Chmod(p, m)),
        4 => Just(Op::Publish),
    ]
}

/// Two of them are one name in NFC.
const NAMES: [&str; 3] = ["\u{e9}.x", "e\u{301}.x", "c"];

fn name(component: u8) -> &'static [u8] {
    NAMES[usize::from(component)].as_bytes()
}

fn component(name: &[u8]) -> u8 {
    NAMES.iter().position(|known| known.as_bytes() == name).expect("a name of ours") as u8
}

async fn walk(fs: &Filesystem, path: &[u8]) -> Result<Ino, FsError> {
    let mut at = ROOT;
    for component in path {
        at = fs.lookup(at, name(*component)).await?.ino;
    }
    Ok(at)
}

/// Does it, and says what the model says where that is another error than POSIX leaves open.
async fn real(fs: &Filesystem, op: &Op) -> Result<(), FsError> {
    let parent = |p: &Path| p.0[..p.0.len() - 1].to_vec();
    let last = |p: &Path| name(*p.0.last().unwrap());
    match op {
        Op::Write(p, byte, offset, length) => {
            let dir = walk(fs, &parent(p)).await?;
            let (ino, handle) = match fs.lookup(dir, last(p)).await {
                Ok(attr) => (attr.ino, fs.open(attr.ino, WRITE).await?),
                Err(FsError::NotFound) => {
                    let (attr, handle) = fs.create(dir, last(p), 0o644, ME, WRITE).await?;
                    (attr.ino, handle)
                }
                Err(e) => return Err(e),
            };
            let data = Bytes::from(vec![*byte; (*length).into()]);
            let written = fs.write(ino, handle, (*offset).into(), data).await;
            fs.release(handle);
            written
        }
        Op::Truncate(p, size) => {
            let ino = walk(fs, &p.0).await?;
            fs.setattr(ino, SetAttr { size: Some((*size).into()), ..SetAttr::default() }).await.map(drop)
        }
        Op::Mkdir(p) => fs.mkdir(walk(fs, &parent(p)).await?, last(p), 0o755, ME).await.map(drop),
        Op::Unlink(p) => fs.rm(walk(fs, &parent(p)).await?, last(p)).await,
        Op::Rmdir(p) => fs.rm_dir(walk(fs, &parent(p)).await?, last(p)).await,
        Op::Rename(a, b) => {
            let (from, to) = (walk(fs, &parent(a)).await?, walk(fs, &parent(b)).await?);
            fs.mv(from, last(a), to, last(b), RenameMode::Replace).await
        }
        Op::Link(a, b) => {
            let (ino, to) = (walk(fs, &a.0).await?, walk(fs, &parent(b)).await?);
            fs.link(ino, to, last(b)).await.map(drop)
        }
        Op::Chmod(p, mode) => {
            let ino = walk(fs, &p.0).await?;
            fs.setattr(ino, SetAttr { mode: Some((*mode).into()), ..SetAttr::default() }).await.map(drop)
        }
        Op::Settle => fs.settle().await,
        Op::Publish => Ok(fs.writeback().settle(Scope::All).await?),
        Op::Beside(op) => tokio::join!(fs.writeback().barrier(), Box::pin(real(fs, op))).1,
        Op::Remount | Op::PowerLoss(_) => Ok(()),
    }
}

fn modelled(model: &mut Model, op: &Op) -> Result<(), FsError> {
    let split = |p: &Path| (p.0[..p.0.len() - 1].to_vec(), *p.0.last().unwrap());
    let Model { root, files } = model;
    match op {
        Op::Write(p, byte, offset, length) => {
            let (dir, last) = split(p);
            let node = root.at(&dir)?.children()?.entry(last).or_insert_with(|| {
                files.push((Vec::new(), 0o644));
                Node::File(files.len() - 1)
            });
            let Node::File(file) = node else { return Err(FsError::IsDirectory) };
            let content = &mut files[*file].0;
            let (start, end) = (usize::from(*offset), usize::from(*offset) + usize::from(*length));
            if *length > 0 {
                content.resize(content.len().max(end), 0);
                content[start..end].fill(*byte);
            }
        }
        Op::Truncate(p, size) => match root.at(&p.0)? {
            Node::File(file) => files[*file].0.resize((*size).into(), 0),
            Node::Dir(..) => return Err(FsError::IsDirectory),
        },
        Op::Mkdir(p) => {
            let (dir, last) = split(p);
            let children = root.at(&dir)?.children()?;
            if children.contains_key(&last) {
                return Err(FsError::Exists);
            }
            children.insert(last, Node::Dir(BTreeMap::new(), 0o755));
        }
        Op::Unlink(p) => {
            let (dir, last) = split(p);
            let children = root.at(&dir)?.children()?;
            match children.get(&last).ok_or(FsError::NotFound)? {
                Node::Dir(..) => return Err(FsError::IsDirectory),
                Node::File(..) => drop(children.remove(&last)),
            }
        }
        Op::Rmdir(p) => {
            let (dir, last) = split(p);
            let children = root.at(&dir)?.children()?;
            match children.get(&last).ok_or(FsError::NotFound)? {
                Node::File(..) => return Err(FsError::NotDirectory),
                Node::Dir(inside, _) if !inside.is_empty() => return Err(FsError::NotEmpty),
                Node::Dir(..) => drop(children.remove(&last)),
            }
        }
        Op::Rename(a, b) => {
            let ((from, a_last), (to, b_last)) = (split(a), split(b));
            root.at(&from)?;
            root.at(&to)?;
            root.at(&from)?.children()?;
            root.at(&to)?.children()?;
            let moving = root.at(&a.0)?.clone();
            let is_dir = matches!(moving, Node::Dir(..));
            if a.0 == b.0 {
                return Ok(());
            }
            if is_dir && b.0.starts_with(&a.0) {
                return Err(FsError::Invalid);
            }
            match (root.at(&b.0), &moving) {
                (Ok(Node::Dir(..)), Node::File(_)) => return Err(FsError::IsDirectory),
                (Ok(Node::Dir(inside, _)), _) if !inside.is_empty() => return Err(FsError::NotEmpty),
                (Ok(Node::File(_)), Node::Dir(..)) => return Err(FsError::NotDirectory),
                (Ok(Node::File(there)), Node::File(file)) if there == file => return Ok(()),
                _ => {}
            }
            root.at(&from)?.children()?.remove(&a_last);
            root.at(&to)?.children()?.insert(b_last, moving);
        }
        Op::Link(a, b) => {
            let (to, last) = split(b);
            let node = root.at(&a.0)?.clone();
            let children = root.at(&to)?.children()?;
            if children.contains_key(&last) {
                return Err(FsError::Exists);
            }
            if matches!(node, Node::Dir(..)) {
                return Err(FsError::NotPermitted);
            }
            children.insert(last, node);
        }
        Op::Chmod(p, mode) => match root.at(&p.0)? {
            Node::File(file) => files[*file].1 = (*mode).into(),
            Node::Dir(_, m) => *m = (*mode).into(),
        },
        Op::Beside(op) => return modelled(model, op),
        Op::Settle | Op::Publish | Op::Remount | Op::PowerLoss(_) => {}
    }
    Ok(())
}

/// The tree as the file system shows it. What is counted is asked for once all names were seen.
async fn shown(fs: &Filesystem) -> Shown {
    let mut files: BTreeMap<Ino, Vec<Vec<u8>>> = BTreeMap::new();
    let mut shown = Shown::from([(Vec::new(), (0o755, None))]);
    let mut next = vec![(Vec::new(), ROOT)];
    while let Some((path, ino)) = next.pop() {
        let handle = fs.opendir(ino).await.unwrap();
        for listed in fs.readdir(handle, true).await.unwrap().iter().skip(2) {
            let attr = fs.lookup(ino, &listed.name).await.unwrap();
            assert_eq!(attr.ino, listed.ino);
            let path = [&path[..], &[component(&listed.name)]].concat();
            if attr.kind == tahoefs::node::FileType::Directory {
                shown.insert(path.clone(), (attr.mode, None));
                next.push((path, attr.ino));
            } else {
                files.entry(attr.ino).or_default().push(path);
            }
        }
        fs.releasedir(handle);
    }
    for (ino, paths) in files {
        let (attr, content) = (fs.getattr(ino).await.unwrap(), read(fs, ino).await);
        assert_eq!(attr.size, content.len() as u64);
        let first = paths.iter().min().unwrap();
        for path in &paths {
            shown.insert(path.clone(), (attr.mode, Some((content.clone(), attr.nlink, first.clone()))));
        }
    }
    shown
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_was_answered_outlives_the_process(ops in prop::collection::vec(ops(), 1..40), faults in any::<u8>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ground = Ground::new();
            ground.grid.sync();
            let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
            let mut fs = ground.mount_with(journal.path(), Durability::Local).await;
            let mut model = Model::new();
            for (i, op) in ops.iter().enumerate() {
                match op {
                    // The process ends here, whatever is under way, and another begins.
                    Op::Remount => {
                        drop(fs);
                        fs = ground.mount_with(journal.path(), Durability::Local).await;
                    }
                    Op::PowerLoss(seed) => {
                        drop(fs);
                        ground.grid.lose_power(*seed);
                        fs = ground.mount_with(journal.path(), Durability::Local).await;
                        assert_eq!(shown(&fs).await, model.shown(), "after power loss");
                    }
                    Op::Settle => {
                        let lost = if faults & 1 == 0 { Fault::Refuse } else { Fault::ApplyThenFail };
                        ground.grid.fail(&vec![lost; usize::from(faults >> 1) % (i + 1)]);
                        let _ = fs.settle().await;
                        ground.grid.fail(&[]);
                    }
                    _ => {
                        let expected = modelled(&mut model, op);
                        assert_eq!(real(&fs, op).await, expected, "{op:?}");
                    }
                }
            }
            assert_eq!(shown(&fs).await, model.shown());
            drop(fs);
            fs = ground.mount_with(journal.path(), Durability::Local).await;
            assert_eq!(shown(&fs).await, model.shown(), "after the end of the process");
            fs.settle().await.unwrap();
            assert_eq!(fs.writeback().status().changes, 0);
            drop(fs);
            let (_, replay) = open_journal(journal.path()).await;
            assert_eq!((replay.edges.len(), replay.files.len(), replay.dirs.len()), (0, 0, 0), "nothing is left to do");
            assert_eq!(uncounted(shown(&*ground.mount().await).await), uncounted(model.shown()), "another client");
        });
    }

    #[test]
    fn the_tree_is_that_of_the_model(ops in prop::collection::vec(ops(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ground = Ground::new();
            let journal = tempfile::tempdir_in(ground.local.path()).unwrap();
            let mut fs = ground.mount_with(journal.path(), Durability::Grid).await;
            let mut model = Model::new();
            for op in &ops {
                if matches!(op, Op::Remount) {
                    fs.settle().await.unwrap();
                    drop(fs);
                    fs = ground.mount_with(journal.path(), Durability::Grid).await;
                }
                let expected = modelled(&mut model, op);
                assert_eq!(real(&fs, op).await, expected, "{op:?}");
            }
            assert_eq!(shown(&fs).await, model.shown());
            fs.settle().await.unwrap();
            assert_eq!(fs.writeback().status().changes, 0);
            assert_eq!(uncounted(shown(&*ground.mount().await).await), uncounted(model.shown()), "after a remount");
        });
    }
}
