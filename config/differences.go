package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// reloadable lists the keys that a running server can reload. All others need a restart.
var reloadable = []string{"log.level", "registration.shared_secret", "registration.shared_secret_file", "appservices"}

// Differences returns the keys that differ between two configurations. The result reload has the keys that a running
// server can reload, and restart those that need a restart.
func Differences(a, b *Config) (reload, restart []string) {
	for _, key := range differences("", reflect.ValueOf(*a), reflect.ValueOf(*b)) {
		if slices.Contains(reloadable, key) {
			reload = append(reload, key)
		} else {
			restart = append(restart, key)
		}
	}
	return reload, restart
}

// differences returns the keys below prefix whose values differ. A list counts as one key.
func differences(prefix string, a, b reflect.Value) (keys []string) {
	_, scalar := a.Interface().(yaml.Marshaler)
	if a.Kind() != reflect.Struct || scalar {
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			keys = append(keys, strings.TrimSuffix(prefix, "."))
		}
		return keys
	}
	for i := range a.NumField() {
		if name := keyOf(a.Type().Field(i)); name != "" {
			keys = append(keys, differences(prefix+name+".", a.Field(i), b.Field(i))...)
		}
	}
	return keys
}

// Value returns the value of a key, such as audit.keep. It returns false if there is no such key, or if it is a secret.
func (c *Config) Value(key string) (any, bool) {
	v := reflect.ValueOf(*c)
	for name := range strings.SplitSeq(key, ".") {
		if v.Kind() != reflect.Struct {
			return nil, false
		}
		field, found := fieldOf(v.Type(), name)
		if !found || field.Tag.Get("secret") != "" {
			return nil, false
		}
		v = v.FieldByIndex(field.Index)
	}
	return v.Interface(), true
}

// Settings returns the values of all keys but secrets, as text. Keys below an element of a list have its index, such as
// auth.providers[0].issuer.
func (c *Config) Settings() map[string]string {
	out := map[string]string{}
	settings("", reflect.ValueOf(*c), out)
	return out
}

// settings adds the values of a key, and of all keys below it, to out.
func settings(key string, v reflect.Value, out map[string]string) {
	_, scalar := v.Interface().(yaml.Marshaler)
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		out[key] = ""
	case v.Kind() == reflect.Pointer:
		settings(key, v.Elem(), out)
	case v.Kind() == reflect.Struct && !scalar:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if name := keyOf(f); name != "" && f.Tag.Get("secret") == "" {
				settings(strings.TrimPrefix(key+"."+name, "."), v.Field(i), out)
			}
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			settings(fmt.Sprintf("%s[%d]", key, i), v.Index(i), out)
		}
	default:
		out[key] = fmt.Sprint(v.Interface())
	}
}
