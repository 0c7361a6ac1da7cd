//! The arguments that mount(8) and umount(8) give their helpers. Read by hand; nothing here touches the system.

use std::ffi::{OsStr, OsString};

use crate::Refusal;

/// What `mount.tahoefs SOURCE DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MountArgs {
    /// `alias:path`; `None` is the default alias, made if absent.
    pub what: Option<String>,
    /// Where.
    pub dir: OsString,
    /// `-f`: do everything but mount.
    pub fake: bool,
    /// `-v`.
    pub verbose: bool,
    /// `-N`: the mount namespace, as a path.
    pub namespace: Option<OsString>,
    /// The options that `tahoefs mount` gets.
    pub options: Vec<String>,
    /// `uid=`: who runs it.
    pub user: Option<String>,
    /// `node-directory=`, which `options` has too.
    pub node_directory: Option<String>,
}

/// What `umount.tahoefs DIR [-flnrv] [-N NAMESPACE] [-t TYPE]` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UmountArgs {
    /// Where it is mounted.
    pub dir: OsString,
    /// `-f`: without waiting.
    pub force: bool,
    /// `-l`: out of the tree at once.
    pub lazy: bool,
    /// `-v`.
    pub verbose: bool,
    /// `-N`: the mount namespace, as a path.
    pub namespace: Option<OsString>,
}

/// Sources that stand for the default alias: fstab(5) must have something there.
const NO_SOURCE: [&str; 2] = ["none", "tahoefs"];
/// Options that are for mount(8), systemd or fstab's reader alone. So is everything that begins with `x-` or `X-`.
const NOT_OURS: [&str; 17] = [
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "_netdev",
    "defaults",
    "async",
    "loud",
    "silent",
    "default_permissions",
];
/// How access times are kept: they are never set by reading, so that all of these hold.
const ACCESS_TIMES: [&str; 7] = ["atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "lazytime"];
/// What `tahoefs mount -o` knows. With `-s` everything else is dropped; without, `tahoefs` says what is wrong.
const OURS: [&str; 25] = [
    "ro",
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "allow_other",
    "allow_root",
    "owner",
    "deadline",
    "refresh",
    "memory",
    "node-directory",
    "durability",
    "commit",
    "cache-size",
    "cache-dir",
    "journal-size",
    "bwlimit",
    "ephemeral",
    "metrics",
    "write-caps",
    "format",
];

/// Whether `text` holds a capability, plain or percent-encoded.
fn holds_cap(text: &OsStr) -> bool {
    let text = text.to_string_lossy().to_ascii_lowercase().replace("%3a", ":");
    ["uri:dir2", "uri:chk", "uri:lit", "uri:ssk", "uri:mdmf"].iter().any(|kind| text.contains(kind))
}

fn refuse_caps(arguments: &[OsString]) -> Result<(), Refusal> {
    if arguments.iter().any(|a| holds_cap(a)) {
        return Err(Refusal::usage(
            "a capability is a secret and everybody can read arguments and /etc/fstab: \
             give it a name with `tahoefs add-alias NAME`, which reads it from standard input, and mount NAME:",
        ));
    }
    Ok(())
}

/// Letters and operands: letters may stand together and anywhere. `with_value` are those that take a value.
fn split<'a>(
    arguments: &'a [OsString],
    with_value: &str,
    mut letter: impl FnMut(char, Option<&'a OsStr>) -> Result<(), Refusal>,
) -> Result<Vec<&'a OsString>, Refusal> {
    let mut operands = Vec::new();
    let mut rest = arguments.iter();
    let mut only_operands = false;
    while let Some(argument) = rest.next() {
        let letters = argument.to_str().and_then(|text| text.strip_prefix('-')).filter(|l| !l.is_empty());
        match letters.filter(|_| !only_operands) {
            Some("-") => only_operands = true,
            Some(letters) => {
                for c in letters.chars() {
                    let value = match with_value.contains(c) {
                        true => Some(rest.next().ok_or_else(|| Refusal::usage(format!("-{c} wants a value")))?),
                        false => None,
                    };
                    letter(c, value.map(OsString::as_os_str))?;
                }
            }
            None => operands.push(argument),
        }
    }
    Ok(operands)
}

fn unknown(letter: char) -> Refusal {
    Refusal::usage(format!("there is no option -{letter}"))
}

impl MountArgs {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// What cannot be followed, in one line.
    pub fn parse(arguments: &[OsString]) -> Result<MountArgs, Refusal> {
        refuse_caps(arguments)?;
        let mut args = MountArgs::default();
        let (mut sloppy, mut lists) = (false, Vec::new());
        let operands = split(arguments, "oNt", |letter, value| {
            match (letter, value) {
                ('f', _) => args.fake = true,
                ('s', _) => sloppy = true,
                ('v', _) => args.verbose = true,
                ('o', Some(list)) => lists.push(list),
                ('N', Some(path)) => args.namespace = Some(path.to_owned()),
                ('n' | 't', _) => {}
                (letter, _) => return Err(unknown(letter)),
            }
            Ok(())
        })?;
        let [source, dir] = operands[..] else {
            return Err(Refusal::usage("usage: mount.tahoefs SOURCE DIR [-sfnv] [-o OPTION,...]"));
        };
        let source = source.to_str().ok_or_else(|| Refusal::usage("the source is not in UTF-8"))?;
        if !NO_SOURCE.contains(&source) {
            if !source.contains(':') || source.starts_with([':', '-']) {
                return Err(Refusal::usage(format!("the source {source} is not ALIAS: or ALIAS:PATH")));
            }
            args.what = Some(source.to_owned());
        }
        args.dir = dir.clone();
        for list in lists {
            let list = list.to_str().ok_or_else(|| Refusal::usage("the mount options are not in UTF-8"))?;
            list.split(',').filter(|o| !o.is_empty()).try_for_each(|option| args.option(option, sloppy))?;
        }
        Ok(args)
    }

