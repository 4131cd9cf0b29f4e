#!/usr/bin/env bash
# Installs the built tree, the helsctl command, systemd units and first configuration; --help says the rest.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/install.sh [--prefix DIR] [--root DIR] [--node FILE] [--node-modules DIR]
       deploy/install.sh --uninstall [--prefix DIR] [--root DIR]

  --prefix DIR        where Hels lives (default /opt/hels)
  --root DIR          put every file below DIR instead of / (packaging, tests); systemd is not told
  --node FILE         the Node.js that runs Hels (default: the one on the PATH)
  --node-modules DIR  copy the production packages from DIR instead of running npm ci (no network)
  --uninstall         stop and remove everything except /etc/hels and /var/lib/hels

Installing again replaces the program and the units; files in /etc/hels that exist are never touched.
TEXT
}

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

source_tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=/opt/hels
root=
node=
node_modules=
uninstall=false
while [ $# -gt 0 ]; do
  case "$1" in
    --uninstall) uninstall=true ;;
    --help | -h)
      usage
      exit 0
      ;;
    --prefix | --root | --node | --node-modules)
      [ -n "${2:-}" ] || fail "$1 needs a value"
      case "$1" in
        --prefix) prefix=$2 ;;
        --root) root=$2 ;;
        --node) node=$2 ;;
        --node-modules) node_modules=$2 ;;
      esac
      shift
      ;;
    *)
      usage >&2
      fail "unknown option '$1'"
      ;;
  esac
  shift
done

# The paths end up in unit files and shell commands; blanks and quotes there would need escapes of three kinds.
[[ $prefix =~ ^(/[A-Za-z0-9._+-]+){2,}$ ]] ||
  fail "--prefix is '$prefix'; give an absolute path of at least two parts without blanks, for example /opt/hels"
[ -z "$root" ] || root=$(realpath -m "$root")
[ -n "$root" ] || [ "$(id -u)" -eq 0 ] ||
  fail "root is needed to write $prefix, /etc and /usr/local; run it with sudo, or give --root DIR"

target=$root$prefix
units=$root/usr/local/lib/systemd/system
configuration=$root/etc/hels
link=$root/usr/local/bin/helsctl

is_ours() { grep -qs '"name": "hels"' "$1/package.json"; }
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
if [ -e "$target" ] && [ -n "$(ls -A "$target")" ] && ! is_ours "$target"; then
  fail "$target exists and is not an installation of Hels; choose another --prefix"
fi

remove() {
  if has_systemd && [ -e "$units/hels-controller.service" ]; then
    # The controller first: it drains its requests while the workers still compute.
    systemctl stop hels-controller.service
    systemctl stop 'hels-worker@*.service'
    # disable takes no patterns, and of a template it disables every instance.
    systemctl disable --quiet hels-controller.service hels-worker@.service
    systemctl reset-failed hels-controller.service 'hels-worker@*.service' 2>/dev/null || true
  fi
  rm -f "$units/hels-controller.service" "$units/hels-worker@.service"
  [ ! -L "$link" ] || [ "$(realpath -m "$link")" != "$target/dist/client/helsctl/main.js" ] || rm -f "$link"
  rm -rf "$target" "$target.new" "$target.old"
  ! has_systemd || systemctl daemon-reload
  echo "removed $target, the units and helsctl; kept $configuration (and the state in /var/lib/hels)"
}

if $uninstall; then
  remove
  exit 0
fi

check_built() {
  local file
  for file in dist/controller/main.js dist/worker/main.js dist/client/helsctl/main.js native/build/Release/hels.node; do
    [ -f "$source_tree/$file" ] || fail "$source_tree/$file is missing; build Hels first with: make build"
  done
}

