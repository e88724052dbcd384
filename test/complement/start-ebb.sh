#!/bin/sh
# Starts Ebb for Complement's tests without containers. The environment says how: SERVER_NAME, HS_DATA_DIR (kept from one
# start to the next), HS_BIND_ADDRESS, HS_CLIENT_PORT, HS_FEDERATION_PORT, HS_CA_CERT, HS_TLS_CERT, HS_TLS_KEY,
# HS_REGISTRATION_SHARED_SECRET, HS_APPSERVICE_DIR. EBB names the binary; by default bin/ebb, which `make build` makes.
set -eu
root=$(CDPATH='' cd -- "$(dirname "$0")/../.." && pwd)
ebb=${EBB:-$root/bin/ebb}
config=$HS_DATA_DIR/ebb.yaml
test -d "$HS_DATA_DIR/data" || "$ebb" init --server-name "$SERVER_NAME" --data-dir "$HS_DATA_DIR/data" # makes the signing key
{
	cat <<EOF
server_name: $SERVER_NAME
public_url: http://$HS_BIND_ADDRESS:$HS_CLIENT_PORT
data_dir: $HS_DATA_DIR/data
listen:
  - address: $HS_BIND_ADDRESS:$HS_CLIENT_PORT
    serve: [client, admin, federation] # some tests ask for federation paths here
  - address: $HS_BIND_ADDRESS:$HS_FEDERATION_PORT
    serve: [federation]
    tls:
      certificate: $HS_TLS_CERT
      private_key: $HS_TLS_KEY
registration:
  mode: open
  shared_secret: \${HS_REGISTRATION_SHARED_SECRET}
auth:
  password: {min_length: 1, refuse_common: false} # the tests use short ones
notices:
  localpart: _server # from whom a test expects them
rate_limits:
  enabled: false
federation:
  enabled: true
  trusted_ca_file: $HS_CA_CERT
  allow_private_addresses: true
media:
  allow_unauthenticated: true # some tests download from the old addresses
  url_previews: {enabled: true, allow_private_addresses: true}
rooms:
  default_version: "11" # tests that name no version expect creators to stand in the power levels
log:
  level: debug
appservices:
EOF
	for file in "$HS_APPSERVICE_DIR"/*.yaml; do
		if test -e "$file"; then echo "  - $file"; fi
	done
} >"$config"
exec "$ebb" serve --config "$config"
