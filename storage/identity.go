package storage

// Identity is the identity of the server that a database belongs to. The user IDs and events in the database are
// useless to a server with another name.
type Identity struct {
	ServerName string // "" if not recorded yet
	SigningKey string // the server's key in the caller's format; "" if not recorded yet
}

// Names of the rows of meta that store an Identity.
const (
	metaServerName = "server_name"
	metaSigningKey = "signing_key"
)

const (
	identityQuery   = `SELECT secret FROM meta WHERE name = $1`
	setMetaQuery    = `INSERT INTO meta (name, value, secret) VALUES ($1, 0, $2) ON CONFLICT (name) DO UPDATE SET secret = excluded.secret`
	anyAccountQuery = `SELECT u.user_id FROM accounts a JOIN users u ON u.nid = a.nid ORDER BY a.nid LIMIT 1`
)

// Identity returns the identity of the server that the database belongs to.
func (tx *Tx) Identity() (i Identity, err error) {
	if i.ServerName, err = tx.metaText(metaServerName); err != nil {
		return i, err
	}
	i.SigningKey, err = tx.metaText(metaSigningKey)
	return i, err
}

// metaText returns the text in a row of meta, "" if there is none.
func (tx *Tx) metaText(name string) (text string, err error) {
	text, _, err = one(tx, scanString, identityQuery, name)
	return text, err
}

func (tx *Tx) setMetaText(name, text string) error {
	_, err := tx.exec(setMetaQuery, name, text)
	return err
}

// SetIdentity records the identity of the server that the database belongs to.
func (tx *Tx) SetIdentity(i Identity) error {
	if err := tx.setMetaText(metaServerName, i.ServerName); err != nil {
		return err
	}
	return tx.setMetaText(metaSigningKey, i.SigningKey)
}

// metaSecretsKey is the row of meta with the ID of the key under which secrets are encrypted.
const metaSecretsKey = "secrets_key"

// SecretsKey returns the ID of the key under which this database's secrets are encrypted, "" if there is none yet.
func (tx *Tx) SecretsKey() (string, error) { return tx.metaText(metaSecretsKey) }

// SetSecretsKey records the ID of the key under which this database's secrets are encrypted.
func (tx *Tx) SetSecretsKey(id string) error { return tx.setMetaText(metaSecretsKey, id) }

// AnyAccount returns the user ID of some local account, no matter which, or "" if there is none.
func (tx *Tx) AnyAccount() (string, error) {
	user, _, err := one(tx, scanString, anyAccountQuery)
	return user, err
}
