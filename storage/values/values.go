// Package values converts between Go values and what the drivers of both databases store and read.
package values

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"reflect"

	"ebb/ident"
)

// Blob is an argument that is stored as bytes, not as text.
type Blob []byte

// Of converts an argument to a type that both drivers store alike: int64, float64, string, []byte (as text), Blob or
// nil.
func Of(a any) (driver.Value, error) {
	switch v := a.(type) {
	case nil, int64, string, []byte, Blob, float64:
		return v, nil
	case int:
		return int64(v), nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case ident.Pos, ident.UserNID, ident.RoomNID, ident.DeviceNID, ident.PusherNID, ident.Order:
		n, _ := Number(v)
		return n, nil
	case driver.Valuer:
		inner, err := v.Value()
		if _, ok := inner.(driver.Valuer); ok || err != nil {
			return nil, fmt.Errorf("no way to store a %T: %w", a, err)
		}
		return Of(inner)
	}
	return valueKind(a)
}

// Number returns the value of a number type of this program. It returns false for all other types.
func Number(a any) (int64, bool) {
	switch v := a.(type) {
	case ident.Pos:
		return int64(v), true
	case ident.UserNID:
		return int64(v), true
	case ident.RoomNID:
		return int64(v), true
	case ident.DeviceNID:
		return int64(v), true
	case ident.PusherNID:
		return int64(v), true
	case ident.Order:
		return int64(v), true
	}
	return 0, false
}

// Plain converts a pointer to a number type of this program to a pointer to an int64, so that neither the driver nor
// database/sql needs reflection, which allocates. It returns other destinations unchanged.
func Plain(dest any) any {
	switch d := dest.(type) {
	case *ident.Pos:
		return (*int64)(d)
	case *ident.UserNID:
		return (*int64)(d)
	case *ident.RoomNID:
		return (*int64)(d)
	case *ident.PusherNID:
		return (*int64)(d)
	case *ident.DeviceNID:
		return (*int64)(d)
	case *ident.Order:
		return (*int64)(d)
	}
	return dest
}

// valueKind converts named types and pointers for nullable columns.
func valueKind(a any) (driver.Value, error) {
	r := reflect.ValueOf(a)
	switch {
	case r.Kind() == reflect.Pointer && r.IsNil():
		return nil, nil
	case r.Kind() == reflect.Pointer:
		return Of(r.Elem().Interface())
	case r.CanInt():
		return r.Int(), nil
	case r.Kind() == reflect.Bool:
		return Of(r.Bool())
	case r.Kind() == reflect.String:
		return r.String(), nil
	case r.Kind() == reflect.Slice && r.Type().Elem().Kind() == reflect.Uint8:
		return r.Bytes(), nil
	}
	return nil, fmt.Errorf("no way to store a %T", a)
}

// Assign copies one column of SQLite's driver (int64, float64, string, []byte, bool, nil) to a destination, as
// database/sql does for PostgreSQL.
func Assign(dest, src any) error {
	switch d := Plain(dest).(type) {
	case *int64:
		if v, ok := src.(int64); ok {
			*d = v
			return nil
		}
	case *string:
		switch v := src.(type) {
		case string:
			*d = v
			return nil
		case []byte:
			*d = string(v)
			return nil
		}
	case *[]byte:
		switch v := src.(type) {
		case string:
			*d = []byte(v)
			return nil
		case []byte:
			*d = v // the driver allocated it for this row
			return nil
		case nil:
			*d = nil
			return nil
		}
	case *bool:
		if v, ok := src.(int64); ok {
			*d = v != 0
			return nil
		}
	case sql.Scanner:
		return d.Scan(src)
	}
	return assignKind(dest, src)
}

// assignKind assigns to named types and pointers for nullable columns.
func assignKind(dest, src any) error {
	v := reflect.ValueOf(dest)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("scan: destination %T is not a pointer", dest)
	}
	v = v.Elem()
	if v.Kind() == reflect.Pointer {
		if src == nil {
			v.SetZero()
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return Assign(v.Interface(), src)
	}
	bytes := v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8
	switch s := src.(type) {
	case int64:
		switch {
		case v.CanInt() && !v.OverflowInt(s):
			v.SetInt(s)
			return nil
		case v.CanUint() && s >= 0 && !v.OverflowUint(uint64(s)):
			v.SetUint(uint64(s))
			return nil
		case v.CanFloat():
			v.SetFloat(float64(s))
			return nil
		}
	case string:
		switch {
		case v.Kind() == reflect.String:
			v.SetString(s)
			return nil
		case bytes:
			v.SetBytes([]byte(s))
			return nil
		}
	case []byte:
		if bytes {
			v.SetBytes(s)
			return nil
		}
	case float64:
		if v.CanFloat() {
			v.SetFloat(s)
			return nil
		}
	case nil:
		if bytes {
			v.SetZero()
			return nil
		}
	}
	return fmt.Errorf("scan: no way from %T to %T", src, dest)
}
