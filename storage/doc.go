// Package storage is the database: one SQL text for SQLite and PostgreSQL, hand-written queries as methods on *Tx in one
// file per family of tables, and group commit. It knows rows and bytes, not what an event means.
//
// A read travels: DB.Read → a pooled connection, one snapshot → methods on *Tx. A write travels: DB.Enqueue → the queue →
// the committer, which runs the closures of many requests in one transaction, a savepoint each → commit → Committed hooks
// in queue order → Settled advances → Pending.Wait returns. Nobody is answered before the commit that holds their write.
//
// The SQL is what both databases understand. conn turns $n into ?n, and greatest() and least() into max() and min(), for
// SQLite; migrations have {pk}. Columns are BIGINT or TEXT: a []byte argument is stored as text, a bool as 0 or 1. After a
// failed statement the closure has failed on both databases, also where it swallows the error. A row callback must not use
// the transaction: PostgreSQL has one query at a time on a connection.
package storage
