#!/bin/bash
# Makes this machine an agent of a farrow server and keeps it one, by systemd. Debian and Ubuntu.
# Run as root: by cloud-init as user data, or over ssh. docs/ec2.md tells how. What it is told:
#
#   FARROW_URL       the server, such as https://10.0.0.5:3277; several of one database: with commas
#   FARROW_CA        the certificate (PEM, the text itself) of the authority that signed the server's,
#                    if that is one of your own
#   FARROW_TOKEN     the server's token
#   FARROW_PROGRAM   the program: a file here, an https:// address, or sha256:…, a blob at the server
#   FARROW_RUNTIMES  what to install, of "r python"; default both
#   FARROW_SLOTS, FARROW_NAME, FARROW_LABEL  as `farrow agent --help` explains them; optional
#   INSTANCE_METADATA  yes: code of jobs may ask the instance's metadata service, for the credentials of
#                    its role and for user data; else it cannot
#   SPOT             yes: watch for the notice that EC2 takes this Spot instance away
set -euo pipefail

say() { echo "install-agent: $*" >&2; }

install_runtimes() {
  local packages=(ca-certificates curl) runtime
  for runtime in ${FARROW_RUNTIMES:-r python}; do
    case $runtime in
      r) packages+=(r-base-core) ;;
      python) packages+=(python3 python3-pip) ;;
      *) say "FARROW_RUNTIMES: $runtime is neither r nor python" && exit 2 ;;
    esac
  done
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

fetch_program() {
  local file
  file=$(mktemp)
  case $FARROW_PROGRAM in
    sha256:*)
      local trust=()
      [ -z "${FARROW_CA:-}" ] || trust=(--cacert "$FARROW_CA_FILE")
      # The token goes to curl by a file descriptor: arguments are shown to everybody on a machine.
      curl -fsS --retry 10 --retry-all-errors -o "$file" -H @<(echo "Authorization: Bearer $FARROW_TOKEN") \
        "${trust[@]}" "${FARROW_URL%%,*}/v1/blobs/$FARROW_PROGRAM"
      echo "${FARROW_PROGRAM#sha256:}  $file" | sha256sum --check --quiet
      ;;
    http://* | https://*) curl -fsSL --retry 10 --retry-all-errors -o "$file" "$FARROW_PROGRAM" ;;
    *) cp "$FARROW_PROGRAM" "$file" ;;
  esac
  # Renamed into place: a program that runs cannot be written to, and an agent may be running.
  install -m 0755 "$file" /usr/local/bin/farrow.new
  mv /usr/local/bin/farrow.new /usr/local/bin/farrow
  rm -f "$file"
  /usr/local/bin/farrow --version
}

make_user() {
  id farrow >/dev/null 2>&1 || useradd --system --create-home --home-dir /var/lib/farrow --shell /usr/sbin/nologin farrow
}

# A certificate is no secret, and the agent is not root.
write_authority() {
  [ -n "${FARROW_CA:-}" ] || return 0
  FARROW_CA_FILE=/etc/farrow-ca.pem
  printf '%s\n' "$FARROW_CA" >"$FARROW_CA_FILE"
  chmod 0644 "$FARROW_CA_FILE"
}

# Only root reads this file; systemd reads it as root and gives it to the agent.
write_settings() {
  install -d -m 0700 /etc/farrow
  local file=/etc/farrow/agent.env name
  (umask 077 && : >"$file.new")
  for name in FARROW_URL FARROW_CA_FILE FARROW_TOKEN FARROW_SLOTS FARROW_NAME FARROW_LABEL; do
    [ -z "${!name:-}" ] || printf '%s="%s"\n' "$name" "${!name}" >>"$file.new"
  done
  mv "$file.new" "$file"
}

write_units() {
  cat >/etc/systemd/system/farrow-agent.service <<'UNIT'
[Unit]
Description=farrow agent
Wants=network-online.target
After=network-online.target
# It is tried for ever: the server may be the one that is away.
StartLimitIntervalSec=0

[Service]
User=farrow
EnvironmentFile=/etc/farrow/agent.env
WorkingDirectory=/var/lib/farrow
ExecStart=/usr/local/bin/farrow agent --grace 100
Restart=always
RestartSec=5
# Exit code 0: somebody drained it. It stays away until it is started again.
RestartPreventExitStatus=0
# SIGTERM goes to the agent alone, which drains: workers finish what they run. Whatever is left after
# the grace is killed, all of it.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec=110
# Workers are bounded and killed by control groups.
Delegate=yes
# A worker that the kernel killed for its memory is one element's error, not the agent's end.
OOMPolicy=continue
# Code of jobs changes no system, and gains no rights.
NoNewPrivileges=yes
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
UNIT
  # A file of its own beside the unit, so that it can be seen, and changed, by itself.
  local metadata=/etc/systemd/system/farrow-agent.service.d/metadata.conf
  if [ "${INSTANCE_METADATA:-no}" = yes ]; then
    rm -f "$metadata"
  else
    mkdir -p "$(dirname "$metadata")"
    printf '[Service]\nIPAddressDeny=169.254.169.254 fd00:ec2::254\n' >"$metadata"
  fi
  cat >/etc/systemd/system/farrow-spot.service <<'UNIT'
[Unit]
Description=Drain the farrow agent when EC2 takes this Spot instance away
After=farrow-agent.service

[Service]
ExecStart=/usr/local/sbin/farrow-spot
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
}

write_spot_watcher() {
  cat >/usr/local/sbin/farrow-spot <<'SCRIPT'
#!/bin/bash
# Asks the instance metadata service (IMDSv2) every five seconds whether EC2 takes this Spot instance
# away, about two minutes ahead. Then it stops the agent, which drains: what runs may finish, what has
# not begun is given back at once and runs elsewhere.
set -u
imds=${IMDS:-http://169.254.169.254}
pause=${PAUSE:-5}
header=

new_token() {
  header=$(curl -sf --max-time 3 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600' "$imds/latest/api/token") &&
    header="X-aws-ec2-metadata-token: $header"
}

notice() { # the status: 200 when there is a notice, 404 when there is none, 401 when the token is too old
  curl -s --max-time 3 -o /dev/null -w '%{http_code}' -H "$header" "$imds/latest/meta-data/spot/instance-action"
}

while sleep "$pause"; do
  case $(notice) in
    200)
      echo "EC2 takes this instance away: the agent drains"
      exec systemctl stop farrow-agent
      ;;
    401) new_token ;;
  esac
done
SCRIPT
  chmod 0755 /usr/local/sbin/farrow-spot
}

main() {
  : "${FARROW_URL:?the address of the server is needed}" "${FARROW_TOKEN:?the token of the server is needed}"
  : "${FARROW_PROGRAM:?where the program is, is needed}"
  install_runtimes
  write_authority
  fetch_program
  make_user
  write_settings
  write_units
  write_spot_watcher
  systemctl daemon-reload
  systemctl enable farrow-agent
  systemctl restart farrow-agent
  if [ "${SPOT:-no}" = yes ]; then
    systemctl enable --now farrow-spot
  fi
  say "the agent is started; its log: journalctl -u farrow-agent"
}

# Over ssh the script itself is standard input, which nothing here may read.
main </dev/null
