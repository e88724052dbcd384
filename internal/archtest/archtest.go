// Package archtest defines the import rules of the program as a table and finds violations. A package may import
// packages of lower ranks; it may import packages of its own rank only if the table names them. Pure packages use no
// clock, files, network or context. Each library may be imported only by the packages listed for it.
//
// The rules apply to the program. Tests may import anything.
package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// module is the module path, the prefix of all import paths in this module.
const module = "ebb/"

// rule defines the rank of a package and which packages it may import. It may import all lower ranks unless only is
// set.
type rule struct {
	rank     int
	sideways []string // packages of the same rank that may be imported
	only     []string // if not nil, the only packages of lower ranks that may be imported
	pure     bool     // whether I/O, clocks and contexts are forbidden
}

// leaf is the value of rule.only for packages that import no other package of this module.
var leaf = []string{}

// rules is the table of packages. The rule of a package also applies to packages in folders below it that have none.
var rules = map[string]rule{
	"digest":    {rank: 0, only: leaf},
	"mxerr":     {rank: 0},
	"canonjson": {rank: 0, pure: true},
	"telemetry": {rank: 0, sideways: []string{"ident"}},
	"config":    {rank: 0, sideways: []string{"regular"}},
	"docs":      {rank: 0, only: leaf},
	"ident":     {rank: 0, pure: true},
	"keyed":     {rank: 0},
	"netguard":  {rank: 0, only: leaf},
	"mail":      {rank: 0, only: leaf},
	"secrets":   {rank: 0, only: leaf, sideways: []string{"regular"}},
	"bodykeys":  {rank: 0, only: leaf, sideways: []string{"regular"}},
	"regular":   {rank: 0, only: leaf},
	"trim":      {rank: 0, sideways: []string{"telemetry"}},

	"processors": {rank: 0, only: leaf},

	"rooms/pdu":       {rank: 1, only: []string{"canonjson"}, pure: true},
	"rooms/eventauth": {rank: 1, only: []string{"canonjson"}, sideways: []string{"rooms/pdu"}, pure: true},
	"rooms/stateres":  {rank: 1, only: []string{"canonjson"}, sideways: []string{"rooms/pdu", "rooms/eventauth"}, pure: true},
	// A reference implementation with which tests compare the results.
	"rooms/stateres/reference": {rank: 1, only: []string{"canonjson"}, sideways: []string{"rooms/pdu", "rooms/eventauth", "rooms/stateres"}, pure: true},
	"rooms/visibility":         {rank: 1, only: []string{"canonjson"}, sideways: []string{"rooms/pdu"}, pure: true},
	"rooms/expiry":             {rank: 1, only: []string{"canonjson"}, pure: true},
	"rooms/selfdestruct":       {rank: 1, only: []string{"canonjson"}, pure: true},
	"rooms/roomcache":          {rank: 1, only: []string{"ident"}},
	"rooms/workers":            {rank: 1, only: []string{"ident"}},
	"rooms/parking":            {rank: 1, only: leaf},
	"rooms/words":              {rank: 1, only: leaf, pure: true},
	"storage/sealing":          {rank: 1, only: []string{"bodykeys", "ident", "keyed"}},
	"storage/pagegaps":         {rank: 1, only: leaf},
	"storage/filelock":         {rank: 1, only: []string{"config"}},
	"storage/mxc":              {rank: 1, only: leaf, pure: true},
	"storage/postings":         {rank: 1, only: leaf, pure: true},
	"storage/pace":             {rank: 1, only: leaf},
	"storage/shares":           {rank: 1, only: []string{"keyed"}},
	"storage/statechain":       {rank: 1, only: []string{"ident"}, pure: true},
	"storage/values":           {rank: 1, only: []string{"ident"}},
	"rooms/eventcontent":       {rank: 1, only: []string{"canonjson"}, sideways: []string{"rooms/pdu"}, pure: true},
	"accounts/passwords":       {rank: 1, only: leaf, pure: true},
	"accounts/hashing":         {rank: 1, only: leaf},
	"rooms/encryption":         {rank: 1, only: []string{"canonjson", "mxerr"}, sideways: []string{"rooms/newroom"}, pure: true},
	"rooms/newroom":            {rank: 1, only: []string{"canonjson", "mxerr"}, sideways: []string{"rooms/pdu"}, pure: true},
	"rooms/handshake":          {rank: 1, only: []string{"canonjson", "mxerr", "ident"}, sideways: []string{"rooms/pdu", "rooms/eventauth"}, pure: true},

	"storage":             {rank: 2, only: []string{"bodykeys", "mxerr", "canonjson", "telemetry", "config", "ident", "keyed", "storage/filelock", "storage/mxc", "storage/pace", "storage/pagegaps", "storage/postings", "storage/sealing", "storage/shares", "storage/statechain", "storage/values"}},
	"storage/storagetest": {rank: 2, sideways: []string{"storage"}},
	"wake":                {rank: 2, only: []string{"ident"}},

	"fedclient":       {rank: 3},
	"pushrules":       {rank: 3},
	"rooms/acl":       {rank: 3, only: []string{"canonjson", "ident"}, sideways: []string{"pushrules"}, pure: true},
	"rooms/sticky":    {rank: 3, only: []string{"ident", "storage"}},
	"rooms/legalhold": {rank: 3, only: []string{"ident", "storage"}},
	"rooms/txns":      {rank: 3},
	"search":          {rank: 3},
	"audit":           {rank: 3},
	"deletions":       {rank: 3, sideways: []string{"audit"}},
	"backup":          {rank: 3},
	"rooms/graph": {
		rank: 3, only: []string{"canonjson", "ident", "storage", "telemetry", "rooms/pdu", "rooms/eventauth", "rooms/stateres"}, sideways: []string{"pushrules"},
	},
	"rooms/invites":    {rank: 3, sideways: []string{"pushrules"}},
	"rooms/settings":   {rank: 3},
	"rooms/signatures": {rank: 3, only: []string{"canonjson", "mxerr", "rooms/pdu"}, sideways: []string{"fedclient"}},

	"rooms": {rank: 4},
	// history leaves out events of users that the reader ignores, which are account data.
	"accountdata": {rank: 5},
	"receipts":    {rank: 5},
	"sharing":     {rank: 5},
	// Reading rooms. rooms, which is the only writer, does not import history.
	"history": {rank: 5, sideways: []string{"accountdata"}},
	// The room directory and other information about rooms for users who are not members.
	"directory": {rank: 5},

	// Who gets access tokens.
	"accounts/gate": {rank: 5},
	// Alerts are added in the writes of the services above.
	"notices": {rank: 5, sideways: []string{"accounts/gate"}},
	// Who a token of another program names.
	"accounts/jwt": {rank: 5, only: leaf},
	// Whether an LDAP directory accepts a password.
	"accounts/ldap":    {rank: 5, only: leaf},
	"accounts":         {rank: 6},
	"accounts/oauth":   {rank: 6, sideways: []string{"accounts", "accounts/factors"}},
	"accounts/factors": {rank: 6},
	// Users whom OpenID Connect providers sign in.
	"accounts/upstream":   {rank: 6, sideways: []string{"accounts"}},
	"accounts/rendezvous": {rank: 6},
	"appservice":          {rank: 6},
	"e2ee":                {rank: 6},
	"feed":                {rank: 6, sideways: []string{"e2ee"}},
	"guests":              {rank: 6},
	"erasure":             {rank: 6},
	"export":              {rank: 6},
	"export/archive":      {rank: 1, only: []string{"digest"}},
	"media":               {rank: 6},
	"delayed":             {rank: 6},
	"redactions":          {rank: 6},
	"moderation":          {rank: 6},
	// What is exported of a held user.
	"holds":     {rank: 6, sideways: []string{"export", "media"}},
	"lifetimes": {rank: 6},
	"outbox":    {rank: 6},
	"identity":  {rank: 6},
	"preview":   {rank: 6, sideways: []string{"media"}},
	"push":      {rank: 6},
	"retention": {rank: 6},
	// httpapi is given functions and imports no service.
	"httpapi": {rank: 6, only: []string{"mxerr", "canonjson", "telemetry", "config", "ident", "keyed"}},

	"clientapi":  {rank: 7},
	"federation": {rank: 7},
	"adminapi":   {rank: 7},
	"web":        {rank: 7},
	// The record of processing.
	"processing": {rank: 7, only: []string{"config"}},
	"server":     {rank: 8},
	"cmd/":       {rank: 9},

	"internal/archtest":   {rank: 9, only: leaf},
	"internal/pgtest":     {rank: 9, only: leaf},
	"internal/specindex":  {rank: 7, only: []string{"httpapi"}},
	"internal/testserver": {rank: 9},
	"internal/":           {rank: 10},
	"test/":               {rank: 10},
}

