# What a person does with the package, in a root that is thrown away.

set -eu
cd /
fail() { echo "FAILED: $*" >&2; exit 1; }
step() { echo "--- $*"; }
mounted() { findmnt -n -o SOURCE,FSTYPE "$1" | tr -s ' '; }
# The process ends a moment after it has stored everything and let go of the mount's lock, which is what umount awaits.
no_daemon() {
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    pgrep -x tahoefs >/dev/null || return 0
    sleep 1
  done
  fail "$1: a tahoefs process is left"
}
same() { # A B: rsync finds nothing to do
  test -z "$(rsync -anc --delete --itemize-changes "$1/" "$2/" | grep -v '^\.d\.\.t' || true)" || fail "$1 and $2 differ"
}

step "the package installs"
dpkg -i /tmp/tahoefs.deb
dpkg --verify tahoefs
test "$(dpkg-query -W -f '${Status}' tahoefs)" = "install ok installed"
tahoefs --version
for helper in mount.tahoefs mount.fuse.tahoefs umount.tahoefs umount.fuse.tahoefs; do
  test -x "/sbin/$helper" || fail "/sbin/$helper is missing"
done
for file in man/man1/tahoefs.1.gz man/man1/tahoefs-mount.1.gz man/man7/tahoefs-semantics.7.gz man/man8/mount.tahoefs.8.gz \
  bash-completion/completions/tahoefs zsh/vendor-completions/_tahoefs fish/vendor_completions.d/tahoefs.fish \
  doc/tahoefs/copyright; do
  test -s "/usr/share/$file" || fail "/usr/share/$file is missing"
done
if command -v systemd-analyze >/dev/null; then
  systemd-analyze verify --man=no "/usr/lib/systemd/system/tahoefs@.service"
  XDG_RUNTIME_DIR=/tmp systemd-analyze verify --man=no --user "/usr/lib/systemd/user/tahoefs@.service"
fi

step "a tree to store"
mkdir -p /tmp/tree/folder/deeper
for i in 1 2 3 4 5 6 7 8 9; do
  head -c "$((i * 30000))" /dev/urandom >"/tmp/tree/folder/file $i"
  echo "small $i" >"/tmp/tree/folder/deeper/$i"
done
ln -s folder/deeper /tmp/tree/link

step "the system's line in fstab"
export TAHOEFS_NODE_DIRECTORY=/var/lib/tahoefs
tahoefs -q init
tahoefs create-alias tahoe
unset TAHOEFS_NODE_DIRECTORY
mkdir /mnt/tahoe
cat >/etc/fstab <<'END'
tahoe: /mnt/tahoe tahoefs defaults,noatime,nofail,_netdev,x-systemd.automount,allow_other,node-directory=/var/lib/tahoefs 0 0
END
mount -a
test "$(mounted /mnt/tahoe)" = "tahoe: fuse.tahoefs" || fail "findmnt shows $(mounted /mnt/tahoe)"
mount -a
test "$(findmnt -n /mnt/tahoe | wc -l)" = 1 || fail "mounted twice"
rsync -a /tmp/tree/ /mnt/tahoe/
umount /mnt/tahoe
test -z "$(mounted /mnt/tahoe)" || fail "umount returned with the mount there"
no_daemon "umount"
test -z "$(ls -A /run/tahoefs)" || fail "/run/tahoefs keeps a note"
mount /mnt/tahoe
same /tmp/tree /mnt/tahoe
test -z "$(rsync -an --itemize-changes /tmp/tree/ /mnt/tahoe/)" || fail "a second rsync would send something"
umount /mnt/tahoe

