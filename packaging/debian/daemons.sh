# Prints the pids of the daemons that run this package's program; those in containers are not of this system.
daemons() {
    for process in /proc/[0-9]*; do
        case $(readlink "$process/exe" 2>/dev/null) in
        /usr/bin/rpmx | "/usr/bin/rpmx (deleted)" | /usr/bin/rpmx.dpkg-*) ;;
        *) continue ;;
        esac
        [ "$process/root" -ef / ] || continue
        [ "$(tr '\0' '\n' <"$process/cmdline" | sed -n 2p)" = daemon ] || continue
        echo "${process#/proc/}"
    done
}

# The value of a variable in the environment of a process.
variable() {
    tr '\0' '\n' <"/proc/$1/environ" | sed -n "s/^$2=//p" | head -n 1
}

# Runs the program as the user of the daemon with this pid, for that daemon.
for_daemon() {
    pid=$1
    shift
    uid=$(sed -n 's/^Uid:\t[0-9]*\t\([0-9]*\).*/\1/p' "/proc/$pid/status")
    gid=$(sed -n 's/^Gid:\t[0-9]*\t\([0-9]*\).*/\1/p' "/proc/$pid/status")
    home=$(variable "$pid" RPM_HOME)
    [ -n "$home" ] || home=$(variable "$pid" HOME)/.rpm
    # Nothing that runs as another user holds up dpkg.
    timeout 120 setpriv --reuid="$uid" --regid="$gid" --clear-groups \
        env -i PATH="$PATH" RPM_HOME="$home" /usr/bin/rpmx "$@" </dev/null
}