// libraries lists the packages that may import each library. Keys are prefixes of import paths; the longest match
// applies.
var libraries = map[string][]string{
	"maunium.net/go/mautrix":            {"clientapi", "federation", "adminapi", "rooms", "accounts", "e2ee", "feed", "pushrules", "push", "appservice", "test/", "internal/"},
	"maunium.net/go/mautrix/id":         {"*"},
	"maunium.net/go/mautrix/event":      {"*"},
	"maunium.net/go/mautrix/crypto":     {"test/"},
	"maunium.net/go/mautrix/federation": {"federation", "fedclient", "outbox", "test/"},
	"github.com/mattn/go-sqlite3":       {"storage", "storage/pagegaps", "internal/bench", "test/"},
	"github.com/jackc/pgx/v5":           {"storage", "storage/storagetest", "internal/pgtest", "internal/bench"},
	"github.com/prometheus/":            {"telemetry"},
	"go.yaml.in/yaml/v3":                {"config", "appservice", "internal/specindex"},
	"github.com/dchest/siphash":         {"rooms/words"},
	"github.com/golang-jwt/jwt/v5":      {"accounts/jwt", "accounts/oauth"},
	"github.com/go-jose/go-jose/v4":     {"accounts/jwt", "accounts/upstream", "internal/"},
	"github.com/coreos/go-oidc/v3":      {"accounts/upstream"},
	"github.com/go-ldap/ldap/v3":        {"accounts/ldap"},
	"github.com/zitadel/oidc/v3":        {"internal/"},
	"github.com/jimlambrt/gldap":        {"internal/"},
	"github.com/go-webauthn/webauthn":   {"accounts/factors"},
	"github.com/google/uuid":            {"accounts/factors"},
	"github.com/pquerna/otp":            {"accounts/factors"},
	"github.com/piglig/go-qr":           {"accounts/factors"},
	"filippo.io/age":                    {"backup", "internal/bench"},
	"golang.org/x/":                     {"*"},
	"github.com/emersion/":              {"mail", "internal/"},
}

