"""Shell commands that make all but an edge's state read-only, in a mount namespace of their own."""

from __future__ import annotations

READ_ONLY_ROOT = r"""
mount --make-rprivate /
mount --bind "$project" /srv
mount -o remount,bind,ro /srv
mount --bind "$state" /mnt
mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p "$state"
mount --bind /mnt "$state"
cd "$state"
export PYTHONPATH=/srv PYTHONDONTWRITEBYTECODE=1
"""
"""The project ``$project`` is at /srv, the folder ``$state`` is where it was, /tmp is private."""
