package storage

// What the tests of the engine need beyond the queries of the tables.

func (tx *Tx) Exec(query string, args ...any) (int64, error) { return tx.exec(query, args...) }

func (tx *Tx) Each(f func(Row) error, query string, args ...any) error {
	return tx.each(f, query, args...)
}

func (tx *Tx) Int64(query string, args ...any) (int64, error) {
	n, _, err := one(tx, scanInt64, query, args...)
	return n, err
}

var (
	ErrNested = errNested
	ErrBatch  = errBatch
	ErrPanic  = errPanic
)

const TooLongLog = tooLongLog
