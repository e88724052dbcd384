package config

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// decoder decodes a YAML tree into a Config. Unlike yaml.Decoder it continues after a mistake, and its messages never
// quote a secret.
type decoder struct {
	problems
	hidden map[*yaml.Node]bool // nodes whose value came from the environment
}

// maxNesting bounds the nesting of a configuration file, which an alias could make infinite.
const maxNesting = 20

// parse decodes YAML into c. It returns the mistakes in individual keys as problems, and an error if it cannot read the
// file as a whole.
func parse(raw []byte, c *Config) (Problems, error) {
	c.source = source{lines: map[string]int{}, secrets: map[string]string{}}
	dec := yaml.NewDecoder(strings.NewReader(string(raw)))
	var tree, more yaml.Node
	if err := dec.Decode(&tree); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, withoutQuotes(err)
	}
	d := &decoder{problems: problems{of: c}, hidden: map[*yaml.Node]bool{}}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		d.list = append(d.list, Problem{Line: more.Line, Text: "the file has a second YAML document (---), which would be ignored: remove it"})
	}
	for _, root := range tree.Content {
		d.expand(root)
		d.value(root, reflect.ValueOf(c).Elem(), "", false, 0)
	}
	if c.source.lines["oauth.enabled"] == 0 {
		c.OAuth.Enabled = c.pageProblem() == ""
	}
	return d.list, nil
}

// quoted matches text that a message of the YAML library quotes from the file.
var quoted = regexp.MustCompile("'[^']*'|\"[^\"]*\"|`[^`]*`")

// withoutQuotes removes the text that an error of the YAML library quotes from the file, because it may be a password.
func withoutQuotes(err error) error {
	text := quoted.ReplaceAllStringFunc(strings.TrimPrefix(err.Error(), "yaml: "), func(cited string) string {
		if strings.ContainsFunc(cited, func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) }) {
			return "…"
		}
		return cited // punctuation of YAML, not text from the file
	})
	return fmt.Errorf("this is not YAML: %s (indent lines with spaces; put text in quotes if it has { } [ ] : # in it or begins with * or &)", text)
}

var envRef = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// expand replaces ${NAME} in values by environment variables. It works on the parsed tree, because a secret may contain
// quotes and colons.
func (d *decoder) expand(n *yaml.Node) {
	for _, child := range n.Content {
		d.expand(child)
	}
	if n.Kind != yaml.ScalarNode || !envRef.MatchString(n.Value) {
		return
	}
	n.Value = envRef.ReplaceAllStringFunc(n.Value, func(ref string) string {
		value, set := os.LookupEnv(ref[2 : len(ref)-1])
		if !set {
			d.list = append(d.list, Problem{Line: n.Line, Text: fmt.Sprintf("the environment variable in %s is not set", ref)})
		}
		d.of.source.secrets[value] = ref
		return value
	})
	d.hidden[n] = true
	if n.Style == 0 { // the value is not quoted, so the variable may hold a number or a boolean
		n.Tag = ""
	}
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

// value decodes a node into the field v of the given key. If secret is set, its messages do not quote the value.
func (d *decoder) value(n *yaml.Node, v reflect.Value, key string, secret bool, depth int) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if depth++; depth > maxNesting {
		d.wrong(n, key, "is nested too deeply")
		return
	}
	isText := reflect.PointerTo(v.Type()).Implements(textType)
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.null(n, v, key)
	case v.Kind() == reflect.Pointer:
		to := reflect.New(v.Type().Elem())
		d.value(n, to.Elem(), key, secret, depth)
		v.Set(to)
	case v.Kind() == reflect.Map:
		d.document(n, v, key)
	case isText || v.Kind() != reflect.Struct && v.Kind() != reflect.Slice:
		d.scalar(n, v, key, secret)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, key, depth)
	default:
		d.group(n, v, key, depth)
	}
}

func (d *decoder) wrong(n *yaml.Node, key, format string, args ...any) {
	p := d.of.Problem(key, format, args...)
	p.Line = n.Line
	d.list = append(d.list, p)
}

// null handles a key without a value, which is valid for groups, lists and settings that may be unlimited.
func (d *decoder) null(n *yaml.Node, v reflect.Value, key string) {
	switch {
	case v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice || v.Kind() == reflect.Map:
		v.SetZero()
	case v.Kind() == reflect.Struct:
	default:
		d.wrong(n, key, "has no value")
	}
}

// document decodes a group that may have any keys, whose values may be anything that JSON can express.
func (d *decoder) document(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, key, "must be a group of keys")
		return
	}
	var members map[string]any
	if err := n.Decode(&members); err != nil {
		d.wrong(n, key, "must be a group of keys whose names are text")
		return
	}
	if _, err := json.Marshal(members); err != nil {
		d.wrong(n, key, "may only contain what JSON can express: text, numbers, true, false, lists, and groups whose keys are text")
		return
	}
	if len(members) == 0 {
		v.SetZero() // the default is the zero value
		return
	}
	v.Set(reflect.ValueOf(members))
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, key string, depth int) {
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, key, "must be a list: [one, two], or one line that begins with a dash for each item")
		return
	}
	if len(n.Content) == 0 {
		v.SetZero() // the default is the zero value
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", key, i)
		d.of.source.lines[at] = item.Line
		d.value(item, v.Index(i), at, false, depth)
	}
}