    fn option(&mut self, option: &str, sloppy: bool) -> Result<(), Refusal> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("remount", _) => {
                return Err(Refusal::usage("a mount cannot be changed while it stands: unmount and mount it again"));
            }
            ("uid", Some(user)) if !user.is_empty() => self.user = Some(user.to_owned()),
            ("uid", _) => return Err(Refusal::usage("the mount option uid= wants a user's name or number")),
            ("node-directory", Some(path)) => {
                if !path.starts_with('/') {
                    return Err(Refusal::usage("the mount option node-directory= wants an absolute path"));
                }
                self.node_directory = Some(path.to_owned());
                self.options.push(option.to_owned());
            }
            // `user=NAME` is how mount(8) notes who mounted; `owner=me` is ours.
            ("user", _) | ("comment", Some(_)) => {}
            (name, None) if NOT_OURS.contains(&name) || ACCESS_TIMES.contains(&name) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            (name, _) if sloppy && !OURS.contains(&name) => {}
            _ => self.options.push(option.to_owned()),
        }
        Ok(())
    }
}

impl UmountArgs {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// What cannot be followed, in one line.
    pub fn parse(arguments: &[OsString]) -> Result<UmountArgs, Refusal> {
        refuse_caps(arguments)?;
        let mut args = UmountArgs::default();
        let operands = split(arguments, "Nt", |letter, value| {
            match (letter, value) {
                ('f', _) => args.force = true,
                ('l', _) => args.lazy = true,
                ('v', _) => args.verbose = true,
                ('N', Some(path)) => args.namespace = Some(path.to_owned()),
                ('n' | 'r' | 't', _) => {}
                (letter, _) => return Err(unknown(letter)),
            }
            Ok(())
        })?;
        let [dir] = operands[..] else {
            return Err(Refusal::usage("usage: umount.tahoefs DIR [-flnrv]"));
        };
        args.dir = dir.clone();
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn mount(line: &str) -> Result<MountArgs, Refusal> {
        MountArgs::parse(&words(line))
    }

    #[test]
    fn what_mount_says_is_understood() {
        let args = mount("work:sub /mnt/x -o rw,noexec,nosuid,nodev,user=alice,x-systemd.automount,uid=bob,memory=64M");
        let args = args.unwrap();
        assert_eq!((args.what.as_deref(), args.dir.to_str()), (Some("work:sub"), Some("/mnt/x")));
        assert_eq!(args.options, ["rw", "noexec", "nosuid", "nodev", "memory=64M"]);
        assert_eq!((args.user.as_deref(), args.fake, args.verbose), (Some("bob"), false, false));
        let args = mount("none /mnt -fnv -t tahoefs -N /proc/1/ns/mnt").unwrap();
        assert_eq!((args.what, args.fake, args.verbose), (None, true, true));
        assert_eq!(args.namespace.unwrap(), "/proc/1/ns/mnt");
        let all = "auto,noauto,user,users,nofail,_netdev,defaults,comment=x,x-a=b,noatime,owner,group";
        assert_eq!(mount(&format!("tahoe: /mnt -o {all}")).unwrap().options, [""; 0]);
        let args = mount("tahoe: /mnt -o owner=me,node-directory=/srv/node").unwrap();
        assert_eq!(args.options, ["owner=me", "node-directory=/srv/node"]);
        assert_eq!(args.node_directory.unwrap(), "/srv/node");
    }

    #[test]
    fn unknown_options_pass_unless_mount_is_sloppy() {
        assert_eq!(mount("tahoe: /mnt -o nonesuch,ro").unwrap().options, ["nonesuch", "ro"]);
        assert_eq!(mount("tahoe: /mnt -s -o nonesuch,ro,bs=3").unwrap().options, ["ro"]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for line in [
            "tahoe:",
            "tahoe: /a /b",
            "tahoe /mnt",
            ":x /mnt",
            "- /mnt",
            "tahoe: /mnt -x",
            "tahoe: /mnt -o",
            "tahoe: /mnt -o remount,ro",
            "tahoe: /mnt -o uid=",
            "tahoe: /mnt -o node-directory=rel",
        ] {
            assert_eq!(mount(line).unwrap_err().exit, crate::Exit::Usage, "{line}");
        }
        for line in ["", "a b", "-x a", "a -N"] {
            assert!(UmountArgs::parse(&words(line)).is_err() || line.is_empty(), "{line}");
        }
    }

    #[test]
    fn a_capability_is_refused_and_not_repeated() {
        for line in ["URI:DIR2:hushhush:words /mnt", "uri%3aDIR2%3Ahushhush /mnt", "a: /mnt -o x-cap=URI:CHK:hushhush"]
        {
            let refusal = mount(line).unwrap_err();
            assert!(refusal.message.contains("add-alias") && !refusal.message.contains("hushhush"), "{line}");
        }
    }

    #[test]
    fn what_umount_says_is_understood() {
        let args = UmountArgs::parse(&words("/mnt/x -fl -v -t fuse.tahoefs -N /ns")).unwrap();
        let wanted =
            UmountArgs { dir: "/mnt/x".into(), force: true, lazy: true, verbose: true, namespace: Some("/ns".into()) };
        assert_eq!(args, wanted);
    }
}