check_node() {
  [ -n "$node" ] || node=$(command -v node) || fail "Node.js is not on the PATH; install version 20.19 or newer, or give --node FILE"
  [[ $node =~ ^/[A-Za-z0-9._+/-]+$ ]] || fail "--node is '$node'; give an absolute path without blanks, for example /usr/bin/node"
  [ -x "$node" ] || fail "--node: $node cannot be executed"
  # The units run as an account of their own, for which home directories are empty.
  case "$(realpath "$node")" in
    /home/* | /root/*) fail "$node lies in a home directory, which the services cannot see; install Node.js for the whole system, or give --node FILE" ;;
  esac
}

# Packages that the lock file does not mark as needed for development only; what lies inside one is its own and comes with it.
copy_packages() {
  local parent list
  parent=$(cd "$node_modules/.." && pwd)
  list=$("$node" -e '
    const { packages } = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"));
    for (const [path, { dev, devOptional, optional }] of Object.entries(packages)) {
      if (/^node_modules\/(?!.*\/node_modules\/)/.test(path) && !dev && !devOptional && !optional) console.log(path);
    }' "$source_tree/package-lock.json")
  tar -C "$parent" -cf - $list | tar -C "$1" -xf - ||
    fail "--node-modules: $node_modules lacks packages of package-lock.json; run: npm ci"
}

# The whole tree beside its place, then one rename: a failure half-way leaves what was there.
install_tree() {
  local new=$target.new
  rm -rf "$new"
  mkdir -p "$new/native/build/Release" "$new/proto/hels" "$new/deploy/models"
  cd "$source_tree"
  cp -R dist package.json package-lock.json LICENSE NOTICE CHANGELOG.md docs "$new/"
  cp native/build/Release/hels.node "$new/native/build/Release/"
  cp -R proto/hels/v1 "$new/proto/hels/"
  cp -R deploy/models/hels-tiny "$new/deploy/models/"
  cp -R deploy/examples deploy/profiles "$new/deploy/"
  cp deploy/install.sh "$new/deploy/"
  chmod 755 "$new/dist/client/helsctl/main.js"
  if [ -n "$node_modules" ]; then
    copy_packages "$new"
  else
    # No package of Hels needs its install script, and root should not run any.
    (cd "$new" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error)
  fi
  # Readable by the account of the services whatever the umask was.
  chmod -R a+rX "$new"
  rm -rf "$target.old"
  [ ! -e "$target" ] || mv "$target" "$target.old"
  mv "$new" "$target"
  rm -rf "$target.old"
}

fill_in() { sed -e "s|@PREFIX@|$prefix|g" -e "s|@NODE@|$node|g" "$1"; }

install_units() {
  local unit
  mkdir -p "$units"
  for unit in "$source_tree"/deploy/systemd/*.service; do
    fill_in "$unit" >"$units/$(basename "$unit")"
    chmod 644 "$units/$(basename "$unit")"
  done
  ! has_systemd || systemctl daemon-reload
}

# install_configuration EXAMPLE NAME MODE
install_configuration() {
  local file=$configuration/$2
  if [ -e "$file" ]; then
    echo "kept        $file"
    return
  fi
  mkdir -p "$configuration"
  (umask 077 && fill_in "$source_tree/deploy/examples/$1" >"$file")
  chmod "$3" "$file"
  echo "wrote       $file"
}

check_built
check_node
mkdir -p "$(dirname "$target")"
install_tree
install_units
mkdir -p "$(dirname "$link")"
if [ -e "$link" ] && [ ! -L "$link" ]; then fail "$link exists and is not a link; move it away and install again"; fi
# Relative, so that it is right both below --root and in place.
ln -sfnr "$target/dist/client/helsctl/main.js" "$link"
echo "installed   $target, $link, units in $units"
install_configuration controller.yaml controller.yaml 644
install_configuration controller.env controller.env 600
install_configuration worker.env worker-0.env 644

cat <<TEXT

next steps (more in $prefix/docs/operating.md):
  1. edit /etc/hels/controller.yaml and one /etc/hels/worker-N.env per device
  2. systemctl enable --now hels-controller hels-worker@0
  3. helsctl status, then: helsctl chat -m 'What is Hels?'
After an upgrade: systemctl restart hels-controller 'hels-worker@*'
TEXT
