//! Extended attributes and access control lists.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::world::{World, tool};

/// Runs a script of Python, which is given paths and says what is wrong.
fn python(script: &str, paths: &[&Path]) {
    let begin = "
import errno, os, sys
def fails(expected, call, *args):
    try:
        call(*args)
    except OSError as error:
        assert error.errno == expected, (error, args)
    else:
        raise AssertionError(('no error', args))
";
    let script = format!("{begin}{script}");
    let mut args: Vec<&OsStr> = vec!["-c".as_ref(), script.as_ref()];
    args.extend(paths.iter().map(|path| path.as_os_str()));
    tool("python3", &args);
}

fn value(path: &Path, name: &str) -> String {
    tool("getfattr", &["--only-values".as_ref(), "-n".as_ref(), name.as_ref(), path.as_os_str()])
}

fn facl(path: &Path) -> String {
    tool("getfacl", &["-cnE".as_ref(), path.as_os_str()])
}

fn set_facl(flags: &[&str], path: &Path) {
    let mut args: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    args.push(path.as_os_str());
    tool("setfacl", &args);
}

/// Whether a user may do that to a file.
fn may(uid: u32, what: &str, path: &Path) -> bool {
    let mut command = Command::new("/usr/bin/test");
    command.arg(what).arg(path).uid(uid).gid(uid).current_dir("/");
    command.status().unwrap().success()
}

const SET: &str = "
for path in sys.argv[1:]:
    os.setxattr(path, 'user.text', 'grün'.encode())
    os.setxattr(path, 'user.bytes', bytes(range(256)))
    os.setxattr(path, 'user.empty', b'')
    os.setxattr(path, 'trusted.t', b'1')
    os.setxattr(path, 'user.\\u00e9', b'composed')
    os.setxattr(path, 'user.e\\u0301', b'decomposed')
    os.setxattr(path, 'user.gone', b'1')
    os.removexattr(path, 'user.gone')
    fails(errno.EEXIST, os.setxattr, path, 'user.text', b'x', os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, path, 'user.new', b'x', os.XATTR_REPLACE)
    os.setxattr(path, 'user.text', 'grün'.encode(), os.XATTR_REPLACE)
    fails(errno.ENODATA, os.getxattr, path, 'user.gone')
    fails(errno.ENODATA, os.removexattr, path, 'user.gone')
    fails(errno.ENOSPC, os.setxattr, path, 'user.large', b'x' * 4090)
    for name in 'system.other', 'nothing':
        fails(errno.EOPNOTSUPP, os.setxattr, path, name, b'x')
        fails(errno.EOPNOTSUPP, os.getxattr, path, name)
        fails(errno.EOPNOTSUPP, os.removexattr, path, name)
    for name in 'user.', 'trusted.':
        fails(errno.EINVAL, os.setxattr, path, name, b'x')
        fails(errno.EINVAL, os.getxattr, path, name)
    fails(errno.ENODATA, os.getxattr, path, 'security.selinux')
    fails(errno.EOPNOTSUPP, os.setxattr, path, b'user.\\xff', b'x')
    fails(errno.ENODATA, os.getxattr, path, b'user.\\xff')
    fails(errno.EOPNOTSUPP, os.removexattr, path, b'user.\\xff')
    fails(errno.EPERM, os.setxattr, path, 'user.tahoe.cap', b'x')
    fails(errno.EPERM, os.removexattr, path, 'user.tahoe.state')
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.getxattr(path.encode(), b'user.bytes', ctypes.create_string_buffer(9), 9) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(path.encode(), ctypes.create_string_buffer(9), 9) == -1
    assert ctypes.get_errno() == errno.ERANGE
";
const CHECK: &str = "
for path in sys.argv[1:]:
    names = {'user.text', 'user.bytes', 'user.empty', 'trusted.t', 'user.\\u00e9', 'user.e\\u0301'}
    assert set(os.listxattr(path)) == names, os.listxattr(path)
    assert os.getxattr(path, 'user.text') == 'grün'.encode()
    assert os.getxattr(path, 'user.bytes') == bytes(range(256))
    assert os.getxattr(path, 'user.empty') == b''
    assert os.getxattr(path, 'trusted.t') == b'1'
    assert os.getxattr(path, 'user.\\u00e9') == b'composed'
    assert os.getxattr(path, 'user.e\\u0301') == b'decomposed'
