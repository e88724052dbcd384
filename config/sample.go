package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Sample returns a commented configuration file with every key at its default.
func Sample() string {
	var b strings.Builder
	b.WriteString("# The configuration of Ebb, with the default value of every key. Only server_name has to be set.\n" +
		"# ${NAME} is replaced by an environment variable. Sizes: 500, 64K, 50M, 2G. Time spans: 30s, 5m, 12h, 30d.\n")
	writeStruct(&b, reflect.ValueOf(*Default()), "")
	return b.String()
}

func writeStruct(b *strings.Builder, v reflect.Value, indent string) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if name == "" {
			continue
		}
		if indent == "" {
			b.WriteByte('\n')
		}
		if doc := field.Tag.Get("doc"); doc != "" {
			fmt.Fprintf(b, "%s# %s\n", indent, doc)
		}
		writeField(b, name, v.Field(i), indent)
	}
}

func writeField(b *strings.Builder, name string, v reflect.Value, indent string) {
	_, scalar := v.Interface().(yaml.Marshaler)
	switch {
	case v.Kind() == reflect.Struct && !scalar:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		writeStruct(b, v, indent+"  ")
	case v.Kind() == reflect.Slice && v.Len() > 0 && v.Type().Elem().Kind() == reflect.Struct:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		for i := range v.Len() {
			var item strings.Builder
			writeStruct(&item, v.Index(i), indent+"    ")
			b.WriteString(asItem(item.String(), indent))
		}
	default:
		raw, err := yaml.Marshal(v.Interface())
		text := strings.TrimSpace(string(raw))
		if err != nil || v.Kind() == reflect.Slice {
			text = flow(v)
		}
		fmt.Fprintf(b, "%s%s: %s\n", indent, name, text)
	}
}

// flow returns a list of words in YAML's one-line form.
func flow(v reflect.Value) string {
	words := make([]string, v.Len())
	for i := range words {
		words[i] = fmt.Sprint(v.Index(i).Interface())
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// asItem turns a mapping into a list item by inserting the dash before its first line that is not a comment.
func asItem(text, indent string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		trimmed := strings.TrimSpace(line)
		if trimmed != "" && !strings.HasPrefix(trimmed, "#") {
			lines[i] = indent + "  - " + strings.TrimPrefix(line, indent+"    ")
			break
		}
	}
	return strings.Join(lines, "")
}
