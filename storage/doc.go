// Package storage provides access to the database. All SQL works on both SQLite and PostgreSQL. Queries are written by
// hand, as methods of *Tx, in one file per family of tables; writes are committed in groups. The package handles rows
// and bytes and does not interpret events.
//
// A read goes through DB.Read, a pooled connection with one snapshot, and methods of *Tx. A write goes through
// DB.Enqueue, the queue, and the committer, which runs the closures of many requests in one transaction, each in a
// savepoint. After the commit the Committed hooks run in queue order, Settled advances, and Pending.Wait returns. No
// request is answered before the commit that contains its write.
//
// Only SQL that both databases understand is used. For SQLite, conn rewrites $n to ?n, and greatest() and least() to
// max() and min(); migrations contain {pk} for the type of a row key. Columns are BIGINT or TEXT: a []byte argument is
// stored as text, a bool as 0 or 1. Once a statement has failed, the closure has failed on both databases, even if it
// ignores the error. A row callback must not use the transaction, because PostgreSQL runs one query at a time on a
// connection.
package storage
