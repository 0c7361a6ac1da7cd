//! The helpers as mount(8) and umount(8) call them: real mounts, with a `tahoefs` beside them that only says what it is told.

use std::process::{Command, Stdio};

/// Runs a script as root in a mount namespace of its own; `$1` is the helpers' program, `$2` a directory.
fn run(script: &str) {
    let top = tempfile::tempdir().unwrap();
    let mut words = vec!["unshare", "--mount", "sh", "-euc", script, "sh", env!("CARGO_BIN_EXE_mount-tahoefs")];
    // SAFETY: always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        words.splice(0..0, ["sudo", "-n"]);
    }
    let output = Command::new(words[0]).args(&words[1..]).arg(top.path()).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("all done"), "{}\n{said}", output.status);
}

/// What the scripts begin with.
const BEGIN: &str = r#"
top=$2
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs "$top"
cd "$top"
mkdir bin mnt
cp "$1" bin/mount.tahoefs
cp "$1" bin/umount.tahoefs
fail() { echo "FAILED: $*"; exit 1; }
# tahoefs CODE [COMMAND]: what the program beside does: COMMAND, then it exits with CODE.
tahoefs() {
  printf '#!/bin/sh\necho "$@" >>%s/asked\n%s\nexit %s\n' "$top" "${2-}" "$1" >bin/tahoefs
  chmod 755 bin/tahoefs
  : >asked
}
stand() { mount -i -t fuse.tahoefs -o fd=3,rootmode=40000,user_id=0,group_id=0 tahoe: mnt 3<>/dev/fuse; }
stands() { grep -q " $top/mnt " /proc/self/mountinfo; }
gives() { # CODE COMMAND...: runs what must exit with CODE
  want=$1 code=0
  shift
  said=$("$@" 2>&1) || code=$?
  test "$code" = "$want" || fail "$* gave $code, not $want: $said"
}
"#;

#[test]
fn umount_succeeds_only_when_the_mount_has_answered() {
    let script = r#"
stand
for code in 3 6; do
  tahoefs $code
  gives 32 bin/umount.tahoefs mnt
  case $said in *"umount -l"*) ;; *) fail "no advice: $said" ;; esac
  stands || fail "it was unmounted after $code"
done
tahoefs 4
gives 32 bin/umount.tahoefs mnt
tahoefs 7 "umount -i -l $top/mnt"
gives 32 bin/umount.tahoefs mnt
stand
tahoefs 0 "umount -i -l $top/mnt"
gives 0 bin/umount.tahoefs mnt
grep -qx -e "-q unmount -- $top/mnt" asked || fail "asked: $(cat asked)"
stand
tahoefs 6
gives 0 bin/umount.tahoefs -f mnt
stands && fail "-f waits"
stand
tahoefs 1
gives 0 bin/umount.tahoefs -l mnt
stands && fail "-l waits"
test -s asked && fail "-l asks"
echo "all done"
"#;
    run(&format!("{BEGIN}{script}"));
}

#[test]
fn a_note_of_an_earlier_mount_does_no_harm() {
    let script = r#"
stand
id=$(grep " $top/mnt " /proc/self/mountinfo | cut -d' ' -f1)
mkdir /run/tahoefs
printf /gone >"/run/tahoefs/$id-0"
tahoefs 0 "case \$1 in -d) exit 6 ;; esac; umount -i -l $top/mnt"
gives 0 bin/umount.tahoefs mnt
test "$(wc -l <asked)" = 2 || fail "asked: $(cat asked)"
grep -q -e "^-d /gone" asked || fail "the note is not read: $(cat asked)"
test -z "$(ls /run/tahoefs)" || fail "the note stays"
# A mount without a node directory of its own clears its number's note.
n=0
while test $n -lt 200; do printf /gone >"/run/tahoefs/$((id - 100 + n))-0"; n=$((n + 1)); done
tahoefs 0 "mount -i -t fuse.tahoefs -o fd=3,rootmode=40000,user_id=0,group_id=0 tahoe: $top/mnt 3<>/dev/fuse"
gives 0 bin/mount.tahoefs tahoe: mnt
stands || fail "not mounted"
id=$(grep " $top/mnt " /proc/self/mountinfo | cut -d' ' -f1)
test "$(ls /run/tahoefs | wc -l)" = 199 || fail "$(ls /run/tahoefs | wc -l) notes are left"
test ! -e "/run/tahoefs/$id-0" || fail "the note stays"
umount -i mnt
echo "all done"
"#;
    run(&format!("{BEGIN}{script}"));
}

#[test]
fn a_mount_that_took_the_place_is_left_alone() {
    let script = r#"
stand
# While it is asked, the mount goes and another comes.
tahoefs 6 "mkdir $top/other; umount -i -l $top/mnt; mount -t tmpfs tmpfs $top/other; mount -t tmpfs tmpfs $top/mnt"
gives 32 bin/umount.tahoefs -f mnt
stands || fail "the other mount is gone"
echo "all done"
"#;
    run(&format!("{BEGIN}{script}"));
}

#[test]
fn the_program_of_the_namespace_is_run_there() {
    let script = r#"
tahoefs 9
cat >inside <<'END'
cd "$1"
cp bin/tahoefs tahoefs.before
mount -t tmpfs tmpfs bin
printf '#!/bin/sh\necho inside "$@" >>%s/asked\n' "$1" >bin/tahoefs
chmod 755 bin/tahoefs
: >ready
exec sleep 60
END
unshare --mount sh -eu inside "$top" &
inside=$!
n=0
until test -e ready; do n=$((n + 1)); test $n -lt 100 || fail "no namespace"; sleep 0.1; done
gives 0 bin/mount.tahoefs tahoe: mnt -N "/proc/$inside/ns/mnt"
kill $inside
grep -qx "inside mount -- tahoe: $top/mnt" asked || fail "asked: $(cat asked)"
echo "all done"
"#;
    run(&format!("{BEGIN}{script}"));
}

/// An automount point as systemd makes it, with this process in the place of systemd.
#[test]
fn an_automount_point_is_given_to_its_user_and_nothing_else_is() {
    let script = r#"
user=$(id -un 65534)
tahoefs 0 "stat -c %u $top/mnt >>$top/asked"
gives 0 bin/mount.tahoefs tahoe: mnt -o "uid=$user"
test "$(stat -c %u mnt)" = 0 || fail "an ordinary directory was given away"
chmod 777 "$top" asked
mkfifo pipe
exec 4<>pipe
mount -i -t autofs -o "fd=4,pgrp=$(ps -o pgid= $$ | tr -d ' '),minproto=5,maxproto=5,direct" systemd-1 mnt
gives 0 bin/mount.tahoefs tahoe: mnt -o "uid=$user"
test "$(tail -n 1 asked)" = 65534 || fail "it is of $(tail -n 1 asked)"
umount -i mnt
test "$(stat -c %u mnt)" = 0 || fail "the directory below was given away"
echo "all done"
"#;
    run(&format!("{BEGIN}{script}"));
}