step "as mount -t asks"
mount -t tahoefs -o ro,node-directory=/var/lib/tahoefs tahoe:folder /mnt/tahoe
test "$(mounted /mnt/tahoe)" = "tahoe:folder fuse.tahoefs"
same /tmp/tree/folder /mnt/tahoe
! touch /mnt/tahoe/x 2>/dev/null || fail "a read-only mount was written"
umount -l /mnt/tahoe
test -z "$(mounted /mnt/tahoe)"
no_daemon "umount -l"
mount -f -t tahoefs tahoe: /mnt/tahoe
test -z "$(mounted /mnt/tahoe)" || fail "mount -f mounted"

step "what cannot be"
code=0
said=$(mount -t tahoefs URI:DIR2:hushhush:hushhush /mnt/tahoe 2>&1) || code=$?
test "$code" = 1 || fail "a capability as source: $code $said"
case $said in *hushhush*) fail "the capability is repeated" ;; *add-alias*) ;; *) fail "no advice: $said" ;; esac
code=0
said=$(mount -t tahoefs -o node-directory=/nowhere tahoe: /mnt/tahoe 2>&1) || code=$?
test "$code" = 32 || fail "no node directory: $code $said"
code=0
said=$(mount -t tahoefs -o uid=nosuchuser tahoe: /mnt/tahoe 2>&1) || code=$?
test "$code" = 1 || fail "no such user: $code $said"
no_daemon "refusals"

step "an ordinary user's line in fstab"
useradd -m alice
cat >/etc/fstab <<'END'
tahoe: /home/alice/Tahoe tahoefs user,noauto 0 0
work: /home/alice/Work tahoefs uid=alice,noauto,nofail 0 0
END
cat >/tmp/alice.sh <<'END'
set -eu
cd
mkdir Tahoe Work
tahoefs -q init
tahoefs create-alias tahoe
tahoefs create-alias work
mount ~/Tahoe
findmnt -n -o FSTYPE,OPTIONS ~/Tahoe | grep fuse.tahoefs | grep noexec | grep "user_id=$(id -u)"
rsync -a /tmp/tree/ ~/Tahoe/
umount ~/Tahoe
test "$(stat -c %a ~/.tahoefs)" = 700
END
su alice -s /bin/sh -c 'sh /tmp/alice.sh'
no_daemon "the user's umount"
test -d /home/alice/.tahoefs/private
su alice -s /bin/sh -c 'mount ~/Tahoe'
test "$(ps -o user= -C tahoefs)" = alice || fail "the daemon runs as $(ps -o user= -C tahoefs)"
test "$(stat -c %U "/proc/$(pgrep -x tahoefs)/environ")" = root || fail "the daemon's memory can be dumped"
su alice -s /bin/sh -c 'ls -A ~/Tahoe/folder | wc -l | grep -qx 10'
step "root unmounts it"
umount /home/alice/Tahoe
no_daemon "root's umount of the user's mount"
code=0
said=$(su alice -s /bin/sh -c 'mount.tahoefs tahoe: ~/Tahoe -o uid=root' 2>&1) || code=$?
test "$code" = 1 || fail "uid= by an ordinary user: $code $said"

step "root mounts for the user"
mount /home/alice/Work
test "$(mounted /home/alice/Work)" = "work: fuse.tahoefs"
test "$(ps -o user= -C tahoefs)" = alice || fail "the daemon runs as $(ps -o user= -C tahoefs)"
test "$(stat -c %U "/proc/$(pgrep -x tahoefs)/environ")" = root || fail "the daemon's memory can be dumped"
test "$(tr '\0' '\n' <"/proc/$(pgrep -x tahoefs)/environ" | sed 's/=.*//' | sort | xargs)" = "HOME LOGNAME PATH USER"
su alice -s /bin/sh -c 'echo hello > ~/Work/hello'
umount /home/alice/Work
no_daemon "root's umount"
su alice -s /bin/sh -c 'tahoefs get work:hello' | grep -qx hello || fail "what was written is not there"

step "the package goes"
dpkg -r tahoefs
test ! -e /usr/bin/tahoefs
test ! -e /sbin/mount.tahoefs
test -d /home/alice/.tahoefs
echo "all done"
