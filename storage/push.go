package storage

import "ebb/ident"

// PushRules holds a user's changes to the push rules.
type PushRules struct {
	User     ident.UserNID
	UserID   string
	JSON     string
	Position Pos
}

const pushRulesColumns = `SELECT p.user_nid, u.user_id, p.json, p.position FROM push_rules p JOIN users u ON u.nid = p.user_nid`

func scanPushRules(r Row) (p PushRules, err error) {
	err = r.Scan(&p.User, &p.UserID, &p.JSON, &p.Position)
	return p, err
}

// AllPushRules returns the stored rules of all users who changed them.
func (tx *Tx) AllPushRules() ([]PushRules, error) {
	return collect(tx, scanPushRules, pushRulesColumns)
}

// PushRules returns a user's stored rules. It returns false if the user has the default rules.
func (tx *Tx) PushRules(user ident.UserNID) (PushRules, bool, error) {
	return one(tx, scanPushRules, pushRulesColumns+` WHERE p.user_nid = $1`, int64(user))
}

const setPushRulesQuery = `INSERT INTO push_rules (user_nid, json, position) VALUES ($1, $2, $3)
ON CONFLICT (user_nid) DO UPDATE SET json = excluded.json, position = excluded.position`

// SetPushRules stores a user's rules.
func (tx *Tx) SetPushRules(user ident.UserNID, json string) error {
	_, err := tx.exec(setPushRulesQuery, int64(user), json, int64(tx.NextPos()))
	return err
}
