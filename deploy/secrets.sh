#!/usr/bin/env bash
# Draws the secrets that compose.yaml mounts, once: into deploy/secrets, where only its owner can go.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
cd secrets
if [ -e ttdust.toml ]; then
    echo "deploy/secrets is there already: nothing is changed" >&2
    exit 1
fi

drawn() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

postgres=$(drawn) s3=$(drawn)
printf '%s' "$postgres" >postgres_password
printf '%s' "$(drawn)" >grafana_password
printf 'MINIO_ROOT_USER=ttdust\nMINIO_ROOT_PASSWORD=%s\n' "$s3" >s3.env
printf 'ttdust\n%s\n' "$s3" >s3_credentials
printf '[pg]\npassword = "%s"\n' "$postgres" >ttdust.toml
# Each container reads its own as another user; nobody else comes past the folder.
chmod 0444 -- *
