#!/bin/sh
#
# Installs tahoefs from this directory, or removes it again.
#
# Usage: ./install.sh [--prefix DIR] [--destdir DIR] [--uninstall]
#
# DIR is /usr/local for root and ~/.local for everybody else. mount(8) finds its helpers in /sbin alone, so root gets
# links there; without root everything but `mount -t tahoefs` works. --destdir puts all of it below another directory,
# for those who make packages. It needs FUSE: the package is named fuse3 almost everywhere.

set -eu
umask 022

if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
destdir=
remove=no
while [ $# != 0 ]; do
  case $1 in
    --prefix) prefix=${2:?--prefix wants a directory}; shift ;;
    --prefix=*) prefix=${1#*=} ;;
    --destdir) destdir=${2:?--destdir wants a directory}; shift ;;
    --destdir=*) destdir=${1#*=} ;;
    --uninstall) remove=yes ;;
    *) sed -n '3,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  shift
done
case $prefix in /*) ;; *) echo "install.sh: the prefix must be an absolute path" >&2; exit 2 ;; esac
here=$(cd "$(dirname "$0")" && pwd)

if [ "$(id -u)" = 0 ]; then units=$prefix/lib/systemd; else units=$prefix/share/systemd; fi

# Where a file of this directory's usr/ goes.
place() {
  case $1 in
    lib/systemd/*) echo "$units/${1#lib/systemd/}" ;;
    share/zsh/vendor-completions/*) echo "$prefix/share/zsh/site-functions/${1##*/}" ;;
    *) echo "$prefix/$1" ;;
  esac
}

helpers='mount.tahoefs mount.fuse.tahoefs umount.tahoefs umount.fuse.tahoefs'

if [ "$remove" = yes ]; then
  for helper in $helpers; do
    if [ "$(readlink "$destdir/sbin/$helper" 2>/dev/null || true)" = "$prefix/sbin/$helper" ]; then
      rm -f "$destdir/sbin/$helper"
    fi
  done
fi
(cd "$here/usr" && find . ! -type d | sed 's|^\./||') | while IFS= read -r file; do
  to=$destdir$(place "$file")
  if [ "$remove" = yes ]; then
    rm -f "$to"
    continue
  fi
  mkdir -p "$(dirname "$to")"
  # A new file in the old one's place: a program that runs keeps its own.
  rm -f "$to"
  case $file in
    *.service) sed "s|/usr/bin/tahoefs|$prefix/bin/tahoefs|" "$here/usr/$file" >"$to" ;;
    *) cp -P "$here/usr/$file" "$to" ;;
  esac
done
[ "$remove" = no ] || exit 0

if [ "$(id -u)" = 0 ]; then
  mkdir -p "$destdir/sbin"
  for helper in $helpers; do
    [ "$prefix" = /usr ] || ln -sf "$prefix/sbin/$helper" "$destdir/sbin/$helper"
  done
else
  echo "install.sh: not root, so without mount.tahoefs for mount(8) and /etc/fstab"
fi
command -v fusermount3 >/dev/null || echo "install.sh: fusermount3 is missing; install fuse3"
case :$PATH: in
  *":$prefix/bin:"*) ;;
  *) echo "install.sh: $prefix/bin is not in your PATH" ;;
esac
