# Makes a copy of this machine's root that is thrown away, and runs inside.sh there.
#
# Usage: sh root.sh TOP DEB INSIDE, as root in mount and process namespaces of its own, so that every mount and process
# goes when it ends. What is written goes to memory.

set -eu
top=$1 deb=$2 inside=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" overlay "$top/root"
cd "$top/root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
(
  umask 0
  mknod -m 666 dev/null c 1 3
  mknod -m 666 dev/zero c 1 5
  mknod -m 666 dev/random c 1 8
  mknod -m 666 dev/urandom c 1 9
  mknod -m 666 dev/tty c 5 0
  mknod -m 666 dev/fuse c 10 229
)
ln -s /proc/self/fd dev/fd
cp "$deb" tmp/tahoefs.deb
cp "$inside" tmp/inside.sh
exec chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/ sh /tmp/inside.sh