";

#[test]
fn extended_attributes_are_kept() {
    let world = World::mounted();
    fs::write(world.at("f"), "x").unwrap();
    fs::create_dir(world.at("d")).unwrap();
    let (file, dir, root) = (world.at("f"), world.at("d"), world.mountpoint());
    let all = [file.as_path(), dir.as_path(), root.as_path()];
    let before = fs::metadata(&file).unwrap();
    python(SET, &all);
    python(CHECK, &all);
    let after = fs::metadata(&file).unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
    world.remount_cold(&[]);
    python(CHECK, &all);
    // A change of the content leaves them.
    fs::write(&file, "another").unwrap();
    fs::rename(&file, world.at("g")).unwrap();
    world.remount_cold(&[]);
    python(CHECK, &[&world.at("g"), &dir]);
}

#[test]
fn capabilities_of_programs_are_kept_and_go_with_a_write() {
    let world = World::mounted();
    let program = world.at("program");
    fs::copy("/bin/true", &program).unwrap();
    let script = "
import struct
capability = struct.pack('<IIIII', 0x02000001, 0x400, 0, 0, 0)
os.setxattr(sys.argv[1], 'security.capability', capability)
";
    python(script, &[&program]);
    world.remount_cold(&[]);
    assert_eq!(tool("getfattr", &["-d".as_ref(), "-m-".as_ref(), program.as_os_str()]).matches("security.").count(), 1);
    fs::OpenOptions::new()
        .append(true)
        .open(&program)
        .and_then(|mut f| std::io::Write::write_all(&mut f, b"x"))
        .unwrap();
    python("fails(errno.ENODATA, os.getxattr, sys.argv[1], 'security.capability')", &[&program]);
}

#[test]
fn what_tells_about_a_file_is_neither_listed_nor_copied() {
    let world = World::mounted();
    fs::create_dir(world.at("d")).unwrap();
    fs::write(world.at("d/f"), [7; 1000]).unwrap();
    let path = world.at("d/f");
    world.ok(&[OsStr::new("flush"), path.as_os_str()]);
    let cap = value(&path, "user.tahoe.cap");
    assert!(cap.starts_with("URI:CHK:") && cap.ends_with(":1000"), "{cap}");
    assert!(value(&path, "user.tahoe.verify").starts_with("URI:CHK-Verifier:"));
    assert_eq!(value(&path, "user.tahoe.size"), "1000");
    assert_eq!((value(&path, "user.tahoe.si").len(), value(&path, "user.tahoe.state")), (26, "stored".into()));
    assert!(value(&world.at("d"), "user.tahoe.cap").starts_with("URI:DIR2-RO:"));
    assert!(value(&world.mountpoint(), "user.tahoe.verify").starts_with("URI:DIR2-Verifier:"));
    let script = "
assert os.listxattr(sys.argv[1]) == []
fails(errno.ENODATA, os.getxattr, sys.argv[1], 'user.tahoe.other')
fails(errno.ENODATA, os.getxattr, sys.argv[2], 'user.tahoe.size')
";
    python(script, &[&path, &world.at("d")]);
    let local = tempfile::tempdir().unwrap();
    tool("cp", &["-a".as_ref(), path.as_os_str(), local.path().as_os_str()]);
    assert_eq!(tool("getfattr", &["-dm-".as_ref(), local.path().join("f").as_os_str()]), "");
    world.unmount();
    world.mount(&["-o", "write-caps"]);
    assert!(value(&world.at("d"), "user.tahoe.cap").starts_with("URI:DIR2:"));
    assert!(value(&path, "user.tahoe.cap").starts_with("URI:CHK:"));
}