// impure lists the packages that pure code must not import: I/O, clocks and contexts.
var impure = []string{"context", "os", "net", "net/http", "database/sql", "log", "log/slog", "io/fs", "os/exec", "syscall"}

// violation returns why pkg must not import path, or "" if it may. Both are import paths.
func violation(pkg, path string) string {
	own, known := ruleOf(strings.TrimPrefix(pkg, module))
	name := strings.TrimPrefix(pkg, module)
	if !known {
		return "has no rank: enter it in internal/archtest"
	}
	if other, inside := strings.CutPrefix(path, module); inside {
		return own.inside(other)
	}
	if own.pure && slices.Contains(impure, path) {
		return fmt.Sprintf("is pure: bytes and values in, verdicts out; %s brings I/O, a clock or a context", path)
	}
	if !strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
		return "" // path is in the standard library
	}
	return outside(name, path)
}

// inside returns why a package with rule r must not import other, which is a package of this module. It returns "" if
// it may.
func (r rule) inside(other string) string {
	target, known := ruleOf(other)
	switch {
	case !known:
		return fmt.Sprintf("imports %s, which has no rank", other)
	case target.rank > r.rank:
		return fmt.Sprintf("is of rank %d and %s of rank %d: imports go down only", r.rank, other, target.rank)
	case target.rank == r.rank && !slices.Contains(r.sideways, other) && r.rank < 9:
		return fmt.Sprintf("imports %s of its own rank %d, which is not among its sideways imports %v", other, r.rank, r.sideways)
	case target.rank < r.rank && r.only != nil && !slices.Contains(r.only, other):
		return fmt.Sprintf("imports %s, but of lower ranks it may use only %v", other, r.only)
	}
	return ""
}

// outside returns why a package must not import a library, or "" if it may.
func outside(name, path string) string {
	best := ""
	for prefix := range libraries {
		if len(prefix) > len(best) && covers(prefix, path) {
			best = prefix
		}
	}
	users, known := libraries[best]
	if !known {
		return fmt.Sprintf("uses %s, which no package may use: enter the library in internal/archtest", path)
	}
	for _, user := range users {
		if user == "*" || user == name || strings.HasSuffix(user, "/") && strings.HasPrefix(name, user) {
			return ""
		}
	}
	return fmt.Sprintf("uses %s, which belongs to %v", path, users)
}

// ruleOf returns the rule of a package, or that of the nearest folder above it.
func ruleOf(name string) (rule, bool) {
	if r, ok := rules[name]; ok {
		return r, true
	}
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' {
			if r, ok := rules[name[:i+1]]; ok {
				return r, true
			}
		}
	}
	return rule{}, false
}

// covers reports whether an import path is equal to prefix or below it.
func covers(prefix, path string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}
