#!/bin/sh
# Prepares this machine for Lodge and hands over to Node 24: `npm start` and `npm test` come here first, with whatever
# Node and shell the machine has. It is the one shell script of the project, because it runs before anything else is there.
#
#   sh tools/bootstrap.sh start|test [arguments for tools/start.ts or tools/test.ts]
#   sh tools/bootstrap.sh stop                   ends the daemon; prepares nothing
#   sh tools/bootstrap.sh system start|test      the part that needs root; called by the first form
#
# Promises: says what it installs and why before it does; installs nothing that is there already (a second run only
# looks, in well under 2 s); changes the system only by apt, on Debian 12 and later, and elsewhere names the packages;
# runs at the same time wait for each other; every failure ends with what to do.
#
# LODGE_BOOTSTRAP_DRY_RUN=1 prints what it would do, changes nothing and does not hand over.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd -P)
dry_run=${LODGE_BOOTSTRAP_DRY_RUN:-}
os_release=${LODGE_BOOTSTRAP_OS_RELEASE:-/etc/os-release}
qemu_minimum=8.2
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
if [ -t 1 ] && [ -z "${CI:-}" ]; then terminal=yes; else terminal=; fi

say() { printf '%s\n' "$*"; }
fail() {
  printf '\nLodge cannot go on: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}

# --- Showing work --------------------------------------------------------------------------------------------------

child=
patient=
interrupted=
on_signal() {
  interrupted=yes
  [ -n "$child" ] || exit 130
  if [ -n "$patient" ]; then
    printf '\nFinishing the packages at hand first: stopping here would leave them half configured.\n'
  else
    kill -TERM -"$child" 2>/dev/null || :
  fi
}
trap on_signal INT TERM HUP

show_progress() { # label seconds log
  last=$(tail -c 400 "$3" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | tr -cd '[:print:]' | cut -c 1-60) || last=
  if [ -n "$terminal" ]; then
    printf '\r\033[K  %s … %s s  %s' "$1" "$2" "$last"
  elif [ "$2" -ge "$next_notice" ]; then
    printf '  %s … %s s  %s\n' "$1" "$2" "$last"
    next_notice=$(($2 + 15))
  fi
}

# Runs a command with its output kept in a log, a line of progress meanwhile, and the log's end shown on failure.
run_logged() { # label log command…
  label=$1 log=$2
  shift 2
  if [ -n "$dry_run" ]; then
    say "  would run: $*"
    return 0
  fi
  printf '\n# %s\n$ %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$log"
  began=$(date +%s)
  next_notice=15
  [ -n "$terminal" ] || say "  $label …"
  # In a session of its own it is ended with all that it has started, and Ctrl-C reaches it only through on_signal.
  setsid "$@" >>"$log" 2>&1 </dev/null &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    show_progress "$label" "$(($(date +%s) - began))" "$log"
    sleep 0.2 2>/dev/null || sleep 1
  done
  status=0
  wait "$child" || status=$?
  child=
  [ -z "$terminal" ] || printf '\r\033[K'
  if [ -n "$interrupted" ]; then
    say "Stopped. Run the same command again to go on."
    exit 130
  fi
  if [ "$status" -eq 0 ]; then
    say "  $label: done in $(($(date +%s) - began)) s"
  fi
  return "$status"
}

show_log_end() { # log
  printf '\nThe end of %s:\n' "$1" >&2
  tail -n 25 "$1" | sed 's/^/  | /' >&2
}

# --- What is there, what is missing --------------------------------------------------------------------------------

is_there() { # commands or files, separated by commas
  saved_ifs=$IFS
  IFS=,
  # Unquoted on purpose: the list is split at its commas.
  for proof in $1; do
    case $proof in
      /*) [ -e "$proof" ] || continue ;;
      *) command -v "$proof" >/dev/null 2>&1 || continue ;;
    esac
    IFS=$saved_ifs
    return 0
  done
  IFS=$saved_ifs
  return 1
}

# Sets qemu_old to the version of an installed QEMU that is too old, else to nothing.
check_qemu_version() {
  qemu_old=
  command -v qemu-system-x86_64 >/dev/null 2>&1 || return 0
  found=$(qemu-system-x86_64 --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
  [ -n "$found" ] || return 0
  if [ "${found%.*}" -lt "${qemu_minimum%.*}" ] ||
    { [ "${found%.*}" -eq "${qemu_minimum%.*}" ] && [ "${found#*.}" -lt "${qemu_minimum#*.}" ]; }; then
    qemu_old=$found
  fi
}

# Sets missing to the lines of packages.txt that are needed for start or test and not there: "name purpose".
find_missing() { # start|test
  missing=
  check_qemu_version
  while read -r use debian proof fedora arch suse alpine purpose; do
    case $use in
      run) ;;
      test) [ "$1" = test ] || continue ;;
      *) continue ;;
    esac
    case $debian in
      ^*)
        [ "$family" != debian ] || [ "$os_version" != 12 ] || continue
        debian=${debian#^}
        ;;
    esac
    if is_there "$proof"; then
      case $debian in
        +*) [ -n "$qemu_old" ] || continue ;;
        *) continue ;;
      esac
      purpose="$purpose (version $qemu_old is installed; Lodge needs $qemu_minimum)"
    fi
    case $family in
      debian) name=$debian ;;
      apt) name=${debian#+} ;;
      fedora) name=$fedora ;;
      arch) name=$arch ;;
      suse) name=$suse ;;
      alpine) name=$alpine ;;
      *) name=${debian#+} ;;
    esac
    # One package may bring several programs: it is named once.
    case "
$missing" in
      *"
$name "*) [ "$name" = - ] || continue ;;
    esac
    missing="$missing$name $purpose
"
  done <"$root/tools/packages.txt"
}

names_of() { # prefix character to select ("+") or to leave out ("!"), then the list
  printf '%s' "$2" | while read -r name _; do
    case $1$name in
      ++*) printf '%s ' "${name#+}" ;;
      !+*) ;;
      !*) printf '%s ' "$name" ;;
    esac
  done
}

read_os() {
  [ -r "$os_release" ] || fail "this is not a Linux distribution that says its name in $os_release."
  os_id= os_like= os_version= os_codename= os_name=
  while IFS='=' read -r key value; do
    value=${value#\"} value=${value%\"}
    case $key in
      ID) os_id=$value ;;
      ID_LIKE) os_like=$value ;;
      VERSION_ID) os_version=$value ;;
      VERSION_CODENAME) os_codename=$value ;;
      PRETTY_NAME) os_name=$value ;;
    esac
  done <"$os_release"
  case " $os_id $os_like " in
    " debian "*) family=debian ;;
    *" debian "* | *" ubuntu "*) family=apt ;;
    *" fedora "* | *" rhel "*) family=fedora ;;
    *" arch "*) family=arch ;;
    *" suse "* | *" opensuse "* | *" sles "*) family=suse ;;
    *" alpine "*) family=alpine ;;
    *) family=other ;;
  esac
}

# On a distribution this script does not install on: names the packages, and stops when one is missing.
explain_missing() {
  say "$os_name: these programs are missing." >&2
  printf '%s' "$missing" | while read -r name purpose; do
    if [ "$name" = - ]; then
      printf '  %-22s %s\n' "(not packaged here)" "$purpose"
    else
      printf '  %-22s %s\n' "$name" "$purpose"
    fi
  done >&2
  list=$(printf '%s' "$missing" | while read -r name _; do [ "$name" = - ] || printf '%s ' "$name"; done)
  if [ -z "$list" ]; then
    say "What needs them will not work; going on." >&2
    return 0
  fi
  case $family in
    apt) how="sudo apt-get install --no-install-recommends $list" ;;
    fedora) how="sudo dnf install $list" ;;
    arch) how="sudo pacman -S --needed $list" ;;
    suse) how="sudo zypper install $list" ;;
    alpine) how="sudo apk add $list" ;;
    *) how="Install them with your package manager (the names above are Debian's)." ;;
  esac
  fail "on this distribution Lodge does not install packages by itself. Install them, then run the same command again:" "$how"
}

# --- apt -----------------------------------------------------------------------------------------------------------

apt_options="-y --no-install-recommends -o DPkg::Lock::Timeout=900 -o Acquire::Retries=3"

# Prints "mirror-URI source-file entry-number" of the machine's own source for the given suite names, the first that is configured.
find_mirror() { # suites…
  # Without --no-release-info it tells nothing on a machine that has not fetched its package lists yet.
  apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(CREATED_BY) $(SOURCESENTRY)' 2>/dev/null |
    awk -v suites="$*" '
      BEGIN { count = split(suites, wanted, " ") }
      $3 == "main" && $4 == "Packages" && $1 !~ /^cdrom:/ {
        for (i = 1; i <= count; i++)
          if ($2 == wanted[i] || $2 == wanted[i] "/") {
            entry = $5; number = entry; sub(/.*:/, "", number); sub(/:[0-9]+$/, "", entry)
            print $1, entry, number
            exit
          }
      }'
}

# Prints the Signed-By of an entry as deb822 lines: a path, a fingerprint, or a whole key with its continuation lines.
find_signed_by() { # source-file entry-number
  case $1 in
    *.sources)
      awk -v wanted="$2" '
        /^#/ { next }
        /^[[:space:]]*$/ { inside = 0; copying = 0; next }
        !inside { inside = 1; number++ }
        /^[^[:space:]]/ { copying = 0 }
        number == wanted && tolower($0) ~ /^signed-by:/ { copying = 1 }
        copying { print }
      ' "$1"
      ;;
    *)
      # One-line format: "deb [signed-by=/path,/other arch=amd64] URI suite component"; entries are numbered by line.
      sed -n "$2"'s/^.*\[[^]]*signed-by=\([^] ]*\).*\].*$/Signed-By: \1/p' "$1" | tr ',' ' '
      ;;
  esac
}

# Debian 12 has QEMU 7.2; backports has the QEMU that Lodge needs. The mirror and the key are the ones that the machine
# already uses for Debian itself, so that a local mirror stays the only host that is asked.
enable_backports() {
  suite=$os_codename-backports
  [ -z "$(find_mirror "$suite" oldstable-backports stable-backports)" ] || return 0
  found=$(find_mirror "$os_codename" oldstable stable)
  [ -n "$found" ] || fail "apt has no source for Debian's $os_codename, so the mirror to take $suite from is not known." \
    "Add Debian's main archive to /etc/apt/sources.list.d, then run the same command again."
  mirror=${found%% *}
  entry=${found#* }
  signed_by=$(find_signed_by "${entry% *}" "${entry##* }")
  target=/etc/apt/sources.list.d/lodge-backports.sources
  say "QEMU comes from $suite at $mirror, Debian's own archive of newer versions; adding it as $target."
  text="# Written by Lodge's tools/bootstrap.sh: QEMU $qemu_minimum or newer is not in $os_codename itself.
Types: deb
URIs: $mirror
Suites: $suite
Components: main${signed_by:+
$signed_by}"
  if [ -n "$dry_run" ]; then
    printf '%s\n' "$text" | sed 's/^/  would write: /'
  else
    printf '%s\n' "$text" >"$target.new"
    chmod 644 "$target.new"
    mv "$target.new" "$target"
  fi
}

apt_install() { # what log [-t suite] packages…
  what=$1 apt_log=$2
  shift 2
  # Downloading comes first and apart: it may be stopped at any time and a broken network leaves nothing half installed.
  # shellcheck disable=SC2086 # the options are words
  run_logged "downloading $what" "$apt_log" apt-get $apt_options --download-only install "$@" || {
    show_log_end "$apt_log"
    fail "apt could not get $what." \
      "If a name or address above could not be reached, check the network, the proxy (http_proxy) and the mirror in /etc/apt." \
      "If a package has no candidate, check that the sources in /etc/apt are those of $os_name." \
      "Then run the same command again."
  }
  patient=yes
  # shellcheck disable=SC2086
  run_logged "installing $what" "$apt_log" apt-get $apt_options install "$@" || {
    show_log_end "$apt_log"
    fail "apt could not install $what." "Often 'dpkg --configure -a' or 'apt-get -f install' as root mends it; then run the same command again."
  }
  patient=
}

# Runs as root. Installs what is missing and says what and why.
install_system() { # start|test
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l LC_ALL=C.UTF-8
  log=/var/log/lodge/setup.log
  if [ -z "$dry_run" ]; then
    mkdir -p /var/log/lodge
    touch "$log"
    lock_file=/run/lodge-setup.lock
    wait_for_lock
  fi
  find_missing "$1"
  [ -n "$missing" ] || return 0
  say "Installing from Debian's packages:"
  printf '%s' "$missing" | while read -r name purpose; do printf '  %-22s %s\n' "${name#+}" "$purpose"; done
  backported=$(names_of + "$missing")
  stable=$(names_of ! "$missing")
  if [ "$os_version" = 12 ]; then
    [ -z "$backported" ] || enable_backports
  else
    stable="$backported$stable"
    backported=
  fi
  run_logged "reading the package lists" "$log" apt-get -o DPkg::Lock::Timeout=900 -o Acquire::Retries=3 update || {
    # One unreachable third-party source must not stand in the way: what can't be had is told when it is asked for.
    say "  (apt-get update reported problems; details in $log)"
  }
  # shellcheck disable=SC2086 # package names are words
  [ -z "$backported" ] || apt_install "QEMU" "$log" -t "$os_codename-backports" $backported
  # shellcheck disable=SC2086
  [ -z "$stable" ] || apt_install "packages" "$log" $stable
  [ -z "$dry_run" ] || return 0
  find_missing "$1"
  [ -z "$missing" ] || fail "apt reports success, but these are still not there: $(names_of + "$missing")$(names_of ! "$missing")" \
    "See $log. Is another program of that name in front of it in PATH?"
}

wait_for_lock() {
  command -v flock >/dev/null 2>&1 || fail "the program flock is missing (package util-linux)."
  touch "$lock_file" 2>/dev/null || fail "$lock_file can't be written by $(id -un)." \
    "An earlier run as root may own it: run as root again, or give the folder back to yourself with chown."
  exec 9>>"$lock_file"
  flock -n 9 && return 0
  say "Another run is preparing this machine; waiting for it (at most 30 minutes)."
  flock -w 1800 9 || fail "the other run did not end within 30 minutes." "Look for it with: fuser -v $lock_file"
}

# --- Root ----------------------------------------------------------------------------------------------------------

# Sets as_root to the words in front of a command that needs root.
find_root() {
  as_root=
  [ "$(id -u)" -ne 0 ] || return 0
  if [ "$mode" = stop ]; then
    needs="root, as the daemon runs as root"
  else
    needs="root: it installs packages, makes bridges, and starts each virtual machine as a user of its own"
  fi
  # Who only wants to use a daemon that runs already needs no root.
  use_it=
  if [ "$mode" = start ] && [ -S /run/lodge/lodge.sock ]; then
    use_it="A daemon runs here already. To use it, have root run 'usermod -aG lodge $(id -un)', sign in again, and try $root/bin/lodge vm list."
  fi
  command -v sudo >/dev/null 2>&1 || fail "it needs $needs." \
    "You are $(id -un), and sudo is not installed: become root (su -), change to $root, and run the same command." ${use_it:+"$use_it"}
  if sudo -n true 2>/dev/null; then
    as_root="sudo -n"
  elif [ -t 0 ]; then
    say "Lodge needs $needs. sudo asks for your password."
    sudo -v || fail "sudo did not give root to $(id -un)." "Change to $root and run the same command as root, or have an administrator do so." ${use_it:+"$use_it"}
    as_root="sudo"
  else
    fail "it needs $needs. sudo asks for a password, and there is no terminal to ask at." \
      "Run the same command as root, or in a terminal, or allow sudo without a password for this user." ${use_it:+"$use_it"}
  fi
}

install_as_root() { # start|test
  # shellcheck disable=SC2086 # the words in front of the command
  $as_root env ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} ${CI:+"CI=$CI"} \
    "LODGE_BOOTSTRAP_DRY_RUN=$dry_run" "LODGE_BOOTSTRAP_OS_RELEASE=$os_release" \
    sh "$root/tools/bootstrap.sh" system "$1" || exit $?
}

# --- npm packages and Node 24 --------------------------------------------------------------------------------------

node=$root/node_modules/.bin/node

# Whether node_modules holds exactly what package-lock.json names, and its Node runs here. npm writes what it installed
# to node_modules/.package-lock.json at the very end, so an interrupted installation shows as well. Packages for other
# platforms are not installed here; one for this platform is wanted, also where npm would go on without it.
are_packages_current() {
  [ -x "$node" ] && [ -f "$root/node_modules/.package-lock.json" ] || return 1
  "$node" -e '
    const read = (path) => JSON.parse(require("node:fs").readFileSync(path, "utf8")).packages;
    const wanted = read(process.argv[1]), found = read(process.argv[2]);
    const isFor = (list, own) => list === undefined || list.includes(own);
    const isOurs = ({ os, cpu, libc }) => os && isFor(os, "linux") && isFor(cpu, "x64") && isFor(libc, "glibc");
    const isRight = (path) => found[path]
      ? wanted[path].version === found[path].version && wanted[path].integrity === found[path].integrity
      : path === "" || (wanted[path].optional && !isOurs(wanted[path]));
    const isOld = Number(process.versions.node.split(".")[0]) < 24;
    process.exit(!isOld && Object.keys(wanted).every(isRight) ? 0 : 1);
  ' "$root/package-lock.json" "$root/node_modules/.package-lock.json" 2>/dev/null
}

install_packages() {
  are_packages_current && return 0
  command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 ||
    fail "Node with npm is missing." "Install Node 20 or newer (on Debian 13: apt-get install npm), then run the same command again."
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 20 ] || fail "Node $(node --version) is too old." "Install Node 20 or newer; Lodge then brings its own Node 24."
  say "Installing the npm packages of package-lock.json into node_modules (Node 24 is one of them; nothing goes elsewhere)."
  log=$root/.lodge/npm.log
  [ -n "$dry_run" ] || touch "$log"
  # Not "npm ci": it removes node_modules first, under a running daemon, and refuses the lockfile where the registry lacks
  # a build for some other platform. Versions and checksums are the lockfile's here too, and --no-save keeps it as it is.
  run_logged "npm install" "$log" npm --prefix "$root" install --no-save --prefer-offline --no-audit --no-fund --loglevel=http \
    --fetch-retries=1 --fetch-retry-mintimeout=2000 --fetch-retry-maxtimeout=5000 --fetch-timeout=120000 || {
    show_log_end "$log"
    fail "npm could not install the packages." \
      "If an address above could not be reached, check the network, the proxy (npm config get proxy) and the registry (npm config get registry)." \
      "Then run the same command again."
  }
  [ -n "$dry_run" ] || are_packages_current ||
    fail "npm install ended well, but $node is not Node 24 or packages are missing." \
      "The npm package 'node' brings it by an install script: check 'npm config get ignore-scripts' (must be false)." \
      "On a system without glibc (Alpine) that Node does not run."
}

# --- Main ----------------------------------------------------------------------------------------------------------

case ${1:-} in
  system)
    mode=${2:-start}
    read_os
    install_system "$mode"
    exit 0
    ;;
  start | test | stop)
    mode=$1
    shift
    ;;
  *)
    say "usage: sh tools/bootstrap.sh start|test|stop [arguments]" >&2
    exit 2
    ;;
esac

[ "$(uname -s)" = Linux ] || fail "Lodge runs on Linux; this is $(uname -s)."
[ "$(uname -m)" = x86_64 ] || fail "Lodge runs on x86-64 machines; this one is $(uname -m)."
read_os
if [ "$family" = debian ] && [ -n "$os_version" ] && [ "${os_version%%.*}" -lt 12 ]; then
  fail "Debian $os_version is too old." "Lodge is made for Debian 12 and 13; on other distributions it names the packages to install."
fi
find_root

prepare() {
  if [ -z "$dry_run" ]; then
    mkdir -p "$root/.lodge"
    lock_file=$root/.lodge/bootstrap.lock
    wait_for_lock
  fi
  find_missing "$mode"
  if [ -n "$missing" ]; then
    if [ "$family" = debian ]; then
      install_as_root "$mode"
    else
      explain_missing
    fi
  fi
  install_packages
  if [ -n "$dry_run" ]; then
    say "Would now run tools/$mode.ts with Node 24."
    exit 0
  fi
  # The lock ends here: what follows runs long, and has its own.
  exec 9>&-
}

if [ "$mode" = stop ]; then
  [ -x "$node" ] || fail "there is no Node 24 in this clone, so it never started a daemon." "Run npm stop in the clone that did."
else
  prepare
fi
PATH=$root/node_modules/.bin:$PATH
# shellcheck disable=SC2086
exec $as_root env "PATH=$PATH" ${CI:+"CI=$CI"} ${INIT_CWD:+"INIT_CWD=$INIT_CWD"} \
  ${LODGE_CONFIG:+"LODGE_CONFIG=$LODGE_CONFIG"} "$node" "$root/tools/$mode.ts" "$@"