#[test]
fn access_control_lists_are_kept_inherited_and_obeyed() {
    let world = World::new();
    fs::set_permissions(world.home(), fs::Permissions::from_mode(0o711)).unwrap();
    world.mount(&["-o", "allow_other"]);
    let (file, dir) = (world.at("f"), world.at("d"));
    fs::write(&file, "x").unwrap();
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    set_facl(&["-m", "u:4321:rw,g:4322:r"], &file);
    set_facl(&["-dm", "u:4321:rwx,o::-"], &dir);
    // The umask does not count where there is a default list.
    tool(
        "sh",
        &[
            "-c".as_ref(),
            "umask 077; echo x > $0/new; mkdir $0/sub; mkdir $1/plain".as_ref(),
            dir.as_os_str(),
            world.mountpoint().as_os_str(),
        ],
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    for round in ["at once", "after a remount"] {
        assert_eq!(
            facl(&file),
            "user::rw-\nuser:4321:rw-\ngroup::r--\ngroup:4322:r--\nmask::rw-\nother::---\n\n",
            "{round}"
        );
        assert_eq!((mode(&file), mode(&world.at("plain"))), (0o660, 0o700), "{round}");
        assert_eq!(
            facl(&world.at("d/new")),
            "user::rw-\nuser:4321:rwx\ngroup::r-x\nmask::rw-\nother::---\n\n",
            "{round}"
        );
        let default =
            "default:user::rwx\ndefault:user:4321:rwx\ndefault:group::r-x\ndefault:mask::rwx\ndefault:other::---\n";
        assert!(facl(&world.at("d/sub")).ends_with(&format!("{default}\n")), "{round}: {}", facl(&world.at("d/sub")));
        assert_eq!(mode(&world.at("d/sub")), 0o770, "{round}");
        assert!(may(4321, "-w", &file) && may(4322, "-r", &file), "{round}");
        assert!(!may(4322, "-w", &file) && !may(4323, "-r", &file), "{round}");
        assert!(may(4321, "-r", &world.at("d/new")) && !may(4323, "-r", &world.at("d/new")), "{round}");
        if round == "at once" {
            world.remount_cold(&["-o", "allow_other"]);
        }
    }
    // The mode is the list's mask and ends, both ways.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o614)).unwrap();
    assert!(facl(&file).contains("user:4321:rw-") && facl(&file).contains("mask::--x\nother::r--"));
    assert!(!may(4321, "-r", &file) && may(4323, "-r", &file));
    set_facl(&["-b"], &file);
    assert_eq!(facl(&file), "user::rw-\ngroup::---\nother::r--\n\n");
    assert_eq!(mode(&file), 0o604);
    set_facl(&["-k"], &dir);
    fs::write(world.at("d/later"), "x").unwrap();
    assert!(!facl(&world.at("d/later")).contains("4321"));
    python(
        "fails(errno.EACCES, os.setxattr, sys.argv[1], 'system.posix_acl_default', os.getxattr(sys.argv[2], 'system.posix_acl_default'))",
        &[&file, &world.at("d/sub")],
    );
}

#[test]
fn rsync_takes_all_attributes_both_ways_and_has_nothing_to_do_again() {
    let world = World::mounted();
    let (source, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (file, dir) = (source.path().join("f"), source.path().join("d"));
    fs::write(&file, "x").unwrap();
    fs::create_dir(&dir).unwrap();
    let set = "
for path in sys.argv[1:]:
    os.setxattr(path, 'user.a', b'some')
    os.setxattr(path, 'user.b', bytes(range(256)))
";
    python(set, &[&file, &dir, source.path()]);
    set_facl(&["-m", "u:4321:rw"], &file);
    set_facl(&["-dm", "u:4321:rwx"], &dir);
    let sync = |from: &Path, to: &Path, flags: &str| {
        let slash = |path: &Path| format!("{}/", path.display());
        tool("rsync", &[flags.as_ref(), slash(from).as_ref(), slash(to).as_ref()])
    };
    sync(source.path(), &world.mountpoint(), "-aAX");
    for _ in 0..2 {
        assert_eq!(sync(source.path(), &world.mountpoint(), "-aAXi"), "");
        world.remount_cold(&[]);
    }
    sync(&world.mountpoint(), back.path(), "-aAX");
    assert_eq!(sync(&world.mountpoint(), back.path(), "-aAXi"), "");
    assert_eq!(sync(source.path(), back.path(), "-aAXic"), "");
    assert!(facl(&back.path().join("f")).contains("user:4321:rw-"));
}
