#!/bin/bash
# What the official image promises, as far as it is relied on: the first start makes a database cluster in PGDATA, with the
# superuser POSTGRES_USER (postgres), a password from POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, which is asked for over
# TCP, and the database POSTGRES_DB (the user's name). Later starts leave all that alone. Any uid will do, on a root that is
# read-only: PGDATA, /tmp and /var/run/postgresql are written to.
set -euo pipefail

# The server asks for the name of its user, and one that the cluster made up has none.
if ! getent passwd "$(id -u)" >/dev/null; then
  export NSS_WRAPPER_PASSWD=/tmp/passwd NSS_WRAPPER_GROUP=/etc/group LD_PRELOAD=libnss_wrapper.so
  echo "postgres:x:$(id -u):$(id -g)::$PGDATA:/bin/false" >"$NSS_WRAPPER_PASSWD"
fi

initialise() {
  local user=${POSTGRES_USER:-postgres} password=${POSTGRES_PASSWORD:-}
  [ -z "${POSTGRES_PASSWORD_FILE:-}" ] || password=$(<"$POSTGRES_PASSWORD_FILE")
  [ -n "$password" ] || { echo "neither POSTGRES_PASSWORD nor POSTGRES_PASSWORD_FILE says a password" >&2; exit 1; }
  initdb --username="$user" --pwfile=<(printf '%s\n' "$password") --auth-local=trust --auth-host=scram-sha-256 >/dev/null
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  # On a socket file alone, so that nobody takes the server for ready meanwhile.
  pg_ctl -w start -o "-c listen_addresses=''" >/dev/null
  local database=${POSTGRES_DB:-$user}
  if [ "$database" != postgres ]; then createdb --username="$user" "$database"; fi
  pg_ctl -w -m fast stop >/dev/null
}

if [ "${1:-}" = postgres ]; then
  mkdir -p "$PGDATA"
  chmod 700 "$PGDATA" 2>/dev/null || true
  [ -s "$PGDATA/PG_VERSION" ] || initialise
  set -- "$@" -c "listen_addresses=*"
fi
exec "$@"
