#!/bin/sh
# Installs mbcore from this folder, without an index and without a compiler.
#
#     sudo ./install.sh [DIRECTORY]               into /opt/mbcore where no directory is named
#     sudo ./install.sh --rollback [DIRECTORY]    back to what was installed before
#
# DIRECTORY has two slots, a and b, and the link `current` to the one in use: DIRECTORY/current/bin/mbcore. The other slot is filled and
# tried before the link moves, in one step; where anything fails the link stays as it is.
set -eu
# Services and users other than root read it too.
umask 022

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

usage() {
    echo "install.sh: $1; usage: install.sh [--rollback] [DIRECTORY]" >&2
    exit 2
}

rollback=no
home=
for argument in "$@"; do
    case $argument in
        --rollback) rollback=yes ;;
        -*) usage "there is no option $argument" ;;
        '') usage "the name of the directory is empty" ;;
        *)
            [ -z "$home" ] || usage "one directory, not $home and $argument"
            home=$argument
            ;;
    esac
done
home=${home:-/opt/mbcore}
case $home in
    /*) ;;
    *) home=$PWD/$home ;;
esac
# By its own name the system tells of files in it.
[ ! -d "$home" ] || home=$(cd "$home" && pwd -P)

# The slot in use, and the other one.
used=none
[ ! -e "$home/current" ] || used=$(readlink "$home/current") || used="no slot"
case $used in
    a) other=b ;;
    b | none) other=a ;;
    *) fail "$home/current leads to $used and not to slot a or b: it was not made by this script; name another directory" ;;
esac

# Whether the command of a slot starts and its modules load.
works() {
    "$home/$1/bin/python" -I -c "import mbcore.engine.serial, mbcore.engine.tcp, mbcore.server" &&
        "$home/$1/bin/mbcore" --version >/dev/null
}

# The processes that have modules of a slot loaded: a service that was not restarted since has the slot that is not in use any more.
running_from() {
    for process in $(grep -lsF " $home/$1/" /proc/[0-9]*/maps); do
        process=${process#/proc/}
        printf '%s ' "${process%/maps}"
    done
}

# What has been done, and what is left to do: who runs keeps the slot that it was started from.
say_done() {
    echo "$("$home/current/bin/mbcore" --version) is $1: $home/current is slot $other, start $home/current/bin/mbcore," \
        "or restart its services: systemctl restart 'mbcore@*'"
}

# `current` to a slot, in one step: a power cut leaves the one or the other.
switch_to() {
    sync
    rm -f "$home/next"
    ln -s "$1" "$home/next"
    mv -T "$home/next" "$home/current"
    sync
}

[ ! -d "$home" ] || [ -w "$home" ] || fail "$home cannot be written: run it with sudo"
[ ! -e "$home/pyvenv.cfg" ] || fail "$home is a virtual environment, where a slot would get lost: name another directory"
# Nothing is deleted but what this script has made.
[ ! -e "$home/$other" ] || [ -e "$home/$other/pyvenv.cfg" ] || [ -e "$home/$other/slot" ] ||
    fail "$home/$other was not made by this script: name another directory"

if [ $rollback = yes ]; then
    [ -e "$home/$other/complete" ] || fail "there is nothing in $home to go back to: slot $other is empty"
    works "$other" || fail "slot $other of $home does not work any more, slot $used stays in use: install again"
    switch_to "$other"
    say_done back
    exit 0
fi

cd "$(dirname "$0")"
[ -e SHA256SUMS ] && [ -e for.sh ] || fail "there is no bundle beside this script: unpack the archive and run the install.sh in it"
sha256sum --quiet -c SHA256SUMS || fail "this bundle is damaged, nothing was changed: copy it again"
. ./for.sh
command -v "python$PYTHON" >/dev/null ||
    fail "there is no python$PYTHON, for which this bundle is: take the bundle for the Python of this system"
machine=$("python$PYTHON" -c 'import platform; print(platform.machine(), platform.architecture()[0])')
case " $MACHINES " in
    *" $machine; "*) ;;
    *) fail "this bundle is for $ARCHITECTURE and python$PYTHON here is for $machine: take the bundle for that" ;;
esac
mkdir -p "$home" || fail "$home cannot be written: run it with sudo"
# What is running would find its modules gone, or those of another version.
running=$(running_from "$other")
[ -z "$running" ] ||
    fail "slot $other of $home is to be filled and process ${running% } runs from it, nothing was changed:" \
        "restart it first, services by systemctl restart 'mbcore@*'"

# Renamed first: what a power cut leaves of it is not taken for somebody else's.
empty_slot() {
    rm -rf "${home:?}/.$other.going"
    [ ! -e "$home/$other" ] || mv -T "$home/$other" "$home/.$other.going"
    rm -rf "${home:?}/.$other.going"
}
empty_slot
trap empty_slot EXIT
trap 'exit 1' HUP INT TERM
mkdir "$home/$other"
touch "$home/$other/slot"
"python$PYTHON" -m venv --without-pip "$home/$other"
"$home/$other/bin/python" "$(echo wheels/pip-*.whl)/pip" --isolated --disable-pip-version-check --quiet install \
    --no-index --no-cache-dir --find-links wheels wheels/mbcore-*.whl || fail "mbcore could not be installed, nothing was changed"
works "$other" || fail "what was installed does not work, nothing was changed"
touch "$home/$other/complete"
trap - EXIT
switch_to "$other"
say_done installed