func (d *decoder) group(n *yaml.Node, v reflect.Value, key string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, key, "must be a group of keys: %s", strings.Join(keysOf(v.Type()), ", "))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].ShortTag() == "!!merge" { // the keys of the group itself are decoded later and override merged ones
			d.value(n.Content[i+1], v, key, false, depth)
		}
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, item := n.Content[i], n.Content[i+1]
		if name.ShortTag() == "!!merge" {
			continue
		}
		at := strings.TrimPrefix(key+"."+name.Value, ".")
		if first := seen[name.Value]; first > 0 {
			d.wrong(name, at, "appears twice, first on line %d", first)
			continue
		}
		seen[name.Value] = name.Line
		field, known := fieldOf(v.Type(), name.Value)
		if !known {
			d.wrong(name, at, "is not a known key%s", didYouMean(v.Type(), key, name.Value))
			continue
		}
		d.of.source.lines[at] = name.Line
		d.value(item, v.FieldByIndex(field.Index), at, field.Tag.Get("secret") != "", depth)
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, key string, secret bool) {
	if n.Kind != yaml.ScalarNode {
		d.wrong(n, key, "must be %s, not a list or a group", kindName(v))
		return
	}
	err := setScalar(n, v)
	switch {
	case err == nil:
	case secret || d.hidden[n]:
		d.wrong(n, key, "must be %s", kindName(v))
	default:
		d.wrong(n, key, "%s", err)
	}
}

// setScalar parses a scalar into a field.
func setScalar(n *yaml.Node, v reflect.Value) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(n.Value))
	}
	mistake := fmt.Errorf("%q is not %s", n.Value, kindName(v))
	if v.Kind() != reflect.String && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		mistake = fmt.Errorf("%w: remove the quotation marks", mistake)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
		return nil
	case reflect.Bool:
		on := slices.Contains([]string{"true", "yes", "on"}, strings.ToLower(n.Value))
		if off := slices.Contains([]string{"false", "no", "off"}, strings.ToLower(n.Value)); !on && !off || n.Style != 0 {
			return mistake
		}
		v.SetBool(on)
		return nil
	}
	if tag := n.ShortTag(); tag != "!!int" && (tag != "!!float" || v.Kind() != reflect.Float64) {
		return mistake
	}
	if n.Decode(v.Addr().Interface()) != nil {
		return mistake
	}
	return nil
}

// kindName describes the type of a field, for messages.
func kindName(v reflect.Value) string {
	switch v.Addr().Interface().(type) {
	case *Bytes:
		return "a size such as 500, 64K, 50M or 2G"
	case *Duration:
		return "a time span such as 30s, 5m, 12h or 30d"
	}
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "text"
}

// keyOf returns the key of a field in the file, or "" if the field is not part of the file.
func keyOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); key != "" && keyOf(f) == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func keysOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		if key := keyOf(t.Field(i)); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// allKeys returns the keys of a type, including those of nested groups and lists.
func allKeys(t reflect.Type, prefix string) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		key := keyOf(f)
		if key == "" {
			continue
		}
		keys = append(keys, prefix+key)
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, allKeys(f.Type, prefix+key+".")...)
		}
		if f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct {
			keys = append(keys, allKeys(f.Type.Elem(), prefix+key+"[].")...)
		}
	}
	return keys
}

// didYouMean suggests a key in place of an unknown one: a similar key of the same group, or a key with that name in
// another group.
func didYouMean(group reflect.Type, prefix, name string) string {
	best, distance := "", 1+max(2, len(name)/3)
	for _, key := range keysOf(group) {
		if n := editDistance(plain(key), plain(name)); n < distance && n < len(key) {
			best, distance = key, n
		}
	}
	if best != "" {
		return "; did you mean " + strings.TrimPrefix(prefix+"."+best, ".") + "?"
	}
	for _, key := range allKeys(reflect.TypeFor[Config](), "") {
		if last := key[strings.LastIndexByte(key, '.')+1:]; plain(last) == plain(name) {
			return "; did you mean " + key + "?"
		}
	}
	return "; ebb config sample lists all keys"
}

// Alike reports whether two words are so similar that one may be a misspelling of the other.
func Alike(a, b string) bool {
	n := editDistance(plain(a), plain(b))
	return n <= max(1, len(a)/4) && n < len(a)
}

// plain removes the characters that are often written differently in keys.
func plain(key string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(key))
}

// editDistance returns the number of characters to insert, remove or change to turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
